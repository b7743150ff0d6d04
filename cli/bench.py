"""The commands about time: bench, compare, recommend, report, and run, the main job. Thin, as `__main__`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ..bench.report.terminal import controls_line, out, print_bench, print_check
from ..reference.errors import PatchParityError
from .exit import FAILED, FINE, INTERRUPTED, err
from .options import (
    BackendOption,
    BudgetOption,
    CacheOption,
    CaseOption,
    DeviceOption,
    GenerationsOption,
    GoalOption,
    HostOption,
    ImageOption,
    ImplementationOption,
    JsonOption,
    LimitOption,
    OperationOption,
    OutOption,
    PeerOption,
    PresetOption,
    PythonOption,
    RemainderOption,
    ResumeOption,
    RoundsOption,
    SeedOption,
    ThreadsOption,
    TimedDtypeOption,
    TimedPrecisionOption,
)

if TYPE_CHECKING:
    from ..bench.timing.plan import BenchOptions
    from ..reference.spec import Remainder


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
    from ..bench.record.record import record_files, require_writable
    from ..bench.timing.pytest_run import benchmark

    if json:
        require_writable(json, *record_files(out_folder))
    options = _bench_options(context)
    with _interruptible():
        report = benchmark(options)
    if json:
        _copy(report.folder / "bench.json", json)
    print_bench(report)
    out.print(f"record: {report.folder}")
    raise typer.Exit(FINE if report.ok else FAILED)


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
    from ..bench.answers.compare import compare
    from ..bench.record.record import record_files, require_writable, write_json, write_text
    from ..bench.report.terminal import print_compare

    to_file = markdown is not None and str(markdown) != "-"
    written = [path for path in (json, markdown if to_file else None) if path is not None]
    for path in written:
        require_writable(path, *record_files(old), *record_files(new), *(other for other in written if other is not path))
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


def recommend_command(
    case: Annotated[str, typer.Option("--case", help="A case, or vit_b16, or vit_base_patch16_224.")] = "vit-b16-224",
    batch: Annotated[int | None, typer.Option("--batch", help="Images at a time; default: the case's own.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option("--dtype", help="float32, float64, bfloat16 or float16.")] = "float32",
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads; default: all cores.")] = None,
    backend: Annotated[
        list[str] | None, typer.Option("--backend", help="Only what computes with this one's framework; may be repeated.")
    ] = None,
    peer: PeerOption = None,
    record: Annotated[
        Path | None, typer.Option("--record", help="A folder that bench or run wrote; default: measure now.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Say which implementation to use for a shape on this machine, how sure that is, and the lines of code; measures for a minute or two."""
    from ..bench.answers.recommend import recommend
    from ..bench.record.record import record_files, require_writable, write_json
    from ..bench.report.terminal import print_recommendation

    if json:
        require_writable(json, *(record_files(record) if record else []))
    if record is not None and peer:
        raise PatchParityError("--peer has no part here: what the record holds is measured already")
    with _interruptible("interrupted: nothing was kept"):
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


def report_command(folder: Annotated[Path, typer.Argument(help="A folder that bench or run wrote.")]) -> None:
    """Write report.html, report.md and report.csv from a folder's record."""
    from ..bench.report.render import render_report
    from ..bench.timing.pytest_run import load_bench, rows_missing

    for file in render_report(folder):
        out.print(str(file))
    if missing := rows_missing(content := load_bench(folder)):
        out.print(
            f"[yellow]partial[/] {missing} of {content['planned']} rows are missing: bench --resume goes on", soft_wrap=True
        )


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
    from ..bench.main_job import run
    from ..bench.progress import progress_bar

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
def _interruptible(told: str = "interrupted; finished cases are kept: the same command with --resume goes on") -> Iterator[None]:
    """On Ctrl-C, say what was kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        err.print(told)
        raise typer.Exit(INTERRUPTED) from None


def _bench_options(context: typer.Context) -> "BenchOptions":
    """Read what `bench` and `run` are told to measure; their options are named as the fields of BenchOptions, the repeated ones in the singular."""
    from ..bench.timing.plan import BenchOptions

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
    from ..bench.record.record import write_text

    write_text(target, source.read_text(encoding="utf-8"))


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for name, command in (
        ("bench", bench_command),
        ("compare", compare_command),
        ("recommend", recommend_command),
        ("report", report_command),
        ("run", run_command),
    ):
        app.command(name)(command)
