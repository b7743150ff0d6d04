"""The README is true: two commands, an API example that runs, options and fields that exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from . import field_tables
from .readme_figures import made_anew

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_first_two_commands_are_one_line_each_and_go_through_tox():
    main_job, tests = blocks("sh")[:2]
    for command in (main_job, tests):
        assert len(command.strip().splitlines()) == 1
        assert "tox run" in command
    assert main_job.strip().endswith("tox run -e report")


def test_ci_calls_the_test_command():
    script = (ROOT / ".ci" / "run").read_text()
    (extract,) = re.findall(r"\$\((awk .*)\)$", script, re.MULTILINE)
    found = subprocess.run(
        ["bash", "-c", extract], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert found == blocks("sh")[1]


def test_the_python_example_runs(tmp_path):
    (example,) = blocks("python")[:1]
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "backends",
        "check",
        "diagnose",
        "bench",
        "recommend",
        "compare",
        "report",
        "run",
        "inspect",
        "port",
        "verify",
        "embed",
    ],
)
def test_every_option_named_in_the_readme_exists(command):
    help_text = subprocess.run(
        [sys.executable, "-m", "patchparity", command, "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for line in re.findall(rf"^patchparity {command}(.*)$", README, re.MULTILINE):
        for option in re.findall(r"--[a-z-]+", line.split("#")[0]):
            assert option in help_text, (command, option)


def test_every_field_of_the_contract_is_documented():
    """`python -m tests.field_tables` makes the page anew."""
    assert field_tables.PAGE.read_text(encoding="utf-8") == field_tables.page()
    for kind in field_tables.KINDS.values():
        named = [name for names in field_tables.meanings_of(kind) for name in names]
        assert sorted(named) == sorted(field_tables.fields_of(kind)), kind
    session = pytest.importorskip("patchparity.bench.timing.plan")
    for name in session.BenchOptions.__dataclass_fields__:
        assert re.search(rf"\b{name}\b", README), name


def test_the_tables_of_times_are_those_of_the_record():
    """`python -m tests.readme_figures` makes them anew."""
    assert made_anew(README) == README
