"""The proof of a whole port: what was written is read again, and both sides are run."""

import dataclasses
import math
from pathlib import Path

from ...reference.weights import PatchEmbedWeights
from ..dialects.fit import cast, same_bits
from ..dialects.stage import Stage
from ..encoders.semantics import SEMANTICS, Semantics
from ..encoders.semantics import TOLD as TOLD_BY_USER
from ..encoders.state import ENDS
from ..files.checkpoint import Checkpoint
from ..files.opening import opened
from ..proof.compare import UNITS, Check
from ..proof.moved import named
from ..proof.whole import Side, change_of, prove_by_library, prove_read_back, prove_same_function
from .fit import MovedModel
from .read import WholeModel, heads_left, read_whole, side_of, source_model, whole_table


def prove_port(
    file: Checkpoint,
    whole: WholeModel,
    moved: MovedModel,
    draft: Path,
    dtype: str | None,
    prove: bool,
) -> list[Check]:
    """What was written, read again as anybody would read it, and both sides run."""
    semantics, model = moved.state.semantics, moved.target.model
    with opened(draft) as written:
        told = {} if model.file else {name: semantics[name] for name in TOLD}
        back = read_whole(
            written,
            from_=moved.dialect.id,
            sizes=whole.stage.sizes if whole.stage.size_known else None,
            semantics=told,
        )
        checks = [
            _stage_reads_back(cast(moved.weights, dtype), back.stage),
            prove_read_back(moved.state.parts, back.found.parts, prove),
            _semantics_read_back(semantics, back.semantics, bool(moved.state.losses)),
        ]
        if not prove or any(check.verdict == "fail" for check in checks):
            return checks
        kinds = [part.dtype for part in back.found.parts.values()]
        source, target = _both_sides(whole, back, semantics)
        if moved.state.losses:
            change = change_of(side_of(whole), target)
            words = f"what leaves the last block changes by {change:.1e} of its size"
            checks.append(Check("what is lost", "skip", None, words))
        coarsest = max([*kinds, back.stage.dtype], key=UNITS.__getitem__)
        checks.append(prove_same_function(source, target, coarsest))
        for side, held, name, weights, kind, complete in (
            ("source", whole, source_model(whole).name, file.path, file.format, False),
            ("target", back, model.name, draft, written.format, True),
        ):
            pooled = not held.semantics.origins.get("pooling", "").startswith(TOLD_BY_USER)
            own = pooled and not heads_left(held.found)
            whose = dataclasses.replace(side_of(held), own_head=own)
            proved = prove_by_library(whose, name, weights, kind, whole_table(held), complete)
            checks.append(named(proved, side))
    return checks


def _both_sides(whole: WholeModel, back: WholeModel, semantics: Semantics) -> tuple[Side, Side]:
    """Source and target of what both hold: without ends that the target has no place for."""
    source = side_of(whole, semantics.but(pairing=whole.semantics["pairing"]))
    target = side_of(back, semantics)
    held = back.found.held
    lost = {name for name in whole.found.held if name.split(".")[0] in ENDS and name not in held}
    parts = {name: part for name, part in source.parts.items() if name not in lost}
    source = dataclasses.replace(source, parts=parts)
    if "pool.probe" in lost:
        nothing = semantics.but(pooling="none")
        source = dataclasses.replace(
            source, semantics=nothing.but(pairing=whole.semantics["pairing"])
        )
        target = dataclasses.replace(target, semantics=nothing)
    return source, target


TOLD = ("num_heads", "norm_epsilon", "activation", "pooling")
"""What a user may tell of a file that has no configuration."""


def _stage_reads_back(meant: PatchEmbedWeights, back: Stage) -> Check:
    read = back.weights
    if back.dialect.computed and meant.positions is None:  # which no file of it holds
        read = dataclasses.replace(read, positions=None)
    if different := same_bits(meant, read):
        return Check("stage reads back", "fail", math.inf, f"{different[0]} reads back otherwise")
    return Check("stage reads back", "pass", 0.0, "the same bits")


def _semantics_read_back(meant: Semantics, back: Semantics, lost: bool) -> Check:
    """What no tensor says, as the written configuration says it."""
    name = "semantics read back"
    for key in SEMANTICS:
        differs = meant[key] != back[key]
        if key == "pooling" and "none" in (meant[key], back[key]):
            differs = False
        if key == "rotary_temperature" and not meant["rotary"]:
            differs = False
        if differs:
            return Check(
                name, "fail", math.inf, f"{SEMANTICS[key]} {meant[key]} reads back {back[key]}"
            )
    told = "as the target computes them, which is not as the source does" if lost else "the same"
    return Check(name, "pass", 0.0, told)
