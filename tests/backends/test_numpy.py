"""`numpy:linear` on several threads: who copies and multiplies what, and that BLAS is left as it was."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchparity import PatchEmbedSpec, get_backend
from patchparity.backends import numpy as module
from patchparity.reference.probes import random_normal
from patchparity.reference.verdict import judge

SPECS = {
    "plain": PatchEmbedSpec((40, 24), (8, 4), 3, 10),
    "overlap": PatchEmbedSpec((31, 23), (5, 3), 2, 10, stride=(2, 4), padding=(1, 2), remainder="floor"),
    "video": PatchEmbedSpec((6, 8, 12), (2, 4, 3), 3, 10),
}


@pytest.fixture(autouse=True)
def no_part_is_too_small(monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_THREAD", 1)


def loaded_on(threads, probe, spec, dtype="float32", formulation="linear"):
    backend = get_backend("numpy")
    loaded = backend.load(backend.implementation(f"numpy:{formulation}:eager"), probe.weights, spec, dtype, "cpu")
    loaded.threads = threads
    return loaded


def blas_threads():
    return [library.num_threads for library in module._blas().lib_controllers]


@given(st.integers(1, 9), st.integers(0, 40), st.integers(1, 40))
def test_the_blocks_are_the_rows_in_their_order(lead, first, count):
    images = np.arange(((first + count) // lead + 1) * lead).reshape(-1, lead)
    found = np.concatenate([images[block].ravel() for block in module._blocks(first, first + count, lead)])
    assert found.tolist() == list(range(first, first + count))


@pytest.mark.parametrize("formulation", ["linear", "linear_nchw"])
@pytest.mark.parametrize("threads", [2, 3, 64])
@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_thread_computes_its_part(spec, threads, formulation, dtype):
    probe = random_normal(spec, 4, dtype, seed=3)
    loaded = loaded_on(threads, probe, spec, dtype, formulation)
    before = blas_threads()
    tokens = loaded.tokens(probe.images)
    arithmetic = get_backend("numpy").implementation(f"numpy:{formulation}:eager").arithmetic(dtype)
    assert judge(probe, "forward", tokens, arithmetic).verdict == "pass"
    assert blas_threads() == before
    assert threads == 1 or loaded.pool._threads, "others than the caller took part"


def test_a_product_of_a_part_uses_one_thread(monkeypatch):
    spec = SPECS["plain"]
    loaded, seen, product = loaded_on(2, probe := random_normal(spec, 4, "float32", seed=3), spec), [], np.matmul

    def watched(*arrays, **options):
        seen.append(blas_threads())
        return product(*arrays, **options)

    monkeypatch.setattr(np, "matmul", watched)
    loaded.tokens(probe.images)
    assert seen == [[1] * len(blas_threads())] * 2


def test_a_part_that_fails_is_heard_and_leaves_blas_as_it_was(monkeypatch):
    spec = SPECS["plain"]
    loaded, before = loaded_on(2, probe := random_normal(spec, 4, "float32", seed=3), spec), blas_threads()

    def broken(*arrays, **options):
        raise MemoryError("no room")

    monkeypatch.setattr(np, "matmul", broken)
    with pytest.raises(MemoryError):
        loaded.tokens(probe.images)
    assert blas_threads() == before


def test_two_who_compute_at_once_leave_blas_as_it_was():
    spec = SPECS["plain"]
    probe = random_normal(spec, 4, "float32", seed=3)
    loaded, before = [loaded_on(2, probe, spec) for _ in range(4)], blas_threads()
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            results = list(pool.map(lambda each: each.tokens(probe.images), loaded))
            assert all((result == results[0]).all() for result in results)
    assert blas_threads() == before


def test_where_blas_cannot_be_told_one_thread_copies(monkeypatch):
    monkeypatch.setattr(module, "_blas", lambda: type("None", (), {"lib_controllers": []}))
    spec = SPECS["plain"]
    probe = random_normal(spec, 4, "float32", seed=3)
    backend = get_backend("numpy")
    loaded = backend.load(backend.implementations[0], probe.weights, spec, "float32", "cpu")
    assert loaded.threads == 1
    assert (
        judge(probe, "forward", loaded.tokens(probe.images), backend.implementations[0].arithmetic("float32")).verdict == "pass"
    )
