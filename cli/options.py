"""The options that several commands have: their names, types and help."""

from pathlib import Path
from typing import Annotated

import typer

from .choices import (
    BACKENDS,
    CACHES,
    CASES,
    DEVICES,
    DTYPES,
    FRAMEWORKS,
    IMAGE_LAYOUTS,
    KERNEL_LAYOUTS,
    OPERATIONS,
    PRECISIONS,
    PRESETS,
    REMAINDERS,
)

BackendOption = Annotated[
    list[str] | None,
    typer.Option("--backend", **BACKENDS, help="Only this backend; may be repeated."),
]
ImplementationOption = Annotated[
    list[str] | None,
    typer.Option(
        "--implementation",
        metavar="NAME",
        help="Only this one: backend:formulation:mode, or its leading parts; may be repeated.",
    ),
]
PeerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--peer",
        metavar="MODULE:ATTRIBUTE",
        help="Anyone's implementation, to be timed beside ours; may be repeated.",
    ),
]
DeviceOption = Annotated[
    list[str] | None,
    typer.Option("--device", **DEVICES, help="May be repeated. Default: all there are."),
]
ImageOption = Annotated[
    Path | None,
    typer.Option(
        "--image",
        metavar="FILE",
        help="A picture (PNG, JPEG, ..., or .npy); default: one that scikit-image ships.",
    ),
]
RemainderOption = Annotated[
    str,
    typer.Option(
        "--remainder",
        **REMAINDERS,
        help="What to do with a picture that does not divide by 16.",
    ),
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the results here.")
]
TargetArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODULE:ATTRIBUTE]",
        help="Anyone's implementation: a module, layer, function, or a class or factory of these.",
    ),
]
ModuleOption = Annotated[
    str | None,
    typer.Option(
        "--module", metavar="PATH", help="The part of a whole model that is meant: vit.embeddings."
    ),
]
InitOption = Annotated[
    str | None,
    typer.Option(
        "--init", metavar="JSON", help="Arguments of the class, as JSON: '{\"image_size\": 224}'."
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="A file with kernel and, if there is one, bias; default: read out of the object.",
    ),
]
KernelLayoutOption = Annotated[
    str | None,
    typer.Option(
        "--kernel-layout",
        **KERNEL_LAYOUTS,
        help="oihw, hwio, ohwi, canonical, linear-chw or dense-chw; also hwc, cwh, whc, hcw, wch.",
    ),
]
ImageLayoutOption = Annotated[
    str | None,
    typer.Option(
        "--image-layout",
        **IMAGE_LAYOUTS,
        help="Order of the axes of images; default: what the framework's layers take.",
    ),
]
PatchSizeOption = Annotated[
    str | None,
    typer.Option(
        "--patch-size", metavar="HxW", help="16 or 16x8; needed where the kernel is a matrix."
    ),
]
StrideOption = Annotated[
    str | None, typer.Option("--stride", metavar="HxW", help="12 or 12x8. Default: the patch size.")
]
PaddingOption = Annotated[
    str | None,
    typer.Option(
        "--padding",
        metavar="HxW",
        help="Zeros on each side, 3 or 3x2; default 0, or the object's own.",
    ),
]
InChannelsOption = Annotated[
    int | None,
    typer.Option("--in-channels", metavar="C", help="Of an object that does not show it."),
]
ImageSizeOption = Annotated[
    str | None,
    typer.Option(
        "--image-size",
        metavar="HxW",
        help="224 or 224x160 (height, width), of an object that does not show it.",
    ),
]
FrameworkOption = Annotated[
    str | None,
    typer.Option(
        "--framework",
        **FRAMEWORKS,
        help="What a plain function takes; default: numpy.",
    ),
]
PresetOption = Annotated[str, typer.Option("--preset", **PRESETS, help="How much is timed.")]
ThreadsOption = Annotated[
    str,
    typer.Option(
        "--threads", metavar="N", help="CPU threads, one or more: 1,2. Default: all cores."
    ),
]
CaseOption = Annotated[
    list[str] | None,
    typer.Option(
        "--case",
        **CASES,
        help="A case instead of the preset's, or a model's name; may be repeated.",
    ),
]
ShapePatchOption = Annotated[
    str | None,
    typer.Option("--patch-size", metavar="HxW", help="8, or 8x16."),
]
ShapeImageOption = Annotated[
    str | None,
    typer.Option("--image-size", metavar="HxW", help="96, or 96x128."),
]
ListCasesOption = Annotated[bool, typer.Option("--list", help="Print the names of cases, and end.")]
ShapeWidthOption = Annotated[
    int | None, typer.Option("--embed-dim", metavar="D", help="Width of a token.")
]
ShapeChannelsOption = Annotated[
    int | None,
    typer.Option("--in-channels", metavar="C", help="Default: 3."),
]
ShapeStrideOption = Annotated[
    str | None,
    typer.Option("--stride", metavar="HxW", help="Default: the patch size."),
]
RoundsOption = Annotated[
    int | None,
    typer.Option("--rounds", metavar="N", help="Samples a row, instead of the preset's."),
]
GenerationsOption = Annotated[
    int | None,
    typer.Option(
        "--generations",
        metavar="N",
        help="Lives of the worker processes that the rounds are spread over.",
    ),
]
GoalOption = Annotated[
    str | None,
    typer.Option(
        "--precision-goal",
        metavar="PERCENT",
        help="Measure until every ratio is known so well: 1% or 0.01, the half-width of its "
        "interval.",
    ),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        "--time-budget",
        metavar="SECONDS",
        help="Seconds for a case: after them a precision goal is given up; without a goal there "
        "are as many rounds as fit.",
    ),
]
PythonOption = Annotated[
    list[str] | None,
    typer.Option(
        "--python",
        metavar="BACKEND=PATH",
        help="Another interpreter for a backend, BACKEND=PATH; patchparity must be installed "
        "there. May be repeated.",
    ),
]
HostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        metavar="HOST",
        help="A machine to measure on: local (the default), ssh=USER@MACHINE or "
        "ssh=USER@MACHINE//python=PATH; or every node of a Ray cluster: ray (the one that this "
        "machine is part of) or ray://HOST:PORT. May be repeated.",
        show_default=False,
    ),
]
OperationOption = Annotated[
    list[str] | None,
    typer.Option(
        "--operation",
        **OPERATIONS,
        help="May be repeated; tokens are always timed; uint8: pixels as bytes, normalization "
        "folded and not. Default: the preset's.",
        show_default=False,
    ),
]
TimedDtypeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dtype",
        **DTYPES,
        help="float32, float64, bfloat16 or float16; may be repeated. Default: the preset's, "
        "mostly float32.",
        show_default=False,
    ),
]
TimedPrecisionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--precision",
        **PRECISIONS,
        help="Of float32; may be repeated. Default: ieee, and on a GPU the preset's.",
        show_default=False,
    ),
]
CacheOption = Annotated[
    list[str] | None,
    typer.Option("--cache", **CACHES, help="Default: warm; given twice: both."),
]
SeedOption = Annotated[int, typer.Option("--seed", metavar="N", help="Seed of data and order.")]
LimitOption = Annotated[
    float,
    typer.Option(
        "--call-seconds", metavar="SECONDS", help="End a worker that takes longer for one call."
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option("--resume", help="Keep what the folder's record holds, and measure the rest."),
]
OutOption = Annotated[
    Path,
    typer.Option("--out", metavar="DIR", help="Folder for the record (and, of run, the report)."),
]
