"""What only an object's output shows: the flatten order of a linear layer, on which side prefix
tokens stand, and positions that are kept where no parameter is, or computed."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...backends.layouts import FLATTEN_ORDERS, KERNEL_LAYOUTS
from ...reference.embed import patch_embed
from ...reference.errors import PatchParityError
from ...reference.sequence import embed_sequence, sincos_positions, sinusoid_table
from ...reference.spec import PatchEmbedSpec
from .found import FoundWeights, SeveralKernelsError
from .live import LiveEmbedding

UNLIKE = 2.0**-5
"""Distance of an object's output from that of its weights, relative to the latter's norm, beyond
which it computes something else: eight times what inputs rounded to bfloat16 (2⁻⁸) can do, while a
mask, an activation or a norm that was overlooked changes a tenth and more."""

USUAL_ORDERS = ("linear-chw", "linear-hwc", "dense-chw", "dense-hwc")
"""In which libraries flatten a patch: its channels first, as a convolution's kernel, or last."""

SAME_SUM = 2.0**-18
"""Relative distance of what an object gives of black images from its bias, tokens and positions:
sixty-four times float32's own rounding of a sum."""

MOST_SPARE = 3
"""Rows in front of the patches' own that a table has for prefix tokens or for none (OPT's two): a
longer one is cut behind."""

SAME_TABLE = 2.0**-12
"""The same of a table that is computed, in float32: an angle of a few hundred, rounded, moves its
sine by 2⁻¹⁶, and no two tables that libraries compute are as near to one another."""

SAME = 2.0**-7
"""Relative distance of a residual from a table, or from itself in another image, up to which they
are the same: twice the roundoff of bfloat16."""


def with_flatten_order(live: LiveEmbedding, found_weights: FoundWeights) -> LiveEmbedding:
    """The same object, with the flatten order of its linear layer whose result lies nearest to the
    object's own, on random images.

    Args:
        live: as it was read, in the first of the orders.
        found_weights: its weights, and the orders.
    """
    if live.spec.in_channels == 1:
        return live
    images = np.random.default_rng(0).standard_normal(live.spec.images_shape(2)).astype(live.dtype)
    observed = live.call(images)
    apart = observed[0].astype(np.float64) - observed[1]
    kinds = dict.fromkeys(order.split("-")[0] for order in found_weights.orders)
    unusual = [f"{kind}-{order}" for order in FLATTEN_ORDERS[2:] for kind in kinds]
    distances: dict[str, float] = {}
    for order in (*found_weights.orders, *unusual):
        if order in unusual and _is_near(min(distances.values()), apart):
            break  # an order that is usual explains it
        weights = found_weights.to_canonical(live.spec, order)
        expected = _expected(dataclasses.replace(live, weights=weights), images)
        if apart.shape[1:] != expected.shape[2:] or len(apart) < len(expected[0]):
            return live
        # One image against the other: what is added to both is not known yet, nor on which side
        # there are prefix tokens.
        wanted = expected[0] - expected[1]
        distances[order] = min(
            float(np.mean((side - wanted) ** 2))
            for side in (apart[: len(wanted)], apart[-len(wanted) :])
        )
    best = min(distances, key=distances.__getitem__)
    axes = KERNEL_LAYOUTS[best].replace("D", "").strip(" ()").replace(" ", ", ")
    if not _is_near(distances[best], apart):
        best = min(found_weights.orders, key=distances.__getitem__)
        axes = KERNEL_LAYOUTS[best].replace("D", "").strip(" ()").replace(" ", ", ")
        note = (
            f"no flatten order of the linear layer explains its output; ({axes}) comes nearest "
            f"(--kernel-layout {best})"
        )
    else:
        usual = "" if best in USUAL_ORDERS else ", in which no library that is known flattens"
        note = (
            f"the linear layer's flatten order was found by probe: ({axes}) (--kernel-layout "
            f"{best}){usual}; whether its weights were made for it, no output tells"
        )
    return dataclasses.replace(
        live,
        weights=found_weights.to_canonical(live.spec, best),
        notes=(*live.notes, note),
        kernel_layout=KERNEL_LAYOUTS[best],
    )


def _is_near(distance: float, apart: NDArray[np.float64]) -> bool:
    """Whether a mean squared distance is that of rounding."""
    return distance < UNLIKE**2 * float(np.mean(apart**2))


NARROW = ("bfloat16", "float16")
"""Types of 16 bits."""

