"""A record's `bench.json`, which is made again where it is missing; what measures and judges is
loaded only then."""

import os
import tempfile
from pathlib import Path

from ...reference.errors import PatchParityError
from ..record.folder import PACKED, locked
from ..record.reading import read_bench
from ..record.schema import Bench


def load_bench(folder: Path, case: str | None = None) -> Bench:
    """Read a folder's `bench.json`; where it is missing or damaged, make it again from the samples
    and rows of the record, or from a kept one.

    Args:
        folder: of the record.
        case: the one that is asked about, if there is one; of a kept record only its rows are then
            laid out.

    Raises:
        PatchParityError: a folder without a record, a damaged one, or one that patchparity did not
            write.
    """
    try:
        return read_bench(folder)
    except PatchParityError:
        if (folder / "rows.jsonl").exists():
            return _made_again(folder)
        if (folder / PACKED).exists():
            return _made_of(folder / PACKED, case)
        raise


def _made_of(kept: Path, case: str | None) -> Bench:
    from ..record.packed import unpack

    with tempfile.TemporaryDirectory(prefix="patchparity-") as unpacked:
        unpack(kept, Path(unpacked), case)
        try:
            return _made_again(Path(unpacked))
        except PatchParityError as error:
            raise PatchParityError(
                f"{kept} is damaged, or holds no record: "
                f"{str(error).replace(unpacked + os.sep, '')}"
            ) from None


def _made_again(folder: Path) -> Bench:
    from .benchmark import measure_into, require_modules
    from .options import BenchOptions
    from .plan import plan

    require_modules("bench", ("pytest", "pytest_benchmark", "execnet"))
    try:
        with locked(folder):
            measure_into(plan(BenchOptions(replay=True)), folder)
        return read_bench(folder)
    except PatchParityError:
        raise
    except (
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        ValueError,
    ) as error:  # types hold, and what they tell cannot be
        raise PatchParityError(
            f"the record of {folder} is damaged ({type(error).__name__}: {str(error)[:160]})"
        ) from None
