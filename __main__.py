"""The command line: thin. Everything it does is a documented function of the package; here are options, tables and exit codes."""

import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import rich.box
import typer
from rich.console import Console
from rich.table import Table

from .reference.errors import PatchParityError

if TYPE_CHECKING:
    from .bench.conformance import CheckReport, CheckResult
    from .bench.session import BenchOptions, BenchReport

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

FINE, FAILED, MISUSED = 0, 1, 2

BackendOption = Annotated[list[str] | None, typer.Option("--backend", help="Only this backend; may be repeated.")]
ImplementationOption = Annotated[
    list[str] | None,
    typer.Option("--implementation", help="Only this one (backend:formulation:mode, or its beginning); may be repeated."),
]
DeviceOption = Annotated[list[str] | None, typer.Option("--device", help="cpu or cuda; may be repeated. Default: all there are.")]
ImageOption = Annotated[
    Path | None, typer.Option("--image", help="A picture to check on; by default one that scikit-image ships.")
]
RemainderOption = Annotated[
    str, typer.Option("--remainder", help="A picture that does not divide by 16: error, floor, pad-end or same.")
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the results here.")]
STYLES = {"pass": "green", "fail": "bold red", "error": "bold red", "skip": "yellow", "known": "cyan"}


@app.callback()
def _options(traceback: Annotated[bool, typer.Option("--traceback", help="Show the traceback of an error.")] = False) -> None:
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
        versions = " ".join(backend.versions().values())
        table.add_row(backend.name, versions, described, escape(missing) if missing else "[green]ready[/]")
    for broken in list_broken_backends():
        table.add_row(broken.name, "", "", f"[red]{escape(broken.reason)}[/]")
    out.print(table)


@app.command("check")
def check_command(
    backend: BackendOption = None,
    implementation: ImplementationOption = None,
    dtype: Annotated[
        list[str] | None, typer.Option("--dtype", help="float32 or float64; may be repeated. Default: both.")
    ] = None,
    device: DeviceOption = None,
    image: ImageOption = None,
    remainder: RemainderOption = "error",
    every_case: Annotated[
        bool, typer.Option("--every-case", help="Compile torch.compile for every shape, not one alone.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """Check every implementation against the NumPy reference; exit 1 if one is wrong."""
    from .bench.conformance import check
    from .bench.progress import progress_bar
    from .bench.results import require_writable

    if json:
        require_writable(json)
    with progress_bar("check") as progress:
        report = check(
            backends=backend,
            implementations=implementation,
            dtypes=dtype,
            devices=device,
            image=image,
            remainder=_any(remainder),
            every_case=every_case,
            progress=progress,
        )
    if json:
        report.save(json)
    print_check(report)
    raise typer.Exit(FINE if report.ok else FAILED)


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
    from .bench.results import require_writable
    from .bench.session import benchmark

    if json:
        require_writable(json)
    options = _bench_options(
        preset, threads, backend, implementation, case, device, rounds, seed, call_seconds, resume, out_folder
    )
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
    from .bench.progress import progress_bar
    from .bench.session import run

    options = _bench_options(
        preset, threads, backend, implementation, case, device, rounds, seed, call_seconds, resume, out_folder
    )
    with progress_bar("check") as progress:
        report = run(options, image=image, remainder=_any(remainder), progress=progress)
    print_check(report.check)
    print_bench(report.bench)
    for file in report.files:
        out.print(str(file))
    raise typer.Exit(FINE if report.ok else FAILED)


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
    from .bench.session import BenchOptions

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
    """Print, for each case, the fastest formulation of each framework, then what failed."""
    table = _table("Fastest of each framework", ("implementation",), ("ms", "GFLOP/s", "of GEMM", "time/reference [95%]"))
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in report.content["benchmarks"]:
        info = entry["extra_info"]
        if info["role"] != "implementation":
            continue
        key = (info["case"], info["threads_requested"], info["dtype"], info["device"], info["backend"])
        if key not in best or entry["stats"]["median"] < best[key]["stats"]["median"]:
            best[key] = entry
    last = None
    for (case, threads, *_), entry in best.items():
        info = entry["extra_info"]
        interval = info["ratio_interval"]
        name = f"{case}, {threads} thread{'s' if threads > 1 else ''}"
        if name != last:
            table.add_row(f"[bold]{name}[/]")
        table.add_row(
            "  " + info["implementation"] + ("" if info["device"] == "cpu" else f" {info['device']}"),
            f"{1e3 * entry['stats']['median']:.3g}",
            f"{info['gflops']:.1f}",
            "" if info["gemm_fraction"] is None else f"{100 * info['gemm_fraction']:.0f}%",
            "" if interval is None else f"{info['ratio']:.2f} \\[{interval[0]:.2f}, {interval[1]:.2f}]",
        )
        last = name
    if best:
        out.print(table)
    for outcome in report.content["failures"]:
        out.print(
            f"[{STYLES['fail']}]{outcome['status']}[/] {outcome['implementation']} {outcome['case']}: {escape(outcome['message'])}"
        )
    for message in dict.fromkeys(outcome["message"] for outcome in report.content["skipped"]):
        out.print(f"[{STYLES['skip']}]skip[/] {escape(message)}")


def _any(value: Any) -> Any:
    """Pass a string on to a function that checks it itself."""
    return value


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


def print_check(report: "CheckReport") -> None:
    """Print one line for each implementation, device and dtype, then what failed and what was skipped."""
    groups: dict[tuple[str, str, str], list[CheckResult]] = defaultdict(list)
    for result in report.results:
        if result.verdict in ("pass", "fail", "known", "error") and result.dtype:
            groups[result.implementation, result.device or "", result.dtype].append(result)
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
