"""CoreML's models: a package (`.mlpackage`), or one file (`.mlmodel`), of which the program and the
tensors that are asked for are read; coremltools is not needed
(https://apple.github.io/coremltools/mlmodel/).
"""

import io
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .checkpoint import first_line
from .graphs.checkpoint import GraphCheckpoint
from .graphs.graph import Constant, Graph
from .graphs.mil import graph_of
from .mil_program import PACKED, numpy_type, read_function
from .protobuf import Malformed, number_at
from .safetensors_files import without_twins
from .wire import content_of, parts_of

LARGEST_MANIFEST = 2**20
"""Bytes of the list of a package's files; it has two entries, of 200 bytes each."""

LARGEST_MODEL = 2**28
"""Bytes of the part of a model that is walked, beside its weights; that of a ViT of 40 layers has
three million."""

DESCRIPTION, PROGRAM = 2, 502
"""The fields of a model that are looked at (Model.proto)."""

OTHER_KINDS = {
    **dict.fromkeys((303, 403, 500), "a neural network of before CoreML's programs"),
    **dict.fromkeys((200, 201, 202), "a pipeline of several models"),
    3000: "an encrypted model",
}
"""Models that hold no program, by their field, and what they are."""

BLOB_HEADER, BLOB_ENTRY = struct.Struct("<II"), struct.Struct("<IIQQQ")
"""The start of a file of weights: the number of tensors, a version; and of the record of a tensor:
a mark, its type, its size in bytes, where its bytes begin, the bits that are left over
(mlmodel/src/MILBlob/Blob/StorageFormat.hpp)."""

BLOB_MARK, BLOB_VERSION, BLOB_ALIGNED = 0xDEADBEEF, 2, 64

BLOB_TYPES = {
    1: "float16",
    2: "float32",
    3: "uint8",
    4: "int8",
    5: "bfloat16",
    6: "int16",
    7: "uint16",
    8: "int4",
    9: "uint1",
    10: "uint2",
    11: "uint4",
    12: "uint3",
    13: "uint6",
    14: "int32",
    15: "uint32",
    16: "float8_e4m3fn",
    17: "float8_e5m2",
}
"""Types of tensors in a file of weights, by their numbers (BlobDataType)."""

COLORS = {10: "gray", 20: "RGB", 30: "BGR", 40: "gray of 16 bits"}
"""Orders of the channels of a picture (ImageFeatureType)."""


@dataclass(frozen=True)
class CoreMLModel:
    """A model that was opened.

    Args:
        graph: what it computes.
        files: that it is read from.
    """

    graph: Graph
    files: tuple[Path, ...]


def read_coreml(path: Path) -> CoreMLModel:
    """Open a package or a file of CoreML's; no weight is read.

    Raises:
        PatchParityError: one that is damaged, leads out of its folder, or holds no program.
    """
    model = _model_of(path) if path.is_dir() else path
    weights = _Weights(path, model.parent)
    try:
        with model.open("rb") as file:
            program, description = _program_of(model, file)
        name, notes = _described(description)
        graph = graph_of(read_function(program, name), weights.read, notes)
    except PatchParityError:
        raise
    except OSError as error:
        raise PatchParityError(f"cannot read {model}: {error.strerror or error}") from None
    except (ValueError, IndexError, OverflowError) as error:
        raise PatchParityError(f"{model} is damaged or hostile: {first_line(error)}") from None
    constants = {name: _guarded(path, name, held) for name, held in graph.constants.items()}
    return CoreMLModel(replace(graph, constants=constants), (model, *weights.files))


def _guarded(path: Path, name: str, constant: Constant) -> Constant:
    """A constant whose damage is told with its file and its name."""

    def read() -> NDArray[Any]:
        try:
            return constant.read()
        except PatchParityError:
            raise
        except MemoryError:
            raise PatchParityError(
                f"{path}: {name} of shape {constant.info.shape} takes more memory than there is"
            ) from None
        except Exception as error:  # whatever damaged content makes NumPy raise
            raise PatchParityError(
                f"{path} is damaged or hostile: {name}: {first_line(error)}"
            ) from None

    return replace(constant, read=read)


def _model_of(package: Path) -> Path:
    """The model of a package, as its manifest tells.

    Raises:
        PatchParityError: a manifest that is none, or that leads out of the package.
    """
    manifest = package / "Manifest.json"
    try:
        if manifest.stat().st_size > LARGEST_MANIFEST:
            raise PatchParityError(f"{manifest} has more than {LARGEST_MANIFEST} bytes")
        held = json.loads(manifest.read_text("utf-8"), object_pairs_hook=without_twins)
        entry = held["itemInfoEntries"][held["rootModelIdentifier"]]
        place = str(entry["path"])
    except OSError as error:
        raise PatchParityError(f"cannot read {manifest}: {error.strerror or error}") from None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise PatchParityError(
            f"{manifest} is damaged or hostile: it tells no model ({first_line(error)})"
        ) from None
    return _inside(package, package / "Data", place)


def _inside(package: Path, folder: Path, place: str) -> Path:
    """A file of a package.

    Raises:
        PatchParityError: one that is not in it, or no file.
    """
    pure = PurePosixPath(place)
    target = folder / place
    try:
        if pure.is_absolute() or ".." in pure.parts or "\0" in place:
            raise ValueError
        if not target.resolve().is_relative_to(package.resolve()):
            raise ValueError
        there = target.is_file()
    except (ValueError, OSError, RuntimeError):
        raise PatchParityError(
            f"{package} is damaged or hostile: {place[:200]!r} leads out of it"
        ) from None
    if not there:
        raise PatchParityError(f"{package} lacks {place[:200]}, which it names")
    return target


