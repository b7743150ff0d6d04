"""Reading the embedding stage of a checkpoint."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...backends.base import DTYPES
from ...reference.errors import PatchParityError
from ...reference.sequence import embed_sequence
from ...reference.spec import PatchEmbedSpec
from ...reference.stem import StemLayer, apply_stem, fold_batch_norm, image_of
from ...reference.weights import LayerNorm, PatchEmbedWeights, SequenceLayout
from ..files.checkpoint import Checkpoint, in_sentences
from .catalogue import get_dialect, list_dialects
from .choosing import (
    QUANTIZED,
    choose,
    require_asked,
    require_first_stage,
    require_grid,
    require_no_other_stage,
)
from .dialect import BATCH_NORM, Dialect, StemStep, to_canonical
from .evidence import known_of
from .grids import channels_of
from .positions import fold_normalizations, fold_positions
from .recognize import Candidate, behind_layers, find_candidates
from .sizes import Sizes
from .wrappers import UnwrappedCheckpoint, require_no_adapter, unwrapped

NORMS = ("patch_norm", "token_norm", "sequence_norm")
"""Fields of PatchEmbedWeights that are layer norms."""


LARGEST_IMAGE = 2**25
"""Values of one image or video that a grid may mean: a picture of 3344×3344 in three channels, ten
times one of 1024×1024, seven videos of 32×224×224. A proof makes two of them in float64, 512 MB; a
table of positions that claims more would take many times its own size."""


@dataclass(frozen=True)
class Stage:
    """The embedding stage of a checkpoint.

    Args:
        candidate: how it was read.
        weights: canonical.
        spec: the sizes.
        size_known: whether something tells the image size; else the spec has a small one, and there
            are no positions.
        dtype: of the kernel.
        stem: convolutions in front of the projection: `spec` is of the map of features that they
            make.
        notes: what else is to be told of it, in sentences.
        epsilon_assumed: whether nothing tells ε of its norms, which its library lets users choose.
        layer_untold: whether it is the layer of a user's own model, of which the file has the
            tensors and nothing else.
        model_type: what config.json calls its model, or timm's name of it.
        real_names: under which names its tensors are in the file, by the names without wrappers;
            empty where they have none.
    """

    candidate: Candidate
    weights: PatchEmbedWeights
    spec: PatchEmbedSpec
    size_known: bool
    dtype: str
    stem: tuple[StemLayer, ...] = ()
    notes: tuple[str, ...] = ()
    real_names: Mapping[str, str] = field(default_factory=dict)
    epsilon_assumed: bool = False
    layer_untold: bool = False
    model_type: str = ""

    def real_name(self, name: str) -> str:
        """Under which name a tensor is in the file."""
        return self.real_names.get(name, name)

    @property
    def dialect(self) -> Dialect:
        """Its dialect."""
        return self.candidate.dialect

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What was taken for what it mostly is, for nothing tells it, in sentences."""
        candidate = self.candidate
        sentences = [candidate.assumed] if candidate.assumed else []
        if candidate.assumed_patch:
            sentences.append(f"{candidate.assumed_patch} (--patch-size, or sizes, tells another)")
        if candidate.layers:
            sentences.append(behind_layers(candidate.layers))
        for name in self.dialect.copies:
            tensor_name = candidate.prefix + self.dialect.entries[name].name
            if candidate.names.get(name, tensor_name) != tensor_name:
                sentences.append(
                    f"{candidate.names[name]} is read, the {name} made for its images; its library "
                    f"makes them anew of {tensor_name} when it loads the file, which may be others"
                )
        normed = any(getattr(self.weights, norm) is not None for norm in NORMS)
        if normed and self.epsilon_assumed:
            sentences.append(
                f"ε of its norms is taken for {self.weights.layout.norm_epsilon:g}, the usual one "
                "of its library: no config.json tells it"
            )
        if self.layer_untold:
            sentences.append(
                "of its layer a .weights.h5 tells no stride, padding, dilation or activation, nor "
                "what images pass before it: patches are taken to tile, and to be projected and "
                "no more (the .keras archive tells; --stride and --padding say otherwise)"
            )
        return tuple(sentences)

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return channels_of(self.candidate.sizes)

    @property
    def sizes(self) -> Sizes:
        """What it tells of another checkpoint of the same stage."""
        if self.stem:
            return Sizes(image_size=image_of(self.spec.image_size, self.stem))
        return Sizes.of(self.spec, self.weights.layout.window)

    def sequence(self, images: NDArray[Any], spec: PatchEmbedSpec) -> NDArray[np.float64]:
        """What enters the encoder, `(B, prefix + N, D)`, of images of whose map `spec` is."""
        features = apply_stem(images.astype(np.float64), self.stem)
        return np.asarray(embed_sequence(features, self.weights.astype(np.float64), spec))


