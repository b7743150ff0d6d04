"""Correct implementations are never rejected: 200 seeds of every probe, each implementation that is installed."""

import pytest

from patchparity import PatchEmbedSpec
from patchparity.bench.backend_check import observe
from patchparity.reference.probes import standard_probes
from patchparity.reference.verdict import judge

from .test_contract import available, implementations

SEEDS = 200
SPEC = PatchEmbedSpec((30, 28), (6, 4), 3, 80)


@pytest.mark.full
@pytest.mark.parametrize(("backend", "implementation"), implementations())
def test_no_seed_raises_a_false_alarm(backend, implementation, record_property):
    available(backend, implementation)
    loaded, worst, verdicts = None, 0.0, 0
    with backend.precision("ieee"):
        for seed in range(SEEDS):
            for probe in standard_probes(SPEC, 2, "float32", seed):
                if loaded is None:
                    loaded = backend.load(implementation, probe.weights, SPEC, "float32", "cpu")
                loaded.assign(probe.weights)
                for direction, outputs in observe(loaded, probe).items():
                    for output in outputs:
                        verdict = judge(probe, direction, output, implementation.arithmetic("float32"))
                        assert verdict.verdict == "pass", (seed, probe.name, direction, verdict.message)
                        worst, verdicts = max(worst, verdict.bound_ratio or 0.0), verdicts + 1
    record_property("verdicts", verdicts)
    record_property("worst_bound_ratio", worst)
    print(f"{implementation.name}: {verdicts} verdicts, 0 false alarms, worst error / bound {worst:.3f}")
