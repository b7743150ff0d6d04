"""patchparity check."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..bench.report.console import escape, out, printable
from ..reference.errors import PatchParityError
from .choices import DTYPES, PRECISIONS
from .exit import FAILED, FINE
from .given import READING, SUITE, options_typed, reading_of, refuse_strays, source_of
from .options import (
    BackendOption,
    DeviceOption,
    FrameworkOption,
    ImageLayoutOption,
    ImageOption,
    ImageSizeOption,
    ImplementationOption,
    InChannelsOption,
    InitOption,
    JsonOption,
    KernelLayoutOption,
    ModuleOption,
    PaddingOption,
    PatchSizeOption,
    PythonOption,
    RemainderOption,
    StrideOption,
    TargetArgument,
    WeightsOption,
)
from .semantics_options import ActivationOption, EpsilonOption, HeadsOption, PoolingOption

if TYPE_CHECKING:
    from ..bench.check.results import CheckReport


def check_command(
    context: typer.Context,
    target: TargetArgument = None,
    weights: WeightsOption = None,
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
    backend: BackendOption = None,
    implementation: ImplementationOption = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            "--dtype",
            **DTYPES,
            help="float32, float64, bfloat16 or float16; may be repeated. Default: all.",
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            "--precision",
            **PRECISIONS,
            help="Of float32; may be repeated. Default: ieee and default.",
        ),
    ] = None,
    device: DeviceOption = None,
    image: ImageOption = None,
    remainder: RemainderOption = "error",
    every_case: Annotated[
        bool,
        typer.Option(
            "--every-case",
            help="Every shape where one or two stand for all: of torch.compile, variants, 16 bits.",
        ),
    ] = False,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds",
            metavar="N",
            help="Search for false alarms instead: this many seeds, on one shape.",
            min=1,
        ),
    ] = 1,
    controls: Annotated[
        bool,
        typer.Option(
            "--negative-controls",
            help="Instead, make every known mistake: the verdicts must reject each.",
        ),
    ] = False,
    python: PythonOption = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="CKPT",
            help="What the whole model MODULE:ATTRIBUTE (or a checkpoint in its place) should "
            "compute, from the embedding to the last block, each block by its own bound.",
        ),
    ] = None,
    heads: HeadsOption = None,
    epsilon: EpsilonOption = None,
    activation: ActivationOption = None,
    pooling: PoolingOption = None,
    json: JsonOption = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="A line for each check of MODULE:ATTRIBUTE.")
    ] = False,
) -> None:
    """Check every implementation, or the one that MODULE:ATTRIBUTE names, against the NumPy
    reference; exit 1 if one is wrong."""
    from ..bench.machine.pools import without_spinning

    without_spinning()  # before NumPy or a framework is loaded
    from ..bench.check.check import check
    from ..porting.files.atomic import require_writable

    if json:
        require_writable(json, weights, image, *source_of(target))
    typed = options_typed(context)
    if controls:
        refuse_strays(
            typed,
            ("controls", "json"),
            "--negative-controls is about the verdicts themselves, on NumPy alone",
        )
        raise typer.Exit(FINE if _controls_hold(json) else FAILED)
    if target is not None and checkpoint is not None:
        raise typer.Exit(_of_model(context, target, checkpoint, json))
    if target is not None:
        refuse_strays(
            typed,
            ("target", "json", "verbose", *READING),
            f"it is about the suite's own implementations, and {target} was named",
        )
        report = check(target, **reading_of(context))
    else:
        refuse_strays(
            typed,
            ("json", *SUITE),
            "it is about somebody's implementation: name it as MODULE:ATTRIBUTE",
        )
        report = _of_suite(
            backends=backend,
            implementations=implementation,
            dtypes=dtype,
            precisions=precision,
            devices=device,
            image=image,
            remainder=remainder,
            every_case=every_case,
            seeds=seeds,
            pythons=python,
        )
    if json:
        report.save(json)
    if report.of_object:
        _print_answer(report, verbose)
    else:
        from ..bench.report.terminal import print_check

        print_check(report)
    raise typer.Exit(FINE if report.ok else FAILED)


def _of_model(context: typer.Context, target: str, checkpoint: Path, json: Path | None) -> int:
    from ..porting.files.atomic import write_json
    from .whole_model import of_model

    found = of_model(context, target, checkpoint)
    if json:
        write_json(json, found.to_dict())
    for line in found.lines():
        out.print(escape(line), soft_wrap=True)
    return FINE if found.correct else FAILED


def _print_answer(report: "CheckReport", every: bool) -> None:
    """Print what the check of an object comes to, without rich, which takes 40 ms to load."""
    from ..bench.check.object_answer import answer

    colored = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for line in answer(report, every):
        word, _, rest = line.partition(":")
        shown = printable(line)
        if colored and word in ("right", "wrong"):
            shown = f"\033[1;{32 if word == 'right' else 31}m{word}\033[0m:{printable(rest)}"
        print(shown)


def _controls_hold(json: Path | None) -> bool:
    """Make every known mistake and print what rejected it; whether each was."""
    from ..bench.check.suite import check_controls
    from ..bench.progress import progress_bar
    from ..bench.report.terminal import print_controls

    with progress_bar("negative controls") as progress:
        controlled = check_controls(progress=progress)
    if json:
        controlled.save(json)
    print_controls(controlled)
    return controlled.ok


def _of_suite(**asked: Any) -> "CheckReport":
    """Check the suite's own implementations.

    Raises:
        PatchParityError: where nothing of what was asked for could be checked.
    """
    from ..bench.check.check import check
    from ..bench.progress import progress_bar

    with progress_bar("check") as progress:
        report = check(**asked, progress=progress)
    tried = [report.summary[verdict] for verdict in ("pass", "fail", "known", "error")]
    if report.results and not any(tried):
        raise PatchParityError(f"nothing was checked: {report.results[0].message}")
    return report
