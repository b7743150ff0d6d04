"""The contract that every implementation of every backend keeps, those of missing frameworks
skipped by name."""

import contextlib
import dataclasses
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from patchparity import (
    PatchEmbedSpec,
    PatchEmbedWeights,
    PatchParityError,
    get_backend,
    list_backends,
    list_implementations,
    patch_embed,
)
from patchparity.backends.base import Backend
from patchparity.backends.runtime import RuntimeBackend
from patchparity.bench.check.known_issues import FINGERPRINT, load_known_issues
from patchparity.bench.check.one_backend import observe
from patchparity.bench.check.sharding import SHARDED_RESULT
from patchparity.reference.error import ArithmeticModel
from patchparity.reference.probes import (
    byte_probes,
    random_sequence,
    standard_probes,
    train_step,
)
from patchparity.reference.verdict import judge

SPECS = {
    "image": PatchEmbedSpec((30, 28), (6, 4), 3, 80),
    "square": PatchEmbedSpec((12, 20), 4, 3, 56),
    "overlap-k5s2": PatchEmbedSpec((11, 15), 5, 3, 16, stride=2),
    "overlap-k7s4p3": PatchEmbedSpec((32, 40), 7, 3, 16, stride=4, padding=3, remainder="floor"),
    "gaps": PatchEmbedSpec((9, 13), 2, 3, 8, stride=4, remainder="floor"),
    "pad-end": PatchEmbedSpec((10, 13), (4, 3), 1, 12, remainder="pad-end"),
    "same": PatchEmbedSpec((10, 14), 3, 4, 12, stride=2, remainder="same"),
    "video": PatchEmbedSpec((4, 8, 12), (2, 4, 3), 3, 10),
}
EAGER = ("eager", "graph")


ONE_BACKEND = "PATCHPARITY_CONTRACT_OF"
"""Set in a process that is for one backend alone."""


def here(backend) -> bool:
    """Whether a backend's contract is tested in this process: its switches hold, or the process is
    its own."""
    alone = os.environ.get(ONE_BACKEND)
    held = all(os.environ.get(name) == value for name, value in backend.switches.items())
    return held if alone is None else backend.name == alone


def implementations(costly: bool = True):
    """Every implementation, those of a missing framework marked as skipped; on wish without those
    that compile for seconds."""
    for backend, implementation in list_implementations():
        if (
            here(backend)
            and "cpu" in implementation.devices
            and (costly or not implementation.costly_compile)
            and not implementation.stored  # whose bounds tests/backends/test_runtimes.py holds
        ):
            reason = backend.missing() or known_to_be_wrong(backend, implementation)
            marks = [pytest.mark.skip(reason=reason)] if reason else []
            yield pytest.param(backend, implementation, id=implementation.name, marks=marks)


def known_to_be_wrong(backend, implementation):
    """The known issue about all that a sharded implementation gives, which
    tests/backends/test_sharded.py shows; empty for none."""
    for issue in load_known_issues():
        about = issue.probe == SHARDED_RESULT and issue.covers(implementation.name)
        if about and issue.applies(backend.versions()):
            return f"known issue {issue.id}"
    return ""


FEW = ("image", "video")


def problems():
    """Implementations with shapes and dtypes. Compiling every shape is not what a contract is
    about: `check` does that."""
    for parameter in implementations():
        implementation = parameter.values[1]
        for shape in SPECS:
            for dtype in implementation.dtypes:
                if dtype in ("bfloat16", "float16") and shape not in ("image", "overlap-k7s4p3"):
                    continue
                compiled_elsewhere = implementation.mode not in EAGER and shape not in (
                    "image",
                    "video",
                )
                if parameter.values[0].refuses(implementation, SPECS[shape]):
                    continue
                if isinstance(parameter.values[0], RuntimeBackend) and shape not in FEW:
                    continue  # a model is made of every probe's weights, and `check` makes them all
                if compiled_elsewhere or (
                    implementation.costly_compile and (shape, dtype) != ("image", "float32")
                ):
                    continue
                marks = [*parameter.marks, *known_to_fail(*parameter.values, dtype)]
                yield pytest.param(
                    *parameter.values,
                    shape,
                    dtype,
                    id=f"{implementation.name}-{shape}-{dtype}",
                    marks=marks,
                )


