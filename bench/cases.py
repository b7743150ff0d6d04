"""What is run: the shapes that `check` uses, named model sizes, presets and the size sweep."""

import re
from dataclasses import dataclass

from ..reference.errors import PatchParityError, require_choice
from ..reference.spec import PatchEmbedSpec

VIT_WIDTHS = {"ti": 192, "s": 384, "b": 768, "l": 1024, "h": 1280, "so400m": 1152}
"""embed_dim of each ViT size: DeiT for Ti and S, Dosovitskiy et al. (2021) table 1 for B, L, H, Zhai et al. (2023) for So400m."""

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


CHECK_CASES = (
    Case("c3-b3", PatchEmbedSpec((30, 28), (6, 4), 3, 80), 3),
    Case("c1-b1", PatchEmbedSpec((24, 40), (4, 8), 1, 40), 1),
    Case("c4-b5", PatchEmbedSpec((35, 24), (5, 3), 4, 64), 5),
    Case("gaps-p3s5", PatchEmbedSpec((19, 27), 3, 4, 40, stride=5, remainder="pad-end"), 2),
    Case("overlap-k5s2", PatchEmbedSpec((17, 23), 5, 3, 80, stride=2), 2),
    Case("overlap-k7s4p3", PatchEmbedSpec((32, 40), 7, 3, 160, stride=4, padding=3, remainder="floor"), 2),
    Case("pad-same-k3s2", PatchEmbedSpec((16, 22), 3, 4, 40, stride=2, remainder="same"), 2),
    Case("vit-b16-224", PatchEmbedSpec(224, 16, 3, 768), 2),
    Case("long-k3072", PatchEmbedSpec((64, 96), 32, 3, 12), 2),
    Case("long-k12288", PatchEmbedSpec((64, 128), 64, 3, 10), 2),
)
"""The shapes of `check`: batch 1 and more, image and patch not square, C of 1, 3 and 4 and never equal to P, overlapping, gaps
between patches, padding at the end, TensorFlow's uneven SAME padding, and sums of K = P²·C terms from 32 to 12288, for what a short
accumulator loses grows with K.
D ≥ K wherever that is small, so that the identity kernel reads every value of a patch."""

_FIXED = {
    "sam-b16-1024": PatchEmbedSpec(1024, 16, 3, 768),
    "swin-t4-224": PatchEmbedSpec(224, 4, 3, 96),
    "segformer-k7s4p3-224": PatchEmbedSpec(224, 7, 3, 64, stride=4, padding=3, remainder="floor"),
    "overlap-k5s2-225": PatchEmbedSpec(225, 5, 3, 96, stride=2),
}

_VIT = re.compile(rf"vit-({'|'.join(VIT_WIDTHS)})({'|'.join(map(str, VIT_PATCHES))})-(\d+)")


def named_case(name: str) -> Case:
    """Return the case of a name.

    Args:
        name: `vit-SIZEPATCH-IMAGE` with SIZE one of ti, s, b, l, h, so400m and PATCH 14, 16 or 32 (`vit-b16-224`, `vit-l14-518`),
            `sam-b16-1024`, `swin-t4-224`, `segformer-k7s4p3-224` or `overlap-k5s2-225`; with `-bN` for a batch of N (else 1).

    Raises:
        PatchParityError: a name that is none of these.
    """
    parts = re.fullmatch(r"(.+?)(?:-b([1-9]\d*))?", name)
    model, batch = parts.groups() if parts else ("", None)
    spec = _FIXED.get(model)
    if spec is None and (found := _VIT.fullmatch(model)):
        size, patch, image = found.groups()
        # SigLIP's So400m/14 reads 384 pixels with the last 6 left out, as a VALID convolution does.
        remainder = "floor" if size == "so400m" else "error"
        spec = PatchEmbedSpec(int(image), int(patch), 3, VIT_WIDTHS[size], remainder=remainder)
    if spec is None:
        expected = ", ".join(("vit-b16-224", "vit-l14-518", *_FIXED))
        raise PatchParityError(f"case {name!r} is unknown; expected for instance {expected}, each with -bN for a batch of N")
    return Case(f"{model}-b{batch or 1}", spec, int(batch or 1))


@dataclass(frozen=True)
class Preset:
    """How much to measure.

    Args:
        cases: names for `named_case`.
        rounds: visits to each row; each visit is one warm call and one timed call.
        generations: lives of the worker processes that the rounds are spread over.
        operations: what is timed of each implementation; `tokens` always is.
        every_formulation: whether variants, and implementations whose first call takes seconds (`torch.compile`), take part.
        seeds: how many seeds the main job searches for false alarms at; 1 for no search.
    """

    cases: tuple[str, ...]
    rounds: int
    every_formulation: bool
    seeds: int = 1
    generations: int = 1
    operations: tuple[str, ...] = ("tokens",)


_BATCHES = (1, 2, 4, 8, 16, 32)
_SIZES = (224, 384, 512)

PRESETS = {
    "smoke": Preset(("vit-ti16-224-b1",), rounds=8, every_formulation=False),
    "quick": Preset(
        (
            "vit-b16-224-b1",
            "vit-b16-224-b8",
            "vit-b16-384-b1",
            "swin-t4-224-b4",
            "segformer-k7s4p3-224-b4",
        ),
        rounds=26,
        every_formulation=False,
    ),
    "full": Preset(
        (
            *(f"vit-b16-224-b{batch}" for batch in _BATCHES),
            *(f"vit-b16-{size}-b1" for size in _SIZES[1:]),
            *(f"vit-{size}16-224-b8" for size in ("ti", "s", "l")),
            "vit-h14-224-b8",
            "vit-so400m14-384-b4",
            "vit-l14-518-b4",
            *(f"vit-b32-{size}-b8" for size in (224, 384)),
            "sam-b16-1024-b1",
            "swin-t4-224-b4",
            "swin-t4-224-b32",
            "segformer-k7s4p3-224-b4",
            "overlap-k5s2-225-b1",
        ),
        rounds=32,
        every_formulation=True,
        seeds=200,
        generations=4,
        operations=("tokens", "sequence", "train-step"),
    ),
}
"""`smoke` shows that everything runs, `quick` answers in minutes (a sweep over batch, one over image size, and the shapes that differ
most), `full` holds every named model."""


def preset(name: str) -> Preset:
    """Return a preset, or raise PatchParityError that names the presets."""
    require_choice("preset", name, PRESETS)
    return PRESETS[name]
