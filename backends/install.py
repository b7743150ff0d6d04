"""Interpreters of their own for backends whose packages do not go beside others: a virtual
environment each, under the user's cache, with the versions that were run together."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .. import __version__
from ..reference.errors import PatchParityError
from .base import Backend
from .registry import get_backend

ROOT = Path(__file__).resolve().parent.parent
"""The package's own folder; an interpreter of its own runs this very code."""

CONSTRAINTS = ROOT / "constraints.txt"
"""Exact versions, those of the tests."""

REQUIREMENTS = (
    "numpy",
    "ml_dtypes",
    "safetensors",
    "msgspec",
    "einops",
    "packaging",
    "typer",
    "rich",
    "execnet",
    "tomli",
)
"""What the package itself needs; a test compares this with `pyproject.toml`."""

BESIDE = ("psutil", "threadpoolctl")
"""What `bench` asks a worker, beside the package's own requirements."""

MARK = "patchparity.json"
"""Written last: an environment without it was not finished."""


def cache_folder() -> Path:
    """The folder of all of them: `patchparity/backends` in `XDG_CACHE_HOME`, or in `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "patchparity" / "backends"


def own_interpreter(name: str) -> str | None:
    """The interpreter that was installed for a backend, by this very patchparity; or None."""
    folder = cache_folder() / name
    python, mark = folder / "bin" / "python", _mark(name)
    mine = mark.get("root") == str(ROOT) and mark.get("patchparity") == __version__
    return str(python) if mine and python.exists() else None


def _mark(name: str) -> dict[str, Any]:
    try:
        mark = json.loads((cache_folder() / name / MARK).read_text())
    except (OSError, ValueError):
        return {}
    return mark if isinstance(mark, dict) else {}


def install(name: str) -> str:
    """Make an interpreter of its own for a backend, in the place of one that is there once it is
    known to work.

    Args:
        name: of a backend.

    Returns:
        Its path.

    Raises:
        PatchParityError: an unknown backend, or the last line of what pip or venv says of what it
            cannot do, or of what the backend lacks there.
    """
    backend = get_backend(name)
    cache_folder().mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache_folder()))
    try:
        mark = _fill(fresh, backend)
        (fresh / MARK).write_text(json.dumps(mark))
        folder = cache_folder() / name
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return str(folder / "bin" / "python")


def _fill(folder: Path, backend: Backend) -> dict[str, Any]:
    """Install into an environment, and load it there; return what the mark is to say."""
    name = backend.name
    _run([sys.executable, "-m", "venv", str(folder)], f"no virtual environment in {folder}")
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--constraint", str(CONSTRAINTS)]
    whole = [each for each in backend.distributions if each not in backend.distributions_alone]
    _run([*pip, *REQUIREMENTS, *BESIDE, *whole], f"pip could not install {name}")
    if backend.distributions_alone:
        _run([*pip, "--no-deps", *backend.distributions_alone], f"pip could not install {name}")
    _make_known(python, folder)
    told = json.loads(
        _run([python, "-c", _LOADED, name], f"{name} cannot be loaded").splitlines()[-1]
    )
    if told["missing"]:
        raise PatchParityError(f"{name} is installed and cannot run: {told['missing']}")
    return {"versions": told["versions"], "patchparity": __version__, "root": str(ROOT)}


_LOADED = """\
import json, sys
from patchparity.backends.registry import get_backend
backend = get_backend(sys.argv[1])
missing = backend.missing()
if missing is None:
    with backend.precision("ieee"):
        backend.devices()
print(json.dumps({"missing": missing, "versions": backend.versions()}))
"""
"""What the new interpreter is asked: whether the backend is there."""

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
    versions: dict[str, str] = _mark(backend.name).get("versions", {})
    return versions
