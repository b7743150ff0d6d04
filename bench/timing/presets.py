"""What a preset measures."""

from dataclasses import dataclass

from ...reference.errors import require_choice


@dataclass(frozen=True)
class Part:
    """Some of a preset's cases, and what is measured of them.

    Args:
        cases: names for `named_case`.
        dtypes: in which they are measured.
        operations: what is timed of each implementation; `tokens` always is.
        every_thread_count: whether on 1, 2, 4, ... threads, up to all cores, and not on all cores
            alone.
        every_formulation: whether variants and installed peers take part.
        compiled: whether implementations take part whose first call takes seconds
            (`torch.compile`).
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
        parts: the cases; named ones, which a user asks for instead, are measured as those of the
            first part that is for every device.
        rounds: visits to each row; each visit is some warm calls and one timed sample.
        seeds: how many seeds the main job searches for false alarms at; 1 for no search.
        time_budget: seconds that the rounds of one interleave may take; where they would take
            longer there are fewer of them. None for no limit.
    """

    parts: tuple[Part, ...]
    rounds: int
    seeds: int = 1
    time_budget: float | None = None


PRESETS = {
    "smoke": Preset((Part(("vit-ti16-224-b1",)),), rounds=8),
    "quick": Preset(
        (
            Part(
                (
                    "vit-b16-224-b1",
                    "vit-b16-224-b8",
                    "vit-b16-384-b1",
                    "swin-t4-224-b4",
                    "segformer-k7s4p3-224-b4",
                )
            ),
        ),
        rounds=26,
    ),
    "full": Preset(
        (
            # On a GPU what decides comes first, for there time is dear, and what a run had measured
            # when it was stopped stays.
            Part(
                ("vit-b16-224-b256",),
                ("bfloat16",),
                every_formulation=True,
                compiled=True,
                devices=("cuda",),
            ),
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
            Part(
                ("vit-s16-224-b8",),
                operations=("tokens", "sequence", "train-step"),
                every_formulation=True,
            ),
            Part(("vit-b16-224-b8",), dtypes=("bfloat16", "float16"), every_formulation=True),
            Part(
                ("videomae-b16-16x224-b1", "qwen2vl-p14-2x448-b1"),
                every_formulation=True,
                precisions_on_cuda=("ieee", "tf32"),
            ),
            Part(
                tuple(f"vit-b16-{size}-b1" for size in (112, 384, 512, 768, 1024)),
                every_formulation=True,
            ),
            Part(
                (
                    "vit-ti16-224-b32",
                    "vit-l14-518-b1",
                    "segformer-k7s4p3-224-b4",
                    "overlap-k5s2-225-b1",
                ),
                every_formulation=True,
            ),
            Part(tuple(f"vit-b16-224-b{batch}" for batch in (2, 4, 16, 64, 128))),
            Part(("vit-h14-224-b8", "vit-so400m14-384-b1")),
        ),
        rounds=32,
        seeds=200,
        time_budget=25.0,
    ),
}
"""`smoke` shows that everything runs. `quick` answers in minutes: a sweep over batch, one over
image size, and the shapes that differ most. `full` holds every formulation and peer on every named
model, batches from 1 to 128, images from 112 to 1024 pixels, 16-bit types, tubelets, whole
sequences and train steps. Its time budget keeps it below 40 minutes on two cores."""


def preset(name: str) -> Preset:
    """Return a preset, or raise PatchParityError that names the presets."""
    require_choice("preset", name, PRESETS)
    return PRESETS[name]
