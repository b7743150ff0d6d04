"""What was written, read back: held to the last bit against what it was copied or made from, and
looked through for NaN and infinite values while it is at hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .checkpoint import dtype_of
from .lazy import Feed, contiguous

COMPARED_BYTES = 2**18
"""Bytes of each of two files that are compared at a time: both lie in a processor's second cache,
of 512 KB or more."""

EXPONENTS = {np.dtype(np.float16): 0x7C00, np.dtype(ml_dtypes.bfloat16): 0x7F80}
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
    if array.size <= LOOKED_AT or not array.flags.c_contiguous:
        return _all_finite(array)
    values = array.reshape(-1)
    return all(
        _all_finite(values[first : first + LOOKED_AT]) for first in range(0, values.size, LOOKED_AT)
    )


def _all_finite(array: NDArray[Any]) -> bool:
    exponent = EXPONENTS.get(array.dtype)
    if exponent is None:
        return bool(np.isfinite(array).all())
    without_sign = np.left_shift(array.view(np.uint16), 1)
    return bool(without_sign.max(initial=0) < exponent << 1)


def same_as_stored(written: tuple[Path, int] | NDArray[Any], name: str, feed: Feed) -> bool:
    """Whether what was written has the bytes of the files that a tensor is copied from.

    Args:
        written: the file and the byte where the tensor begins, or what a library read of it.
        name: of the tensor.
        feed: what it is copied from.

    Raises:
        PatchParityError: NaN or infinite values, where `feed` refuses them; a file that ends
            before.
    """
    dtype, at = dtype_of(feed.tensors[name].dtype), 0
    for place in feed.places_of(name):
        back: Iterator[Any]
        if isinstance(written, tuple):
            back = compared_pieces(written[0], written[1] + at, place.nbytes)
        else:
            back = _slices(contiguous(written), at, place.nbytes)
        for here, there in zip(
            back, compared_pieces(place.path, place.begin, place.nbytes), strict=True
        ):
            if there != here:
                return False
            if feed.finite and not is_finite(np.frombuffer(there, dtype)):
                raise not_finite(place.told)
        at += place.nbytes
    return True


def _slices(array: NDArray[Any], begin: int, size: int) -> Iterator[memoryview]:
    values = array.reshape(-1).view(np.uint8).data[begin : begin + size]
    for first in range(0, size, COMPARED_BYTES):
        yield values[first : first + COMPARED_BYTES]


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
