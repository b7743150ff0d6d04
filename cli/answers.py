"""patchparity compare, recommend and report: what records answer."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..bench.report.console import out
from ..reference.errors import PatchParityError
from .choices import BACKENDS, CASES, DEVICES, DTYPES
from .exit import FAILED, FINE
from .given import fraction, interruptible, own_shape
from .options import (
    JsonOption,
    PeerOption,
    ShapeChannelsOption,
    ShapeImageOption,
    ShapePatchOption,
    ShapeStrideOption,
    ShapeWidthOption,
)


def compare_command(
    old: Annotated[Path, typer.Argument(help="A folder that bench or run wrote.")],
    new: Annotated[Path, typer.Argument(help="Another one, of the same machine.")],
    fail_over: Annotated[
        str,
        typer.Option(
            "--fail-over", metavar="PERCENT", help="How much slower a row may become: 5% or 0.05."
        ),
    ] = "5%",
    force: Annotated[
        bool, typer.Option("--force", help="Compare records of different machines.")
    ] = False,
    markdown: Annotated[
        Path | None,
        typer.Option(
            "--markdown",
            metavar="FILE",
            help="Write a table for a pull request's comment here; - for stdout.",
        ),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Compare two records of one machine row by row; exit 1 if a row surely became slower by more
    than --fail-over."""
    from ..bench.answers.compare import compare
    from ..bench.record.folder import record_files
    from ..bench.report.terminal import print_compare
    from ..porting.files.atomic import require_writable, write_json, write_text

    to_file = markdown is not None and str(markdown) != "-"
    written = [path for path in (json, markdown if to_file else None) if path is not None]
    for path in written:
        require_writable(
            path,
            *record_files(old),
            *record_files(new),
            *(other for other in written if other is not path),
        )
    report = compare(old, new, fail_over=fraction(fail_over, "--fail-over"), force=force)
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
    case: Annotated[
        str, typer.Option("--case", **CASES, help="A case, or vit_b16, or vit_base_patch16_224.")
    ] = "vit-b16-224",
    batch: Annotated[
        int | None,
        typer.Option("--batch", metavar="B", help="Images at a time; default: the case's own."),
    ] = None,
    device: Annotated[str, typer.Option("--device", **DEVICES, help="Where.")] = "cpu",
    dtype: Annotated[
        str, typer.Option("--dtype", **DTYPES, help="float32, float64, bfloat16 or float16.")
    ] = "float32",
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", help="CPU threads; default: all cores.")
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            "--backend",
            **BACKENDS,
            help="Only what computes with this one's framework; may be repeated.",
        ),
    ] = None,
    peer: PeerOption = None,
    record: Annotated[
        Path | None,
        typer.Option(
            "--record",
            metavar="DIR",
            help="A folder that bench or run wrote; default: measure now.",
        ),
    ] = None,
    json: JsonOption = None,
    patch_size: ShapePatchOption = None,
    image_size: ShapeImageOption = None,
    embed_dim: ShapeWidthOption = None,
    in_channels: ShapeChannelsOption = None,
    stride: ShapeStrideOption = None,
) -> None:
    """Say which implementation to use for a shape on this machine, how sure that is, and the lines
    of code; measures for up to two minutes, unless a record is given."""
    from ..bench.answers.recommend import recommend
    from ..bench.record.folder import record_files
    from ..bench.report.terminal import print_recommendation
    from ..porting.files.atomic import require_writable, write_json

    if json:
        require_writable(json, *(record_files(record) if record else []))
    if record is not None and peer:
        raise PatchParityError("--peer has no part here: what the record holds is measured already")
    shape = own_shape(patch_size, image_size, embed_dim, in_channels, stride)
    with interruptible("interrupted: nothing was kept"):
        recommendation = recommend(
            shape or case,
            batch=batch,
            device=device,
            dtype=dtype,
            threads=threads,
            backends=tuple(backend or ()),
            peers=tuple(peer or ()),
            record=record,
        )
    if json:
        write_json(json, recommendation.to_dict())
    print_recommendation(recommendation)


READ, COMPARED = 0.65, 0.99
"""Shares of a report's time after which the record is read, and its rows are compared."""


def report_command(
    folder: Annotated[Path, typer.Argument(help="A folder that bench or run wrote.")],
    against: Annotated[
        list[Path] | None,
        typer.Option(
            "--against", metavar="DIR", help="An earlier record to compare with; may be repeated."
        ),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option("--figures", metavar="DIR", help="A folder for every picture as SVG and PNG."),
    ] = None,
) -> None:
    """Write report.html, report.md and report.csv from a folder's record."""
    from ..bench.progress import part_of, progress_bar
    from ..bench.timing.load import load_bench

    with progress_bar("report") as progress:
        assert progress is not None
        progress(0, 1, "reading the record")
        bench = load_bench(folder)
        missing, planned = bench.missing, bench.planned
        progress(READ, 1, "comparing")
        # loaded after the file, whose text takes as much memory as all that draws
        from ..bench.report.render import content_of, write_pages

        content = content_of(folder, bench, against or ())
        del bench  # a third of the memory; the pages need what is made of it
        files = write_pages(folder, content, figures, part_of(progress, COMPARED, 1, "writing"))
    for file in files[:3]:
        out.print(str(file))
    if figures:
        out.print(f"{len(files) - 3} pictures in {figures}", soft_wrap=True)
    if missing:
        out.print(
            f"[yellow]partial[/] {missing} of {planned} rows are missing: bench --resume goes on",
            soft_wrap=True,
        )


def keep_command(
    folder: Annotated[Path, typer.Argument(help="A folder that bench or run wrote.")],
    target: Annotated[Path, typer.Argument(help="A folder for what is kept of it.")],
) -> None:
    """Keep a record in less than a megabyte: medians, environment, a page, and every sample; report
    and compare read it."""
    from ..bench.report.keep import keep_record

    for file in keep_record(folder, target):
        out.print(f"{file} {file.stat().st_size / 1000:.0f} kB", soft_wrap=True)
