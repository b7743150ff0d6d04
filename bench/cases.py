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
    "videomae-b16-16x224": PatchEmbedSpec((16, 224, 224), (2, 16, 16), 3, 768),
    "qwen2vl-p14-2x448": PatchEmbedSpec((2, 448, 448), (2, 14, 14), 3, 1280),
}
"""Sizes that follow no rule. The last two are tubelets, one axis more: VideoMAE's ViT-B on 16 frames, Qwen2-VL's on a picture, which it sees as two."""

_VIT = re.compile(rf"vit-({'|'.join(VIT_WIDTHS)})({'|'.join(map(str, VIT_PATCHES))})-(\d+)")


def named_case(name: str) -> Case:
    """Return the case of a name.

    Args:
        name: `vit-SIZEPATCH-IMAGE` with SIZE one of ti, s, b, l, h, so400m and PATCH 14, 16 or 32 (`vit-b16-224`, `vit-l14-518`),
            `sam-b16-1024`, `swin-t4-224`, `segformer-k7s4p3-224`, `overlap-k5s2-225`, or the tubelets `videomae-b16-16x224` and
            `qwen2vl-p14-2x448`; with `-bN` for a batch of N (else 1).

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
class Part:
    """Some of a preset's cases, and what is measured of them.

    Args:
        cases: names for `named_case`.
        dtypes: in which they are measured.
        operations: what is timed of each implementation; `tokens` always is.
        every_thread_count: whether on 1, 2, 4, ... threads, up to all cores, and not on all cores alone.
        every_formulation: whether variants and installed peers take part.
        compiled: whether implementations take part whose first call takes seconds (`torch.compile`).
        generations: lives of the worker processes that the rounds are spread over.
        devices: where; none means everywhere.
        precisions_on_cuda: of float32, on a GPU; on the CPU it is `ieee` alone.
    """

    cases: tuple[str, ...]
    dtypes: tuple[str, ...] = ("float32",)
    operations: tuple[str, ...] = ("tokens",)
    every_thread_count: bool = False
    every_formulation: bool = False
    compiled: bool = False
    generations: int = 1
    devices: tuple[str, ...] = ()
    precisions_on_cuda: tuple[str, ...] = ("ieee",)


@dataclass(frozen=True)
class Preset:
    """How much to measure.

    Args:
        parts: the cases; named ones, which a user asks for instead, are measured as those of the first part that is for every device.
        rounds: visits to each row; each visit is some warm calls and one timed sample.
        seeds: how many seeds the main job searches for false alarms at; 1 for no search.
        time_budget: seconds that the rounds of one interleave may take; where they would take longer there are fewer of them. None for no limit.
    """

    parts: tuple[Part, ...]
    rounds: int
    seeds: int = 1
    time_budget: float | None = None


PRESETS = {
    "smoke": Preset((Part(("vit-ti16-224-b1",)),), rounds=8),
    "quick": Preset(
        (Part(("vit-b16-224-b1", "vit-b16-224-b8", "vit-b16-384-b1", "swin-t4-224-b4", "segformer-k7s4p3-224-b4")),),
        rounds=26,
    ),
    "full": Preset(
        (
            # On a GPU what decides comes first, for there time is dear, and what a run had measured when it was stopped stays.
            Part(("vit-b16-224-b256",), ("bfloat16",), every_formulation=True, compiled=True, devices=("cuda",)),
            Part(
                ("vit-b16-224-b1", "vit-b16-224-b32", "videomae-b16-16x224-b16"),
                ("bfloat16",),
                every_formulation=True,
                devices=("cuda",),
            ),
            Part(
                ("vit-b16-224-b256",),
                ("float32", "float16"),
                every_formulation=True,
                devices=("cuda",),
                precisions_on_cuda=("ieee", "tf32"),
            ),
            Part(
                tuple(f"vit-b16-224-b{batch}" for batch in (8, 64, 16, 128, 2, 4)),
                ("bfloat16",),
                every_formulation=True,
                devices=("cuda",),
            ),
            Part(
                ("vit-b16-224-b8",),
                every_thread_count=True,
                every_formulation=True,
                compiled=True,
                generations=2,
                precisions_on_cuda=("ieee", "tf32"),
            ),
            Part(
                ("vit-b16-224-b1", "vit-b16-224-b32", "vit-b32-224-b8", "swin-t4-224-b4"),
                every_thread_count=True,
                every_formulation=True,
                precisions_on_cuda=("ieee", "tf32"),
            ),
            Part(("vit-s16-224-b8",), operations=("tokens", "sequence", "train-step"), every_formulation=True),
            Part(("vit-b16-224-b8",), dtypes=("bfloat16", "float16"), every_formulation=True),
            Part(
                ("videomae-b16-16x224-b1", "qwen2vl-p14-2x448-b1"),
                every_formulation=True,
                precisions_on_cuda=("ieee", "tf32"),
            ),
            Part(tuple(f"vit-b16-{size}-b1" for size in (112, 384, 512, 768, 1024)), every_formulation=True),
            Part(
                ("vit-ti16-224-b32", "vit-l14-518-b1", "segformer-k7s4p3-224-b4", "overlap-k5s2-225-b1"), every_formulation=True
            ),
            Part(tuple(f"vit-b16-224-b{batch}" for batch in (2, 4, 16, 64, 128))),
            Part(("vit-h14-224-b8", "vit-so400m14-384-b1")),
        ),
        rounds=32,
        seeds=200,
        time_budget=25.0,
    ),
}
"""`smoke` shows that everything runs. `quick` answers in minutes: a sweep over batch, one over image size, and the shapes that differ most. `full`
holds every formulation and peer on every named model, batches from 1 to 128, images from 112 to 1024 pixels, 16-bit types, tubelets, whole sequences and
train steps. Its time budget keeps it below 40 minutes on two cores."""


def preset(name: str) -> Preset:
    """Return a preset, or raise PatchParityError that names the presets."""
    require_choice("preset", name, PRESETS)
    return PRESETS[name]
