"""The folder of a record: whose it is, what lies in it, and the lock."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ...reference.errors import PatchParityError

PACKED = "record.tar.xz"
"""What the file of a kept record is called."""


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
        raise PatchParityError(
            f"output folder {folder} cannot be written: {error.strerror or error}"
        ) from None
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
    """Move what an earlier run left in a folder into a folder of its own beside it: a new record is
    begun, none is lost or mixed."""
    left = [folder / name for name in names if (folder / name).exists()]
    if left:
        previous = Path(
            tempfile.mkdtemp(prefix=time.strftime("previous-%Y%m%dT%H%M%S-"), dir=folder)
        )
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
        raise PatchParityError(
            f"another run is writing to {folder}: wait for it, or choose another folder"
        ) from None
    finally:
        os.close(handle)
