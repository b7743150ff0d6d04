"""torch.export's files, `.pt2`: the tensors of a program's state dict, under the names of torch,
and the program itself as evidence (torch/export/pt2_archive).

No pickle but that of tensors is looked at, by our own reader of torch's; objects beside the tensors
(`custom_objs`) and what they name are left where they are.
"""

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .archives import data_begin, require_whole
from .checkpoint import MOST_AXES, TensorInfo, Tensors, dtype_of, first_line
from .kinds import OLD_PROGRAM, OLD_STATE
from .pickles import Storage, Tensor
from .programs import Program, read_program
from .torch_files import ArchivedStorages, TensorsOfStorages, TorchCheckpoint

LARGEST_PROGRAM = 256 * 2**20
"""Bytes of a program; that of a ViT of 40 layers with all its stack traces has 10 MB."""

SCALAR_TYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    10: "complex64",
    11: "complex128",
    12: "bool",
    13: "bfloat16",
    28: "uint16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz",
    33: "float8_e8m0fnu",
    34: "uint32",
    35: "uint64",
}
"""Types of tensors by their numbers in a program (torch/_export/serde/schema.py, ScalarType)."""

STRIDED = 7
"""The number of the layout of tensors that are no sparse ones."""

WEIGHTS, COMPILED = "data/weights/", "data/aotinductor/"
"""Folders of an archive: of tensors, and of compiled code."""


def open_exported(path: Path, names: list[str]) -> TensorsOfStorages:
    """Open a file of torch.export, of the form that its files tell.

    Raises:
        PatchParityError: one without a program, or with several.
    """
    if OLD_PROGRAM in names:
        return _nested(path, OLD_STATE, OLD_PROGRAM)
    root = next(name for name in names if name.endswith("/archive_format"))
    root = root.removesuffix("archive_format")
    programs = [
        name.removeprefix(f"{root}models/").removesuffix(".json")
        for name in names
        if re.fullmatch(rf"{re.escape(root)}models/[^/]+\.json", name)
    ]
    if not programs and any(name.startswith(root + COMPILED) for name in names):
        raise PatchParityError(
            f"{path} is a package of AOTInductor, whose code may keep weights in other forms, and "
            "which is not read: torch.export.save writes the program that it was compiled from"
        )
    if len(programs) != 1:
        held = ", ".join(sorted(programs)) or "no program"
        raise PatchParityError(
            f"{path} holds {held}, expected one: torch.export.save writes each to a file of its own"
        )
    program, old = f"{root}models/{programs[0]}.json", f"{root}{WEIGHTS}{programs[0]}.pt"
    if old in names:
        return _nested(path, old, program)
    return ExportedCheckpoint(path, root, programs[0])


class _Exported(TensorsOfStorages):
    """What both forms have: the program, which is held against every reading."""

    format = "pt2"
    program: Program

    def _take_program(self, archive: zipfile.ZipFile, entry: str) -> None:
        if archive.getinfo(entry).file_size > LARGEST_PROGRAM:
            raise self.damaged(f"{entry} claims {archive.getinfo(entry).file_size} bytes")
        self.require_room(entry, archive.getinfo(entry).file_size)
        try:
            self.program = read_program(archive.read(entry))
        except ValueError as error:
            raise self.damaged(first_line(error)) from None
        self.own_config = self.program.config()

    def against(
        self,
        names: Mapping[str, str],
        steps: tuple[tuple[int, ...], tuple[int, ...]],
        normalizes: bool,
    ) -> Iterator[str]:
        """What its program does otherwise."""
        return (f"{self.path}: {said}" for said in self.program.against(names, steps, normalizes))


