"""`python -m tests.encoder_dialects`: the table of mistakes over all dialects in docs/encoder.md,
made anew; outside CI, which makes some of its rows. A test holds the page to the record.

Of each dialect there is a model, written by a port from a model of a library. A mistake that can be
told by weights is written into a copy of its file, in that dialect, which the dialect's own library
then builds and runs; other mistakes, and those of dialects without a library here, are made in the
NumPy encoder. What comes of it is held against the right file.
"""

import argparse
import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchparity.porting.dialects.catalogue import get_dialect
from patchparity.porting.dialects.sizes import Sizes
from patchparity.porting.encoders.canonical import block_of, ends_of
from patchparity.porting.encoders.found import Part
from patchparity.porting.files.atomic import write_json
from patchparity.porting.files.opening import opened
from patchparity.porting.files.streamed import write_streamed
from patchparity.porting.model_diagnosis import diagnose_model
from patchparity.porting.proof.own_model import UnprovedError
from patchparity.porting.proof.whole import with_small
from patchparity.porting.proof.whole_models import library_model
from patchparity.porting.whole.fit import fit_whole
from patchparity.porting.whole.read import read_whole, side_of, source_model, whole_table
from patchparity.porting.whole.tensors import tensors_of_whole
from patchparity.reference.diagnosis.encoder import (
    EncoderDiagnosis,
    MeasuredBlocks,
    diagnose_encoder,
)
from patchparity.reference.encoder import encode_block
from patchparity.reference.encoder_case import EncoderCase, alike
from patchparity.reference.encoder_error import expect_block, expect_end, judge_block
from patchparity.reference.encoder_mistakes import ENCODER_CATALOGUE
from patchparity.reference.encoder_weights import Attention, Block, EncoderWeights, Mlp
from patchparity.reference.weights import LayerNorm

from .encoder_kills import PAGE, named_rightly, replaced
from .porting.whole_models import SIDE, vit_pytorch
from .porting.whole_pairs import Form, families

RECORD = PAGE.parent / "encoder_dialects.json"
PLACE = 1
"""The block of two in which mistakes of one block are made."""

Arrays = dict[str, NDArray[Any]]


def arrays_of(weights: EncoderWeights) -> Arrays:
    """Canonical arrays by name, of all that is there."""
    held: dict[str, NDArray[Any] | None] = {}
    for number, block in enumerate(weights.blocks):
        held |= _of_block(f"blocks.{number}.", block)
    held |= _of_norm("final_norm", weights.final_norm) | _of_norm(
        "pooled_norm", weights.pooled_norm
    )
    for name, linear in (("pooler", weights.pooler), ("head", weights.head)):
        if linear is not None:
            held |= {f"{name}.weight": linear.weight, f"{name}.bias": linear.bias}
    if (pool := weights.pool) is not None:
        held |= {"pool.probe": pool.probe, **_of_attention("pool.", pool.attention)}
        held |= _of_norm("pool.norm", pool.norm)
        if pool.mlp is not None:
            held |= _of_mlp("pool.", pool.mlp)
    return {name: array for name, array in held.items() if array is not None}


def _of_block(at: str, block: Block) -> dict[str, NDArray[Any] | None]:
    return {
        **_of_norm(f"{at}first_norm", block.first_norm),
        **_of_attention(at, block.attention),
        **_of_norm(f"{at}second_norm", block.second_norm),
        **_of_mlp(at, block.mlp),
        f"{at}first_scale": block.first_scale,
        f"{at}second_scale": block.second_scale,
    }


def _of_norm(at: str, norm: LayerNorm | None) -> dict[str, NDArray[Any] | None]:
    return {} if norm is None else {f"{at}.scale": norm.scale, f"{at}.shift": norm.shift}


def _of_attention(at: str, attention: Attention) -> dict[str, NDArray[Any] | None]:
    held: dict[str, NDArray[Any] | None] = {}
    for name in ("query", "key", "value", "out"):
        linear = getattr(attention, name)
        held |= {f"{at}{name}.weight": linear.weight, f"{at}{name}.bias": linear.bias}
    norms = {"query_norm": attention.query_norm, "key_norm": attention.key_norm}
    for name, norm in norms.items():
        held |= _of_norm(at + name, norm)
    return held


def _of_mlp(at: str, mlp: Mlp) -> dict[str, NDArray[Any] | None]:
    held: dict[str, NDArray[Any] | None] = {}
    for name, linear in (("gate", mlp.gate), ("up", mlp.up), ("down", mlp.down)):
        if linear is not None:
            held |= {f"{at}{name}.weight": linear.weight, f"{at}{name}.bias": linear.bias}
    return held | _of_norm(f"{at}mlp_norm", mlp.norm)


@dataclass(frozen=True)
class Trial:
    """A mistake in a model of one dialect, and what was said of it.

    Args:
        mistake: its id.
        place: the block in which it was made; None for all, or for what sits in none.
        library: whether the dialect's own library ran it.
        unseen: whether the bounds of the right model cover what it does in exact arithmetic.
        rejected, named, alone: what was said.
    """

    mistake: str
    place: int | None
    library: bool
    unseen: bool
    rejected: bool
    named: bool
    alone: bool


