"""The pytest plugin for other projects' test suites: `def test_parity(patchparity):
patchparity.check(MyPatchEmbed())`.

It is loaded into every test run of an environment that has patchparity, so it imports nothing
before the fixture is used.
"""

from typing import TYPE_CHECKING, Any, Unpack

import pytest

if TYPE_CHECKING:
    from ..porting.objects.read import Reading
    from .check.results import CheckReport


class Parity:
    """What the fixture gives."""

    def check(self, implementation: Any, **options: "Unpack[Reading]") -> "CheckReport":
        """Check an object as `patchparity.check` does, and fail the test where it is wrong.

        Args:
            implementation: an `nn.Module`, a Keras layer, a Flax module, a plain function, or
                `module:attribute`.
            options: those of `patchparity.check`: weights, patch_size, kernel_layout, ...

        Raises:
            AssertionError: it is wrong; the message says where, and which known mistake explains
                it.
            PatchParityError: it cannot be read or called.
        """
        __tracebackhide__ = True
        from .check.check import check
        from .check.objects import require_parity

        report = check(implementation, **options)
        require_parity(
            report, getattr(implementation, "__qualname__", None) or type(implementation).__name__
        )
        return report


@pytest.fixture
def patchparity() -> Parity:
    """Check an implementation of the patch embedding against the NumPy reference:
    `patchparity.check(module)`."""
    return Parity()