def known_arithmetic(backend, implementation, dtype):
    """Names of the known issues about the arithmetic that is delivered here."""
    for issue in load_known_issues():
        about = issue.probe == FINGERPRINT and issue.covers(implementation.name, "cpu", dtype)
        about = about and issue.precision in ("", "ieee")
        if about and issue.applies(backend.versions()):
            yield issue.id


def known_to_fail(backend, implementation, dtype):
    """Marks of what a known issue makes fail; one that is stale fails here too."""
    return [
        pytest.mark.xfail(reason=name, strict=True)
        for name in known_arithmetic(backend, implementation, dtype)
    ]


def backends(of_this_process: bool = True):
    for backend in list_backends():
        if here(backend) == of_this_process:
            missing = backend.missing()
            yield pytest.param(
                backend,
                id=backend.name,
                marks=[pytest.mark.skip(reason=missing)] if missing else [],
            )


@pytest.mark.skipif(ONE_BACKEND in os.environ, reason="this is such a process")
@pytest.mark.parametrize("backend", backends(of_this_process=False))
def test_contract_in_a_process_with_the_switches_of_a_backend(backend):
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
    environment = {
        **os.environ,
        **backend.switches,
        ONE_BACKEND: backend.name,
        "PATCHPARITY_REQUIRE": backend.name,
    }
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout


def available(backend, implementation, dtype="float32"):
    if reason := backend.unavailable(implementation) or backend.lacks_dtype(
        implementation, dtype, "cpu"
    ):
        pytest.skip(reason)


def some_spec(backend, implementation):
    """Sizes that an implementation computes: not square where it can be."""
    return SPECS["square" if backend.refuses(implementation, SPECS["image"]) else "image"]


def probes_of(implementation, spec, batch, dtype, seed):
    """Those of what takes pixels as it does."""
    make = byte_probes if implementation.pixels == "uint8" else standard_probes
    return make(spec, batch, dtype, seed)


def wrong_about(implementation, probe, tokens):
    """What is wrong with tokens of the first images of a float32 probe; empty for nothing."""
    count = len(tokens)
    part = dataclasses.replace(
        probe, images=probe.images[:count], grad_tokens=probe.grad_tokens[:count]
    )
    return judge(part, "forward", tokens, implementation.arithmetic("float32")).message


OPERATION_CASES = {"image": 2, "overlap-k7s4p3": 3, "video": 2}
"""Shapes, and their batches, on which whole sequences and train steps are tried."""


def operations():
    for parameter in problems():
        backend, implementation, shape, _ = parameter.values
        whole = implementation.pixels == "float" and not implementation.sharded
        whole = whole and not isinstance(backend, RuntimeBackend)  # which has tokens alone
        if shape in OPERATION_CASES and whole:
            yield parameter


@pytest.mark.parametrize(("backend", "implementation", "shape", "dtype"), operations())
def test_sequences_and_train_steps_are_right(backend, implementation, shape, dtype):
    available(backend, implementation, dtype)
    spec, batch = SPECS[shape], OPERATION_CASES[shape]
    model = implementation.arithmetic(dtype)
    with backend.precision("ieee"):
        sequence, step = (
            random_sequence(spec, batch, dtype, 5, num_registers=0),
            train_step(spec, batch, dtype, 6),
        )
        loaded = backend.load(
            implementation,
            PatchEmbedWeights(sequence.weights.kernel, sequence.weights.bias),
            spec,
            dtype,
            "cpu",
        )
        operation = loaded.sequence(sequence.weights.class_token, sequence.weights.positions)
        outputs = operation.call(loaded.place(sequence.images))
        operation.synchronize(outputs)
        (observed,) = operation.fetch(outputs).values()
        assert (
            judge(
                sequence, "forward", observed, implementation.arithmetic(dtype, to_sequence=True)
            ).message
            == ""
        )
        loaded.assign(step.weights)
        operation = loaded.train_step(step.grad_tokens)
        assert (operation is None) is not implementation.differentiable
        if operation is not None:
            outputs = operation.call(loaded.place(step.images))
            operation.synchronize(outputs)
            observed = operation.fetch(outputs)
            assert {
                direction: judge(step, direction, values, model).message
                for direction, values in observed.items()
            } == dict.fromkeys(step.directions, "")


