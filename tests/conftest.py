"""Fixtures for every test: the data are random, non-symmetric, non-square, with C != P and B !=
1."""

import os

import hypothesis
import pytest

# Seeds are fixed, and no test has a time limit: the machine may be a slow one.
hypothesis.settings.register_profile("patchparity", deadline=None, derandomize=True)
hypothesis.settings.load_profile("patchparity")

# Tests must not depend on a terminal's width or colors.
os.environ.update(COLUMNS="200", NO_COLOR="1", TERM="dumb")
os.environ.pop("FORCE_COLOR", None)

# Switches that hold for a whole process are at their defaults here; what needs others is tested in
# a process of its own.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("JAX_ENABLE_X64", "0")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave `full` tests out unless `-m` asks for them."""
    if not config.getoption("-m"):
        skip = pytest.mark.skip(reason="takes minutes: tox run -m full")
        for item in items:
            if "full" in item.keywords:
                item.add_marker(skip)
