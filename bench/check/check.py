"""`check`: anyone's implementation, or the suite's own, against the NumPy reference."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from .results import CheckReport

if TYPE_CHECKING:
    from ...backends.base import Precision
    from ...reference.spec import Remainder
    from ...reference.weights import PatchEmbedWeights
    from .suite import Progress


def check(
    implementation: Any = None,
    *,
    seed: int = 0,
    weights: "PatchEmbedWeights | str | os.PathLike[str] | Mapping[str, Any] | None" = None,
    kernel_layout: str | None = None,
    image_layout: str | None = None,
    patch_size: int | tuple[int, ...] | None = None,
    in_channels: int | None = None,
    image_size: int | tuple[int, ...] | None = None,
    stride: int | tuple[int, ...] | None = None,
    padding: Any = None,
    framework: str | None = None,
    module: str | None = None,
    init: Mapping[str, Any] | None = None,
    backends: list[str] | None = None,
    implementations: list[str] | None = None,
    dtypes: list[str] | None = None,
    devices: list[str] | None = None,
    precisions: "list[Precision] | None" = None,
    image: str | os.PathLike[str] | NDArray[Any] | None = None,
    remainder: "Remainder" = "error",
    every_case: bool = False,
    seeds: int = 1,
    pythons: list[str] | None = None,
    progress: "Progress | None" = None,
) -> CheckReport:
    """Check anyone's implementation, or with none the suite's own, against the NumPy reference.

    Args:
        implementation: an `nn.Module`, a Keras layer, a Flax module, a plain function,
            `module:attribute` or `file.py:attribute`; its weights are read out of it and stay as
            they are. Of a whole torch model its one patch embedding is found. None checks the
            suite's own.
        seed: of the probes.
        weights, kernel_layout, image_layout, patch_size, in_channels, image_size, stride, padding,
            framework, module, init: with an implementation, for what cannot be read out of it, as
            in `read_live`.
        backends, implementations, dtypes, devices, precisions, image, remainder, every_case, seeds,
            pythons, progress: without one, as in `check_suite`.

    Returns:
        A report: it prints as the answer, and has `ok`, `diagnosis` and `raise_if_wrong()`.

    Raises:
        PatchParityError: whatever `read_live` or `check_suite` refuses.
        TypeError: options of the other kind.

    Examples:
        >>> import numpy as np, patchparity
        >>> kernel = np.random.default_rng(0).standard_normal((8, 3, 4, 4))
        >>> def embed(images):  # (B, 3, H, W) to (B, N, 8)
        ...     B, C, H, W = images.shape
        ...     patches = images.reshape(B, C, H // 4, 4, W // 4, 4).transpose(0, 2, 4, 1, 3, 5)
        ...     return patches.reshape(B, -1, C * 16) @ kernel.reshape(8, -1).T.astype(images.dtype)
        >>> patchparity.check(embed, weights={"kernel": kernel}, kernel_layout="oihw").ok
        True
    """
    reading = dict(
        weights=weights,
        kernel_layout=kernel_layout,
        image_layout=image_layout,
        patch_size=patch_size,
        in_channels=in_channels,
        image_size=image_size,
        stride=stride,
        padding=padding,
        framework=framework,
        module=module,
        init=init,
    )
    of_suite = dict(
        backends=backends,
        implementations=implementations,
        dtypes=dtypes,
        devices=devices,
        precisions=precisions,
        image=image,
        pythons=pythons,
        progress=progress,
    )
    fixed: dict[str, Any] = dict(remainder=remainder, every_case=every_case, seeds=seeds)
    # Each imports what it needs: somebody's one module does not wait for the suite.
    if implementation is None:
        from .suite import check_suite

        _require_own(reading, "the suite", (*of_suite, *fixed))
        chosen: dict[str, Any] = {**of_suite, **fixed}
        return check_suite(seed=seed, **chosen)
    from ...porting.objects.read import read_live
    from .objects import check_object
    from .settings import Settings

    changed = {name: value for name, value in fixed.items() if value != UNCHANGED[name]}
    _require_own({**of_suite, **changed}, "somebody's implementation", tuple(reading))
    settings = Settings()
    told: dict[str, Any] = reading
    read = read_live(implementation, loaded=settings.include_loaded, **told)
    report = check_object(read, seed=seed)
    report.results.append(settings.result_like(report.results[0]))
    return report


UNCHANGED = {"remainder": "error", "every_case": False, "seeds": 1}
"""What the options of the suite are that are never None, where nobody gives them."""


def _require_own(others: Mapping[str, Any], whose: str, known: tuple[str, ...]) -> None:
    """Raise TypeError for an option of the other kind of check."""
    if strange := [name for name, value in others.items() if value is not None]:
        raise TypeError(
            f"check of {whose} has no option {', '.join(strange)}; it has {', '.join(known)}"
        )
