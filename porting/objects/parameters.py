"""Parameters of live objects: which hold which field of the weights, and what assigns each."""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from ..files.checkpoint import first_line
from .two_tables import saved_tables

ROLES = {
    "class_token": r"(cls|class)_?(token|embedding|tok)?$",
    "distillation_token": r"dist(illation)?_token$",
    "register_tokens": r"reg(ister)?(_tokens?)?s?$",
    "detection_tokens": r"det(ection)?_tokens?$",
    "mask_token": r"mask_token$",
    "positions": r"pos(itional|ition)?_?embed(ding)?s?([./](weight|embeddings?))?$",
}
"""How libraries name what surrounds the projection (timm, transformers, KerasHub, Flax, CLIP);
anything else is asked about."""

Slot = tuple[NDArray[Any], Callable[[NDArray[Any]], None]]
"""What a parameter holds, and what puts another array of its shape and dtype there."""


def read_all(subject: Any, kind: str) -> Iterator[tuple[str, NDArray[Any], Any]]:
    """Name, value and owning layer of every parameter."""
    if kind == "torch":
        from ...backends.torch.adapter import as_array

        modules = dict(subject.named_modules())
        computed = _parametrized(modules)
        hooked = _computed_before_calls(modules)
        for name, values in (computed | hooked).items():
            yield name, as_array(values), modules[name.rpartition(".")[0]]
        for name, parameter in subject.named_parameters():
            if any(name.startswith(f"{part}.") for part in _parametrizations(computed)):
                continue
            if any(name.startswith(f"{weight}_") for weight in hooked):
                continue
            if parameter.is_meta or type(parameter).__name__.startswith("Uninitialized"):
                raise PatchParityError(
                    f"parameter {name} has no values yet: call the module once, or load its "
                    "weights, before it is checked"
                )
            try:
                values = as_array(parameter)
            except (TypeError, RuntimeError) as error:
                raise PatchParityError(
                    f"parameter {name} of {parameter.dtype} cannot be read: {first_line(error)}"
                ) from None
            yield name, values, modules.get(name.rpartition(".")[0])
        for name, buffer in subject.named_buffers():
            if not any(name.startswith(f"{weight}_") for weight in hooked):
                yield name, as_array(buffer), None
    elif kind == "keras":
        layers = list(subject._flatten_layers())
        for variable in _read_of_keras(subject):
            owners = [
                layer
                for layer in layers
                if any(layer_variable is variable for layer_variable in layer._trainable_variables)
            ]
            yield (
                variable.path.partition("/")[2] or variable.path,
                np.asarray(variable.numpy()),
                owners[-1] if owners else None,
            )
    elif kind == "flax":
        yield from _flax_parameters(subject)
    elif kind == "tensorflow":
        for place, variable in enumerate(getattr(subject, "variables", ())):  # often of one name
            yield f"{variable.name.partition(':')[0]}.{place}", np.asarray(variable.numpy()), None


def _read_of_keras(subject: Any) -> Iterator[Any]:
    """The variables that a layer of Keras computes with."""
    saved = saved_tables(subject, "keras")
    for variable in subject.weights:
        if "seed" not in variable.path and not any(variable is other for other in saved):
            yield variable


def _parametrized(modules: dict[str, Any]) -> dict[str, Any]:
    """Weights that torch computes of others at every call (weight norm, spectral norm), by name."""
    weights = {}
    for name, module in modules.items():
        for tensor in getattr(module, "parametrizations", {}):
            before = f"{name}." if name else ""
            weights[f"{before}{tensor}"] = getattr(module, tensor).detach()
    return weights


COMPUTED = ("_orig", "_v")
"""How tensors are called of which torch's older hooks compute a weight before each call: pruning
and spectral norm, weight norm."""


def _computed_before_calls(modules: dict[str, Any]) -> dict[str, Any]:
    """Weights that hooks compute of others before a call, by name."""
    weights = {}
    for name, module in modules.items():
        before = f"{name}." if name else ""
        held = getattr(module, "_parameters", {})
        for tensor in held if isinstance(held, dict) else ():  # a script's are none, and no hooks'
            weight = next((tensor.removesuffix(e) for e in COMPUTED if tensor.endswith(e)), "")
            value: Any = getattr(module, "__dict__", {}).get(weight)
            if not weight or not hasattr(value, "detach"):
                continue
            mask = getattr(module, f"{weight}_mask", None)
            # A mask's product is told by the parts themselves, and is not that of the last call.
            value = value if mask is None else getattr(module, tensor) * mask
            weights[f"{before}{weight}"] = value.detach()
    return weights


