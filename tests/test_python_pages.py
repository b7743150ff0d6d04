"""docs/python.md and docs/commands.md are what is made of the code, and the examples of docstrings
run."""

import doctest
import importlib.util
import inspect
from pathlib import Path

import pytest

import patchparity

from . import command_tables, python_pages

pytestmark = pytest.mark.anywhere

ROOT = Path(__file__).resolve().parents[1]
NEEDS = {
    **dict.fromkeys(("to_module", "from_module", "transfer", "diagnose_object"), ("torch",)),
    **dict.fromkeys(("inspect_checkpoint", "port", "verify", "embed"), ("torch", "transformers")),
    **dict.fromkeys(("compare", "recommend", "benchmark"), ("pytest_benchmark",)),
    **dict.fromkeys(("render_report", "run"), ("pytest_benchmark", "jinja2", "skimage")),
}
"""What an example needs beside the core."""
WITHOUT = (
    "Backend",
    "Implementation",
    "PatchParityError",
    "SequenceLayout",
    "Sizes",
    "BenchOptions",
)
"""Names that are no functions and are shown in others' examples."""


def with_examples():
    """Name and examples of every public name that has some."""
    for name in patchparity.__all__:
        if name != "__version__" and ">>> " in (inspect.getdoc(getattr(patchparity, name)) or ""):
            yield name


def test_every_public_function_has_an_example():
    public = {name for name in patchparity.__all__ if name != "__version__"}
    assert public - set(with_examples()) == set(WITHOUT)


@pytest.mark.parametrize("name", with_examples())
def test_the_example_runs(name, tmp_path, monkeypatch):
    for module in NEEDS.get(name, ()):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    (tmp_path / "bench").symlink_to(ROOT / "bench")
    monkeypatch.chdir(tmp_path)
    text = inspect.getdoc(getattr(patchparity, name)) or ""
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    told: list[str] = []
    failed, tried = doctest.DocTestRunner().run(example, out=told.append)
    assert tried
    assert not failed, "".join(told)


def test_the_pages_are_what_is_made():
    """`python -m tests.python_pages` and `python -m tests.command_tables` make them anew."""
    assert python_pages.PAGE.read_text(encoding="utf-8") == python_pages.page()
    assert command_tables.PAGE.read_text(encoding="utf-8") == command_tables.page()
