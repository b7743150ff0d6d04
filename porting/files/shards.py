"""Checkpoints of several files: safetensors and torch's with transformers' index, Keras's with its
own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .checkpoint import Checkpoint, first_line
from .safetensors_files import LARGEST_HEADER, without_twins

INDEX_SUFFIX = ".safetensors.index.json"
INDICES = (
    INDEX_SUFFIX,
    ".bin.index.json",
    ".pt.index.json",
    ".pth.index.json",
    ".msgpack.index.json",
    ".h5.index.json",
)
"""How names of indices end, as transformers and accelerate write them."""

KERAS_INDEX = ".weights.json"
"""How the name of Keras's index ends (keras/src/saving/saving_lib.py, `ShardedH5IOStore`)."""


class ShardedCheckpoint(Checkpoint):
    """Several files, and an index that tells which tensor is in which."""

    def __init__(self, path: Path, opener: Callable[[Path], Checkpoint]) -> None:
        super().__init__(path)
        self.shards: dict[str, Checkpoint] = {}
        self.places: dict[str, str] = {}
        index = self._index()
        try:
            held = index["weight_map"].items()
            wanted = {str(name): _names(shard) for name, shard in held}
        except (KeyError, TypeError, AttributeError) as error:
            raise self.damaged(f"it is no index of shards ({first_line(error)})") from None
        try:
            for shard in dict.fromkeys(
                shard_name for shards in wanted.values() for shard_name in shards
            ):
                self._open(shard, opener)
            self._place(wanted)
        except BaseException:
            self.close()
            raise
        if not self.shards:
            raise self.damaged("it names no shard")
        self.format = next(iter(self.shards.values())).format
        self.metadata = {
            key: value for shard in self.shards.values() for key, value in shard.metadata.items()
        }
        self.unbuilt = list(
            dict.fromkeys(name for shard in self.shards.values() for name in shard.unbuilt)
        )

    def _index(self) -> Any:
        if self.path.stat().st_size > LARGEST_HEADER:
            raise self.damaged(f"an index of {self.path.stat().st_size} bytes")
        try:
            return json.loads(
                self.path.read_text(encoding="utf-8"), object_pairs_hook=without_twins
            )
        except (ValueError, RecursionError) as error:
            raise self.damaged(f"it is no index of shards ({first_line(error)})") from None

    def _open(self, shard: str, opener: Callable[[Path], Checkpoint]) -> None:
        if Path(shard).name != shard or shard in ("", ".", "..", self.path.name):
            raise self.damaged(f"it names a shard {shard!r}, which is no file of this folder")
        if not (self.path.parent / shard).is_file():
            raise PatchParityError(f"{self.path} names a shard {shard!r}, which is not there")
        self.shards[shard] = opener(self.path.parent / shard)

    def _place(self, wanted: dict[str, list[str]]) -> None:
        for told, shards in wanted.items():
            held = self.shards[shards[0]]
            # transformers 4 writes a model's TensorFlow shards without its name, which its index
            # has (modeling_tf_utils.py, `save_pretrained`)
            of_tf = held.format == "h5" or held.metadata.get("format") == "tf"
            bare = of_tf and told not in held.tensors
            name = told.partition("/")[2] if bare else told
            if name not in held.tensors:
                raise self.damaged(f"{told!r} should be in {shards[0]}, and is not")
            if name in self.places:
                raise self.damaged(f"{name!r} stands there twice")
            self.tensors[name], self.places[name] = held.tensors[name], shards[0]

    @property
    def files(self) -> tuple[Path, ...]:
        """The index, and all shards."""
        return (self.path, *(file for shard in self.shards.values() for file in shard.files))

    def place_of(self, name: str) -> tuple[Path, int] | None:
        """In the shard that holds it."""
        return self.shards[self.places[name]].place_of(name) if name in self.places else None

    def _read(self, name: str) -> NDArray[Any]:
        return self.shards[self.places[name]].read(name)

    def close(self) -> None:
        """Close all shards."""
        for shard in self.shards.values():
            shard.close()


class KerasShards(ShardedCheckpoint):
    """Keras's: an index of the places of weights, each of which may be in several files."""

    def _place(self, wanted: dict[str, list[str]]) -> None:
        for shard, held in self.shards.items():
            for name, info in held.tensors.items():
                if name in self.places:
                    raise self.damaged(f"{name!r} is in {self.places[name]} and in {shard}")
                self.tensors[name], self.places[name] = info, shard


def _names(shard: Any) -> list[str]:
    names = shard if isinstance(shard, list) else [shard]
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError("a shard without a name")
    return names
