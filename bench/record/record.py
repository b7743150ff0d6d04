"""The record: append-only samples and rows, and JSON written in one step."""

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ...porting.files.atomic import write_json
from ...reference.errors import PatchParityError
from .schema import Environment, Outcome, PlanFile, Sample, line_of, read_lines

LINES_AT_ONCE = 2048
"""Samples that are written in one go: half a megabyte."""

SHARED = ("case", "row", "implementation", "role", "cache", "device", "attempt")
"""Texts of a sample, which some thousand samples share."""


def with_versions_of(earlier: dict[str, Any], environment: dict[str, Any]) -> dict[str, Any]:
    """An environment, with the versions of packages besides that were noted earlier, in a call for
    other frameworks."""
    return {**environment, "versions": {**earlier.get("versions", {}), **environment["versions"]}}


class Record:
    """A folder's record: `samples.jsonl`, a line for each sample, and `rows.jsonl`, a line for each
    finished row.

    Both are only ever appended to. A case counts as measured once its rows are there; samples of an
    interrupted attempt stay in the file and are told apart by their `attempt`.
    """

    def __init__(self, folder: Path) -> None:
        self.samples_path = folder / "samples.jsonl"
        self.rows_path = folder / "rows.jsonl"
        self.machines_path = folder / "machines.json"
        self.plan_path = folder / "plan.json"

    def append_samples(self, samples: Iterable[Sample]) -> None:
        """Append samples; on return they are with the operating system, so that a killed process
        loses none."""
        waiting = iter(samples)
        while some := list(itertools.islice(waiting, LINES_AT_ONCE)):
            self._append(self.samples_path, [line_of(sample) for sample in some])

    def keep_machines(self, environments: dict[str, dict[str, Any]]) -> None:
        """Note the environments of machines that take part, by fingerprint."""
        kept = self.machines()
        for name, environment in environments.items():
            kept[name] = with_versions_of(kept.get(name, {}), environment)
        write_json(self.machines_path, kept)

    def machines(self) -> dict[str, dict[str, Any]]:
        """Return the environments of all machines that took part, by the fingerprint that is in the
        rows."""
        return _checked(self.machines_path, dict[str, Environment])

    def keep_plan(self, options: dict[str, Any], planned: int) -> None:
        """Note what was asked for last, and how many rows that makes: without it, what was
        interrupted would look whole."""
        write_json(self.plan_path, {**self.plan(), "options": options, "planned": planned})

    def keep_call(self, **call: Any) -> None:
        """Note when and on what was measured last, and how long it took: of a record that is made
        again it is not the machine that does so."""
        write_json(self.plan_path, {**self.plan(), "call": call})

    def plan(self) -> dict[str, Any]:
        """Return what `keep_plan` and `keep_call` noted; nothing where it is missing or damaged."""
        return _checked(self.plan_path, PlanFile)

    def last_written(self) -> str:
        """When the last row was written, as ISO 8601 in UTC, by the file's own time."""
        return datetime.fromtimestamp(self.rows_path.stat().st_mtime, UTC).isoformat()

    def append_rows(self, rows: list[Outcome]) -> None:
        """Append finished rows."""
        self._append(self.rows_path, [line_of(row) for row in rows])

    @staticmethod
    def _append(path: Path, lines: list[dict[str, Any]]) -> None:
        try:
            with path.open("a+b") as file:
                content_end = file.seek(0, os.SEEK_END)
                if content_end:
                    file.seek(content_end - 1)
                    # a line that a kill cut short: without this the next one would be glued to it
                    if file.read(1) != b"\n":
                        file.seek(0)
                        file.truncate(file.read().rfind(b"\n") + 1)
                file.write("".join(json.dumps(line) + "\n" for line in lines).encode())
        except OSError as error:
            raise PatchParityError(f"cannot write {path}: {error.strerror or error}") from None

    def rows(self) -> list[Outcome]:
        """Return the finished rows."""
        return list(read_lines(self.rows_path, Outcome))

    def samples(self) -> Iterator[Sample]:
        """Go through all samples, those of interrupted attempts among them; names that many have
        are held once."""
        held: dict[str, str] = {}
        for sample in read_lines(self.samples_path, Sample):
            for name in SHARED:
                value = getattr(sample, name)
                msgspec.structs.force_setattr(sample, name, held.setdefault(value, value))
            yield sample


def _checked(path: Path, kind: Any) -> dict[str, Any]:
    """An object of JSON, held against its type; nothing where it is missing or no JSON.

    Raises:
        PatchParityError: one that is not of the type, with the path of the field.
    """
    content = _read_object(path)
    try:
        msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise PatchParityError(f"{path} is damaged: {error}") from None
    return content


def _read_object(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}
