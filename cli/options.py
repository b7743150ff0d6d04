"""The options that several commands have: their names, types and help."""

from pathlib import Path
from typing import Annotated

import typer

BackendOption = Annotated[
    list[str] | None, typer.Option("--backend", help="Only this backend; may be repeated.")
]
ImplementationOption = Annotated[
    list[str] | None,
    typer.Option(
        "--implementation",
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
    typer.Option("--device", help="cpu or cuda; may be repeated. Default: all there are."),
]
ImageOption = Annotated[
    Path | None,
    typer.Option(
        "--image", help="A picture (PNG, JPEG, ..., or .npy); default: one that scikit-image ships."
    ),
]
RemainderOption = Annotated[
    str,
    typer.Option(
        "--remainder", help="A picture that does not divide by 16: error, floor, pad-end or same."
    ),
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the results here.")]
TargetArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODULE:ATTRIBUTE]",
        help="Anyone's implementation: a module, layer, function, or a class or factory of these.",
    ),
]
ModuleOption = Annotated[
    str | None,
    typer.Option("--module", help="The part of a whole model that is meant: vit.embeddings."),
]
InitOption = Annotated[
    str | None,
    typer.Option("--init", help="Arguments of the class, as JSON: '{\"image_size\": 224}'."),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="A file with kernel and, if there is one, bias; default: read out of the object.",
    ),
]
KernelLayoutOption = Annotated[
    str | None,
    typer.Option(
        "--kernel-layout",
        help="oihw, hwio, ohwi, canonical, linear-chw or dense-chw; also hwc, cwh, whc, hcw, wch.",
    ),
]
ImageLayoutOption = Annotated[str | None, typer.Option("--image-layout", help="nchw or nhwc.")]
PatchSizeOption = Annotated[
    str | None,
    typer.Option("--patch-size", help="16 or 16x8; needed where the kernel is a matrix."),
]
StrideOption = Annotated[
    str | None, typer.Option("--stride", help="12 or 12x8. Default: the patch size.")
]
PaddingOption = Annotated[
    str | None,
    typer.Option("--padding", help="Zeros on each side, 3 or 3x2; default 0, or the object's own."),
]
InChannelsOption = Annotated[
    int | None, typer.Option("--in-channels", help="Of an object that does not show it.")
]
ImageSizeOption = Annotated[
    str | None,
    typer.Option(
        "--image-size", help="224 or 224x160 (height, width), of an object that does not show it."
    ),
]
FrameworkOption = Annotated[
    str | None,
    typer.Option(
        "--framework",
        help="What a plain function takes: numpy (default), torch, jax or tensorflow.",
    ),
]
PresetOption = Annotated[str, typer.Option("--preset", help="smoke, quick or full.")]
ThreadsOption = Annotated[
    str, typer.Option("--threads", help="CPU threads, one or more: 1,2. Default: all cores.")
]
CaseOption = Annotated[
    list[str] | None,
    typer.Option(
        "--case", help="A case instead of the preset's, or a model's name; may be repeated."
    ),
]
ShapePatchOption = Annotated[
    str | None, typer.Option("--patch-size", help="Of a shape of one's own: 8, or 8x16.")
]
ShapeImageOption = Annotated[
    str | None, typer.Option("--image-size", help="Of a shape of one's own: 96, or 96x128.")
]
ListCasesOption = Annotated[bool, typer.Option("--list", help="Print the names of cases, and end.")]
ShapeWidthOption = Annotated[
    int | None, typer.Option("--embed-dim", help="Of a shape of one's own: D.")
]
ShapeChannelsOption = Annotated[
    int | None, typer.Option("--in-channels", help="Of a shape of one's own: C; default: 3.")
]
ShapeStrideOption = Annotated[
    str | None, typer.Option("--stride", help="Of a shape of one's own; default: the patch.")
]
RoundsOption = Annotated[
    int | None, typer.Option("--rounds", help="Samples a row, instead of the preset's.")
]
GenerationsOption = Annotated[
    int | None,
    typer.Option(
        "--generations", help="Lives of the worker processes that the rounds are spread over."
    ),
]
GoalOption = Annotated[
    str | None,
    typer.Option(
        "--precision-goal",
        help="Measure until every ratio is known so well: 1% or 0.01, the half-width of its "
        "interval.",
    ),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        "--time-budget",
        help="Seconds for a case: after them a precision goal is given up; without a goal there "
        "are as many rounds as fit.",
    ),
]
PythonOption = Annotated[
    list[str] | None,
    typer.Option(
        "--python",
        help="Another interpreter for a backend, BACKEND=PATH; patchparity must be installed "
        "there. May be repeated.",
    ),
]
HostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        help="A machine to measure on: local (the default), ssh=USER@MACHINE or "
        "ssh=USER@MACHINE//python=PATH. May be repeated.",
        show_default=False,
    ),
]
OperationOption = Annotated[
    list[str] | None,
    typer.Option(
        help="tokens (always), sequence, train-step; may be repeated. Default: the preset's.",
        show_default=False,
    ),
]
TimedDtypeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dtype",
        help="float32, float64, bfloat16 or float16; may be repeated. Default: the preset's, "
        "mostly float32.",
        show_default=False,
    ),
]
TimedPrecisionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--precision",
        help="Of float32: ieee, tf32, bf16 or default; may be repeated. Default: ieee, and on a "
        "GPU the preset's.",
        show_default=False,
    ),
]
CacheOption = Annotated[
    list[str] | None,
    typer.Option("--cache", help="warm (the default), cold, or, given twice, both."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of data and order.")]
LimitOption = Annotated[
    float, typer.Option("--call-seconds", help="End a worker that takes longer for one call.")
]
ResumeOption = Annotated[
    bool,
    typer.Option("--resume", help="Keep what the folder's record holds, and measure the rest."),
]
OutOption = Annotated[
    Path, typer.Option("--out", help="Folder for the record (and, of run, the report).")
]
