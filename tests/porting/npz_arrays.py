"""NumPy's archives, read whole and closed."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def arrays_of(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an archive, by name; nothing of it stays open."""
    with np.load(path) as archive:
        return dict(archive)
