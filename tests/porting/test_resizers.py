"""Every recipe against the library that it names."""

import os
import zlib

import numpy as np
import pytest

from patchparity.porting.proof.resizers import resizer
from patchparity.reference.recipes import LIBRARIES, RECIPES, get_recipe
from patchparity.reference.resample import resize_bound
from patchparity.reference.resize import resize_grid

# OpenVINO forks when it is imported, and JAX warns of any fork
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

PAIRS = [
    ((14, 14), (24, 24)),
    ((16, 16), (37, 37)),
    ((14, 14), (20, 27)),
    ((24, 24), (14, 14)),
    ((37, 37), (16, 16)),
    ((27, 20), (9, 31)),
    ((7, 7), (7, 14)),
    ((32, 32), (16, 16)),
    ((7, 9), (1, 3)),
]
"""Grids before and after: larger, smaller, one axis each, a whole ratio, a single row, a size at
which SciPy leaves a row empty."""


@pytest.mark.parametrize("name", sorted(set(RECIPES) - set(LIBRARIES)))
def test_a_recipe_is_what_its_library_computes(name):
    theirs = resizer(name)
    if theirs is None:
        required = os.environ.get("PATCHPARITY_REQUIRE_LIBRARIES", "")
        assert name.endswith("-filled") or "transformers" not in required, name
        pytest.skip("not installed, or SciPy's without its zeros")
    random = np.random.default_rng(zlib.crc32(name.encode()))
    recipe = get_recipe(name)
    for grid, new in PAIRS:
        table = random.standard_normal((*grid, 8)).astype(np.float32)
        ours, other = resize_grid(table, new, name), theirs(table, new)
        assert other.shape == ours.shape
        largest = float(np.abs(table).max())
        bound = resize_bound(recipe.rules(grid, new), grid, new, largest, 2.0**-24)
        assert np.abs(other - ours).max() <= bound, (grid, new)
        # what separates two rules of ViT libraries, on tables of this size, is 0.0024 or more
        assert bound < 1.2e-3


def pairs(*names):
    """Two recipes, the largest difference on a table that grows, and on one that shrinks."""
    random, told = np.random.default_rng(0), []
    for grid, new in (((14, 14), (24, 24)), ((24, 24), (14, 14))):
        table = random.standard_normal((*grid, 16))
        first, second = (resize_grid(table, new, name) for name in names)
        told.append(float(np.abs(first - second).max()))
    return told


def test_libraries_do_not_do_what_anybody_would_guess():
    # torch changes a with antialias, also where nothing is antialiased
    assert min(pairs("torch-bicubic", "torch-bicubic-antialias")) > 0.1
    assert max(pairs("torch-bicubic-antialias", "pillow-bicubic")) == 0
    # and aligns no corners with both
    assert min(pairs("torch-bilinear-align-corners", "torch-bilinear-antialias-align-corners")) > 1
    # transformers and timm, Google's file in timm and in Google's code, one Keras on two backends
    assert min(pairs("transformers-vit", "timm")) > 0.1
    assert min(pairs("timm-npz", "google-vit-filled")) > 0.5
    assert min(pairs("timm-npz", "timm")) > 0.1
    assert min(pairs("keras-hub-dinov2-torch", "keras-hub-dinov2-jax")) > 0.1
    assert 1e-4 < min(pairs("keras-hub-dinov2-jax", "keras-hub-dinov2-tensorflow")) < 0.01
    assert min(pairs("transformers-dinov2", "transformers-dinov2-registers")) > 0.1
    assert min(pairs("transformers-dinov2", "dinov2")) > 0.05
    assert min(pairs("transformers-siglip", "transformers-siglip2")) > 0.3
    # ONNX's antialias alone is not torch's
    assert min(pairs("onnx-cubic-antialias-a-0.5", "torch-bicubic-antialias")) > 0.05
    assert max(pairs("onnx-cubic-antialias-excluded-a-0.5", "torch-bicubic-antialias")) < 1e-12


@pytest.mark.parametrize("asked", ["antialias", "excluded"])
def test_openvino_ignores_what_an_onnx_file_asks_of_a_resize(asked):
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    from patchparity.porting.proof.resizers import onnx_resize

    images = np.random.default_rng(5).standard_normal((1, 3, 24, 20)).astype(np.float32)
    given = {"INFERENCE_PRECISION_HINT": "f32"}
    results = []
    for rest in (f"cubic-{asked}-a-0.5", "cubic-a-0.5"):
        model = openvino.Core().read_model(onnx_resize(rest, images.shape, (9, 11)))
        results.append(openvino.compile_model(model, "CPU", given)(images)[0])
    np.testing.assert_array_equal(*results)
    ours = resize_grid(images[0].transpose(1, 2, 0), (9, 11), "openvino-cubic-a-0.5")
    np.testing.assert_allclose(results[0][0].transpose(1, 2, 0), ours, atol=2e-5)
