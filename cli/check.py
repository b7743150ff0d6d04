"""The commands about right and wrong: check, diagnose. Thin, as `__main__`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ..bench.report.terminal import escape, out, print_check, print_controls
from ..reference.errors import PatchParityError
from .exit import FAILED, FINE
from .options import (
    BackendOption,
    DeviceOption,
    FrameworkOption,
    ImageLayoutOption,
    ImageOption,
    ImageSizeOption,
    ImplementationOption,
    InChannelsOption,
    JsonOption,
    KernelLayoutOption,
    PaddingOption,
    PatchSizeOption,
    RemainderOption,
    StrideOption,
    TargetArgument,
    WeightsOption,
)

if TYPE_CHECKING:
    from ..reference.spec import Remainder


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
    backend: BackendOption = None,
    implementation: ImplementationOption = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option("--dtype", help="float32, float64, bfloat16 or float16; may be repeated. Default: all."),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option("--precision", help="Of float32: ieee, tf32, bf16 or default; may be repeated. Default: ieee and default."),
    ] = None,
    device: DeviceOption = None,
    image: ImageOption = None,
    remainder: RemainderOption = "error",
    every_case: Annotated[
        bool, typer.Option("--every-case", help="Compile torch.compile for every shape, not one alone.")
    ] = False,
    seeds: Annotated[
        int, typer.Option("--seeds", help="Search for false alarms instead: this many seeds, on one shape.", min=1)
    ] = 1,
    controls: Annotated[
        bool, typer.Option("--negative-controls", help="Instead, make every known mistake: the verdicts must reject each.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """Check every implementation, or the one that MODULE:ATTRIBUTE names, against the NumPy reference; exit 1 if one is wrong."""
    from ..bench.check.suite import check, check_controls
    from ..bench.progress import progress_bar
    from ..bench.record.record import require_writable

    if json:
        require_writable(json, weights, image, *_source_of(target))
    typed = _given(context)
    if controls:
        _refuse_strays(typed, ("controls", "json"), "--negative-controls is about the verdicts themselves, on NumPy alone")
        with progress_bar("negative controls") as progress:
            controlled = check_controls(progress=progress)
        if json:
            controlled.save(json)
        print_controls(controlled)
        raise typer.Exit(FINE if controlled.ok else FAILED)
    if target is not None:
        _refuse_strays(
            typed, ("target", "json", *READING), f"it is about the suite's own implementations, and {target} was named"
        )
        report = check(target, **_reading(context))
    else:
        _refuse_strays(typed, ("json", *SUITE), "it is about somebody's implementation: name it as MODULE:ATTRIBUTE")
        with progress_bar("check") as progress:
            report = check(
                backends=backend,
                implementations=implementation,
                dtypes=dtype,
                precisions=precision,
                devices=device,
                image=image,
                remainder=remainder,
                every_case=every_case,
                seeds=seeds,
                progress=progress,
            )
        if report.results and not any(report.summary[verdict] for verdict in ("pass", "fail", "known", "error")):
            raise PatchParityError(f"nothing was checked: {report.results[0].message}")
    if json:
        report.save(json)
    print_check(report)
    raise typer.Exit(FINE if report.ok else FAILED)


def diagnose_command(
    context: typer.Context,
    target: TargetArgument = None,
    images: Annotated[Path | None, typer.Option("--images", help="The images: .npy, .npz or .safetensors.")] = None,
    weights: WeightsOption = None,
    tokens: Annotated[
        Path | None, typer.Option("--tokens", help="What the implementation gave for these images and weights.")
    ] = None,
    kernel_layout: KernelLayoutOption = None,
    image_layout: ImageLayoutOption = None,
    patch_size: PatchSizeOption = None,
    in_channels: InChannelsOption = None,
    image_size: ImageSizeOption = None,
    stride: StrideOption = None,
    padding: PaddingOption = None,
    framework: FrameworkOption = None,
    remainder: Annotated[str, typer.Option(help="Images that do not divide: error, floor, pad-end or same.")] = "floor",
    json: JsonOption = None,
) -> None:
    """Say which known mistake, or pair of mistakes, explains a wrong output, and how to mend it; exit 1 if it is wrong."""
    from ..bench.check.objects import diagnose_object
    from ..bench.record.record import require_writable, write_json
    from ..porting.files.arrays import read_array, read_problem
    from ..porting.objects.read import read_live
    from ..reference.diagnosis import diagnose
    from ..reference.mistakes import CATALOGUE

    if json:
        require_writable(json, images, weights, tokens, *_source_of(target))
    if target is not None:
        _refuse_strays(_given(context), ("target", "json", *READING), f"{target} is run on images of our own")
        live = read_live(target, **_reading(context))
        found = diagnose_object(live)
        for note in live.notes:
            out.print(escape(note), soft_wrap=True)
    else:
        if not (images and weights and tokens):
            raise PatchParityError("diagnose needs --images, --weights and --tokens, or MODULE:ATTRIBUTE")
        files = ("images", "tokens", "json", "remainder", *(name for name in READING if name not in LIVE_ONLY))
        _refuse_strays(_given(context), files, "it is about somebody's implementation: name it as MODULE:ATTRIBUTE")
        problem = read_problem(
            images,
            weights,
            kernel_layout=kernel_layout or "oihw",
            image_layout=image_layout or "nchw",
            patch_size=patch_size,
            stride=stride,
            padding=padding or 0,
            remainder=cast("Remainder", remainder),
        )
        found = diagnose(problem[0], problem[1], read_array(tokens, "tokens"), problem[2])
    if json:
        write_json(json, found.to_dict())
    out.print(f"{found.status}: {escape(found.explanation)}", soft_wrap=True)
    if found.mend:
        out.print(f"mend: {escape(found.mend)}", soft_wrap=True)
    for other in found.also:
        told = "; and ".join(CATALOGUE[name].explanation for name in other)
        out.print(f"also possible ({escape(', '.join(other))}): {escape(told)}", soft_wrap=True)
    raise typer.Exit(FINE if found.correct else FAILED)


READING = (
    "weights",
    "kernel_layout",
    "image_layout",
    "patch_size",
    "in_channels",
    "image_size",
    "stride",
    "padding",
    "framework",
)
"""Options that say how somebody's implementation is read; the names are those of `read_live`."""


def _source_of(target: str | None) -> list[Path]:
    """The file of a `module:attribute` in the folder where it is looked for."""
    return [] if target is None else [Path(target.partition(":")[0].replace(".", "/") + ".py")]


def _reading(context: typer.Context) -> dict[str, Any]:
    return {name: context.params[name] for name in READING}


SUITE = ("backend", "implementation", "dtype", "precision", "device", "image", "remainder", "every_case", "seeds")
"""Options of a check of the suite's own implementations."""

LIVE_ONLY = ("in_channels", "image_size", "framework")
"""Options of READING that files answer themselves."""


def _given(context: typer.Context) -> list[str]:
    """Names of the parameters that were typed."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def _refuse_strays(typed: list[str], allowed: tuple[str, ...], why: str) -> None:
    """Raise where a parameter was typed that plays no part in what was asked for."""
    names = {"target": "MODULE:ATTRIBUTE", "controls": "--negative-controls"}
    if strays := [names.get(name, f"--{name.replace('_', '-')}") for name in typed if name not in allowed]:
        raise PatchParityError(f"{', '.join(strays)} has no part here: {why}")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for name, command in (
        ("check", check_command),
        ("diagnose", diagnose_command),
    ):
        app.command(name)(command)
