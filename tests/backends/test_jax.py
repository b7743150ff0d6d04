"""`jax:linear_words` in pieces: the same tokens and gradients, whatever a batch is cut into."""

import numpy as np
import pytest

from patchparity import PatchEmbedSpec, PatchEmbedWeights, get_backend
from patchparity.backends.jax import formulations as module
from patchparity.reference.probes import random_normal
from patchparity.reference.verdict import judge

pytest.importorskip("jax")

SPECS = {
    "plain": PatchEmbedSpec((40, 24), (8, 4), 3, 10),
    "padded": PatchEmbedSpec((29, 17), (8, 6), 3, 10, padding=((1, 2), (0, 1))),
    "uneven": PatchEmbedSpec((17, 23), 4, 3, 10, remainder="same"),
    "left out": PatchEmbedSpec((41, 25), (8, 4), 3, 10, remainder="floor"),
    "overlap": PatchEmbedSpec(
        (31, 23), (5, 3), 2, 10, stride=(2, 4), padding=(1, 2), remainder="floor"
    ),
    "video": PatchEmbedSpec((6, 8, 12), (2, 4, 3), 3, 10),
}
ROWS = 4
"""Of a grid, in a piece at most: parts of an image, or two of them."""


def in_pieces(spec, monkeypatch, rows=ROWS):
    monkeypatch.setattr(
        module,
        "PIECE_BYTES",
        int(rows * (spec.num_patches // spec.grid[0]) * 4 * (spec.patch_values + 1)),
    )


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_pieces_make_the_tokens_and_gradients_of_the_whole(spec, monkeypatch):
    in_pieces(spec, monkeypatch)
    probe = random_normal(spec, 6, "float32", seed=3)
    loaded = load(probe.weights, spec)
    arithmetic = loaded.implementation.arithmetic("float32")
    results = {
        f"grad_{name}": array
        for name, array in vars(loaded.gradients(probe.images, probe.grad_tokens)).items()
    }
    results["forward"] = loaded.tokens(probe.images)
    failed = {
        name: judge(probe, name, array, arithmetic).message for name, array in results.items()
    }
    assert not any(failed.values()), failed


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_pieces_need_no_bias(spec, monkeypatch):
    in_pieces(spec, monkeypatch)
    probe = random_normal(spec, 6, "float32", seed=3, zero_bias=True)
    loaded = load(PatchEmbedWeights(probe.weights.kernel, None), spec)
    assert (
        judge(
            probe,
            "forward",
            loaded.tokens(probe.images),
            loaded.implementation.arithmetic("float32"),
        ).verdict
        == "pass"
    )


@pytest.mark.parametrize(
    ("name", "batch", "rows", "count"),
    [
        ("plain", 4, 20, 1),  # all of it
        ("plain", 4, 19, 2),  # 20 rows: 10 are the most that divide
        ("plain", 6, 6, 5),  # pieces that end inside of an image
        ("plain", 1, 4, 1),  # 5 rows: one at a time would be too few
        ("video", 2, 2, 3),
        ("video", 2, 0.5, 6),  # a row is larger than a piece should be
        ("left out", 4, 5, 1),  # rows of patches do not follow each other
        ("overlap", 4, 5, 1),
        ("padded", 3, 4, 3),
    ],
)
def test_a_batch_is_cut_into_equal_pieces_of_whole_rows(name, batch, rows, count, monkeypatch):
    spec = SPECS[name]
    in_pieces(spec, monkeypatch, rows)
    assert module._pieces(spec, batch, 4 * (spec.patch_values + 1)) == count
    assert ("while(" in compiled(spec, batch)) == (count > 1)


def compiled(spec, batch):
    loaded = load(random_normal(spec, 1, "float32", seed=1).weights, spec)
    images = loaded.place(np.zeros(spec.images_shape(batch), np.float32))
    return loaded.forward.lower(images, loaded.kernel, loaded.bias).compile().as_text()


def load(weights, spec):
    backend = get_backend("jax")
    return backend.load(
        backend.implementation("jax:linear_words:jit"), weights, spec, "float32", "cpu"
    )
