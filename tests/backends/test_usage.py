"""The lines of code that `recommend` shows: they are run, on shapes that trip whoever mixes up an
axis, and judged."""

import importlib
import os

import numpy as np
import pytest

from patchparity import PatchEmbedSpec, list_backends
from patchparity.backends.layouts import images_to_layout, kernel_to_layout
from patchparity.bench.check.known_issues import FINGERPRINT, load_known_issues
from patchparity.reference.probes import random_bytes, random_normal
from patchparity.reference.verdict import judge

SPECS = {
    "plain": PatchEmbedSpec((24, 20), (8, 4), 3, 10),
    "square": PatchEmbedSpec((24, 16), 4, 2, 10),
    "overlap": PatchEmbedSpec(
        (19, 23), (5, 3), 2, 10, stride=(2, 4), padding=(1, 2), remainder="floor"
    ),
    "uneven": PatchEmbedSpec((17, 23), 4, 3, 10, remainder="same"),
    "video": PatchEmbedSpec((4, 8, 12), (2, 4, 3), 3, 10),
}
IMPLEMENTATIONS = {
    each.name: (backend, each)
    for backend in list_backends()
    for each in backend.implementations
    # they are shown through patchparity, and some are wrong, or less than float32
    if not (each.sharded or each.stored)
}


def own_arrays(backend, code, *arrays):
    """NumPy arrays as the framework's own, and back."""
    if (
        "patchparity" in code
        or backend.yardstick == "numpy"
        or backend.name.startswith(("keras", "onnx"))
    ):
        return arrays
    if backend.yardstick == "torch":
        from patchparity.backends.torch.adapter import as_tensor as convert
    elif backend.yardstick == "jax":
        from jax.numpy import asarray as convert
    else:
        from tensorflow import constant as convert
    return tuple(map(convert, arrays))


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
@pytest.mark.parametrize("name", list(IMPLEMENTATIONS))
def test_the_lines_compute_the_patch_embedding(name, spec, monkeypatch):
    backend, implementation = IMPLEMENTATIONS[name]
    if (
        reason := backend.missing()
        or backend.unavailable(implementation)
        or backend.refuses(implementation, spec)
    ):
        pytest.skip(reason)
    if "cpu" not in implementation.devices:
        pytest.skip(f"{name} does not run on the CPU")
    if implementation.costly_compile and spec is not SPECS["plain"]:
        pytest.skip("compiled for one shape, for that takes seconds")
    verdict, code = run_lines(backend, implementation, spec, monkeypatch)
    assert verdict.verdict == "pass", verdict.message
    assert max(map(len, code.splitlines())) <= 150, "lines that can be read"


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
@pytest.mark.parametrize(
    ("name", "module", "loop"),
    [
        ("numpy:linear:eager", "patchparity.backends.numpy", "step = 2 "),
        ("jax:linear_words:jit", "patchparity.backends.jax.formulations", "jax.lax.map("),
    ],
)
def test_so_do_lines_that_cut_a_batch_into_pieces(name, module, loop, spec, monkeypatch):
    backend, implementation = IMPLEMENTATIONS[name]
    if reason := backend.missing():
        pytest.skip(reason)
    row = 4 * (spec.patch_values + 1) * spec.num_patches // spec.grid[0]
    monkeypatch.setattr(importlib.import_module(module), "PIECE_BYTES", 2 * row)
    verdict, code = run_lines(backend, implementation, spec, monkeypatch)
    assert verdict.verdict == "pass", verdict.message
    assert max(map(len, code.splitlines())) <= 150, "lines that can be read"
    if spec is SPECS["square"]:  # 18 rows of patches in three images: pieces of two
        assert loop in code


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
@pytest.mark.parametrize(
    "name",
    [
        name
        for name, (backend, _) in IMPLEMENTATIONS.items()
        if backend.yardstick in ("torch", "numpy")
    ],
)
def test_the_lines_compute_in_the_type_of_the_weights(name, dtype, monkeypatch):
    backend, implementation = IMPLEMENTATIONS[name]
    if (
        reason := backend.missing()
        or backend.unavailable(implementation)
        or backend.refuses(implementation, SPECS["plain"])
    ):
        pytest.skip(reason)
    if reason := backend.lacks_dtype(implementation, dtype, "cpu"):
        pytest.skip(reason)
    if (
        dtype not in implementation.dtypes
        or "cpu" not in implementation.devices
        or implementation.costly_compile
    ):
        pytest.skip(f"{name} does not compute {dtype} on the CPU in a moment")
    for issue in load_known_issues():
        if (
            issue.probe == FINGERPRINT
            and issue.covers(name, "cpu", dtype)
            and issue.applies(backend.versions())
        ):
            pytest.skip(f"known issue {issue.id}")
    verdict, _ = run_lines(backend, implementation, SPECS["plain"], monkeypatch, dtype)
    assert verdict.verdict == "pass", verdict.message


def run_lines(backend, implementation, spec, monkeypatch, dtype="float32"):
    """The verdict on what the lines compute, and the lines."""
    # the lines set it; it is put back
    monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", ""))
    make = random_bytes if implementation.pixels == "uint8" else random_normal
    probe = make(spec, 3, dtype, seed=5)
    code = backend.usage(implementation, spec, 3)
    kernel = np.ascontiguousarray(
        kernel_to_layout(probe.weights.kernel, implementation.kernel_layout)
    )
    kernel, bias = own_arrays(backend, code, kernel, np.array(probe.weights.bias))
    layout = "B C H W" if "patchparity" in code else implementation.image_layout
    (images,) = own_arrays(
        backend, code, np.ascontiguousarray(images_to_layout(probe.images, layout))
    )
    namespace = {"kernel": kernel, "bias": bias}
    exec(compile(code, implementation.name, "exec"), namespace)
    tokens = namespace["embed"](images)
    if hasattr(tokens, "detach"):
        from patchparity.backends.torch.adapter import as_array

        tokens = as_array(tokens)
    tokens = np.asarray(tokens)
    assert tokens.dtype == dtype
    return judge(probe, "forward", tokens, implementation.arithmetic(dtype)), code
