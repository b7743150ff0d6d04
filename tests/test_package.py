"""The package: laws of the root, lazy public names, the wheel, and a clone under an awkward
name."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

import patchparity
from patchparity.backends.runtime import RuntimeBackend

ROOT = Path(__file__).resolve().parents[1]
FRAMEWORKS = ("torch", "tensorflow", "jax", "keras")


def run_python(code: str, **options) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported_by(code: str) -> set[str]:
    return set(
        json.loads(run_python(f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"))
    )


def test_import_loads_only_itself():
    loaded = imported_by("import patchparity")
    assert {name for name in loaded if name.startswith("patchparity")} == {"patchparity"}
    assert not loaded & {"numpy", *FRAMEWORKS}


def test_bench_package_imports_nothing_when_loaded():
    loaded = imported_by("import patchparity.bench")
    assert {name for name in loaded if name.startswith("patchparity")} == {
        "patchparity",
        "patchparity.bench",
    }


def test_choosing_a_backend_imports_no_framework():
    code = (
        "import patchparity; patchparity.list_backends(); patchparity.get_backend('torch'); "
        "patchparity.list_implementations()"
    )
    assert not imported_by(code) & set(FRAMEWORKS)


def test_the_isolation_check_can_fail():
    assert "numpy" in imported_by("import numpy")


def test_reference_needs_numpy_and_ml_dtypes_only():
    modules = [
        f"patchparity.reference.{path.stem}"
        for path in (ROOT / "reference").glob("*.py")
        if path.stem != "__init__"
    ]
    code = "\n".join(f"import {name}" for name in modules)
    allowed = {"patchparity", "numpy", "ml_dtypes"}
    baseline = imported_by("import numpy, numpy.random, ml_dtypes")
    extra = {name.split(".")[0] for name in imported_by(code) - baseline} - allowed
    assert not {name for name in extra if name not in sys.stdlib_module_names}


def test_type_checkers_see_the_public_names():
    text = (ROOT / "__init__.py").read_text()
    seen = {
        name: f"patchparity.{module}"
        for module, name in re.findall(r"    from \.(\S+) import (\w+) as \2\n", text)
    }
    assert seen == patchparity._PUBLIC


@pytest.mark.parametrize("name", patchparity._PUBLIC)
def test_public_name_resolves_and_is_documented(name):
    value = getattr(patchparity, name)
    assert value.__doc__
    assert name not in {path.name for path in ROOT.iterdir() if path.is_dir()}, (
        "a function must not have a subpackage's name"
    )


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = patchparity.nothing


def python_folders() -> set[str]:
    ignored = {"tests", "examples", "site", "build", "dist"}
    folders = {path.parent.relative_to(ROOT) for path in ROOT.rglob("*.py")}
    return {
        ".".join(("patchparity", *folder.parts))
        for folder in folders
        if not any(
            part.startswith(".") or part in ignored or part.endswith(".egg-info")
            for part in folder.parts
        )
    }


def test_every_folder_with_code_is_a_listed_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert set(listed) == python_folders()


def test_extras_hold_lower_bounds_and_all_holds_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    joined = extras.pop("all")
    # peers, runtimes and fleets, which few need, and which are large
    apart = {"transformers", "flax", "keras-hub", "ray", "runtimes"}
    apart |= {each.name for each in patchparity.list_backends() if isinstance(each, RuntimeBackend)}
    ours = [name for name in extras if name not in apart]
    assert joined == [f"patchparity[{','.join(ours)}]"]
    assert all(
        (">=" in requirement or requirement.startswith("patchparity[")) and "==" not in requirement
        for group in extras.values()
        for requirement in group
    )


def tracked_copy(target: Path) -> Path:
    """Copy what a clone would hold: no hidden folders, no build products, no reports at the
    root."""
    products = {"build", "dist", "site", "report", "report-full", "patchparity-bench"}

    def skipped(folder: str, names: list[str]) -> set[str]:
        at_root = products if Path(folder) == ROOT else set()
        return {
            name
            for name in names
            if name.startswith(".")
            or name == "__pycache__"
            or name.endswith(".egg-info")
            or name in at_root
        }

    shutil.copytree(ROOT, target, ignore=skipped)
    return target


def package_files(folder: Path) -> set[str]:
    """Files that code needs at run time, by their place in a folder."""
    kinds = {".py", ".html", ".css", ".ini", ".toml", ".typed"}
    return {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix in kinds
    }


@pytest.mark.install
def test_wheel_installs_in_a_fresh_environment_and_runs_from_another_folder(tmp_path):
    source = tracked_copy(tmp_path / "source")
    shipped = package_files(source)
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "PIP_CONSTRAINT"))
    }
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path / "dist", source],
        check=True,
        env=environment,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    venv.create(tmp_path / "fresh", with_pip=True)
    bin_folder = tmp_path / "fresh" / "bin"
    subprocess.run(
        [bin_folder / "python", "-m", "pip", "install", "-q", wheel], check=True, env=environment
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [bin_folder / "patchparity", "backends"],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    for backend in ("numpy", "torch", "tensorflow", "jax"):
        assert backend in done.stdout
    assert "patchparity[torch]" in done.stdout
    listed = subprocess.run(
        [
            bin_folder / "python",
            "-c",
            "import patchparity, os; print(os.path.dirname(patchparity.__file__))",
        ],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    ).stdout.strip()
    installed = package_files(Path(listed))
    others = ("tests/", "examples/")
    left_out = {name for name in shipped - installed if not name.startswith(others)}
    assert left_out <= {"pyproject.toml", "tox.ini"}


@pytest.mark.install
def test_a_clone_called_a_dash_b_dot_c_loads_each_module_once(tmp_path):
    clone = tracked_copy(tmp_path / "a-b.c")
    (clone / "tests" / "test_loaded_once.py").write_text(
        "import sys\n"
        "import patchparity.bench, patchparity.reference.spec, patchparity.backends.base\n"
        "def test_each_file_once():\n"
        "    files = [m.__file__ for n, m in list(sys.modules.items()) if getattr(m, '__file__', "
        "None)\n"
        "             and n.split('.')[-1] in ('spec', 'base', 'weights', 'embed', 'cases') and "
        "('patchparity' in n or 'a-b' in m.__file__)]\n"
        "    assert files and len(files) == len(set(files)), files\n"
        "    twice = [n for n in sys.modules if n.endswith('reference.spec')]\n"
        "    assert twice == ['patchparity.reference.spec'], twice\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "tests/reference/test_spec.py",
            "tests/backends/test_layouts.py",
            "tests/test_loaded_once.py",
        ],
        cwd=clone,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
