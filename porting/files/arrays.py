"""Arrays from files that a user brings: `.npy`, `.npz` and safetensors; nothing is ever
unpickled."""

import os
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  safetensors and NumPy know bfloat16 only once ml_dtypes has registered it
import numpy as np
import safetensors
from numpy.typing import NDArray

from ...backends.layouts import KERNEL_LAYOUTS, NCHW, NHWC, images_from_layout, kernel_from_layout
from ...reference.errors import PatchParityError, require_choice
from ...reference.spec import PatchEmbedSpec, Remainder
from ...reference.weights import PatchEmbedWeights
from .checkpoint import EXPANSION, SMALL
from .own_format import FORMAT, load_weights

IMAGE_LAYOUTS = {"nchw": NCHW, "nhwc": NHWC}


def read_arrays(
    path: str | os.PathLike[str], only: tuple[str, ...] | None = None
) -> dict[str, NDArray[Any]]:
    """Read all arrays of a file by name, or some of an archive's; the one array of a `.npy` file is
    called `array`.

    Raises:
        PatchParityError: a file that cannot be read, of another kind, or with objects in it.
    """
    source = Path(path)
    try:
        if source.suffix == ".safetensors":
            with safetensors.safe_open(source, framework="numpy") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        if source.suffix not in (".npy", ".npz"):
            raise PatchParityError(f"{source}: expected a file named .npy, .npz or .safetensors")
        if not source.is_file():
            why = "it is no regular file" if os.path.exists(source) else "there is no such file"
            raise PatchParityError(f"cannot read arrays from {source}: {why}")
        loaded = np.load(source, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"array": loaded}
        with loaded:
            wanted = [
                name
                for name in loaded.files
                if only is None or name in only or len(loaded.files) == 1
            ]
            if only and (not wanted or (only[0] not in wanted and len(loaded.files) > 1)):
                held = ", ".join(sorted(loaded.files)) or "nothing"
                raise PatchParityError(
                    f"{source} holds {held}: expected one array, or one called {only[0]!r}"
                )
            for name in wanted:
                size = loaded.zip.getinfo(
                    name if name in loaded.zip.namelist() else f"{name}.npy"
                ).file_size
                if size > EXPANSION * source.stat().st_size + SMALL:
                    raise PatchParityError(
                        f"{source}: {name} claims {size} bytes of a file of {source.stat().st_size}"
                    )
            arrays = {name: loaded[name] for name in wanted}
        if foreign := [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]:
            raise PatchParityError(f"{source} holds {', '.join(foreign)}, which is no array")
        return arrays
    except PatchParityError:
        raise
    except MemoryError:
        raise PatchParityError(
            f"cannot read arrays from {source}: it claims more memory than there is"
        ) from None
    except Exception as error:  # whatever damaged content makes NumPy, zlib or safetensors raise
        raise PatchParityError(
            f"cannot read arrays from {source}: {error or type(error).__name__}"
        ) from None


def read_array(path: str | os.PathLike[str], name: str) -> NDArray[Any]:
    """Read one array: the file's only one, or the one of that name.

    Raises:
        PatchParityError: as `read_arrays`; several arrays, none of them of that name; an array that
            is no array of numbers.
    """
    arrays = read_arrays(path, (name,))
    if len(arrays) != 1 and name not in arrays:
        raise PatchParityError(
            f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}: expected one array, or one "
            f"called {name!r}"
        )
    array = arrays[name] if name in arrays else next(iter(arrays.values()))
    _require_numbers(array, name, path)
    return array


def _require_numbers(array: NDArray[Any] | None, name: str, path: Any) -> None:
    if array is not None and (
        not (np.issubdtype(array.dtype, np.number) or array.dtype.name == "bfloat16")
        or np.iscomplexobj(array)
    ):
        raise PatchParityError(f"{name} in {path} is of dtype {array.dtype}: expected real numbers")


