"""What `check` and `diagnose` say of a whole model against a checkpoint."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .given import options_typed, refuse_strays
from .semantics_options import SEMANTICS, semantics_of

if TYPE_CHECKING:
    from ..porting.model_diagnosis import ModelDiagnosis

ALLOWED = ("target", "checkpoint", "init", "module", "images", "json", *SEMANTICS)
"""Options that play a part in it."""


def of_model(context: typer.Context, target: str, checkpoint: Path) -> "ModelDiagnosis":
    """What is wrong with the whole model TARGET, or with the checkpoint of that name as its own
    library reads it, held against a checkpoint.

    Raises:
        PatchParityError: an option of something else; what `diagnose_model` raises.
    """
    from ..porting.files.arrays import read_array
    from ..porting.model_diagnosis import diagnose_model
    from ..porting.objects.load import load_object

    refuse_strays(
        options_typed(context), ALLOWED, f"{target} is held against {checkpoint} as a whole"
    )
    given = context.params
    init = json.loads(given["init"]) if given.get("init") else None
    model: Any = Path(target) if Path(target).exists() else load_object(target, init)
    images = given.get("images")
    return diagnose_model(
        model,
        checkpoint,
        tower=given.get("module"),
        semantics=semantics_of(context),
        images=None if images is None else read_array(images, "images"),
    )
