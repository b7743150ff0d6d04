"""The Triton kernel, by Triton's interpreter on the CPU; what the compiler makes of it needs a GPU
(`check --device cuda`)."""

import importlib.util
import os
import subprocess
import sys

import pytest

from patchparity import PatchEmbedSpec, PatchEmbedWeights, PatchParityError, get_backend
from patchparity.backends.layouts import kernel_to_layout
from patchparity.backends.torch.adapter import as_array, as_tensor
from patchparity.reference.probes import byte_probes, random_normal, standard_probes
from patchparity.reference.verdict import judge

SPECS = {
    "one tile": PatchEmbedSpec((8, 12), 4, 3, 20),
    "many tiles, K and D that do not divide": PatchEmbedSpec((30, 56), (6, 4), 3, 80),
    "square, K that divides": PatchEmbedSpec((32, 24), 8, 1, 64),
    "overlap and padding": PatchEmbedSpec(
        (32, 40), 7, 3, 16, stride=4, padding=3, remainder="floor"
    ),
    "same": PatchEmbedSpec((10, 14), 3, 4, 12, stride=2, remainder="same"),
    "video": PatchEmbedSpec((4, 8, 12), (2, 4, 3), 3, 10),
}
BYTE_SPECS = [
    pytest.param(spec, id=name)
    for name, spec in SPECS.items()
    if not any(map(any, spec.effective_padding))
]
HALF = get_backend("torch").implementation("torch:fused:eager").arithmetic("float16", device="cuda")
INTERPRETED = "TRITON_INTERPRET"
"""What turns Triton's interpreter on, if it is set before triton is imported."""

needs_triton = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "triton")),
    reason="torch or triton is not installed",
)


def test_triton_is_there_where_tox_promises_it():
    promised = "triton" in os.environ.get("PATCHPARITY_REQUIRE_LIBRARIES", "")
    assert not promised or importlib.util.find_spec("triton")


@needs_triton
@pytest.mark.skipif(INTERPRETED in os.environ, reason="this is such a process")
def test_in_a_process_that_interprets():
    command = [
        sys.executable,
        "-m",
        "pytest",
        __file__,
        "-q",
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, INTERPRETED: "1"}
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert f"{2 * len(SPECS) + len(BYTE_SPECS) + 2} passed" in done.stdout


@needs_triton
@pytest.mark.skipif(
    INTERPRETED not in os.environ, reason="Triton compiles for a GPU in this process"
)
@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_the_kernel_computes_the_patch_embedding(spec):
    backend = get_backend("torch")
    implementation = backend.implementation("torch:fused:eager")
    for probe in standard_probes(spec, 3, "float16", seed=5):
        loaded = backend.load(
            implementation,
            PatchEmbedWeights(probe.weights.kernel, probe.weights.bias),
            spec,
            "float16",
            "cpu",
        )
        verdict = judge(probe, "forward", loaded.tokens(probe.images), HALF)
        assert verdict.verdict == "pass", f"{probe.name}: {verdict.message}"


@needs_triton
@pytest.mark.skipif(
    INTERPRETED not in os.environ, reason="Triton compiles for a GPU in this process"
)
@pytest.mark.parametrize("spec", BYTE_SPECS)
def test_of_bytes_too(spec):
    backend = get_backend("torch")
    implementation = backend.implementation("torch:fused_uint8:eager")
    for probe in byte_probes(spec, 3, "float16", seed=7):
        weights = PatchEmbedWeights(probe.weights.kernel, probe.weights.bias)
        loaded = backend.load(implementation, weights, spec, "float16", "cpu")
        placed = loaded.place(probe.images)
        assert str(placed.dtype) == "torch.uint8"
        tokens = loaded.fetch(loaded.call(placed))
        verdict = judge(probe, "forward", tokens, HALF)
        assert verdict.verdict == "pass", f"{probe.name}: {verdict.message}"


@needs_triton
@pytest.mark.skipif(
    INTERPRETED not in os.environ, reason="Triton compiles for a GPU in this process"
)
@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_so_do_the_lines_that_recommend_shows(spec):
    backend = get_backend("torch")
    probe = random_normal(spec, 2, "float16", seed=6)
    for layout in ("D (C Ph Pw)", "D C Ph Pw"):  # a linear layer's kernel, or a convolution's
        given = kernel_to_layout(probe.weights.kernel, layout)
        names = {"kernel": as_tensor(given), "bias": as_tensor(probe.weights.bias)}
        exec(backend.usage(backend.implementation("torch:fused:eager"), spec, 2), names)
        verdict = judge(probe, "forward", as_array(names["embed"](as_tensor(probe.images))), HALF)
        assert verdict.verdict == "pass", verdict.message


@needs_triton
@pytest.mark.skipif(
    INTERPRETED not in os.environ, reason="Triton compiles for a GPU in this process"
)
def test_no_images_no_tokens_and_images_in_strides_of_their_own():
    import torch

    from patchparity.backends.torch.triton_kernel import embed

    spec = SPECS["one tile"]
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(2, 3, 8, 12, generator=generator).half()
    kernel, bias = (
        torch.randn(20, 48, generator=generator).half(),
        torch.randn(20, generator=generator).half(),
    )
    assert embed(images[:0], kernel, bias, spec).shape == (0, 6, 20)
    for other in (images[:, :, :4], images[:, :2], images.repeat(1, 1, 2, 1)):
        with pytest.raises(PatchParityError, match=r"expected \(B, 3, 8, 12\)"):
            embed(other, kernel, bias, spec)
    with pytest.raises(PatchParityError, match=r"expected torch.float16 and \(20, 48\)"):
        embed(images, kernel.float(), bias, spec)
    expected = embed(images, kernel, bias, spec)
    assert torch.equal(
        embed(images.to(memory_format=torch.channels_last), kernel, bias, spec), expected
    )
    assert torch.equal(
        embed(images, kernel, None, spec), embed(images, kernel, torch.zeros(20).half(), spec)
    )
