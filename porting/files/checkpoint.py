"""Checkpoint files of any library: which tensors they hold, each read by itself when it is asked
for; nothing in them is ever run.

Laws: what a header claims is held against the file's size, or against `LARGEST_TENSOR`, before
memory is taken; a name never leads out of the folder; what is no tensor is left where it is. Each
format has a file of its own beside this one, which reads and writes it.
"""

import abc
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError

Tensors = Mapping[str, NDArray[Any]]
"""Tensors by name, as they are written."""

COPIED_BYTES = 2**22
"""Bytes that are copied at a time."""

MOST_AXES = 16
"""Axes of a tensor that is looked at; NumPy has 64 at most, a kernel five."""

LARGEST_EXTENT = 2**48
"""Values along one axis: more bytes than any file has."""

LONGEST_NAMES = 2**26
"""Characters of all names of a file together: those of a model of a hundred thousand tensors are
ten million."""

EXPANSION, SMALL = 4, 2**26
"""How many times its file's size a packed tensor may have, beside 64 MB: trained weights pack to
nine tenths, and zeros that were never written to nothing. What claims more is a bomb, or holds no
weights."""

KEPT_AS = {"orbax": "msgpack", "dcp": "torch", "pt2": "torch"}
"""Formats that keep the trees of another one under the same names, which then are in the same
dialects."""

LARGEST_TENSOR = 2**31
"""Bytes of one tensor that may be read: eight times the largest patch embedding that is known (8192
× 2·32·32·4 values of 4 bytes)."""


def dtype_of(name: str) -> np.dtype[Any]:
    """NumPy's type of a name, those of ml_dtypes among them."""
    try:
        return np.dtype(getattr(ml_dtypes, name, name))
    except (TypeError, ValueError, SyntaxError):
        raise PatchParityError(
            f"a tensor of type {name[:80]!r}, which is none of numbers"
        ) from None


