"""Whole checkpoints, written a tensor at a time, with small files beside them: all or nothing, read
back and compared to the last bit before anything is replaced.

How nothing half-written is seen: all files are drafts in a folder beside until they are checked.
Then what is beside the weights takes its place first, and what makes a model be found last: the
weights, or the index of their shards. Old weights that are replaced together with a file beside
them are moved away before, so that at no moment old weights stand beside a new config, which could
be read as a model that never was; a run that is cut off in between leaves no weights, and a mark
that `open_checkpoint` tells of. A failure that can be caught puts all back.
"""

import contextlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import safetensors

from ...reference.errors import PatchParityError
from .atomic import usual_mode
from .checkpoint import Checkpoint, dtype_of
from .compared import compared_pieces, is_finite, not_finite, same_as_stored
from .formats import KEEPS_METADATA, STREAMED_BY, imported
from .lazy import Feed, Lazy, checksum_of, pieces_of
from .opening import open_checkpoint
from .safetensors_files import stream_safetensors
from .shards import INDEX_SUFFIX
from .writing import DRAFTS, format_of, is_index, remove_stale

__all__ = ["Lazy", "write_streamed"]

SHARD_BYTES = 5 * 10**9
"""Bytes of a shard at most where nothing is told: 5 GB, which transformers 4 splits by
(modeling_utils.py, `max_shard_size`)."""

NONE: Mapping[str, bytes] = MappingProxyType({})


def write_streamed(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Lazy],
    metadata: Mapping[str, Any] | None = None,
    check: Callable[[Path], None] = lambda draft: None,
    *,
    shard_bytes: int | None = None,
    companions: Mapping[str, bytes] = NONE,
    finite: bool = False,
) -> None:
    """Write a whole checkpoint, one tensor in memory at a time, of the format that its name tells.

    safetensors (one file, or shards), npz, torch, GGUF and Keras's `.weights.h5` take one tensor,
    where it is made, and some buffers of 4 MB. Flax's msgpack is written so, and read back as its
    library does, whole in memory; Orbax's library holds packed copies of a tensor beside it.

    Args:
        path: the file, or the folder of Orbax; a file that is there is replaced. A name that ends
            in `.safetensors.index.json` is an index, written beside its shards,
            `model-00001-of-00002.safetensors`.
        tensors: by name, in the file's order; `/` in a name is a level of the tree in msgpack,
            Orbax and HDF5 (`layers/conv2d/vars/0`).
        metadata: texts of safetensors, of each shard; keys and values of GGUF; no other format
            keeps any.
        check: called with the new file in the folder of drafts, the files beside it there too,
            before anything takes its place; what it raises leaves all as it was.
        shard_bytes: values of a shard at most, in bytes; 5 GB where nothing is told. A tensor that
            is larger has a shard of its own.
        companions: small files of the same folder by name, `config.json`, written in the same step.
            One that is there with other content is replaced only together with the weights that
            it tells of, where these are there under the same name.
        finite: whether NaN and infinite values are refused, as the new file has them.

    Raises:
        PatchParityError: a name that tells no format or one that is not streamed, a companion that
            tells another model, shards that would replace others, a tensor that is not what it was
            told or holds what is refused, a file that cannot be written or reads back otherwise.

    Examples:
        >>> import numpy as np, tempfile
        >>> from patchparity.porting.files.opening import open_checkpoint
        >>> rows = np.arange(6, dtype=np.float32).reshape(2, 3)
        >>> turned = Lazy((3, 2), "float32", lambda: rows.T)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/model.safetensors"
        ...     write_streamed(path, {"rows": turned}, companions={"config.json": b"{}"})
        ...     with open_checkpoint(path) as written:
        ...         print(written.read("rows").tolist())
        [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    """
    target, feed = Path(path), Feed(dict(tensors), finite=finite)
    kind = _streamed_format(target, shard_bytes)
    names = _split(target, feed, shard_bytes or SHARD_BYTES) if is_index(target) else {}
    _require_free(target, kind, list(names), companions)
    with _drafts(target) as folder:
        draft = folder / target.name
        if is_index(target):
            for shard, held in names.items():
                stream_safetensors(folder / shard, feed.of(held), metadata or {})
            draft.write_text(_index(feed, names), encoding="utf-8")
        else:
            beside = metadata or {} if kind in KEEPS_METADATA else {}
            imported(STREAMED_BY[kind])(draft, feed, beside)
        _require_same(draft, target, feed)
        for name, content in companions.items():
            (folder / name).write_bytes(content)
        check(draft)
        changed = [name for name in companions if not _is_there(target.parent / name, companions)]
        _put(folder, target, [*changed, *names])


