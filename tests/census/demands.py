"""What the census asks of a library's models."""

import gc
import importlib.util
import os
from collections.abc import Mapping

import pytest

from .outcome import Outcome
from .stand_in import import_library

MOST_UNBUILT = 0.2
"""Of a library's models; more, and the census counts nothing."""


def needs(*libraries: str) -> None:
    """Skip where a library is not installed, unless this environment is there to have it."""
    promised = "transformers" in os.environ.get("PATCHPARITY_REQUIRE_LIBRARIES", "")
    for name in libraries:
        if not promised and importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
        import_library(name)
    gc.freeze()  # the library's own objects too


def require_none_wrong(outcomes: Mapping[str, Outcome], fewest_right: int) -> None:
    """No wrong ones, and as many right ones, by themselves or when told, as there were when this
    was written, but for a few."""
    wrong = {name: each for name, each in outcomes.items() if each.verdict == "wrong"}
    assert not wrong
    assert all(each.reason for each in outcomes.values() if each.verdict == "refused")
    unbuilt = {name: each.reason for name, each in outcomes.items() if each.verdict == "unbuilt"}
    assert len(unbuilt) <= MOST_UNBUILT * len(outcomes), unbuilt
    assert sum(each.verdict in ("right", "told") for each in outcomes.values()) >= fewest_right
