"""The kill table: every known mistake is rejected everywhere, but for the exemptions, and these
really lie within the bound."""

import numpy as np
import pytest

from patchparity.reference.controls import (
    CONTROL_DTYPES,
    CONTROL_SPECS,
    EXEMPTIONS,
    Control,
    negative_controls,
)
from patchparity.reference.error import ArithmeticModel
from patchparity.reference.mistakes import CATALOGUE
from patchparity.reference.pipeline import Pipeline, round_to_bits
from patchparity.reference.probes import exact_probes, random_probes, random_sequence
from patchparity.reference.verdict import judge

pytestmark = pytest.mark.anywhere

REQUIRED = (
    *(
        "flatten-channels-first",
        "flatten-channels-last",
        "kernel-hwio-as-oihw",
        "kernel-transposed-whole",
        "kernel-flipped",
    ),
    *(
        "kernel-hw-swapped",
        "kernel-reshaped-not-transposed",
        "tokens-column-major",
        "tokens-not-transposed",
    ),
    *(
        "tokens-reshaped-not-transposed",
        "flatten-wrong-axes",
        "channels-reversed",
        "bias-missing",
        "bias-doubled",
        "stride-not-patch",
    ),
    *(
        "kernel-not-patch",
        "padding-same",
        "pad-end-for-floor",
        "patch-stale",
        "batch-merged",
        "input-scaled-255",
    ),
    *(
        "normalization-missing",
        "positions-off-by-prefix",
        "positions-before-for-after",
        "positions-transposed",
        "registers-misplaced",
    ),
    *(
        "sincos-halves-swapped",
        "precision-tf32",
        "precision-bf16",
        "precision-fp16",
        "accumulate-fp16",
        "last-term-dropped",
    ),
)


@pytest.fixture(scope="module")
def table() -> list[Control]:
    return list(negative_controls(scales=(1e-3, 1e3)))


def test_the_catalogue_holds_the_well_known_mistakes_with_words_and_a_mend():
    assert set(REQUIRED) <= set(CATALOGUE)
    for name, mistake in CATALOGUE.items():
        assert mistake.id == name
        assert mistake.explanation
        assert mistake.mend
        assert "\n" not in mistake.explanation + mistake.mend


def test_every_mistake_is_rejected_at_every_dtype_scale_and_length(table):
    assert [control for control in table if not control.ok] == []
    assert all(control.killed_by for control in table if not control.exemption)
    assert {control.mistake for control in table} == set(CATALOGUE), "each can be made somewhere"
    assert {control.dtype for control in table} == set(CONTROL_DTYPES)
    assert {control.case for control in table} == set(CONTROL_SPECS)


def test_what_is_exempt_survives_and_so_lies_within_every_bound(table):
    exempt = {(entry.mistake, dtype) for entry in EXEMPTIONS for dtype in entry.dtypes}
    cells = [control for control in table if (control.mistake, control.dtype) in exempt]
    assert {(control.mistake, control.dtype) for control in cells} == exempt, "no stale exemption"
    assert all(control.killed_by == () and control.exemption for control in cells)


@pytest.mark.parametrize("entry", EXEMPTIONS, ids=lambda entry: entry.mistake)
def test_exempt_outputs_are_the_correct_ones_to_the_last_bit(entry):
    for dtype in entry.dtypes:
        for probe in exact_probes(CONTROL_SPECS["K=768"], 2, dtype, 3) + random_probes(
            CONTROL_SPECS["K=768"], 2, dtype, 3
        ):
            right = Pipeline(probe.images, probe.weights, probe.spec)
            assert (CATALOGUE[entry.mistake].apply(right).run(dtype) == right.run(dtype)).all()


@pytest.mark.parametrize("dtype", CONTROL_DTYPES)
@pytest.mark.parametrize("case", CONTROL_SPECS)
def test_correct_arithmetic_is_rejected_by_none(case, dtype):
    spec = CONTROL_SPECS[case]
    for scale in (1e-3, 1.0, 1e3):
        probes = [
            *exact_probes(spec, 2, dtype, 5),
            *random_probes(spec, 2, dtype, 5, scale=scale),
            random_sequence(spec, 2, dtype, 5, scale=scale),
        ]
        for probe in probes:
            output = Pipeline(probe.images, probe.weights, spec, probe.to_sequence).run(dtype)
            verdict = judge(probe, "forward", output, ArithmeticModel.of(dtype))
            assert verdict.verdict == "pass", (probe.name, scale, verdict.message)


def test_a_verdict_that_sees_nothing_would_show_in_the_table(monkeypatch):
    from patchparity.reference import controls
    from patchparity.reference.verdict import Verdict

    monkeypatch.setattr(controls, "judge", lambda *_: Verdict("pass"))
    blind = list(negative_controls(dtypes=("float32",), scales=(1.0,)))
    assert blind
    assert not any(control.ok for control in blind)


def test_round_to_bits_is_round_to_nearest_even():
    values = np.array(
        [1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-10, -(1 + 2.0**-11 + 2.0**-20), 0.0], np.float32
    )
    expected = np.array([1, 1 + 2 * 2.0**-10, 1 + 2.0**-10, -(1 + 2.0**-10), 0.0], np.float32)
    assert (round_to_bits(values, 10) == expected).all()
