"""The command line: thin. Everything it does is a documented function of the package; here are options, tables and exit codes."""

import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from ._options import (
    BackendOption,
    BudgetOption,
    CacheOption,
    CaseOption,
    DeviceOption,
    FrameworkOption,
    GenerationsOption,
    GoalOption,
    HostOption,
    ImageLayoutOption,
    ImageOption,
    ImageSizeOption,
    ImplementationOption,
    InChannelsOption,
    JsonOption,
    KernelLayoutOption,
    LimitOption,
    OperationOption,
    OutOption,
    PaddingOption,
    PatchSizeOption,
    PeerOption,
    PresetOption,
    PythonOption,
    RemainderOption,
    ResumeOption,
    RoundsOption,
    SeedOption,
    StrideOption,
    TargetArgument,
    ThreadsOption,
    TimedDtypeOption,
    TimedPrecisionOption,
    WeightsOption,
)
from ._porting import add_to
from .bench.report.terminal import controls_line, escape, out, print_bench, print_check, print_controls
from .reference.errors import PatchParityError

if TYPE_CHECKING:
    from .bench.plan import BenchOptions
    from .reference.spec import Remainder

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
err = Console(stderr=True, highlight=False, emoji=False)

FINE, FAILED, MISUSED = 0, 1, 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def _print_version(asked: bool) -> None:
    if asked:
        from . import __version__

        out.print(f"patchparity {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Is my patch embedding right, is it fast, and how do I move its weights?"""


@app.command("backends")
def backends_command() -> None:
    """List backends, versions and implementations; imports no framework."""
    from .backends.base import list_backends, list_broken_backends

    table = Table("backend", "version", "implementations", "status")
    for backend in list_backends():
        names = defaultdict(list)
        for implementation in backend.implementations:
            names[implementation.formulation].append(implementation.mode)
        described = ", ".join(f"{formulation} ({' '.join(modes)})" for formulation, modes in names.items())
        missing = backend.missing()
        versions = "\n".join(f"{name} {version}" for name, version in backend.versions().items())
        table.add_row(backend.name, versions, described, escape(missing) if missing else "[green]ready[/]")
    for broken in list_broken_backends():
        table.add_row(broken.name, "", "", f"[red]{escape(broken.reason)}[/]")
    out.print(table)


@app.command("check")
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
    from .bench.conformance import check, check_controls
    from .bench.progress import progress_bar
    from .bench.results import require_writable

    if json:
        require_writable(json)
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


@app.command("diagnose")
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
    from .backends.porting.arrays import read_array, read_problem
    from .backends.porting.live import read_live
    from .bench.live import diagnose_object
    from .bench.results import require_writable, write_json
    from .reference.diagnosis import diagnose
    from .reference.mistakes import CATALOGUE

    if json:
        require_writable(json)
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


@app.command("bench")
def bench_command(
    context: typer.Context,
    preset: PresetOption = "quick",
    threads: ThreadsOption = "",
    backend: BackendOption = None,
    implementation: ImplementationOption = None,
    peer: PeerOption = None,
    case: CaseOption = None,
    device: DeviceOption = None,
    dtype: TimedDtypeOption = None,
    precision: TimedPrecisionOption = None,
    rounds: RoundsOption = None,
    generations: GenerationsOption = None,
    precision_goal: GoalOption = None,
    time_budget: BudgetOption = None,
    python: PythonOption = None,
    host: HostOption = None,
    cache: CacheOption = None,
    operation: OperationOption = None,
    seed: SeedOption = 0,
    call_seconds: LimitOption = 600.0,
    resume: ResumeOption = False,
    out_folder: OutOption = Path("patchparity-bench"),
    json: JsonOption = None,
) -> None:
    """Time every implementation, interleaved over isolated workers; exit 1 if a row failed."""
    from .bench.harness import benchmark
    from .bench.results import require_writable

    if json:
        require_writable(json)
    options = _bench_options(context)
    with _interruptible():
        report = benchmark(options)
    if json:
        _copy(report.folder / "bench.json", json)
    print_bench(report)
    out.print(f"record: {report.folder}")
    raise typer.Exit(FINE if report.ok else FAILED)


@app.command("compare")
def compare_command(
    old: Annotated[Path, typer.Argument(help="A folder that bench or run wrote.")],
    new: Annotated[Path, typer.Argument(help="Another one, of the same machine.")],
    fail_over: Annotated[str, typer.Option("--fail-over", help="How much slower a row may become: 5% or 0.05.")] = "5%",
    force: Annotated[bool, typer.Option("--force", help="Compare records of different machines.")] = False,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write a table for a pull request's comment here; - for stdout.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Compare two records of one machine row by row; exit 1 if a row surely became slower by more than --fail-over."""
    from .bench.compare import compare
    from .bench.report.terminal import print_compare
    from .bench.results import require_writable, write_json, write_text

    to_file = markdown is not None and str(markdown) != "-"
    for path in filter(None, (json, markdown if to_file else None)):
        require_writable(path)
    report = compare(old, new, fail_over=_fraction(fail_over, "--fail-over"), force=force)
    if json:
        write_json(json, report.to_dict())
    if markdown is not None and to_file:
        write_text(markdown, report.to_markdown())
    if markdown is not None and not to_file:
        sys.stdout.write(report.to_markdown())
    else:
        print_compare(report)
    raise typer.Exit(FINE if report.ok else FAILED)


@app.command("recommend")
def recommend_command(
    case: Annotated[str, typer.Option("--case", help="A case, or vit_b16, or vit_base_patch16_224.")] = "vit-b16-224",
    batch: Annotated[int | None, typer.Option("--batch", help="Images at a time; default: the case's own.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option("--dtype", help="float32, float64, bfloat16 or float16.")] = "float32",
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads; default: all cores.")] = None,
    backend: BackendOption = None,
    peer: PeerOption = None,
    record: Annotated[
        Path | None, typer.Option("--record", help="A folder that bench or run wrote; default: measure now.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Say which implementation to use for a shape on this machine, how sure that is, and the lines of code; measures for a minute or two."""
    from .bench.recommend import recommend
    from .bench.report.terminal import print_recommendation
    from .bench.results import require_writable, write_json

    if json:
        require_writable(json)
    if record is not None and peer:
        raise PatchParityError("--peer has no part here: what the record holds is measured already")
    with _interruptible():
        found = recommend(
            case,
            batch=batch,
            device=device,
            dtype=dtype,
            threads=threads,
            backends=tuple(backend or ()),
            peers=tuple(peer or ()),
            record=record,
        )
    if json:
        write_json(json, found.to_dict())
    print_recommendation(found)


def _fraction(text: str, option: str) -> float:
    """Read `5%` or `0.05`."""
    with suppress(ValueError):
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        if value < 1 or text.endswith("%"):
            return value
    raise PatchParityError(f"{option} {text}: expected a percentage or a fraction below 1, such as 5% or 0.05")


@app.command("report")
def report_command(folder: Annotated[Path, typer.Argument(help="A folder that bench or run wrote.")]) -> None:
    """Write report.html, report.md and report.csv from a folder's record."""
    from .bench.harness import load_bench, rows_missing
    from .bench.report.render import render_report

    for file in render_report(folder):
        out.print(str(file))
    if missing := rows_missing(content := load_bench(folder)):
        out.print(
            f"[yellow]partial[/] {missing} of {content['planned']} rows are missing: bench --resume goes on", soft_wrap=True
        )


@app.command("run")
def run_command(
    context: typer.Context,
    preset: PresetOption = "quick",
    image: ImageOption = None,
    remainder: RemainderOption = "error",
    threads: ThreadsOption = "",
    backend: BackendOption = None,
    implementation: ImplementationOption = None,
    peer: PeerOption = None,
    case: CaseOption = None,
    device: DeviceOption = None,
    dtype: TimedDtypeOption = None,
    precision: TimedPrecisionOption = None,
    rounds: RoundsOption = None,
    generations: GenerationsOption = None,
    precision_goal: GoalOption = None,
    time_budget: BudgetOption = None,
    python: PythonOption = None,
    host: HostOption = None,
    cache: CacheOption = None,
    operation: OperationOption = None,
    seed: SeedOption = 0,
    call_seconds: LimitOption = 600.0,
    resume: ResumeOption = False,
    out_folder: OutOption = Path("report"),
) -> None:
    """Do the main job: check, bench, and a report; exit 1 if anything failed."""
    from .bench.job import run
    from .bench.progress import progress_bar

    options = _bench_options(context)
    with _interruptible(), progress_bar("check") as progress:
        report = run(options, image=image, remainder=cast("Remainder", remainder), progress=progress)
    print_check(report.check)
    out.print(controls_line(report.controls))
    if report.seeds:
        print_check(report.seeds)
    print_bench(report.bench)
    for file in report.files:
        out.print(str(file))
    checks = [each for each in (report.check, report.controls, report.seeds) if each is not None]
    wrong = sum(each.summary[verdict] for each in checks for verdict in ("fail", "error"))
    wrong += len(report.bench.content["failures"])
    out.print("[green]fine: nothing failed[/]" if report.ok else f"[bold red]{wrong} results failed[/]: they are listed above")
    raise typer.Exit(FINE if report.ok else FAILED)


@contextmanager
def _interruptible() -> Iterator[None]:
    """On Ctrl-C, say that what was measured is kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        err.print("interrupted; finished cases are kept: the same command with --resume goes on")
        raise typer.Exit(INTERRUPTED) from None


def _bench_options(context: typer.Context) -> "BenchOptions":
    """Read what `bench` and `run` are told to measure; their options are named as the fields of BenchOptions, the repeated ones in the singular."""
    from .bench.plan import BenchOptions

    typed = context.params
    repeated = {
        "cases": "case",
        "backends": "backend",
        "implementations": "implementation",
        "peers": "peer",
        "devices": "device",
        "dtypes": "dtype",
        "precisions": "precision",
        "pythons": "python",
        "hosts": "host",
    }
    plain = ("preset", "rounds", "generations", "seed", "call_seconds", "resume")
    return BenchOptions(
        threads=BenchOptions.parse({"threads": typed["threads"]}).threads,
        precision_goal=None if typed["precision_goal"] is None else _fraction(typed["precision_goal"], "--precision-goal"),
        time_budget=typed["time_budget"],
        caches=tuple(typed["cache"] or ("warm",)),
        operations=tuple(typed["operation"] or ()),
        out=str(typed["out_folder"]),
        **{name: typed[name] for name in plain},
        **{field: tuple(typed[option] or ()) for field, option in repeated.items()},
    )


def _copy(source: Path, target: Path) -> None:
    from .bench.results import write_text

    write_text(target, source.read_text(encoding="utf-8"))


add_to(app)


def main() -> None:
    """Run the command line; a user's mistake is one sentence on stderr and exit status 2."""
    try:
        app()
    except PatchParityError as error:
        if "--traceback" in sys.argv:
            raise
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(MISUSED)


if __name__ == "__main__":
    main()
