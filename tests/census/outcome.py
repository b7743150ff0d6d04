"""How one folder that a library wrote is read, and what the library's own model makes of it."""

from dataclasses import dataclass
from pathlib import Path

from patchparity.backends.porting.formats.opening import open_checkpoint
from patchparity.backends.porting.library import prove_by_library
from patchparity.backends.porting.stages import read_stage
from patchparity.reference.errors import PatchParityError


@dataclass(frozen=True)
class Outcome:
    """`right`, `wrong`, `refused`, `unproved` (read, and the library's model could not be asked) or `unbuilt`; the dialect; the reason."""

    verdict: str
    dialect: str = ""
    reason: str = ""


def outcome_of(folder: Path) -> Outcome:
    """Read the checkpoint in a folder with its config.json, and ask the library."""
    with open_checkpoint(folder) as checkpoint:
        try:
            stage = read_stage(checkpoint)
        except PatchParityError as error:
            return Outcome("refused", "", str(error).replace(f"{folder}/", "").replace(str(folder), "the folder"))
        found = prove_by_library(checkpoint, stage)
    verdict = {"pass": "right", "fail": "wrong", "skip": "unproved"}[found.verdict]
    return Outcome(verdict, stage.dialect.id, "" if verdict == "right" else found.message)
