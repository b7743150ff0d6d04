"""A whole model against the checkpoint, or the model, that it should compute, block by block: each
block is fed with the reference's own input, so that the first wrong thing is named."""

import collections
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference.answer import Answer
from ..reference.diagnosis.encoder import EncoderDiagnosis, MeasuredBlocks, diagnose_encoder
from ..reference.encoder import encode_block
from ..reference.encoder_weights import EncoderWeights
from ..reference.errors import PatchParityError
from .dialects.fit import cast
from .dialects.sizes import Sizes
from .encoders.canonical import block_of, ends_of
from .encoders.found import Part
from .files.checkpoint import Checkpoint, dtype_of
from .files.opening import opened
from .files.tree import TreeCheckpoint
from .objects.blocks import BlockRun, run_blocks
from .objects.frameworks import framework_of
from .objects.layer_sizes import image_size_of
from .objects.load import load_object
from .objects.semantics import read_semantics
from .proof.compare import Check
from .proof.own_model import OtherModelError, UnprovedError
from .proof.whole import Side, entering, with_small
from .proof.whole_models import library_model
from .whole.read import WholeModel, heads_left, read_whole, side_of, source_model, whole_table


@dataclass(frozen=True, repr=False)
class ModelDiagnosis(Answer):
    """What is wrong with a whole model.

    Args:
        model, reference: what was held against what.
        semantics: what no tensor of the reference says, and where it was read, in sentences.
        embedding: whether the sequence that enters the first block is right.
        between: whether each block is given what the one before it made.
        encoder: what the blocks and the end make of the reference's own tokens.
    """

    model: str
    reference: str
    semantics: tuple[str, ...]
    embedding: Check
    between: Check
    encoder: EncoderDiagnosis

    @property
    def correct(self) -> bool:
        """Whether all of it is."""
        passed = self.embedding.verdict == self.between.verdict == "pass"
        return passed and self.encoder.correct

    @property
    def ok(self) -> bool:
        """The same."""
        return self.correct

    def lines(self) -> list[str]:
        """The first wrong thing first, how to mend it, and how far off each block is."""
        over = self.encoder.evidence.get("over", ())
        shares = ", ".join(f"{share:.2g}" for share in over)
        return [
            f"{self.model} against {self.reference}",
            *self.semantics,
            *self._of_embedding(),
            *([] if self.between.verdict == "pass" else [self.between.line()]),
            *self.encoder.lines(),
            f"blocks 0 to {len(over) - 1}, as shares of their bounds: {shares}",
        ]

    def _of_embedding(self) -> list[str]:
        hint = "mend: `patchparity diagnose` of the embedding alone names its mistake"
        wrong = self.embedding.verdict != "pass"
        return [self.embedding.line(), *([hint] if wrong else [])]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "schema": "patchparity.model-diagnosis/1",
            "ok": self.correct,
            "model": self.model,
            "reference": self.reference,
            "semantics": list(self.semantics),
            "embedding": dataclasses.asdict(self.embedding),
            "between": dataclasses.asdict(self.between),
            "encoder": self.encoder.to_dict(),
        }


