"""patchparity port."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    bytes_of,
    sizes_of_options,
)
from .checkpoints import print_answer
from .choices import DIALECTS, DTYPES
from .exit import FINE
from .semantics_options import (
    SEMANTICS,
    ActivationOption,
    EpsilonOption,
    HeadsOption,
    PoolingOption,
    semantics_of,
)

if TYPE_CHECKING:
    from ..porting.port import PortReport
    from ..porting.whole.report import WholePortReport


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
    whole: Annotated[
        bool | None,
        typer.Option(
            "--whole/--stage",
            help="The whole model with its configuration (default where the source has blocks of a "
            "known layout, and the target's library takes them), or the embedding stage alone "
            "(default else, and with --into or --resample). --whole --into replaces all of a model "
            "in a copy of a checkpoint that holds more.",
        ),
    ] = None,
    heads: HeadsOption = None,
    epsilon: EpsilonOption = None,
    activation: ActivationOption = None,
    pooling: PoolingOption = None,
    shard_size: Annotated[
        str | None,
        typer.Option(
            "--shard-size", metavar="SIZE", help="Largest shard of a whole model, 5GB or 500MB."
        ),
    ] = None,
    proof: Annotated[
        bool,
        typer.Option(
            "--proof/--no-proof",
            help="Run both sides, in their own libraries where they are installed; what is written "
            "is read back in any case.",
        ),
    ] = True,
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
    """Move a checkpoint, the whole model or its embedding stage alone, into another library's
    dialect, and prove it by running both."""
    from ..porting.files.atomic import files_read, require_writable, write_json

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
    known: dict[str, Any] = {
        "from_": from_,
        "prefix": prefix,
        "ignore": ignore or (),
        "dialects": dialects or (),
        "dtype": dtype,
        "allow_loss": allow_loss,
        "prove": proof,
        "into": into,
    }
    if whole is None:
        whole = _is_whole(context, source, to)
    moves = _port_whole if whole else _port_stage
    done: PortReport | WholePortReport = moves(context, source, target, to, known)
    if report:
        write_json(report, done.to_dict())
    print_answer(done)


def _port_whole(
    context: typer.Context, source: Path, target: Path, to: str, known: dict[str, Any]
) -> "WholePortReport":
    from ..porting.dialects.sizes import Sizes
    from ..porting.whole.port import port_whole

    given = context.params
    if given["resample"]:
        raise PatchParityError("--resample is of an embedding stage: --stage ports that")
    shard = given["shard_size"]
    return port_whole(
        source,
        target,
        to,
        **known,
        sizes=Sizes.of_user(**sizes_of_options(context)),
        semantics=semantics_of(context),
        shard_bytes=None if shard is None else bytes_of(shard),
    )


def _port_stage(
    context: typer.Context, source: Path, target: Path, to: str, known: dict[str, Any]
) -> "PortReport":
    from ..porting.files.atomic import require_outside, require_writable
    from ..porting.port import port

    given = context.params
    if strays := [name for name in ("shard_size", *SEMANTICS) if given[name] is not None]:
        option = strays[0].replace("_", "-")
        raise PatchParityError(f"--{option} is of a whole model: --whole ports one")
    require_writable(target, *known["dialects"], given["report"])
    require_outside(target, source, given["into"])
    return port(
        source,
        target,
        to,
        **known,
        **sizes_of_options(context),
        resample=given["resample"],
    )


def _is_whole(context: typer.Context, source: Path, to: str) -> bool:
    """Whether a whole model is moved where nobody says."""
    from ..porting.dialects.sizes import Sizes
    from ..porting.whole.fit import whole_targets
    from ..porting.whole.read import holds_blocks

    given = context.params
    if given["into"] is not None or given["resample"] or to not in whole_targets():
        return False
    return holds_blocks(
        source,
        from_=given["from_"],
        prefix=given["prefix"],
        ignore=given["ignore"] or (),
        dialects=given["dialects"] or (),
        sizes=Sizes.of_user(**sizes_of_options(context)),
    )


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
