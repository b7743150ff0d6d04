"""What was typed: which options, of which files, and which of them belong together."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import typer

from ..bench.report.console import err
from ..reference.errors import PatchParityError
from .exit import INTERRUPTED

READING = (
    "weights",
    "kernel_layout",
    "image_layout",
    "patch_size",
    "in_channels",
    "image_size",
    "stride",
    "padding",
    "framework",
    "module",
    "init",
)
"""Options that say how somebody's implementation is read; the names are those of `read_live`."""


def source_of(target: str | None) -> list[Path]:
    """The file of a `module:attribute` in the folder where it is looked for."""
    module = "" if target is None else target.partition(":")[0]
    if not module or module.endswith(".py"):
        return [Path(module)] if module else []
    return [Path(module.replace(".", "/") + ".py")]


def size_of(option: str, text: str | None, least: int = 1) -> tuple[int, ...] | int | None:
    """Read `224` or `224x160`.

    Args:
        option: as it was typed.
        text: what it was given.
        least: the smallest number that makes sense.

    Raises:
        PatchParityError: what is no size.
    """
    if text is None:
        return None
    numbers = text.lower().replace("×", "x").split("x")
    digits = [
        number.isascii() and number.isdigit() and len(number) < 10 and int(number) >= least
        for number in numbers
    ]
    if not all(digits) or len(numbers) > 3:
        raise PatchParityError(
            f"{option} {text}: expected a number, or numbers with x between them, such as 224x160"
        )
    return int(numbers[0]) if len(numbers) == 1 else tuple(map(int, numbers))


def reading_of(context: typer.Context) -> dict[str, Any]:
    """The options that say how somebody's object is read, sizes as numbers.

    Raises:
        PatchParityError: what is no size.
    """
    options = {name: context.params[name] for name in READING}
    for name in ("patch_size", "image_size", "stride", "padding"):
        option, least = f"--{name.replace('_', '-')}", 0 if name == "padding" else 1
        options[name] = size_of(option, options[name], least)
    if options["init"] is not None:
        try:
            options["init"] = json.loads(options["init"])
        except ValueError as error:
            raise PatchParityError(f"--init is no JSON: {error}") from None
        if not isinstance(options["init"], dict):
            raise PatchParityError("--init: expected an object, such as '{\"image_size\": 224}'")
    return options


SUITE = (
    "backend",
    "implementation",
    "dtype",
    "precision",
    "device",
    "image",
    "remainder",
    "every_case",
    "seeds",
    "python",
)
"""Options of a check of the suite's own implementations."""


LIVE_ONLY = ("in_channels", "image_size", "framework", "module", "init")
"""Options of READING that files answer themselves."""


def options_typed(context: typer.Context) -> list[str]:
    """Names of the parameters that were typed."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return [
        name
        for name, source in sources.items()
        if source is not None and source.name == "COMMANDLINE"
    ]


def refuse_strays(typed: list[str], allowed: tuple[str, ...], why: str) -> None:
    """Raise where a parameter was typed that plays no part in what was asked for."""
    names = {"target": "MODULE:ATTRIBUTE", "controls": "--negative-controls"}
    if strays := [
        names.get(name, f"--{name.replace('_', '-')}") for name in typed if name not in allowed
    ]:
        raise PatchParityError(f"{', '.join(strays)} has no part here: {why}")


def require_preprocess(typed: list[str]) -> None:
    """Raise PatchParityError where --preprocess-backend was typed, and no steps that it is of."""
    if "preprocess_backend" in typed and "preprocess" not in typed:
        raise PatchParityError(
            "--preprocess-backend has no part here: it says with what the steps that --preprocess "
            "names resize; give that too (embed takes auto for the file beside the checkpoint)"
        )


def fraction(text: str, option: str) -> float:
    """Read `5%` or `0.05`."""
    with suppress(ValueError):
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        if value < 1 or text.endswith("%"):
            return value
    raise PatchParityError(
        f"{option} {text}: expected a percentage or a fraction below 1, such as 5% or 0.05"
    )


TOLD_OF_INTERRUPTION = False
"""Whether `interruptible` has said so already."""


@contextmanager
def interruptible(
    message: str = "interrupted; finished cases are kept: the same command with --resume goes on",
) -> Iterator[None]:
    """On Ctrl-C, say what was kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        global TOLD_OF_INTERRUPTION
        TOLD_OF_INTERRUPTION = True
        err.print(message)
        raise typer.Exit(INTERRUPTED) from None


def own_shape(
    patch_size: str | None,
    image_size: str | None,
    embed_dim: int | None,
    in_channels: int | None,
    stride: str | None,
) -> str | None:
    """The name of the case that sizes tell; None where none was told.

    Raises:
        PatchParityError: some of the sizes without the others, or sizes that are none.
    """
    from ..bench.cases import name_of_sizes

    if all(size is None for size in (patch_size, image_size, embed_dim, in_channels, stride)):
        return None
    if patch_size is None or image_size is None or embed_dim is None:
        raise PatchParityError(
            "a shape of one's own has --patch-size, --image-size and --embed-dim, and maybe "
            "--in-channels and --stride"
        )

    def sides(option: str, text: str) -> tuple[int, ...]:
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
            raise PatchParityError(f"{option} {text}: expected such as 8, or 8x16")
        return tuple(map(int, text.split("x")))

    return name_of_sizes(
        sides("--patch-size", patch_size),
        sides("--image-size", image_size),
        embed_dim,
        3 if in_channels is None else in_channels,
        () if stride is None else sides("--stride", stride),
    )
