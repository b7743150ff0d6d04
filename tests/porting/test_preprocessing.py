"""Pictures made into images as the files of image processors say, against the processors."""

import contextlib
import io
import json

import numpy as np
import pytest

import patchparity as pp
from patchparity.porting.files.images import read_picture
from patchparity.porting.files.preprocessing import PROCESSORS, read_preprocessing

from ..census.stand_in import import_library
from . import processors
from .torchvision_beside import run_beside_torchvision

RANDOM = np.random.default_rng(12)


def differences(lines):
    """Largest difference by processor and setting."""
    found = dict(line.rsplit("|", 1) for line in lines.splitlines() if "|" in line)
    return {name: float(apart) for name, apart in found.items()}


def test_transformers_processors_on_pillow_give_the_same_bits():
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        processors.main("pillow")
    found = differences(printed.getvalue())
    assert len({name.partition("|")[0] for name in found}) >= len(PROCESSORS) - 2
    assert {name: apart for name, apart in found.items() if apart} == {}


def test_transformers_processors_on_torchvision_give_the_same_bits():
    pytest.importorskip("transformers")
    found = differences(run_beside_torchvision("tests.porting.processors", "torchvision"))
    assert len({name.partition("|")[0] for name in found}) == len(PROCESSORS)
    # DINOv3's rescales first, and resizes floats: their last bits are torch's own
    floats = {name: apart for name, apart in found.items() if name.startswith("DINOv3ViT")}
    assert max(floats.values()) < 1e-4
    others = {name: apart for name, apart in found.items() if name not in floats}
    assert {name: apart for name, apart in others.items() if apart} == {}


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize(("size", "percent"), [((224, 224), 0.9), ((192, 192), 1.0)])
def test_timms_transform_is_read_from_its_config(mode, size, percent, tmp_path):
    image = pytest.importorskip("PIL.Image")
    config = {
        "architecture": "vit_tiny_patch16_224",
        "pretrained_cfg": {
            "input_size": [3, *size],
            "interpolation": "bicubic",
            "crop_pct": percent,
            "crop_mode": mode,
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    picture = RANDOM.integers(0, 256, (250, 340, 3), np.uint8)
    # as timm composes torchvision's: Resize, CenterCrop, ToTensor, Normalize
    edge = int(size[0] / percent)
    target = (edge, edge) if mode == "squash" else (int(edge * 340 / 250), edge)
    resized = np.asarray(image.fromarray(picture).resize(target, image.Resampling.BICUBIC))
    top, left = (round((side - size[0]) / 2) for side in resized.shape[:2])
    cropped = resized[top : top + size[0], left : left + size[1]].astype(np.float32) / np.float32(
        255
    )
    mean, std = (np.array(config["pretrained_cfg"][name], np.float32) for name in ("mean", "std"))
    expected = ((cropped - mean) / std).transpose(2, 0, 1)[None]
    np.testing.assert_array_equal(pp.preprocess(picture, tmp_path), expected)


def test_timms_models_say_what_is_read(tmp_path):
    try:
        timm = import_library("timm")
    except ModuleNotFoundError:
        pytest.skip("timm is not installed")
    for name in ("vit_base_patch16_224", "deit3_small_patch16_384", "eva02_tiny_patch14_224"):
        table = timm.models.get_pretrained_cfg(name).to_dict()
        (tmp_path / "config.json").write_text(
            json.dumps({"architecture": name, "pretrained_cfg": table})
        )
        height, width = table["input_size"][1:]
        recipe = read_preprocessing(tmp_path)
        made = recipe.run(RANDOM.integers(0, 256, (300, 420, 3), np.uint8))
        assert made.shape == (1, 3, height, width)
        assert recipe.steps[0].method.startswith(f"pillow-{table['interpolation']}")


@pytest.mark.parametrize("crops", [True, False])
def test_keras_hubs_converter_gives_the_same(crops, tmp_path):
    keras_hub = pytest.importorskip("keras_hub")
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip("its steps are read as TensorFlow makes them")
    converter = keras_hub.layers.ViTImageConverter(
        image_size=(56, 72),
        scale=[1 / 255 / 0.5] * 3,
        offset=[-1.0, -0.5, 0.25],
        crop_to_aspect_ratio=crops,
        antialias=not crops,
    )
    table = json.loads(json.dumps(keras.saving.serialize_keras_object(converter)))
    (tmp_path / "image_converter.json").write_text(json.dumps(table))
    picture = RANDOM.integers(0, 256, (130, 97, 3), np.uint8)
    theirs = np.asarray(converter(picture[None])).transpose(0, 3, 1, 2)
    ours = read_preprocessing(tmp_path / "image_converter.json").run(picture)
    # resized in float32 and rounded to bytes: a value at a half falls to either side
    one = 1 / 255 / 0.5
    assert np.abs(ours - theirs).max() < one * 1.001
    assert (np.abs(ours - theirs) > 2e-6).mean() < 1e-3


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"image_processor_type": "PixtralImageProcessor"}, "steps of its own that are not known"),
        ({"size": 224}, "names no image_processor_type"),
        ({"image_processor_type": "ViTImageProcessor", "size": "large"}, "expected height and"),
        ({"image_processor_type": "ViTImageProcessor", "resample": 9}, "a filter 9 is unknown"),
        (
            {"image_processor_type": "ViTImageProcessor", "resample": 4},
            "no filter box: the backend",
        ),
        ({"pretrained_cfg": {"crop_mode": "border"}}, "crop_mode 'border'"),
        ({"pretrained_cfg": {"mean": [1], "crop_mode": "center"}}, "mean = .1.: expected one num"),
        ({"pretrained_cfg": {"input_size": [1, 224, 224]}}, "expected 3, height and width"),
        ({"image_processor_type": "CLIPImageProcessor", "image_mean": [0.5, 0.5]}, "or three"),
        ({"image_processor_type": "CLIPImageProcessor", "image_std": 0}, "one number above 0"),
        ({"image_processor_type": "CLIPImageProcessor", "rescale_factor": 0}, "above 0"),
        ({"image_processor_type": "CLIPImageProcessor", "rescale_factor": None}, "None: expected"),
        ({"image_processor_type": "CLIPImageProcessor", "resample": True}, "a filter True"),
        ({"image_processor_type": "CLIPImageProcessor", "size": [3.5, 9]}, "3.5"),
        ({"image_processor_type": "CLIPImageProcessor", "do_resize": "no"}, "true or false"),
        ({"image_processor_type": "CLIPImageProcessor", "crop_size": None}, "crop_size = None"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"longest_edge": 9}}, "expected h"),
        ({"class_name": "ViTImageConverter", "config": 5}, "its config is no JSON object"),
        ([1], "is no JSON object"),
    ],
)
def test_files_that_tell_no_steps_are_refused(table, message, tmp_path):
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(table))
    with pytest.raises(pp.PatchParityError, match=message):
        read_preprocessing(file)