@pytest.mark.parametrize(("backend", "implementation"), implementations())
def test_a_first_call_gives_what_every_call_gives_and_tells_what_compiling_took(
    backend, implementation
):
    available(backend, implementation)
    spec = some_spec(backend, implementation)
    probe = probes_of(implementation, spec, 2, "float32", seed=3)[0]
    loaded = backend.load(implementation, probe.weights, spec, "float32", "cpu")
    inputs = loaded.place(probe.images)
    started = time.perf_counter()
    outputs, told = loaded.first_call(inputs)
    passed = time.perf_counter() - started
    np.testing.assert_array_equal(loaded.fetch(outputs), loaded.fetch(loaded.call(inputs)))
    # the first lays its graph out when it is loaded, the other is eager on every rank
    silent = isinstance(backend, RuntimeBackend) or backend.name in ("onnxruntime", "torch-sharded")
    compiles = implementation.mode != "eager" and not silent
    seconds = [told.trace_seconds or 0.0, told.compile_seconds or 0.0]
    assert any(each > 0 for each in seconds) == compiles
    assert min(seconds) >= 0
    assert sum(seconds) <= passed, "parts of the call"


def test_required_backends_are_there():
    """tox names what its environment must hold, so that no environment can pass by skipping its own
    framework."""
    required = os.environ.get("PATCHPARITY_REQUIRE", "numpy").split(",")
    missing = {backend.name: backend.missing() for backend in list_backends()}
    assert {name: missing[name] for name in required} == dict.fromkeys(required)


@pytest.mark.parametrize(("backend", "implementation", "shape", "dtype"), problems())
def test_right_on_every_probe_forward_and_backward(backend, implementation, shape, dtype):
    available(backend, implementation, dtype)
    spec = SPECS[shape]
    loaded = None
    with backend.precision("ieee"):
        for probe in probes_of(implementation, spec, 2, dtype, seed=11):
            if loaded is None:
                loaded = backend.load(implementation, probe.weights, spec, dtype, "cpu")
            loaded.assign(probe.weights)
            for direction, outputs in observe(loaded, probe, implementation.differentiable).items():
                for output in outputs:
                    verdict = judge(probe, direction, output, implementation.arithmetic(dtype))
                    assert verdict.verdict == "pass", (probe.name, direction, verdict.message)


@pytest.mark.parametrize(("backend", "implementation"), implementations(costly=False))
def test_no_bias_and_other_batches(backend, implementation):
    available(backend, implementation)
    spec = some_spec(backend, implementation)
    probe = probes_of(implementation, spec, 3, "float32", seed=12)[0]
    weights = PatchEmbedWeights(probe.weights.kernel)
    loaded = backend.load(implementation, weights, spec, "float32", "cpu")
    for count in (3, 1):
        assert wrong_about(implementation, probe, loaded.tokens(probe.images[:count])) == ""
    ones = np.ones(spec.tokens_shape(3), np.float32)
    if implementation.differentiable:
        assert loaded.gradients(probe.images, ones).kernel.shape == spec.kernel_shape
    else:
        with pytest.raises(PatchParityError, match="no gradients"):
            loaded.gradients(probe.images, ones)