def read_problem(
    images: str | os.PathLike[str],
    weights: str | os.PathLike[str],
    *,
    kernel_layout: str = "oihw",
    image_layout: str = "nchw",
    patch_size: int | tuple[int, ...] | None = None,
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    remainder: Remainder = "floor",
) -> tuple[NDArray[Any], PatchEmbedWeights, PatchEmbedSpec]:
    """Read images and weights from files and bring them into canonical layout.

    Args:
        images: file with images in `image_layout`.
        weights: file with `kernel` in `kernel_layout` and, if there is one, `bias`; or a file that
            `save_weights` wrote, which knows its own layout and sizes.
        kernel_layout: a name of `backends.layouts.KERNEL_LAYOUTS`: oihw, hwio, ohwi, linear-chw,
            linear-hwc, dense-chw, dense-hwc.
        image_layout: nchw or nhwc.
        patch_size: needed where the kernel is a matrix, which does not show it.
        stride: None means the patch size.
        padding: zeros on each side.
        remainder: for images that do not divide; `floor` is what a convolution without padding
            does.

    Returns:
        Images `(B, C, H, W)`, canonical weights, and the spec.

    Raises:
        PatchParityError: files that cannot be read, an unknown layout, shapes that cannot belong
            together.
    """
    require_choice("kernel layout", kernel_layout, KERNEL_LAYOUTS)
    require_choice("image layout", image_layout, IMAGE_LAYOUTS)
    pixels = read_array(images, "images")
    if pixels.ndim != 4:
        raise PatchParityError(
            f"images of shape {pixels.shape}: expected 4 axes, {IMAGE_LAYOUTS[image_layout]}"
        )
    canonical_images = images_from_layout(pixels, IMAGE_LAYOUTS[image_layout])
    if saved_weights := read_own_weights(weights):
        loaded, spec = saved_weights
        return canonical_images, loaded, spec.replace(image_size=canonical_images.shape[2:])
    arrays = read_arrays(weights, ("kernel", "bias"))
    if "kernel" not in arrays:
        raise PatchParityError(
            f"{weights} holds {', '.join(sorted(arrays)) or 'nothing'}: expected an array called "
            "'kernel'"
        )
    kernel = arrays["kernel"]
    for name in ("kernel", "bias"):
        _require_numbers(arrays.get(name), name, weights)
    pattern = KERNEL_LAYOUTS[kernel_layout]
    try:
        embed_dim, patch = kernel_sizes(kernel, pattern, patch_size)
        spec = PatchEmbedSpec(
            canonical_images.shape[2:],
            patch,
            canonical_images.shape[1],
            embed_dim,
            stride,
            padding,
            remainder,
        )
        canonical = PatchEmbedWeights(kernel_from_layout(kernel, pattern, spec), arrays.get("bias"))
        canonical.check_spec(spec)
    except PatchParityError as error:
        read_as = f"images were read as {image_layout}, the kernel as {kernel_layout}"
        raise PatchParityError(
            f"{error} ({read_as}: --image-layout and --kernel-layout say otherwise)"
        ) from None
    return canonical_images, canonical, spec


def read_own_weights(
    path: str | os.PathLike[str],
) -> tuple[PatchEmbedWeights, PatchEmbedSpec] | None:
    """Read a file that `save_weights` wrote; None where it is another one.

    Raises:
        PatchParityError: as `load_weights`.
    """
    return load_weights(path) if _is_ours(path) else None


def _is_ours(path: str | os.PathLike[str]) -> bool:
    if Path(path).suffix != ".safetensors":
        return False
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (OSError, safetensors.SafetensorError) as error:
        raise PatchParityError(f"cannot read weights from {path}: {error}") from None


def kernel_sizes(kernel: NDArray[Any], pattern: str, patch_size: Any) -> tuple[int, Any]:
    """D and the patch size, read from the kernel's shape as far as that shows them."""
    names = (
        pattern.split()
        if "(" not in pattern
        else (["D", "K"] if pattern.startswith("D") else ["K", "D"])
    )
    if kernel.ndim != len(names):
        raise PatchParityError(
            f"kernel of shape {kernel.shape}: expected {len(names)} axes, {pattern}"
        )
    sizes = dict(zip(names, kernel.shape, strict=True))
    if "K" not in sizes:
        return sizes["D"], tuple(sizes[name] for name in ("Pt", "Ph", "Pw") if name in sizes)
    if patch_size is None:
        raise PatchParityError(
            f"kernel of shape {kernel.shape}: a matrix does not show the patch size; give it with "
            "--patch-size"
        )
    return sizes["D"], patch_size
