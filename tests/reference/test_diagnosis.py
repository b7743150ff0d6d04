"""Diagnosis: each mistake, and pairs of them, is named; a correct output is called correct; the
unknown is told as unknown."""

import dataclasses
import itertools

import ml_dtypes
import numpy as np
import pytest

from patchparity import (
    PatchEmbedSpec,
    PatchEmbedWeights,
    PatchParityError,
    diagnose,
    initialize_weights,
    patch_embed,
    patchify,
)
from patchparity.reference.mistakes import CATALOGUE
from patchparity.reference.pipeline import Pipeline

pytestmark = pytest.mark.anywhere

SPECS = {
    "tokens": (PatchEmbedSpec((30, 36), 6, 3, 40), False),
    "sequence": (PatchEmbedSpec((30, 36), 6, 3, 40), True),
    "padded": (PatchEmbedSpec((32, 40), 7, 3, 160, stride=4, padding=3, remainder="floor"), False),
    "square matrix": (PatchEmbedSpec((16, 24), 4, 3, 48), False),
}
TIED = {
    frozenset({"kernel-transposed-whole", "kernel-hw-swapped"}),
    frozenset({"precision-tf32", "precision-fp16"}),
}


def problem(name: str, batch: int = 2) -> Pipeline:
    spec, to_sequence = SPECS[name]
    generator = np.random.default_rng(7)
    images = generator.standard_normal(spec.images_shape(batch)).astype(np.float32)
    tokens = dict(
        class_token=to_sequence,
        num_registers=2 * to_sequence,
        positions="learned" if to_sequence else "none",
    )
    weights = initialize_weights(spec, seed=8, **tokens)
    weights = dataclasses.replace(
        weights, bias=generator.standard_normal(spec.embed_dim).astype(np.float32)
    )
    return Pipeline(images, weights, spec, to_sequence)


def diagnosed(pipeline: Pipeline, tokens: np.ndarray):
    return diagnose(pipeline.images, pipeline.weights, tokens, pipeline.spec)


def single_mistakes():
    for name in SPECS:
        for mistake in CATALOGUE.values():
            if mistake.apply(problem(name)) is not None:
                yield pytest.param(name, mistake, id=f"{name}-{mistake.id}")


@pytest.mark.parametrize(("name", "mistake"), single_mistakes())
def test_each_mistake_is_named(name, mistake):
    right = problem(name)
    found = diagnosed(right, mistake.apply(right).run(np.float32))
    named = {each for (each,) in (found.mistakes, *found.also)}
    assert mistake.id in named
    assert not found.correct
    assert found.status == ("unique" if len(named) == 1 else "tied")
    assert len(named) == 1 or frozenset(named) in TIED or mistake.stage == "arithmetic"
    assert found.mend


def test_every_mistake_was_diagnosed_somewhere():
    assert {parameter.values[1].id for parameter in single_mistakes()} == set(CATALOGUE)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_correct_outputs_are_called_correct(name, dtype):
    right = problem(name)
    tokens = right.run(dtype)
    found = diagnosed(right, tokens)
    assert (found.correct, found.status, found.mistakes) == (True, "correct", ())
    assert found.evidence["bound_ratio"] <= 1


def test_another_order_of_summation_is_correct_too():
    right = problem("tokens")
    order = np.random.default_rng(0).permutation(right.spec.patch_values)
    patches = patchify(right.images, right.spec)
    terms = patches[:, :, None, order] * right.weights.matrix[None, None, :, order]
    tokens = np.add.accumulate(terms, axis=-1, dtype=np.float32)[..., -1] + right.weights.bias
    assert not np.array_equal(tokens, right.run(np.float32)), "it rounds differently"
    assert diagnosed(right, tokens).correct


def pairs():
    """A fixed sample of pairs, one from each two stages."""
    by_stage = {}
    for first, second in itertools.combinations(CATALOGUE.values(), 2):
        if (
            first.stage != second.stage
            and not first.reshapes
            and "arithmetic" not in (first.stage, second.stage)
        ):
            by_stage.setdefault((first.stage, second.stage), []).append((first, second))
    generator = np.random.default_rng(9)
    for options in by_stage.values():
        for index in generator.choice(len(options), min(3, len(options)), replace=False):
            yield options[index]


@pytest.mark.parametrize(
    ("first", "second"), [pytest.param(*pair, id="+".join(m.id for m in pair)) for pair in pairs()]
)
def test_pairs_of_mistakes_are_named(first, second):
    made = 0
    for name in SPECS:
        right = problem(name)
        half_way = first.apply(right)
        wrong = None if half_way is None else second.apply(half_way)
        if wrong is None:
            continue
        made += 1
        found = diagnosed(right, wrong.run(np.float32))
        explanations = [found.mistakes, *found.also]
        assert found.status in ("unique", "tied")
        # A pair may come to the same as a single mistake, or as another pair; but it must be among
        # equally simple explanations.
        assert (
            (first.id, second.id) in explanations
            or (second.id, first.id) in explanations
            or len(found.mistakes) == 1
        )
    if not made:
        pytest.skip("cannot be made together on any of the problems")


