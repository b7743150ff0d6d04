"""The command line: thin. Everything it does is a documented function of the package; here are options, tables and exit codes."""

import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import rich.box
import typer
from rich.console import Console
from rich.table import Table

from .reference.errors import PatchParityError

if TYPE_CHECKING:
    from .backends.base import Precision
    from .bench.harness import BenchReport
    from .bench.plan import BenchOptions
    from .bench.verdicts import CheckReport, CheckResult
    from .reference.spec import Remainder

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
out = Console(highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)

FINE, FAILED, MISUSED = 0, 1, 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it

BackendOption = Annotated[list[str] | None, typer.Option("--backend", help="Only this backend; may be repeated.")]
ImplementationOption = Annotated[
    list[str] | None,
    typer.Option("--implementation", help="Only this one (backend:formulation:mode, or its beginning); may be repeated."),
]
DeviceOption = Annotated[list[str] | None, typer.Option("--device", help="cpu or cuda; may be repeated. Default: all there are.")]
ImageOption = Annotated[
    Path | None, typer.Option("--image", help="A picture (PNG, JPEG, ..., or .npy); default: one that scikit-image ships.")
]
RemainderOption = Annotated[
    str, typer.Option("--remainder", help="A picture that does not divide by 16: error, floor, pad-end or same.")
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the results here.")]
TargetArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODULE:ATTRIBUTE]", help="Anyone's implementation: a module, layer, function, or a class or factory of these."
    ),
]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", help="A file with kernel and, if there is one, bias; default: read out of the object.")
]
KernelLayoutOption = Annotated[
    str | None, typer.Option("--kernel-layout", help="oihw, hwio, ohwi, linear-chw, linear-hwc, dense-chw or dense-hwc.")
]
ImageLayoutOption = Annotated[str | None, typer.Option("--image-layout", help="nchw or nhwc.")]
PatchSizeOption = Annotated[int | None, typer.Option("--patch-size", help="Needed where the kernel is a matrix.")]
StrideOption = Annotated[int | None, typer.Option("--stride", help="Default: the patch size.")]
PaddingOption = Annotated[int | None, typer.Option("--padding", help="Zeros on each side; default 0, or the object's own.")]
InChannelsOption = Annotated[int | None, typer.Option("--in-channels", help="Of an object that does not show it.")]
ImageSizeOption = Annotated[int | None, typer.Option("--image-size", help="Of an object that does not show it.")]
FrameworkOption = Annotated[
    str | None, typer.Option("--framework", help="What a plain function takes: numpy (default), torch, jax or tensorflow.")
]
STYLES = {"pass": "green", "fail": "bold red", "error": "bold red", "skip": "yellow", "known": "cyan"}


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
    if controls:
        with progress_bar("controls") as progress:
            controlled = check_controls(progress=progress)
        if json:
            controlled.save(json)
        print_controls(controlled)
        raise typer.Exit(FINE if controlled.ok else FAILED)
    foreign: dict[str, Any] = dict(
        weights=weights,
        kernel_layout=kernel_layout,
        image_layout=image_layout,
        patch_size=patch_size,
        in_channels=in_channels,
        image_size=image_size,
        stride=stride,
        padding=padding,
        framework=framework,
    )
    _refuse_strays(target, foreign)
    with progress_bar("check") as progress:
        report = check(
            target,
            **foreign,
            backends=backend,
            implementations=implementation,
            dtypes=dtype,
            precisions=cast("list[Precision] | None", precision),
            devices=device,
            image=image,
            remainder=cast("Remainder", remainder),
            every_case=every_case,
            progress=progress,
        )
    if json:
        report.save(json)
    print_check(report)
    raise typer.Exit(FINE if report.ok else FAILED)


