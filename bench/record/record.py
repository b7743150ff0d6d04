"""The record: append-only samples and rows, and JSON written in one step."""

import contextlib
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...porting.files.own_format import usual_mode
from ...reference.errors import PatchParityError


def plain(value: Any) -> Any:
    """Return a value with infinities and NaN as None: JSON has neither, and a parser must not choke on them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file in one step: a reader sees the old content or the new, never half of it.

    Raises:
        PatchParityError: a file that cannot be written.
    """
    write_text(path, json.dumps(plain(content), indent=1))


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step; a link is followed, and what is no regular file (a pipe, /dev/null) is written to as it is.

    Raises:
        PatchParityError: a file that cannot be written.
    """
    draft = None
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            target.write_text(text, encoding="utf-8")
            return
        with tempfile.NamedTemporaryFile(
            "w", dir=target.parent, prefix=f".{target.name}-", delete=False, encoding="utf-8"
        ) as file:
            draft = file.name
            file.write(text)
        os.chmod(draft, usual_mode())
        os.replace(draft, target)
    except (OSError, RuntimeError, UnicodeError) as error:
        if draft and os.path.exists(draft):
            os.unlink(draft)
        raise PatchParityError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None


def require_writable(path: Path, *read: str | os.PathLike[str] | None) -> None:
    """Raise PatchParityError unless a file can be written here: asked before the work that it is to hold.

    Args:
        path: the file to be written.
        read: what the command reads, and what else it writes: none of them may be this file, whatever its name. Of a folder, none of its files.
    """
    if str(path) == "-":
        raise PatchParityError("cannot write -: expected the name of a file")
    try:
        target = path.resolve()
        for other in filter(None, read):
            if _is_of(target, Path(other)):
                raise PatchParityError(
                    f"cannot write {path}: it is {other} itself, or a file of it, which this command reads or writes too"
                )
    except (OSError, RuntimeError) as error:  # a name that is too long, a loop of links
        raise PatchParityError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None
    if target.is_dir():
        raise PatchParityError(f"cannot write {path}: it is a folder")
    if target.exists() and not target.is_file():
        return
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise PatchParityError(f"cannot write {path}: {error.strerror or error}") from None


def _is_of(target: Path, other: Path) -> bool:
    """Whether a file is another one, by whatever name, or lies in that folder."""
    if other.is_dir():
        return target.exists() and other.resolve() in target.parents
    if other.exists() and target.exists():
        return target.samefile(other)
    return target == other.resolve()


def files_read(*checkpoints: str | os.PathLike[str] | None) -> list[Path]:
    """All files that reading checkpoints may touch: themselves, their shards, what lies beside them under their own names."""
    from ...porting.files.opening import opened

    found: list[Path] = []
    for path in filter(None, checkpoints):
        source = Path(path)
        with contextlib.suppress(PatchParityError), opened(source) as checkpoint:
            found += [*checkpoint.files, *([checkpoint.config_folder / "config.json"] if checkpoint.config_folder else [])]
        if not source.is_dir():
            found.append(source)
    return found


def record_files(folder: Path) -> list[Path]:
    """The files of a record."""
    return [folder / name for name in PRODUCTS]


def output_folder(path: str | os.PathLike[str]) -> Path:
    """Make an output folder, or raise PatchParityError where it cannot be made or written."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PatchParityError(f"output folder {folder} cannot be written: {error.strerror or error}") from None
    return folder


REPORTS = ("report.html", "report.md", "report.csv")

PRODUCTS = (
    "samples.jsonl",
    "rows.jsonl",
    "machines.json",
    "plan.json",
    "bench.json",
    "bench.log",
    "check.json",
    "controls.json",
    "seeds.json",
    *REPORTS,
)
"""What bench and run leave in a folder."""