OTHER_BATCHES = (1, 4, 8, 16, 32)
"""What an object is called with that refuses two images: one at a time, or as many as it was
exported for."""


def with_own_batch(live: LiveEmbedding) -> LiveEmbedding:
    """The same object; one that takes so many images alone is called with so many at a time."""
    for batch in (2, *OTHER_BATCHES):
        first = _given(live, batch)
        if first is None:
            turned = _with_frames_first(live)
            first = None if turned is None else _given(turned, batch)
            if turned is None or first is None:
                continue
            live = turned
        live = dataclasses.replace(live, first_call=first)
        if batch == 2:
            return live
        count = "one image" if batch == 1 else f"{batch} images"
        note = f"it takes {count} at a time and refuses others: more were given in parts"
        call = dataclasses.replace(live.call, batch=batch)
        return dataclasses.replace(live, call=call, notes=(*live.notes, note))
    return live


def _given(live: LiveEmbedding, batch: int) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """So many random images, and what an object gives of them; None where it refuses."""
    images = np.random.default_rng(1).standard_normal(live.spec.images_shape(batch))
    images = images.astype(live.dtype)
    try:
        return images, np.array(live.call(np.array(images)))
    except PatchParityError:
        return None


def _with_frames_first(live: LiveEmbedding) -> LiveEmbedding | None:
    """The same object, given videos as `(B, T, C, H, W)`; None of one that takes images."""
    if live.spec.spatial_axes != 3 or live.framework in ("keras", "flax", "jax", "tensorflow"):
        return None
    place = live.call.place
    call = dataclasses.replace(live.call, place=lambda images: place(images.swapaxes(1, 2)))
    note = "it takes videos as (B, T, C, H, W), the frames before the channels: found by probe"
    return dataclasses.replace(live, call=call, notes=(*live.notes, note))


def with_computing_dtype(live: LiveEmbedding, *layers: Any) -> LiveEmbedding:
    """The same object, judged in the dtype that its layer says it computes in, and does; of 16-bit
    weights whose result is widened in theirs."""
    if live.first_call is None:
        return live
    given = live.first_call[1].dtype.name
    if given == live.dtype:
        return live
    promoted = live.framework == "numpy" and (live.dtype, given) == ("float32", "float64")
    if promoted or (live.dtype in NARROW and given == "float32"):
        note = f"it gives {given} of weights in {live.dtype}: it is judged as {live.dtype}"
        fetch, dtype = live.call.fetch, live.dtype
        call = dataclasses.replace(live.call, fetch=lambda output: fetch(output).astype(dtype))
        return dataclasses.replace(live, call=call, notes=(*live.notes, note))
    declared = [getattr(layer, "compute_dtype", getattr(layer, "dtype", None)) for layer in layers]
    if given not in NARROW or given not in [getattr(d, "__name__", str(d)) for d in declared]:
        return live
    note = f"its layer computes in {given}, of weights in {live.dtype}: it is judged as {given}"
    return dataclasses.replace(live, dtype=given, notes=(*live.notes, note))


def with_found_parts(
    live: LiveEmbedding, subject: Any, found_weights: FoundWeights
) -> LiveEmbedding:
    """The same object, with prefix tokens on the side where they are, with parameters whose names
    say nothing where they belong, and with fixed positions that lie in a buffer or an attribute, or
    are computed.

    An object that gives what its weights do, or that fails, is left as it was read.

    Raises:
        PatchParityError: parameters that are nowhere in what it gives.
    """
    placed = _with_found_parts(live, subject, found_weights)
    if found_weights.refusal and not (
        set(found_weights.unplaced) <= set(placed.placed) and explains(placed)
    ):
        raise (SeveralKernelsError if found_weights.several else PatchParityError)(
            found_weights.refusal
        )
    return placed


def _with_found_parts(
    live: LiveEmbedding, subject: Any, found_weights: FoundWeights
) -> LiveEmbedding:
    seen = _seen(live)
    if seen is None:
        return live
    live = dataclasses.replace(live, later_calls=seen.calls)
    if _is_explained(live, seen):
        return _with_forgotten_tables(live, subject) if seen.observed.ndim == 3 else live
    for candidate in (
        live,
        *_with_vectors(live, found_weights),
        *_with_rows(live, found_weights, seen),
    ):
        if _is_explained(candidate, seen):
            return candidate
        if candidate.weights.num_prefix_tokens:
            layout = dataclasses.replace(candidate.weights.layout, prefix_side="last")
            weights = dataclasses.replace(candidate.weights, layout=layout)
            turned = dataclasses.replace(candidate, weights=weights)
            if _is_explained(turned, seen):
                note = "its prefix tokens stand behind the patches: found by probe"
                return dataclasses.replace(turned, notes=(*candidate.notes, note))
        with_positions = _with_positions(candidate, subject, found_weights, seen)
        if with_positions is not candidate:
            return with_positions
    return live


