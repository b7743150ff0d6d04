"""patchparity inspect, verify and embed."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..bench.report.console import err, escape, out
from ..reference.errors import PatchParityError, printable, require_choice
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
    PreprocessBackendOption,
    ResampleOption,
    StrideOption,
    sizes_of_options,
)
from .choices import DIALECTS, OUTPUTS
from .exit import FAILED, FINE
from .given import options_typed, require_preprocess
from .options import JsonOption

if TYPE_CHECKING:
    from ..reference.answer import Answer


def inspect_command(
    context: typer.Context,
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
    inspection = inspect_checkpoint(
        checkpoint,
        from_=from_,
        prefix=prefix,
        **sizes_of_options(context),
        ignore=ignore or (),
        prove=True,
        dialects=dialects or (),
    )
    if json:
        write_json(json, inspection)
    _print_inspection(inspection)
    proved = inspection["proof"] is None or inspection["proof"]["verdict"] != "fail"
    raise typer.Exit(
        FINE
        if inspection["dialect"] and not inspection["refused"] and not inspection["asks"] and proved
        else FAILED
    )


def _print_inspection(inspection: dict[str, Any]) -> None:
    def line(text: str) -> None:
        out.print(escape(printable(text)), soft_wrap=True)

    first = inspection["candidates"][0] if inspection["candidates"] else None
    if inspection["refused"]:
        line(f"refused: {inspection['refused']}")
    elif inspection["ambiguous"]:
        line(
            f"ambiguous: {', '.join(inspection['rivals'])} fit alike; {inspection['remedy']} "
            "would tell them apart"
        )
    elif first is None:
        line(
            f"no dialect that is known ({inspection['format']}, "
            f"{inspection['other_tensors']} tensors)"
        )
        if inspection["remedy"]:
            line(f"--from reads {inspection['remedy']}")
        for ask in inspection["asks"]:
            line(ask)
    else:
        under = f" under {inspection['prefix']!r}" if inspection["prefix"] else ""
        line(f"dialect: {inspection['dialect']}{under} ({inspection['format']})")
        for evidence in first["evidence"]:
            line(f"  {evidence}")
        others = list(
            dict.fromkeys(
                candidate["dialect"]
                for candidate in inspection["candidates"][1:]
                if candidate["dialect"] != inspection["dialect"]
            )
        )
        if others:
            line(f"  its tensors fit also: {', '.join(others)}")
        for asked in inspection["asks"]:
            line(f"asked: {asked}")
        _print_stage(inspection, line)
    known = set(first["evidence"]) if first else set()
    for note in inspection["notes"]:
        if note not in known:
            line(f"note: {note}")
    if inspection["proof"]:
        from ..porting.proof.compare import Check

        print_line(Check(**inspection["proof"]).line())
    if inspection["unbuilt"]:
        line(f"left unbuilt, for they are no tensors: {', '.join(inspection['unbuilt'])}")
    counts = inspection["ledger"].get("counts", {})
    for entry in inspection["ledger"].get("tensors", ()):
        if entry["status"] in ("unexplained", "ignored"):
            line(f"  {entry['status']}: {entry['name']} {tuple(entry['shape'])}")
    kinds = [
        f"{count} {'outside of it' if kind == 'outside' else kind}"
        for kind, count in counts.items()
        if kind != "used"
    ]
    line(
        f"{inspection['other_tensors']} other tensors" + (f": {', '.join(kinds)}" if kinds else "")
    )


def _print_stage(inspection: dict[str, Any], line: Callable[[str], None]) -> None:
    spec = inspection["spec"]
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
    for name, tensor in inspection["tensors"].items():
        line(
            f"  {name}: {tensor['name']} {tuple(tensor['shape'])} {tensor['dtype']}, "
            f"{tensor['layout']}"
        )


def _convolution(layer: dict[str, Any]) -> str:
    """One convolution of a stem, in words."""
    more = ["batch norm"] * layer["batch_norm"] + [layer["activation"]] * bool(layer["activation"])
    behind = f" with {' and '.join(more)}" if more else ""
    return (
        f"a {'×'.join(map(str, layer['kernel'][2:]))} convolution at stride "
        f"{layer['stride']}{behind}"
    )


STYLES = {"pass": "green", "fail": "bold red", "skip": "yellow", "lost": "yellow"}
"""Of the word that a line begins with."""


def print_answer(answer: "Answer") -> None:
    """Print the lines of an answer."""
    for text in answer.lines():
        print_line(text)


def print_line(text: str) -> None:
    """Print a line; the word that it begins with is colored where it is a verdict."""
    word, space, rest = text.partition(" ")
    style = STYLES.get(word)
    out.print(f"[{style}]{word}[/]{space}{escape(rest)}" if style else escape(text), soft_wrap=True)


def verify_command(
    context: typer.Context,
    first: Annotated[Path, typer.Argument(metavar="A", help="A checkpoint.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one, in any dialect.")],
    from_: Annotated[
        list[str] | None,
        typer.Option("--from", **DIALECTS, help="The dialect of A; given twice, of A and B."),
    ] = None,
    prefix: Annotated[
        list[str] | None,
        typer.Option(
            "--prefix",
            metavar="NAME",
            help="What stands before the names of A; given twice, of A and B.",
        ),
    ] = None,
    image_size: ImageSizeOption = None,
    patch_size: PatchSizeOption = None,
    in_channels: InChannelsOption = None,
    stride: StrideOption = None,
    padding: PaddingOption = None,
    resample: ResampleOption = None,
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
    difference = verify(
        first,
        second,
        from_=(named[0], named[1]),
        prefix=(before[0], before[1]),
        **sizes_of_options(context),
        resample=resample,
        ignore=ignore or (),
        dialects=dialects or (),
    )
    if json:
        write_json(json, difference.to_dict())
    print_answer(difference)
    raise typer.Exit(FINE if difference.same else FAILED)


def embed_command(
    context: typer.Context,
    checkpoint: CheckpointArgument,
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES",
            help="A .npy file, NCHW (tubelets NCTHW), taken as it is, or a picture: scaled to -1 "
            "to 1, or made into images by --preprocess.",
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The .npy file to write.")],
    from_: FromOption = None,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            **OUTPUTS,
            help="tokens, after the projection, or the sequence that enters the encoder.",
        ),
    ] = "sequence",
    prefix: PrefixOption = None,
    image_size: ImageSizeOption = None,
    patch_size: PatchSizeOption = None,
    in_channels: InChannelsOption = None,
    stride: StrideOption = None,
    padding: PaddingOption = None,
    resample: ResampleOption = None,
    preprocess: Annotated[
        str | None,
        typer.Option(
            "--preprocess",
            metavar="auto|FILE",
            help="Make the images of a picture as this file says (preprocessor_config.json of "
            "transformers, timm's config.json, KerasHub's preprocessor.json), or auto, the one "
            "beside the checkpoint.",
        ),
    ] = None,
    preprocess_backend: PreprocessBackendOption = "torchvision",
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Turn a picture as its EXIF data say.")
    ] = False,
    ignore: IgnoreOption = None,
    dialects: DialectsOption = None,
) -> None:
    """Run the reference on a checkpoint of any dialect, so that anyone can compare with what their
    model computes."""
    from ..porting.dialects.sizes import Sizes
    from ..porting.embed import read_for_images, require_normalized, told_parts
    from ..porting.files.atomic import files_read, require_writable
    from ..porting.files.images import write_array
    from ..porting.preprocess import images_of

    if target.suffix != ".npy":
        raise PatchParityError(f"{target}: expected the name of a .npy file to write the {to} to")
    for what, source in (("checkpoint", checkpoint), ("images", images)):
        if target.exists() and Path(source).exists() and target.samefile(source):
            raise PatchParityError(
                f"{target} is the {what} itself: give the {to} a file of its own"
            )
    require_writable(target, *files_read(checkpoint), *(dialects or ()), images)
    require_preprocess(options_typed(context))
    sizes = Sizes.of_user(**sizes_of_options(context))
    require_choice("to", to, ("tokens", "sequence"))
    made = images_of(images, checkpoint, preprocess, preprocess_backend, rotate)
    pixels = made.images
    read = read_for_images(
        checkpoint,
        pixels,
        from_=from_,
        prefix=prefix,
        sizes=sizes,
        resample=resample,
        ignore=ignore or (),
        dialects=dialects or (),
    )
    if Path(images).suffix != ".npy" and preprocess is None:
        require_normalized(images, read.stage)
    tokens = read.embed(pixels, to)
    for note in made.notes:
        err.print(f"[yellow]told[/] {escape(note)}", soft_wrap=True)
    for step in (*made.steps, *read.steps):
        err.print(f"[yellow]step[/] {escape(step)}", soft_wrap=True)
    for note in read.stage.notes:
        err.print(f"[yellow]read[/] {escape(note)}", soft_wrap=True)
    for sentence in (*told_parts(read.stage), *read.left_out(pixels)):
        err.print(f"[yellow]told[/] {escape(sentence)}", soft_wrap=True)
    for assumption in read.stage.assumptions:
        err.print(f"[yellow]assumed[/] {escape(assumption)}", soft_wrap=True)
    write_array(target, tokens)
    out.print(f"{escape(str(target))}: {to} {tokens.shape}, float64", soft_wrap=True)
