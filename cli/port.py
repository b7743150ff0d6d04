"""patchparity port."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from ..bench.report.console import escape, out
from ..reference.errors import PatchParityError
from .checkpoint_options import (
    DialectsOption,
    FromOption,
    IgnoreOption,
    ImageSizeOption,
    InChannelsOption,
    PaddingOption,
    PatchSizeOption,
    PrefixOption,
    ResampleOption,
    StrideOption,
    sizes_of_options,
)
from .checkpoints import print_answer
from .choices import DIALECTS, DTYPES
from .exit import FINE


def port_command(
    context: typer.Context,
    source: Annotated[
        Path | None, typer.Argument(metavar="[SRC]", help="A checkpoint of any dialect.")
    ] = None,
    target: Annotated[
        Path | None,
        typer.Argument(metavar="[DST]", help="The new file; its name tells the format."),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", **DIALECTS, help="The target dialect (port --list).")
    ] = None,
    from_: FromOption = None,
    prefix: PrefixOption = None,
    into: Annotated[
        Path | None,
        typer.Option(
            "--into",
            metavar="FILE",
            help="Copy this checkpoint of the target dialect (shards too), and replace its "
            "embedding stage.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            "--dtype", **DTYPES, help="float32, float64, bfloat16 or float16; default: as it is."
        ),
    ] = None,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="Leave out what the target cannot hold.")
    ] = False,
    image_size: ImageSizeOption = None,
    patch_size: PatchSizeOption = None,
    in_channels: InChannelsOption = None,
    stride: StrideOption = None,
    padding: PaddingOption = None,
    resample: ResampleOption = None,
    ignore: IgnoreOption = None,
    dialects: DialectsOption = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="FILE", help="Write what was done, and the proof, as JSON."
        ),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Instead, list the dialects and what each can hold.")
    ] = False,
) -> None:
    """Move the embedding stage of a checkpoint into another library's dialect, and prove it by
    running both."""
    from ..porting.files.atomic import files_read, require_writable, write_json
    from ..porting.port import port

    if listed:
        _print_dialects(dialects)
        raise typer.Exit(FINE)
    if source is None or target is None or to is None:
        raise PatchParityError(
            "port needs SRC, DST and --to DIALECT (port --list tells the dialects)"
        )
    read = [*files_read(source), *(dialects or ())]
    if report:
        require_writable(report, *read, *files_read(into), target)
    require_writable(target, *(dialects or ()), report)
    done = port(
        source,
        target,
        to,
        from_=from_,
        prefix=prefix,
        **sizes_of_options(context),
        into=into,
        dtype=dtype,
        allow_loss=allow_loss,
        resample=resample,
        ignore=ignore or (),
        dialects=dialects or (),
    )
    if report:
        write_json(report, done.to_dict())
    print_answer(done)


def _formats(formats: Iterable[str]) -> str:
    """The formats of files that a dialect is kept in, those that keep another's trees among
    them."""
    also = {"msgpack": ["msgpack", "orbax"], "graph": ["onnx", "tflite", "openvino", "coreml"]}
    return " ".join(name for each in formats for name in also.get(each, [each]))


def _print_dialects(files: list[Path] | None) -> None:
    from ..porting.dialects.catalogue import list_dialects

    known = list_dialects(files or ())
    for dialect in known.values():
        if dialect.mlx:
            continue
        beside = f", and as {dialect.id}-mlx" if f"{dialect.id}-mlx" in known else ""
        out.print(
            f"[bold]{escape(dialect.id)}[/] ({_formats(dialect.formats)}{escape(beside)})",
            soft_wrap=True,
        )
        out.print(f"    {escape(dialect.title)}. Holds {escape(dialect.holds())}", soft_wrap=True)
