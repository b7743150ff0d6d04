"""Problems for somebody's object: images, its own weights, and what the reference makes of them."""

import dataclasses
import functools
import math
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ...porting.objects.live import LiveEmbedding
from ...reference.error import Gate
from ...reference.expectation import Factor
from ...reference.probe import Probe
from ...reference.spec import PatchEmbedSpec

DOMINANCE = 64
"""How many times larger than bias and positions the products are where effective bits are told:
what is added to them then costs at most log₂(1 + 1/64) = 0.02 of them, and the object's bias need
not be taken away."""


class Problems:
    """Makes problems of one object, whose weights are copied, and prepared for the reference, once.

    Args:
        live: the object.
    """

    def __init__(self, live: LiveEmbedding) -> None:
        self.live = live
        self.weights = live.weights_used
        self._factor = Factor(self.weights.kernel)

    def probe(
        self,
        name: str,
        images: NDArray[Any],
        gate: Gate = "probabilistic",
        *,
        spec: PatchEmbedSpec | None = None,
        fingerprint: bool = False,
    ) -> Probe:
        """One problem.

        Args:
            name: as in the results.
            images: shape `(B, C, H, W)`, in the object's dtype.
            gate: how its result is judged.
            spec: the sizes; the object's own where None.
            fingerprint: whether effective bits may be read from it.
        """
        return Probe(
            name,
            self.live.spec if spec is None else spec,
            images,
            self.weights,
            np.zeros((0, 1, 1), images.dtype),
            gate,
            to_sequence=self.live.to_sequence,
            fingerprint=fingerprint,
            factor=self._factor,
        )

    @functools.cached_property
    def largest_scale(self) -> float:
        """Largest power of two that images may be scaled by before a sum of products comes within
        a factor of 16 of overflow.

        A standard normal value stays below 8 but for one in 10¹⁵; a sum of K products stays below
        8·Σ|w|.
        """
        rows = np.abs(self._factor.matrix).sum(axis=1)
        largest = float(ml_dtypes.finfo(self.live.dtype).max)
        room = largest / 16 / 8 / max(float(rows.max(initial=0.0)), 1.0)
        return 2.0 ** math.floor(math.log2(room))

    @functools.cached_property
    def fingerprint_scale(self) -> float | None:
        """What images are scaled by so that the effective bits of outputs are those of the
        products; None where they cannot be told."""
        added = [
            getattr(self.weights, name)
            for name in ("bias", "class_token", "register_tokens", "positions")
        ]
        sizes = [
            np.abs(array.astype(np.float64)).max(initial=0) for array in added if array is not None
        ]
        matrix = self._factor.matrix
        norms = np.sort(np.sqrt(np.einsum("dk,dk->d", matrix, matrix)))
        product = float(norms[len(norms) // 2])  # the median: NumPy's own would load np.ma, 15 ms
        if self.live.dtype != "float32" or not product:
            return None
        share = DOMINANCE * float(max(sizes, default=0.0)) / product
        scale = 2.0 ** max(0, math.ceil(math.log2(max(share, 1.0))))
        # Weights whose last bits are subnormal have fewer of them, and products that would overflow
        # tell nothing.
        normal = self._factor.largest >= np.finfo(np.float32).tiny * 2**24
        return scale if scale <= self.largest_scale and normal else None


def first_of(probe: Probe, number: int) -> Probe:
    """The problem of the first so many images of another one, with its answer."""
    return part_of(probe, slice(number))


def repeated_first(probe: Probe) -> Probe:
    """The problem of the first image of another one in the place of all, with its answer."""
    return part_of(probe, np.zeros(len(probe.images), int))


def part_of(probe: Probe, numbers: slice | NDArray[Any]) -> Probe:
    """The problem of some images of another one, with its answer."""
    taken = dataclasses.replace(probe, images=probe.images[numbers])
    whole = probe.expectations["forward"]

    def cut(array: NDArray[np.float64] | None) -> Any:
        return None if array is None else array[numbers]

    factor = Factor(probe.weights.kernel) if probe.factor is None else probe.factor
    largest = float(np.abs(taken.images.astype(np.float64)).max(initial=0))
    known = dataclasses.replace(
        whole,
        value=whole.value[numbers],
        gauge=whole.gauge[numbers],
        scale=cut(whole.scale),
        partial=cut(whole.partial),
        largest_input=max(largest, factor.largest),
        exact=None,
    )
    taken.__dict__["expectations"] = {"forward": known}
    return taken