def read_stage(
    checkpoint: Checkpoint,
    dialect: str | None = None,
    prefix: str | None = None,
    dialects: Mapping[str, Dialect] | None = None,
    sizes: Sizes | None = None,
    ignore: Sequence[str] = (),
) -> Stage:
    """Read the embedding stage of a checkpoint; only its tensors are read.

    Args:
        checkpoint: an open one.
        dialect: id, where it is known; None to find out.
        prefix: what stands before all names, where several stages are there.
        dialects: those to try; None for all.
        sizes: what is known of the sizes.
        ignore: names, or patterns of the shell's kind, of tensors that play no part although
            nothing explains them.

    Raises:
        PatchParityError: a checkpoint without one, an ambiguous one, one with a tensor that nothing
            explains or evidence that contradicts its tensors, tensors that are damaged or hold NaN.
    """
    checkpoint = unwrapped(checkpoint)
    known = list_dialects() if dialects is None else dialects
    chosen = {dialect: get_dialect(dialect, known)} if dialect else known
    candidates = find_candidates(checkpoint, chosen, prefix, sizes, ignore=ignore)
    if not candidates or candidates[0].refusals:
        require_grid(checkpoint, chosen, prefix, sizes, ignore)
    if (
        prefix is not None
        and not candidates
        and find_candidates(checkpoint, chosen, None, sizes, gridless=True)
    ):
        others = ", ".join(
            dict.fromkeys(
                repr(candidate.prefix)
                for candidate in find_candidates(checkpoint, chosen, None, sizes, gridless=True)
            )
        )
        raise PatchParityError(
            f"{checkpoint.path} holds no embedding stage under the prefix {prefix!r}; there is one "
            f"under {others}"
        )
    if dialect and not candidates:
        wanted = chosen[dialect]
        if not wanted.may_be_in(checkpoint.kept_as):
            raise PatchParityError(
                f"{checkpoint.path} is of format {checkpoint.format}, and {dialect} is kept in "
                f"{', '.join(wanted.formats)}"
            )
        names = ", ".join(
            f"{entry.name} ({entry.layout})"
            for name, entry in wanted.entries.items()
            if name in wanted.required
        )
        raise PatchParityError(
            f"{checkpoint.path} does not hold {dialect}: expected {names}, with shapes that fit "
            f"together{_misfits(checkpoint, wanted)}"
        )
    if candidates:
        require_no_adapter(checkpoint, candidates[0].names)
    require_first_stage(checkpoint, chosen, candidates)
    chosen_one = choose(checkpoint, candidates)
    if prefix is None:
        require_no_other_stage(checkpoint, chosen, chosen_one, sizes, ignore)
    require_asked(checkpoint, chosen_one, sizes)
    return _read(checkpoint, chosen_one)


def _misfits(checkpoint: Checkpoint, dialect: Dialect) -> str:
    """The tensors that a dialect names and that have another shape than it gives them."""
    misfits = []
    for entry in dialect.entries.values():
        for name, info in checkpoint.tensors.items():
            before = name.removesuffix(entry.name)
            named = name.endswith(entry.name) and (not before or before[-1] in (".", "/"))
            if named and entry.sizes(info.shape, {}) is None:
                misfits.append(f"{name} is of shape {tuple(info.shape)}, not ({entry.layout})")
    return f"; {', '.join(misfits)}" if misfits else ""


