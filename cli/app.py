"""The command line: thin. Everything it does is a documented function of the package; this folder
holds options, tables and exit codes."""

from collections import defaultdict
from collections.abc import Callable
from typing import Annotated

import typer
from rich.table import Table

from ..bench.report.console import escape, out
from .answers import compare_command, keep_command, recommend_command, report_command
from .bench import bench_command, run_command
from .check import check_command
from .checkpoints import embed_command, inspect_command, verify_command
from .diagnose import diagnose_command
from .port import port_command

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(asked: bool) -> None:
    if asked:
        from .. import __version__

        out.print(f"patchparity {__version__}")
        raise typer.Exit


@app.callback()
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


@app.command("backends")
def backends_command() -> None:
    """List backends, versions and implementations; imports no framework."""
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


COMMANDS: dict[str, Callable[..., None]] = {
    "check": check_command,
    "diagnose": diagnose_command,
    "bench": bench_command,
    "compare": compare_command,
    "recommend": recommend_command,
    "report": report_command,
    "keep": keep_command,
    "run": run_command,
    "inspect": inspect_command,
    "port": port_command,
    "verify": verify_command,
    "embed": embed_command,
}
"""In the order in which `--help` lists them."""

for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
