"""The way from a picture to the images that a model takes: resize, crop, pad, rescale, normalize,
layout, each step as libraries make it, in the type in which they make it."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import PatchParityError
from .pixels import resize_pixels, smart_resize

Size = tuple[int, int]


class Step(Protocol):
    """One step, on `(H, W, C)`."""

    def apply(self, picture: NDArray[Any]) -> NDArray[Any]:
        """What comes out, `(H', W', C)`."""

    def words(self) -> str:
        """What it does."""


@dataclass(frozen=True)
class Resize:
    """A change of size.

    Args:
        method: a name of `METHODS`.
        size: rows and columns; of `shortest` and `longest` the edge, twice; of `pixels` the least
            and the most.
        to: what `size` is of: `exact`; `shortest` edge; `longest` edge; `inside`, the largest of
            the same shape that fits; `ratio`, the shortest edge, each axis by the same factor,
            rounded (timm); `pixels`, as Qwen2-VL does.
        most: the longest edge that a `shortest` one may make; 0 for any.
        factor: of which `pixels` makes multiples.
    """

    method: str
    size: Size
    to: Literal["exact", "shortest", "longest", "inside", "ratio", "pixels"] = "exact"
    most: int = 0
    factor: int = 28

    def target(self, height: int, width: int) -> Size:
        """Rows and columns of a picture of this size, resized."""
        if self.to == "exact":
            return self.size
        if self.to == "pixels":
            return smart_resize((height, width), self.factor, *self.size)
        edge = self.size[0]
        if self.to == "inside":
            by = min(self.size[0] / height, self.size[1] / width)
            return int(height * by), int(width * by)
        if self.to == "ratio":
            ratios = height / self.size[0], width / self.size[1]
            by = min(ratios)
            return round(height / by), round(width / by)
        short, long = sorted((height, width))
        if self.to == "longest":
            other = int(edge * short / long)
            return (edge, other) if height >= width else (other, edge)
        new_short, new_long = edge, int(edge * long / short)
        if self.most and long / short * edge > self.most:
            # the shortest edge as it is where the longest one is the limit
            raw = self.most * short / long
            new_short = round(raw)
            new_long = int(raw * long / short)
        return (new_long, new_short) if width <= height else (new_short, new_long)

    def apply(self, picture: NDArray[Any]) -> NDArray[Any]:
        """What comes out, `(H', W', C)`."""
        size = self.target(*picture.shape[:2])
        if min(size) < 1:
            raise PatchParityError(
                f"a picture of {picture.shape[0]}×{picture.shape[1]} would become {size[0]}×"
                f"{size[1]}"
            )
        return resize_pixels(picture, size, self.method)

    def words(self) -> str:
        """What it does."""
        size = "×".join(map(str, self.size))
        how = {
            "exact": f"to {size}",
            "shortest": f"to a shortest edge of {self.size[0]}",
            "ratio": f"to a shortest edge of {self.size[0]}, rounded",
            "longest": f"to a longest edge of {self.size[0]}",
            "inside": f"to fit {size}",
            "pixels": f"to {self.size[0]} to {self.size[1]} pixels in multiples of {self.factor}",
        }
        return f"resized {how[self.to]} by {self.method}"


@dataclass(frozen=True)
class Crop:
    """The middle of a picture; zeros, or `fill`, around one that is smaller.

    Args:
        size: rows and columns.
        rounding: where half a pixel is left: `down`; `even`, to the even number, as torchvision
            rounds.
        padding: the same before a smaller picture: `down`, or `up`, as transformers' NumPy does.
        fill: of each channel, around a smaller picture.
    """

    size: Size
    rounding: Literal["down", "even"] = "down"
    padding: Literal["down", "up"] = "down"
    fill: tuple[int, ...] = ()

    def apply(self, picture: NDArray[Any]) -> NDArray[Any]:
        """What comes out, `(*size, C)`."""
        missing = [max(new - old, 0) for old, new in zip(picture.shape, self.size, strict=False)]
        if any(missing):
            before = [(more + (self.padding == "up")) // 2 for more in missing]
            rows, columns = (old + more for old, more in zip(picture.shape, missing, strict=False))
            whole = np.zeros((rows, columns, picture.shape[2]), picture.dtype)
            whole += np.asarray(self.fill or 0).astype(picture.dtype)
            top, left = before
            whole[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
            picture = whole
        top, left = (
            self._start(old - new) for old, new in zip(picture.shape, self.size, strict=False)
        )
        return picture[top : top + self.size[0], left : left + self.size[1]]

    def _start(self, over: int) -> int:
        return over // 2 if self.rounding == "down" else round(over / 2)

    def words(self) -> str:
        """What it does."""
        return f"cropped to the middle {'×'.join(map(str, self.size))}"


@dataclass(frozen=True)
class AspectCrop:
    """The largest middle part that has the shape of a size, as Keras cuts before it resizes.

    Args:
        size: rows and columns.
    """

    size: Size

    def apply(self, picture: NDArray[Any]) -> NDArray[Any]:
        """What comes out."""
        height, width = picture.shape[:2]
        rows, columns = (np.float32(side) for side in self.size)
        tall = max(min(height, int(np.float32(width * self.size[0]) / columns)), 1)
        wide = max(min(width, int(np.float32(height * self.size[1]) / rows)), 1)
        top, left = int((height - tall) / 2), int((width - wide) / 2)
        return picture[top : top + tall, left : left + wide]

    def words(self) -> str:
        """What it does."""
        return f"cropped to the shape of {'×'.join(map(str, self.size))}"


@dataclass(frozen=True)
class Rescale:
    """Multiplied by a factor, then an offset is added.

    Args:
        factor, offset: one for all channels, or one for each.
        dtype: in which it is computed; the result is float32.
    """

    factor: tuple[float, ...]
    offset: tuple[float, ...] = (0.0,)
    dtype: Literal["float32", "float64"] = "float32"

    def apply(self, picture: NDArray[Any]) -> NDArray[Any]:
        """What comes out, float32."""
        scaled = picture.astype(self.dtype) * np.array(self.factor, self.dtype)
        if any(self.offset):
            scaled = scaled + np.array(self.offset, self.dtype)
        return np.asarray(scaled.astype(np.float32))

    def words(self) -> str:
        """What it does."""
        by = ", ".join(f"{factor:.6g}" for factor in dict.fromkeys(self.factor))
        more = ", ".join(f"{offset:.6g}" for offset in dict.fromkeys(self.offset))
        return f"times {by}" + (f" plus {more}" if any(self.offset) else "")


@dataclass(frozen=True)
class Divide:
    """Divided by a number in float32, as torchvision's `ToTensor` divides by 255.

    Args:
        by: the number.
    """

    by: float = 255.0

    def apply(self, picture: NDArray[Any]) -> NDArray[Any]:
        """What comes out, float32."""
        return np.asarray(picture.astype(np.float32) / np.float32(self.by))

    def words(self) -> str:
        """What it does."""
        return f"divided by {self.by:g}"


@dataclass(frozen=True)
class Normalize:
    """`(x − mean) / std` in float32, a number of each for each channel.

    Args:
        mean, std: of a picture from 0 to 1.
        factor: of a rescaling that is put into both, as transformers' torchvision processors do:
            `(x − mean/factor) / (std/factor)`; 0 for none.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    factor: float = 0.0

    def apply(self, picture: NDArray[Any]) -> NDArray[Any]:
        """What comes out, float32."""
        mean, std = (np.array(values, np.float32) for values in (self.mean, self.std))
        if self.factor:
            by = np.float32(1.0 / self.factor)
            mean, std = mean * by, std * by
        return np.asarray((picture.astype(np.float32) - mean) / std)

    def words(self) -> str:
        """What it does."""
        mean, std = (" ".join(f"{value:.4g}" for value in each) for each in (self.mean, self.std))
        first = f"times {self.factor:.6g}, " if self.factor else ""
        return f"{first}normalized by mean {mean} and std {std}"


