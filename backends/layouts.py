"""Layouts as einops patterns, written once and inverted for free; porting uses the same patterns
for checkpoint dialects.

Axis names: B batch, C channels, D embed_dim, T H W image axes, Pt Ph Pw patch axes. A kernel
pattern such as `Ph Pw C D` (HWIO) or `(Ph Pw C) D` is read as "how the framework keeps it".
"""

from typing import Any

import einops
from numpy.typing import NDArray

from ..reference.errors import PatchParityError
from ..reference.spec import PatchEmbedSpec

OIHW = "D C Ph Pw"
HWIO = "Ph Pw C D"
LINEAR_CHANNELS_FIRST = "D (C Ph Pw)"
DENSE_CHANNELS_LAST = "(Ph Pw C) D"
DENSE_CHANNELS_FIRST = "(C Ph Pw) D"
CANONICAL = "D Ph Pw C"
NCHW = "B C H W"
NHWC = "B H W C"

KERNEL_LAYOUTS = {
    "canonical": CANONICAL,
    "oihw": OIHW,
    "hwio": HWIO,
    "ohwi": CANONICAL,
    "linear-chw": LINEAR_CHANNELS_FIRST,
    "linear-hwc": "D (Ph Pw C)",
    "dense-chw": DENSE_CHANNELS_FIRST,
    "dense-hwc": DENSE_CHANNELS_LAST,
    "linear-cwh": "D (C Pw Ph)",
    "linear-whc": "D (Pw Ph C)",
    "linear-hcw": "D (Ph C Pw)",
    "linear-wch": "D (Pw C Ph)",
    "dense-cwh": "(C Pw Ph) D",
    "dense-whc": "(Pw Ph C) D",
    "dense-hcw": "(Ph C Pw) D",
    "dense-wch": "(Pw C Ph) D",
}
"""The names that users type for kernel layouts; `linear` is `(D, K)` as in torch, `dense` is `(K,
D)` as in Flax and Keras, and behind it stands the order in which a patch is flattened: channels,
height and width."""

FLATTEN_ORDERS = ("chw", "hwc", "cwh", "whc", "hcw", "wch")
"""In which a patch can be flattened, the usual two first."""


def with_time_axis(pattern: str, axes: int) -> str:
    """Return a 2-D pattern as it reads with `axes` image axes: a video pattern has T before H and
    Pt before Ph."""
    return pattern if axes == 2 else pattern.replace("Ph", "Pt Ph").replace("H W", "T H W")


def axis_sizes(spec: PatchEmbedSpec) -> dict[str, int]:
    """Sizes of the kernel's named axes, for patterns that merge some of them."""
    names = ("Ph", "Pw") if spec.spatial_axes == 2 else ("Pt", "Ph", "Pw")
    return {
        "D": spec.embed_dim,
        "C": spec.in_channels,
        **dict(zip(names, spec.patch_size, strict=True)),
    }


def kernel_to_layout(kernel: NDArray[Any], pattern: str) -> NDArray[Any]:
    """Rearrange a canonical kernel `(D, P_h, P_w, C)` into `pattern`."""
    axes = kernel.ndim - 2
    return einops.rearrange(
        kernel, f"{with_time_axis(CANONICAL, axes)} -> {with_time_axis(pattern, axes)}"
    )


def kernel_from_layout(kernel: NDArray[Any], pattern: str, spec: PatchEmbedSpec) -> NDArray[Any]:
    """Rearrange a kernel kept as `pattern` into canonical `(D, P_h, P_w, C)`.

    Raises:
        PatchParityError: a kernel whose shape does not fit pattern and spec.
    """
    axes = spec.spatial_axes
    sizes = axis_sizes(spec)
    source = with_time_axis(pattern, axes)
    grouped = {
        name: size
        for name, size in sizes.items()
        if name in source.replace("(", " ").replace(")", " ").split()
    }
    try:
        return einops.rearrange(kernel, f"{source} -> {with_time_axis(CANONICAL, axes)}", **grouped)
    except einops.EinopsError:
        raise PatchParityError(
            f"kernel of shape {kernel.shape} is not '{source}' with {grouped}"
        ) from None


def images_to_layout(images: NDArray[Any], pattern: str) -> NDArray[Any]:
    """Rearrange images `(B, C, H, W)` into `pattern`."""
    axes = images.ndim - 2
    return einops.rearrange(
        images, f"{with_time_axis(NCHW, axes)} -> {with_time_axis(pattern, axes)}"
    )


def images_from_layout(images: NDArray[Any], pattern: str) -> NDArray[Any]:
    """Rearrange images kept as `pattern` into `(B, C, H, W)`."""
    axes = images.ndim - 2
    return einops.rearrange(
        images, f"{with_time_axis(pattern, axes)} -> {with_time_axis(NCHW, axes)}"
    )
