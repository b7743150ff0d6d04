"""Other images or another kernel than those that were given."""

from collections.abc import Iterator

import numpy as np

from ..pipeline import Array, Pipeline
from .fit import Fit, rms
from .forms import Form, kernel_forms, other_images


def pixel_fits(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """Other images than those that were given."""
    for (name, words, mend), other in other_images(p):
        prediction = other.run(np.float64)
        if prediction.shape == observed.shape:
            yield Fit(name, words, mend, rms(observed - prediction))


def other_kernels(p: Pipeline) -> Iterator[tuple[Form, Pipeline]]:
    """Programs with the kernel's memory in another order of axes, or turned."""
    if p.spec.spatial_axes != 2:
        return
    for form, kernel in kernel_forms(p.weights.kernel):
        if kernel.shape == p.weights.kernel.shape and not np.array_equal(kernel, p.weights.kernel):
            yield form, p.with_kernel(np.ascontiguousarray(kernel))


def kernel_fits(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """The kernel's memory in another order of axes."""
    for (name, words, mend), other in other_kernels(p):
        yield Fit(name, words, mend, rms(observed - other.run(np.float64)))
