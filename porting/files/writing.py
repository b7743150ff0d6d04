"""Writing checkpoints: whole or not at all, read back and compared to the last bit before anything
is replaced."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .atomic import usual_mode
from .checkpoint import Checkpoint, Tensors
from .formats import KEEPS_METADATA, REPLACED_BY, SUFFIXES, WRITTEN_BY, imported
from .opening import open_checkpoint
from .safetensors_files import SafetensorsCheckpoint, replace_in_safetensors
from .shards import INDEX_SUFFIX, ShardedCheckpoint


def format_of(path: str | os.PathLike[str]) -> str:
    """The format that a file of this name has.

    Raises:
        PatchParityError: a name that tells none.
    """
    format_name = "safetensors" if is_index(path) else SUFFIXES.get(Path(path).suffix)
    if format_name is None:
        raise PatchParityError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}")
    return format_name


def is_index(path: str | os.PathLike[str]) -> bool:
    """Whether a name is that of an index of shards."""
    return Path(path).name.endswith(INDEX_SUFFIX)


def write_checkpoint(
    path: str | os.PathLike[str],
    tensors: Tensors,
    metadata: Mapping[str, Any] | None = None,
    check: Callable[[Path], None] = lambda draft: None,
) -> None:
    """Write tensors to a new file, of the format that its name tells.

    Args:
        path: the file; an existing one is replaced, in one step.
        tensors: by name; `/` in a name of Flax's msgpack is a level of its tree.
        metadata: texts, kept by safetensors, or keys and values of GGUF; no other format keeps any.
        check: called with the new file before it takes its place; what it raises leaves the old one
            there.

    Raises:
        PatchParityError: a name that tells no format, a format that keeps no names (Keras), a file
            that cannot be written or reads back otherwise.
    """
    kind = format_of(path)
    if is_index(path):
        raise PatchParityError(
            f"{path}: an embedding stage is written to one file, shards only as a copy of others "
            "(--into)"
        )
    plain = {name: _plain(array) for name, array in tensors.items()}
    if kind == "pt2":
        raise PatchParityError(
            f"{path}: a .pt2 holds a program, which tensors alone do not tell; --into puts them "
            "into a copy of one"
        )
    if kind not in WRITTEN_BY:
        raise PatchParityError(
            f"{path}: Keras keeps the places of weights and not their names; --into puts them into "
            "a copy of a file that it wrote"
        )
    with _draft(path) as draft:
        beside = (metadata or {},) if kind in KEEPS_METADATA else ()
        imported(WRITTEN_BY[kind])(draft, plain, *beside)
        _require_same(draft, path, plain)
        check(draft)


def replace_tensors(
    source: Checkpoint,
    path: str | os.PathLike[str],
    changes: Tensors,
    check: Callable[[Path], None] = lambda draft: None,
) -> None:
    """Write a copy of a checkpoint with some tensors replaced or added; all others stay as they
    are, bit by bit.

    Args:
        source: the checkpoint that is copied.
        path: the copy, of the same format; of shards the new index, and the shards beside it.
        changes: the new tensors, by name.
        check: as in `write_checkpoint`.

    Raises:
        PatchParityError: another format, tensors that a Keras or torch file has no place for,
            shards that would replace others, a file that cannot be written or reads back otherwise.
    """
    plain = {name: _plain(array) for name, array in changes.items()}
    if format_of(path) != source.format:
        raise PatchParityError(
            f"{path}: --into copies a {source.format} file, and this name is of {format_of(path)}"
        )
    of_shards = is_index(path)
    if of_shards != isinstance(source, ShardedCheckpoint):
        kinds = ("of one file", "of shards")
        raise PatchParityError(
            f"{source.path} is {kinds[not of_shards]}, and {path} names a checkpoint "
            f"{kinds[of_shards]}: "
            f"expected a name that ends in {INDEX_SUFFIX if not of_shards else source.path.suffix}"
        )
    if isinstance(source, ShardedCheckpoint):
        if source.format != "safetensors":
            raise PatchParityError(
                f"{source.path} is of {source.format} shards, which are read and not copied: make "
                "one file of them first"
            )
        _replace_in_shards(source, Path(path), plain, check)
        return
    with _draft(path) as draft:
        imported(REPLACED_BY[source.format])(source, draft, plain)
        _require_same(draft, path, plain)
        check(draft)


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Contiguous, in the machine's byte order; a scalar stays one."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)


@contextlib.contextmanager
def _draft(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file beside the target, which takes its place when all went well."""
    try:
        target = Path(path).resolve()
    except (OSError, RuntimeError) as error:
        raise PatchParityError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}"
        ) from None
    if not target.parent.is_dir():
        raise PatchParityError(f"cannot write {path}: there is no folder {target.parent}")
    if target.exists() and (target.is_dir() or format_of(path) == "orbax"):
        raise PatchParityError(f"cannot write {path}: it is there, and a folder replaces nothing")
    try:
        remove_stale(target.parent)
        with tempfile.TemporaryDirectory(
            dir=target.parent, prefix=f"{DRAFTS}{os.getpid()}-"
        ) as folder:
            draft = Path(folder) / f"draft{target.suffix}"
            yield draft
            if draft.is_dir():  # its mode is the usual one; a folder that is there would be lost
                os.rename(draft, target)
                return
            draft.chmod(target.stat().st_mode & 0o7777 if target.exists() else usual_mode())
            draft.replace(target)
    except OSError as error:
        raise PatchParityError(f"cannot write {target}: {error.strerror or error}") from None
    except safetensors.SafetensorError as error:  # what it raises on a full disk
        raise PatchParityError(f"cannot write {target}: {error}") from None


