"""What is run: the shapes that `check` uses, named model sizes, presets and the size sweep."""

import re
from dataclasses import dataclass

from ..reference.errors import PatchParityError, nearest
from ..reference.spec import PatchEmbedSpec, Remainder

VIT_WIDTHS = {"ti": 192, "s": 384, "b": 768, "l": 1024, "h": 1280, "so400m": 1152}
"""embed_dim of each ViT size: DeiT for Ti and S, Dosovitskiy et al. (2021) table 1 for B, L, H,
Zhai et al. (2023) for So400m."""

VIT_PATCHES = (14, 16, 32)


@dataclass(frozen=True)
class Case:
    """A named problem size: a spec and a batch.

    Args:
        name: as in the results, for instance `vit-b16-224-b8`.
        spec: the sizes.
        batch: B.
    """

    name: str
    spec: PatchEmbedSpec
    batch: int


_FIXED = {
    "sam-b16-1024": PatchEmbedSpec(1024, 16, 3, 768),
    "swin-t4-224": PatchEmbedSpec(224, 4, 3, 96),
    "segformer-k7s4p3-224": PatchEmbedSpec(224, 7, 3, 64, stride=4, padding=3, remainder="floor"),
    "overlap-k5s2-225": PatchEmbedSpec(225, 5, 3, 96, stride=2),
    "videomae-b16-16x224": PatchEmbedSpec((16, 224, 224), (2, 16, 16), 3, 768),
    "qwen2vl-p14-2x448": PatchEmbedSpec((2, 448, 448), (2, 14, 14), 3, 1280),
}
"""Sizes that follow no rule. The last two are tubelets, one axis more: VideoMAE's ViT-B on 16
frames, Qwen2-VL's on a picture, which it sees as two."""

NAMED = (
    *(f"vit-{size}16-224" for size in ("ti", "s", "b", "l")),
    *("vit-b32-224", "vit-h14-224", "vit-l14-518", "vit-so400m14-384"),
    *_FIXED,
)
"""Cases that people have; a ViT of any size, patch and image has a name, and so have all sizes."""

_VIT = re.compile(rf"vit-({'|'.join(VIT_WIDTHS)})({'|'.join(map(str, VIT_PATCHES))})-(\d+)")


_SIZES = re.compile(
    r"p(?P<patch>\d+(?:x\d+)*)-(?P<image>\d+(?:x\d+)*)-d(?P<dim>\d+)(?:-c(?P<channels>\d+))?"
    r"(?:-s(?P<stride>\d+(?:x\d+)*))?"
)


def name_of_sizes(
    patch_size: tuple[int, ...],
    image_size: tuple[int, ...],
    embed_dim: int,
    in_channels: int = 3,
    stride: tuple[int, ...] = (),
) -> str:
    """The name of a case of these sizes, without its batch.

    Args:
        patch_size, image_size, stride: in pixels, one for all axes or one for each; no stride means
            the patch.
        embed_dim: D.
        in_channels: C.
    """
    patch, image, step = ("x".join(map(str, sides)) for sides in (patch_size, image_size, stride))
    channels = "" if in_channels == 3 else f"-c{in_channels}"
    return f"p{patch}-{image}-d{embed_dim}{channels}" + (f"-s{step}" if step else "")


def _sides(text: str | None) -> int | tuple[int, ...] | None:
    """One number, or several with `x` between."""
    if text is None:
        return None
    sides = tuple(map(int, text.split("x")))
    return sides[0] if len(sides) == 1 else sides


def _of_sizes(model: str) -> PatchEmbedSpec | None:
    """The sizes that a name spells out, what patches do not divide left out; None of any other
    name."""
    if (match := _SIZES.fullmatch(model)) is None:
        return None
    patch, image, stride = (_sides(match[part]) for part in ("patch", "image", "stride"))
    sizes = (image, patch, int(match["channels"] or 3), int(match["dim"]), stride)
    return PatchEmbedSpec(*sizes, remainder="floor")  # type: ignore[arg-type]  # both are told


def named_case(name: str) -> Case:
    """Return the case of a name.

    Args:
        name: `vit-SIZEPATCH-IMAGE` with SIZE one of ti, s, b, l, h, so400m and PATCH 14, 16 or 32
            (`vit-b16-224`, `vit-l14-518`), `sam-b16-1024`, `swin-t4-224`, `segformer-k7s4p3-224`,
            `overlap-k5s2-225`, or the tubelets `videomae-b16-16x224` and `qwen2vl-p14-2x448`; or
            sizes, `p8-96x128-d192`, with `-c4` for other channels than 3 and `-s4` for another
            stride than the patch; with `-bN` for a batch of N (else 1).

    Raises:
        PatchParityError: a name that is none of these.
    """
    parts = re.fullmatch(r"(.+?)(?:-b([1-9]\d*))?", name)
    model, batch = parts.groups() if parts else ("", None)
    spec = _FIXED.get(model) or _of_sizes(model)
    if spec is None and (match := _VIT.fullmatch(model)):
        size, patch, image = match.groups()
        # SigLIP's So400m/14 reads 384 pixels with the last 6 left out, as a VALID convolution does.
        remainder: Remainder = "floor" if size == "so400m" else "error"
        spec = PatchEmbedSpec(int(image), int(patch), 3, VIT_WIDTHS[size], remainder=remainder)
    if spec is None:
        expected = ", ".join(("vit-b16-224", "vit-l14-518", *_FIXED, "p8-96x128-d192"))
        raise PatchParityError(
            f"case {name!r} is unknown{nearest(model, NAMED)}; expected for instance {expected}, "
            "each with -bN for a batch of N"
        )
    return Case(f"{model}-b{batch or 1}", spec, int(batch or 1))