@dataclass(frozen=True)
class _Seen:
    """What an object gives of random images, and of black ones, which show what it adds."""

    images: NDArray[Any]
    observed: NDArray[np.float64]
    black: NDArray[np.float64]
    calls: tuple[tuple[NDArray[Any], NDArray[Any]], ...]


def _seen(live: LiveEmbedding) -> _Seen | None:
    """The same; None of one that fails, or gives what is not finite."""
    images = _random(live)
    try:
        calls = [(batch, np.array(live.call(np.array(batch)))) for batch in (images, 0 * images)]
    except PatchParityError:
        return None
    observed, black = (output.astype(np.float64) for _, output in calls)
    if not (np.isfinite(observed).all() and np.isfinite(black).all()):
        return None
    return _Seen(images, observed, black, tuple(calls))


def explains(live: LiveEmbedding) -> bool:
    """Whether what an object gives is what its weights do: of random images roughly, of black ones,
    which show what is added, closely."""
    seen = _seen(live)
    return seen is not None and _is_explained(live, seen)


def _is_explained(live: LiveEmbedding, seen: _Seen) -> bool:
    if not _apart(seen.observed, _expected(live, seen.images)) < UNLIKE:
        return False
    expected = _expected(live, np.zeros_like(seen.images))
    size = max(float(np.linalg.norm(expected)), float(np.linalg.norm(seen.black)))
    return float(np.linalg.norm(seen.black - expected)) <= _closely(live) * size


def _closely(live: LiveEmbedding) -> float:
    """Relative distance up to which what is added is the same, in the dtype of an object."""
    return SAME_SUM if live.dtype in ("float32", "float64") else SAME


def _random(live: LiveEmbedding) -> NDArray[Any]:
    generator = np.random.default_rng(1)
    return generator.standard_normal(live.spec.images_shape(2)).astype(live.dtype)


def _with_vectors(live: LiveEmbedding, found_weights: FoundWeights) -> Iterator[LiveEmbedding]:
    """The same object with a vector, of a name that says nothing, as its bias or class token."""
    for name, value in found_weights.unplaced.items():
        vector = value.reshape(-1)
        if vector.size != live.spec.embed_dim:
            continue
        for role in ("bias", "class_token") if value.ndim == 1 else ("class_token",):
            if getattr(live.weights, role) is not None:
                continue
            weights = dataclasses.replace(live.weights, **{role: vector})  # type: ignore[arg-type]
            note = f"{name} {value.shape} is its {role.replace('_', ' ')}: found by probe"
            yield dataclasses.replace(
                live,
                weights=weights,
                to_sequence=live.to_sequence or role == "class_token",
                notes=(*live.notes, note),
                placed=(*live.placed, name),
            )


def _with_rows(
    live: LiveEmbedding, found_weights: FoundWeights, seen: _Seen
) -> Iterator[LiveEmbedding]:
    """The same object with several vectors, of names that say nothing, as the rows that it gives of
    black images before the patches, or behind them."""
    count, width = seen.black.shape[-2] - live.spec.num_patches, live.spec.embed_dim
    if seen.black.ndim != 3 or count < 2 or live.weights.num_prefix_tokens:
        return
    held = {
        name: v.reshape(-1, width)
        for name, v in found_weights.unplaced.items()
        if not v.size % width
    }
    sides: tuple[Literal["first", "last"], ...] = ("first", "last")
    for side in sides:
        rows = seen.black[0, :count] if side == "first" else seen.black[0, -count:]
        names: list[str] = []
        at = 0
        while at < count:
            fitting = (
                name
                for name, value in held.items()
                if name not in names and _near(value, rows[at : at + len(value)], _closely(live))
            )
            if (name := next(fitting, None)) is None:
                break
            names.append(name)
            at += len(held[name])
        if at == count:
            tokens = np.concatenate([held[name] for name in names])
            layout = dataclasses.replace(live.weights.layout, prefix_side=side)
            yield dataclasses.replace(
                live,
                weights=dataclasses.replace(
                    live.weights, class_token=tokens[0], register_tokens=tokens[1:], layout=layout
                ),
                to_sequence=True,
                notes=(*live.notes, f"{', '.join(names)} are its prefix tokens: found by probe"),
                placed=(*live.placed, *names),
            )