def _program_of(model: Path, file: BinaryIO) -> tuple[memoryview, memoryview]:
    """The program of a model, and its description; what else is in the file is passed over unread.

    Raises:
        PatchParityError: a model of another kind.
        ValueError: what is no model.
    """
    size = file.seek(0, io.SEEK_END)
    held: dict[int, memoryview] = {}
    kinds, at = [], 0
    while at < size:
        file.seek(at)
        start = file.read(_LONGEST_START)
        key, first = number_at(start, 0, len(start))
        length, begin = number_at(start, first, len(start))
        if key & 7 == 0:  # the version
            at += begin
            continue
        if key & 7 != 2 or length > size - at - begin:
            raise Malformed(f"it claims {length} bytes at byte {at} of {size}")
        kinds.append(key >> 3)
        if kinds[-1] in (PROGRAM, DESCRIPTION):
            if length > LARGEST_MODEL:
                raise Malformed(f"its program claims {length} bytes")
            file.seek(at + begin)
            held[kinds[-1]] = memoryview(file.read(length))
        at += begin + length
    if PROGRAM not in held:
        kind = next((OTHER_KINDS[number] for number in kinds if number in OTHER_KINDS), "")
        raise PatchParityError(
            f"{model} is {kind or 'a model of a kind without layers'}, which is not read: "
            "coremltools.convert with minimum_deployment_target iOS15 or later writes a program of "
            "the model that it was made from"
        )
    return held[PROGRAM], held.get(DESCRIPTION, memoryview(b""))


_LONGEST_START = 20
"""Bytes of the number and the length of a field, at most."""


def _described(description: memoryview) -> tuple[str, tuple[str, ...]]:
    """The name of the function that runs where none is named, and what is to be told of pictures
    that it takes."""
    name = "main"
    notes: list[str] = []
    functions: dict[str, memoryview] = {}
    for part in parts_of(description):
        if part.number == 21:
            name = part.text or name
        elif part.number == 1:
            notes += _pictures(part.content)
        elif part.number == 20:
            called = [held.text for held in parts_of(part.content) if held.number == 1]
            functions.update(dict.fromkeys(called[-1:], part.content))
    if name in functions:
        for held in parts_of(functions[name]):
            if held.number == 2:
                notes += _pictures(held.content)
    return name, tuple(notes)


def _pictures(feature: memoryview) -> Iterator[str]:
    """That an input is a picture, and of which channels."""
    name, kind = "", None
    for part in parts_of(feature):
        if part.number == 1:
            name = part.text
        elif part.number == 3:
            kind = content_of(part.content, 4)
    if kind is None:
        return
    numbers = {part.number: part.whole for part in parts_of(kind) if isinstance(part.value, int)}
    color = COLORS.get(numbers.get(3, 0), "unknown")
    yield (
        f"its input {name!r} is a picture of {color} values from 0 to 255; images are here what "
        "the program is given, in that order of channels"
    )


class CoreMLCheckpoint(GraphCheckpoint):
    """A package, or a file, of CoreML's, of which the graph tells the stage."""

    format = "coreml"

    def __init__(self, path: Path) -> None:
        model = read_coreml(path)
        self.read_files = model.files
        super().__init__(path, model.graph)

    @property
    def files(self) -> tuple[Path, ...]:
        """The model, and its weights."""
        return self.read_files


class _Weights:
    """The files of weights beside a model."""

    def __init__(self, package: Path, folder: Path) -> None:
        self.package, self.folder = package, folder
        self.whole = package.is_dir()

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that are there where coremltools puts them."""
        usual = self.folder / "weights" / "weight.bin"
        return (usual,) if self.whole and usual.is_file() else ()

    def read(self, name: str, place: int, dtype: str, count: int) -> memoryview:
        """The bytes of a tensor.

        Args:
            name: of the file, with `@model_path` for the folder of the model.
            place: of its record there.
            dtype, count: what the program says of it.

        Raises:
            PatchParityError: a file that is not in the package.
            ValueError: a record that is none, or tells another type or size.
        """
        inner = name.removeprefix("@model_path/")
        if inner == name or not self.whole:
            raise PatchParityError(
                f"{self.package} keeps its weights in {name!r}, which is no file of a package: "
                "give the .mlpackage"
            )
        file = _inside(self.package, self.folder, inner)
        with file.open("rb") as held:
            size = held.seek(0, 2)
            held.seek(0)
            header = held.read(BLOB_HEADER.size)
            if len(header) < BLOB_HEADER.size or BLOB_HEADER.unpack(header)[1] != BLOB_VERSION:
                raise ValueError(f"{inner} is no file of weights of version {BLOB_VERSION}")
            if place % BLOB_ALIGNED or place > size - BLOB_ALIGNED:
                raise ValueError(f"{inner} has no record at byte {place} of {size}")
            held.seek(place)
            record: tuple[Any, ...] = BLOB_ENTRY.unpack(held.read(BLOB_ENTRY.size))
            mark, number, nbytes, begin, _ = record
            bits = PACKED.get(dtype, 8 * numpy_type(dtype).itemsize)
            if mark != BLOB_MARK or BLOB_TYPES.get(number) != dtype:
                raise ValueError(
                    f"{inner} has a record of type {BLOB_TYPES.get(number, number)} at byte "
                    f"{place}, expected {dtype}"
                )
            needed = -(-count * bits // 8)
            if nbytes != needed or begin > size or nbytes > size - begin:
                raise ValueError(
                    f"{inner} has {nbytes} bytes at byte {begin} of {size}, and {needed} are needed"
                )
            held.seek(begin)
            return memoryview(held.read(nbytes))
