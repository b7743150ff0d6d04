"""The sizes of a patch embedding: image, patch, stride, padding, and what follows from them (grid,
num_patches, work)."""

import dataclasses
import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Self, SupportsIndex, get_args

from .errors import PatchParityError, require_array, require_choice

Remainder = Literal["error", "floor", "pad-end", "same"]
"""What happens when the windows do not cover the image exactly.

`error` refuses; `floor` leaves the last rows and columns out (torch, `VALID`); `pad-end` adds zeros
at the bottom and right (transformers' Swin, timm's `dynamic_img_pad`); `same` is TensorFlow's
`SAME`: ceil(size / stride) windows, the zeros split between both ends with the odd one at the end
(https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2).
"""


def _sizes(value: int | Iterable[int], axes: int, name: str, minimum: int) -> tuple[int, ...]:
    """One integer, or one for each spatial axis, as a tuple; anything else is an error that names
    it."""
    try:
        sizes = (
            (operator.index(value),) * axes
            if isinstance(value, SupportsIndex)
            else tuple(operator.index(n) for n in value)
        )
    except TypeError:
        sizes = ()
    if len(sizes) != axes or not all(size >= minimum for size in sizes):
        raise PatchParityError(
            f"{name}={value!r}: expected an integer >= {minimum}, or {axes} of them, one for each "
            "image axis"
        )
    return sizes


def _paddings(value: Any, axes: int) -> tuple[tuple[int, int], ...]:
    """One integer, one for each axis, or (before, after) for each axis, as (before, after)
    pairs."""
    try:
        per_axis = (value,) * axes if isinstance(value, SupportsIndex) else tuple(value)
        pairs = tuple(
            (entry, entry) if isinstance(entry, SupportsIndex) else tuple(entry)
            for entry in per_axis
        )
        pairs = tuple(tuple(operator.index(n) for n in pair) for pair in pairs)
    except TypeError:
        pairs = ()
    if len(pairs) != axes or not all(
        len(pair) == 2 and all(n >= 0 for n in pair) for pair in pairs
    ):
        raise PatchParityError(
            f"padding={value!r}: expected an integer >= 0, or an integer or (before, after) for "
            f"each of {axes} axes"
        )
    return pairs


