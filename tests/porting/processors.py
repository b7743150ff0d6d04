"""The image processors of transformers, both kinds, beside our reading of the files that they
write: a line for each, with the largest difference."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from patchparity.porting.files.preprocessing import PROCESSORS, read_preprocessing

SETTINGS: list[dict[str, Any]] = [
    {},
    {"resample": 2},
    {
        "resample": 3,
        "size": {"shortest_edge": 48},
        "do_center_crop": True,
        "crop_size": {"height": 40, "width": 40},
    },
    {"size": {"height": 33, "width": 47}, "image_mean": [0.1, 0.2, 0.3]},
    {"do_normalize": False},
    {"do_rescale": False},
    {"size": {"shortest_edge": 64, "longest_edge": 80}, "resample": 1},
    {"left_out": True},
    {"resample": 0},
    {"size": 64},
    {"size": 64, "do_center_crop": True, "crop_size": {"height": 56, "width": 40}},
    {"do_normalize": None},
    {"do_resize": None},
    {"image_mean": 0.25, "image_std": [0.5, 0.25, 1.0]},
]
"""What is given to each processor that takes it."""


def processed(processor: Any, picture: Any, kind: str) -> np.ndarray:
    """What a processor makes, `(1, C, H, W)`; of patches the picture again."""
    from PIL import Image

    made = processor(images=Image.fromarray(picture), return_tensors="np")
    pixels = np.asarray(made["pixel_values"])
    if kind != "pixels":
        return pixels
    _, rows, columns = np.asarray(made["image_grid_thw"])[0]
    blocks = pixels.reshape(rows // 2, columns // 2, 2, 2, 3, 2, 14, 14)[:, :, :, :, :, 0]
    whole = blocks.transpose(4, 0, 2, 5, 1, 3, 6)
    return whole.reshape(1, 3, rows * 14, columns * 14)


def main(backend: str) -> None:
    """Print a line for each processor and setting."""
    if backend == "torchvision":
        from .torchvision_beside import load

        load()
    import PIL
    import transformers

    version = int(PIL.__version__.partition(".")[0])
    random = np.random.default_rng(0)
    for name, usual in PROCESSORS.items():
        kind = usual.kind
        end = "Pil" if backend == "pillow" else ""
        processor_class = getattr(transformers, f"{name}ImageProcessor{end}", None)
        if processor_class is None:
            continue
        for settings in SETTINGS:
            if kind == "crop-percent" and isinstance(settings.get("size"), dict):
                settings = {**settings, "size": {"shortest_edge": 64}}
            with tempfile.TemporaryDirectory() as folder:
                try:
                    given = {key: value for key, value in settings.items() if key != "left_out"}
                    processor = processor_class(**given)
                    processor.save_pretrained(folder)
                    pictures = [
                        random.integers(0, 256, (*random.integers(60, 200, 2), 3), np.uint8)
                        for _ in range(2)
                    ]
                    theirs = [processed(processor, picture, kind) for picture in pictures]
                except (
                    ValueError,
                    TypeError,
                    RuntimeError,
                ) as error:  # a setting that it does not take
                    print(f"{name} refuses {settings}: {str(error)[:60]}", file=sys.stderr)
                    continue
                file = Path(folder) / "preprocessor_config.json"
                if settings.get("left_out"):
                    # what the file does not say is what the class does by itself
                    table = json.loads(file.read_text())
                    kept = ("image_processor_type", "size" if kind != "pixels" else "")
                    file.write_text(json.dumps({key: table[key] for key in kept if key in table}))
                recipe = read_preprocessing(folder, backend, version)
            ours = [recipe.run(picture) for picture in pictures]
            apart = max(
                float(np.abs(one.astype(np.float64) - other).max())
                if one.shape == other.shape
                else np.inf
                for one, other in zip(ours, theirs, strict=True)
            )
            print(f"{name}|{settings}|{apart}")


if __name__ == "__main__":
    main(sys.argv[1])