def set_aside(folder: Path, names: Sequence[str] = PRODUCTS) -> None:
    """Move what an earlier run left in a folder into a folder of its own beside it: a new record is begun, none is lost or mixed."""
    left = [folder / name for name in names if (folder / name).exists()]
    if left:
        previous = Path(tempfile.mkdtemp(prefix=time.strftime("previous-%Y%m%dT%H%M%S-"), dir=folder))
        for path in left:
            path.rename(previous / path.name)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for one run alone, where the system can lock folders.

    Raises:
        PatchParityError: another run is writing to it.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise PatchParityError(f"another run is writing to {folder}: wait for it, or choose another folder") from None
    finally:
        os.close(handle)


def with_versions_of(earlier: dict[str, Any], environment: dict[str, Any]) -> dict[str, Any]:
    """An environment, with the versions of packages besides that were noted earlier, in a call for other frameworks."""
    return {**environment, "versions": {**earlier.get("versions", {}), **environment["versions"]}}


class Record:
    """A folder's record: `samples.jsonl`, a line for each sample, and `rows.jsonl`, a line for each finished row.

    Both are only ever appended to. A case counts as measured once its rows are there; samples of an interrupted attempt stay in the
    file and are told apart by their `attempt`.
    """

    def __init__(self, folder: Path) -> None:
        self.samples_path = folder / "samples.jsonl"
        self.rows_path = folder / "rows.jsonl"
        self.machines_path = folder / "machines.json"
        self.plan_path = folder / "plan.json"

    def append_samples(self, samples: list[dict[str, Any]]) -> None:
        """Append samples; on return they are with the operating system, so that a killed process loses none."""
        self._append(self.samples_path, samples)

    def keep_machines(self, environments: dict[str, dict[str, Any]]) -> None:
        """Note the environments of machines that take part, by fingerprint."""
        kept = self.machines()
        for name, environment in environments.items():
            kept[name] = with_versions_of(kept.get(name, {}), environment)
        write_json(self.machines_path, kept)

    def machines(self) -> dict[str, dict[str, Any]]:
        """Return the environments of all machines that took part, by the fingerprint that is in the rows."""
        return _read_object(self.machines_path)

    def keep_plan(self, options: dict[str, Any], planned: int) -> None:
        """Note what was asked for last, and how many rows that makes: without it, what was interrupted would look whole."""
        write_json(self.plan_path, {**self.plan(), "options": options, "planned": planned})

    def keep_call(self, **call: Any) -> None:
        """Note when and on what was measured last, and how long it took: of a record that is made again it is not the machine that does so."""
        write_json(self.plan_path, {**self.plan(), "call": call})

    def plan(self) -> dict[str, Any]:
        """Return what `keep_plan` and `keep_call` noted; nothing where it is missing or damaged."""
        return _read_object(self.plan_path)

    def last_written(self) -> str:
        """When the last row was written, as ISO 8601 in UTC, by the file's own time."""
        return datetime.fromtimestamp(self.rows_path.stat().st_mtime, UTC).isoformat()

    def append_rows(self, rows: list[dict[str, Any]]) -> None:
        """Append finished rows."""
        self._append(self.rows_path, rows)

    @staticmethod
    def _append(path: Path, lines: list[dict[str, Any]]) -> None:
        with path.open("a+b") as file:
            content_end = file.seek(0, os.SEEK_END)
            if content_end:
                file.seek(content_end - 1)
                if file.read(1) != b"\n":  # a line that a kill cut short: without this the next one would be glued to it
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            file.write("".join(json.dumps(plain(line)) + "\n" for line in lines).encode())

    def rows(self) -> list[dict[str, Any]]:
        """Return the finished rows."""
        return list(_lines(self.rows_path))

    def samples(self) -> Iterator[dict[str, Any]]:
        """Go through all samples, those of interrupted attempts among them."""
        return _lines(self.samples_path)


def _read_object(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a JSON-lines file; a last line cut short by a kill is left out, a broken one elsewhere is an error."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        content = None
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(line)
        if isinstance(content, dict):
            yield content
        elif number < len(lines):
            raise PatchParityError(f"{path}, line {number}, is no JSON object: the record is damaged there")
