"""vitax's ViT, which is that of Flax's own documentation, in a package whose other files need
transformers 4."""

import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray


@functools.cache
def vision_transformer() -> Any:
    """The class, of its file alone."""
    pytest.importorskip("flax")
    found = importlib.util.find_spec("vitax")
    if found is None or not found.submodule_search_locations:
        pytest.skip("vitax is not installed")
    path = Path(found.submodule_search_locations[0], "models", "vit.py")
    spec = importlib.util.spec_from_file_location("vitax_vit", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.VisionTransformer


def grown(model: Any, seed: int = 0) -> Any:
    """With other weights, as after some training."""
    from flax import nnx

    numbers = np.random.default_rng(seed)
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        shape = variable.shape
        drawn = 0.1 * numbers.standard_normal(shape)
        if path[-1] == "scale":
            drawn += 1
        elif path[-1] == "kernel":
            fan = int(np.prod(shape[:-1])) if path[-2] != "out" else int(np.prod(shape[:2]))
            fan = shape[0] if path[-2] in ("query", "key", "value") else fan
            drawn *= 10 / fan**0.5
        variable.set_value(np.asarray(drawn, np.float32))
    model.eval()
    return model


def save(model: Any, folder: Path, how: str) -> None:
    """As its users save it: `whole`, with the seeds of dropout; `parameters`; or `pure`, a tree of
    dictionaries."""
    import orbax.checkpoint
    from flax import nnx

    state = nnx.state(model) if how == "whole" else nnx.state(model, nnx.Param)
    with orbax.checkpoint.StandardCheckpointer() as saver:
        saver.save(folder, nnx.to_pure_dict(state) if how == "pure" else state)


def run(model: Any, images: NDArray[Any]) -> NDArray[Any]:
    """What it makes of images `(B, H, W, C)` in float64."""
    import jax

    with jax.enable_x64(True):
        return np.asarray(model(jax.numpy.asarray(images, "float64")))
