"""A record in one small file: rows and notes as they are, samples by columns, all of it compressed.
Unpacked it is the same record, line by line."""

import io
import json
import lzma
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...porting.files.checkpoint import first_line
from ...reference.errors import PatchParityError
from .record import Record
from .schema import Sample

LARGEST = 2**29
"""Bytes that one may unpack to: a hundred times those of a full record."""

_NAMES = ("case", "row", "implementation", "role", "cache", "device")
_COUNTS = {
    "round": np.uint32,
    "order": np.uint32,
    "generation": np.uint32,
    "disturbed": np.uint8,
    "clock_mhz": np.int32,
}
_FIGURES = ("seconds", "visit_seconds", "disturbance", "steal")
_KEPT = ("rows.jsonl", "machines.json", "plan.json")


def pack(folder: Path) -> bytes:
    """The record of a folder as the content of a `record.tar.xz`.

    Raises:
        PatchParityError: a damaged record, or none.
    """
    samples = list(Record(folder).samples())
    if not samples:
        raise PatchParityError(f"{folder} holds no samples that could be kept")
    names = list(
        dict.fromkeys(tuple(getattr(sample, name) for name in _NAMES) for sample in samples)
    )
    attempts = list(dict.fromkeys(sample.attempt for sample in samples))
    of_name, of_attempt = (
        {value: number for number, value in enumerate(distinct_values)}
        for distinct_values in (names, attempts)
    )
    places = [
        (
            of_name[tuple(getattr(sample, name) for name in _NAMES)],
            of_attempt[sample.attempt],
            sample.round,
        )
        for sample in samples
    ]
    order = sorted(
        range(len(samples)), key=places.__getitem__
    )  # samples of one row beside one another: their first bytes are the same
    ordered = [samples[number] for number in order]
    parts = {name: (folder / name).read_bytes() for name in _KEPT if (folder / name).exists()}
    parts["samples.json"] = json.dumps(
        {"count": len(samples), "names": names, "attempts": attempts}
    ).encode()
    parts["name"] = np.array([places[number][0] for number in order], np.uint32).tobytes()
    parts["attempt"] = np.array([places[number][1] for number in order], np.uint32).tobytes()
    for name, kind in _COUNTS.items():
        values = [getattr(sample, name) for sample in ordered]
        parts[name] = np.array([-1 if value is None else value for value in values], kind).tobytes()
    for name in _FIGURES:
        values = [getattr(sample, name) for sample in ordered]
        column = np.array([np.nan if value is None else value for value in values], "<f8")
        # first bytes together, then the second, ...
        parts[name] = column.view(np.uint8).reshape(-1, 8).T.tobytes()
    packed = io.BytesIO()
    with tarfile.open(
        fileobj=packed, mode="w:xz", preset=9, format=tarfile.USTAR_FORMAT
    ) as archive:
        for name, content in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def unpack(path: Path, folder: Path, case: str | None = None) -> None:
    """Write the record that a file holds into a folder.

    Args:
        path: the file.
        folder: where to.
        case: of this one alone, where the record holds it: to lay out a whole record takes ten
            times as long as one case.

    Raises:
        PatchParityError: a file that is damaged, or none of ours.
    """
    try:
        with lzma.open(path) as file:  # to its end, where its checksum stands
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ValueError(f"it unpacks to more than {LARGEST} bytes")
        parts: dict[str, bytes] = {}
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for entry in archive:
                part = archive.extractfile(entry) if entry.isfile() else None
                if part is None:
                    raise ValueError(f"{entry.name} is no part of a record")
                parts[entry.name] = part.read()
        del content
        samples = _samples(parts, _of_case(parts, case))
        for name in _KEPT:
            if name in parts:
                (folder / name).write_bytes(parts[name])
        Record(folder).append_samples(samples)
    except (
        OSError,
        lzma.LZMAError,
        tarfile.TarError,
        EOFError,
        ArithmeticError,
        LookupError,
        ValueError,
        TypeError,
        RecursionError,
    ) as error:
        reason = f"{type(error).__name__}: {first_line(error)[:120]}"
        raise PatchParityError(f"{path} is damaged, or holds no record ({reason})") from None


def _of_case(parts: dict[str, bytes], case: str | None) -> str | None:
    """The case, where a record holds it; its rows are then left alone among the parts."""
    lines = parts.get("rows.jsonl", b"").splitlines(keepends=True)
    kept = [line for line in lines if case is not None and json.loads(line).get("case") == case]
    if not kept:
        return None
    parts["rows.jsonl"] = b"".join(kept)
    return case


def _samples(parts: dict[str, bytes], case: str | None = None) -> Iterator[Sample]:
    """The samples, of one case or of all, in the order in which they were measured."""
    header: dict[str, Any] = json.loads(parts["samples.json"])
    count = int(header["count"])

    def column(name: str, kind: Any) -> NDArray[Any]:
        values = np.frombuffer(parts[name], kind)
        if len(values) != count:
            raise ValueError(f"{name} has {len(values)} values, expected {count}")
        return values

    columns = {name: column(name, kind) for name, kind in _COUNTS.items()}
    for name in _FIGURES:
        planes = np.frombuffer(parts[name], np.uint8).reshape(8, count)
        columns[name] = np.ascontiguousarray(planes.T).view("<f8").ravel()
    places, attempts = column("name", np.uint32), column("attempt", np.uint32)
    wanted = np.array([case in (None, names[0]) for names in header["names"]], bool)
    for at in np.lexsort((columns["order"], columns["round"], attempts)):
        if not wanted[places[at]]:
            continue
        values = {name: values[at].item() for name, values in columns.items()}
        for name in _FIGURES:
            values[name] = None if values[name] != values[name] else values[name]
        values["disturbed"] = bool(values["disturbed"])
        values["clock_mhz"] = None if values["clock_mhz"] < 0 else values["clock_mhz"]
        names = dict(zip(_NAMES, header["names"][places[at]], strict=True))
        attempt = header["attempts"][attempts[at]]
        yield msgspec.convert({**names, **values, "attempt": attempt}, Sample)
