"""patchparity inspect, verify and embed."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..bench.report.console import err, escape, out
from ..reference.errors import PatchParityError, printable
from .checkpoint_options import (
    CheckpointArgument,
    DialectsOption,
    FromOption,
    IgnoreOption,
    ImageSizeOption,
    InChannelsOption,
    PaddingOption,
    PatchSizeOption,
    PrefixOption,
    StrideOption,
    sizes_of_options,
)
from .exit import FAILED, FINE
from .options import JsonOption


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
    """Tell which dialect a checkpoint is in and why, what its embedding stage holds, and what is
    missing or ambiguous."""
    from ..porting.files.atomic import files_read, require_writable, write_json
    from ..porting.inspection import inspect_checkpoint

    if json:
        require_writable(json, *files_read(checkpoint), *(dialects or ()))
    sizes = sizes_of_options(image_size, patch_size, in_channels, stride, padding)
    told = inspect_checkpoint(
        checkpoint,
        from_=from_,
        prefix=prefix,
        sizes=sizes,
        ignore=ignore or (),
        prove=True,
        dialects=dialects or (),
    )
    if json:
        write_json(json, told)
    _print_inspection(told)
    proved = told["proof"] is None or told["proof"]["verdict"] != "fail"
    raise typer.Exit(
        FINE if told["dialect"] and not told["refused"] and not told["asks"] and proved else FAILED
    )


def _print_inspection(told: dict[str, Any]) -> None:
    def line(text: str) -> None:
        out.print(escape(printable(text)), soft_wrap=True)

    first = told["candidates"][0] if told["candidates"] else None
    if told["refused"]:
        line(f"refused: {told['refused']}")
    elif told["ambiguous"]:
        line(
            f"ambiguous: {', '.join(told['rivals'])} fit alike; {told['remedy']} would tell them "
            "apart"
        )
    elif first is None:
        line(f"no dialect that is known ({told['format']}, {told['other_tensors']} tensors)")
        if told["remedy"]:
            line(f"--from reads {told['remedy']}")
    else:
        under = f" under {told['prefix']!r}" if told["prefix"] else ""
        line(f"dialect: {told['dialect']}{under} ({told['format']})")
        for evidence in first["evidence"]:
            line(f"  {evidence}")
        others = list(
            dict.fromkeys(
                each["dialect"]
                for each in told["candidates"][1:]
                if each["dialect"] != told["dialect"]
            )
        )
        if others:
            line(f"  its tensors fit also: {', '.join(others)}")
        for asked in told["asks"]:
            line(f"asked: {asked}")
        _print_stage(told, line)
    for note in told["notes"]:
        line(f"note: {note}")
    if told["proof"]:
        print_checks([(told["proof"]["verdict"], told["proof"]["name"], told["proof"]["message"])])
    if told["unbuilt"]:
        line(f"left unbuilt, for they are no tensors: {', '.join(told['unbuilt'])}")
    counts = told["ledger"].get("counts", {})
    for entry in told["ledger"].get("tensors", ()):
        if entry["status"] in ("unexplained", "ignored"):
            line(f"  {entry['status']}: {entry['name']} {tuple(entry['shape'])}")
    kinds = [
        f"{count} {'outside of it' if kind == 'outside' else kind}"
        for kind, count in counts.items()
        if kind != "used"
    ]
    line(f"{told['other_tensors']} other tensors" + (f": {', '.join(kinds)}" if kinds else ""))


def _print_stage(told: dict[str, Any], line: Callable[[str], None]) -> None:
    spec = told["spec"]
    grid = "×".join(map(str, spec["grid"])) or "not told"
    patch, stride = ("×".join(map(str, spec[name])) for name in ("patch_size", "stride"))
    steps = f" at stride {stride}" if stride and patch != stride else ""
    steps += (
        f", padding {'×'.join(map(str, spec['padding']))}"
        if any(spec["padding"]) and stride
        else ""
    )
    if spec["stem"]:
        line(
            f"in front of it: {', '.join(map(_convolution, spec['stem']))}; the patches are those "
            "of what comes out"
        )
    line(
        f"patch {patch}{steps}, {spec['in_channels']} channels, width {spec['embed_dim']}, grid "
        f"{grid}"
    )
    tokens = ", ".join(name.replace("_", " ") for name in spec["prefix_tokens"]) or "none"
    positions = spec["positions"] or "none"
    positions += (
        f", resized to the grid ({spec['positions_resized']})" if spec["positions_resized"] else ""
    )
    line(
        f"prefix tokens: {tokens}; positions: {positions}; bias: {'yes' if spec['bias'] else 'no'}"
    )
    if spec["token_order"] != "raster":
        line(
            f"token order: {spec['token_order']}"
            + (f" in windows of {spec['window']} patches" if spec["window"] else "")
        )
    for name, tensor in told["tensors"].items():
        line(
            f"  {name}: {tensor['name']} {tuple(tensor['shape'])} {tensor['dtype']}, "
            f"{tensor['layout']}"
        )


def _convolution(told: dict[str, Any]) -> str:
    """One convolution of a stem, in words."""
    more = ["batch norm"] * told["batch_norm"] + [told["activation"]] * bool(told["activation"])
    behind = f" with {' and '.join(more)}" if more else ""
    return (
        f"a {'×'.join(map(str, told['kernel'][2:]))} convolution at stride {told['stride']}{behind}"
    )


def print_checks(checks: list[tuple[str, str, str]]) -> None:
    """A line for each part of a proof: what was compared, and with what."""
    styles = {"pass": "green", "fail": "bold red"}
    for verdict, name, message in checks:
        style = styles.get(verdict, "yellow")
        unproved = verdict == "skip" and message.startswith("not proved")
        whose = f"{name.partition(':')[0]}: " if ":" in name else ""
        told, word = (
            (f"{whose}{message}", "") if unproved else (f"{name}: {message}", f"{verdict} ")
        )
        out.print(f"[{style}]{word}[/]{escape(told)}", soft_wrap=True)


def verify_command(
    first: Annotated[Path, typer.Argument(metavar="A", help="A checkpoint.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one, in any dialect.")],
    from_: Annotated[
        list[str] | None, typer.Option("--from", help="The dialect of A; given twice, of A and B.")
    ] = None,
    prefix: Annotated[
        list[str] | None,
        typer.Option(
            "--prefix", help="What stands before the names of A; given twice, of A and B."
        ),
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
    """Prove that two checkpoints hold the same embedding stage, or say how they differ; exit 1 if
    they do."""
    from ..porting.files.atomic import files_read, require_writable, write_json
    from ..porting.verify import verify

    if json:
        require_writable(json, *files_read(first, second), *(dialects or ()))
    for option, given in (("--from", from_), ("--prefix", prefix)):
        if len(given or []) > 2:
            raise PatchParityError(
                f"{option} was given {len(given or [])} times: expected at most two, for A and for "
                "B"
            )
    named, before = ([*(given or []), None, None] for given in (from_, prefix))
    sizes = sizes_of_options(image_size, patch_size, in_channels, stride, padding)
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
    print_checks([(check.verdict, check.name, check.message) for check in found.checks])
    raise typer.Exit(FINE if found.same else FAILED)


def embed_command(
    checkpoint: CheckpointArgument,
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES",
            help="A .npy file, NCHW (tubelets NCTHW), taken as it is, or a picture, scaled to -1 "
            "to 1.",
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The .npy file to write.")],
    from_: FromOption = None,
    to: Annotated[
        str,
        typer.Option(
            "--to", help="tokens, after the projection, or the sequence that enters the encoder."
        ),
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
    """Run the reference on a checkpoint of any dialect, so that anyone can compare with what their
    model computes."""
    from ..porting.embed import embed
    from ..porting.files.atomic import files_read, require_writable
    from ..porting.files.images import read_images, write_array

    if target.suffix != ".npy":
        raise PatchParityError(f"{target}: expected the name of a .npy file to write the {to} to")
    for what, source in (("checkpoint", checkpoint), ("images", images)):
        if target.exists() and Path(source).exists() and target.samefile(source):
            raise PatchParityError(
                f"{target} is the {what} itself: give the {to} a file of its own"
            )
    require_writable(target, *files_read(checkpoint), *(dialects or ()), images)
    sizes = sizes_of_options(image_size, patch_size, in_channels, stride, padding)
    asked: dict[str, Any] = dict(
        from_=from_, prefix=prefix, sizes=sizes, ignore=ignore or (), dialects=dialects or ()
    )
    with warnings.catch_warnings(record=True) as assumptions:
        warnings.simplefilter("always", UserWarning)
        tokens = embed(checkpoint, read_images(images), to=to, **asked)
    for assumption in assumptions:
        err.print(f"[yellow]assumed[/] {escape(str(assumption.message))}", soft_wrap=True)
    write_array(target, tokens)
    out.print(f"{escape(str(target))}: {to} {tokens.shape}, float64", soft_wrap=True)
