"""The commands about weights: inspect, port, verify, embed. Thin, as `__main__`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..bench.report.terminal import escape, out
from ..reference.errors import PatchParityError, printable
from .exit import FAILED, FINE
from .options import JsonOption

if TYPE_CHECKING:
    from ..porting.dialects.sizes import Sizes

CheckpointArgument = Annotated[
    Path,
    typer.Argument(metavar="CKPT", help="safetensors (also an index of shards, or a folder), .pt, .npz, .h5, .keras, .msgpack."),
]
PrefixOption = Annotated[
    str | None, typer.Option("--prefix", help="What stands before all names, where a file holds several embedding stages.")
]
DialectsOption = Annotated[
    list[Path] | None, typer.Option("--dialects", help="A TOML file with dialects of your own; may be repeated.")
]
ImageSizeOption = Annotated[
    str | None,
    typer.Option("--image-size", help="224, 224x160 (height, width) or 16x224x224 (frames first), where no file tells it."),
]
PatchSizeOption = Annotated[str | None, typer.Option("--patch-size", help="16 or 16x8, where the kernel is a matrix.")]
InChannelsOption = Annotated[int | None, typer.Option("--in-channels", help="Where the kernel is a matrix.")]
StrideOption = Annotated[
    str | None, typer.Option("--stride", help="Between patches, 12 or 12x8, where they overlap and no file tells it.")
]
PaddingOption = Annotated[str | None, typer.Option("--padding", help="Zeros around the image, 3 or 3x2, where no file tells it.")]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option("--ignore", help="A tensor, or a pattern, that plays no part although nothing explains it; may be repeated."),
]
FromOption = Annotated[str | None, typer.Option("--from", help="The dialect, where it is known (port --list).")]


def _sizes(
    image_size: str | None, patch_size: str | None, in_channels: int | None, stride: str | None = None, padding: str | None = None
) -> "Sizes | None":
    """What was told of the sizes, None if nothing was.

    Raises:
        PatchParityError: what is no size.
    """
    from ..porting.dialects.sizes import Sizes

    def parts(option: str, text: str | None, least: int = 1) -> tuple[int, ...] | int | None:
        if text is None:
            return None
        numbers = text.lower().replace("×", "x").split("x")
        if (
            not all(number.isascii() and number.isdigit() and len(number) < 10 and int(number) >= least for number in numbers)
            or len(numbers) > 3
        ):
            raise PatchParityError(f"{option} {text}: expected a number, or numbers with x between them, such as 224x160")
        return int(numbers[0]) if len(numbers) == 1 else tuple(map(int, numbers))

    told = parts("--patch-size", patch_size), parts("--image-size", image_size), in_channels
    steps = parts("--stride", stride), parts("--padding", padding, least=0)
    return None if (*told, *steps) == (None,) * 5 else Sizes.told(*told, *steps)


def inspect_command(
    checkpoint: CheckpointArgument,
    from_: FromOption = None,
    prefix: PrefixOption = None,
    image_size: ImageSizeOption = None,
    patch_size: PatchSizeOption = None,
    in_channels: InChannelsOption = None,
    stride: StrideOption = None,
    padding: PaddingOption = None,
    ignore: IgnoreOption = None,
    dialects: DialectsOption = None,
    json: JsonOption = None,
) -> None:
    """Tell which dialect a checkpoint is in and why, what its embedding stage holds, and what is missing or ambiguous."""
    from ..bench.record.record import files_read, require_writable, write_json
    from ..porting.inspection import inspect_checkpoint

    if json:
        require_writable(json, *files_read(checkpoint), *(dialects or ()))
    sizes = _sizes(image_size, patch_size, in_channels, stride, padding)
    told = inspect_checkpoint(
        checkpoint, from_=from_, prefix=prefix, sizes=sizes, ignore=ignore or (), prove=True, dialects=dialects or ()
    )
    if json:
        write_json(json, told)
    _print_inspection(told)
    proved = told["proof"] is None or told["proof"]["verdict"] != "fail"
    raise typer.Exit(FINE if told["dialect"] and not told["refused"] and not told["asks"] and proved else FAILED)


def _print_inspection(told: dict[str, Any]) -> None:
    def line(text: str) -> None:
        out.print(escape(printable(text)), soft_wrap=True)

    first = told["candidates"][0] if told["candidates"] else None
    if told["refused"]:
        line(f"refused: {told['refused']}")
    elif told["ambiguous"]:
        line(f"ambiguous: {', '.join(told['rivals'])} fit alike; {told['remedy']} would tell them apart")
    elif first is None:
        line(f"no dialect that is known ({told['format']}, {told['other_tensors']} tensors)")
        if told["remedy"]:
            line(f"--from reads {told['remedy']}")
    else:
        under = f" under {told['prefix']!r}" if told["prefix"] else ""
        line(f"dialect: {told['dialect']}{under} ({told['format']})")
        for evidence in first["evidence"]:
            line(f"  {evidence}")
        others = list(dict.fromkeys(each["dialect"] for each in told["candidates"][1:] if each["dialect"] != told["dialect"]))
        if others:
            line(f"  its tensors fit also: {', '.join(others)}")
        for asked in told["asks"]:
            line(f"asked: {asked}")
        _print_stage(told, line)
    if told["proof"]:
        _print_checks([(told["proof"]["verdict"], told["proof"]["name"], told["proof"]["message"])])
    if told["unbuilt"]:
        line(f"left unbuilt, for they are no tensors: {', '.join(told['unbuilt'])}")
    counts = told["ledger"].get("counts", {})
    for entry in told["ledger"].get("tensors", ()):
        if entry["status"] in ("unexplained", "ignored"):
            line(f"  {entry['status']}: {entry['name']} {tuple(entry['shape'])}")
    kinds = [f"{count} {'outside of it' if kind == 'outside' else kind}" for kind, count in counts.items() if kind != "used"]
    line(f"{told['other_tensors']} other tensors" + (f": {', '.join(kinds)}" if kinds else ""))


def _print_stage(told: dict[str, Any], line: Callable[[str], None]) -> None:
    spec = told["spec"]
    grid = "×".join(map(str, spec["grid"])) or "not told"
    patch, stride = ("×".join(map(str, spec[name])) for name in ("patch_size", "stride"))
    steps = f" at stride {stride}" if stride and patch != stride else ""
    steps += f", padding {'×'.join(map(str, spec['padding']))}" if any(spec["padding"]) and stride else ""
    line(f"patch {patch}{steps}, {spec['in_channels']} channels, width {spec['embed_dim']}, grid {grid}")
    tokens = ", ".join(name.replace("_", " ") for name in spec["prefix_tokens"]) or "none"
    line(f"prefix tokens: {tokens}; positions: {spec['positions'] or 'none'}; bias: {'yes' if spec['bias'] else 'no'}")
    if spec["token_order"] != "raster":
        line(f"token order: {spec['token_order']}" + (f" in windows of {spec['window']} patches" if spec["window"] else ""))
    for name, tensor in told["tensors"].items():
        line(f"  {name}: {tensor['name']} {tuple(tensor['shape'])} {tensor['dtype']}, {tensor['layout']}")


def port_command(
    source: Annotated[Path | None, typer.Argument(metavar="[SRC]", help="A checkpoint of any dialect.")] = None,
    target: Annotated[Path | None, typer.Argument(metavar="[DST]", help="The new file; its name tells the format.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="The target dialect (port --list).")] = None,
    from_: FromOption = None,
    prefix: PrefixOption = None,
    into: Annotated[
        Path | None,
        typer.Option("--into", help="Copy this checkpoint of the target dialect (shards too), and replace its embedding stage."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32, float64, bfloat16 or float16; default: as it is.")
    ] = None,
    allow_loss: Annotated[bool, typer.Option("--allow-loss", help="Leave out what the target cannot hold.")] = False,
    image_size: ImageSizeOption = None,
    patch_size: PatchSizeOption = None,
    in_channels: InChannelsOption = None,
    stride: StrideOption = None,
    padding: PaddingOption = None,
    ignore: IgnoreOption = None,
    dialects: DialectsOption = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write what was done, and the proof, as JSON.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Instead, list the dialects and what each can hold.")] = False,
) -> None:
    """Move the embedding stage of a checkpoint into another library's dialect, and prove it by running both."""
    from ..bench.record.record import files_read, require_writable, write_json
    from ..porting.port import port

    if listed:
        _print_dialects(dialects)
        raise typer.Exit(FINE)
    if source is None or target is None or to is None:
        raise PatchParityError("port needs SRC, DST and --to DIALECT (port --list tells the dialects)")
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
        sizes=_sizes(image_size, patch_size, in_channels, stride, padding),
        into=into,
        dtype=dtype,
        allow_loss=allow_loss,
        ignore=ignore or (),
        dialects=dialects or (),
    )
    if report:
        write_json(report, done.to_dict())
    out.print(escape(f"{done.source} -> {done.target}: {', '.join(done.tensors)}"), soft_wrap=True)
    for step in done.steps:
        out.print(escape(f"step {step}"), soft_wrap=True)
    for loss in done.losses:
        out.print(f"[yellow]lost[/] {escape(loss)}", soft_wrap=True)
    _print_checks([(check.verdict, check.name, check.message) for check in done.checks])
    out.print(escape(str(target)), soft_wrap=True)