def _streamed_format(target: Path, shard_bytes: int | None) -> str:
    kind = format_of(target)
    if kind == "pt2":
        raise PatchParityError(
            f"{target}: a .pt2 holds a program, which tensors alone do not tell: write .pt"
        )
    if kind not in STREAMED_BY:
        raise PatchParityError(
            f"{target}: a {kind} archive holds a model's layers too, which tensors alone do not "
            "tell: write .weights.h5"
        )
    if shard_bytes is not None and (shard_bytes < 1 or not is_index(target)):
        raise PatchParityError(
            f"{target}: shards of {shard_bytes} bytes: expected a positive number, and a name that "
            f"ends in {INDEX_SUFFIX}"
        )
    return kind


def _split(target: Path, feed: Feed, shard_bytes: int) -> dict[str, list[str]]:
    """The names of the tensors of each shard, filled in the order in which they come, as
    transformers fills them (huggingface_hub/serialization/_base.py)."""
    shards: list[list[str]] = []
    room = -1
    for name, lazy in feed.tensors.items():
        if lazy.nbytes > room or not shards:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= lazy.nbytes
    stem = target.name.removesuffix(INDEX_SUFFIX)
    if not shards or not stem:
        raise PatchParityError(f"{target}: an index of shards needs a name and tensors")
    called = f"{stem}-{{:05d}}-of-{len(shards):05d}.safetensors"
    return {called.format(number): held for number, held in enumerate(shards, 1)}


def _index(feed: Feed, names: Mapping[str, list[str]]) -> str:
    total = sum(lazy.nbytes for lazy in feed.tensors.values())
    places = {name: shard for shard, held in names.items() for name in held}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2)


def _journal(target: Path) -> Path:
    return target.parent / f".{target.name}.patchparity-unfinished"


def _require_free(
    target: Path, kind: str, shards: list[str], companions: Mapping[str, bytes]
) -> None:
    """Raise PatchParityError where the new files would replace some of another model."""
    for name in companions:
        if Path(name).name != name or name in (target.name, *shards, "", ".", ".."):
            raise PatchParityError(f"{name!r} is no file beside {target.name}: expected a name")
    if not target.parent.is_dir():
        raise PatchParityError(f"cannot write {target}: there is no folder {target.parent}")
    if target.exists() and (target.is_dir() or kind == "orbax"):
        raise PatchParityError(f"cannot write {target}: it is there, and a folder replaces nothing")
    if _journal(target).is_file():  # what is there was put by a run that was cut off
        return
    index = [target.name] if shards else []
    there = [name for name in (*shards, *index) if (target.parent / name).exists()]
    if there:
        raise PatchParityError(
            f"{target.parent} holds {there[0]} already: name the index in a folder without"
        )
    for name in companions:
        if not target.exists() and _is_there(target.parent / name, companions) is False:
            raise PatchParityError(
                f"{target.parent / name} is there already and tells another model: name a folder "
                "without it"
            )


def _is_there(place: Path, companions: Mapping[str, bytes]) -> bool | None:
    """Whether a file has this content, or the same JSON; None where there is none."""
    if not place.exists():
        return None
    wanted = companions[place.name]
    try:
        if place.stat().st_size == len(wanted) and place.read_bytes() == wanted:
            return True
        return bool(json.loads(place.read_bytes()) == json.loads(wanted))
    except (OSError, ValueError, RecursionError):
        return False


