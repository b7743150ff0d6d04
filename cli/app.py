"""The command line: thin. Everything it does is a documented function of the package; this folder
holds options, tables and exit codes."""

import importlib
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from ..bench.report.console import out
from .help import EXAMPLES, GroupedCommand


def _print_version(asked: bool) -> None:
    if asked:
        from .. import __version__

        out.print(f"patchparity {__version__}")
        raise typer.Exit


def _options(
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show the traceback of an error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Is my patch embedding right, is it fast, and how do I move its weights?"""


COMMANDS = {
    "backends": "backends",
    "check": "check",
    "diagnose": "diagnose",
    "bench": "bench",
    "compare": "answers",
    "recommend": "answers",
    "report": "answers",
    "keep": "answers",
    "run": "bench",
    "inspect": "checkpoints",
    "port": "port",
    "verify": "checkpoints",
    "embed": "checkpoints",
}
"""In the order in which `--help` lists them: the module of this folder in which `NAME_command` is
defined."""


HELP = {"help_option_names": ["-h", "--help"]}
"""How help is asked for."""


def command_line(words: Iterable[str] = ()) -> typer.Typer:
    """The commands that these words name, or all where they name none.

    Loading the others and laying out their options takes half as long as a small command.

    Args:
        words: what was typed.
    """
    words = set(words)
    named = [name for name in COMMANDS if name in words]
    made = typer.Typer(
        no_args_is_help=True,
        add_completion=not named,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=HELP,
    )
    made.callback()(_options)
    for name in named or COMMANDS:
        module = importlib.import_module(f".{COMMANDS[name]}", __package__)
        made.command(
            name, cls=GroupedCommand, context_settings=HELP, epilog=f"Example: {EXAMPLES[name]}"
        )(getattr(module, f"{name}_command"))
    return made


def __getattr__(name: str) -> Any:
    if name == "app":
        return command_line()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
