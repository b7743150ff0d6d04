"""What rotary angles tell of how they were made, and angles made anew."""

import numpy as np

from ..pipeline import Array


def temperature_of(angles: Array) -> float | None:
    """θ of angles whose halves are one coordinate each, times θ^(−i/q), i from 0 to q − 1; None of
    others."""
    quarter = angles.shape[1] // 2
    if quarter < 2 or angles.shape[1] % 2:
        return None
    halves = angles.reshape(len(angles), 2, quarter)
    coordinates = halves[:, :, 0]
    sizes = float(np.square(coordinates).sum())
    if not sizes:
        return None
    frequencies = np.einsum("nac,na->c", halves, coordinates) / sizes
    if not np.allclose(halves, coordinates[:, :, None] * frequencies, rtol=1e-5, atol=1e-9):
        return None
    if frequencies[1] <= 0:
        return None
    temperature = float(frequencies[1] ** -quarter)
    expected = temperature ** (-np.arange(quarter) / quarter)
    return temperature if np.allclose(frequencies, expected, rtol=1e-5) else None


def coordinates_of(angles: Array) -> Array | None:
    """Rows and columns, shape `(N, 2)`, of angles as `rotary_angles` gives them."""
    if temperature_of(angles) is None:
        return None
    return angles.reshape(len(angles), 2, -1)[:, :, 0]


def with_frequencies(coordinates: Array, temperature: float, quarter: int) -> Array:
    """Angles, shape `(N, 2·quarter)`, of coordinates `(N, 2)` and θ."""
    frequencies = temperature ** (-np.arange(quarter) / quarter)
    return np.asarray((coordinates[:, :, None] * frequencies).reshape(len(coordinates), -1))