def _parametrizations(computed: dict[str, Any]) -> list[str]:
    """What stands before the names of the tensors that weights are computed of."""
    parts = (name.rpartition(".") for name in computed)
    return [f"{module}{dot}parametrizations.{tensor}" for module, dot, tensor in parts]


def parameters_of(subject: Any, framework: str, name: str) -> dict[str, Slot]:
    """The parameters of an object that hold fields of the weights, by field, with what assigns
    each.

    Raises:
        PatchParityError: an object whose parameters cannot be assigned (linen).
    """
    if framework not in ("torch", "keras", "flax") or isinstance(
        getattr(subject, "variables", None), Mapping
    ):
        raise PatchParityError(
            f"{name} keeps no parameters that can be assigned: expected a torch module, a Keras "
            "layer or an nnx module"
        )
    slots: dict[str, Slot] = {}
    rest: dict[str, Slot] = {}
    for parameter, value, put in _assignable(subject, framework):
        if value.dtype.kind in "iub":
            continue
        role = next(
            (role for role, pattern in ROLES.items() if re.search(pattern, parameter)), None
        )
        if role == "detection_tokens":  # which the weights keep as registers
            role = "register_tokens"
        (slots if role else rest)[role or parameter] = value, put
    kernels = [name for name, (value, _) in rest.items() if value.ndim >= 2]
    slots["kernel"] = rest.pop(kernels[0])
    biases = [name for name in rest if name.endswith("bias")]
    if biases:
        slots["bias"] = rest.pop(biases[0])
    return {
        name: slots[name]
        for name in ("kernel", "bias", *ROLES)
        if name in slots and name != "mask_token"
    }


def count_positions(subject: Any, framework: str) -> Callable[[], None]:
    """Make indices of positions count up, in whose place a fresh object may hold zeros, so that
    every token takes a row of its own.

    Returns:
        What puts the old ones back.
    """
    held = []
    if framework == "keras":
        for variable in subject.weights:
            value = np.asarray(variable.numpy())
            if variable.path.endswith("position_ids") and value.dtype.kind in "iu":
                held.append((variable, value))
                variable.assign(np.arange(value.size, dtype=value.dtype).reshape(value.shape))

    def undo() -> None:
        for variable, value in held:
            variable.assign(value)

    return undo


def _assignable(
    subject: Any, kind: str
) -> Iterator[tuple[str, NDArray[Any], Callable[[NDArray[Any]], None]]]:
    """Name, value and assignment of every parameter."""
    if kind == "torch":
        import torch

        from ...backends.torch.adapter import as_array, as_tensor

        def put_torch(parameter: Any, array: NDArray[Any]) -> None:
            with torch.no_grad():
                parameter.copy_(as_tensor(array).reshape(parameter.shape))

        for name, parameter in subject.named_parameters():
            yield name, as_array(parameter), functools.partial(put_torch, parameter)
    elif kind == "keras":
        for variable in _read_of_keras(subject):
            yield (
                variable.path.partition("/")[2] or variable.path,
                np.asarray(variable.numpy()),
                variable.assign,
            )
    else:
        import jax.numpy as jnp
        from flax import nnx

        def put_flax(parameter: Any, array: NDArray[Any]) -> None:
            parameter[...] = jnp.asarray(array)

        for path, module in nnx.iter_modules(subject):
            for key, value in vars(module).items():
                if isinstance(value, nnx.Param) and value[...] is not None:
                    yield (
                        ".".join((*map(str, path), key)),
                        np.asarray(value[...]),
                        functools.partial(put_flax, value),
                    )


def _flax_parameters(subject: Any) -> Iterator[tuple[str, NDArray[Any], Any]]:
    try:
        variables = getattr(subject, "variables", None)
    except ValueError:  # linen's word for a module without variables
        raise PatchParityError(
            f"{type(subject).__name__} is a linen module without variables: bind it, "
            "module.bind(variables), with what init or a checkpoint gives"
        ) from None
    if isinstance(variables, Mapping):  # linen, bound

        def walk(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[str, NDArray[Any], Any]]:
            for key, value in tree.items():
                if isinstance(value, Mapping):
                    yield from walk(value, (*path, key))
                else:
                    yield ".".join((*path, key)), np.asarray(value), subject if not path else None

        yield from walk(variables.get("params", {}), ())
        return
    from flax import nnx

    for path, module in nnx.iter_modules(subject):
        for key, value in vars(module).items():
            if isinstance(value, nnx.Param) and value[...] is not None:
                yield ".".join((*map(str, path), key)), np.asarray(value[...]), module