@contextlib.contextmanager
def _drafts(target: Path) -> Iterator[Path]:
    """A folder beside the target, gone at the end."""
    try:
        folder = target.resolve().parent
        remove_stale(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f"{DRAFTS}{os.getpid()}-") as name:
            yield Path(name)
    except (OSError, RuntimeError) as error:
        raise PatchParityError(
            f"cannot write {target}: {getattr(error, 'strerror', None) or error}"
        ) from None
    except safetensors.SafetensorError as error:
        raise PatchParityError(f"cannot write {target}: {error}") from None


def _put(folder: Path, target: Path, beside: list[str]) -> None:
    """Let the drafts take their places, the target last; put all back where one cannot."""
    places = {name: (target.parent / name).resolve() for name in (*beside, target.name)}
    for name, place in places.items():
        if not (folder / name).is_dir():
            there = place.stat().st_mode & 0o7777 if place.exists() else usual_mode()
            (folder / name).chmod(there)
    if not beside:
        os.replace(folder / target.name, places[target.name])
        _journal(target).unlink(missing_ok=True)
        return
    aside = folder / "replaced"
    aside.mkdir()
    moved: list[tuple[Path, Path]] = []
    placed: list[Path] = []
    _journal(target).write_text("\n".join(places), encoding="utf-8")
    try:
        for name in (target.name, *beside):
            if places[name].exists():
                moved.append((places[name], aside / name))
                os.rename(*moved[-1])
        for name, place in places.items():
            placed.append(place)
            os.rename(folder / name, place)
    except BaseException:
        for place in placed:
            place.unlink(missing_ok=True) if not place.is_dir() else os.rename(place, aside / "new")
        for place, kept in moved:
            if kept.exists():
                os.rename(kept, place)
        _journal(target).unlink()
        raise
    _journal(target).unlink()


def _require_same(draft: Path, target: Path, feed: Feed) -> None:
    """Raise PatchParityError unless each tensor reads back to its last bit: by the checksum that
    was taken when it was written, or against the files that it was copied from."""
    with open_checkpoint(draft) as written, ThreadPoolExecutor(2) as readers:
        if len(written.tensors) != len(feed.tensors):
            raise PatchParityError(
                f"{target} reads back as {len(written.tensors)} tensors, and {len(feed.tensors)} "
                "were written: nothing was replaced"
            )
        stored = {}
        for name, lazy in feed.tensors.items():
            info = written.tensors.get(name)
            if info is None or info.shape != tuple(lazy.shape) or info.dtype != lazy.dtype:
                raise _other(name, target)
            here = written.place_of(name)
            if here is not None and here == feed.compared.get(name):
                continue  # as soon as it was written, and no other lies there
            # a library that reads a file for us may not be asked by two at once, nor a user
            if here is not None and (name in feed.checksums or feed.places_of(name)):
                stored[name] = readers.submit(_reads_back, written, name, feed)
            elif not _reads_back(written, name, feed):
                raise _other(name, target)
        for name, same in stored.items():
            if not same.result():
                raise _other(name, target)


def _other(name: str, target: Path) -> PatchParityError:
    return PatchParityError(f"{name} reads back differently from {target}: nothing was written")


def _reads_back(written: Checkpoint, name: str, feed: Feed) -> bool:
    here, lazy = written.place_of(name), feed.tensors[name]
    if name not in feed.checksums and feed.places_of(name):
        return same_as_stored(here or written.read(name), name, feed)
    wanted = feed.checksums.get(name)
    if wanted is None:
        wanted = checksum_of(pieces_of(feed.made(name)))
    back: Iterator[Any] = (
        pieces_of(written.read(name)) if here is None else compared_pieces(*here, lazy.nbytes)
    )
    dtype, checksum = dtype_of(lazy.dtype), 0
    for piece in back:
        checksum = zlib.crc32(piece, checksum)
        if feed.finite and not is_finite(np.frombuffer(piece, dtype)):
            raise not_finite(feed.told(name))
    return checksum == wanted