def _print_checks(checks: list[tuple[str, str, str]]) -> None:
    """A line for each part of a proof: what was compared, and with what."""
    styles = {"pass": "green", "fail": "bold red"}
    for verdict, name, message in checks:
        style = styles.get(verdict, "yellow")
        unproved = verdict == "skip" and message.startswith("not proved")
        whose = f"{name.partition(':')[0]}: " if ":" in name else ""
        told, word = (f"{whose}{message}", "") if unproved else (f"{name}: {message}", f"{verdict} ")
        out.print(f"[{style}]{word}[/]{escape(told)}", soft_wrap=True)


def _print_dialects(files: list[Path] | None) -> None:
    from ..porting.dialects.dialect import list_dialects

    known = list_dialects(files or ())
    for dialect in known.values():
        if dialect.mlx:
            continue
        beside = f", and as {dialect.id}-mlx" if f"{dialect.id}-mlx" in known else ""
        out.print(f"[bold]{escape(dialect.id)}[/] ({' '.join(dialect.formats)}{escape(beside)})", soft_wrap=True)
        out.print(f"    {escape(dialect.title)}. Holds {escape(dialect.holds())}", soft_wrap=True)


def verify_command(
    first: Annotated[Path, typer.Argument(metavar="A", help="A checkpoint.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one, in any dialect.")],
    from_: Annotated[list[str] | None, typer.Option("--from", help="The dialect of A; given twice, of A and B.")] = None,
    prefix: Annotated[
        list[str] | None, typer.Option("--prefix", help="What stands before the names of A; given twice, of A and B.")
    ] = None,
    image_size: ImageSizeOption = None,
    patch_size: PatchSizeOption = None,
    in_channels: InChannelsOption = None,
    stride: StrideOption = None,
    padding: PaddingOption = None,
    ignore: IgnoreOption = None,
    dialects: DialectsOption = None,
    json: JsonOption = None,
) -> None:
    """Prove that two checkpoints hold the same embedding stage, or say how they differ; exit 1 if they do."""
    from ..bench.record.record import files_read, require_writable, write_json
    from ..porting.verify import verify

    if json:
        require_writable(json, *files_read(first, second), *(dialects or ()))
    for option, given in (("--from", from_), ("--prefix", prefix)):
        if len(given or []) > 2:
            raise PatchParityError(f"{option} was given {len(given or [])} times: expected at most two, for A and for B")
    named, before = ([*(given or []), None, None] for given in (from_, prefix))
    sizes = _sizes(image_size, patch_size, in_channels, stride, padding)
    found = verify(
        first,
        second,
        from_=(named[0], named[1]),
        prefixes=(before[0], before[1]),
        sizes=sizes,
        ignore=ignore or (),
        dialects=dialects or (),
    )
    if json:
        write_json(json, found.to_dict())
    out.print(escape(f"{found.first} and {found.second}: {found.explanation}"), soft_wrap=True)
    _print_checks([(check.verdict, check.name, check.message) for check in found.checks])
    raise typer.Exit(FINE if found.same else FAILED)


