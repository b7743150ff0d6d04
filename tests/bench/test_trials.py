"""Implementations that are right on random images of their own size and wrong in life: each is
rejected, and right ones are not."""

import numpy as np
import pytest

from patchparity import PatchEmbedSpec, PatchEmbedWeights, check, initialize_weights, patch_embed

SPEC = PatchEmbedSpec((24, 40), 8, 3, 20)
WEIGHTS = PatchEmbedWeights(
    initialize_weights(SPEC, seed=3, class_token=False, positions="none").kernel,
    np.random.default_rng(4).standard_normal(20).astype(np.float32),
)


def right(images):
    return patch_embed(images, WEIGHTS, SPEC.replace(image_size=images.shape[2:]), images.dtype)


def judged(function, **options):
    return check(function, weights=WEIGHTS, patch_size=8, **options)


def rounded(tokens):
    import ml_dtypes

    return tokens.astype(ml_dtypes.bfloat16).astype(tokens.dtype)


def wrong_for(condition, change=lambda tokens: tokens[:, ::-1]):
    return lambda images: change(right(images)) if condition(images) else right(images)


WRONG = {
    "batches above 3": wrong_for(lambda x: len(x) > 3),
    "even batches above 2": wrong_for(lambda x: len(x) in (4, 8)),
    "the last image of a large batch": lambda x: (
        np.concatenate([right(x[:-1]), 2 * right(x[-1:])]) if len(x) > 4 else right(x)
    ),
    "tall images": wrong_for(lambda x: x.shape[2] > x.shape[3]),
    "square images": wrong_for(lambda x: x.shape[2] == x.shape[3]),
    "large images in another precision": wrong_for(
        lambda x: x.shape[2] * x.shape[3] > 10_000, rounded
    ),
    "flat images": wrong_for(lambda x: np.ptp(x) == 0, lambda tokens: tokens * 0),
    "positive images": wrong_for(lambda x: x.min() >= 0),
    "images of 0 to 255": wrong_for(lambda x: x.max() > 100, lambda tokens: tokens / 255),
    "images of 0 to 1": wrong_for(
        lambda x: x.min() >= 0 and 0.5 < x.max() <= 1, lambda tokens: tokens * 2
    ),
    "images that are not contiguous": wrong_for(lambda x: not x.flags.c_contiguous),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_in_life_is_rejected(name):
    result = judged(WRONG[name])
    assert not result.ok, name


def test_a_change_of_the_caller_s_images_is_seen():
    def changes(images):
        tokens = right(images)
        images *= 1.5
        return tokens

    assert not judged(changes).ok


def test_a_result_that_the_next_call_overwrites_is_seen():
    buffers = {}

    def overwrites(images):
        tokens = right(images)
        kept = buffers.setdefault(tokens.shape, np.empty_like(tokens))
        kept[:] = tokens
        return kept

    assert not judged(overwrites).ok


def test_what_begins_or_ends_after_some_calls_is_seen():
    calls = []

    def tires(images):
        calls.append(1)
        return right(images) * (1 if len(calls) < 60 else 1.01)

    assert not judged(tires).ok


def test_a_value_that_reaches_other_images_is_seen():
    def mean_taken(images):
        return right(images - 1e-3 * images.mean(axis=0, keepdims=True))

    assert not judged(mean_taken).ok


def test_sizes_that_patches_do_not_divide_are_held_against_both_policies():
    def shifted(images):
        height, width = (size % 8 for size in images.shape[2:])
        return right(images[:, :, height:, width:])  # cut at the wrong side

    assert not judged(shifted).ok


def test_right_ones_are_right():
    assert judged(right).ok
    torch = pytest.importorskip("torch")
    torch.manual_seed(2)
    module = torch.nn.Conv2d(3, 20, 8, stride=8)
    assert check(module).ok
    assert check(module.to(memory_format=torch.channels_last)).ok


def test_a_loud_refusal_of_a_size_is_no_failure():
    def strict(images):
        if images.shape[2:] != (24, 40):
            raise ValueError("expected images of 24×40")
        return right(images)

    assert judged(strict, image_size=(24, 40)).ok


def test_what_the_weights_cannot_show_is_said():
    zeros = PatchEmbedWeights(WEIGHTS.kernel, np.zeros(20, np.float32))
    result = check(
        lambda images: patch_embed(
            images, zeros, SPEC.replace(image_size=images.shape[2:]), images.dtype
        ),
        weights=zeros,
        patch_size=8,
    )
    assert result.ok
    assert "bias" in " ".join(result.notes)


def test_dropout_in_train_mode_is_said():
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 20, 8, stride=8), torch.nn.Dropout(0.1)).train()
    result = check(module)
    assert result.ok
    assert module[1].training
    assert "in train mode and was judged in evaluation mode: in training Dropout" in " ".join(
        result.notes
    )
    assert not any("train mode" in note for note in check(module.eval()).notes)
