"""Interpreters of their own for backends whose packages do not go beside others: a virtual
environment each, under the user's cache, with the versions that were run together."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ..reference.errors import PatchParityError
from .base import Backend
from .registry import get_backend

ROOT = Path(__file__).resolve().parent.parent
"""The package's own folder; an interpreter of its own runs this very code."""

CONSTRAINTS = ROOT / "constraints.txt"
"""Exact versions, those of the tests."""

BESIDE = ("psutil", "threadpoolctl")
"""What `bench` asks a worker, beside the package's own requirements."""

MARK = "patchparity.json"
"""Written last: an environment without it was not finished."""


def cache_folder() -> Path:
    """The folder of all of them: `patchparity/backends` in `XDG_CACHE_HOME`, or in `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "patchparity" / "backends"


def own_interpreter(name: str) -> str | None:
    """The interpreter that was installed for a backend, or None."""
    folder = cache_folder() / name
    python = folder / "bin" / "python"
    return str(python) if (folder / MARK).is_file() and python.exists() else None


def requirements() -> tuple[str, ...]:
    """What the package itself needs, without versions."""
    told = importlib.metadata.requires("patchparity") or []
    own = [text for text in told if "extra ==" not in text]
    return tuple(text.split(";")[0].split(">")[0].split("=")[0].strip() for text in own)


def install(name: str) -> str:
    """Make an interpreter of its own for a backend, anew where there is one.

    Args:
        name: of a backend.

    Returns:
        Its path.

    Raises:
        PatchParityError: an unknown backend, or the last line of what pip or venv says of what it
            cannot do.
    """
    backend = get_backend(name)
    folder = cache_folder() / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", str(folder)], f"no virtual environment in {folder}")
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--constraint", str(CONSTRAINTS)]
    whole = [each for each in backend.distributions if each not in backend.distributions_alone]
    _run([*pip, *requirements(), *BESIDE, *whole], f"pip could not install {name}")
    if backend.distributions_alone:
        _run([*pip, "--no-deps", *backend.distributions_alone], f"pip could not install {name}")
    _make_known(python, folder)
    told = _run(
        [python, "-c", _VERSIONS, *backend.distributions], f"{name} cannot be loaded in {folder}"
    )
    (folder / MARK).write_text(told)
    return python


_VERSIONS = """\
import importlib.metadata, json, sys, patchparity
print(json.dumps({name: importlib.metadata.version(name) for name in sys.argv[1:]}))
"""

_FINDER = """\
import importlib.util, os, sys

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "patchparity":
            return importlib.util.spec_from_file_location(
                name, os.path.join(ROOT, "__init__.py"), submodule_search_locations=[ROOT])

sys.meta_path.append(Finder)
"""
"""What makes this package known to another interpreter, and nothing that lies beside it."""


def _make_known(python: str, folder: Path) -> None:
    where = _run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        f"the interpreter in {folder} does not start",
    )
    site = Path(where.strip())
    (site / "patchparity_finder.py").write_text(f"ROOT = {str(ROOT)!r}\n{_FINDER}")
    (site / "patchparity.pth").write_text("import patchparity_finder\n")


def _run(command: list[str], failure: str) -> str:
    """Run, and return what it printed.

    Raises:
        PatchParityError: with the last line of what it said.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=environment,
        )
    except OSError as error:
        raise PatchParityError(f"{failure}: {error}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        errors = [line for line in said if line.lower().startswith("error")]
        raise PatchParityError(f"{failure}: {(errors or said or ['no reason given'])[-1]}")
    return done.stdout


def installed_versions(backend: Backend) -> dict[str, str]:
    """Versions of a backend's packages in its own interpreter; empty where there is none."""
    if own_interpreter(backend.name) is None:
        return {}
    versions: dict[str, str] = json.loads((cache_folder() / backend.name / MARK).read_text())
    return versions
