"""What each framework needs around a call: its own arrays, and modes that are put back."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...backends.layouts import NCHW, NHWC


@contextlib.contextmanager
def evaluating(subject: Any) -> Iterator[None]:
    """Hold a torch module in evaluation mode."""
    inside = subject.modules() if hasattr(subject, "modules") else ()
    modules = [module for module in inside if getattr(module, "training", False)]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module in modules:
            module.training = True


def mixed_precision() -> contextlib.AbstractContextManager[Any]:
    """As many train a model."""
    import torch

    return torch.autocast("cpu", torch.bfloat16)


@contextlib.contextmanager
def inference_mode() -> Iterator[None]:
    """As many serve a model."""
    import torch

    with torch.inference_mode():
        yield


@contextlib.contextmanager
def deterministic(subject: Any) -> Iterator[None]:
    """Hold the dropouts of an nnx module off, as `eval()` does; of linen a call says it."""
    from flax import nnx

    held = []
    if isinstance(subject, nnx.Module):
        held = [
            module for _, module in nnx.iter_modules(subject) if hasattr(module, "deterministic")
        ]
    before = [module.deterministic for module in held]
    try:
        for module in held:
            module.deterministic = True
        yield
    finally:
        for module, flag in zip(held, before, strict=True):
            module.deterministic = flag


def run_torch(subject: Any, images: Any, recorded: bool) -> Any:
    """Call a module, gradients recorded or not; what it sets of that itself stays set."""
    import torch

    # not inference mode: what an object writes into its own tensors there cannot be written again
    with torch.enable_grad() if recorded else torch.no_grad():
        output = subject(images)
        after = torch.is_grad_enabled()
    if after != recorded:  # as it would be where nobody put it back
        torch.set_grad_enabled(after)
    return output


def conversions(
    subject: Any, kind: str
) -> tuple[Callable[[NDArray[Any]], Any], Callable[[Any], NDArray[Any]]]:
    """From a NumPy array to what an object of this kind takes, and from what it returns to one."""
    if kind == "torch":
        from ...backends.torch.adapter import as_array, as_tensor

        def to_its_device(images: NDArray[Any]) -> Any:
            parameter = next(subject.parameters(), None) if hasattr(subject, "parameters") else None
            return (
                as_tensor(images) if parameter is None else as_tensor(images).to(parameter.device)
            )

        return (
            to_its_device,
            lambda output: output if isinstance(output, np.ndarray) else as_array(output),
        )
    if kind == "keras":
        import keras

        def to_tensor(images: NDArray[Any]) -> Any:
            # A layer converts other types to its own; float32 is converted before, for that is no
            # part of the layer's work.
            return keras.ops.convert_to_tensor(images) if images.dtype == np.float32 else images

        return to_tensor, lambda output: np.asarray(keras.ops.convert_to_numpy(output))
    if kind in ("flax", "jax"):
        import jax

        return jax.numpy.asarray, np.asarray
    if kind == "tensorflow":
        import tensorflow

        return tensorflow.constant, np.asarray
    return lambda images: images, lambda output: np.asarray(
        output.detach().cpu() if hasattr(output, "detach") else output
    )


def framework_of(subject: Any) -> str | None:
    """The framework that an object's type comes from, told without importing any."""
    for base in type(subject).__mro__:
        root = base.__module__.split(".")[0]
        if base.__module__.startswith("torch.nn"):
            return "torch"
        if root in ("keras", "keras_hub") and hasattr(subject, "built"):
            return "keras"
        if root == "flax":
            return "flax"
        if root == "tensorflow" and base.__name__ == "Module":
            return "tensorflow"
    return None


def image_layout(subject: Any, kind: str) -> str:
    """The layout of the images that an object of this framework takes."""
    if kind == "keras" and hasattr(subject, "_flatten_layers"):
        formats = [getattr(layer, "data_format", None) for layer in subject._flatten_layers()]
        return NCHW if "channels_first" in formats else NHWC
    return NHWC if kind in ("keras", "flax", "jax", "tensorflow") else NCHW