def test_vit_b16_hwio_kernel_with_bgr_images():
    spec = PatchEmbedSpec(224, 16)
    images = np.random.default_rng(0).random((1, 3, 224, 224), np.float32)
    weights = initialize_weights(spec, positions="none", class_token=False)
    right = Pipeline(images, weights, spec)
    wrong = CATALOGUE["kernel-hwio-as-oihw"].apply(right)
    found = diagnosed(right, wrong.run(np.float32))
    assert found.mistakes == ("kernel-hwio-as-oihw",)
    assert found.mend == "the kernel is HWIO: transpose it with (3, 2, 0, 1)"
    both = CATALOGUE["kernel-hwio-as-oihw"].apply(CATALOGUE["channels-reversed"].apply(right))
    found = diagnosed(right, both.run(np.float32))
    assert (found.status, found.mistakes) == (
        "unique",
        ("channels-reversed", "kernel-hwio-as-oihw"),
    )


def test_one_wrong_value_is_unknown_and_located():
    right = problem("tokens")
    tokens = right.run(np.float32)
    tokens[1, 5, 7] *= 1.5
    found = diagnosed(right, tokens)
    assert (found.status, found.mistakes, found.mend) == ("unknown", (), "")
    assert found.evidence["wrong_images"] == [1]
    assert found.evidence["wrong_tokens"] == [5]
    assert found.evidence["wrong_channels"] == [7]
    assert "only images [1] and tokens [5] and channels [7] are wrong" in found.explanation


def test_an_unknown_affine_map_is_told_from_what_is_none():
    right = problem("square matrix", batch=4)
    generator = np.random.default_rng(3)
    other = right.with_kernel(
        generator.standard_normal(right.weights.kernel.shape).astype(np.float32)
    )
    assert diagnosed(right, other.run(np.float32)).evidence["affine"] is True
    assert diagnosed(right, np.tanh(other.run(np.float32))).evidence["affine"] is False
    assert (
        diagnosed(problem("tokens", batch=1), np.zeros((1, 30, 40), np.float32) + 1).evidence[
            "affine"
        ]
        is None
    )


def test_shapes_and_values_that_cannot_be():
    right = problem("tokens")
    found = diagnosed(right, np.zeros((2, 30, 39), np.float32))
    assert found.status == "unknown"
    assert "shape (2, 30, 39); expected (2, 30, 40)" in found.explanation
    tokens = right.run(np.float32)
    tokens[0, 0, 0] = np.nan
    assert "NaN" in diagnosed(right, tokens).explanation
    with pytest.raises(PatchParityError, match="nothing to diagnose"):
        diagnosed(right, np.zeros((0, 30, 40)))
    with pytest.raises(PatchParityError, match="images of shape"):
        diagnose(np.zeros((1, 3, 30, 35)), right.weights, tokens, right.spec)


def problem_of_768():
    generator = np.random.default_rng(9)
    spec = PatchEmbedSpec((48, 64), 16, 3, 48)
    images = generator.standard_normal((72, 3, 48, 64)).astype(np.float32)
    weights = PatchEmbedWeights(
        (generator.standard_normal(spec.kernel_shape) / 28).astype(np.float32),
        generator.standard_normal(48).astype(np.float32),
    )
    return spec, images, weights, patch_embed(images, weights, spec).astype(np.float32), generator


def test_what_is_no_rounding_is_not_called_one():
    """Errors of a lower precision's size that are something else: of the weights, of a shift, of
    coarser pixels."""
    spec, images, weights, _, generator = problem_of_768()
    wrong = {
        "weights times 1.004": patch_embed(
            images, weights.map(lambda w: w * np.float32(1.004)), spec
        ),
        "noise on the weights": patch_embed(
            images,
            weights.map(
                lambda w: (w * (1 + 4e-3 * generator.standard_normal(w.shape))).astype(np.float32)
            ),
            spec,
        ),
        "a shift of the images": patch_embed(images + np.float32(1e-3), weights, spec),
        "pixels of 1/64": patch_embed(np.round(images * 64) / 64, weights, spec),
    }
    fitted = {"weights times 1.004": "output-scaled", "a shift of the images": "constant-added"}
    for name, output in wrong.items():
        found = diagnose(images, weights, output.astype(np.float32), spec, pairs=False)
        assert found.mistakes == ((fitted[name],) if name in fitted else ()), (name, found.mistakes)
        assert not found.correct
    narrow = images.astype(ml_dtypes.bfloat16).astype(np.float32)
    rounded = patch_embed(
        narrow, weights.map(lambda w: w.astype(ml_dtypes.bfloat16).astype(np.float32)), spec
    ).astype(np.float32)
    found = diagnose(images, weights, rounded, spec)
    assert ("precision-bf16",) in (found.mistakes, *found.also)


