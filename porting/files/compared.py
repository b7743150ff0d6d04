"""What was written, read back: held to the last bit against what it was copied or made from, and
looked through for NaN and infinite values while it is at hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .checkpoint import dtype_of
from .lazy import Feed, Place

COMPARED_BYTES = 2**18
"""Bytes of each of two files that are compared at a time: both lie in a processor's second cache,
of 512 KB or more."""

EXPONENTS = {"float16": 0x7C00, "bfloat16": 0x7F80}
"""Bits of the exponent, all of which are ones in NaN and infinite values (IEEE 754-2019, 3.4):
NumPy looks at values of ml_dtypes one by one, and at whole numbers eight or more at a time."""

LOOKED_AT = 2**20
"""Values that are looked at in one go: some MB of memory."""


def is_finite(array: NDArray[Any]) -> bool:
    """Whether no value is NaN or infinite.

    Args:
        array: of any shape.

    Examples:
        >>> import numpy as np
        >>> is_finite(np.float16([1, 65504])), is_finite(np.float16([1, -np.inf]))
        (True, False)
    """
    if not array.flags.c_contiguous:
        return _all_finite(array)
    values = array.reshape(-1)
    return all(
        _all_finite(values[first : first + LOOKED_AT]) for first in range(0, values.size, LOOKED_AT)
    )


def _all_finite(array: NDArray[Any]) -> bool:
    exponent = EXPONENTS.get(array.dtype.name)
    if exponent is None or not array.dtype.isnative:
        return bool(np.isfinite(array).all())
    without_sign = np.left_shift(array.view(np.uint16), 1)
    return bool(without_sign.max(initial=0) < exponent << 1)


def same_as_stored(draft: Path, at: int, name: str, feed: Feed) -> bool:
    """Whether the bytes of a file from a place on are those of the files that a tensor is copied
    from.

    Args:
        draft: the file.
        at: the byte where the tensor begins.
        name: of the tensor.
        feed: what it is copied from.

    Raises:
        PatchParityError: NaN or infinite values, where `feed` refuses them; a file that ends
            before.
    """
    dtype = dtype_of(feed.tensors[name].dtype) if feed.finite else None
    for place in feed.places_of(name):
        if not _same_bytes(draft, at, place, dtype):
            return False
        at += place.nbytes
    return True


def _same_bytes(draft: Path, at: int, place: Place, dtype: np.dtype[Any] | None) -> bool:
    written = compared_pieces(draft, at, place.nbytes)
    for here, there in zip(
        written, compared_pieces(place.path, place.begin, place.nbytes), strict=True
    ):
        if here != there:
            return False
        if dtype is not None and not is_finite(np.frombuffer(here, dtype)):
            raise not_finite(place.told)
    return True


def compared_pieces(path: Path, begin: int, size: int) -> Iterator[bytearray]:
    """Bytes of a file from a place on, as many at a time as are compared; overwritten by the next.

    Arrays of bytes are compared by the C library, views of them one by one.
    """
    buffer = bytearray(min(size, COMPARED_BYTES))
    with path.open("rb", buffering=0) as file:
        file.seek(begin)
        while size:
            if size < len(buffer):
                buffer = bytearray(size)
            rest = memoryview(buffer)
            while rest:
                count = file.readinto(rest)
                if not count:
                    raise PatchParityError(f"{path} ends {len(rest)} bytes before it should")
                rest = rest[count:]
            yield buffer
            size -= len(buffer)


def not_finite(told: str) -> PatchParityError:
    """The error of a tensor with values that are no numbers."""
    return PatchParityError(f"{told} holds NaN or infinite values")