class ExportedCheckpoint(_Exported, ArchivedStorages):
    """What `torch.export.save` writes since torch 2.9: an archive with the program, a list of its
    tensors, and the bytes of each storage."""

    def __init__(self, path: Path, root: str, model: str) -> None:
        super().__init__(path)
        self.root, self.views, self.again = root, {}, {}
        self.absent: dict[str, str] = {}
        self.archive = zipfile.ZipFile(path)
        try:
            require_whole(self.archive, path)
            self._take_program(self.archive, f"{root}models/{model}.json")
            config = self._config(f"{root}{WEIGHTS}{model}_weights_config.json")
            storages: dict[tuple[str, str], Storage] = {}
            for name, entry in config.items():
                self._add(name, entry, storages)
        except BaseException:
            self.archive.close()
            raise

    def _config(self, entry: str) -> dict[str, Any]:
        """The list of its tensors."""
        if entry not in self.archive.namelist():
            raise self.damaged(f"{entry} is not there")
        if self.archive.getinfo(entry).file_size > LARGEST_PROGRAM:
            raise self.damaged(f"{entry} claims {self.archive.getinfo(entry).file_size} bytes")
        self.require_room(entry, self.archive.getinfo(entry).file_size)
        try:
            config = json.loads(self.archive.read(entry).decode("utf-8"))["config"]
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise self.damaged(f"{entry} is no list of tensors ({first_line(error)})") from None
        if not isinstance(config, dict):
            raise self.damaged(f"{entry} is no list of tensors")
        return config

    def _add(self, name: str, entry: Any, storages: dict[tuple[str, str], Storage]) -> None:
        try:
            place, pickled, meta = (
                str(entry["path_name"]),
                entry["use_pickle"],
                entry["tensor_meta"],
            )
            dtype = SCALAR_TYPES.get(meta["dtype"])
            shape, strides = (_numbers(meta[key]) for key in ("sizes", "strides"))
            (offset,) = _numbers([meta["storage_offset"]])
            strided = meta["layout"] == STRIDED
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self.damaged(f"its list tells {name!r} badly") from None
        if dtype is None:
            return  # a type that holds no embedding
        file = f"{self.root}{WEIGHTS}{place}"
        try:
            stored = self.archive.getinfo(file)
        except KeyError:
            raise self.damaged(f"the values of {name} are not there") from None
        self.tensors[name] = TensorInfo(shape, dtype)
        if pickled or not strided:
            self.absent[name] = (
                "is an object of a library, which only that can build (a quantized tensor, or a "
                "sparse one): dequantize it before the export"
            )
        elif not stored.file_size and 0 not in shape:
            self.absent[name] = "was exported without values (a fake tensor)"
        else:
            values = stored.file_size // dtype_of(dtype).itemsize
            if stored.compress_type != zipfile.ZIP_STORED:
                raise self.damaged(f"{file} is packed")
            held = storages.setdefault((place, dtype), Storage(place, dtype, values))
            self.views[name] = view = Tensor(held, offset, shape, strides)
            held.views.append(view)
            if view.offset + view.extent > values:
                raise self.damaged(
                    f"{name} of shape {shape} reaches beyond its storage of {values} values"
                )

    def _read(self, name: str) -> NDArray[Any]:
        if name in self.absent:
            raise PatchParityError(f"{self.path}: {name} {self.absent[name]}")
        return super()._read(name)

    def entry_of(self, key: str) -> str:
        """Among the weights."""
        return f"{self.root}{WEIGHTS}{key}"

    def replace(self, draft: Path, changes: Tensors) -> None:
        """Overwrite tensors in a copy of the file, and correct the checksums of the archive; the
        program stays as it is, and computes with them.

        Raises:
            PatchParityError: as of any storages; a tensor that the program does not take.
        """
        if idle := next((name for name in changes if name not in self.program.taken), None):
            raise PatchParityError(
                f"{self.path}: its program never takes {idle}: what is put there changes nothing"
            )
        super().replace(draft, changes)


class NestedExportedCheckpoint(_Exported, TorchCheckpoint):
    """What `torch.export.save` wrote before: the state dict is a file of `torch.save`, unpacked in
    the archive."""

    def __init__(self, path: Path, inside: tuple[int, int], program: str) -> None:
        super().__init__(path, inside)
        try:
            with zipfile.ZipFile(path) as archive:
                require_whole(archive, path)
                self._take_program(archive, program)
        except BaseException:
            self.close()
            raise

    def replace(self, draft: Path, changes: Tensors) -> None:
        """Not in this form.

        Raises:
            PatchParityError: always.
        """
        raise PatchParityError(
            f"{self.path} is of a torch before 2.9, which is read and not copied: "
            "torch.export.save(torch.export.load(FILE), NEW) writes it anew"
        )


def _nested(path: Path, state: str, program: str) -> NestedExportedCheckpoint:
    """The state dict that is an archive in the archive.

    Raises:
        PatchParityError: one that is not there, or packed.
    """
    with zipfile.ZipFile(path) as archive:
        if state not in archive.namelist() or program not in archive.namelist():
            raise PatchParityError(
                f"{path} is a program of torch.export without {state}: torch.export.save writes it "
                "anew, with its weights"
            )
        entry = archive.getinfo(state)
        if entry.compress_type != zipfile.ZIP_STORED:
            raise PatchParityError(f"{path} is damaged or hostile: {state} is packed")
        return NestedExportedCheckpoint(path, (data_begin(path, entry), entry.file_size), program)


def _numbers(sizes: Any) -> tuple[int, ...]:
    """Extents of a tensor that are told as numbers.

    Raises:
        ValueError: too many, one below zero, or one that is an expression.
    """
    numbers = tuple(size["as_int"] for size in sizes[: MOST_AXES + 1])
    if len(numbers) > MOST_AXES or not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
        raise ValueError("sizes that are no numbers")
    return numbers