@dataclass(frozen=True)
class TensorInfo:
    """What a file tells of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if len(self.shape) > MOST_AXES or not all(
            0 <= size < LARGEST_EXTENT for size in self.shape
        ):
            raise ValueError(f"a tensor of {len(self.shape)} axes, {str(self.shape[:8])[:200]}")

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        count = 1
        for size in self.shape:
            count *= size
        return count * dtype_of(self.dtype).itemsize


class Checkpoint(abc.ABC):
    """An open file (or a set of shards) and the tensors in it, by name.

    Args:
        path: the file, or the index of the shards.
        format: `safetensors`, `torch`, `npz`, `h5`, `keras`, `msgpack`, ...
        tensors: what there is, in the file's order.
        metadata: texts that the format keeps beside the tensors.
        unbuilt: classes that the file names beside its tensors, of which nothing was built.
        own_config: what the file itself tells of its model, under the keys of a `config.json` of
            transformers (`patch_size`, `image_size`, `num_channels`, ...).
        told: what was done to a tensor on reading it, or is to be known of it, by its name.
    """

    format: str

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: dict[str, TensorInfo] = {}
        self.metadata: dict[str, str] = {}
        self.unbuilt: list[str] = []
        self.own_config: dict[str, Any] = {}
        self.told: dict[str, str] = {}

    @property
    def kept_as(self) -> str:
        """The format whose dialects it may be in."""
        return KEPT_AS.get(self.format, self.format)

    @property
    def config_folder(self) -> Path | None:
        """Where a `config.json` may lie beside it."""
        return self.path.parent

    @property
    def config_name(self) -> str:
        """What that `config.json` is called, or the part of the file that tells as much."""
        if self.own_config:
            return f"{self.path}"
        return f"{self.config_folder}/config.json"

    def read(self, name: str) -> NDArray[Any]:
        """Read one tensor, as an array of its own.

        Raises:
            PatchParityError: a name that is not there, a tensor that is too large, damaged content.
        """
        if name not in self.tensors:
            raise PatchParityError(f"{self.path} holds no tensor {name!r}")
        info = self.tensors[name]
        if info.nbytes > LARGEST_TENSOR:
            raise PatchParityError(
                f"{self.path}: {name} of shape {info.shape} claims {info.nbytes} bytes, expected "
                f"at most {LARGEST_TENSOR}"
            )
        try:
            array = self._read(name)
        except PatchParityError:
            raise
        except MemoryError:
            raise PatchParityError(
                f"{self.path}: {name} of shape {info.shape} takes more memory than there is"
            ) from None
        except Exception as error:  # whatever damaged content makes zlib, HDF5 or NumPy raise
            raise self.damaged(f"{name} cannot be read ({type(error).__name__}: {error})") from None
        return array

    def read_row(self, name: str, row: int) -> NDArray[Any]:
        """Read one row of a tensor along its first axis, `(1, ...)`.

        Raises:
            PatchParityError: as `read`.
        """
        return self.read(name)[row : row + 1]

    def place_of(self, name: str) -> tuple[Path, int] | None:
        """The file in which the values of a tensor lie as they are (in C order, little-endian,
        unpacked, without a checksum of their own), and the byte where they begin; None where they
        do not."""
        return None

    def view(self, name: str, row: int | None = None) -> NDArray[Any]:
        """One tensor, or one row along its first axis, `(1, ...)`, read-only, mapped from the file
        where its values lie as they are, so that its pages can be let go of at any time; read, as
        by `read`, where they do not.

        A file that another process cuts short meanwhile ends this one: what is opened by it is
        never changed by this package, which replaces files and does not write into them.

        Raises:
            PatchParityError: as `read`.
        """
        place = self.place_of(name)
        if place is None or not self.tensors[name].nbytes:
            array = (self.read(name) if row is None else self.read_row(name, row)).view()
            array.flags.writeable = False
            return array
        info, (path, begin) = self.tensors[name], place
        if row is not None:
            info = TensorInfo((1, *info.shape[1:]), info.dtype)
            begin += row * info.nbytes
        before = begin % mmap.ALLOCATIONGRANULARITY
        try:
            with path.open("rb") as file:
                held = mapped(file.fileno(), before + info.nbytes, begin - before)
        except (OSError, ValueError) as error:
            raise self.damaged(f"{name} cannot be mapped ({first_line(error)})") from None
        return np.frombuffer(held, dtype_of(info.dtype), offset=before).reshape(info.shape)

    def for_images(self, image_size: Sequence[int] = (), prefix: str | None = None) -> None:
        """Look for the stage as images of this size meet it (frames in front; empty for nothing
        that is known), of the input that a prefix names, where that changes which tensors there
        are: in a graph.

        Raises:
            PatchParityError: a graph in which no stage is found.
        """
        return

    @abc.abstractmethod
    def _read(self, name: str) -> NDArray[Any]:
        """Read one tensor that is known to be there."""

    def against(
        self,
        names: Mapping[str, str],
        steps: tuple[tuple[int, ...], tuple[int, ...]],
        normalizes: bool,
    ) -> Iterator[str]:
        """What the file itself says against a reading of its tensors, in sentences; mostly nothing.

        Args:
            names: the tensors of the reading, by field.
            steps: stride and padding of the reading.
            normalizes: whether the reading has fixed numbers for pixels in its kernel.
        """
        yield from ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that it is read from."""
        return (self.path,)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders that are its own, in which nothing else may be put."""
        return ()

    def require_room(self, name: str, nbytes: int) -> None:
        """Raise PatchParityError where a packed tensor claims far more than its file can hold."""
        size = self.path.stat().st_size
        if nbytes > EXPANSION * size + SMALL:
            raise self.damaged(f"{name} claims {nbytes} bytes of a file of {size}")

    def damaged(self, what: str) -> PatchParityError:
        """The error of a file whose content is not what it should be."""
        return PatchParityError(f"{self.path} is damaged or hostile: {what}")

    def close(self) -> None:  # noqa: B027  nothing to close is a default
        """Let go of the file."""

    def __enter__(self) -> Self:
        """Use in a `with` statement."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()


def mapped(file: int, size: int, offset: int) -> mmap.mmap:
    """A part of an open file as memory, its pages brought in at once where the system can: one by
    one takes twice as long."""
    if hasattr(mmap, "MAP_POPULATE"):
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        return mmap.mmap(file, size, flags=flags, prot=mmap.PROT_READ, offset=offset)
    return mmap.mmap(file, size, access=mmap.ACCESS_READ, offset=offset)


def in_sentences(told: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """What is to be known of tensors, those of which the same is told in one sentence."""
    of_phrase: dict[str, list[str]] = {}
    for name in names:
        if name in told:
            of_phrase.setdefault(told[name], []).append(name)
    return [f"{', '.join(held)}: {phrase}" for phrase, held in of_phrase.items()]


def first_twin(names: list[str]) -> str | None:
    """The first name that is there a second time, or None."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or "no message").splitlines()[0]


def copy_bytes(source: Any, target: BinaryIO, size: int) -> None:
    """Copy so many bytes from one open file to another, a piece at a time.

    Raises:
        PatchParityError: a source that ends before.
    """
    while size:
        content = source.read(min(size, COPIED_BYTES))
        if not content:
            raise PatchParityError(f"{size} bytes are missing at the end of what is copied")
        target.write(content)
        size -= len(content)
