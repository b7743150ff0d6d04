"""Probes and verdicts: correct arithmetic passes all of them, and each well-known mistake is
rejected by name of the probe."""

import numpy as np
import pytest

from patchparity import PatchEmbedSpec, PatchEmbedWeights, PatchParityError, patch_embed
from patchparity.reference.error import ArithmeticModel
from patchparity.reference.probes import photograph, random_normal, standard_probes
from patchparity.reference.verdict import judge

from .problems import SPECS

SPEC = PatchEmbedSpec((30, 28), (6, 4), 3, 80)
FLOAT32 = ArithmeticModel.of(np.float32)
OVERLAPPING = PatchEmbedSpec((17, 23), 5, 3, 80, stride=2)


def plain_result(probe) -> np.ndarray:
    return patch_embed(probe.images, probe.weights, probe.spec, probe.images.dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spec", [SPEC, OVERLAPPING, *SPECS], ids=str)
def test_correct_arithmetic_passes_every_probe(spec, dtype):
    for probe in standard_probes(spec, 2, dtype, seed=1):
        verdict = judge(probe, "forward", plain_result(probe), ArithmeticModel.of(dtype))
        assert verdict.verdict == "pass", (probe.name, verdict.message)


def test_integer_probe_is_exact_in_every_direction_and_narrow_type():
    for dtype in ("float16", "bfloat16", "float32"):
        probe = next(
            p for p in standard_probes(SPEC, 2, dtype, seed=0) if p.name == "bounded-integers"
        )
        limit = {"float16": 2**11, "bfloat16": 2**8, "float32": 2**24}[dtype]
        for direction in probe.directions:
            assert probe.expectations[direction].gauge.max() <= limit
            assert (probe.expectations[direction].value != 0).any(), (
                "a probe of zeros would see nothing"
            )
        assert probe.directions == ("forward", "grad_image", "grad_kernel", "grad_bias")


def test_one_hot_images_read_the_whole_kernel():
    probe = next(
        p for p in standard_probes(SPEC, 3, "float32", seed=0) if p.name == "one-hot-images"
    )
    rows = {tuple(row) for row in plain_result(probe).reshape(-1, 80)}
    assert rows == {tuple(column) for column in probe.weights.matrix.T}, (
        "105 patches show each of the 72 columns of W"
    )


def oihw(probe) -> np.ndarray:
    return probe.weights.kernel.transpose(0, 3, 1, 2)


def with_kernel(probe, kernel) -> np.ndarray:
    return patch_embed(
        probe.images,
        PatchEmbedWeights(np.ascontiguousarray(kernel), probe.weights.bias),
        probe.spec,
        probe.images.dtype,
    )


def tf32(array: np.ndarray) -> np.ndarray:
    bits = array.view(np.uint32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)).view(np.float32)