def test_a_folder_without_such_a_file_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(pp.PatchParityError, match="nothing tells how its images are made"):
        read_preprocessing(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(pp.PatchParityError, match="cannot be read"):
        read_preprocessing(tmp_path)
    with pytest.raises(pp.PatchParityError, match="backend 'opencv' is unknown"):
        read_preprocessing(tmp_path, "opencv")


@pytest.mark.parametrize(
    ("mode", "shape", "told"),
    [
        ("RGB", (3,), ""),
        ("L", (), "gray, repeated"),
        ("RGBA", (4,), "with alpha, which is left out"),
        ("P", (), "of a palette"),
        ("CMYK", (4,), "CMYK, turned into RGB"),
        ("1", (), "of one bit"),
    ],
)
def test_pictures_of_other_modes_are_told(mode, shape, told, tmp_path):
    image = pytest.importorskip("PIL.Image")
    values = RANDOM.integers(0, 256, (20, 30, *shape), np.uint8)
    made = image.fromarray(values, mode if mode in ("CMYK",) else None)
    made = made.convert(mode)
    path = tmp_path / f"picture.{'tiff' if mode == 'CMYK' else 'png'}"
    made.save(path)
    picture = read_picture(path)
    assert picture.pixels.shape == (20, 30, 3)
    assert picture.pixels.dtype == np.uint8
    assert (told in " ".join(picture.notes)) if told else picture.notes == ()
    np.testing.assert_array_equal(picture.pixels, np.asarray(made.convert("RGB")))


def test_colors_of_16_bits_are_refused(tmp_path):
    cv2 = pytest.importorskip("cv2")
    pytest.importorskip("PIL")
    for name in ("a.png", "b.tiff"):
        path = tmp_path / name
        cv2.imwrite(str(path), RANDOM.integers(0, 65536, (20, 30, 3)).astype(np.uint16))
        with pytest.raises(pp.PatchParityError, match="16 bits a channel"):
            read_picture(path)


def test_pictures_of_16_bits_are_refused_and_turned_ones_are_turned_on_request(tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.fromarray(RANDOM.integers(0, 65536, (20, 30)).astype(np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(pp.PatchParityError, match="more than 8 bits a channel"):
        read_picture(tmp_path / "a.png")
    turned = image.fromarray(RANDOM.integers(0, 256, (20, 30, 3), np.uint8))
    data = turned.getexif()
    data[0x0112] = 6
    turned.save(tmp_path / "b.png", exif=data)
    lying, upright = (read_picture(tmp_path / "b.png", rotate) for rotate in (False, True))
    assert lying.pixels.shape == (20, 30, 3)
    assert "read as it lies (--rotate)" in lying.notes[0]
    assert upright.pixels.shape == (30, 20, 3)
    assert upright.notes[0].endswith("by 90 degrees: it was")
    np.testing.assert_array_equal(upright.pixels, np.rot90(lying.pixels, -1))
