"""The command line: thin. Everything it does is a documented function of the package; this folder
holds options, tables and exit codes."""

import importlib
from collections import defaultdict
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from ..bench.report.console import escape, out
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


def backends_command() -> None:
    """List backends, versions and implementations; imports no framework."""
    from rich.table import Table

    from ..backends.registry import list_backends, list_broken_backends

    table = Table("backend", "version", "implementations", "status")
    for backend in list_backends():
        names = defaultdict(list)
        for implementation in backend.implementations:
            where = "" if "cpu" in implementation.devices else " on cuda"
            names[implementation.formulation, where].append(implementation.mode)
        described = "\n".join(
            f"{formulation} ({' '.join(modes)}){where}"
            for (formulation, where), modes in names.items()
        )
        missing = backend.missing()
        versions = "\n".join(f"{name} {version}" for name, version in backend.versions().items())
        table.add_row(
            backend.name, versions, described, escape(missing) if missing else "[green]ready[/]"
        )
    for broken in list_broken_backends():
        table.add_row(broken.name, "", "", f"[red]{escape(broken.reason)}[/]")
    out.print(table)


COMMANDS = {
    "backends": "app",
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