def _read(checkpoint: Checkpoint, candidate: Candidate) -> Stage:
    """Read the tensors of a candidate into canonical weights."""
    dialect = candidate.dialect
    arrays = _arrays(checkpoint, candidate)
    stem = tuple(
        _stem_layer(arrays, place, step, dialect.batch_norm_epsilon)
        for place, step in enumerate(dialect.stem)
    )
    spec = _spec_of(checkpoint, candidate)
    norms = _norms_of(arrays, dialect)
    fold_positions(checkpoint, candidate, arrays, spec)
    fold_normalizations(checkpoint, candidate, arrays)
    if "register_tokens" in arrays and not len(arrays["register_tokens"]):
        del arrays["register_tokens"]  # a table of no rows: there are none
    config = known_of(checkpoint, None)
    layout = SequenceLayout(
        dialect.prefix,
        dialect.prefix_side,
        candidate.positioned,
        dialect.token_order,
        epsilon_of(dialect, config),
        candidate.window,
        dialect.suffix,
    )
    fields: dict[str, Any] = {**arrays, **norms}
    weights = PatchEmbedWeights(**fields, layout=layout)
    weights.check_spec(spec)
    return Stage(
        candidate,
        weights,
        spec,
        bool(candidate.grid),
        arrays["kernel"].dtype.name,
        stem,
        _notes(checkpoint, candidate),
        checkpoint.names if isinstance(checkpoint, UnwrappedCheckpoint) else {},
        not (config.model_type if dialect.epsilon_of_config else config.architecture)
        and "own_epsilon" not in config.table
        and not (dialect.epsilon_of_config and config.norm_epsilon is not None)
        and (dialect.epsilon_of_config or bool(dialect.architectures)),
        dialect.plain and dialect.framework == "keras" and checkpoint.format == "h5",
        config.model_type or config.architecture,
    )


TIMM_EPSILON = 1e-6
"""ε of timm's own norm layers, which a model has that says nothing else."""


def epsilon_of(dialect: Dialect, config: Sizes) -> float:
    """ε of the norms of a stage: that of a program that is in the file, of config.json, of timm's
    model of that name, or of the dialect."""
    if isinstance(own := config.table.get("own_epsilon"), float):
        return own
    if dialect.epsilon_of_config and config.norm_epsilon is not None:
        return config.norm_epsilon
    for pattern, epsilon in dialect.epsilons.items():
        if re.fullmatch(pattern, config.architecture or ""):
            return epsilon
    if dialect.epsilon_names and config.architecture:
        given = any(config.table.get(name) is not None for name in dialect.epsilon_arguments)
        named = any(re.fullmatch(pattern, config.architecture) for pattern in dialect.epsilon_names)
        return dialect.norm_epsilon if named and not given else TIMM_EPSILON
    return dialect.norm_epsilon