def test_integer_images_are_scaled_as_the_numbers_that_they_are():
    spec, _, weights, _, generator = problem_of_768()
    images = generator.integers(0, 256, (2, 3, 48, 64), dtype=np.uint8)
    tokens = patch_embed(
        images.astype(np.float64) * 255, PatchEmbedWeights(weights.kernel, weights.bias), spec
    ).astype(np.float32)
    assert diagnose(images, weights, tokens, spec).mistakes == ("input-scaled-255",)


def test_float32_tokens_that_were_saved_as_float64_are_judged_as_float32():
    spec, images, weights, tokens, _ = problem_of_768()
    assert diagnose(images, weights, tokens.astype(np.float64), spec).correct
    assert (
        diagnose(images, weights, tokens[:, ::-1].astype(np.float64), spec, pairs=False).evidence[
            "dtype"
        ]
        == "float32"
    )


def test_values_that_cannot_be_diagnosed_are_refused():
    spec, images, weights, tokens, _ = problem_of_768()
    poisoned = images.copy()
    poisoned[0, 0, 0, 0] = np.inf
    for changed, message in (
        ((poisoned, weights, tokens), "images of shape .* hold 1 NaN or infinite values"),
        (
            (images, weights.map(lambda w: w * np.float32(np.nan)), tokens),
            "kernel of shape .* hold 36864 NaN",
        ),
        ((images, weights, tokens.astype(int)), "tokens of dtype int64: expected one of float16"),
        ((images, weights, tokens.astype(complex)), "tokens of dtype complex128"),
        ((images[:0], weights, tokens), "images of shape .*: there is nothing to diagnose"),
    ):
        with pytest.raises(PatchParityError, match=message):
            diagnose(*changed, spec)
    with pytest.raises(PatchParityError, match="kernel of dtype complex64: expected real numbers"):
        weights.map(lambda w: w.astype(np.complex64))


def test_plain_data():
    right = problem("tokens")
    told = diagnosed(right, CATALOGUE["kernel-hw-swapped"].apply(right).run(np.float32)).to_dict()
    assert set(told) == {"correct", "status", "mistakes", "also", "explanation", "mend", "evidence"}
    assert told["status"] == "tied"
    assert told["also"] == [["kernel-hw-swapped"]]


def plain_problem(seed=3):
    generator = np.random.default_rng(seed)
    spec = PatchEmbedSpec((12, 16), 4, in_channels=3, embed_dim=24)
    weights = PatchEmbedWeights(
        generator.standard_normal(spec.kernel_shape).astype(np.float32),
        generator.standard_normal(24).astype(np.float32),
    )
    images = generator.standard_normal(spec.images_shape(3)).astype(np.float32)
    return spec, weights, images, patch_embed(images, weights, spec)


def test_a_bias_that_is_nearly_right_is_in_no_other_order():
    spec, weights, images, correct = plain_problem()
    error = np.zeros(24)
    error[5] = 5e-4 * weights.bias[5]
    found = diagnose(images, weights, (correct + error).astype(np.float32), spec)
    assert "bias-permuted" not in found.mistakes


def test_mistakes_that_undo_each_other_explain_nothing():
    spec, weights, images, correct = plain_problem()
    noise = 1e-5 * np.random.default_rng(0).standard_normal(correct.shape)
    found = diagnose(images, weights, (correct + noise).astype(np.float32), spec)
    assert not found.correct
    assert len(found.mistakes) < 2


def test_noise_that_is_the_same_for_every_image_is_no_first_image_with_a_table():
    spec, weights, images, correct = plain_problem()
    noise = np.random.default_rng(0).standard_normal(correct[:1].shape)
    found = diagnose(images, weights, np.repeat(noise, 3, 0).astype(np.float32), spec)
    assert "image-first-for-all" not in found.mistakes


def test_inputs_that_were_cut_to_tf32_are_told():
    spec, weights, images, _ = plain_problem()
    cut = [(array.view(np.int32) & ~0x1FFF).view(np.float32) for array in (images, weights.kernel)]
    output = patch_embed(cut[0], PatchEmbedWeights(cut[1], weights.bias), spec).astype(np.float32)
    found = diagnose(images, weights, output, spec)
    assert found.mistakes == ("precision-tf32",), found