@pytest.mark.parametrize(("backend", "implementation"), implementations(costly=False))
def test_inputs_are_read_and_never_written(backend, implementation):
    available(backend, implementation)
    spec = some_spec(backend, implementation)
    probe = probes_of(implementation, spec, 2, "float32", seed=13)[-2]
    # a view with negative strides on the way, and read-only
    images = probe.images[:, :, ::-1][:, :, ::-1]
    images.flags.writeable = False
    before = images.copy(), probe.weights.kernel.copy()
    loaded = backend.load(implementation, probe.weights, spec, "float32", "cpu")
    loaded.tokens(images)
    if implementation.differentiable:
        loaded.gradients(images, probe.grad_tokens)
    assert (images == before[0]).all()
    assert (probe.weights.kernel == before[1]).all()


@pytest.mark.parametrize(("backend", "implementation"), implementations())
def test_a_kernel_in_the_wrong_layout_is_refused(backend, implementation):
    available(backend, implementation)
    spec = some_spec(backend, implementation)
    width, *patch, channels = spec.kernel_shape
    oihw = np.zeros((width, channels, *patch), np.float32)
    message = f"kernel of shape {oihw.shape}: expected {spec.kernel_shape}"
    with pytest.raises(PatchParityError, match=re.escape(message)):
        backend.load(implementation, PatchEmbedWeights(oihw), spec, "float32", "cpu")


@pytest.mark.parametrize("backend", backends())
def test_gemm_devices_versions_and_environment(backend):
    if isinstance(backend, RuntimeBackend):
        with pytest.raises(PatchParityError, match="no matrix product"):
            backend.gemm(4, 5, 6, "float32", "cpu")
    else:
        product = backend.gemm(4, 5, 6, "float32", "cpu")
        result = product.call(None)
        product.synchronize(result)
        assert tuple(result.shape) == (4, 6)
    assert backend.devices()[0] == "cpu"
    assert set(backend.versions()) <= set(backend.packages)
    assert backend.versions()
    assert any("2" in value for value in backend.environment(2).values())
    assert backend.environment(2) != backend.environment(1)


@pytest.mark.parametrize("backend", backends())
def test_a_product_is_computed_in_the_type_that_was_asked_for(backend):
    """A float64 ceiling computed in float32 would show float64 rows at half of what they reach."""
    for dtype in backend.product_dtypes:
        product = backend.gemm(4, 5, 6, dtype, "cpu")
        result = product.call(None)
        product.synchronize(result)
        assert dtype in str(result.dtype)


def test_sizes_that_an_implementation_refuses_are_refused_when_it_is_loaded():
    tensorflow = get_backend("tensorflow")
    if reason := tensorflow.missing():
        pytest.skip(reason)
    chosen = tensorflow.implementation("tensorflow:space_to_depth:graph")
    for shape, spec in SPECS.items():
        assert bool(tensorflow.refuses(chosen, spec)) == (shape != "square")
    probe = standard_probes(SPECS["image"], 2, "float32", seed=3)[0]
    with pytest.raises(
        PatchParityError,
        match="space_to_depth:graph cuts images into square patches of two pixels or more",
    ):
        tensorflow.load(chosen, probe.weights, SPECS["image"], "float32", "cpu")


@pytest.mark.parametrize("backend", backends())
def test_a_frameworks_own_convolution_is_the_reference(backend):
    spec = PatchEmbedSpec((12, 20), 4, 3, 7)
    generator = np.random.default_rng(14)
    # sums of 48 products of at most 64 are exact
    images = generator.integers(-8, 9, (2, 3, 12, 20)).astype(np.float32)
    kernel = generator.integers(-8, 9, (7, 3, 4, 4)).astype(np.float32)
    found = backend.convolve(images, kernel)
    if found is None:
        assert type(backend).convolve is Backend.convolve
        return
    expected = patch_embed(images, PatchEmbedWeights(kernel.transpose(0, 2, 3, 1)), spec)
    assert (found.reshape(2, 7, -1).transpose(0, 2, 1) == expected).all()