def _arrays(checkpoint: Checkpoint, candidate: Candidate) -> dict[str, NDArray[Any]]:
    """The tensors of a candidate in canonical axes, by field.

    Raises:
        PatchParityError: one that is of no type of weights, or holds NaN or infinite values.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, tensor in candidate.names.items():
        array = checkpoint.read(tensor)
        kind = array.dtype.name
        if kind not in DTYPES and (name != "position_ids" or array.dtype.kind not in "iu"):
            quantized = "quantized: dequantize it first"
            why = quantized if kind in QUANTIZED else "no type of weights"
            raise PatchParityError(f"{checkpoint.path}: {tensor} is of dtype {kind}, {why}")
        if not np.isfinite(array).all():
            raise PatchParityError(f"{checkpoint.path}: {tensor} holds NaN or infinite values")
        sizes = {} if name.startswith("stem.") else candidate.sizes
        arrays[name] = to_canonical(array, candidate.dialect.entries[name], sizes)
    return arrays


def _spec_of(checkpoint: Checkpoint, candidate: Candidate) -> PatchEmbedSpec:
    """The sizes of what the projection takes; where nothing tells the grid, of a few patches.

    Raises:
        PatchParityError: a grid of which an image would take more memory than anybody has.
    """
    dialect, sizes = candidate.dialect, candidate.sizes
    patch = (sizes["Pt"], sizes["Ph"], sizes["Pw"]) if dialect.video else (sizes["Ph"], sizes["Pw"])
    few = (2, 4) if dialect.token_order == "merge-2x2" else (2, 3)
    grid = candidate.grid or ((1, *few) if dialect.video else few)
    step, pads = candidate.stride, candidate.padding
    image = tuple(
        max((count - 1) * by + size - 2 * pad, 1)
        for count, by, size, pad in zip(grid, step, patch, pads, strict=True)
    )
    remainder: Any = dialect.remainder
    spec = PatchEmbedSpec(image, patch, sizes["C"], sizes["D"], step, pads, remainder)
    if (values := math.prod(spec.images_shape(1))) > LARGEST_IMAGE:
        raise PatchParityError(
            f"{checkpoint.path} has positions for a grid of {'×'.join(map(str, grid))}: images of "
            f"{values} values, expected at most {LARGEST_IMAGE}"
        )
    return spec


def _norms_of(arrays: dict[str, NDArray[Any]], dialect: Dialect) -> dict[str, LayerNorm]:
    """The norms, taken out of the arrays."""
    return {
        norm: LayerNorm(
            arrays.pop(f"{norm}.scale"), arrays.pop(f"{norm}.shift", None), norm not in dialect.rms
        )
        for norm in NORMS
        if f"{norm}.scale" in arrays
    }


def _notes(checkpoint: Checkpoint, candidate: Candidate) -> tuple[str, ...]:
    """What was done to a tensor on reading it, and where a copy of a field holds other values than
    the field."""
    sentences = in_sentences(checkpoint.told, candidate.names.values())
    for entry in candidate.ledger:
        original_name = candidate.names.get(entry.role, "") if entry.status == "copy" else ""
        if not original_name or checkpoint.tensors[original_name].shape != entry.shape:
            continue
        if not np.array_equal(checkpoint.read(original_name), checkpoint.read(entry.name)):
            sentences.append(
                f"{entry.name} holds other {entry.role} than {original_name}, and its library "
                f"takes those of {original_name} when it loads the file"
            )
    return tuple(sentences)


def _stem_layer(
    arrays: dict[str, NDArray[Any]], place: int, step: StemStep, epsilon: float
) -> StemLayer:
    """One layer of the stem, out of the arrays that were read."""
    kernel, bias = arrays.pop(f"stem.{place}.kernel"), arrays.pop(f"stem.{place}.bias", None)
    if step.norm:
        held = [arrays.pop(f"stem.{place}.{part}") for part in BATCH_NORM]
        kernel, bias = fold_batch_norm(kernel, bias, held, epsilon)
    return StemLayer(kernel, bias, step.stride, step.padding, step.activation)


def require_no_stem(checkpoint: Checkpoint, stage: Stage) -> None:
    """Raise PatchParityError for a stage with a stem, where the projection alone would be moved."""
    if stage.stem:
        kernel = stage.candidate.names["kernel"].removesuffix("weight")
        raise PatchParityError(
            f"{checkpoint.path} is {stage.candidate.label}, with {len(stage.stem)} convolutions in "
            "front of its projection: these are read "
            f"(inspect, embed, verify), and not moved (--from oihw --prefix '{kernel}' moves the "
            "projection alone)"
        )


def without(weights: PatchEmbedWeights, *names: str) -> PatchEmbedWeights:
    """The same weights without some fields."""
    return dataclasses.replace(weights, **dict.fromkeys(names, None))  # type: ignore[arg-type]
