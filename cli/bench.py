"""patchparity bench, and run, which checks, measures and tells."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from ..bench.report.console import out
from .exit import FAILED, FINE
from .given import fraction, interruptible, own_shape
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
    ListCasesOption,
    OperationOption,
    OutOption,
    PeerOption,
    PresetOption,
    PythonOption,
    RemainderOption,
    ResumeOption,
    RoundsOption,
    SeedOption,
    ShapeChannelsOption,
    ShapeImageOption,
    ShapePatchOption,
    ShapeStrideOption,
    ShapeWidthOption,
    ThreadsOption,
    TimedDtypeOption,
    TimedPrecisionOption,
)

if TYPE_CHECKING:
    from ..bench.timing.options import BenchOptions
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
    patch_size: ShapePatchOption = None,
    image_size: ShapeImageOption = None,
    embed_dim: ShapeWidthOption = None,
    in_channels: ShapeChannelsOption = None,
    stride: ShapeStrideOption = None,
    list_: ListCasesOption = False,
) -> None:
    """Time every implementation, interleaved over isolated workers; exit 1 if a row failed."""
    if list_:
        from ..bench.cases import NAMED, named_case

        for name in NAMED:
            spec = named_case(name).spec
            out.print(f"{name}: {spec.num_patches} tokens of {spec.embed_dim}", soft_wrap=True)
        out.print("p8-96x128-d192-c4-s4: any sizes; -b8 behind each: a batch", soft_wrap=True)
        return
    shape = own_shape(patch_size, image_size, embed_dim, in_channels, stride)
    if shape is not None:
        context.params["case"] = [*(case or ()), shape]
    from ..bench.record.folder import record_files
    from ..bench.report.terminal import print_bench
    from ..bench.timing.benchmark import benchmark
    from ..porting.files.atomic import require_writable

    if json:
        require_writable(json, *record_files(out_folder))
    options = _bench_options(context)
    with interruptible():
        report = benchmark(options)
    if json:
        _copy(report.folder / "bench.json", json)
    print_bench(report)
    out.print(f"record: {report.folder}")
    raise typer.Exit(FINE if report.ok else FAILED)


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
    from ..bench.report.terminal import controls_line, print_bench, print_check

    options = _bench_options(context)
    with interruptible(), progress_bar("run") as progress:
        report = run(
            options, image=image, remainder=cast("Remainder", remainder), progress=progress
        )
    print_check(report.check)
    out.print(controls_line(report.controls))
    if report.seeds:
        print_check(report.seeds)
    print_bench(report.bench)
    for file in report.files:
        out.print(str(file))
    checks = [
        check_report
        for check_report in (report.check, report.controls, report.seeds)
        if check_report is not None
    ]
    wrong = sum(
        check_report.summary[verdict] for check_report in checks for verdict in ("fail", "error")
    )
    wrong += len(report.bench.bench.failures)
    out.print(
        "[green]fine: nothing failed[/]"
        if report.ok
        else f"[bold red]{wrong} results failed[/]: they are listed above"
    )
    raise typer.Exit(FINE if report.ok else FAILED)


def _bench_options(context: typer.Context) -> "BenchOptions":
    """Read what `bench` and `run` are told to measure; their options are named as the fields of
    BenchOptions, the repeated ones in the singular."""
    from ..bench.answers.shape_names import case_of_text
    from ..bench.timing.options import BenchOptions

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
    fields: dict[str, Any] = {name: typed[name] for name in plain}
    fields.update({field: tuple(typed[option] or ()) for field, option in repeated.items()})
    fields["cases"] = tuple(case_of_text(text).name for text in fields["cases"])
    return BenchOptions(
        threads=BenchOptions.parse({"threads": typed["threads"]}).threads,
        precision_goal=None
        if typed["precision_goal"] is None
        else fraction(typed["precision_goal"], "--precision-goal"),
        time_budget=typed["time_budget"],
        caches=tuple(typed["cache"] or ("warm",)),
        operations=tuple(typed["operation"] or ()),
        out=str(typed["out_folder"]),
        **fields,
    )


def _copy(source: Path, target: Path) -> None:
    from ..porting.files.atomic import write_text

    write_text(target, source.read_text(encoding="utf-8"))
