"""What only an object's output shows: on which side its prefix tokens stand, and positions that it
keeps where no parameter is."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.embed import patch_embed
from ...reference.errors import PatchParityError
from ...reference.sequence import embed_sequence
from .call import LiveEmbedding

UNLIKE = 2.0**-5
"""Distance of an object's output from that of its weights, relative to the latter's norm, beyond
which it computes something else: eight times what inputs rounded to bfloat16 (2⁻⁸) can do, while a
mask, an activation or a norm that was overlooked changes a tenth and more."""

SAME = 2.0**-7
"""Relative distance of a residual from a table, or from itself in another image, up to which they
are the same: twice the roundoff of bfloat16."""


def with_found_parts(live: LiveEmbedding, subject: Any) -> LiveEmbedding:
    """The same object, with prefix tokens on the side where they are, and with fixed positions that
    lie in a buffer or an attribute.

    An object that gives what its weights do, or that fails, is left as it was read.
    """
    images = np.random.default_rng(1).standard_normal(live.spec.images_shape(2)).astype(live.dtype)
    try:
        observed = live.call(np.array(images)).astype(np.float64)
    except PatchParityError:
        return live
    if not np.isfinite(observed).all() or _apart(observed, _expected(live, images)) < UNLIKE:
        return live
    if live.weights.num_prefix_tokens:
        layout = dataclasses.replace(live.weights.layout, prefix_side="last")
        turned = dataclasses.replace(live, weights=dataclasses.replace(live.weights, layout=layout))
        if _apart(observed, _expected(turned, images)) < UNLIKE:
            return dataclasses.replace(
                turned,
                notes=(*live.notes, "its prefix tokens stand behind the patches: found by probe"),
            )
    return _with_positions(live, subject, observed, _expected(live, images))


def _expected(live: LiveEmbedding, images: NDArray[Any]) -> NDArray[Any]:
    compute = embed_sequence if live.to_sequence else patch_embed
    return compute(images.astype(np.float64), live.weights.astype(np.float64), live.spec)


def _apart(observed: NDArray[Any], expected: NDArray[Any]) -> float:
    if observed.shape != expected.shape or not (
        np.isfinite(observed).all() and np.isfinite(expected).all()
    ):
        return float("inf")
    return float(np.linalg.norm(observed - expected)) / float(np.linalg.norm(expected) + 1e-300)


def _with_positions(
    live: LiveEmbedding, subject: Any, observed: NDArray[Any], expected: NDArray[Any]
) -> LiveEmbedding:
    """Positions that are the same for every image, and lie in a tensor of the object that is no
    parameter."""
    if live.weights.positions is not None or observed.shape != expected.shape:
        return live
    residual = observed - expected
    table = residual.mean(axis=0)
    if not float(np.linalg.norm(residual - table)) <= SAME * float(np.linalg.norm(observed)):
        return live
    for name, array in _tensors(subject):
        rows = array.reshape(-1, array.shape[-1]) if array.ndim >= 2 else array
        if rows.shape == table.shape and float(np.linalg.norm(rows - table)) <= SAME * float(
            np.linalg.norm(table)
        ):
            positions = rows.astype(live.weights.kernel.dtype)
            weights = dataclasses.replace(
                live.weights,
                positions=positions,
                layout=dataclasses.replace(
                    live.weights.layout, positioned=live.weights.layout.prefix
                ),
            )
            note = (
                f"it adds {name} {array.shape}, which is no parameter, as positions: found by probe"
            )
            return dataclasses.replace(
                live, weights=weights, to_sequence=True, notes=(*live.notes, note)
            )
    return live


def _tensors(subject: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """Arrays among the attributes and buffers of an object and of what is inside it."""
    parts = subject.named_modules() if hasattr(subject, "named_modules") else [("", subject)]
    for prefix, part in parts:
        held = {**getattr(part, "_buffers", {}), **getattr(part, "__dict__", {})}
        for name, value in held.items():
            if hasattr(value, "detach"):
                value = value.detach().cpu().float().numpy()
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                yield f"{prefix}.{name}".lstrip("."), value.astype(np.float64)
