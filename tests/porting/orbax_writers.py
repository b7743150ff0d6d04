"""Checkpoints written by Orbax itself, in a process of their own: its threads and warnings are not
the tests'."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

START = """
import pathlib, sys
import flax.serialization, jax, numpy as np
import jax.numpy as jnp
import ml_dtypes
import orbax.checkpoint as ocp
root = pathlib.Path(sys.argv[1])
with open(root / "tree.msgpack", "rb") as file:
    tree = flax.serialization.msgpack_restore(file.read())
"""


def orbax(folder, tree, code, devices=1):
    """Run code that saves `tree` below `root`, the folder, and return what it prints."""
    try:
        importlib.metadata.version("orbax-checkpoint")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("orbax-checkpoint is not installed")
    serialization = pytest.importorskip("flax.serialization")
    (folder / "tree.msgpack").write_bytes(serialization.msgpack_serialize(tree))
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", START + code, str(folder)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
