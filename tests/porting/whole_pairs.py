"""All ordered pairs of layouts, for one tiny model of each kind: what a port makes of it, computed
by the target's library, against what the source's library computes."""

import contextlib
import dataclasses
import functools
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchparity.porting.dialects.catalogue import get_dialect, list_dialects
from patchparity.porting.files.opening import opened
from patchparity.porting.whole.fit import fit_whole, whole_targets
from patchparity.porting.whole.port import port_whole
from patchparity.porting.whole.read import WholeModel, read_whole
from patchparity.porting.whole.tensors import tensors_of_whole
from patchparity.reference.errors import PatchParityError

from .whole_models import KINDS, Kind, images
from .whole_oracles import oracle_of, reduced

TOLERANCE = 1e-6
"""Relative to the largest output: float32 rounds by 6e-8, and a step that multiplies rounds once
for each number of a matrix."""

WEIGHTS = (".safetensors", ".pt")
"""How the files of weights of the libraries' own models end."""

LOSSY = (
    "fold-",
    "drop-mask-token",
    "drop-key-bias",
    "pooled-norm-for-all",
    "norm-for-pooled-alone",
)
"""How steps begin that say that something is rounded, left out, or another after the way back."""

Tensors = dict[str, NDArray[Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """A model of a kind in one layout.

    Args:
        file: where it is.
        tensors: of it.
        beside: its other files.
        output: what its library makes of the images; None where no oracle is here.
        told: semantics that its file and what is beside it do not tell.
        failure: what its library said, where it does not load.
    """

    file: Path
    tensors: Tensors
    beside: dict[str, bytes]
    output: NDArray[Any] | None
    told: dict[str, Any]
    failure: str = ""


@dataclasses.dataclass(frozen=True)
class Pair:
    """What a port from one layout to another gave.

    Args:
        kind, source, target: ids.
        mark: `=` where the way back gives the bytes of the source; `+` where it gives them, and
            zeros or ones beside that change nothing; `≈` where a step rounds or leaves something
            out; empty where it was refused.
        error: how far the target's outputs are from the source's, relative; None where nothing was
            computed anew.
        reason: of a refusal.
        steps: that were told.
        failure: what went wrong, where something did.
    """

    kind: str
    source: str
    target: str
    mark: str
    error: float | None
    reason: str = ""
    steps: tuple[str, ...] = ()
    failure: str = ""

    @property
    def lossy(self) -> bool:
        """Whether a step says so."""
        return any(step.startswith(LOSSY) for step in self.steps)


def tensors_in(path: Path) -> Tensors:
    """All tensors of a checkpoint."""
    with opened(path) as file:
        return {name: np.array(file.view(name)) for name in file.tensors}


def same(one: Tensors, other: Tensors) -> bool:
    """Whether they have the same names and bytes."""
    return one.keys() == other.keys() and all(
        array.dtype == other[name].dtype
        and array.shape == other[name].shape
        and array.tobytes() == other[name].tobytes()
        for name, array in one.items()
    )


def error_of(output: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Largest difference, relative to the largest output."""
    assert output.shape == wanted.shape, (output.shape, wanted.shape)
    return float(np.abs(output - wanted).max() / np.abs(wanted).max())


class Family:
    """One kind in all layouts that hold it."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        """Port it from the library that it is of to all layouts."""
        self.kind, self.folder = kind, folder
        kind.save(folder / "base")
        (base,) = [path for path in (folder / "base").iterdir() if path.suffix in WEIGHTS]
        self.base = base
        self.refused: dict[str, str] = {}
        self.forms: dict[str, Form] = {}
        self.ahead = 0
        first = self._ported(base, kind.stage, {})
        if first is None:
            raise PatchParityError(self.refused[kind.stage])
        self.forms[kind.stage] = first
        with opened(base) as file:
            whole = read_whole(file)
            self.ahead = sum(
                whole.stage.weights.prefix_rows(name) for name in whole.stage.weights.layout.ahead
            )
        loads = kind.loads.format(folder=folder / "base")
        self.output, self.failure = self.computed(folder / "base", loads)
        self.read: dict[Path, WholeModel] = {}
        for target in whole_targets():
            if target != kind.stage and (form := self._ported(base, target, {})) is not None:
                self.forms[target] = form
        self.there = {
            target: [self.forms[target]] if target in self.forms else []
            for target in whole_targets()
        }

    def _ported(self, source: Path, target: str, told: dict[str, Any]) -> Form | None:
        place = self.folder / target
        try:
            report = port_whole(source, place, target, semantics=told, prove=False)
        except PatchParityError as error:
            self.refused[target] = reason_of(error, source)
            return None
        output, failure = self.computed(place, report.loads)
        file, *beside = map(Path, report.files)
        kept = {path.name: path.read_bytes() for path in beside}
        return Form(file, tensors_in(file), kept, output, self.needed(file), failure)

    def computed(self, place: Path, loads: str) -> tuple[NDArray[Any] | None, str]:
        """What its library computes, or why it does not."""
        oracle = oracle_of(loads)
        if oracle is None:
            return None, ""
        try:
            return reduced(oracle(place, loads, images()), self.kind, self.ahead), ""
        except Exception as error:  # whatever a library makes of a file
            return None, f"{type(error).__name__}: {error}"

    def needed(self, file: Path) -> dict[str, Any]:
        """What has to be told of a form, because nothing beside it does."""
        told: dict[str, Any] = {}
        for _ in range(9):
            try:
                with opened(file) as checkpoint:
                    read_whole(checkpoint, semantics=told)
                return told
            except PatchParityError as error:
                words = {
                    name: value
                    for name, value in self.semantics.items()
                    if name not in told and _asks_for(str(error), name)
                }
                if not words:
                    raise
                told |= words
        raise AssertionError(file)

    @functools.cached_property
    def semantics(self) -> dict[str, Any]:
        """Those of the model as its library wrote it."""
        with opened(self.base) as file:
            return dict(read_whole(file).semantics.values)

    def pairs(self) -> Iterator[Pair]:
        """From each layout that holds it to all."""
        with contextlib.ExitStack() as files:
            self.files = files
            for source, form in self.forms.items():
                for target in whole_targets():
                    yield self._pair(source, form, target)

    def _whole(self, form: Form) -> WholeModel:
        """A form as a port reads it, once."""
        if form.file not in self.read:
            file = self.files.enter_context(opened(form.file))
            self.read[form.file] = read_whole(file, semantics=form.told)
        return self.read[form.file]

    def _pair(self, source: str, form: Form, target: str) -> Pair:
        made = functools.partial(Pair, self.kind.id, source, target)
        try:
            whole = self._whole(form)
            moved = fit_whole(whole, get_dialect(target, list_dialects(())))
        except PatchParityError as error:
            return made("", None, reason_of(error, form.file))
        lazy = tensors_of_whole(whole, moved, None)
        tensors = {name: np.asarray(held.read()) for name, held in lazy.items()}
        known = next((each for each in self.there[target] if same(tensors, each.tensors)), None)
        if known is None:
            known = self._written(form, target)
            self.there[target].append(known)
        error = None
        if known.output is not None and form.output is not None:
            error = error_of(known.output, form.output)
        steps = (*moved.plan.steps, *moved.state.steps)
        mark, failure = self._returned(form, source, known)
        return made(mark, error, "", tuple(steps), known.failure or failure)

    def _written(self, form: Form, target: str) -> Form:
        """What a port gives whose tensors are not those of the form that is known."""
        place = Path(tempfile.mkdtemp(dir=self.folder)) / target
        report = port_whole(form.file, place, target, semantics=form.told, prove=False)
        output, failure = self.computed(place, report.loads)
        file = Path(report.files[0])
        return Form(file, tensors_in(file), {}, output, self.needed(file), failure)

    def _returned(self, form: Form, source: str, there: Form) -> tuple[str, str]:
        """What the way back gives: a mark, and why there is none."""
        whole = self._whole(there)
        try:
            moved = fit_whole(whole, get_dialect(source, list_dialects(())))
        except PatchParityError as error:
            return "≈", f"the way back is refused: {error}"
        lazy = tensors_of_whole(whole, moved, None)
        back = {name: np.asarray(held.read()) for name, held in lazy.items()}
        if same(back, form.tensors):
            return "=", ""
        held = {name: array for name, array in back.items() if name in form.tensors}
        added = [array for name, array in back.items() if name not in form.tensors]
        constant = all((array == 0).all() or (array == 1).all() for array in added)
        return ("+" if constant and same(held, form.tensors) else "≈"), ""


def _asks_for(sentence: str, name: str) -> bool:
    from patchparity.porting.encoders.semantics import SEMANTICS

    return sentence.startswith("no tensor says") and SEMANTICS[name] in sentence


def reason_of(error: PatchParityError, folder: Path) -> str:
    """Why something was refused, without where the files are."""
    sentence = str(error).replace(str(folder), "FILE").replace(str(folder.parent), "FOLDER")
    return re.sub(r"cannot hold or compute all of [^:]+:", "cannot hold or compute:", sentence)


@contextlib.contextmanager
def families() -> Iterator[tuple[dict[str, Family], dict[str, str]]]:
    """All kinds, and why some are not there."""
    made: dict[str, Family] = {}
    lacking: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS.values():
            place = Path(folder) / kind.id
            place.mkdir()
            try:
                made[kind.id] = Family(kind, place)
            except PatchParityError as error:
                lacking[kind.id] = str(error).replace(str(place), "FOLDER")
        yield made, lacking
