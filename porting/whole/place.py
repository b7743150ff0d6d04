"""Where a whole model is written, and what may not be replaced there."""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ...reference.errors import PatchParityError
from ..dialects.dialect import Dialect
from ..encoders.configurations import read_configuration
from ..encoders.layout import EncoderModel
from ..encoders.state import Target
from ..files.atomic import files_read, require_outside
from ..files.checkpoint import KEPT_AS
from ..files.formats import SUFFIXES
from ..files.writing import format_of


def place_of(
    target: str | os.PathLike[str], wanted: Target, dialect: Dialect, shard_bytes: int | None
) -> Path:
    """The file of the weights: the one that is named, or the usual one in a folder.

    Raises:
        PatchParityError: a file of another format than the dialect is kept in.
    """
    path = Path(target)
    if not str(target):
        raise PatchParityError("the target has no name: expected a folder, or a file in one")
    if path.suffix not in SUFFIXES or path.is_dir():
        _require_folder_name(path)
        name = wanted.model.weights
        path = path / (f"{name}.index.json" if shard_bytes else name)
    if str(path).endswith(".index.json") and not wanted.model.name.startswith("transformers"):
        raise PatchParityError(
            f"{wanted.model.name} is loaded from one file, and from no shards: leave --shard-size "
            "out"
        )
    kind = format_of(path)
    if wanted.model.weights.endswith(".orbax") and kind != "orbax":
        raise PatchParityError(
            f"{path}: {wanted.model.name} is restored from a folder of Orbax: name one that ends "
            "in .orbax, or the folder that it is to lie in"
        )
    if KEPT_AS.get(kind, kind) not in dialect.formats:
        raise PatchParityError(
            f"{path}: {dialect.id} is kept in {', '.join(dialect.formats)}, and this name is of "
            f"{kind}"
        )
    return path


def _require_folder_name(path: Path) -> None:
    """Raise PatchParityError for what looks like a file of a format that nobody knows."""
    suffix = path.suffix[1:]
    if suffix.isalpha() and not path.is_dir():
        raise PatchParityError(
            f"{path}: no format has names that end in .{suffix}; expected a folder, or "
            f"{', '.join(SUFFIXES)}"
        )


def require_apart(
    source: str | os.PathLike[str] | None, place: Path, companions: Iterable[str]
) -> None:
    """Raise PatchParityError where what is written would replace what is read."""
    if source is None:
        return
    require_outside(place, source)
    read = {path.resolve() for path in files_read(source) if path.exists()}
    for path in (place, *(place.parent / name for name in companions)):
        if path.resolve() in read:
            raise PatchParityError(
                f"cannot write {path}: it is a file of {source}, which is read; name another folder"
            )


def require_no_other(place: Path, model: EncoderModel, companions: Mapping[str, bytes]) -> None:
    """Raise PatchParityError where another model's configuration is in the folder."""
    there = read_configuration(place.parent / model.file) if model.file in companions else None
    if there is not None and there != json.loads(companions[model.file]):
        raise PatchParityError(
            f"{place.parent} holds another model, as its {model.file} says: name another folder, "
            "or empty that one"
        )


@contextlib.contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """A folder that is there, and is gone again where nothing came into it."""
    try:
        there = folder.exists()
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise PatchParityError(f"cannot make {folder}: {error.strerror or error}") from None
    try:
        yield
    except BaseException:
        if not there:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
