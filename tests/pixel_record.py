"""`python -m tests.pixel_record --count 120000`: docs/pixels.md, how often pictures resized here
have the bytes of the libraries' own. Random pictures, sizes and filters; minutes, outside of CI."""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from patchparity.reference.pixels import METHODS, resize_pixels

PAGE = Path(__file__).parent.parent / "docs" / "pixels.md"
LIBRARIES = ("pillow", "torchvision", "opencv")


def theirs(method: str, picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What the library itself makes."""
    library, _, name = method.partition("-")
    if library == "pillow":
        from PIL import Image

        filter_ = Image.Resampling[name.upper()]
        return np.asarray(Image.fromarray(picture).resize(size[::-1], filter_))
    if library == "opencv":
        import cv2

        way = getattr(cv2, f"INTER_{name.upper()}")
        return np.asarray(cv2.resize(picture, size[::-1], interpolation=way)).reshape(*size, 3)
    import torch

    mode = name.removesuffix("-antialias")
    options = {} if mode.startswith("nearest") else {"antialias": name.endswith("antialias")}
    given = torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous()
    made = torch.nn.functional.interpolate(given, size, mode=mode, **options)
    return np.asarray(made[0].permute(1, 2, 0))


def counted(count: int, seed: int = 0) -> dict[str, list[int]]:
    """Pictures, of how many some byte is another, and by how much at most; by method. Pillow has
    four fifths of them."""
    random = np.random.default_rng(seed)
    known = [
        name for name in METHODS if name.partition("-")[0] in LIBRARIES and not name.endswith("-12")
    ]
    of_pillow = [name for name in known if name.startswith("pillow-")]
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for number in range(count):
        method = str(random.choice(known if number % 5 == 0 else of_pillow))
        height, width, rows, columns = (int(side) for side in random.integers(2, 120, 4))
        if number % 3:
            picture = random.integers(0, 256, (height, width, 3), np.uint8)
        else:
            picture = (random.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)
        ours = resize_pixels(picture, (rows, columns), method)
        apart = int(np.abs(ours.astype(int) - theirs(method, picture, (rows, columns))).max())
        entry = found[method]
        entry[0] += 1
        entry[1] += apart > 0
        entry[2] = max(entry[2], apart)
    return found


def page(found: dict[str, list[int]]) -> str:
    """The whole page."""
    import cv2
    import PIL
    import torch

    total = sum(entry[0] for entry in found.values())
    lines = [
        "# Pictures, byte by byte",
        "",
        f"Made by `python -m tests.pixel_record`: {total} random pictures of 2 to 119 rows and "
        "columns, noise and black and white, resized to random sizes here "
        "(`patchparity.resize_pixels`) and by the library itself: "
        f"Pillow {PIL.__version__}, torch {torch.__version__}, OpenCV {cv2.__version__}.",
        "",
        "| method | pictures | with another byte | apart at most |",
        "|---|---|---|---|",
        *(
            f"| `{name}` | {entry[0]} | {entry[1]} | {entry[2]} |"
            for name, entry in sorted(found.items())
        ),
        "",
        "OpenCV sums `area`, `cubic` and `lanczos4` in float32, or in products of 11 bits whose "
        "sum it rounds otherwise on each kind of CPU; here they are exact sums, rounded. torch's "
        "`nearest-exact` takes one sample or its neighbor where a middle falls on a border, by "
        "which of its two ways to compute the sample it goes.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=120_000)
    PAGE.write_text(page(counted(parser.parse_args().count)), encoding="utf-8")
