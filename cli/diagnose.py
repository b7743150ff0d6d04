"""patchparity diagnose."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ..bench.report.console import escape, out
from ..reference.errors import PatchParityError
from .checkpoint_options import PreprocessBackendOption
from .choices import RECIPES, REMAINDERS
from .exit import FAILED, FINE
from .given import LIVE_ONLY, READING, options_typed, reading_of, refuse_strays, source_of
from .options import (
    FrameworkOption,
    ImageLayoutOption,
    ImageSizeOption,
    InChannelsOption,
    InitOption,
    JsonOption,
    KernelLayoutOption,
    ModuleOption,
    PaddingOption,
    PatchSizeOption,
    StrideOption,
    TargetArgument,
    WeightsOption,
)
from .semantics_options import ActivationOption, EpsilonOption, HeadsOption, PoolingOption

if TYPE_CHECKING:
    from ..porting.model_diagnosis import ModelDiagnosis
    from ..reference.diagnosis.diagnose import Diagnosis
    from ..reference.diagnosis.pixels import PixelDiagnosis
    from ..reference.diagnosis.resize import ResizeDiagnosis
    from ..reference.spec import Remainder


def diagnose_command(
    context: typer.Context,
    target: TargetArgument = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="FILE", help="The images: .npy, .npz or .safetensors."),
    ] = None,
    weights: WeightsOption = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            "--tokens",
            metavar="FILE",
            help="What the implementation gave for these images and weights.",
        ),
    ] = None,
    kernel_layout: KernelLayoutOption = None,
    image_layout: ImageLayoutOption = None,
    patch_size: PatchSizeOption = None,
    in_channels: InChannelsOption = None,
    image_size: ImageSizeOption = None,
    stride: StrideOption = None,
    padding: PaddingOption = None,
    framework: FrameworkOption = None,
    module: ModuleOption = None,
    init: InitOption = None,
    remainder: Annotated[
        str,
        typer.Option(
            "--remainder",
            **REMAINDERS,
            help="What to do with images that do not divide.",
        ),
    ] = "floor",
    positions: Annotated[
        Path | None,
        typer.Option(
            "--positions",
            metavar="FILE",
            help="A table of positions, .npy, (rows, D): by which recipe --resized was made of it.",
        ),
    ] = None,
    resized: Annotated[
        Path | None,
        typer.Option("--resized", metavar="FILE", help="The table of another grid."),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            "--grid", metavar="HxW", help="Patches of --positions; a square where none is told."
        ),
    ] = None,
    new_grid: Annotated[
        str | None, typer.Option("--new-grid", metavar="HxW", help="The same of --resized.")
    ] = None,
    prefix_rows: Annotated[
        int,
        typer.Option(
            "--prefix-rows", min=0, help="Rows in front, of class and other tokens, in both tables."
        ),
    ] = 0,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="CKPT",
            help="What the whole model MODULE:ATTRIBUTE (or a checkpoint in its place) should "
            "compute: which block is wrong, and how. Alone: by which recipe a model of it resized "
            "its positions, from --images of another size and --tokens, the sequence that entered "
            "its encoder.",
        ),
    ] = None,
    resample: Annotated[
        str | None,
        typer.Option(
            "--resample", **RECIPES, help="The recipe that it should have been: what differs."
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option("--image", metavar="FILE", help="A picture: how --pixels were made of it."),
    ] = None,
    pixels: Annotated[
        Path | None,
        typer.Option(
            "--pixels", metavar="FILE", help="What an image processor made of --image, .npy."
        ),
    ] = None,
    preprocess: Annotated[
        Path | None,
        typer.Option(
            "--preprocess",
            metavar="FILE",
            help="The steps that it should have made: a preprocessor_config.json, timm's "
            "config.json, KerasHub's preprocessor.json.",
        ),
    ] = None,
    preprocess_backend: PreprocessBackendOption = "torchvision",
    heads: HeadsOption = None,
    epsilon: EpsilonOption = None,
    activation: ActivationOption = None,
    pooling: PoolingOption = None,
    json: JsonOption = None,
) -> None:
    """Say which known mistake, or pair of mistakes, explains a wrong output, and how to mend it; in
    which block of a whole model; by which recipe positions were resized, or images made of a
    picture; exit 1 if it is wrong."""
    from ..porting.files.atomic import require_writable, write_json
    from .diagnose_sizes import of_pixels, of_positions, of_sequence
    from .whole_model import of_model

    typed = options_typed(context)
    if json:
        given = (images, weights, tokens, positions, resized, image, pixels, preprocess)
        require_writable(json, *given, *source_of(target))
    diagnosis: Diagnosis | ResizeDiagnosis | PixelDiagnosis | ModelDiagnosis
    if target is not None and checkpoint is not None:
        diagnosis = of_model(context, target, checkpoint)
    elif target is not None:
        diagnosis = _of_object(context, target)
    elif positions or resized:
        diagnosis = of_positions(typed, positions, resized, grid, new_grid, prefix_rows, resample)
    elif image or pixels:
        diagnosis = of_pixels(typed, image, pixels, preprocess, preprocess_backend)
    elif checkpoint:
        diagnosis = of_sequence(typed, checkpoint, images, tokens, resample)
    elif images and weights and tokens:
        diagnosis = _of_arrays(context, images, weights, tokens)
    else:
        raise PatchParityError(
            "diagnose needs --images, --weights and --tokens, or MODULE:ATTRIBUTE; or --positions "
            "and --resized; or --checkpoint, --images and --tokens; or --image and --pixels"
        )
    if json:
        write_json(json, diagnosis.to_dict())
    for line in diagnosis.lines():
        out.print(escape(line), soft_wrap=True)
    raise typer.Exit(FINE if diagnosis.correct else FAILED)


def _of_object(context: typer.Context, target: str) -> "Diagnosis":
    """What explains the output of MODULE:ATTRIBUTE; what was found out about it is printed."""
    from ..bench.check.object_diagnosis import diagnose_object
    from ..porting.objects.read import read_live

    refuse_strays(
        options_typed(context),
        ("target", "json", *READING),
        f"{target} is run on images of our own",
    )
    live = read_live(target, **reading_of(context))
    diagnosis = diagnose_object(live)
    for note in live.notes:
        out.print(escape(note), soft_wrap=True)
    return diagnosis


def _of_arrays(context: typer.Context, images: Path, weights: Path, tokens: Path) -> "Diagnosis":
    """What explains the output in a file."""
    from ..porting.files.arrays import read_array, read_problem
    from ..reference.diagnosis.diagnose import diagnose

    of_files = [name for name in READING if name not in LIVE_ONLY]
    refuse_strays(
        options_typed(context),
        ("images", "tokens", "json", "remainder", *of_files),
        "it is about somebody's implementation: name it as MODULE:ATTRIBUTE",
    )
    typed = reading_of(context)
    read_images, read_weights, spec = read_problem(
        images,
        weights,
        kernel_layout=typed["kernel_layout"] or "oihw",
        image_layout=typed["image_layout"] or "nchw",
        patch_size=typed["patch_size"],
        stride=typed["stride"],
        padding=typed["padding"] or 0,
        remainder=cast("Remainder", context.params["remainder"]),
    )
    return diagnose(read_images, read_weights, read_array(tokens, "tokens"), spec)