@pytest.mark.parametrize("backend", backends())
def test_precision_is_held_and_given_back(backend):
    with (
        pytest.raises(
            PatchParityError,
            match="precision 'fp8' is unknown; expected one of ieee, tf32, bf16, default",
        ),
        backend.precision("fp8"),
    ):
        pass
    before = _precision_state(backend.yardstick)
    with backend.precision("ieee"):
        inside = _precision_state(backend.yardstick)
    assert _precision_state(backend.yardstick) == before
    ours = backend.name == "openvino"  # whose models are told, and by us as they declare
    if before is not None:
        assert ours or inside != before, "every framework but NumPy has another default than ieee"
    for precision in ("tf32", "bf16"):
        if not backend.lacks(precision, "cpu"):
            with backend.precision(precision):
                assert _precision_state(backend.yardstick) != inside
            assert _precision_state(backend.yardstick) == before
    with backend.precision("default"):
        assert _precision_state(backend.yardstick) == ("default" if ours else before)


def _precision_state(name: str):
    name = name.removeprefix("keras-")
    if name == "onnxruntime":
        return get_backend(name).tf32
    if name == "openvino":
        return get_backend(name).chosen
    if name == "torch":
        import torch

        onednn = torch.backends.mkldnn
        cuda = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
        return *cuda, onednn.conv.fp32_precision, onednn.matmul.fp32_precision
    if name == "tensorflow":
        import tensorflow

        return tensorflow.config.experimental.tensor_float_32_execution_enabled()
    if name == "jax":
        import jax

        return jax.config.jax_default_matmul_precision
    return None


def test_models_declare_what_arithmetic_they_use():
    for _, implementation in list_implementations():
        assert implementation.arithmetic("float32").accumulate == 2.0**-24
        stored = implementation.arithmetic("float32").stored
        assert stored == implementation.stored
        if stored:
            continue
        model = implementation.arithmetic("float64")
        pixels = (model.pixel_roundings, model.pixel_offset)
        assert pixels == ((7, 0.485 * 255) if implementation.normalizes else (0, 0))
        assert dataclasses.replace(model, pixel_roundings=0, pixel_offset=0) == ArithmeticModel.of(
            "float64", implementation.flush_to_zero
        )
        assert implementation.arithmetic("float32", "tf32").inputs == 2.0**-11
        assert implementation.arithmetic("float32", "bf16").inputs == 2.0**-8
        assert implementation.arithmetic("float64", "tf32").inputs == 0, (
            "precision settings are about float32 alone"
        )
        assert implementation.arithmetic("float32", "default").inputs == 0, (
            "on the CPU every framework computes float32 as it is"
        )
    torch_conv = next(
        each for _, each in list_implementations() if each.name == "torch:conv2d:eager"
    )
    assert torch_conv.arithmetic("float32", "default", "cuda").name == "TF32 inputs", (
        "cuDNN's convolutions use TF32 unless told not to"
    )
    assert torch_conv.arithmetic("float32", "ieee", "cuda").name == "float32"


def test_torch_can_still_be_asked_the_old_way_after_its_precision_was_held():
    torch = pytest.importorskip("torch")
    for precision in ("ieee", "tf32", "bf16"):
        with get_backend("torch").precision(precision):
            pass
        assert torch.backends.cudnn.allow_tf32 is True
        assert torch.get_float32_matmul_precision() == "highest"


def test_jax_lowers_the_documented_preset_for_convolutions_to_default_and_ours_to_highest():
    jax = pytest.importorskip("jax")
    from jax import lax

    images, kernel = np.ones((1, 8, 8, 3), np.float32), np.ones((4, 4, 3, 5), np.float32)

    def program(precision=None):
        def convolve(x, w):
            numbers = ("NHWC", "HWIO", "NHWC")
            return lax.conv_general_dilated(
                x, w, (4, 4), "VALID", dimension_numbers=numbers, precision=precision
            )

        return jax.jit(convolve).lower(images, kernel).as_text()

    assert (
        "precision_config = [#stablehlo<precision DEFAULT>, #stablehlo<precision DEFAULT>]"
        in program("F32_F32_F32")
    )
    with get_backend("jax").precision("ieee"):
        assert "HIGHEST" in program()