def _with_forgotten_tables(live: LiveEmbedding, subject: Any) -> LiveEmbedding:
    """The same object, with a word about tables of the size of positions that are not added."""
    spec = live.spec
    if live.weights.positions is not None:
        return live
    counts = (spec.num_patches, spec.num_patches + live.weights.num_prefix_tokens)
    shapes = {(count, spec.embed_dim) for count in counts}
    notes = [
        f"its {name} {array.shape}, as large as positions, is added to nothing"
        for name, array in _tensors(subject)
        if array.shape in shapes | {(1, *shape) for shape in shapes}
    ]
    return dataclasses.replace(live, notes=(*live.notes, *notes)) if notes else live


def _expected(live: LiveEmbedding, images: NDArray[Any]) -> NDArray[Any]:
    compute = embed_sequence if live.to_sequence else patch_embed
    return compute(images.astype(np.float64), live.weights.astype(np.float64), live.spec)


def _apart(observed: NDArray[Any], expected: NDArray[Any]) -> float:
    if observed.shape != expected.shape or not (
        np.isfinite(observed).all() and np.isfinite(expected).all()
    ):
        return float("inf")
    return float(np.linalg.norm(observed - expected)) / float(np.linalg.norm(expected) + 1e-300)


def _near(one: NDArray[Any], other: NDArray[Any], tolerance: float) -> bool:
    return one.shape == other.shape and float(np.linalg.norm(one - other)) <= tolerance * float(
        np.linalg.norm(other)
    )


def _with_positions(
    live: LiveEmbedding, subject: Any, found_weights: FoundWeights, seen: _Seen
) -> LiveEmbedding:
    """Positions that are the same for every image, and lie in a tensor of the object that is no
    parameter, or in one of a name that says nothing, or are a table that libraries compute."""
    expected = _expected(live, seen.images)
    if live.weights.positions is not None or seen.observed.shape != expected.shape:
        return live
    added = seen.black - _expected(live, np.zeros_like(seen.images))
    table = added[0]
    alike = float(np.abs(added - table).max()) <= SAME * float(np.abs(table).max())
    if not alike or not _apart(seen.observed, expected + table) < UNLIKE:
        return live
    spec, first = live.spec, live.weights.num_tokens_ahead
    patches = slice(first, first + spec.num_patches)
    prefix = np.delete(table, patches, axis=0)
    # Of the patches alone, where the prefix tokens are what they are by themselves.
    alone = prefix.size > 0 and float(np.abs(prefix).max()) <= SAME * float(np.abs(table).max())
    wanted = table[patches] if alone else table

    def placed(positions: NDArray[Any], note: str, *names: str) -> LiveEmbedding:
        layout = dataclasses.replace(
            live.weights.layout, positioned=() if alone else live.weights.layout.prefix
        )
        held = positions.astype(live.weights.kernel.dtype)
        weights = dataclasses.replace(live.weights, positions=held, layout=layout)
        notes = (*live.notes, f"{note}: found by probe")
        return dataclasses.replace(
            live,
            weights=weights,
            to_sequence=True,
            notes=notes,
            placed=(*live.placed, *(name for name in names if name in found_weights.unplaced)),
        )

    parameters = (
        (name, value.astype(np.float64)) for name, value in found_weights.unplaced.items()
    )
    for name, array in itertools.chain(parameters, _tensors(subject)):
        for held in _as_rows(array, spec.embed_dim):
            # Of a table with rows for prefix tokens too, or a few spare ones, those behind them:
            # others are wrong. Of a longer one the first.
            spare = len(held) - len(wanted)
            start = spare if 0 < spare <= MOST_SPARE else 0
            rows = held[start : start + len(wanted)]
            if _near(rows, wanted, SAME):
                part = "" if len(rows) == len(held) else f"{len(rows)} rows of "
                kind = "" if name in found_weights.unplaced else ", which is no parameter,"
                sentence = f"it adds {part}{name} {array.shape}{kind} as positions"
                return placed(rows, sentence, name)
    for names, how, summed in _tables_of_two(found_weights.unplaced, spec, len(wanted)):
        if _near(wanted, summed, SAME):
            return placed(summed, f"it adds {' and '.join(names)}, {how}, as positions", *names)
    for name, computed in _computed_tables(spec, len(wanted)):
        if _near(wanted, computed, SAME_TABLE if live.dtype in ("float32", "float64") else SAME):
            # Its own sines, to the last bit: what it gives for black images, less its bias.
            return placed(wanted, f"it adds positions that it computes, {name}")
    return live


