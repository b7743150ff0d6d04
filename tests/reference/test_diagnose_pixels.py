"""The steps behind images of a picture: a real photograph, and what libraries make of it."""

import numpy as np
import pytest

import patchparity as pp
from patchparity.reference.pixel_steps import Crop, Normalize, PixelRecipe, Rescale, Resize

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def photograph():
    """A quarter of the coffee cup that scikit-image ships, neither square nor even."""
    data = pytest.importorskip("skimage.data")
    return np.ascontiguousarray(data.coffee()[::2, ::2][:177])


def named(diagnosis):
    """The methods of the ways that were found."""
    return {
        step.method
        for recipe in diagnosis.recipes
        for step in recipe.steps
        if isinstance(step, Resize)
    }


@pytest.mark.parametrize(
    "method",
    [
        "pillow-bilinear",
        "pillow-bicubic",
        "pillow-lanczos",
        "pillow-nearest",
        "torchvision-nearest",
        "opencv-nearest",
        "pillow-box",
        "pillow-bicubic-12",
        "torchvision-bilinear",
        "torchvision-bilinear-antialias",
        "torchvision-bicubic-antialias",
        "torchvision-bicubic",
        "opencv-linear",
        "opencv-area",
        "opencv-cubic",
        "tf-bilinear",
        "tf-bicubic",
        "tf-area",
        "jax-cubic",
        "jax-lanczos3-antialias",
    ],
)
def test_a_filter_is_named(method):
    photo = photograph()
    # fewer rows by more than twice as many as columns: Pillow's two orders differ
    size = (64, 280) if method == "pillow-bicubic-12" else (96, 112)
    recipe = PixelRecipe("made", (Resize(method, size), Normalize(*IMAGENET, 1 / 255)))
    found = pp.diagnose_pixels(photo, recipe.run(photo))
    assert method in named(found), found
    assert "normalized by ImageNet's mean and std" in found.explanation
    assert found.status in ("unique", "tied")
    assert pp.diagnose_pixels(photo, recipe.run(photo), expected=recipe).status == "correct"
    # what was found makes these images: filters that are tied lie within a step of 8 bits
    step = 1 / 255 / min(IMAGENET[1])
    for way in found.recipes:
        np.testing.assert_allclose(way.run(photo), recipe.run(photo), rtol=0, atol=step)


def expected_and(*steps):
    """A usual recipe, and what is told of images that were made in another way."""
    photo = photograph()
    usual = PixelRecipe(
        "usual",
        (
            Resize("pillow-bicubic", (128, 128), "shortest"),
            Crop((112, 112)),
            Normalize(*CLIP, 1 / 255),
        ),
    )
    return pp.diagnose_pixels(photo, PixelRecipe("other", steps).run(photo), expected=usual)


def test_the_step_where_they_part_is_named():
    resize, crop = Resize("pillow-bicubic", (128, 128), "shortest"), Crop((112, 112))
    normalize = Normalize(*CLIP, 1 / 255)
    antialias = expected_and(Resize("torchvision-bicubic", (128, 128), "shortest"), crop, normalize)
    assert (
        "resized by torchvision-bicubic for pillow-bicubic (antialias was off"
        in antialias.explanation
    )
    other = expected_and(Resize("pillow-bilinear", (128, 128), "shortest"), crop, normalize)
    assert "(bilinear for bicubic)" in other.explanation
    means = expected_and(resize, crop, Normalize(*IMAGENET, 1 / 255))
    wanted = "normalized by ImageNet's mean and std for normalized by OpenAI CLIP's mean and std"
    assert wanted in means.explanation
    first = expected_and(Crop((177, 177)), Resize("pillow-bicubic", (112, 112)), normalize)
    assert "cropped before it was resized" in first.explanation or "cropped" in first.explanation
    whole = expected_and(Resize("pillow-bicubic", (112, 112)), normalize)
    assert "not cropped" in whole.explanation
    twice = expected_and(resize, crop, Normalize(CLIP[0], CLIP[1], 1 / 255**2))
    assert not twice.correct


@pytest.mark.parametrize(
    "steps",
    [
        (Resize("pillow-bicubic", (57, 57), "shortest"), Crop((48, 48))),
        (Resize("torchvision-bilinear-antialias", (61, 61)), Crop((48, 44))),
        (Crop((101, 101)), Resize("pillow-lanczos", (48, 48))),
    ],
)
def test_unusual_crops_are_found(steps):
    photo = photograph()
    made = PixelRecipe("made", (*steps, Normalize(*CLIP, 1 / 255))).run(photo)
    found = pp.diagnose_pixels(photo, made)
    assert any(recipe.steps[:2] == steps for recipe in found.recipes), found


