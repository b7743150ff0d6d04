"""`python -m tests.command_tables`: docs/commands.md made anew from the command line itself. A
test holds the page to it."""

from pathlib import Path
from typing import Any

from typer.main import get_command

from patchparity.cli.app import COMMANDS, command_line
from patchparity.cli.help import EXAMPLES, options_in_groups

PAGE = Path(__file__).parent.parent / "docs" / "commands.md"
HEAD = """# Every command and option

Made by `python -m tests.command_tables` from the command line itself. What the commands mean, their
files and exit status: [reference.md](reference.md).
"""


def page() -> str:
    """docs/commands.md."""
    group: Any = get_command(command_line())
    lines = [HEAD]
    for name in COMMANDS:
        lines += section(group.commands[name])
    return "\n".join(lines)


def section(command: Any) -> list[str]:
    """The lines of one command."""
    context = command.make_context(command.name, [], resilient_parsing=True)
    usage = " ".join(["patchparity", command.name, *command.collect_usage_pieces(context)])
    lines = [f"## {command.name}\n", f"{' '.join((command.help or '').split())}\n"]
    lines += [f"    {usage}\n", f"For instance: `{EXAMPLES[command.name]}`\n"]
    for title, rows in options_in_groups(command, context).items():
        entries = [(name, text) for name, text in rows if "--help" not in name]
        if entries:
            lines += [f"| {title} | |", "|---|---|"]
            lines += [f"| `{escaped(name)}` | {escaped(text)} |" for name, text in entries]
            lines.append("")
    return lines


def escaped(text: str) -> str:
    """A cell of a table."""
    return text.replace("|", r"\|").replace("  ", " ")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
