"""`check`: anyone's implementation, or the suite's own, against the NumPy reference."""

import inspect
from typing import Any

from .results import CheckReport


def check(implementation: Any = None, *, seed: int = 0, **options: Any) -> CheckReport:
    """Check anyone's implementation, or with none the suite's own, against the NumPy reference.

    Args:
        implementation: an `nn.Module`, a Keras layer, a Flax module, a plain function, or
            `module:attribute`; its weights are read out of it and stay as they are. None checks the
            suite's own.
        seed: of the probes.
        options: with an implementation, those of `read_live` (weights, patch_size, kernel_layout,
            ...), for what cannot be read out of it; without one, those of `check_suite` (backends,
            dtypes, precisions, image, ...).

    Raises:
        PatchParityError: whatever `read_live` or `check_suite` refuses.
        TypeError: options of the other kind.
    """
    # Each imports what it needs: somebody's one module does not wait for the suite.
    if implementation is None:
        from .suite import check_suite

        _require_known(options, check_suite, "the suite")
        return check_suite(seed=seed, **options)
    from ...porting.objects.read import read_live
    from .objects import check_object
    from .settings import Settings

    _require_known(options, read_live, "somebody's implementation")
    settings = Settings()
    live = read_live(implementation, **options)
    report = check_object(live, seed=seed)
    report.results.append(settings.result_like(report.results[0]))
    return report


def _require_known(options: dict[str, Any], function: Any, whose: str) -> None:
    known = [
        name for name in inspect.signature(function).parameters if name not in ("target", "seed")
    ]
    if strange := [name for name in options if name not in known]:
        raise TypeError(
            f"check of {whose} has no option {', '.join(strange)}; it has {', '.join(known)}"
        )