def _tables_of_two(
    parameters: Mapping[str, NDArray[Any]], spec: PatchEmbedSpec, count: int
) -> Iterator[tuple[tuple[str, str], str, NDArray[np.float64]]]:
    """Positions of so many rows that two parameters make together: their names, how, and the
    table."""
    width, rows = spec.embed_dim, {}
    for name, value in parameters.items():
        if value.shape[-1] in (width, width // 2):
            rows[name] = value.reshape(-1, value.shape[-1]).astype(np.float64)
    for (one, first), (two, second) in itertools.permutations(rows.items(), 2):
        if first.shape[1] != second.shape[1]:
            continue
        if first.shape[1] == width and one < two and min(len(first), len(second)) >= count:
            yield (one, two), "added up", first[:count] + second[:count]
        if spec.spatial_axes != 2 or count != spec.num_patches:
            continue
        grid = spec.grid
        if len(first) < grid[0] or len(second) < grid[1]:
            continue
        down = np.broadcast_to(first[: grid[0], None], (*grid, first.shape[1]))
        along = np.broadcast_to(second[None, : grid[1]], (*grid, second.shape[1]))
        arrangement = "of rows and of columns"
        if first.shape[1] == width:
            yield (one, two), f"{arrangement}, added up", (down + along).reshape(count, width)
        elif 2 * first.shape[1] == width:
            for parts, order in (((down, along), "rows"), ((along, down), "columns")):
                both = np.concatenate(parts, axis=-1).reshape(count, width)
                yield (one, two), f"{arrangement}, those of {order} in front", both


def _as_rows(array: NDArray[Any], width: int) -> list[NDArray[Any]]:
    """A tensor as rows of positions: its width behind, or in front of a map of the grid."""
    tables = []
    if array.ndim >= 2 and array.shape[-1] == width:
        tables.append(array.reshape(-1, width))
    if array.ndim >= 3 and array.shape[-3] == width:
        tables.append(np.moveaxis(array, -3, -1).reshape(-1, width))
    return tables


def _computed_tables(spec: PatchEmbedSpec, count: int) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Tables of positions that libraries compute, of so many rows, with their names."""
    width = spec.embed_dim
    if width % 2 == 0:
        yield "the sine-cosine table of Vaswani et al.", sinusoid_table(count, width)
        halves = np.arange(count)[:, None] * 10000.0 ** (-np.arange(width // 2) / (width // 2))
        both = np.concatenate([np.sin(halves), np.cos(halves)], axis=1)
        yield "a sine-cosine table with the sines in front", both
    if width % 4 or width < 8 or spec.spatial_axes != 2 or count != spec.num_patches:
        return
    sides: tuple[Literal["column", "row"], ...] = ("column", "row")
    for half, last in itertools.product(sides, (False, True)):
        table = sincos_positions(spec.grid, width, first_half=half, last_frequency=last)
        table_name = f"the 2-D sine-cosine table with {half}s in its first half"
        yield table_name + (", its last frequency 1/10000" if last else ""), table
        rows, columns = np.divmod(np.arange(count), spec.grid[1])
        parts = [sinusoid_table(max(spec.grid), width // 2)[at] for at in (columns, rows)]
        if not last:
            mixed = np.concatenate(parts if half == "column" else parts[::-1], axis=1)
            yield f"a 2-D sine-cosine table, sines and cosines in turn, {half}s in front", mixed


def _tensors(subject: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """Arrays among the attributes and buffers of an object and of what is inside it."""
    parts = [("", subject)]
    if hasattr(subject, "named_modules"):
        parts = list(subject.named_modules())
    elif hasattr(subject, "_flatten_layers"):
        parts = [(layer.name, layer) for layer in subject._flatten_layers()]
    for prefix, part in parts:
        held = {**getattr(part, "_buffers", {}), **getattr(part, "__dict__", {})}
        for name, value in held.items():
            with contextlib.suppress(Exception):  # a symbol, sparse, of no values or quantized
                if hasattr(value, "detach") and not value.is_complex():
                    value = value.detach().cpu().float().numpy()
                elif hasattr(value, "shape") and hasattr(value, "__array__"):
                    value = np.asarray(value)
            if isinstance(value, np.ndarray) and value.dtype.kind in "fV":
                yield f"{prefix}.{name}".lstrip("."), value.astype(np.float64)