DRAFTS = ".patchparity-"
"""How folders of drafts begin; the number of the process that made them comes next."""


def remove_stale(folder: Path) -> None:
    """Remove what processes that are gone left half-written in a folder."""
    for left in folder.glob(f"{DRAFTS}*"):
        number = left.name.removeprefix(DRAFTS).partition("-")[0]
        if left.is_dir() and number.isdigit() and not _runs(int(number)):
            shutil.rmtree(left, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def _require_same(draft: Path, path: Any, tensors: Tensors) -> None:
    with open_checkpoint(draft) as written:
        for name, array in tensors.items():
            back = written.read(name)
            if (
                back.dtype != array.dtype
                or back.shape != array.shape
                or back.tobytes() != array.tobytes()
            ):
                raise PatchParityError(
                    f"{name} reads back differently from {path}: nothing was written"
                )


def _replace_in_shards(
    source: ShardedCheckpoint, path: Path, changes: Tensors, check: Callable[[Path], None]
) -> None:
    """Copies of all shards, those with changed tensors made anew, and the index last: before that
    nothing is there to be read."""
    beside = next(
        (source.places[name] for name in changes if name in source.places),
        next(iter(source.shards)),
    )
    of_shards: dict[str, dict[str, NDArray[Any]]] = {}
    for name, array in changes.items():
        of_shards.setdefault(source.places.get(name, beside), {})[name] = array
    journal = path.parent / f".{path.name}.patchparity-unfinished"
    there = [name for name in (*source.shards, path.name) if (path.parent / name).exists()]
    # with it they are what a run that was cut off has put there
    if there and not journal.is_file():
        raise PatchParityError(
            f"{path.parent} holds {there[0]} already: name the index in a folder without"
        )
    if not path.parent.is_dir():
        raise PatchParityError(f"cannot write {path}: there is no folder {path.parent}")
    index = json.loads(source.path.read_text(encoding="utf-8"))
    index["weight_map"].update({name: shard for shard, held in of_shards.items() for name in held})
    added = sum(
        array.nbytes - (source.tensors[name].nbytes if name in source.tensors else 0)
        for name, array in changes.items()
    )
    if isinstance(index.get("metadata"), dict) and isinstance(
        index["metadata"].get("total_size"), int
    ):
        index["metadata"]["total_size"] += added
    try:
        remove_stale(path.resolve().parent)
        with tempfile.TemporaryDirectory(
            dir=path.resolve().parent, prefix=f"{DRAFTS}{os.getpid()}-"
        ) as folder:
            for shard, held in source.shards.items():
                assert isinstance(held, SafetensorsCheckpoint)
                if shard in of_shards:
                    replace_in_safetensors(held, Path(folder) / shard, of_shards[shard])
                else:
                    shutil.copyfile(held.path, Path(folder) / shard)
            draft = Path(folder) / path.name
            draft.write_text(json.dumps(index, indent=2), encoding="utf-8")
            _require_same(draft, path, changes)
            check(draft)
            journal.write_text("\n".join((*source.shards, path.name)), encoding="utf-8")
            for name in (*source.shards, path.name):
                (Path(folder) / name).chmod(usual_mode())
                (Path(folder) / name).replace(path.parent / name)
            journal.unlink()
    except OSError as error:
        raise PatchParityError(f"cannot write {path}: {error.strerror or error}") from None