def diagnose_model(
    model: Any,
    reference: Any,
    *,
    from_: str | None = None,
    prefix: str | None = None,
    sizes: Sizes | None = None,
    semantics: Mapping[str, Any] | None = None,
    images: NDArray[Any] | None = None,
    tower: str | None = None,
    ignore: Sequence[str] = (),
    dialects: Iterable[str | os.PathLike[str]] = (),
) -> ModelDiagnosis:
    """Say what is wrong with a whole model: which block, and which known mistake explains it.

    Args:
        model: a live one (torch, Keras, Flax), `MODULE:ATTRIBUTE`, or a checkpoint with its
            configuration, which its own library builds.
        reference: the checkpoint that it should compute, or a live torch model.
        from_, prefix, sizes, ignore, dialects: of the reference, as in `port_whole`.
        semantics: what no tensor of the reference says and no configuration tells: `num_heads`,
            `norm_epsilon`, `activation`, `pooling`.
        images: shape `(B, C, H, W)`, float32; None for two of our own, of the reference's size.
        tower: how the names of the model's blocks begin, where it has several towers.

    Raises:
        PatchParityError: a reference that is not whole, a model that cannot be run block by block,
            another number of blocks.

    Examples:
        >>> import transformers, patchparity
        >>> sizes = dict(image_size=16, patch_size=8, hidden_size=24, num_attention_heads=3)
        >>> config = transformers.ViTConfig(num_hidden_layers=2, intermediate_size=40, **sizes)
        >>> model = transformers.ViTModel(config)
        >>> model.save_pretrained("vit")
        >>> patchparity.diagnose_model(model, "vit").correct
        True
        >>> query = model.layers[1].attention.q_proj.weight
        >>> query.data = query.data.T.contiguous()
        >>> patchparity.diagnose_model(model, "vit").encoder.findings[0].explanation
        'block 1: q is not transposed'
    """
    told = dict(semantics or {})
    with _opened(reference) as file:
        if isinstance(file, TreeCheckpoint):
            told = {**_of_live(reference, tower), **told}
            sizes = sizes or _sizes_of(reference)
        whole = read_whole(
            file,
            from_=from_,
            prefix=prefix,
            sizes=sizes,
            semantics=told,
            ignore=ignore,
            dialects=dialects,
        )
        live, name = _live(model)
        kind, side = _narrow(live), side_of(whole)
        if kind:
            side = _rounded(side, kind)
        found = _diagnosed(live, name, side, whole, images, tower, "float32" if kind else None)
    if kind:
        note = (
            f"read weights of the model in {kind}: those of the reference are rounded to it too, "
            "and both are run in float32"
        )
        found = dataclasses.replace(found, semantics=(*found.semantics, note))
    return found


def _opened(reference: Any) -> AbstractContextManager[Checkpoint]:
    if isinstance(reference, str | os.PathLike):
        return opened(reference)
    state = getattr(reference, "state_dict", None)
    if state is None:
        raise PatchParityError(
            f"{type(reference).__name__} as reference: expected a checkpoint, or a torch model"
        )
    return TreeCheckpoint(state())


def _of_live(model: Any, tower: str | None) -> dict[str, Any]:
    """What a live model says of itself, as far as a reading asks for it."""
    said = read_semantics(model, tower)
    names = ("num_heads", "norm_epsilon", "activation", "pooling")
    return {name: said[name] for name in names if said.get(name) is not None}


def _sizes_of(model: Any) -> Sizes | None:
    """The size of the images that a live torch model takes, which no tensor of it says unless the
    grid is square; None where it does not say so either."""
    size = image_size_of(model, "torch")
    return None if size is None else Sizes.told(image_size=size)


def _live(model: Any) -> tuple[Any, str]:
    """A live model, and what it is called.

    Raises:
        PatchParityError: a file of which no library builds a model.
    """
    if not isinstance(model, str | os.PathLike):
        return model, type(model).__name__
    if not Path(model).exists():
        return load_object(str(model)), str(model)
    with opened(model) as file:
        whole = read_whole(file)
        try:
            built = library_model(
                source_model(whole).name, file.path, file.format, whole_table(whole), False
            )
        except (UnprovedError, OtherModelError) as error:
            raise PatchParityError(f"{model}: {error}") from None
    return built.model, f"{model} in {built.name}"


NARROW = ("bfloat16", "float16")
"""Types whose rounding hides which activation or ε a model has: its weights are run in float32."""


def _narrow(model: Any) -> str:
    """The 16-bit type in which a torch model keeps most of its weights; empty for none."""
    parameters = getattr(model, "parameters", None)
    if framework_of(model) != "torch" or parameters is None:
        return ""
    counts = collections.Counter[str]()
    for each in parameters():
        counts[str(each.dtype).removeprefix("torch.")] += each.numel()
    kind = max(counts, key=counts.__getitem__, default="")
    return kind if kind in NARROW else ""


