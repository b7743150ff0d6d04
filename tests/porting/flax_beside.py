"""transformers 4 in Flax, in a process of its own: its models write files and run those that were
written for them. Run as a script with `write` or `run` and a folder."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = "PATCHPARITY_TRANSFORMERS4"
"""The variable that tells where transformers 4 is installed, as `transformers4_beside` wants it."""

SIZES = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    image_size=24,
    patch_size=6,
)
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("FlaxViTModel", "ViTConfig", {"intermediate_size": 40}),
    "vit-head": ("FlaxViTForImageClassification", "ViTConfig", {"intermediate_size": 40}),
    "dinov2": ("FlaxDinov2Model", "Dinov2Config", {"mlp_ratio": 2}),
    "clip": ("FlaxCLIPVisionModel", "CLIPVisionConfig", {"intermediate_size": 40}),
}
"""Class, configuration and what that is told, by name."""


def beside(what: str, folder: Path) -> None:
    """Run this script where transformers 4 is installed."""
    installed = os.environ.get(FOLDER, "")
    if not installed:
        pytest.skip(f"{FOLDER} names no folder with transformers 4 in it")
    paths = os.pathsep.join([installed, *(path for path in sys.path if path)])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, what, str(folder)],
        env={**os.environ, "PYTHONPATH": paths, "USE_TF": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def _outputs(model: Any, images: Any) -> dict[str, Any]:
    given = model(images)
    names = ("last_hidden_state", "pooler_output", "logits")
    return {name: np.asarray(given[name]) for name in names if given.get(name, None) is not None}


def main(what: str, folder: Path) -> None:
    """Write all kinds with images and outputs, or run one that lies there."""
    from transformers.utils import import_utils

    import_utils._sklearn_available = False  # which needs more than is installed here, for nothing
    import jax
    import transformers

    jax.config.update("jax_default_matmul_precision", "highest")
    generator = np.random.default_rng(4)
    if what == "run":
        kind = (folder / "kind").read_text()
        images = np.load(folder / "images.npy")
        model = getattr(transformers, KINDS[kind][0]).from_pretrained(folder)
        np.savez(folder / "truth.npz", **_outputs(model, images))
        return
    images = generator.standard_normal((2, 3, 24, 24)).astype(np.float32)
    for kind, (name, config, told) in KINDS.items():
        model = getattr(transformers, name)(
            getattr(transformers, config)(**SIZES, **told), input_shape=(1, 24, 24, 3)
        )
        model.params = jax.tree.map(
            lambda held: (held + 0.2 * generator.standard_normal(held.shape)).astype(np.float32),
            model.params,
        )
        model.save_pretrained(folder / kind)
        np.save(folder / kind / "images.npy", images)
        np.savez(folder / kind / "truth.npz", **_outputs(model, images))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