@pytest.mark.parametrize(("backend", "implementation"), implementations(costly=False))
@pytest.mark.parametrize("shape", ["square", "image", "overlap-k5s2"])
def test_a_taller_image_never_becomes_more_images(backend, implementation, shape):
    """Images of another size are refused, cropped, or give more tokens: what no answer may do is to
    pass for a larger batch of the right size."""
    available(backend, implementation)
    spec = SPECS[shape]
    if reason := backend.refuses(implementation, spec):
        pytest.skip(reason)
    probe = probes_of(implementation, spec, 2, "float32", seed=4)[0]
    loaded = backend.load(implementation, probe.weights, spec, "float32", "cpu")
    # of a grid twice as tall
    rows = 2 * spec.grid[0] * spec.stride[0] + spec.patch_size[0] - spec.stride[0]
    taller = (  # whole numbers, which bytes are too
        np.random.default_rng(5)
        .integers(0, 256, (2, spec.in_channels, rows, spec.image_size[1]))
        .astype(np.float32)
    )
    tokens = None
    with contextlib.suppress(Exception):  # whatever a framework raises, it has refused
        tokens = loaded.unchecked_tokens(taller)
    assert tokens is None or len(tokens) == 2
    for other in (
        taller,
        probe.images[:, :1],
        np.swapaxes(probe.images, 1, 3),
        np.swapaxes(probe.images, 2, 3),
    ):
        with pytest.raises(PatchParityError, match="expected"):
            loaded.tokens(other)


@pytest.mark.parametrize(("backend", "implementation"), implementations(costly=False))
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_one_row_of_patches_and_any_batch(backend, implementation, batch):
    """A grid of one row, of one patch, and no images at all: what is a copy elsewhere is a view
    there."""
    available(backend, implementation)
    for spec in (
        PatchEmbedSpec((4, 24), 4, 3, 6),
        PatchEmbedSpec((24, 4), 4, 3, 6),
        PatchEmbedSpec((4, 4), 4, 3, 6),
    ):
        if backend.refuses(implementation, spec):
            continue
        probe = probes_of(implementation, spec, max(batch, 1), "float32", seed=8)[0]
        loaded = backend.load(implementation, probe.weights, spec, "float32", "cpu")
        if batch == 0 and backend.yardstick == "tensorflow":
            pytest.skip("TensorFlow's convolution of no images: a known issue")
        if batch == 0 and implementation.name.startswith(
            ("mnn:", "litert:", "paddle:conv2d:graph")
        ):
            pytest.skip("no result of no images, as the first or at all")
        if batch == 0 and backend.name.startswith("keras-hub"):
            pytest.skip(
                "KerasHub reshapes to (batch, -1, width), which no framework can do for no images"
            )
        tokens = loaded.tokens(probe.images[:batch])
        assert tokens.shape == spec.tokens_shape(batch)
        assert not batch or wrong_about(implementation, probe, tokens) == ""


@pytest.mark.parametrize(("backend", "implementation"), implementations(costly=False))
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_patches_of_one_pixel_round_as_others_do(backend, implementation, dtype):
    """They need no copy, and a product of a view may be another one, that rounds twice."""
    available(backend, implementation, dtype)
    spec = PatchEmbedSpec((5, 7), 1, 3, 8)
    if backend.refuses(implementation, spec) or dtype not in implementation.dtypes:
        pytest.skip("not computed here")
    if issues := list(known_arithmetic(backend, implementation, dtype)):
        pytest.skip(f"known issue {issues[0]}")
    if backend.name == "einops":
        pytest.skip("its users' layer gets the view, and rounds twice: a finding")
    for batch in (1, 3):
        for probe in probes_of(implementation, spec, batch, dtype, seed=9):
            tokens = backend.load(implementation, probe.weights, spec, dtype, "cpu").tokens(
                probe.images
            )
            verdict = judge(probe, "forward", tokens, implementation.arithmetic(dtype))
            assert verdict.verdict == "pass", f"{probe.name}: {verdict.message}"
