"""`numpy:linear` in pieces, whose patches are copied by several threads."""

import dataclasses

import numpy as np
import pytest

from patchparity import PatchEmbedSpec, PatchParityError, get_backend
from patchparity.backends import numpy as module
from patchparity.reference.probes import random_normal
from patchparity.reference.verdict import judge

SPECS = {
    "plain": PatchEmbedSpec((40, 24), (8, 4), 3, 10),
    "overlap": PatchEmbedSpec(
        (31, 23), (5, 3), 2, 10, stride=(2, 4), padding=(1, 2), remainder="floor"
    ),
    "video": PatchEmbedSpec((6, 8, 12), (2, 4, 3), 3, 10),
}


@pytest.mark.parametrize("formulation", ["linear", "linear_nchw"])
@pytest.mark.parametrize("threads", [1, 2, 3, 64])
@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_thread_copies_its_part(spec, threads, formulation, dtype, monkeypatch):
    monkeypatch.setattr(module, "THREADED_COPY_BYTES", 1)
    probe = random_normal(spec, 4, dtype, seed=3)
    backend = get_backend("numpy")
    implementation = backend.implementation(f"numpy:{formulation}:eager")
    loaded = backend.load(implementation, probe.weights, spec, dtype, "cpu")
    loaded.threads = threads
    first = loaded.tokens(probe.images)
    assert judge(probe, "forward", first, implementation.arithmetic(dtype)).verdict == "pass"
    assert (loaded.tokens(probe.images) == first).all()
    assert bool(loaded.pool._threads) == (threads in (2, 3)), (
        "64 threads find too little to share out"
    )


@pytest.mark.parametrize("formulation", ["linear", "linear_nchw", "block"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
@pytest.mark.parametrize(
    "values", [1, 700, 1500, 4000, 10**6], ids=lambda values: f"pieces of {values} values"
)
def test_every_piece_lands_in_its_place(spec, formulation, values, monkeypatch):
    probe = random_normal(spec, 5, "float32", seed=4)
    backend = get_backend("numpy")
    implementation = backend.implementation(f"numpy:{formulation}:eager")
    loaded = backend.load(implementation, probe.weights, spec, "float32", "cpu")
    loaded.piece_bytes = 4 * values
    sizes, product = [], np.matmul

    def watched(patches, matrix, out):
        sizes.append(patches.size)
        return product(patches, matrix, out=out)

    monkeypatch.setattr(np, "matmul", watched)
    strip = spec.num_patches // spec.grid[0] * len(loaded.matrix)
    for batch in (5, 2, 5):
        sizes.clear()
        assert verdict_of(probe, loaded, batch, implementation) == "pass"
        assert max(sizes) <= max(values, strip), (
            "no piece is larger than it may be, unless one row of the grid is"
        )
        assert 2 * min(sizes) >= max(sizes), "pieces are about equal, for small ones are slow"
    assert loaded.tokens(probe.images[:0]).shape == spec.tokens_shape(0)


def verdict_of(probe, loaded, batch, implementation):
    part = dataclasses.replace(
        probe, images=probe.images[:batch], grad_tokens=probe.grad_tokens[:batch]
    )
    return judge(
        part, "forward", loaded.tokens(part.images), implementation.arithmetic("float32")
    ).verdict


@pytest.mark.parametrize(
    "shape", [(3, 41, 24), (3, 80, 24), (3, 24, 40), (1, 120, 24), (6, 20, 24), (40, 24, 3)]
)
@pytest.mark.parametrize("formulation", ["linear", "block", "linear_nchw", "naive", "conv2d"])
def test_images_of_another_shape_are_refused_before_any_stride_is_set(formulation, shape):
    spec, backend = SPECS["plain"], get_backend("numpy")
    weights = random_normal(spec, 1, "float32", seed=4).weights
    loaded = backend.load(
        backend.implementation(f"numpy:{formulation}:eager"), weights, spec, "float32", "cpu"
    )
    with pytest.raises(PatchParityError, match="expected"):
        loaded.place(np.ones((2, *shape), np.float32))


def test_a_copy_that_fails_is_heard(monkeypatch):
    monkeypatch.setattr(module, "THREADED_COPY_BYTES", 1)
    probe = random_normal(SPECS["plain"], 4, "float32", seed=3)
    backend = get_backend("numpy")
    loaded = backend.load(
        backend.implementations[0], probe.weights, SPECS["plain"], "float32", "cpu"
    )
    loaded.threads = 2

    def broken(*arrays):
        raise MemoryError("no room")

    monkeypatch.setattr(np, "copyto", broken)
    with pytest.raises(MemoryError):
        loaded.tokens(probe.images)
