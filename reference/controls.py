"""Negative controls: every mistake of the catalogue is made on the probes, and the verdicts must
reject it. The kill table."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from .error import ArithmeticModel
from .mistakes import CATALOGUE
from .pipeline import Pipeline
from .probe import Probe
from .probes import exact_probes, random_probes, random_sequence
from .spec import PatchEmbedSpec
from .verdict import judge

CONTROL_SPECS = {
    "K=48": PatchEmbedSpec((16, 24), 4, 3, 48),
    "K=768": PatchEmbedSpec((32, 48), 16, 3, 96),
    "K=3072": PatchEmbedSpec((64, 96), 32, 3, 64),
    "K=12288": PatchEmbedSpec((128, 192), 64, 3, 48),
    "overlap": PatchEmbedSpec((34, 43), 7, 3, 40, stride=4, padding=3, remainder="floor"),
}
"""Square patches, since some mistakes exchange rows and columns; square D = K at K = 48 for
`matrix-transposed`."""

CONTROL_DTYPES = ("float32", "float64", "bfloat16", "float16")
CONTROL_SCALES = (1e-3, 1.0, 1e3)


@dataclass(frozen=True)
class Exemption:
    """A mistake that cannot be told from correct arithmetic in some dtypes, and why.

    Args:
        mistake: its id.
        dtypes: where.
        derivation: why no verdict can reject it.
    """

    mistake: str
    dtypes: tuple[str, ...]
    derivation: str


EXEMPTIONS: tuple[Exemption, ...] = (
    Exemption(
        "precision-tf32",
        ("bfloat16", "float16"),
        "TF32 has the 10 explicit mantissa bits of float16, more than bfloat16's 7, and float32's "
        "range: nothing is rounded",
    ),
    Exemption("precision-fp16", ("float16",), "the inputs are float16 already: nothing is rounded"),
    Exemption(
        "precision-bf16", ("bfloat16",), "the inputs are bfloat16 already: nothing is rounded"
    ),
    Exemption("output-bf16", ("bfloat16",), "the output is bfloat16 already: nothing is rounded"),
    Exemption("output-fp16", ("float16",), "the output is float16 already: nothing is rounded"),
)
"""The cells of the kill table that may survive. Tests show that each does, with an output within
the bound of the correct one."""


@dataclass(frozen=True)
class Control:
    """One cell of the kill table.

    Args:
        mistake: its id.
        case, dtype, scale: on which problem; `scale` is the standard deviation of the random
            probes.
        killed_by: names of the probes whose verdict was `fail`.
        exemption: why it may survive, or an empty string.
    """

    mistake: str
    case: str
    dtype: str
    scale: float
    killed_by: tuple[str, ...]
    exemption: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was rejected, or may survive."""
        return bool(self.killed_by or self.exemption)


def negative_controls(
    dtypes: Iterable[str] = CONTROL_DTYPES, scales: Iterable[float] = CONTROL_SCALES, seed: int = 0
) -> Iterator[Control]:
    """Make every mistake at every dtype, scale and K, and judge it; a mistake that cannot be made
    on a problem gives no cell.

    Args:
        dtypes: types under test.
        scales: standard deviations of the random probes.
        seed: of the probes.

    Examples:
        >>> import patchparity
        >>> controls = list(patchparity.negative_controls(dtypes=["float32"], scales=[1.0]))
        >>> all(control.ok for control in controls)
        True
    """
    scales = tuple(scales)
    exempt = {
        (entry.mistake, dtype): entry.derivation for entry in EXEMPTIONS for dtype in entry.dtypes
    }
    for case, spec in CONTROL_SPECS.items():
        for dtype in dtypes:
            # Exact probes know no scale: what they reject is rejected at every one.
            exact = exact_probes(spec, 2, dtype, seed)
            scaled = {
                scale: [
                    *random_probes(spec, 2, dtype, seed, scale=scale),
                    random_sequence(spec, 2, dtype, seed, scale=scale),
                ]
                for scale in scales
            }
            for name in CATALOGUE:
                fixed = _verdicts(name, exact, dtype)
                for scale in scales:
                    verdicts = fixed + _verdicts(name, scaled[scale], dtype)
                    if verdicts:
                        killers = tuple(probe for probe, killed in verdicts if killed)
                        yield Control(
                            name, case, dtype, scale, killers, exempt.get((name, dtype), "")
                        )


def _verdicts(mistake: str, probes: list[Probe], dtype: str) -> list[tuple[str, bool]]:
    """Make a mistake on probes: each probe's name and whether its verdict is `fail`; those on which
    it cannot be made are left out."""
    return [verdict for probe in probes if (verdict := _killed(mistake, probe, dtype)) is not None]


def _killed(mistake: str, probe: Probe, dtype: str) -> tuple[str, bool] | None:
    """Make a mistake on a probe: the probe's name and whether its verdict is `fail`, or None where
    it cannot be made."""
    with np.errstate(over="ignore", invalid="ignore"):
        wrong = CATALOGUE[mistake].apply(
            Pipeline(probe.images, probe.weights, probe.spec, probe.to_sequence)
        )
        if wrong is None:
            return None
        output = wrong.run(dtype)
    return probe.name, judge(probe, "forward", output, ArithmeticModel.of(dtype)).verdict == "fail"