def embed_command(
    checkpoint: CheckpointArgument,
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES", help="A .npy file, NCHW (tubelets NCTHW), taken as it is, or a picture, scaled to -1 to 1."
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The .npy file to write.")],
    from_: FromOption = None,
    to: Annotated[
        str, typer.Option("--to", help="tokens, after the projection, or the sequence that enters the encoder.")
    ] = "sequence",
    prefix: PrefixOption = None,
    image_size: ImageSizeOption = None,
    patch_size: PatchSizeOption = None,
    in_channels: InChannelsOption = None,
    stride: StrideOption = None,
    padding: PaddingOption = None,
    ignore: IgnoreOption = None,
    dialects: DialectsOption = None,
) -> None:
    """Run the reference on a checkpoint of any dialect, so that anyone can compare with what their model computes."""
    from ..bench.record.record import files_read, require_writable
    from ..porting.embed import embed
    from ..porting.files.images import read_images, write_array

    if target.suffix != ".npy":
        raise PatchParityError(f"{target}: expected the name of a .npy file to write the {to} to")
    for what, source in (("checkpoint", checkpoint), ("images", images)):
        if target.exists() and Path(source).exists() and target.samefile(source):
            raise PatchParityError(f"{target} is the {what} itself: give the {to} a file of its own")
    require_writable(target, *files_read(checkpoint), *(dialects or ()), images)
    sizes = _sizes(image_size, patch_size, in_channels, stride, padding)
    asked = dict(from_=from_, prefix=prefix, sizes=sizes, ignore=ignore or (), dialects=dialects or ())
    tokens = embed(checkpoint, read_images(images), to=to, **asked)
    write_array(target, tokens)
    out.print(f"{escape(str(target))}: {to} {tokens.shape}, float64", soft_wrap=True)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for name, command in (
        ("inspect", inspect_command),
        ("port", port_command),
        ("verify", verify_command),
        ("embed", embed_command),
    ):
        app.command(name)(command)
