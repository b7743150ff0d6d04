"""The door of the command line: it catches what ends a command, from the first import on, and says
it in a sentence."""

import atexit
import gc
import os
import sys
import threading
from typing import Any, NoReturn


def __getattr__(name: str) -> Any:
    if name == "app":
        from .cli.app import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def console() -> NoReturn:
    """Run the command line as a process of its own, and leave it without taking it down piece by
    piece: to free a framework's objects takes as long as to check a module.

    What was registered to run at the end runs, and all output is written; a thread that has work
    left is waited for.
    """
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    else:
        status = 0
    others = [thread for thread in threading.enumerate() if not thread.daemon]
    if others != [threading.main_thread()]:
        sys.exit(status)
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except OSError:  # nobody reads any more, or the disk is full: what could be told was told
        status = status or 1
    os._exit(status)


def main() -> None:
    """Run the command line; a user's mistake is one sentence on stderr and exit status 2, an
    interruption 130."""
    # A framework makes a million objects, and looking for garbage among them takes a tenth of a
    # second each time: a command does so rarely.
    gc.set_threshold(100_000, 50, 1000)
    try:
        _run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)  # 128 + SIGINT, as shells have it
    except SystemExit as end:
        if end.code == 130 and not _said():  # typer ends a command so, without a word
            print("interrupted", file=sys.stderr)
        raise


def _said() -> bool:
    """Whether a command has told that it was interrupted."""
    given = sys.modules.get("patchparity.cli.given")
    return given is not None and given.TOLD_OF_INTERRUPTION


def _run() -> None:
    from .bench.report.console import err, escape
    from .cli.app import command_line
    from .cli.exit import MISUSED
    from .reference.errors import PatchParityError

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a terminal of another encoding gets what it has no sign for spelled out
    try:
        command_line(sys.argv[1:])()
    except (PatchParityError, MemoryError, OSError, RuntimeError, UnicodeError) as error:
        if "--traceback" in sys.argv or not _is_told(error):
            raise
        try:
            err.print(f"[bold red]error:[/] {escape(_sentence(error))}", soft_wrap=True)
        finally:
            sys.exit(MISUSED)


def _is_told(error: BaseException) -> bool:
    """Whether an error is one that the machine or a user made: a RuntimeError only where links lead
    in a loop."""
    return type(error) is not RuntimeError or "Symlink loop" in str(error)


def _sentence(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"there is not enough memory for that ({str(error) or 'no more is told'})"
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}"
    return str(error)


if __name__ == "__main__":
    console()
