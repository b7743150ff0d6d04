"""What to use on one framework, from the rows of one interleave."""

from ...backends.base import Backend, Implementation
from ...backends.layouts import with_time_axis
from ...backends.registry import get_backend
from ...porting.objects.implementation import OBJECT_MODE, find_implementation, target_of
from ..cases import Case, named_case
from ..record.comparisons import Pair, framework_of, is_called_today
from ..record.schema import Figures, Measured
from ..record.words import place_text
from .recommendation import Choice, Rival


def choice_of(
    framework: str, timed: list[Measured], rivals: list[Pair], *, with_code: bool = False
) -> Choice:
    """What to use on one framework.

    Args:
        framework: which.
        timed: rows of one interleave and device.
        rivals: what `best_against_today` says of them.
        with_code: whether the lines of code and the layouts are wanted.
    """
    framework_entries = [entry for entry in timed if framework_of(entry.extra_info) == framework]
    medians = {entry.extra_info.implementation: entry.stats.median for entry in framework_entries}
    today = [
        Rival(
            pair.partner.implementation,
            medians[pair.partner.implementation],
            1 / pair.comparison.ratio,
            None
            if (interval := pair.comparison.interval) is None
            else (1 / interval[1], 1 / interval[0]),
            pair.comparison,
            pair.noise,
        )
        for pair in rivals
        if framework_of(pair.info) == framework
    ]
    ours = [entry for entry in framework_entries if entry.extra_info.role == "implementation"]
    called = [entry for entry in framework_entries if is_called_today(entry.extra_info)]
    fastest = min(ours or called, key=lambda entry: entry.stats.median)
    # Of what people call, a framework's own before another library within 1% of it: one package
    # less.
    usual = min(called, key=_with_packages, default=None)
    against = None if usual is None else usual.extra_info.implementation
    words = {rival.implementation: rival.comparison.word for rival in today}
    chosen = fastest if usual is None or words.get(str(against)) == "FASTER" else usual
    sure = (
        chosen is fastest
        and fastest not in called
        and bool(today)
        and set(words.values()) == {"FASTER"}
    )
    info = chosen.extra_info
    code, layouts = _code_and_layouts(info) if with_code else ("", {})
    return Choice(
        framework,
        info.implementation,
        chosen.stats.median,
        info.gemm_fraction,
        sure,
        chosen in called,
        fastest.extra_info.implementation,
        against,
        today,
        code,
        layouts,
    )


def _code_and_layouts(info: Figures) -> tuple[str, dict[str, str]]:
    """The lines that define `embed(images)`, and how images and kernel are kept for them."""
    backend = get_backend(info.backend)
    implementation = find_implementation(info.implementation)
    case = named_case(info.case)
    axes = case.spec.spatial_axes
    layouts = {
        "images": with_time_axis(implementation.image_layout, axes),
        "kernel": with_time_axis(implementation.kernel_layout, axes),
        "where": place_text(info),
    }
    return usage_of(implementation, backend, case), layouts


def _with_packages(entry: Measured) -> float:
    """Seconds, those of a peer 1% longer."""
    return float(entry.stats.median * (1.01 if entry.extra_info.role == "peer" else 1.0))


def usage_of(implementation: Implementation, backend: Backend, case: Case) -> str:
    """Lines of Python that define `embed(images)`; of somebody's own implementation those that make
    it."""
    if implementation.mode != OBJECT_MODE:
        return backend.usage(implementation, case.spec, case.batch)
    module, _, path = target_of(implementation).partition(":")
    first, _, rest = path.partition(".")
    return (
        f"from {module} import {first}\n\nembed = {first}{'.' if rest else ''}{rest}  # a "
        "class "
        "or a factory is called first\n"
    )
