"""torchvision in a process of its own: its builds for other torches than this one run too, but for
operators of theirs that nothing here calls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = "PATCHPARITY_TORCHVISION"
"""The variable that tells where it is installed, beside the others."""


def run_beside_torchvision(module: str, *arguments: str) -> str:
    """What a module of the tests prints where torchvision can be imported.

    Its first line is `load()`.
    """
    folder = os.environ.get(FOLDER, "")
    if not folder:
        pytest.skip(f"{FOLDER} names no folder with torchvision in it")
    paths = os.pathsep.join([folder, *(path for path in sys.path if path)])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def load() -> None:
    """Declare the operators that torchvision's Python describes and another build of it has."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _HELD.append(library)


_HELD: list[object] = []
