"""What comes near to a mistake and is another: factors beside roundings, mistakes beside roundings,
patches beside prefix tokens, and shapes that were merged otherwise."""

import ml_dtypes
import numpy as np
import pytest

from patchparity import PatchEmbedSpec, PatchEmbedWeights, diagnose, patch_embed
from patchparity.reference.pipeline import round_to_bits
from patchparity.reference.sequence import embed_sequence

pytestmark = pytest.mark.anywhere

SPEC = PatchEmbedSpec((48, 64), 16, 3, 40)
GENERATOR = np.random.default_rng(3)
RAW = GENERATOR.uniform(0, 1, SPEC.images_shape(3)).astype(np.float32)
MEAN, DEVIATION = (
    np.array(each, np.float32)[:, None, None]
    for each in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
)
IMAGES = (RAW - MEAN) / DEVIATION
WEIGHTS = PatchEmbedWeights(
    (0.05 * GENERATOR.standard_normal(SPEC.kernel_shape)).astype(np.float32),
    GENERATOR.standard_normal(40).astype(np.float32),
)
TABLE = (0.3 * GENERATOR.standard_normal((13, 40))).astype(np.float32)
CLASS = GENERATOR.standard_normal(40).astype(np.float32)
SEQUENCE = PatchEmbedWeights(WEIGHTS.kernel, WEIGHTS.bias, class_token=CLASS, positions=TABLE)


def tokens_of(images=IMAGES, weights=WEIGHTS):
    return patch_embed(images, weights, SPEC, np.float32)


def named(tokens, weights=WEIGHTS, images=IMAGES):
    return diagnose(images, weights, np.ascontiguousarray(tokens), SPEC)


@pytest.mark.parametrize("factor", [0.992, 0.995, 0.998, 0.9993, 0.9997])
@pytest.mark.parametrize("of_kernel", [True, False])
def test_a_factor_that_errs_as_rounding_does_is_no_rounding(factor, of_kernel):
    kernel = WEIGHTS.kernel * np.float32(factor)
    scaled = tokens_of(weights=PatchEmbedWeights(kernel, WEIGHTS.bias))
    found = named(scaled if of_kernel else tokens_of() * np.float32(factor))
    assert str(factor) in found.explanation, found.explanation


@pytest.mark.parametrize(
    ("rounding", "words"),
    [
        (lambda values: round_to_bits(values, 10), "TF32"),
        (lambda values: values.astype(ml_dtypes.bfloat16).astype(np.float32), "bfloat16"),
    ],
)
def test_a_mistake_and_a_rounding_behind_it_are_both_named(rounding, words):
    kernel = rounding(WEIGHTS.kernel)
    found = named(tokens_of(rounding(RAW), PatchEmbedWeights(kernel, WEIGHTS.bias)))
    assert found.mistakes[0] == "normalization-missing", found.explanation
    assert words in found.explanation


def test_a_mistake_beside_noise_is_told_as_the_nearest():
    noise = 1e-3 * GENERATOR.standard_normal((3, 12, 40)).astype(np.float32)
    found = named(tokens_of(RAW) + noise)
    assert found.status == "unknown"
    assert "nearest: the pixels were not normalized: ImageNet's" in found.explanation


@pytest.mark.parametrize(
    ("kind", "words"), [(np.float16, "float16"), (ml_dtypes.bfloat16, "bfloat16")]
)
@pytest.mark.parametrize("block", [1, 4, 16])
def test_sums_in_a_short_type_are_named_however_they_are_cut(kind, words, block):
    patches = IMAGES.reshape(3, 3, 3, 16, 4, 16).transpose(0, 2, 4, 3, 5, 1).reshape(36, -1)
    matrix = WEIGHTS.kernel.reshape(40, -1)
    total = np.zeros((36, 40), kind)
    for start in range(0, 768, block):
        part = patches[:, start : start + block] @ matrix[:, start : start + block].T
        total = (total.astype(np.float32) + part.astype(np.float32)).astype(kind)
    tokens = total.astype(np.float32).reshape(3, 12, 40) + WEIGHTS.bias
    assert f"partial sums were kept in {words}" in named(tokens).explanation


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_an_output_of_a_short_type_may_come_of_inputs_of_that_type(kind):
    def narrow(array):
        return array.astype(kind).astype(np.float32)

    weights = PatchEmbedWeights(narrow(WEIGHTS.kernel), narrow(WEIGHTS.bias))
    assert named(tokens_of(narrow(IMAGES), weights).astype(kind)).correct


def test_channels_in_reverse_before_statistics_are_taken_out_are_named():
    seen = (RAW[:, ::-1] - MEAN) / DEVIATION  # what OpenCV reads, with the statistics of RGB
    found = named(tokens_of(np.ascontiguousarray(seen)))
    assert "BGR for RGB" in found.explanation
    assert "ImageNet's mean and standard deviation were taken out, each channel's by its place" in (
        found.explanation
    )


def sequence_of(weights, images=IMAGES):
    return embed_sequence(images, weights, SPEC, np.float32)


@pytest.mark.parametrize(
    ("positions", "words"), [(None, "the positions were not added"), (2 * TABLE, "added 2 times")]
)
def test_what_explains_the_patches_alone_says_so(positions, words):
    other = GENERATOR.standard_normal(40).astype(np.float32)
    wrong = PatchEmbedWeights(WEIGHTS.kernel, WEIGHTS.bias, class_token=CLASS, positions=positions)
    right_prefix = named(sequence_of(wrong), SEQUENCE)
    assert words in right_prefix.explanation
    assert "prefix tokens are other ones" not in right_prefix.explanation
    strange = sequence_of(wrong)
    strange[:, 0] = other
    found = named(strange, SEQUENCE)
    assert words in found.explanation
    assert "the prefix tokens are other ones" in found.explanation


def test_a_bias_that_is_missing_from_positioned_patches_is_named():
    without = PatchEmbedWeights(WEIGHTS.kernel, None, class_token=CLASS, positions=TABLE)
    found = named(sequence_of(without)[:, 1:], SEQUENCE)
    assert "prefix tokens are missing" in found.explanation
    assert "the bias was not added" in found.explanation


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tokens: tokens.reshape(3, 3, 160), "joined the columns of the grid"),
        (lambda tokens: tokens.transpose(0, 2, 1).reshape(3, -1), "one axis too early"),
        (lambda tokens: tokens.reshape(3, 40, 12).transpose(0, 2, 1), "was viewed as (B, D, N)"),
    ],
)
def test_axes_that_were_merged_otherwise_are_named(change, words):
    assert words in named(change(tokens_of())).explanation


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tokens: tokens.reshape(-1, 40), "(B·N, D)"),
        (lambda tokens: tokens[:, 1:], "first token is missing"),
    ],
)
def test_a_shape_and_another_mistake_are_both_named(change, words):
    found = named(change(tokens_of(weights=PatchEmbedWeights(WEIGHTS.kernel, None))))
    assert words in found.explanation
    assert "bias was not added" in found.explanation


def test_an_order_beside_another_mistake_has_its_name():
    tokens = np.maximum(tokens_of(), 0).reshape(3, 3, 4, 40).transpose(0, 2, 1, 3)
    assert "column-major" in named(tokens.reshape(3, 12, 40)).explanation