@app.command("diagnose")
def diagnose_command(
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

    if json:
        require_writable(json)
    if target is not None:
        if images or tokens:
            raise PatchParityError(
                f"--images and --tokens were given beside {target}, which is run on images of our own: leave them out"
            )
        live = read_live(
            target,
            weights=weights,
            kernel_layout=kernel_layout,
            image_layout=image_layout,
            patch_size=patch_size,
            in_channels=in_channels,
            image_size=image_size,
            stride=stride,
            padding=padding,
            framework=framework,
        )
        found = diagnose_object(live)
        for note in live.notes:
            out.print(escape(note), soft_wrap=True)
    else:
        if not (images and weights and tokens):
            raise PatchParityError("diagnose needs --images, --weights and --tokens, or MODULE:ATTRIBUTE")
        _refuse_strays(target, dict(in_channels=in_channels, image_size=image_size, framework=framework))
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
        out.print(f"also possible: {escape(' and '.join(other))}")
    raise typer.Exit(FINE if found.correct else FAILED)


def _refuse_strays(target: str | None, options: dict[str, Any]) -> None:
    """Raise where options of somebody's implementation are given, and no implementation."""
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if target is None and given:
        raise PatchParityError(f"{', '.join(given)} tell of somebody's implementation: name it as MODULE:ATTRIBUTE")


PresetOption = Annotated[str, typer.Option("--preset", help="smoke, quick or full.")]
ThreadsOption = Annotated[str, typer.Option("--threads", help="CPU threads, one or more: 1,2. Default: all cores.")]
CaseOption = Annotated[list[str] | None, typer.Option("--case", help="A named case instead of the preset's; may be repeated.")]
RoundsOption = Annotated[int | None, typer.Option("--rounds", help="Samples a row, instead of the preset's.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of data and order.")]
LimitOption = Annotated[float, typer.Option("--call-seconds", help="End a worker that takes longer for one call.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Keep what the folder's record holds, and measure the rest.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder for the record and the report.")]


@app.command("bench")
def bench_command(
    preset: PresetOption = "quick",
    threads: ThreadsOption = "",
    backend: BackendOption = None,
    implementation: ImplementationOption = None,
    case: CaseOption = None,
    device: DeviceOption = None,
    rounds: RoundsOption = None,
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
    options = _bench_options(
        preset, threads, backend, implementation, case, device, rounds, seed, call_seconds, resume, out_folder
    )
    with _interruptible():
        report = benchmark(options)
    if json:
        _copy(report.folder / "bench.json", json)
    print_bench(report)
    out.print(f"record: {report.folder}")
    raise typer.Exit(FINE if report.ok else FAILED)


@app.command("report")
def report_command(folder: Annotated[Path, typer.Argument(help="A folder that bench or run wrote.")]) -> None:
    """Write report.html, report.md and report.csv from a folder's record."""
    from .bench.report.render import render_report

    for file in render_report(folder):
        out.print(str(file))


@app.command("run")
def run_command(
    preset: PresetOption = "quick",
    image: ImageOption = None,
    remainder: RemainderOption = "error",
    threads: ThreadsOption = "",
    backend: BackendOption = None,
    implementation: ImplementationOption = None,
    case: CaseOption = None,
    device: DeviceOption = None,
    rounds: RoundsOption = None,
    seed: SeedOption = 0,
    call_seconds: LimitOption = 600.0,
    resume: ResumeOption = False,
    out_folder: OutOption = Path("report"),
) -> None:
    """Do the main job: check, bench, and a report; exit 1 if anything failed."""
    from .bench.job import run
    from .bench.progress import progress_bar

    options = _bench_options(
        preset, threads, backend, implementation, case, device, rounds, seed, call_seconds, resume, out_folder
    )
    with _interruptible(), progress_bar("check") as progress:
        report = run(options, image=image, remainder=cast("Remainder", remainder), progress=progress)
    print_check(report.check)
    print_bench(report.bench)
    for file in report.files:
        out.print(str(file))
    wrong = report.check.summary["fail"] + report.check.summary["error"] + len(report.bench.content["failures"])
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


def _bench_options(
    preset: str,
    threads: str,
    backends: list[str] | None,
    implementations: list[str] | None,
    cases: list[str] | None,
    devices: list[str] | None,
    rounds: int | None,
    seed: int,
    call_seconds: float,
    resume: bool,
    folder: Path,
) -> "BenchOptions":
    from .bench.plan import BenchOptions

    given = BenchOptions.parse({"threads": threads})
    return BenchOptions(
        preset=preset,
        cases=tuple(cases or ()),
        backends=tuple(backends or ()),
        implementations=tuple(implementations or ()),
        threads=given.threads,
        devices=tuple(devices or ()),
        rounds=rounds,
        seed=seed,
        call_seconds=call_seconds,
        out=str(folder),
        resume=resume,
    )


def _copy(source: Path, target: Path) -> None:
    from .bench.results import write_text

    write_text(target, source.read_text(encoding="utf-8"))


def print_bench(report: "BenchReport") -> None:
    """Print, for each case, the fastest formulation of each framework, then what was disturbed and what failed."""
    from .bench.views import disturbed_cases, fastest, ratio_text

    table = _table("Fastest of each framework", ("implementation",), ("ms", "GFLOP/s", "of GEMM", "of reference [95%]"))
    best = fastest(report.content["benchmarks"])
    last = None
    for (case, threads, *_), entry in best.items():
        info = entry["extra_info"]
        name = f"{case}, {threads} thread{'s' if threads > 1 else ''}"
        if name != last:
            table.add_row(f"[bold]{name}[/]")
        table.add_row(
            "  " + info["implementation"] + ("" if info["device"] == "cpu" else f" {info['device']}"),
            f"{1e3 * entry['stats']['median']:.3g}",
            f"{info['gflops']:.1f}",
            "" if info["gemm_fraction"] is None else f"{100 * info['gemm_fraction']:.0f}%",
            "" if info["ratio"] is None else escape(ratio_text(info["ratio"], info["ratio_interval"])),
        )
        last = name
    if best:
        out.print(table)
    for case, cores in disturbed_cases(report.content["benchmarks"]).items():
        out.print(
            f"[yellow]disturbed[/] {case}: others kept {cores:.1f} of {report.content['environment']['cores']} cores busy; measure again"
        )
    for outcome in report.content["failures"]:
        out.print(
            f"[{STYLES['fail']}]{outcome['status']}[/] {outcome['implementation']} {outcome['case']}: {escape(outcome['message'])}"
        )
    for message in dict.fromkeys(outcome["message"] for outcome in report.content["skipped"]):
        out.print(f"[{STYLES['skip']}]skip[/] {escape(message)}")


def escape(text: str) -> str:
    """Keep rich from reading `patchparity[torch]` as markup."""
    from rich.markup import escape as rich_escape

    return rich_escape(text)


def _table(title: str, texts: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    """A table that fits 80 columns: no frame, nothing wrapped, numbers to the right."""
    table = Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in texts:
        table.add_column(escape(name), no_wrap=True)
    for name in numbers:
        table.add_column(escape(name), no_wrap=True, justify="right")
    return table


def print_controls(report: "CheckReport") -> None:
    """Print the kill table: for each mistake, in how many problems of each dtype it was rejected, and what may survive and why."""
    dtypes = list(dict.fromkeys(result.dtype or "" for result in report.results))
    table = _table("Kill table: rejected of made", ("mistake",), tuple(dtypes))
    cells: dict[str, dict[str, list[CheckResult]]] = defaultdict(lambda: defaultdict(list))
    for result in report.results:
        cells[result.mistake or ""][result.dtype or ""].append(result)
    for mistake, by_dtype in cells.items():
        row = []
        for dtype in dtypes:
            results = by_dtype[dtype]
            killed = sum(bool(result.killed_by) for result in results)
            style = (
                "fail" if any(result.verdict == "fail" for result in results) else "known" if killed < len(results) else "pass"
            )
            row.append(f"[{STYLES[style]}]{killed}/{len(results)}[/]" if results else "")
        table.add_row(mistake, *row)
    out.print(table)
    for message in dict.fromkeys(
        f"{result.mistake} in {result.dtype}: {result.message}" for result in report.results if result.message
    ):
        out.print(escape(message))
    out.print(", ".join(f"{count} {verdict}" for verdict, count in report.summary.items()))


def print_check(report: "CheckReport") -> None:
    """Print one line for each implementation, device and dtype, then what failed and what was skipped."""
    groups: dict[tuple[str, str, str], list[CheckResult]] = defaultdict(list)
    for result in report.results:
        if result.verdict in ("pass", "fail", "known", "error") and result.dtype and result.behavior is None:
            held = "" if result.precision in (None, "ieee", "default") else f" {result.precision}"
            groups[result.implementation, result.device or "", result.dtype + held].append(result)
    table = _table("Check", ("implementation", "device", "dtype", "verdict"), ("error/bound", "bits"))
    for (name, device, dtype), results in groups.items():
        wrong = [result for result in results if result.verdict in ("fail", "error")]
        ratios = [result.bound_ratio for result in results if result.bound_ratio is not None]
        bits = [result.effective_bits for result in results if result.effective_bits is not None]
        verdict = (
            f"[{STYLES['fail']}]fail {len(wrong)}/{len(results)}[/]" if wrong else f"[{STYLES['pass']}]pass {len(results)}[/]"
        )
        worst, fewest = f"{max(ratios):.2g}" if ratios else "", f"{min(bits):.1f}" if bits else ""
        table.add_row(name, device, dtype, verdict, worst, "exact" if fewest == "inf" else fewest)
    if groups:
        out.print(table)
    _print_behaviors(report)
    for note in report.notes:
        out.print(escape(note), soft_wrap=True)
    reported = [result for result in report.results if result.verdict in ("fail", "error")]
    for result in reported[:20]:
        place = " ".join(filter(None, (result.dtype, result.case, result.probe, result.direction)))
        out.print(
            f"[{STYLES[result.verdict]}]{result.verdict}[/] {result.implementation} {escape(place)}: {escape(result.message)}"
        )
    if len(reported) > 20:
        out.print(f"... and {len(reported) - 20} more (--json FILE holds them all)")
    skips: dict[str, list[str]] = defaultdict(list)
    for result in report.results:
        if result.verdict == "skip":
            skips[result.message].append(result.implementation)
    for message, names in skips.items():
        listed = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        out.print(f"[{STYLES['skip']}]skip[/] {listed}: {escape(message)}")
    out.print(", ".join(f"{count} {verdict}" for verdict, count in report.summary.items()))


def _print_behaviors(report: "CheckReport") -> None:
    """Print what was found where implementations differ, or surprise; one line for each finding."""
    from .bench.views import behavior_findings

    found = behavior_findings([vars(result) for result in report.results])
    if not found:
        return
    table = _table("Behavior, where it differs or surprises", ("behavior", "found", "of"), ())
    for probe, finding, names, verdict, _ in found:
        shown = names if len(names) <= 36 else f"{names[:33].rsplit(',', 1)[0]}, ..."
        table.add_row(probe, f"[{STYLES[verdict]}]{escape(finding)}[/]", escape(shown))
    out.print(table)
    for message in dict.fromkeys(message for *_, verdict, message in found if verdict == "known"):
        out.print(f"[{STYLES['known']}]known[/] {escape(message)}")


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