class Subject:
    """A right model of one dialect, open."""

    def __init__(
        self,
        dialect: str,
        form: Form,
        files: contextlib.ExitStack,
        sizes: Sizes | None = None,
    ) -> None:
        self.form = form
        self.whole = read_whole(
            files.enter_context(opened(form.file)),
            from_=dialect,
            sizes=sizes,
            semantics=form.told,
        )
        self.moved = fit_whole(self.whole, get_dialect(dialect))
        self.side = side_of(self.whole)
        blocks = (block_of(self.side.parts, n, self.side.rms) for n in range(self.side.depth))
        ends = ends_of(self.side.parts, self.side.rms)
        self.weights = dataclasses.replace(ends, blocks=tuple(blocks))
        self.given, self.bounds = self._expected()
        self.end = expect_end(
            self.given[-1], dataclasses.replace(ends, blocks=()), self.side.spec, dtype="float32"
        )
        self.builds = sizes is None and self._is_built(form.file)

    def _is_built(self, file: Path) -> bool:
        """Whether the library of its class is here and builds it."""
        with opened(file) as held:
            try:
                name = source_model(self.whole).name
                library_model(name, file, held.format, whole_table(self.whole), False)
            except UnprovedError:
                return False
        return True

    def case(self, place: int | None) -> EncoderCase:
        """The right program."""
        return EncoderCase.of(self.weights, self.side.spec, self.side.places, place)

    def _expected(self) -> tuple[list[NDArray[Any]], list[Any]]:
        """What each block and the end are given, and the bound of each block."""
        images, bounds = self.side.images(), []
        given = [with_small(self.side.stage.sequence(images, self.side.stage.spec))]
        for block in self.weights.blocks:
            tokens = given[-1].astype(np.float64)
            bounds.append(
                expect_block(tokens, block, self.side.spec, self.side.places, dtype="float32")
            )
            left = encode_block(tokens, block, self.side.spec, self.side.places)
            given.append(with_small(left))
        return given, bounds

    def unseen(self, wrong: EncoderCase) -> bool:
        """Whether no bound of the right model can see what a mistake does."""
        true = self.case(None)
        if len(wrong.blocks) != len(true.blocks):
            return False
        pairs = zip(self.given, true.blocks, wrong.blocks, self.bounds, strict=False)
        for tokens, here, there, bound in pairs:
            if not alike(here, there) and judge_block(there.run(tokens.astype("f8")), bound) > 1:
                return False
        if alike(wrong.end, true.end):
            return True
        made = wrong.end.run(self.given[-1].astype("f8"))
        return all(
            (values := getattr(made, part)) is not None and judge_block(values, bound) <= 1
            for part, bound in self.end.items()
        )

    def in_weights(self, wrong: EncoderCase) -> Arrays | None:
        """The arrays of a wrong program where they tell all of it; None where its spec or places,
        or which arrays there are, are other ones."""
        true = self.case(None)
        if len(wrong.blocks) != len(true.blocks):
            return None
        blocks = tuple(
            dataclasses.replace(there, block=here.block)
            for here, there in zip(true.blocks, wrong.blocks, strict=True)
        )
        behind = dataclasses.replace(wrong.end, weights=true.end.weights)
        if not alike(blocks, true.blocks) or not alike(behind, true.end):
            return None
        weights = dataclasses.replace(
            wrong.end.weights, blocks=tuple(each.block for each in wrong.blocks)
        )
        arrays, held = arrays_of(weights), arrays_of(self.weights)
        same = {n: a.shape for n, a in arrays.items()} == {n: a.shape for n, a in held.items()}
        other = same and any((array != held[name]).any() for name, array in arrays.items())
        return arrays if other else None  # RMSNorm for LayerNorm is in no weight

    def written(self, arrays: Arrays, folder: Path) -> Path:
        """A copy of its file that holds other weights, in the same dialect."""
        parts = {
            name: Part(part.shape, part.dtype, _reading(arrays[name], part.dtype))
            if name in arrays
            else part
            for name, part in self.moved.state.parts.items()
        }
        state = dataclasses.replace(self.moved.state, parts=parts)
        tensors = tensors_of_whole(self.whole, dataclasses.replace(self.moved, state=state), None)
        file = folder / self.form.file.name
        write_streamed(file, tensors, companions=self.form.beside)
        return file

    def said_of(self, wrong: EncoderCase) -> tuple[EncoderDiagnosis, bool]:
        """What is said of a wrong program, and whether the library ran it."""
        arrays = self.in_weights(wrong) if self.builds else None
        if arrays is not None:
            with tempfile.TemporaryDirectory() as name:
                file = self.written(arrays, Path(name))
                report = diagnose_model(file, self.form.file, semantics=self.form.told)
            assert report.embedding.verdict == report.between.verdict == "pass", report.lines()
            return report.encoder, True
        left = [
            case.run(tokens.astype(np.float32))
            for case, tokens in zip(wrong.blocks, self.given, strict=False)
        ]
        end = wrong.end.run(self.given[-1].astype(np.float32))
        blocks = MeasuredBlocks(
            tuple(self.given[: len(left)]), tuple(left), self.given[-1],
            end.tokens, end.pooled, end.output,
        )  # fmt: skip
        return diagnose_encoder(
            blocks, self.weights, self.side.spec, self.side.places, dtype="float32", pairs=False
        ), False

    def trials(self, names: Mapping[str, Any] | None = None) -> Iterator[Trial]:
        """Every mistake, in all blocks and in one."""
        for mistake in ENCODER_CATALOGUE.values():
            if names is not None and mistake.id not in names:
                continue
            for place in (None, PLACE) if mistake.of_block else (None,):
                wrong = mistake.make(self.case(place))
                if wrong is None:
                    continue
                said, library = self.said_of(wrong)
                named, alone = named_rightly(said, mistake, self.case(None), wrong)
                yield Trial(
                    mistake.id, place, library, self.unseen(wrong), not said.correct, named, alone
                )


