"""`python -m tests.mutants [FILE ...]`: change one thing of the code at a time (mutmut), and tell
which changes no test notices.

The work is done on a copy of the tree. A survivor whose kind changes nothing (`SAME`), or that
`argued.toml` gives a reason for, is counted; any other is printed, and the exit code is 1.
"""

import argparse
import ast
import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

TESTS = {
    "reference/patches.py": ("reference/test_patches.py", "reference/test_embed.py"),
    "reference/embed.py": ("reference/test_embed.py", "reference/test_patches.py"),
    "reference/sequence.py": ("reference/test_weights_and_sequence.py",),
    "reference/weights.py": ("reference/test_weights_and_sequence.py",),
    "reference/spec.py": ("reference/test_spec.py",),
    "reference/resample.py": ("reference/test_resample.py",),
    "reference/stem.py": ("reference/test_stem.py",),
    "reference/exact.py": ("reference/test_exact.py", "reference/test_embed.py"),
    "reference/expectation.py": (
        "reference/test_expectation.py",
        "reference/test_probes_and_verdict.py",
    ),
    "reference/error.py": ("reference/test_error.py", "reference/test_probes_and_verdict.py"),
    "reference/verdict.py": (
        "reference/test_verdict_alone.py",
        "reference/test_probes_and_verdict.py",
        "reference/test_error.py",
    ),
    "porting/dialects/positions.py": (
        "porting/test_positions_alone.py",
        "porting/test_dialects.py",
        "porting/test_any_grid.py",
    ),
    "porting/dialects/strides.py": (
        "porting/test_strides_alone.py",
        "porting/test_dialects.py",
        "porting/test_evidence.py",
    ),
    "porting/dialects/ledger.py": (
        "porting/test_ledger_alone.py",
        "porting/test_evidence.py",
        "porting/test_reasons.py",
    ),
    "porting/dialects/evidence.py": ("porting/test_evidence_alone.py", "porting/test_evidence.py"),
}
"""What is mutated unless files are named, for it decides a verdict or a reading, and which tests
are asked about it."""

SAME = {
    "strict of zip": r", strict=(True|False|None)|, (?=\))",
    "copy of astype": r"(, )?copy=(True|False|None)|, (?=\))",
    "-1 of reshape": r"(?<=reshape\()-[12]|(?<=, )-[12](?=, \w+\)$)",
    "float64 of astype": r"astype\((np\.float64|None)\)",
}
"""Kinds that change nothing, with what is left out of both lines: lengths come from one spec; a
copy has the same values; NumPy takes any negative length for the one that is left, and None for
float64."""

CONFIG = """
[tool.mutmut]
source_paths = ["patchparity"]
only_mutate = {files}
also_copy = ["patchparity", "tests"]
pytest_add_cli_args = ["-q", "-x", "-p", "no:cacheprovider", "--import-mode=importlib"]
pytest_add_cli_args_test_selection = {tests}
use_git_change_detection = false

[tool.pytest.ini_options]
markers = ["full: takes minutes", "install: installs the package", "anywhere: takes long"]
"""


def copied_tree(target: Path, file: str) -> None:
    """Lay the package and its tests side by side, with a configuration for mutmut."""
    ignored = shutil.ignore_patterns(".*", "report*", "build", "dist", "__pycache__", "tests")
    shutil.copytree(ROOT, target / "patchparity", ignore=ignored)
    shutil.copytree(ROOT / "tests", target / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    config = CONFIG.format(
        files=json.dumps([f"patchparity/{file}"]),
        tests=json.dumps([f"tests/{test}" for test in TESTS[file]]),
    )
    (target / "pyproject.toml").write_text(config, encoding="utf-8")


def changes(target: Path, file: str) -> Iterator[tuple[int | None, str, str]]:
    """The exit code, the line before and the line after of each mutant of a file."""
    mutated = target / "mutants" / "patchparity" / file
    codes = json.loads(mutated.with_name(f"{mutated.name}.meta").read_text())["exit_code_by_key"]
    functions = {
        node.name: ast.unparse(node).splitlines()[1:]
        for node in ast.walk(ast.parse(mutated.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    for key, code in codes.items():
        name = key.rpartition(".")[2]
        before = functions[f"{name.rpartition('__mutmut_')[0]}__mutmut_orig"]
        lines = [
            line for line in difflib.ndiff(before, functions[name]) if line.startswith(("- ", "+ "))
        ]
        removed = " ".join(line[2:].strip() for line in lines if line[0] == "-")
        added = " ".join(line[2:].strip() for line in lines if line[0] == "+")
        yield code, removed, added


def kind_of(before: str, after: str) -> str | None:
    """The kind of a change that changes nothing; None for any other."""
    for kind, pattern in SAME.items():
        if re.sub(pattern, "", before) == re.sub(pattern, "", after):
            return kind
    text = r"'[^']*'|\"[^\"]*\""
    told = "PatchParityError(" in before or before.startswith(("message", "return f'", "told"))
    if told and re.sub(text, "", before) == re.sub(text, "", after):
        return "words of a message"
    return None


def mutants_of(file: str, processes: int) -> list[tuple[int | None, str, str]]:
    """Mutate a file and ask its tests: as `changes` gives them."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        copied_tree(target, file)
        run = [sys.executable, "-m", "mutmut", "run", "--max-children", str(processes)]
        alone = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a mutant is a fork
        with (target / "log").open("w") as log:
            done = subprocess.run(
                run, cwd=target, stdout=log, stderr=log, env={**os.environ, **alone}
            )
        if done.returncode:
            sys.exit((target / "log").read_text()[-4000:])
        return list(changes(target, file))


UNNOTICED = (None, 0, 5, 33, 34)
"""Exit codes of mutmut: its tests pass, or no test runs what was changed. All others are a failure,
or a call that does not end."""

HEADS = ("file", "mutants", "noticed", "change nothing", "argued", "not noticed")


def is_argued(mutant: dict[str, str], argument: dict[str, str]) -> bool:
    """Whether an entry of `argued.toml` is about a mutant; one without `after` is about all of a
    line."""
    return all(mutant[key] == value for key, value in argument.items() if key != "reason")


def main() -> None:
    """Parse the command line, mutate, and print a table and the survivors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", default=list(TESTS))
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    argued = tomllib.loads((Path(__file__).parent / "argued.toml").read_text(encoding="utf-8"))
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}", flush=True)
    survivors = []
    for file in given.files:
        counts: Counter[str] = Counter()
        for code, before, after in mutants_of(file, given.processes):
            entry = {"file": file, "before": before, "after": after}
            if code not in UNNOTICED:
                counts["noticed"] += 1
            elif kind_of(before, after):
                counts["same"] += 1
            elif any(is_argued(entry, argument) for argument in argued.get("mutant", [])):
                counts["argued"] += 1
            else:
                counts["left"] += 1
                survivors.append(entry)
        columns = ("noticed", "same", "argued", "left")
        row = [counts.total(), *(counts[each] for each in columns)]
        print(f"| {file} | {' | '.join(map(str, row))} |", flush=True)
    for entry in survivors:
        print(f"\n[[mutant]]\nfile = {json.dumps(entry['file'])}")
        print(f"before = {json.dumps(entry['before'])}\nafter = {json.dumps(entry['after'])}")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
