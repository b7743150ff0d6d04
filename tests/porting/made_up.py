"""Dialects and checkpoints made up for tests of one part of a reading."""

from pathlib import Path

import numpy as np

from patchparity.porting.dialects.dialect import Dialect, Entry
from patchparity.porting.files.checkpoint import Checkpoint, TensorInfo

GENERATOR = np.random.default_rng(23)
D, C = 24, 3
FLAT = {"Ph": 6, "Pw": 4}
TUBE = {"Pt": 2, **FLAT}


def rows(*shape, dtype=np.float32):
    return GENERATOR.standard_normal(shape).astype(dtype)


def dialect_of(layout="D C Ph Pw", more=(), framework="torch", **given):
    """A dialect of a kernel of this layout, and of more fields, each under its own name."""
    entries = {name: Entry(name, name, "D") for name in more}
    entries["kernel"] = Entry("kernel", "kernel", layout)
    return Dialect("mine", "my own", framework, ("safetensors",), entries, **given)


class Held(Checkpoint):
    """A checkpoint of these shapes, which nobody reads."""

    def __init__(self, shapes, kind="safetensors", metadata=(), path="folder/a.safetensors"):
        super().__init__(Path(path))
        self.format = kind
        self.tensors = {name: TensorInfo(shape, "float32") for name, shape in shapes.items()}
        self.metadata = dict(metadata)

    def _read(self, name):
        raise AssertionError(f"{name} was read, and only shapes are looked at")