def _rounded(side: Side, kind: str) -> Side:
    """The same weights, rounded to a type."""

    def part_of(part: Part) -> Part:
        return Part(part.shape, kind, lambda: part.read().astype(dtype_of(kind)))

    stage = dataclasses.replace(side.stage, weights=cast(side.stage.weights, kind))
    parts = {name: part_of(part) for name, part in side.parts.items()}
    return dataclasses.replace(side, stage=stage, parts=parts)


def _diagnosed(
    model: Any,
    name: str,
    side: Side,
    whole: WholeModel,
    images: NDArray[Any] | None,
    tower: str | None,
    dtype: str | None,
) -> ModelDiagnosis:
    given = side.images() if images is None else np.asarray(images, np.float32)
    if images is not None:
        given = np.concatenate([given, given[:1]])  # once more, to be made small
    blocks = tuple(block_of(side.parts, number, side.rms) for number in range(side.depth))
    fed: list[NDArray[Any]] = []
    owned: list[NDArray[Any]] = []

    def feed(number: int, own: NDArray[Any]) -> NDArray[Any]:
        owned.append(np.array(own, np.float64))
        if number == 0:
            tokens = side.stage.sequence(given, side.stage.spec)
        elif number < len(blocks):
            before = fed[-1].astype(np.float64)
            tokens = encode_block(before, blocks[number - 1], side.spec, side.places)
        else:
            tokens = own
        if tokens.shape != own.shape:
            raise PatchParityError(
                f"{name} gives tokens of shape {own.shape} to block {number}, and the reference "
                f"{tokens.shape}"
            )
        fed.append(with_small(tokens))
        return fed[-1]

    run = run_blocks(model, given, given=feed, prefix=tower, dtype=dtype)
    if len(run.left) != side.depth:
        raise PatchParityError(
            f"{name} has {len(run.left)} blocks, and {whole.checkpoint.path} {side.depth}"
        )
    ends = ends_of(side.parts, side.rms)
    weights = dataclasses.replace(ends, blocks=blocks)
    encoder = diagnose_encoder(
        _measured(run, fed, ends, not heads_left(whole.found)),
        weights,
        side.spec,
        side.places,
        dtype="float32",
    )
    return ModelDiagnosis(
        name,
        f"{whole.checkpoint.path} ({whole.found.layout.title})",
        tuple(whole.semantics.lines()),
        entering(side, run, given, name),
        _between(owned, run.left, name),
        encoder,
    )


def _between(owned: list[NDArray[Any]], left: list[NDArray[Any]], name: str) -> Check:
    """Hold what each block would be given against what the block before it made."""
    for number, (own, before) in enumerate(zip(owned[1:], left[:-1], strict=True), 1):
        wide = before.astype(np.float64)
        if own.shape != wide.shape or not np.allclose(own, wide, rtol=UNCHANGED, atol=0):
            apart = float(np.linalg.norm(own - wide) / (np.linalg.norm(wide) + 1e-300))
            return Check(
                "between blocks",
                "fail",
                apart,
                f"{name} changes the tokens between blocks {number - 1} and {number}, by "
                f"{apart:.1e} of their size",
            )
    return Check("between blocks", "pass", 0.0, "each is given what the one before it made")


UNCHANGED = 2.0**-7
"""Relative difference of a number that was only rounded on its way, to bfloat16 at most."""


def _measured(
    run: BlockRun, fed: list[NDArray[Any]], ends: EncoderWeights, own_head: bool
) -> MeasuredBlocks:
    """What was seen, of the end only what the reference has too."""
    if not own_head:
        return MeasuredBlocks(tuple(fed), tuple(run.left), run.left[-1], run.tokens)
    return MeasuredBlocks(
        tuple(fed),
        tuple(run.left),
        run.left[-1],
        run.tokens,
        run.pooled,
        run.output if ends.head is not None else None,
    )