MISTAKES = {
    "channel and pixel axes of the flat kernel exchanged": lambda p: with_kernel(
        p, oihw(p).reshape(p.weights.kernel.shape)
    ),
    "kernel flipped": lambda p: with_kernel(p, p.weights.kernel[:, ::-1, ::-1]),
    "channels reversed": lambda p: with_kernel(p, p.weights.kernel[..., ::-1]),
    "tokens column-major": lambda p: (
        plain_result(p)
        .reshape(-1, *p.spec.grid, 80)
        .transpose(0, 2, 1, 3)
        .reshape(plain_result(p).shape)
    ),
    "tokens reshaped, not transposed": lambda p: (
        plain_result(p).transpose(0, 2, 1).reshape(plain_result(p).shape)
    ),
    "one patch stale": lambda p: np.concatenate(
        [plain_result(p)[:, :1], plain_result(p)[:, :-1]], axis=1
    ),
    "batch exchanged": lambda p: plain_result(p)[::-1],
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("spec", [SPEC, OVERLAPPING], ids=["tiled", "overlapping"])
def test_a_wrong_layout_is_rejected_by_every_probe(mistake, spec):
    for probe in standard_probes(spec, 2, "float32", seed=2):
        # its images are flat: it looks at the accumulator, not at layouts
        if probe.name == "swamping":
            continue
        verdict = judge(probe, "forward", MISTAKES[mistake](probe), FLOAT32)
        assert verdict.verdict == "fail", (mistake, probe.name)
        assert "values are outside" in verdict.message or "effective bits" in verdict.message


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_dropped_bias_is_rejected_at_every_scale(scale):
    probe = random_normal(SPEC, 2, "float32", 3, scale=scale)
    without = patch_embed(probe.images, PatchEmbedWeights(probe.weights.kernel), SPEC, np.float32)
    assert judge(probe, "forward", without, FLOAT32).verdict == "fail"


@pytest.mark.parametrize("patch", [4, 16, 64], ids=["K=48", "K=768", "K=12288"])
def test_lower_precision_is_rejected_and_named(patch):
    spec = PatchEmbedSpec((patch, 3 * patch), patch, 3, 64)
    rejected = {}
    for probe in standard_probes(spec, 2, "float32", seed=4):
        low = PatchEmbedWeights(tf32(probe.weights.kernel), probe.weights.bias)
        verdict = judge(
            probe, "forward", patch_embed(tf32(probe.images), low, spec, np.float32), FLOAT32
        )
        if verdict.verdict == "fail":
            rejected[probe.name] = verdict.message
    assert {"identity-kernel", "one-hot-images", "mantissa-ladder", "random-zero-bias"} <= set(
        rejected
    )
    assert "bounded-integers" not in rejected, (
        "small integers are exact in TF32: the layout is right"
    )
    assert "10 of 23 explicit mantissa bits arrive" in rejected["mantissa-ladder"]
    assert "delivered TF32" in rejected["random-zero-bias"]


@pytest.mark.parametrize("roundings", [1, 2])
def test_a_bfloat16_product_that_is_cut_off_is_rejected_and_named(roundings):
    model = ArithmeticModel.of("bfloat16", output_roundings=roundings)
    probe = next(
        probe
        for probe in standard_probes(SPEC, 2, "bfloat16", seed=4)
        if probe.name == "random-zero-bias"
    )
    wide = patch_embed(probe.images.astype(np.float32), probe.weights, SPEC, np.float32)
    assert judge(probe, "forward", wide.astype(probe.images.dtype), model).verdict == "pass"
    cut = (wide.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(probe.images.dtype)
    verdict = judge(probe, "forward", cut, model)
    assert (verdict.verdict, verdict.delivered) == ("fail", "bfloat16 cut off toward zero")
    assert f"declared {model.name}, delivered bfloat16 cut off toward zero" in verdict.message


def test_a_bfloat16_product_that_is_cut_off_before_its_bias_is_added_is_named():
    model = ArithmeticModel.of("bfloat16", output_roundings=2)
    probe = next(
        probe for probe in standard_probes(SPEC, 2, "bfloat16", seed=4) if probe.name == "random"
    )
    wide = patch_embed(
        probe.images.astype(np.float32), PatchEmbedWeights(probe.weights.kernel), SPEC, np.float32
    )
    cut = (wide.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    bias, dtype = probe.weights.bias.astype(np.float32), probe.images.dtype
    rounded = judge(
        probe, "forward", (wide.astype(dtype).astype(np.float32) + bias).astype(dtype), model
    )
    assert (rounded.verdict, rounded.delivered) == ("pass", "bfloat16 rounded twice")
    assert (
        judge(probe, "forward", (cut + bias).astype(dtype), model).delivered
        == "bfloat16 cut off toward zero"
    )


def test_shapes_are_explained():
    probe = random_normal(SPEC, 2, "float32", 5)
    tokens = plain_result(probe)
    left = judge(probe, "forward", tokens.transpose(0, 2, 1), FLOAT32)
    assert left.verdict == "fail"
    assert "transpose(1, 2) is missing" in left.message
    grid = judge(probe, "forward", tokens.transpose(0, 2, 1).reshape(2, 80, 5, 7), FLOAT32)
    assert "flatten(2) and transpose(1, 2) are missing" in grid.message
    assert (
        "output of shape (2, 35, 79)" in judge(probe, "forward", tokens[..., :-1], FLOAT32).message
    )


def test_values_that_are_not_finite_fail():
    probe = random_normal(SPEC, 2, "float32", 6)
    tokens = plain_result(probe).copy()
    tokens[1, 3, 5] = np.nan
    assert (
        judge(probe, "forward", tokens, FLOAT32).message == "1 of 5600 values are NaN or infinite"
    )


def test_gradient_directions_have_sums_of_their_own():
    probe = random_normal(OVERLAPPING, 2, "float32", 7)
    terms = {direction: found.terms for direction, found in probe.expectations.items()}
    assert terms == {"forward": 76, "grad_image": 80 * 9, "grad_kernel": 140, "grad_bias": 140}


def test_photograph():
    pixels = np.random.default_rng(8).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    spec = PatchEmbedSpec((32, 48), 16, 3, 20)
    probe = photograph(spec, pixels, "float32", 0)
    assert probe.gate == "deterministic"
    assert probe.images.min() >= -1
    assert probe.images.max() <= 1
    assert probe.images[0, 2, 5, 7] == np.float32(2 * pixels[5, 7, 2] / 255 - 1)
    assert judge(probe, "forward", plain_result(probe), FLOAT32).verdict == "pass"
    assert judge(probe, "forward", MISTAKES["channels reversed"](probe), FLOAT32).verdict == "fail"
    with pytest.raises(PatchParityError, match="expected \\(B, 3, 32, 48\\)"):
        photograph(spec, pixels[:16], "float32", 0)
    holed = pixels / 255
    holed[3, 4, 1] = np.nan
    with pytest.raises(PatchParityError, match="holds 1 NaN or infinite"):
        photograph(spec, holed, "float32", 0)


def test_float64_is_judged_by_the_exact_oracle_where_the_reference_errs_itself():
    """An error of a bound and a half: within both sides' error together, beyond what one side alone
    may make."""
    spec = PatchEmbedSpec((32, 48), 16, 3, 24)
    probe = next(
        probe for probe in standard_probes(spec, 2, np.float64, seed=6) if probe.name == "random"
    )
    places, truth = probe.expectations["forward"].exact
    assert len(places) == min(512, 2 * 6 * 24)
    model = ArithmeticModel.of(np.float64)
    right = patch_embed(probe.images, probe.weights, spec)
    assert judge(probe, "forward", right, model).verdict == "pass"
    gauge, terms = probe.expectations["forward"].gauge.ravel(), probe.expectations["forward"].terms
    wrong = right.ravel().copy()
    wrong[places[7]] = truth[7] + 1.5 * 4 * np.sqrt(terms) * 2.0**-53 * gauge[places[7]]
    verdict = judge(probe, "forward", wrong.reshape(right.shape), model)
    assert verdict.verdict == "fail"
    assert "exactly" in verdict.message
    assert 1.3 < verdict.bound_ratio < 1.6


def test_a_problem_for_the_forward_direction_has_the_same_data():
    spec = PatchEmbedSpec((12, 20), (4, 5), 3, 7)
    whole, forward = (
        random_normal(spec, 2, "float32", seed=3, forward_only=only) for only in (False, True)
    )
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(getattr(whole.weights, name), getattr(forward.weights, name))
    np.testing.assert_array_equal(whole.images, forward.images)
    assert forward.gradients == ()
    assert forward.grad_tokens.shape == whole.grad_tokens.shape
    assert not forward.grad_tokens.any()
