"""How one folder that a library wrote is read, and what the library's own model makes of it."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from patchparity.porting.dialects.sizes import Sizes
from patchparity.porting.dialects.stage import read_stage
from patchparity.porting.embed import embed
from patchparity.porting.files.opening import open_checkpoint
from patchparity.porting.proof.library import prove_by_library
from patchparity.reference.errors import PatchParityError


@dataclass(frozen=True)
class Outcome:
    """`right`, `told` (right when told what no file says), `wrong`, `refused`, `unproved` (read,
    and the library's model could not be asked) or
    `unbuilt`; the dialect; the reason."""

    verdict: str
    dialect: str = ""
    reason: str = ""


def embedded(file: Any, images: Any, **told: Any) -> Any:
    """`embed`, whose words about what it assumes are no part of the outcome."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return embed(file, images, **told)


def outcome_of(folder: Path, told: Mapping[str, Any] = MappingProxyType({})) -> Outcome:
    """Read the checkpoint in a folder with its config.json, and ask the library.

    Args:
        folder: with both.
        told: what a user tells where it is refused without: `dialect` and `prefix` of `read_stage`,
            and sizes.
    """
    with open_checkpoint(folder) as checkpoint:
        needed = ""
        try:
            stage = read_stage(checkpoint)
        except PatchParityError as error:
            reason = str(error).replace(f"{folder}/", "").replace(str(folder), "the folder")
            if not told:
                return Outcome("refused", "", reason)
            sizes = {
                name: value for name, value in told.items() if name not in ("dialect", "prefix")
            }
            try:
                stage = read_stage(
                    checkpoint,
                    told.get("dialect"),
                    told.get("prefix"),
                    sizes=Sizes.told(**sizes) if sizes else None,
                )
            except PatchParityError:
                return Outcome("refused", "", reason)
            needed = ", ".join(f"{name} {value!r}" for name, value in told.items())
        found = prove_by_library(checkpoint, stage)
    verdict = {"pass": "told" if needed else "right", "fail": "wrong", "skip": "unproved"}[
        found.verdict
    ]
    return Outcome(verdict, stage.dialect.id, needed if found.verdict == "pass" else found.message)