def _reading(array: NDArray[Any], dtype: str) -> Any:
    return lambda: np.asarray(array).astype(dtype)


@contextlib.contextmanager
def subjects() -> Iterator[Iterator[tuple[str, str, Subject]]]:
    """A model of each dialect that models are ported to: of the first kind that it takes."""
    with families() as (made, _), contextlib.ExitStack() as files:

        def each() -> Iterator[tuple[str, str, Subject]]:
            seen = set()
            for family in made.values():
                for dialect, form in family.forms.items():
                    if dialect not in seen:
                        seen.add(dialect)
                        yield dialect, family.kind.id, Subject(dialect, form, files)
            if SIMPLE not in seen:
                form = _simple(Path(files.enter_context(tempfile.TemporaryDirectory())) / "simple")
                sizes = Sizes.told(image_size=SIDE)
                yield SIMPLE, "simple", Subject(SIMPLE, form, files, sizes)

        yield each()


SIMPLE = "lucidrains-simple"
"""The one dialect that is read only where it is named, for other models have its names, and the
size of its images told."""


def _simple(folder: Path) -> Form:
    """A model of it, which no other layout holds."""
    vit_pytorch("SimpleViT")(folder)
    beside = {"config.json": (folder / "config.json").read_bytes()}
    return Form(folder / "model.pt", {}, beside, None, {})


def counted(dialect: str, kind: str, subject: Subject) -> dict[str, Any]:
    """The row of a dialect."""
    tried = list(subject.trials())
    right, _ = subject.said_of(subject.case(None))
    missed = [trial for trial in tried if not trial.unseen and not (trial.rejected and trial.named)]
    return {
        "dialect": dialect,
        "kind": kind,
        "library": source_model(subject.whole).name if subject.builds else "",
        "by_library": sum(trial.library for trial in tried),
        "by_numpy": sum(not trial.library for trial in tried),
        "unseen": sum(trial.unseen for trial in tried),
        "rejected": sum(trial.rejected for trial in tried if not trial.unseen),
        "named": sum(trial.named for trial in tried if not trial.unseen),
        "alone": sum(trial.alone for trial in tried if not trial.unseen),
        "false_alarm": not right.correct,
        "missed": sorted({f"{trial.mistake} in {trial.place}" for trial in missed}),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The record as Markdown, a line for each dialect and one for all."""
    titles = (
        "dialect", "run by", "wrong models", "run by the library", "unseen by any bound",
        "rejected of the others", "named with the right block", "named alone", "false alarms",
    )  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    lines += [
        _line(f"`{row['dialect']}`", row["library"] or "the NumPy encoder", [row]) for row in rows
    ]
    return "\n".join([*lines, _line("all", "", rows)])


def _line(name: str, library: str, rows: list[dict[str, Any]]) -> str:
    total = {key: sum(row[key] for row in rows) for key in NUMBERS}
    made = total["by_library"] + total["by_numpy"]
    seen = made - total["unseen"]
    shares = [f"{total[key]} ({total[key] / seen:.1%})" for key in ("rejected", "named", "alone")]
    cells = [
        name, library, made, total["by_library"], total["unseen"], *shares, total["false_alarm"],
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


NUMBERS = ("by_library", "by_numpy", "unseen", "rejected", "named", "alone", "false_alarm")


def main() -> None:
    """Write the record and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help="make the table of the record alone")
    if not parser.parse_args().page:
        rows = []
        with subjects() as made:
            for dialect, kind, subject in made:
                rows.append(counted(dialect, kind, subject))
                print(rows[-1], flush=True)
        write_json(RECORD, {"rows": rows})
    rows = json.loads(RECORD.read_text(encoding="utf-8"))["rows"]
    text = replaced(PAGE.read_text(encoding="utf-8"), "dialects", table(rows))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
