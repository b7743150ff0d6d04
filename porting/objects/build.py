"""`to_module`: a framework's own layer, built with the weights in place."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...backends.layouts import (
    DENSE_CHANNELS_LAST,
    HWIO,
    LINEAR_CHANNELS_FIRST,
    OIHW,
    kernel_to_layout,
)
from ...reference.errors import PatchParityError, require_choice
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights

Kind = Literal["torch", "torch-linear", "keras", "keras-dense", "flax", "jax"]
KINDS = ("torch", "torch-linear", "keras", "keras-dense", "flax", "jax")


def to_module(weights: PatchEmbedWeights, kind: Kind, spec: PatchEmbedSpec) -> Any:
    """Build a framework's own layer with the weights in place.

    Args:
        weights: canonical; kernel and bias are used.
        kind: `torch` (an `nn.Conv2d`, of tubelets `nn.Conv3d`), `torch-linear` (an `nn.Linear` over
            patches flattened (C, Ph, Pw)), `keras` (a built `Conv2D` or `Conv3D`, channels last),
            `keras-dense` (a built `Dense` over patches flattened (Ph, Pw, C)), `flax` (an
            `nnx.Conv`), or `jax` (a dictionary with `kernel`, HWIO, and `bias`).
        spec: the sizes.

    Raises:
        PatchParityError: an unknown kind, a framework that is not installed, padding that a layer
            cannot have.

    Examples:
        >>> import patchparity
        >>> spec = patchparity.PatchEmbedSpec((12, 20), 4, 3, 10)  # image, patch, channels, width
        >>> weights = patchparity.initialize_weights(spec, seed=0)
        >>> patchparity.to_module(weights, "torch", spec)
        Conv2d(3, 10, kernel_size=(4, 4), stride=(4, 4))
    """
    require_choice("kind", kind, KINDS)
    weights.check_spec(spec)
    if weights.kernel.dtype == np.float64 and kind in ("flax", "jax"):
        raise PatchParityError(
            f"JAX has no float64 by default, and {kind} parameters would be rounded: cast the "
            "weights to float32 first"
        )
    builders: dict[str, Callable[[PatchEmbedWeights, PatchEmbedSpec], Any]] = {
        "torch": _torch_conv,
        "torch-linear": _torch_linear,
        "keras": _keras_conv,
        "keras-dense": _keras_dense,
        "flax": _flax_conv,
        "jax": _jax_parameters,
    }
    try:
        return builders[kind](weights, spec)
    except ImportError as error:
        raise PatchParityError(
            f"a {kind} layer needs {error.name}, which is not installed"
        ) from None


def _symmetric(spec: PatchEmbedSpec, kind: str) -> tuple[int, ...]:
    pairs = spec.effective_padding
    if any(before != after for before, after in pairs):
        raise PatchParityError(
            f"padding {pairs} is not the same on both sides, and {kind} has no such layer: pad the "
            "images before it"
        )
    return tuple(before for before, _ in pairs)


def _torch_conv(weights: PatchEmbedWeights, spec: PatchEmbedSpec) -> Any:
    import torch

    from ...backends.torch.adapter import as_tensor

    layer_type = torch.nn.Conv2d if spec.spatial_axes == 2 else torch.nn.Conv3d
    padding = _symmetric(spec, "torch")
    layer = layer_type(
        spec.in_channels,
        spec.embed_dim,
        spec.patch_size,
        spec.stride,
        padding=padding,
        bias=weights.bias is not None,
    )
    return _filled(
        layer, as_tensor(np.ascontiguousarray(kernel_to_layout(weights.kernel, OIHW))), weights
    )


def _torch_linear(weights: PatchEmbedWeights, spec: PatchEmbedSpec) -> Any:
    import torch

    from ...backends.torch.adapter import as_tensor

    layer = torch.nn.Linear(spec.patch_values, spec.embed_dim, bias=weights.bias is not None)
    return _filled(
        layer,
        as_tensor(np.ascontiguousarray(kernel_to_layout(weights.kernel, LINEAR_CHANNELS_FIRST))),
        weights,
    )


def _filled(layer: Any, kernel: Any, weights: PatchEmbedWeights) -> Any:
    import torch

    from ...backends.torch.adapter import as_tensor

    layer = layer.to(kernel.dtype)
    with torch.no_grad():
        layer.weight.copy_(kernel)
        if weights.bias is not None:
            layer.bias.copy_(as_tensor(weights.bias))
    return layer


def _keras_conv(weights: PatchEmbedWeights, spec: PatchEmbedSpec) -> Any:
    import keras

    if any(_symmetric(spec, "Keras")):
        raise PatchParityError(
            f"padding {spec.effective_padding}: a Keras layer has none of its own but SAME; pad "
            "the images before it"
        )
    layer_type = keras.layers.Conv2D if spec.spatial_axes == 2 else keras.layers.Conv3D
    options = dict(
        data_format="channels_last",
        use_bias=weights.bias is not None,
        dtype=weights.kernel.dtype.name,
    )
    layer = layer_type(spec.embed_dim, spec.patch_size, spec.stride, **options)
    layer.build((None, *spec.image_size, spec.in_channels))
    return _assigned(layer, kernel_to_layout(weights.kernel, HWIO), weights)


def _keras_dense(weights: PatchEmbedWeights, spec: PatchEmbedSpec) -> Any:
    import keras

    layer = keras.layers.Dense(
        spec.embed_dim, use_bias=weights.bias is not None, dtype=weights.kernel.dtype.name
    )
    layer.build((None, None, spec.patch_values))
    return _assigned(layer, kernel_to_layout(weights.kernel, DENSE_CHANNELS_LAST), weights)


def _assigned(layer: Any, kernel: NDArray[Any], weights: PatchEmbedWeights) -> Any:
    arrays = [np.ascontiguousarray(kernel)] + ([] if weights.bias is None else [weights.bias])
    for variable, array in zip(layer.trainable_variables, arrays, strict=True):
        variable.assign(array)
    return layer


def _flax_conv(weights: PatchEmbedWeights, spec: PatchEmbedSpec) -> Any:
    import jax.numpy as jnp
    from flax import nnx

    settings: dict[str, Any] = dict(
        kernel_size=spec.patch_size, strides=spec.stride, padding=[*spec.effective_padding]
    )
    dtype = weights.kernel.dtype
    layer = nnx.Conv(
        spec.in_channels,
        spec.embed_dim,
        use_bias=weights.bias is not None,
        rngs=nnx.Rngs(0),
        dtype=dtype,
        param_dtype=dtype,
        **settings,
    )
    layer.kernel[...] = jnp.asarray(kernel_to_layout(weights.kernel, HWIO))
    if weights.bias is not None:
        layer.bias[...] = jnp.asarray(weights.bias)
    return layer


def _jax_parameters(weights: PatchEmbedWeights, spec: PatchEmbedSpec) -> Any:
    import jax.numpy as jnp

    kernel = {"kernel": jnp.asarray(np.ascontiguousarray(kernel_to_layout(weights.kernel, HWIO)))}
    return kernel if weights.bias is None else {**kernel, "bias": jnp.asarray(weights.bias)}
