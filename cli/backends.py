"""patchparity backends."""

from collections import defaultdict
from typing import Annotated

import typer

from ..bench.report.console import escape, out
from .choices import BACKENDS


def backends_command(
    install: Annotated[
        list[str] | None,
        typer.Option(
            "--install",
            **BACKENDS,
            help="Make an interpreter of its own for a backend, under the user's cache, with the "
            "versions that were run together: check and bench find it. May be repeated.",
        ),
    ] = None,
) -> None:
    """List backends, versions and implementations; imports no framework. Or install one beside
    all that is here."""
    if install:
        _install(install)
        return
    from rich.table import Table

    from ..backends.install import installed_versions
    from ..backends.registry import list_backends, list_broken_backends, missing_of

    table = Table()
    for title in ("backend", "version", "implementations", "status"):
        table.add_column(title, overflow="fold")  # names and commands are copied from here
    for backend in list_backends():
        names = defaultdict(list)
        for implementation in backend.implementations:
            where = "" if "cpu" in implementation.devices else " on cuda"
            names[implementation.formulation, where].append(implementation.mode)
        described = "\n".join(
            f"{formulation} ({' '.join(modes)}){where}"
            for (formulation, where), modes in names.items()
        )
        missing = missing_of(backend)
        elsewhere = installed_versions(backend) if missing else {}
        versions = "\n".join(
            f"{name} {version}" for name, version in (elsewhere or backend.versions()).items()
        )
        status = escape(missing) if missing else "[green]ready[/]"
        table.add_row(
            backend.name,
            versions,
            described,
            "[green]ready[/], in an interpreter of its own" if elsewhere else status,
        )
    for broken in list_broken_backends():
        table.add_row(broken.name, "", "", f"[red]{escape(broken.reason)}[/]")
    out.print(table)


def _install(names: list[str]) -> None:
    """Install each, and tell where."""
    from ..backends.install import install
    from ..backends.registry import get_backend

    for name in names:
        get_backend(name)
    for name in dict.fromkeys(names):
        out.print(f"installing {name}: {', '.join(get_backend(name).distributions)}")
        out.print(f"installed: {install(name)}", soft_wrap=True)