@dataclass(frozen=True)
class PatchEmbedSpec:
    """The sizes of one patch embedding, images `(B, C, H, W)` to tokens `(B, N, D)`.

    Args:
        image_size: `(H, W)`, or `(T, H, W)` for video; one integer means a square image.
        patch_size: `(P_h, P_w)`, or `(T, P_h, P_w)`; one integer means the same along each axis.
            This is the kernel size.
        in_channels: C.
        embed_dim: D.
        stride: distance between patches, along each axis; None means `patch_size` (patches do not
            overlap).
        padding: zeros around the image: an integer, one for each axis, or `(before, after)` for
            each axis.
        remainder: what to do where the windows do not cover the padded image exactly; see
            `Remainder`.

    Raises:
        PatchParityError: sizes that are not positive integers, a patch larger than the padded
            image, a size that does not divide under `remainder="error"`, explicit padding together
            with `remainder="same"`.

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021), section 3.1, equation 1.

    Examples:
        >>> import patchparity
        >>> spec = patchparity.PatchEmbedSpec(224, 16, in_channels=3, embed_dim=768)
        >>> spec.num_patches, spec.patch_values
        (196, 768)
    """

    image_size: tuple[int, ...]
    patch_size: tuple[int, ...]
    in_channels: int = 3
    embed_dim: int = 768
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    remainder: Remainder = "error"

    def __init__(
        self,
        image_size: int | Iterable[int],
        patch_size: int | Iterable[int],
        in_channels: int = 3,
        embed_dim: int = 768,
        stride: int | Iterable[int] | None = None,
        padding: int | Iterable[Any] = 0,
        remainder: Remainder = "error",
    ) -> None:
        set_field = object.__setattr__
        axes = (
            2
            if isinstance(image_size, SupportsIndex)
            else len(tuple(image_size))
            if isinstance(image_size, Iterable)
            else 0
        )
        if axes not in (2, 3):
            raise PatchParityError(
                f"image_size={image_size!r}: expected (H, W), or (T, H, W) for video"
            )
        set_field(self, "image_size", _sizes(image_size, axes, "image_size", 1))
        set_field(self, "patch_size", _sizes(patch_size, axes, "patch_size", 1))
        set_field(self, "in_channels", _sizes(in_channels, 1, "in_channels", 1)[0])
        set_field(self, "embed_dim", _sizes(embed_dim, 1, "embed_dim", 1)[0])
        set_field(
            self, "stride", self.patch_size if stride is None else _sizes(stride, axes, "stride", 1)
        )
        set_field(self, "padding", _paddings(padding, axes))
        set_field(self, "remainder", remainder)
        require_choice("remainder", remainder, get_args(Remainder))
        if remainder == "same" and any(any(pair) for pair in self.padding):
            raise PatchParityError(
                f"padding={self.padding}: remainder='same' computes the padding itself, so it must "
                "be 0"
            )
        self._check_fit()

    def _check_fit(self) -> None:
        for axis, (size, patch, step) in enumerate(
            zip(self.image_size, self.patch_size, self.stride, strict=True)
        ):
            padded = size + sum(self.padding[axis])
            if self.remainder in ("error", "floor") and padded < patch:
                raise PatchParityError(
                    f"image_size={self.image_size}: axis {axis} is {padded} with padding, smaller "
                    f"than the patch of {patch}"
                )
            if self.remainder == "error" and (padded - patch) % step:
                lower = patch + (padded - patch) // step * step - sum(self.padding[axis])
                raise PatchParityError(
                    f"image_size={self.image_size} does not divide into patches of "
                    f"{self.patch_size} at stride {self.stride}: "
                    f"axis {axis} is {size}, expected for instance {lower} or {lower + step}, "
                    "or remainder='floor', 'pad-end' or 'same'"
                )

    @property
    def spatial_axes(self) -> int:
        """Number of image axes that are cut into patches: 2 for images, 3 for video."""
        return len(self.image_size)

    @property
    def overlapping(self) -> bool:
        """Whether neighboring patches share pixels (stride smaller than the patch along some
        axis)."""
        return any(step < patch for step, patch in zip(self.stride, self.patch_size, strict=True))

    @property
    def tiles(self) -> bool:
        """Whether the patches tile the padded image: stride equal to the patch, nothing shared,
        nothing left out."""
        covered = tuple(n * p for n, p in zip(self.grid, self.patch_size, strict=True))
        return self.stride == self.patch_size and covered == self.padded_size

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of patches along each axis, `(H/P, W/P)` where they divide."""
        counts = []
        for size, patch, step, pad in zip(
            self.image_size, self.patch_size, self.stride, self.padding, strict=True
        ):
            padded = size + sum(pad)
            if self.remainder == "same":
                counts.append(math.ceil(size / step))
            elif self.remainder == "pad-end":
                # Windows until the end is covered, but none that would begin behind it (stride >
                # patch) and see zeros alone.
                counts.append(
                    min(max(0, math.ceil((padded - patch) / step)) + 1, math.ceil(padded / step))
                )
            else:
                counts.append((padded - patch) // step + 1)
        return tuple(counts)

    @property
    def num_patches(self) -> int:
        """N, the number of tokens: (H/P)·(W/P) where patches do not overlap. Position embeddings
        need it."""
        return math.prod(self.grid)

    @property
    def patch_values(self) -> int:
        """K = P²·C, the length of a flattened patch and of the sum behind each output."""
        return math.prod(self.patch_size) * self.in_channels

    @property
    def effective_padding(self) -> tuple[tuple[int, int], ...]:
        """`(before, after)` zeros along each axis once `remainder` is resolved: what an
        explicit-padding framework must add."""
        pairs = []
        for size, patch, step, pad, count in zip(
            self.image_size, self.patch_size, self.stride, self.padding, self.grid, strict=True
        ):
            spanned = (count - 1) * step + patch
            if self.remainder == "same":
                total = max(spanned - size, 0)
                pairs.append((total // 2, total - total // 2))
            elif self.remainder == "pad-end":
                pairs.append((pad[0], pad[1] + max(spanned - size - sum(pad), 0)))
            else:
                pairs.append(pad)
        return tuple(pairs)

    @property
    def padded_size(self) -> tuple[int, ...]:
        """Image size along each axis after `effective_padding`."""
        return tuple(
            size + sum(pad)
            for size, pad in zip(self.image_size, self.effective_padding, strict=True)
        )

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Shape of the canonical kernel, `(D, P_h, P_w, C)`."""
        return (self.embed_dim, *self.patch_size, self.in_channels)

    def images_shape(self, batch: int) -> tuple[int, ...]:
        """Shape of a batch of images, `(B, C, H, W)`."""
        return (batch, self.in_channels, *self.image_size)

    def tokens_shape(self, batch: int) -> tuple[int, ...]:
        """Shape of the tokens, `(B, N, D)`."""
        return (batch, self.num_patches, self.embed_dim)

    def flops(self, batch: int) -> int:
        """Floating-point operations of the projection, 2·B·N·K·D, without the bias (as torch's
        FlopCounterMode counts)."""
        return 2 * batch * self.num_patches * self.patch_values * self.embed_dim

    def minimum_bytes(self, batch: int, itemsize: int) -> int:
        """Bytes that any formulation must move at `itemsize` bytes a value: read image, kernel and
        bias once, write tokens once."""
        values = (
            self.pixels_seen(batch)
            + math.prod(self.kernel_shape)
            + self.embed_dim
            + math.prod(self.tokens_shape(batch))
        )
        return itemsize * values

    def pixels_seen(self, batch: int) -> int:
        """Values of the images that some window sees."""
        return batch * self.in_channels * math.prod(self._seen_extents())

    def _seen_extents(self) -> list[int]:
        """Pixels along each axis that some window sees: fewer than there are, where the rest is
        left out or between strides."""
        extents = []
        for size, patch, step, (before, _), count in zip(
            self.image_size,
            self.patch_size,
            self.stride,
            self.effective_padding,
            self.grid,
            strict=True,
        ):
            seen = {
                start * step + offset - before for start in range(count) for offset in range(patch)
            }
            extents.append(sum(0 <= place < size for place in seen))
        return extents

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed; `stride` follows a changed `patch_size` unless it
        is given."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if "patch_size" in changes and self.stride == self.patch_size:
            fields["stride"] = None
        return type(self)(**{**fields, **changes})

    def check_images(self, images: Any) -> None:
        """Raise PatchParityError unless `images` is an array of shape `(B, C, H, W)` with this
        spec's C, H and W."""
        require_array("images", images)
        expected = (self.in_channels, *self.image_size)
        if images.ndim != len(expected) + 1:
            raise PatchParityError(
                f"images of shape {images.shape}: expected {len(expected) + 1} axes, (B, "
                f"{', '.join(map(str, expected))})"
            )
        if images.shape[1] != self.in_channels:
            hint = (
                " (channels last? move them to axis 1)"
                if images.shape[-1] == self.in_channels
                else ""
            )
            raise PatchParityError(
                f"images of shape {images.shape} have {images.shape[1]} channels, expected "
                f"{self.in_channels}, as (B, {', '.join(map(str, expected))}){hint}"
            )
        if images.shape[2:] != self.image_size:
            raise PatchParityError(
                f"images of shape {images.shape}: expected (B, {', '.join(map(str, expected))})"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain lists, numbers and strings, ready for JSON; `from_dict` reads
        them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Build a spec from what `to_dict` wrote (lists and tuples alike)."""
        try:
            return cls(**fields)
        except TypeError as error:
            raise PatchParityError(f"not a spec: {fields!r} ({error})") from None
