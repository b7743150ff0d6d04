"""The same images laid out in memory otherwise."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def forms_in_memory(placed: Any) -> dict[str, Any]:
    """The same array with other strides."""
    if getattr(placed, "ndim", 0) not in (4, 5):
        return {}
    if isinstance(placed, np.ndarray):
        read_only = placed.copy()
        read_only.flags.writeable = False
        return {
            "rows and columns exchanged in memory": np.ascontiguousarray(
                placed.swapaxes(-1, -2)
            ).swapaxes(-1, -2),
            "every second value of a wider array": np.repeat(placed, 2, -1)[..., ::2],
            "a crop of larger images": np.pad(placed, _margins(placed.ndim))[_inside(placed)],
            "every second row of taller images": np.repeat(placed, 2, -2)[..., ::2, :],
            "channel by channel, the batch inside": np.ascontiguousarray(
                placed.swapaxes(0, 1)
            ).swapaxes(0, 1),
            "read-only": read_only,
            "channels counted from the last": np.ascontiguousarray(placed[:, ::-1])[:, ::-1],
            "Fortran's order": np.asfortranarray(placed),
        }
    import torch

    last = torch.channels_last if placed.ndim == 4 else torch.channels_last_3d
    turned = placed.transpose(-1, -2).contiguous().transpose(-1, -2)
    return {
        "channels_last": placed.contiguous(memory_format=last),
        "rows and columns exchanged in memory": turned,
        "a crop of larger images": torch.nn.functional.pad(placed, (3, 5, 2, 4))[_inside(placed)],
        "every second row of taller images": torch.repeat_interleave(placed, 2, -2)[..., ::2, :],
        "channel by channel, the batch inside": placed.transpose(0, 1).contiguous().transpose(0, 1),
        "a part of a larger batch": torch.cat([placed[:1] * 0 + 7, placed])[1:],
        "every second value of a wider tensor": torch.repeat_interleave(placed, 2, -1)[..., ::2],
        "all channels but the last of more": torch.cat([placed, placed[:, :1]], 1)[:, :-1],
        "a start that is odd in memory": _at_odd_place(placed),
    }


def _margins(axes: int) -> list[tuple[int, int]]:
    return [(0, 0)] * (axes - 2) + [(2, 4), (3, 5)]


def _inside(placed: Any) -> tuple[Any, ...]:
    """Where images lie in larger ones that have two rows more above and three columns before."""
    rows, columns = placed.shape[-2:]
    return (..., slice(2, 2 + rows), slice(3, 3 + columns))


def _at_odd_place(placed: Any) -> Any:
    import torch

    room = torch.empty(placed.numel() + 1, dtype=placed.dtype, device=placed.device)
    moved = room[1:].view(placed.shape)
    moved.copy_(placed)
    return moved


def forms_of_one(placed: Any) -> dict[str, Any]:
    """The first image for all of them, without memory of their own."""
    if getattr(placed, "ndim", 0) not in (4, 5):
        return {}
    if isinstance(placed, np.ndarray):
        return {"one image for the whole batch": np.broadcast_to(placed[:1], placed.shape)}
    return {"one image for the whole batch": placed[:1].expand(placed.shape)}


def forms_of_gray(placed: Any) -> dict[str, Any]:
    """The first channel for all of them, without memory of their own."""
    if getattr(placed, "ndim", 0) not in (4, 5):
        return {}
    if isinstance(placed, np.ndarray):
        return {"one channel for all of them": np.broadcast_to(placed[:, :1], placed.shape)}
    return {"one channel for all of them": placed[:, :1].expand(placed.shape)}


def refilled(placed: Any, other: Any) -> bool:
    """Write other images into the memory of some; whether that can be done."""
    if isinstance(placed, np.ndarray):
        placed[...] = other
        return True
    if hasattr(placed, "copy_"):
        placed.copy_(other)
        return True
    return False


def bits_of(placed: Any) -> NDArray[np.uint8]:
    """The bits of placed images, to see whether a call changed them; where they lie closely, these
    are no copy."""
    if hasattr(placed, "detach"):
        plain = placed.detach().cpu()
        placed = (plain.float() if plain.dtype.itemsize == 2 else plain).numpy()
    return np.ascontiguousarray(np.asarray(placed)).reshape(-1).view(np.uint8)
