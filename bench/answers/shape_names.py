"""Shapes as people write them: names of models, sizes, cases."""

import re

from ...reference.errors import PatchParityError
from ..cases import Case, named_case

_TIMM_SIZES = {
    "tiny": "ti",
    "small": "s",
    "base": "b",
    "large": "l",
    "huge": "h",
    "so400m": "so400m",
}


def case_of_text(text: str, batch: int | None = None) -> Case:
    """Read the name of a shape as people write it.

    Args:
        text: a case (`vit-b16-224-b8`), one without its image size, which is then 224 (`vit_b16`),
            or a name of timm's (`vit_base_patch16_224`); `_` and `-` are the same.
        batch: instead of the name's own.

    Raises:
        PatchParityError: a name that is none of these, a batch below 1.
    """
    if batch is not None and batch < 1:
        raise PatchParityError(f"batch {batch}: expected at least 1")
    # what timm puts behind a dot is how it was trained
    name = text.strip().lower().split(".")[0].replace("_", "-")
    if name.startswith("p") and name[1:2].isdigit():  # sizes, spelled out
        case = named_case(name)
        return case if batch is None else named_case(f"{case.name.rsplit('-b', 1)[0]}-b{batch}")
    # the batch is not the b16 of vit-b16: a digit comes before it
    parts = re.fullmatch(r"(.+?\d.*?)(-b\d+)?", name)
    model, own_batch = parts.groups() if parts else (name, None)
    if timm := re.fullmatch(
        r"(?:vit|deit3?)-([a-z0-9]+)-patch(\d+)(?:-[a-z][a-z0-9]*)*?(?:-(\d+))?", model
    ):
        size, patch, image = timm.groups()
        image = image or (518 if "dinov2" in model else 224)
        model = f"vit-{_TIMM_SIZES.get(size, size)}{patch}-{image}"
    elif swin := re.fullmatch(r"swin-tiny-patch4-window\d+-(\d+)", model):
        model = f"swin-t4-{swin.group(1)}"
    elif re.fullmatch(r"vit-[a-z0-9]+", model):
        model += "-224"
    name = model + (own_batch or "")
    try:
        case = named_case(name)
    except PatchParityError as error:
        raise PatchParityError(str(error).replace(repr(name), repr(text), 1)) from None
    return case if batch is None else named_case(f"{case.name.rsplit('-b', 1)[0]}-b{batch}")