@dataclass(frozen=True)
class Round:
    """Rounded to bytes, as Keras does to pictures of bytes that it has resized in floats."""

    def apply(self, picture: NDArray[Any]) -> NDArray[Any]:
        """What comes out, uint8."""
        return np.asarray(np.rint(picture).clip(0, 255).astype(np.uint8))

    def words(self) -> str:
        """What it does."""
        return "rounded to bytes"


@dataclass(frozen=True)
class Reverse:
    """Channels in reverse: BGR."""

    def apply(self, picture: NDArray[Any]) -> NDArray[Any]:
        """What comes out."""
        return np.ascontiguousarray(picture[..., ::-1])

    def words(self) -> str:
        """What it does."""
        return "channels reversed (BGR)"


@dataclass(frozen=True)
class PixelRecipe:
    """What an image processor does to a picture.

    Args:
        name: whose it is.
        steps: in order.
    """

    name: str
    steps: tuple[Step, ...]

    def run(self, picture: NDArray[Any]) -> NDArray[Any]:
        """The images that a model takes.

        Args:
            picture: `(H, W, C)`, uint8.

        Returns:
            `(1, C, H', W')`, float32.
        """
        for step in self.steps:
            picture = step.apply(picture)
        return np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32)

    def words(self) -> str:
        """What it does, in order."""
        return ", then ".join(step.words() for step in self.steps) or "nothing"
