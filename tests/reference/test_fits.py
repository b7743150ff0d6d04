"""Mistakes with numbers in them are named, and what rounding does not explain is never called
correct."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest

from patchparity import PatchEmbedSpec, PatchEmbedWeights, diagnose, patch_embed
from patchparity.reference.sequence import embed_sequence
from patchparity.reference.weights import LayerNorm

pytestmark = pytest.mark.anywhere

SPEC = PatchEmbedSpec((48, 64), 16, 3, 40)
GENERATOR = np.random.default_rng(8)
IMAGES = GENERATOR.uniform(0, 1, SPEC.images_shape(3)).astype(np.float32)
WEIGHTS = PatchEmbedWeights(
    (0.05 * GENERATOR.standard_normal(SPEC.kernel_shape)).astype(np.float32),
    GENERATOR.standard_normal(40).astype(np.float32),
)
MEAN, DEVIATION = (
    np.array(each, np.float32)[:, None, None]
    for each in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
)


def tokens_of(images=IMAGES, weights=WEIGHTS):
    return patch_embed(images, weights, SPEC, np.float32)


RIGHT = tokens_of()
MISTAKES = {
    "ImageNet": tokens_of((IMAGES - MEAN) / DEVIATION),
    "0.5": tokens_of((IMAGES - 0.5) / 0.5),
    "255": tokens_of(IMAGES / 255),
    "flip": tokens_of(IMAGES[..., ::-1].copy()),
    "revers": RIGHT[:, ::-1],
    "activation|ReLU|rectified": np.maximum(RIGHT, 0),
    "GELU": RIGHT * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (RIGHT + 0.044715 * RIGHT**3))),
    "view|reshape": IMAGES.reshape(3, SPEC.num_patches, -1) @ WEIGHTS.kernel.reshape(40, -1).T
    + WEIGHTS.bias,
    "bias": tokens_of(weights=PatchEmbedWeights(WEIGHTS.kernel, WEIGHTS.bias * np.float32(1.001))),
    "1.001": RIGHT * np.float32(1.001),
    "dropout": RIGHT * (GENERATOR.random(RIGHT.shape) > 0.1) / 0.9,
    "rows of the kernel are in another order than the bias": (RIGHT - WEIGHTS.bias)[
        ..., GENERATOR.permutation(40)
    ]
    + WEIGHTS.bias,
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_with_numbers_are_named(words):
    import re

    found = diagnose(IMAGES, WEIGHTS, MISTAKES[words].astype(np.float32), SPEC)
    assert found.status in ("unique", "tied"), found.explanation
    assert re.search(words, f"{found.explanation} {found.mend}", re.IGNORECASE), found.explanation


def cut(values):
    """As TF32 keeps them: ten bits behind the point."""
    return (values.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


@pytest.mark.parametrize(("patch", "channels"), [(16, 3), (28, 3), (32, 3), (32, 12)])
@pytest.mark.parametrize("rounding", ["tf32", "float16", "bfloat16", "noise"])
def test_low_precision_is_never_called_correct(rounding, patch, channels):
    """At every K, 768 to 12288: what the deterministic bound allows there, the bits do not."""
    spec = PatchEmbedSpec((2 * patch, 3 * patch), patch, channels, 24)
    generator = np.random.default_rng([patch, channels])
    images = generator.standard_normal(spec.images_shape(2)).astype(np.float32)
    kernel = (generator.standard_normal(spec.kernel_shape) / np.sqrt(spec.patch_values)).astype(
        np.float32
    )
    weights = PatchEmbedWeights(kernel, generator.standard_normal(24).astype(np.float32))
    if rounding == "tf32":
        tokens = patch_embed(
            cut(images), PatchEmbedWeights(cut(kernel), weights.bias), spec, np.float32
        )
    elif rounding == "noise":
        right = patch_embed(images, weights, spec, np.float32)
        tokens = right + (2e-4 * generator.standard_normal(right.shape)).astype(np.float32)
    else:
        narrow = np.float16 if rounding == "float16" else ml_dtypes.bfloat16
        tokens = patch_embed(images, weights, spec, np.float32).astype(narrow).astype(np.float32)
    assert not diagnose(images, weights, tokens, spec).correct


def test_float32_in_any_order_is_correct():
    generator = np.random.default_rng(3)
    for order in range(4):
        places = generator.permutation(SPEC.patch_values)
        patches = np.stack(
            [
                IMAGES[:, :, i : i + 16, j : j + 16].transpose(0, 2, 3, 1).reshape(3, -1)
                for i in range(0, 48, 16)
                for j in range(0, 64, 16)
            ],
            1,
        )
        tokens = patches[..., places] @ WEIGHTS.kernel.reshape(40, -1)[:, places].T + WEIGHTS.bias
        assert diagnose(IMAGES, WEIGHTS, tokens.astype(np.float32), SPEC).correct, order


def test_positions_that_begin_with_the_class_token_s_row_are_named():
    generator = np.random.default_rng(9)
    spec = PatchEmbedSpec((32, 48), 8, 3, 20)
    images = generator.standard_normal(spec.images_shape(2)).astype(np.float32)
    kernel, positions = (
        generator.standard_normal(spec.kernel_shape),
        generator.standard_normal((25, 20)),
    )
    weights = PatchEmbedWeights(
        *(each.astype(np.float32) for each in (kernel, generator.standard_normal(20)))
    )
    class_token = generator.standard_normal(20).astype(np.float32)
    held = PatchEmbedWeights(
        weights.kernel,
        weights.bias,
        class_token=class_token,
        positions=positions.astype(np.float32),
    )
    tokens = patch_embed(images, weights, spec, np.float32) + positions[:24].astype(np.float32)
    wrong = np.concatenate([np.broadcast_to(class_token, (2, 1, 20)), tokens], 1).astype(np.float32)
    found = diagnose(images, held, wrong, spec)
    assert (found.status, "first one on" in found.explanation) == ("unique", True), (
        found.explanation
    )


GRID = RIGHT.reshape(3, *SPEC.grid, 40)
PAIRS = {
    "ImageNet.*bias was added -1 times": tokens_of((IMAGES - MEAN) / DEVIATION) - 2 * WEIGHTS.bias,
    "ReLU|flipped left to right": np.maximum(
        tokens_of(weights=PatchEmbedWeights(WEIGHTS.kernel[:, :, ::-1].copy(), WEIGHTS.bias)), 0
    ),
    "reverse order.*0.5 times|0.5 times.*reverse order": tokens_of(IMAGES / 2)[:, ::-1],
    "unflattened.*GELU|GELU.*unflattened": np.moveaxis(MISTAKES["GELU"].reshape(GRID.shape), -1, 1),
    "dropout.*left to right|left to right.*dropout": tokens_of(IMAGES[..., ::-1].copy())
    * (GENERATOR.random(RIGHT.shape) > 0.2)
    / 0.8,
    "channel 1 of the images": tokens_of(IMAGES * np.array([1, 0, 1], np.float32)[:, None, None])
    + GENERATOR.standard_normal((1, *RIGHT.shape[1:])),
    "permuted.*bias|bias.*permuted": (RIGHT + 0.01 * WEIGHTS.bias)[
        :, GENERATOR.permutation(SPEC.num_patches)
    ],
}


@pytest.mark.parametrize("words", PAIRS)
def test_two_mistakes_of_which_one_has_a_number_are_named(words):
    import re

    found = diagnose(IMAGES, WEIGHTS, PAIRS[words].astype(np.float32), SPEC)
    assert found.status in ("unique", "tied"), found.explanation
    assert len(found.mistakes) == 2
    assert re.search(words, found.explanation, re.IGNORECASE), found.explanation


def test_an_output_of_nothing_is_explained_by_no_two_mistakes():
    """Random values, and the right ones with a part that is random."""
    noise = GENERATOR.standard_normal(RIGHT.shape).astype(np.float32)
    for wrong in (noise, np.where(noise > 1, noise, RIGHT), RIGHT + np.float32(1e-3) * noise):
        assert diagnose(IMAGES, WEIGHTS, wrong, SPEC).status == "unknown"


@pytest.mark.parametrize("reverse", [False, True])
def test_a_signal_that_is_lost_beside_the_bias_is_not_called_ignored(reverse):
    """Images of 0..255 that were divided by 255 twice: what is left of them is far below the
    rounding of the given ones."""
    images = np.rint(255 * IMAGES)
    tokens = tokens_of((images / 255 / 255).astype(np.float32))
    found = diagnose(images, WEIGHTS, tokens[:, ::-1] if reverse else tokens, SPEC)
    assert "not read at all" not in found.explanation
    assert "integers" not in found.explanation


def of_norms(**changes):
    """Weights with norms, images, and the right output in float32."""
    generator = np.random.default_rng(12)
    spec = PatchEmbedSpec((24, 40), 8, 3, 32)
    kernel = (generator.standard_normal(spec.kernel_shape) / 14).astype(np.float32)

    def norm(width):
        scale = (1 + 0.2 * generator.standard_normal(width)).astype(np.float32)
        return LayerNorm(scale, (0.2 * generator.standard_normal(width)).astype(np.float32))

    weights = PatchEmbedWeights(
        kernel,
        generator.standard_normal(32).astype(np.float32),
        **{name: norm(192 if name == "patch_norm" else 32) for name in changes},
    )
    images = generator.standard_normal(spec.images_shape(3)).astype(np.float32)
    return images, weights, spec


NORMS = ["patch_norm", "token_norm", "sequence_norm"]


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_of_the_weights_is_part_of_the_output(name):
    images, weights, spec = of_norms(**{name: True})
    right = embed_sequence(images, weights, spec, np.float32)
    assert diagnose(images, weights, right, spec).correct
    left_out = dataclasses.replace(weights, **{name: None})
    found = diagnose(images, weights, embed_sequence(images, left_out, spec, np.float32), spec)
    assert found.mistakes == (f"{name}-missing",)
    bare = dataclasses.replace(getattr(weights, name), scale=np.ones_like(weights.bias))
    if name != "patch_norm":
        bare = dataclasses.replace(bare, shift=None)
        other = dataclasses.replace(weights, **{name: bare})
        found = diagnose(images, weights, embed_sequence(images, other, spec, np.float32), spec)
        assert found.mistakes == (f"{name}-bare",)
    layout = dataclasses.replace(weights.layout, norm_epsilon=1e-3)
    other = dataclasses.replace(weights, layout=layout)
    found = diagnose(images, weights, embed_sequence(images, other, spec, np.float32), spec)
    assert found.mistakes == ("norm-epsilon",)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_a_norm_hides_no_lower_precision(name, narrow):
    images, weights, spec = of_norms(**{name: True})
    kind = np.float16 if narrow == "float16" else ml_dtypes.bfloat16
    rounded = dataclasses.replace(weights, kernel=weights.kernel.astype(kind).astype(np.float32))
    tokens = embed_sequence(images.astype(kind).astype(np.float32), rounded, spec, np.float32)
    assert not diagnose(images, weights, tokens, spec).correct


def last_of(images, what):
    """An output that is wrong in its last image, or its last channel, alone."""
    generator = np.random.default_rng(2)
    weights = PatchEmbedWeights(WEIGHTS.kernel, WEIGHTS.bias)
    right = patch_embed(images, weights, SPEC, np.float32)
    if what == "image of noise":
        right[-1] = generator.standard_normal(right[-1].shape)
    elif what == "image of zeros":
        right[-1] = 0
    else:
        right[..., -1] *= 0 if what == "channel of zeros" else 2
    return right


@pytest.mark.parametrize(
    "what", ["image of noise", "image of zeros", "channel of zeros", "channel twice"]
)
def test_what_is_wrong_at_the_end_alone_is_no_two_mistakes_that_undo_each_other(what):
    """Two mistakes are looked for in a few images and channels, and believed of all alone."""
    images = np.random.default_rng(4).uniform(0, 1, SPEC.images_shape(5)).astype(np.float32)
    found = diagnose(images, WEIGHTS, last_of(images, what), SPEC)
    assert found.status == "unknown", found.explanation
    only = "only images [4]" if "image" in what else "only channels [39]"
    assert only in found.explanation


def raw():
    return 255 * IMAGES


NAMED = {
    "left at 0..255 before ImageNet": (raw() - MEAN) / DEVIATION,
    "divided by 255 once too often before ImageNet": (IMAGES / 255 - MEAN) / DEVIATION,
    "not normalized.*left at 0..255": raw(),
    "normalized by mean 0.5 and deviation 0.5, where ImageNet": (IMAGES - 0.5) / 0.5,
    "turned upside down": ((IMAGES - MEAN) / DEVIATION)[:, :, ::-1],
    "shifted by one row": np.roll((IMAGES - MEAN) / DEVIATION, 1, 2),
}


@pytest.mark.parametrize("words", NAMED)
def test_what_was_done_to_normalized_pixels_is_named(words):
    import re

    images = ((IMAGES - MEAN) / DEVIATION).astype(np.float32)
    tokens = patch_embed(NAMED[words].astype(np.float32), WEIGHTS, SPEC, np.float32)
    found = diagnose(images, WEIGHTS, tokens, SPEC)
    assert re.search(words, found.explanation), found.explanation
    assert len(found.mistakes) == 1


STANDARDIZED = {
    "the mean of the batch was taken away": lambda x: x - x.mean(0),
    "its own mean was taken away from every image$": lambda x: x - x.mean((1, 2, 3), keepdims=True),
    "each of its channels.*divided by its deviation .over n.": lambda x: (
        (x - x.mean((2, 3), keepdims=True)) / x.std((2, 3), keepdims=True)
    ),
}


@pytest.mark.parametrize("words", STANDARDIZED)
def test_means_that_were_taken_away_are_named(words):
    import re

    images = np.random.default_rng(3).standard_normal(SPEC.images_shape(3)).astype(np.float32)
    changed = STANDARDIZED[words](images.astype(np.float64)).astype(np.float32)
    found = diagnose(images, WEIGHTS, patch_embed(changed, WEIGHTS, SPEC, np.float32), SPEC)
    assert re.search(words, found.explanation), found.explanation
    assert len(found.mistakes) == 1


def test_positions_that_were_rounded_are_in_no_other_order():
    generator = np.random.default_rng(6)
    table = generator.standard_normal((SPEC.num_patches, SPEC.embed_dim)).astype(np.float32)
    weights = dataclasses.replace(WEIGHTS, positions=table)
    rounded = dataclasses.replace(
        weights, positions=table.astype(ml_dtypes.bfloat16).astype(np.float32)
    )
    images = generator.standard_normal(SPEC.images_shape(2)).astype(np.float32)
    found = diagnose(images, weights, embed_sequence(images, rounded, SPEC, np.float32), SPEC)
    assert found.mistakes == ("positions-rounded",), found.explanation


CHANGED = {
    "an ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "a leaky ReLU": lambda x: np.where(x > 0, x, 0.01 * x),
    "its epsilon 1e-5": lambda x: (
        (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    ),
    "a softmax over the width": lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    "an instance norm": lambda x: (
        (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    ),
    "each output channel": lambda x: x * np.linspace(0.5, 2, 40) + np.linspace(-1, 1, 40),
    "0.7 times.*same vector": lambda x: 0.7 * x + np.linspace(-1, 1, 40),
    "first token is missing": lambda x: x[:, 1:],
    "rolled by 1": lambda x: np.roll(x, 1, 1),
}


@pytest.mark.parametrize("words", CHANGED)
def test_what_was_done_to_tokens_is_named(words):
    import re

    tokens = CHANGED[words](RIGHT.astype(np.float64)).astype(np.float32)
    found = diagnose(IMAGES, WEIGHTS, tokens, SPEC)
    assert re.search(words, found.explanation), found.explanation
    assert len(found.mistakes) == 1


def test_float32_products_of_a_float64_output_are_named():
    images, weights = IMAGES.astype(np.float64), WEIGHTS.astype(np.float64)
    generator = np.random.default_rng(3)
    images = images + 1e-9 * generator.standard_normal(images.shape)
    tokens = patch_embed(images.astype(np.float32), weights.astype(np.float32), SPEC, np.float32)
    found = diagnose(images, weights, tokens.astype(np.float64), SPEC)
    assert found.mistakes == ("precision-float32",)


@pytest.mark.parametrize("which", ["kernel", "images"])
def test_the_one_input_that_was_rounded_is_named(which):
    kernel = cut(WEIGHTS.kernel) if which == "kernel" else WEIGHTS.kernel
    images = cut(IMAGES - 0.5) if which == "images" else IMAGES - np.float32(0.5)
    tokens = tokens_of(images, PatchEmbedWeights(kernel, WEIGHTS.bias))
    found = diagnose(IMAGES - np.float32(0.5), WEIGHTS, tokens, SPEC)
    assert found.mistakes == ("precision-tf32",), found.explanation


@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_a_product_that_is_small_beside_its_bias_is_not_called_cut(narrow):
    torch = pytest.importorskip("torch")
    kind = getattr(torch, narrow)
    generator = torch.Generator().manual_seed(1)
    spec = PatchEmbedSpec((16, 16), 4, 3, 32)
    images = (0.01 * torch.randn(2, 3, 16, 16, generator=generator)).to(kind)
    kernel = (torch.randn(32, 3, 4, 4, generator=generator) / 7).to(kind)
    bias = torch.randn(32, generator=generator).to(kind)
    tokens = torch.nn.functional.conv2d(images.float(), kernel.float(), bias.float(), 4).to(kind)
    numpy_kind = np.float16 if narrow == "float16" else ml_dtypes.bfloat16

    def array(tensor):
        return tensor.float().numpy().astype(numpy_kind)

    weights = PatchEmbedWeights(array(kernel.permute(0, 2, 3, 1)), array(bias))
    observed = array(tokens.flatten(2).transpose(1, 2))
    assert diagnose(array(images), weights, observed, spec).correct


@pytest.mark.parametrize(
    ("factor", "words"),
    [(1 / 255, "divided by 255 once too often"), (0.5, "0.5 times"), (2.0, "doubled")],
)
def test_pixels_that_are_scaled_before_a_sequence_are_named(factor, words):
    generator = np.random.default_rng(6)
    spec = PatchEmbedSpec((24, 40), 8, 3, 32)
    images = generator.standard_normal(spec.images_shape(2)).astype(np.float32)
    kernel, bias, token, positions = (
        generator.standard_normal(shape).astype(np.float32)
        for shape in (spec.kernel_shape, 32, 32, (16, 32))
    )
    weights = PatchEmbedWeights(kernel / 14, bias, class_token=token, positions=positions)
    tokens = embed_sequence((images * factor).astype(np.float32), weights, spec, np.float32)
    found = diagnose(images, weights, tokens, spec)
    assert words in found.explanation
    assert len(found.mistakes) == 1


def test_an_epsilon_that_bounds_allow_is_named():
    images, weights, spec = of_norms(token_norm=True)
    layout = dataclasses.replace(weights.layout, norm_epsilon=1e-5)
    other = dataclasses.replace(weights, layout=layout)
    tokens = embed_sequence(images, other, spec, np.float32)
    assert diagnose(images, weights, tokens, spec).mistakes == ("norm-epsilon",)
    right = embed_sequence(images, weights, spec, np.float32)
    assert diagnose(images, weights, right, spec).correct
