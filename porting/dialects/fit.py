"""From canonical weights to the tensors of a dialect: axes are moved, and what a layout cannot say
is a named step or a loss."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import LayerNorm, PatchEmbedWeights, PrefixToken
from .dialect import Dialect, from_canonical
from .plan import STEPS, Loss, Plan
from .positions import computed_positions
from .stage import NORMS

TOKENS: tuple[PrefixToken, ...] = ("class_token", "distillation_token", "register_tokens")


def fit(
    weights: PatchEmbedWeights,
    spec: PatchEmbedSpec,
    dialect: Dialect,
    held: tuple[str, ...] = (),
    size_known: bool = True,
    computed: str = "",
    epsilon: float | None = None,
) -> tuple[PatchEmbedWeights, Plan]:
    """Bring weights into the form that a dialect can hold.

    Args:
        weights: canonical.
        spec: their sizes.
        dialect: the target.
        size_known: whether something tells the image size, and so how many positions there are.
        computed: what positions the source computes, if it does.
        epsilon: that of the norms of an existing checkpoint or a whole model, where it is not the
            dialect's own.
        held: fields that an existing checkpoint has, and that must therefore be filled too.

    Returns:
        The weights as they will be there, and the steps and losses that this takes.

    Raises:
        PatchParityError: what cannot be made at all: a token that the target must have, patches of
            another kind.
    """
    if dialect.read_only:
        if dialect.formats == ("graph",):
            raise PatchParityError(f"{dialect.id} is read and not written: it is a whole model")
        raise PatchParityError(
            f"{dialect.id} is read and not written: more than one tensor makes its kernel or its "
            "positions, or some of their rows belong to no token"
        )
    plan = Plan()
    required = {*dialect.required, *held}
    _require_same_patches(spec, dialect)
    _require_same_order(weights, dialect)
    if spec.remainder != dialect.remainder and not dialect.plain:
        plan.steps.append("other-remainder")
    if weights.positions is None and "positions" in required and not size_known:
        raise PatchParityError(
            f"{dialect.id} has positions, the source none, and nothing tells the image size: a "
            "config.json beside it would, or --image-size"
        )
    weights = _without_tokens(weights, dialect, plan)
    weights = _without_norms(
        weights, dialect, plan, dialect.norm_epsilon if epsilon is None else epsilon
    )
    weights = _with_bias(weights, dialect, plan, "bias" in required)
    if weights.mask_token is None and "mask_token" in required:
        plan.steps.append("zero-mask-token")
        weights = dataclasses.replace(
            weights, mask_token=np.zeros(spec.embed_dim, weights.kernel.dtype)
        )
    if weights.mask_token is not None and "mask_token" not in dialect.entries:
        plan.steps.append("drop-mask-token")
        weights = dataclasses.replace(weights, mask_token=None)
    weights = _with_positions(weights, spec, dialect, plan, "positions" in required, computed)
    for name in [*dialect.entries, *held]:
        if name not in required:
            continue
        owner, _, _ = name.partition(".")
        owner = "positions" if owner == "position_ids" else owner
        if getattr(weights, owner) is None:
            whose = dialect.id if name in dialect.required else "the existing checkpoint"
            part_name = owner.replace("_", " ")
            raise PatchParityError(
                f"{whose} has {part_name}, the source has none, and none can be made up: choose a "
                "target without"
            )
    layout = dataclasses.replace(
        weights.layout,
        prefix=dialect.prefix,
        prefix_side=dialect.prefix_side,
        suffix=dialect.suffix,
        token_order=dialect.token_order,
    )
    return dataclasses.replace(weights, layout=layout), plan


def _require_same_patches(spec: PatchEmbedSpec, dialect: Dialect) -> None:
    if dialect.video != (spec.spatial_axes == 3):
        kinds = ("images", "tubelets of video")
        raise PatchParityError(
            f"{dialect.id} is of {kinds[dialect.video]}, the source of "
            f"{kinds[spec.spatial_axes == 3]}"
        )
    if dialect.channels not in (None, spec.in_channels):
        raise PatchParityError(
            f"{dialect.id} is of {dialect.channels} channels, the source has {spec.in_channels}"
        )
    dialect_steps = []
    for setting, tiles in (
        (dialect.stride, spec.patch_size),
        (dialect.padding, (0,) * spec.spatial_axes),
    ):
        half = tuple(size // 2 for size in spec.patch_size)
        dialect_steps.append(
            tiles
            if setting is None
            else half
            if setting == "half"
            else None
            if setting == "config"
            else (setting,) * spec.spatial_axes
        )
    step, pads = dialect_steps
    asymmetric = any(before != after for before, after in spec.padding)
    held = spec.stride, tuple(before for before, _ in spec.padding)
    keyed = "stride" in dialect.config
    if (
        asymmetric
        or (not keyed and step not in (None, held[0]))
        or (not keyed and pads not in (None, held[1]))
    ):
        raise PatchParityError(
            f"{dialect.id} has stride {step} and padding {pads}, the source stride {spec.stride} "
            f"and padding {spec.padding}"
        )


def _without_tokens(weights: PatchEmbedWeights, dialect: Dialect, plan: Plan) -> PatchEmbedWeights:
    """Leave out prefix tokens that the dialect has no place for, and their position rows."""
    for name in TOKENS:
        count = weights.prefix_rows(name) if name in weights.layout.prefix else 0
        if not count or name in dialect.entries:
            continue
        plan.losses.append(Loss(name, f"{dialect.id} has no {name.replace('_', ' ')}"))
        positions = weights.positions
        if positions is not None and name in weights.layout.positioned:
            positions = np.delete(positions, _rows_of(weights, name), axis=0)
        without: dict[str, Any] = {name: None, "positions": positions}
        weights = dataclasses.replace(weights, **without)
    return weights


def _rows_of(weights: PatchEmbedWeights, wanted: PrefixToken) -> slice:
    """The rows of the position table that belong to a prefix token."""
    assert weights.positions is not None
    layout, at = weights.layout, 0
    behind = (
        len(weights.positions) - weights.num_positioned_prefix_tokens + weights.num_positions_ahead
    )
    for names, start in ((layout.ahead, 0), (layout.behind, behind)):
        at = start
        for name in names:
            if name in layout.positioned and (count := weights.prefix_rows(name)):
                if name == wanted:
                    return slice(at, at + count)
                at += count
    return slice(0, 0)


def _without_norms(
    weights: PatchEmbedWeights, dialect: Dialect, plan: Plan, epsilon: float
) -> PatchEmbedWeights:
    for name in NORMS:
        if getattr(weights, name) is None:
            continue
        held = getattr(weights, name)
        if f"{name}.scale" not in dialect.entries:
            plan.losses.append(Loss(name, f"{dialect.id} has no {name.replace('_', ' ')}"))
            nothing: dict[str, Any] = {name: None}
            weights = dataclasses.replace(weights, **nothing)
        elif held.centered == (name in dialect.rms):
            kinds = ("an RMSNorm", "a layer norm")
            raise PatchParityError(
                f"the source has {kinds[held.centered]} as {name.replace('_', ' ')}, {dialect.id} "
                f"{kinds[not held.centered]}"
            )
        elif held.shift is None and f"{name}.shift" in dialect.required:
            plan.steps.append("zero-norm-shift")
            weights = dataclasses.replace(
                weights, **{name: dataclasses.replace(held, shift=np.zeros_like(held.scale))}
            )
        elif held.shift is not None and f"{name}.shift" not in dialect.entries:
            plan.losses.append(
                Loss(f"{name}.shift", f"{dialect.id} adds nothing to what it normalizes")
            )
            weights = dataclasses.replace(weights, **{name: dataclasses.replace(held, shift=None)})
        if getattr(weights, name) is not None and weights.layout.norm_epsilon != epsilon:
            message = (
                f"the target normalizes with ε = {epsilon:g}, the source with "
                f"{weights.layout.norm_epsilon:g}"
            )
            plan.losses.append(Loss(name, message))
            weights = dataclasses.replace(
                weights, layout=dataclasses.replace(weights.layout, norm_epsilon=epsilon)
            )
    return weights


def _with_bias(
    weights: PatchEmbedWeights, dialect: Dialect, plan: Plan, required: bool
) -> PatchEmbedWeights:
    if weights.bias is None and required:
        plan.steps.append("zero-bias")
        return dataclasses.replace(
            weights, bias=np.zeros(weights.kernel.shape[0], weights.kernel.dtype)
        )
    if weights.bias is not None and "bias" not in dialect.entries:
        if weights.bias.any():
            plan.losses.append(Loss("bias", f"{dialect.id} has no bias"))
        else:
            plan.steps.append("drop-zero-bias")
        return dataclasses.replace(weights, bias=None)
    return weights


def _with_positions(
    weights: PatchEmbedWeights,
    spec: PatchEmbedSpec,
    dialect: Dialect,
    plan: Plan,
    required: bool,
    computed: str,
) -> PatchEmbedWeights:
    """Give the position table the rows that the dialect has."""
    if dialect.computed and dialect.computed == computed:
        return dataclasses.replace(weights, positions=None)
    if dialect.computed:
        return _computed_away(weights, spec, dialect, plan)
    if "positions" not in dialect.entries:
        if weights.positions is None:
            return weights
        if weights.positions.any():
            plan.losses.append(Loss("positions", f"{dialect.id} adds no positions"))
        return dataclasses.replace(weights, positions=None)
    if weights.positions is None:
        if not required:
            return weights
        plan.steps.append("zero-positions")
        layout = dataclasses.replace(weights.layout, positioned=())
        table = np.zeros((spec.num_patches, spec.embed_dim), weights.kernel.dtype)
        weights = dataclasses.replace(weights, positions=table, layout=layout)
    assert weights.positions is not None
    have = tuple(
        name
        for name in dialect.prefix
        if name in weights.layout.positioned and weights.prefix_rows(name)
    )
    choices = [
        tuple(name for name in alternative if weights.prefix_rows(name))
        for alternative in dialect.positioned
    ]
    if dialect.positioned_together:
        present = tuple(name for name in dialect.prefix if weights.prefix_rows(name))
        choices = [choice for choice in choices if choice in ((), present)]
    if have in choices and have != choices[0] and set(choices[0]) < set(have):
        spare = [name for name in have if name not in choices[0]]
        if not any(weights.positions[_rows_of(weights, name)].any() for name in spare):
            plan.steps.append("drop-zero-position-rows")
            return _repositioned(weights, choices[0])
    if have in choices:
        return dataclasses.replace(
            weights, layout=dataclasses.replace(weights.layout, positioned=have)
        )
    wider = [choice for choice in choices if set(have) <= set(choice)]
    if wider:
        plan.steps.append("zero-position-rows")
        return _repositioned(weights, min(wider, key=len))
    narrower = max((choice for choice in choices if set(choice) <= set(have)), key=len, default=())
    spare = [name for name in have if name not in narrower]
    zeros = not any(weights.positions[_rows_of(weights, name)].any() for name in spare)
    plan.steps.append("drop-zero-position-rows" if zeros else "fold-position-rows")
    return _repositioned(weights, narrower)


def _computed_away(
    weights: PatchEmbedWeights, spec: PatchEmbedSpec, dialect: Dialect, plan: Plan
) -> PatchEmbedWeights:
    """Positions that the target computes: the same are left out, others are lost."""
    if weights.positions is not None:
        table = computed_positions(dialect.computed, spec).astype(weights.positions.dtype)
        if weights.positions.shape == table.shape and (weights.positions == table).all():
            plan.steps.append("drop-computed-positions")
        else:
            plan.losses.append(Loss("positions", f"{dialect.id} computes its positions"))
    else:
        plan.losses.append(
            Loss("positions", f"{dialect.id} adds positions of its own, and the source has none")
        )
    return dataclasses.replace(weights, positions=None)


def _repositioned(weights: PatchEmbedWeights, wanted: tuple[PrefixToken, ...]) -> PatchEmbedWeights:
    """Rows of zeros for tokens that shall have one; rows of others added to their tokens."""
    assert weights.positions is not None
    dtype = weights.positions.dtype
    rows: dict[PrefixToken, NDArray[Any]] = {}
    changed: dict[str, Any] = {}
    taken = np.zeros(len(weights.positions), bool)
    for name in weights.layout.prefix:
        count = weights.prefix_rows(name)
        if not count:
            continue
        held = name in weights.layout.positioned
        token_rows = (
            weights.positions[_rows_of(weights, name)]
            if held
            else np.zeros((count, weights.positions.shape[1]), dtype)
        )
        if held:
            taken[_rows_of(weights, name)] = True
        if name in wanted:
            rows[name] = token_rows
        elif held and token_rows.any():
            token = getattr(weights, name)
            summed = token.astype(np.float64) + token_rows.astype(np.float64).reshape(token.shape)
            changed[name] = summed.astype(token.dtype)
    ahead, behind = (
        [rows[name] for name in side if name in rows]
        for side in (weights.layout.ahead, weights.layout.behind)
    )
    parts = [*ahead, weights.positions[~taken], *behind]
    layout = dataclasses.replace(weights.layout, positioned=wanted)
    return dataclasses.replace(weights, positions=np.concatenate(parts), layout=layout, **changed)


def _require_same_order(weights: PatchEmbedWeights, dialect: Dialect) -> None:
    """Raise PatchParityError where the target puts prefix tokens or patches elsewhere in the
    sequence than the source: no tensor can say so."""
    present = [
        name
        for name in weights.layout.prefix
        if weights.prefix_rows(name) and name in dialect.entries
    ]
    theirs = [name for name in dialect.prefix if name in present]
    if present != theirs:
        raise PatchParityError(
            f"the source has {', '.join(present)} in this order, {dialect.id} {', '.join(theirs)}"
        )
    behind = [
        [name for name in layout.behind if name in present] for layout in (weights.layout, dialect)
    ]
    if behind[0] != behind[1]:
        tokens = [", ".join(names).replace("_", " ") or "no prefix token" for names in behind]
        raise PatchParityError(
            f"behind the patches there is {tokens[0]} in the source, {tokens[1]} in {dialect.id}: "
            "places are not changed on the way"
        )
    if weights.layout.token_order != dialect.token_order:
        raise PatchParityError(
            f"tokens are in {weights.layout.token_order} order in the source, in "
            f"{dialect.token_order} order in {dialect.id}"
        )
    if bool(weights.layout.window) != (dialect.windowed or bool(dialect.window)):
        orders = ("of the image", "of attention windows")
        raise PatchParityError(
            f"tokens are in the order {orders[not dialect.windowed]} in the source, "
            f"{orders[dialect.windowed]} in {dialect.id}"
        )


def tensors_of(
    weights: PatchEmbedWeights, spec: PatchEmbedSpec, dialect: Dialect, prefix: str = ""
) -> dict[str, NDArray[Any]]:
    """The tensors of a dialect that hold these weights, which `fit` has brought into its form.

    Args:
        weights: canonical.
        spec: their sizes.
        dialect: the target.
        prefix: put before all names.
    """
    names = ("Pt", "Ph", "Pw")[3 - spec.spatial_axes :]
    sizes: dict[str, int] = {
        "D": spec.embed_dim,
        "C": spec.in_channels,
        **dict(zip(names, spec.patch_size, strict=True)),
    }
    sizes.update(zip(("Gh", "Gw"), spec.grid[-2:], strict=True))
    tensors = {}
    for name, entry in dialect.entries.items():
        array = _field(weights, name)
        if array is not None:
            for place in (entry.name, *dialect.copies.get(name, ())):
                tensors[prefix + place] = from_canonical(array, entry, sizes)
    return tensors


def _field(weights: PatchEmbedWeights, name: str) -> NDArray[Any] | None:
    if name == "position_ids":  # each token has its own row
        return None if weights.positions is None else np.arange(len(weights.positions), dtype="i4")
    owner, _, part = name.partition(".")
    value = getattr(weights, owner)
    return getattr(value, part) if isinstance(value, LayerNorm) else value


def steps_in_words(plan: Plan) -> list[str]:
    """What a port does beside moving axes, in sentences."""
    return [f"{name}: {STEPS[name]}" for name in plan.steps]


def losses_in_words(plan: Plan) -> list[str]:
    """What a target cannot hold, in sentences."""
    return [f"{loss.field}: {loss.why}" for loss in plan.losses]


def same_bits(first: PatchEmbedWeights, second: PatchEmbedWeights) -> list[str]:
    """Fields in which two weights differ in any bit."""
    different = []
    for entry in dataclasses.fields(PatchEmbedWeights):
        if entry.name != "layout":
            pairs = zip(arrays_of(first, entry.name), arrays_of(second, entry.name), strict=True)
            if any(not _same(one, other) for one, other in pairs):
                different.append(entry.name)
    return different


def arrays_of(weights: PatchEmbedWeights, name: str) -> list[NDArray[Any] | None]:
    """The arrays of a field: scale and shift of a norm, the one of any other; None in place of
    those that are not there."""
    value = getattr(weights, name)
    if isinstance(value, LayerNorm):
        return [value.scale, value.shift]
    return [value, value] if name in NORMS else [value]


def _same(first: NDArray[Any] | None, second: NDArray[Any] | None) -> bool:
    if first is None or second is None:
        return first is second
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and first.tobytes() == second.tobytes()
    )


def cast(weights: PatchEmbedWeights, dtype: str | None) -> PatchEmbedWeights:
    """The same in another dtype, rounded to nearest; None leaves each as it is.

    Raises:
        PatchParityError: values that the dtype does not reach to.
    """
    return (
        weights if dtype is None else weights.map(lambda array: _narrowed(array, np.dtype(dtype)))
    )


def cast_as(weights: PatchEmbedWeights, there: PatchEmbedWeights) -> PatchEmbedWeights:
    """The same, each field in the dtype that it has in other weights, or there the kernel.

    Raises:
        PatchParityError: values that a dtype does not reach to.
    """
    changed: dict[str, Any] = {}
    for entry in dataclasses.fields(PatchEmbedWeights):
        value, slot = getattr(weights, entry.name), getattr(there, entry.name)
        if isinstance(value, LayerNorm):
            kept = slot if isinstance(slot, LayerNorm) else LayerNorm(there.kernel, there.kernel)
            shift = (
                None
                if value.shift is None
                else _narrowed(
                    value.shift, (kept.scale if kept.shift is None else kept.shift).dtype
                )
            )
            value = LayerNorm(_narrowed(value.scale, kept.scale.dtype), shift, value.centered)
        elif isinstance(value, np.ndarray):
            value = _narrowed(value, (there.kernel if slot is None else slot).dtype)
        changed[entry.name] = value
    return PatchEmbedWeights(**changed)


def _narrowed(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        narrowed_array = array.astype(dtype)
    if not np.isfinite(narrowed_array).all():
        largest = float(np.abs(array.astype(np.float64)).max())
        raise PatchParityError(
            f"values up to {largest:.3g} are beyond what {dtype.name} reaches to"
        )
    return narrowed_array


def underflown(before: PatchEmbedWeights, after: PatchEmbedWeights) -> int:
    """How many values that were not zero are zero after a cast."""
    counts = []
    for entry in dataclasses.fields(PatchEmbedWeights):
        if entry.name != "layout":
            pairs = zip(arrays_of(before, entry.name), arrays_of(after, entry.name), strict=True)
            counts += [
                int(((one != 0) & (other == 0)).sum())
                for one, other in pairs
                if one is not None and other is not None
            ]
    return sum(counts)
