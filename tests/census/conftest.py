"""Each of hundreds of models is collected before the next is built: what other tests left in the
process need not be looked through each time."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def looked_through_once() -> Iterator[None]:
    """Objects that are there already are left alone until the test has ended."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
