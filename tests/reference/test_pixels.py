"""Pictures resized: to the last bit as Pillow and torch do on uint8, and within what their types
allow elsewhere."""

import numpy as np
import pytest

from patchparity.reference.errors import PatchParityError
from patchparity.reference.pixels import METHODS, resize_pixels, smart_resize
from patchparity.reference.recipes import RECIPES
from patchparity.reference.resample import resize_bound

RANDOM = np.random.default_rng(4)


def pictures(count, seed, least=1, most=80):
    """Noise, black and white, and stripes, of any sizes, with sizes to go to."""
    random = np.random.default_rng(seed)
    for number in range(count):
        height, width, *size = (int(side) for side in random.integers(least, most, 4))
        if number % 3 == 0:
            picture = random.integers(0, 256, (height, width, 3), np.uint8)
        elif number % 3 == 1:
            picture = (random.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)
        else:
            rows, columns = np.mgrid[:height, :width]
            stripes = [(rows * 7 + columns * 3) % 256, (rows + columns) % 256, (columns * 11) % 256]
            picture = np.stack(stripes, axis=-1).astype(np.uint8)
        yield picture, tuple(size)


@pytest.mark.parametrize("name", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_pillow_gives_the_same_bits(name):
    image = pytest.importorskip("PIL.Image")
    version = int(pytest.importorskip("PIL").__version__.partition(".")[0])
    method = f"pillow-{name}" + ("-12" if version < 13 and name != "nearest" else "")
    filter_ = image.Resampling[name.upper()]
    for picture, size in pictures(60, 1):
        theirs = np.asarray(image.fromarray(picture).resize(size[::-1], filter_))
        np.testing.assert_array_equal(resize_pixels(picture, size, method), theirs)
        gap = float(RANDOM.choice([1.0, 1.5, 2.0, 3.0]))
        theirs = np.asarray(image.fromarray(picture).resize(size[::-1], filter_, reducing_gap=gap))
        ours = resize_pixels(picture, size, method, reducing_gap=gap)
        np.testing.assert_array_equal(ours, theirs, f"{picture.shape} {size} {gap}")


def test_pillow_13_resizes_rows_first_where_they_become_fewer_by_more():
    tall = RANDOM.integers(0, 256, (200, 60, 3), np.uint8)
    new, old = (resize_pixels(tall, (50, 40), f"pillow-bicubic{end}") for end in ("", "-12"))
    # a sum below 0 or above 255 is cut off between the passes
    assert 0 < np.abs(new.astype(int) - old.astype(int)).max() <= 8
    wide = tall.transpose(1, 0, 2)
    np.testing.assert_array_equal(
        *(resize_pixels(wide, (40, 50), f"pillow-bicubic{end}") for end in ("", "-12"))
    )


@pytest.mark.parametrize(
    "name", ["nearest", "nearest-exact", "bilinear", "bilinear-antialias", "bicubic",
             "bicubic-antialias", "lanczos-antialias"],
)  # fmt: skip
def test_torch_resizes_uint8_to_the_same_bits(name):
    torch = pytest.importorskip("torch")
    if "avx2" not in torch.backends.cpu.get_cpu_capability().lower() and (
        "avx512" not in torch.backends.cpu.get_cpu_capability().lower()
    ):
        pytest.skip("without AVX2 torch computes in another way")
    mode = name.removesuffix("-antialias")
    options = {} if mode.startswith("nearest") else {"antialias": name.endswith("antialias")}
    for picture, size in pictures(60, 2, least=2):
        given = torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous()
        theirs = torch.nn.functional.interpolate(given, size, mode=mode, **options)
        ours = resize_pixels(picture, size, f"torchvision-{name}")
        np.testing.assert_array_equal(ours, theirs[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize(("name", "apart"), [("nearest", 0), ("linear", 0), ("area", 1),
                                             ("cubic", 1), ("lanczos4", 1)])  # fmt: skip
def test_opencv_gives_the_same_of_uint8_within_one(name, apart):
    cv2 = pytest.importorskip("cv2")
    method = getattr(cv2, f"INTER_{name.upper()}")
    for picture, size in pictures(60, 3):
        theirs = cv2.resize(picture, size[::-1], interpolation=method).reshape(*size, 3)
        ours = resize_pixels(picture, size, f"opencv-{name}")
        assert np.abs(ours.astype(int) - theirs).max() <= apart, (picture.shape, size)


@pytest.mark.parametrize("method", sorted(name for name in METHODS if name.startswith("tf-")))
def test_tensorflow_gives_the_same_within_its_bound(method):
    tf = pytest.importorskip("tensorflow")
    name = method.removeprefix("tf-")
    for picture, size in pictures(12, 5):
        theirs = tf.image.resize(
            picture, size, name.removesuffix("-antialias"), antialias=name.endswith("antialias")
        ).numpy()
        ours = resize_pixels(picture, size, method)
        assert ours.dtype == theirs.dtype
        bound = resize_bound(
            RECIPES[method].rules((0, 0), (0, 0)), picture.shape[:2], size, 255, 2.0**-24
        )
        assert np.abs(ours.astype(np.float64) - theirs).max() <= bound


@pytest.mark.parametrize("method", sorted(name for name in METHODS if name.startswith("jax-")))
def test_jax_gives_the_same_within_its_bound(method):
    jax = pytest.importorskip("jax")
    name = method.removeprefix("jax-")
    for picture, size in pictures(6, 6):
        given = picture if name == "nearest" else picture.astype(np.float32)
        theirs = jax.image.resize(
            given, (*size, 3), name.removesuffix("-antialias"), antialias=name.endswith("antialias")
        )
        bound = resize_bound(
            RECIPES[method].rules((0, 0), (0, 0)), picture.shape[:2], size, 255, 2.0**-24
        )
        ours = resize_pixels(picture, size, method)
        assert np.abs(ours.astype(np.float64) - np.asarray(theirs, np.float64)).max() <= bound


@pytest.mark.parametrize(
    "method",
    [
        "torchvision-bicubic-antialias",
        "opencv-linear",
        "pillow-lanczos",
        "opencv-area",
        "opencv-cubic",
        "pillow-bilinear-12",
    ],
)
def test_floats_are_resized_by_the_rule_and_not_cut_off(method):
    picture = RANDOM.standard_normal((19, 31, 2)).astype(np.float32) * 100
    library, _, name = method.partition("-")
    recipe = {"torchvision": "torch"}.get(library, library) + f"-{name.removesuffix('-12')}"
    from patchparity.reference.resize import resize_grid

    expected = resize_grid(picture, (12, 8), recipe)
    ours = resize_pixels(picture, (12, 8), method)
    assert ours.dtype == np.float32
    # of values up to 400: half a unit in the last place of float32, and of OpenCV's own float32
    # coordinates nothing, for ours are float64
    np.testing.assert_allclose(ours, expected, atol=400 * 2.0**-24 * 2)


def test_pictures_that_cannot_be_resized_are_refused():
    picture = np.zeros((4, 5, 3), np.uint8)
    for arguments, message in (
        ((picture[0], (2, 2), "pillow-box"), r"picture of shape \(5, 3\): expected \(H, W, C\)"),
        ((picture[:0], (2, 2), "pillow-box"), "picture of shape"),
        ((picture.astype(np.uint16), (2, 2), "pillow-box"), "dtype uint16: expected uint8 or"),
        ((picture, (0, 2), "pillow-box"), r"size=\(0, 2\): expected a positive integer"),
        ((picture, (2, 2), "pillow-bicubik"), "did you mean pillow-bicubic"),
        (([1], (2, 2), "pillow-box"), "picture: list, expected a NumPy array"),
    ):
        with pytest.raises(PatchParityError, match=message):
            resize_pixels(*arguments)
    for method, gap in (("tf-area", 2.0), ("pillow-box", 0.5)):
        with pytest.raises(PatchParityError, match="a reducing gap is Pillow's, and at least 1"):
            resize_pixels(picture, (2, 2), method, reducing_gap=gap)


def test_qwens_sizes_are_its_own():
    theirs = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    for _ in range(300):
        height, width = (int(side) for side in RANDOM.integers(20, 3000, 2))
        factor = int(RANDOM.choice([28, 32]))
        low, high = 56 * 56, int(RANDOM.choice([200 * 784, 1280 * 784]))
        expected = theirs.smart_resize(height, width, factor, low, high)
        assert smart_resize((height, width), factor, low, high) == tuple(expected)
    with pytest.raises(PatchParityError, match="aspect ratio of at most 200"):
        smart_resize((10, 3000), 28, 1, 10**6)
