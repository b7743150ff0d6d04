"""What stands in examples/ runs, and says what it says there."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.anywhere

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NUMBER = re.compile(r"-?\d[\d.]*(e[-+]\d+)?")
"""Numbers of one machine's arithmetic are another's others."""


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.iterdir() if not path.name.startswith(".")} - {
        "__pycache__"
    } == {
        "check_my_module.py",
        "github-actions.yml",
        "patch_embedding.ipynb",
        "port_google_to_timm.sh",
    }


def test_the_module_that_is_checked():
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "check_my_module.py"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("right: PatchEmbed, float32: ")
    assert "(B, D, N) was reshaped to (B, N, D) instead of transposed" in done.stdout


def test_google_s_file_is_ported(tmp_path):
    rng = np.random.default_rng(0)
    held = {
        "embedding/kernel": rng.standard_normal((8, 8, 3, 12)),
        "embedding/bias": rng.standard_normal(12),
        "cls": rng.standard_normal((1, 1, 12)),
        "Transformer/posembed_input/pos_embedding": rng.standard_normal((1, 17, 12)),
    }
    source, target = tmp_path / "ViT.npz", tmp_path / "vit.safetensors"
    np.savez(source, **{name: array.astype(np.float32) for name, array in held.items()})
    command = tmp_path / "patchparity"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m patchparity "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(
        [EXAMPLES / "port_google_to_timm.sh", source, target],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "google-vit -> timm-vit" in done.stdout
    assert "the same embedding stage, to the last bit" in done.stdout


def test_the_notebook_shows_what_it_gives():
    """Cell by cell, as a kernel runs them: the last expression of a cell is shown."""
    pytest.importorskip("torch")
    import ast

    notebook = json.loads((EXAMPLES / "patch_embedding.ipynb").read_text(encoding="utf-8"))
    room: dict = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop()
        assert isinstance(last, ast.Expr)
        exec(compile(tree, "cell", "exec"), room)
        shown = repr(eval(compile(ast.Expression(last.value), "cell", "eval"), room))
        (output,) = cell["outputs"]
        kept = "".join(output["data"]["text/plain"])
        assert NUMBER.sub("#", shown) == NUMBER.sub("#", kept)


def test_the_workflow_calls_what_there_is():
    text = (EXAMPLES / "github-actions.yml").read_text(encoding="utf-8")
    for command, rest in re.findall(r"\bpatchparity (check|bench|compare) (.*)", text):
        help_text = subprocess.run(
            [sys.executable, "-m", "patchparity", command, "--help"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in help_text, (command, option)
