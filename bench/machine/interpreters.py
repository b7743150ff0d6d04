"""Which interpreter a backend runs in: this one, one that the user names, or its own."""

import subprocess
from collections.abc import Iterable

from ... import __version__
from ...backends.install import own_interpreter
from ...backends.registry import get_backend, list_backends, missing_of
from ...reference.errors import PatchParityError

START_SECONDS = 300.0
"""Time for an interpreter to say which patchparity it has; cold disks take long."""


def own_interpreters(names: Iterable[str] = ()) -> dict[str, str]:
    """The interpreters of backends that are not installed here and have one of their own.

    Args:
        names: of backends; none means all.
    """
    backends = [get_backend(name) for name in names] or list_backends()
    found = {
        backend.name: own_interpreter(backend.name) for backend in backends if missing_of(backend)
    }
    return {name: path for name, path in found.items() if path}


def parse_interpreters(texts: Iterable[str]) -> dict[str, str]:
    """Read `BACKEND=PATH`.

    Raises:
        PatchParityError: an unknown backend, or an interpreter that is absent or has no
            patchparity.
    """
    interpreters = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not path:
            raise PatchParityError(
                f"python {text!r}: expected BACKEND=PATH, for instance "
                "tensorflow=/opt/tf/bin/python"
            )
        get_backend(name)
        try:
            command = [
                path,
                "-c",
                "import patchparity, execnet; print(patchparity.__version__)",
            ]
            asked = subprocess.run(
                command, capture_output=True, text=True, timeout=START_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PatchParityError(f"python {text!r} cannot be run: {error}") from None
        if asked.returncode or asked.stdout.strip() != __version__:
            answer = (
                asked.stdout.strip() or (asked.stderr.strip().splitlines() or ["no answer"])[-1]
            )
            raise PatchParityError(
                f"python {text!r}: expected an interpreter with patchparity[bench] "
                f"{__version__}, found {answer}; pip install it there"
            )
        interpreters[name] = path
    return interpreters