def test_what_is_near_is_not_correct():
    photo = photograph()
    steps = Resize("pillow-bicubic", (48, 56)), Normalize((0.5,) * 3, (0.5,) * 3, 1 / 255)
    usual = PixelRecipe("usual", steps)
    made = usual.run(photo)
    assert pp.diagnose_pixels(photo, made, expected=usual).status == "correct"
    resized = pp.resize_pixels(photo, (48, 56), "pillow-bicubic").astype(np.float32)
    for shift in (128, 127):
        near = ((resized - shift) / np.float32(127.5)).transpose(2, 0, 1)[None]
        found = pp.diagnose_pixels(photo, near, expected=usual)
        assert not found.correct, found
    floats = PixelRecipe(
        "floats",
        (Rescale((1 / 255,)), Resize("torchvision-bicubic-antialias", (48, 56)), steps[1]),
    )
    bytes_ = PixelRecipe("bytes", (Resize("torchvision-bicubic-antialias", (48, 56)), steps[1]))
    floats = PixelRecipe("floats", (*floats.steps[:2], Normalize((0.5,) * 3, (0.5,) * 3)))
    assert not pp.diagnose_pixels(photo, bytes_.run(photo), expected=floats).correct
    assert not pp.diagnose_pixels(photo, floats.run(photo), expected=bytes_).correct
    assert pp.diagnose_pixels(photo, floats.run(photo), expected=floats).correct
    even, down = (
        PixelRecipe(
            way, (Resize("pillow-bicubic", (57, 57), "shortest"), Crop((50, 50), way), steps[1])
        )
        for way in ("even", "down")
    )
    assert pp.diagnose_pixels(photo, even.run(photo), expected=even).correct
    assert not pp.diagnose_pixels(photo, even.run(photo), expected=down).correct
    flat = np.full((40, 50, 3), 7, np.uint8)
    assert pp.diagnose_pixels(flat, usual.run(flat), expected=usual).correct
    untold = pp.diagnose_pixels(flat, usual.run(flat))
    assert (untold.status, untold.correct) == ("unknown", False)
    assert "it cannot be told" in untold.explanation


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda made: made[:, ::-1], "channels reversed (BGR)"),
        (lambda made: made.transpose(0, 2, 3, 1), "channels stand last"),
        (lambda made: made.transpose(0, 1, 3, 2), "rows and columns are swapped"),
        (lambda made: made * 2 - 1, "normalized by one half mean and std"),
        (lambda made: made * 255, "not rescaled, 0 to 255"),
        (lambda made: made / 255, "divided by 255 twice"),
        (lambda made: made, "divided by 255"),
        (lambda made: made[0], "divided by 255"),
        (lambda made: made[..., ::-1], "mirrored left to right"),
        (lambda made: made[..., ::-1, :], "mirrored upside down"),
        (lambda made: made[..., ::-1, ::-1], "turned by 180 degrees"),
        (lambda made: made.astype(np.float16), "divided by 255"),
    ],
)
def test_layout_and_range_are_named(change, words):
    photo = photograph()
    made = pp.resize_pixels(photo, (80, 104), "pillow-bilinear").astype(np.float32) / np.float32(
        255
    )
    found = pp.diagnose_pixels(photo, change(made.transpose(2, 0, 1)[None]))
    assert words in found.explanation, found
    assert "pillow-bilinear" in named(found)
    if found.layout == "NCHW":  # channels in the order in which they were found
        given = change(made.transpose(2, 0, 1)[None]).astype(np.float64)
        given = given if given.ndim == 4 else given[None]
        # of float16 half a unit in its last place, below 1
        allowed = 2.0**-11 if given.max() <= 1 else 1e-6 * np.abs(given).max()
        np.testing.assert_allclose(found.recipes[0].run(photo), given, rtol=0, atol=allowed)


def test_what_nobody_makes_is_unknown_and_what_is_no_picture_refused():
    photo = photograph()
    noise = np.random.default_rng(0).standard_normal((1, 3, 64, 64))
    found = pp.diagnose_pixels(photo, noise)
    assert (found.status, found.correct) == ("unknown", False)
    assert "no known way gives these images" in found.explanation
    for pixels, message in (
        (np.zeros((2, 3, 8, 8)), r"pixels of shape \(2, 3, 8, 8\): expected"),
        (np.full((3, 8, 8), np.nan), "NaN or infinite"),
        (np.zeros((1, 4, 8, 8)), "expected"),
    ):
        with pytest.raises(pp.PatchParityError, match=message):
            pp.diagnose_pixels(photo, pixels)
    with pytest.raises(pp.PatchParityError, match=r"expected \(H, W, 3\), uint8"):
        pp.diagnose_pixels(photo / 255, noise)
