"""Verdicts on problems made by hand: what is told of an output, in numbers and words, and where the
limits lie."""

import math
from fractions import Fraction
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from patchparity.reference.error import (
    ArithmeticModel,
    effective_bits,
    effective_bits_floor,
    error_bound,
)
from patchparity.reference.expectation import Expectation
from patchparity.reference.verdict import Verdict, judge

STEPS = ArithmeticModel(0.0, smallest=2.0**-6)
"""With four terms, factors up to 2 and nothing added up, every bound is 1/4."""


def problem(expectation, direction="forward", dtype="float32", bias=None, **changes):
    """What `judge` reads of a probe."""
    fields = {"name": "by-hand", "gate": "deterministic", "short": False, "explain": None}
    return SimpleNamespace(
        **fields | changes,
        images=np.zeros((2, 3, 4, 5), dtype),
        weights=SimpleNamespace(bias=bias),
        expectations={direction: expectation},
    )


def expecting(value, gauge=None, terms=4, scale=None, **others) -> Expectation:
    value = np.asarray(value, np.float64)
    gauge = np.zeros_like(value) if gauge is None else gauge
    return Expectation(value, gauge, terms, scale, **{"largest_input": 2.0} | others)


def random_tokens(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((2, 5, 12), ": tokens were left as (B, D, N); transpose(1, 2) is missing"),
        (
            (2, 3, 4, 5),
            ": the grid was left unflattened, channels last; reshape it to (B, N, D)",
        ),
        (
            (2, 5, 3, 4),
            ": the grid was left unflattened; flatten(2) and transpose(1, 2) are missing",
        ),
        ((2, 3, 4, 6), ""),
        (
            (2, 3, 10, 2),
            ": the grid was left unflattened; flatten(2) and transpose(1, 2) are missing",
        ),
        ((2, 6, 10), ""),
        ((2, 2, 2, 3, 5), ""),
        ((2, 12), ""),
    ],
)
def test_another_shape_is_told_with_what_is_missing(shape, told):
    probe = problem(expecting(np.ones((2, 12, 5))))
    verdict = judge(probe, "forward", np.ones(shape, np.float32), STEPS)
    message = f"output of shape {shape}, expected (2, 12, 5){told}"
    assert verdict == Verdict("fail", None, None, message, None)


def test_a_grid_whose_rows_are_as_many_as_channels_is_taken_for_channels_first():
    probe = problem(expecting(np.ones((2, 15, 5))))
    verdict = judge(probe, "forward", np.ones((2, 5, 3, 5), np.float32), STEPS)
    assert verdict.message == (
        "output of shape (2, 5, 3, 5), expected (2, 15, 5): the grid was left unflattened; "
        "flatten(2) and transpose(1, 2) are missing"
    )


def test_the_shape_of_a_gradient_or_of_no_tokens_is_told_alone():
    for direction, expected, shape in (
        ("grad_kernel", (2, 12, 5), (2, 5, 12)),
        ("forward", (2, 12, 5, 1), (2, 5, 12, 1)),
        ("grad_bias", (5,), (7,)),
    ):
        probe = problem(expecting(np.ones(expected)), direction)
        verdict = judge(probe, direction, np.ones(shape, np.float32), STEPS)
        assert verdict == Verdict("fail", message=f"output of shape {shape}, expected {expected}")


def test_another_type_is_told():
    probe = problem(expecting(np.ones((2, 3, 5))), dtype="float16")
    assert judge(probe, "forward", np.ones((2, 3, 5), np.float32), STEPS) == Verdict(
        "fail", message="output of dtype float32, expected float16, that of the images"
    )


def test_values_that_are_not_finite_are_counted():
    observed = np.ones((2, 3, 5), ml_dtypes.bfloat16)
    observed[0, 1, 2], observed[1, 2, 3], observed[1, 1, 1] = np.nan, np.inf, -np.inf
    probe = problem(expecting(np.ones((2, 3, 5))), dtype=ml_dtypes.bfloat16)
    assert judge(probe, "forward", observed, STEPS) == Verdict(
        "fail", math.inf, message="3 of 30 values are NaN or infinite"
    )


def test_values_up_to_the_bound_pass_and_those_beyond_are_counted():
    expected = np.round(random_tokens(0, 2, 3, 5) * 64) / 64
    observed = expected.copy()
    observed[1, 2, 3] += 0.25
    probe = problem(expecting(expected))
    assert judge(probe, "forward", observed.astype(np.float32), STEPS) == Verdict("pass", 1.0)
    observed[0, 1, 4] -= 0.5
    observed[1, 0, 2] += 0.375
    observed[1, 2, 3] += 0.25 + 2.0**-6
    verdict = judge(probe, "forward", observed.astype(np.float32), STEPS)
    assert verdict == Verdict(
        "fail",
        (0.5 + 2.0**-6) / 0.25,
        message="3 of 30 values are outside the deterministic bound; the worst, at (1, 2, 3), is "
        f"{observed[1, 2, 3]:.9g}, expected {expected[1, 2, 3]:.9g} ± 0.25",
    )


def test_a_wrong_output_is_explained_in_the_forward_direction_alone():
    def explain(values):
        return f"{values.dtype} {values.shape}, {int((values != 0).sum())} told"

    for direction, told in (("forward", "; float64 (2, 3, 5), 1 told"), ("grad_image", "")):
        probe = problem(
            expecting(np.zeros((2, 3, 5))), direction, explain=explain, gate="probabilistic"
        )
        observed = np.zeros((2, 3, 5), np.float32)
        assert judge(probe, direction, observed, STEPS) == Verdict("pass", 0.0)
        observed[1, 0, 4] = 3
        assert judge(probe, direction, observed, STEPS) == Verdict(
            "fail",
            12.0,
            message="1 of 30 values are outside the probabilistic bound; the worst, at (1, 0, 4), "
            f"is 3, expected 0 ± 0.25{told}",
        )


def test_an_exact_result_is_rounded_to_the_type_of_the_output():
    expected = random_tokens(1, 2, 3, 5)
    probe = problem(expecting(expected), dtype="float16", gate="exact")
    observed = expected.astype(np.float16)
    assert judge(probe, "forward", observed, STEPS) == Verdict("pass", 0.0)
    observed[1, 2, 0] *= 2
    assert judge(probe, "forward", observed, STEPS) == Verdict(
        "fail",
        math.inf,
        message="1 of 30 values are outside the exact result; the worst, at (1, 2, 0), is "
        f"{float(observed[1, 2, 0]):.9g}, expected {float(observed[1, 2, 0]) / 2:.9g}",
    )


@pytest.mark.parametrize("gate", ["exact", "probabilistic", "deterministic"])
@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("inputs", [0.0, 2.0**-8])
def test_an_exact_problem_has_a_bound_where_rounded_inputs_change_it(gate, short, inputs):
    """Of 40 terms, the two bounds are told apart."""
    expected, gauge = random_tokens(2, 2, 3, 5), np.full((2, 3, 5), 9.0)
    model = ArithmeticModel(2.0**-10, inputs=inputs, smallest=2.0**-20)
    probe = problem(expecting(expected, gauge, terms=40), dtype="float64", gate=gate, short=short)
    observed = expected.copy()
    observed[1, 1, 3] += 2.0**-10
    verdict = judge(probe, "forward", observed, model)
    if gate == "exact" and (short or not inputs):
        assert verdict.bound_ratio == math.inf
        return
    bounded = "deterministic" if gate == "exact" else gate
    bound = error_bound(expected, gauge, 40, model, bounded, 2.0)[1, 1, 3]
    assert verdict.verdict == "pass"
    assert verdict.bound_ratio == pytest.approx(2.0**-10 / bound, rel=1e-9)


def test_a_bounded_result_is_not_rounded_to_the_type_of_the_output():
    expected = np.full((2, 3, 5), 1 + 2.0**-12)
    probe = problem(expecting(expected), dtype="float16")
    verdict = judge(probe, "forward", np.ones((2, 3, 5), np.float16), STEPS)
    assert verdict == Verdict("pass", 2.0**-10)


@pytest.mark.parametrize("direction", ["forward", "grad_bias"])
@pytest.mark.parametrize("gradients", [0.0, 2.0**-7])
def test_sums_of_gradients_have_an_arithmetic_of_their_own(direction, gradients):
    model = ArithmeticModel(2.0**-20, gradients=gradients, output=2.0**-9, output_roundings=2)
    expected, gauge = random_tokens(3, 7), np.full(7, 5.0)
    partial = np.linspace(3, 4, 7)
    made = expecting(expected, gauge, terms=9, partial=partial, largest_input=0.5)
    observed = expected.copy()
    observed[5] += 2.0**-12
    probe = problem(made, direction, "float64")
    verdict = judge(probe, direction, observed, model)
    roundoff = gradients if gradients and direction != "forward" else 2.0**-20
    used = ArithmeticModel(roundoff, output=2.0**-9, output_roundings=2)
    bound = error_bound(expected, gauge, 9, used, "deterministic", 0.5, partial)[5]
    assert verdict.bound_ratio == pytest.approx(2.0**-12 / bound, rel=1e-9)
    assert (verdict.verdict, verdict.delivered) == ("pass", None)


def sampled(value: float, truth: float, **others):
    """A float64 problem of zeros but for one place, whose exact result is known."""
    values = np.zeros((2, 3, 5))
    values[1, 2, 3] = value
    exact = np.array([4, 28, 11]), np.array([0.0, truth, 0.0])
    return problem(expecting(values, exact=exact, **others), dtype="float64")


@pytest.mark.parametrize(
    ("value", "truth", "seen", "ratio"),
    [
        (0.0, 0.0, 0.25, 1.0),  # at both limits
        (0.125, 0.0, 0.25, 1.0),  # the exact one counts
        (0.0, 0.125, 0.1875, 0.75),  # the reference's counts
    ],
)
def test_of_two_errors_within_their_bounds_the_larger_is_told(value, truth, seen, ratio):
    observed = np.zeros((2, 3, 5))
    observed[1, 2, 3] = seen
    assert judge(sampled(value, truth), "forward", observed, STEPS) == Verdict("pass", ratio)


@pytest.mark.parametrize(
    ("value", "truth", "seen", "ratio"),
    [
        (0.0, -0.25, 0.25, 2.0),  # the reference's is just within
        (0.25, 0.0, 0.375, 1.5),
    ],
)
def test_what_is_outside_by_exact_results_alone_is_told_with_them(value, truth, seen, ratio):
    observed = np.zeros((2, 3, 5))
    observed[1, 2, 3] = seen
    verdict = judge(sampled(value, truth), "forward", observed, STEPS)
    assert verdict.bound_ratio == pytest.approx(ratio, rel=1e-12)
    message = f"the value at (1, 2, 3) is {seen:.17g}, exactly {truth:.17g} ± 0.25"
    assert verdict == Verdict("fail", verdict.bound_ratio, None, message)


@pytest.mark.parametrize(("truth", "ratio"), [(0.0, 4.0), (0.5, 3.0)])
def test_what_is_outside_both_is_told_by_the_reference(truth, ratio):
    observed = np.zeros((2, 3, 5))
    observed[1, 2, 3] = 1
    verdict = judge(sampled(0.25, truth), "forward", observed, STEPS)
    assert verdict == Verdict(
        "fail",
        ratio,
        message="1 of 30 values are outside the deterministic bound; the worst, at (1, 2, 3), is "
        "1, expected 0.25 ± 0.25",
    )


def test_digits_of_an_exact_result_are_all_told():
    truth, seen = 1 / 3, 1 / 3 + 0.26
    observed = np.zeros((2, 3, 5))
    observed[1, 2, 3] = seen
    assert judge(sampled(0.5, truth), "forward", observed, STEPS).message == (
        f"the value at (1, 2, 3) is {seen:.17g}, exactly 0.33333333333333331 ± 0.25"
    )


@pytest.mark.parametrize("gate", ["deterministic", "probabilistic"])
@pytest.mark.parametrize("output", [0.0, 2.0**-50])
def test_the_bound_at_exact_results_is_one_side_and_one_rounding(gate, output):
    """In fractions, but for the root of n."""
    generator = np.random.default_rng(4)
    gauge = generator.uniform(1, 2, (2, 3, 5))
    places = np.array([3, 17, 22])
    truth = generator.standard_normal(3) * 50
    values = np.zeros((2, 3, 5))
    values.ravel()[places] = truth
    model = ArithmeticModel(2.0**-53, smallest=2.0**-60, output=output, output_roundings=1)
    made = expecting(values, gauge, terms=300, exact=(places, truth), largest_input=7.0)
    observed = values.copy()
    observed.ravel()[17] += 64 * np.spacing(truth[1])
    verdict = judge(problem(made, dtype="float64", gate=gate), "forward", observed, model)
    u, n = Fraction(2) ** -53, 300
    likely = Fraction(4 * math.sqrt(n)) * u
    factor = n * u / (1 - n * u) if gate == "deterministic" else likely
    bound = factor * Fraction(gauge.ravel()[17]) + n * 9 * Fraction(2) ** -60
    bound += Fraction(output) / (1 - Fraction(output)) * (abs(Fraction(truth[1])) + bound)
    bound += u * abs(Fraction(truth[1]))
    error = abs(Fraction(observed.ravel()[17]) - Fraction(truth[1]))
    assert verdict.bound_ratio == pytest.approx(float(error / bound), rel=1e-9)


WIDE = ArithmeticModel(2.0**-20, smallest=1.0)
"""With one term its floor is 20 bits, and no error is outside its bound."""


def test_effective_bits_at_the_floor_pass_and_below_it_fail():
    scale = np.random.default_rng(5).uniform(1, 2, (2, 3, 5))
    scale = np.round(scale * 16) / 16
    probe = problem(expecting(np.zeros((2, 3, 5)), terms=1, scale=scale), dtype="float64")
    verdict = judge(probe, "forward", scale * 2.0**-20, WIDE)
    assert verdict.verdict == "pass"
    assert (verdict.effective_bits, verdict.message) == (20.0, "")
    assert verdict.delivered == "lower precision than float32, or a wrong result"
    below = judge(probe, "forward", scale * 2.0**-17, WIDE)
    assert below == Verdict(
        "fail",
        below.bound_ratio,
        17.0,
        "declared float32, delivered a split bfloat16x3 product: 17.0 effective bits, expected at "
        "least 20.0",
        "a split bfloat16x3 product",
    )
    assert below.bound_ratio == pytest.approx(scale.max() * 2.0**-17 / 4, rel=1e-4)


def test_the_arithmetic_of_a_fingerprint_is_that_of_its_terms_and_type():
    for dtype, terms, bits, delivered in (
        ("float64", 1, 53, "float64"),
        ("float32", 1, 53, "float32"),
        ("float64", 16, 51, "float64"),
        ("float32", 16, 22, "float32"),
    ):
        made = expecting(np.zeros((2, 3, 5)), terms=terms, scale=np.full((2, 3, 5), 4.0))
        observed = np.full((2, 3, 5), 2.0 ** (2 - bits), dtype)
        verdict = judge(problem(made, dtype=dtype), "forward", observed, WIDE)
        assert (verdict.verdict, verdict.delivered) == ("pass", delivered)
        assert verdict.effective_bits == bits


def test_effective_bits_are_those_of_exact_results_where_these_are_known():
    generator = np.random.default_rng(6)
    value, scale = generator.standard_normal((2, 3, 5)), generator.uniform(1, 2, (2, 3, 5))
    places = np.array([3, 17, 22, 29])
    truth = value.ravel()[places] + 1e-5
    observed = value + generator.standard_normal((2, 3, 5)) * 1e-4
    made = expecting(value, terms=1, scale=scale, exact=(places, truth))
    model = ArithmeticModel(2.0**-8, smallest=1.0)
    verdict = judge(problem(made, dtype="float64"), "forward", observed, model)
    sought = effective_bits(observed.ravel()[places], truth, scale.ravel()[places])
    assert verdict.verdict == "pass"
    assert verdict.effective_bits == sought


@pytest.mark.parametrize(
    ("bits", "ratio", "precise"),
    [(4, 2, False), (5, 2, True), (4, 1, True), (3, 1, True), (3, 2, False)],
)
def test_an_output_is_wrong_and_not_imprecise_with_four_bits_and_outside_its_bound(
    bits, ratio, precise
):
    """The bound of four terms is 16 times what may be lost."""
    model = ArithmeticModel(2.0**-20, smallest=2.0**-bits / 16 / ratio)
    made = expecting(np.zeros((2, 3, 5)), scale=np.ones((2, 3, 5)))
    observed = np.full((2, 3, 5), 2.0**-bits)
    verdict = judge(problem(made, dtype="float64"), "forward", observed, model)
    wrong = "lower precision than float32, or a wrong result"
    assert verdict == Verdict(
        "fail",
        ratio,
        bits,
        f"declared float32, delivered {wrong}: {bits}.0 effective bits, expected at least 19.0"
        if precise
        else "30 of 30 values are outside the deterministic bound; the worst, at (0, 0, 0), is "
        f"{2.0**-bits:.9g}, expected 0 ± {2.0**-bits / ratio:.3g}",
        wrong,
    )


SHORT = ArithmeticModel(2.0**-24, output=2.0**-11, output_roundings=1, smallest=1.0)
UNNAMED = ArithmeticModel(2.0**-24, output=2.0**-10, output_roundings=1, smallest=1.0)
SHORTER = ArithmeticModel(2.0**-24, output=2.0**-8, output_roundings=1, smallest=1.0)
"""Of bfloat16, whatever type its results are kept in."""


@pytest.mark.parametrize(
    ("model", "named"), [(SHORT, "float16 rounded once"), (UNNAMED, "narrow rounded once")]
)
def test_a_fingerprint_in_a_short_type_is_told_by_its_bits(model, named):
    value = random_tokens(7, 2, 5, 7)
    made = expecting(value, terms=3, scale=np.ones((2, 5, 7)))
    probe = problem(made, dtype="float16", name="random-zero-bias")
    good = judge(probe, "forward", value.astype(np.float16), model)
    assert (good.verdict, good.delivered, good.message) == ("pass", None, "")
    observed = (value * (1 + 2.0**-6)).astype(np.float16)
    bits = effective_bits(observed.astype(np.float64), value, np.ones((2, 5, 7)))
    verdict = judge(probe, "forward", observed, model)
    assert verdict == Verdict(
        "fail",
        verdict.bound_ratio,
        bits,
        f"declared {named}, delivered lower precision: {bits:.1f} effective bits, expected at "
        f"least {effective_bits_floor(3, model):.1f}",
        None,
    )


def cut_off(values: np.ndarray) -> np.ndarray:
    """Values cut off to the 11 significand bits of float16, as float64."""
    significand, exponent = np.frexp(values)
    return np.ldexp(np.trunc(significand * 2**11) / 2**11, exponent)


@pytest.mark.parametrize(
    ("model", "named", "kept"),
    [
        (SHORT, "float16 rounded once", "float16"),
        (UNNAMED, "narrow rounded once", "float16"),
        (SHORTER, "bfloat16 rounded once", "bfloat16"),
    ],
)
def test_a_fingerprint_whose_bits_are_dropped_is_told(model, named, kept):
    value = random_tokens(8, 2, 5, 7)
    made = expecting(value, terms=3, scale=np.ones((2, 5, 7)))
    observed = cut_off(value).astype(np.float16)
    bits = effective_bits(observed.astype(np.float64), value, np.ones((2, 5, 7)))
    verdict = judge(problem(made, dtype="float16"), "forward", observed, model)
    assert verdict == Verdict(
        "fail",
        verdict.bound_ratio,
        bits,
        f"declared {named}, delivered {kept} cut off toward zero: results have their lower bits "
        "dropped, where rounding to nearest lowers half of them",
        f"{kept} cut off toward zero",
    )
    assert 0 < verdict.bound_ratio <= 1


def test_dropped_bits_are_told_of_short_types_alone():
    value = random_tokens(8, 2, 5, 7)
    made = expecting(value, terms=1, scale=np.ones((2, 5, 7)))
    wide = ArithmeticModel(2.0**-8, smallest=1.0)
    verdict = judge(
        problem(made, dtype="float16"), "forward", cut_off(value).astype(np.float16), wide
    )
    assert (verdict.verdict, verdict.delivered) == ("pass", "TF32 or float16 inputs")


def roundings(observed, product, bias, output_roundings=1, model=SHORT, **changes):
    """The verdict on float16 results of a random problem with a bias."""
    model = ArithmeticModel(
        2.0**-24, output=model.output, output_roundings=output_roundings, smallest=1.0
    )
    given = {"name": "random", "bias": bias, "dtype": "float16"} | changes
    direction = given.pop("direction", "forward")
    probe = problem(expecting(product + bias), direction, **given)
    return judge(probe, direction, observed.astype(np.float16), model)


PRODUCT, BIAS = random_tokens(9, 2, 40, 5), random_tokens(10, 5).astype(np.float16).astype(float)
TWICE = (PRODUCT.astype(np.float16).astype(float) + BIAS).astype(np.float16)
SHARE = float(np.mean((PRODUCT + BIAS).astype(np.float16) == TWICE))


def test_results_that_are_rounded_once_or_twice_are_told():
    for count in (1, 2):
        once = roundings(PRODUCT + BIAS, PRODUCT, BIAS, count)
        assert once == Verdict("pass", once.bound_ratio, delivered="float16 rounded once")
    allowed = roundings(TWICE, PRODUCT, BIAS, 2)
    assert allowed == Verdict("pass", allowed.bound_ratio, delivered="float16 rounded twice")
    refused = roundings(TWICE, PRODUCT, BIAS, 1)
    assert refused == Verdict(
        "fail",
        refused.bound_ratio,
        None,
        "declared float16 rounded once, delivered float16 rounded twice: "
        f"{100 * SHARE:.0f}% of the results are correctly rounded, expected 90%",
        "float16 rounded twice",
    )
    assert 0 < refused.bound_ratio < 1
    for model, kept in ((UNNAMED, "float16"), (SHORTER, "bfloat16")):
        named = roundings(TWICE, PRODUCT, BIAS, 2, model)
        assert named.delivered == f"{kept} rounded twice"


def test_a_product_that_is_cut_off_before_its_bias_is_told():
    observed = cut_off(PRODUCT) + BIAS
    for count, verdict in ((1, "fail"), (2, "pass")):
        found = roundings(observed, PRODUCT, BIAS, count)
        assert (found.verdict, found.delivered) == (verdict, "float16 cut off toward zero")


def test_results_that_are_rounded_once_are_not_cut_off_too():
    """Where the product is exact, both are the same."""
    product = PRODUCT.astype(np.float16).astype(float)
    assert roundings(product + BIAS, product, BIAS).delivered == "float16 rounded once"


def test_nine_in_ten_correctly_rounded_results_are_rounded_once():
    right = (PRODUCT + BIAS).astype(np.float16)
    observed = right.ravel().copy()
    observed[:40] = np.nextafter(observed[:40], np.float16(np.inf))
    assert roundings(observed.reshape(right.shape), PRODUCT, BIAS).verdict == "pass"
    observed[40] = np.nextafter(observed[40], np.float16(np.inf))
    verdict = roundings(observed.reshape(right.shape), PRODUCT, BIAS)
    assert (verdict.verdict, verdict.delivered) == ("fail", "float16 rounded twice")


def test_roundings_are_told_of_forward_results_of_the_random_problem_in_short_types_alone():
    assert roundings(TWICE, PRODUCT, BIAS, name="random-1e3").delivered is None
    assert roundings(TWICE, PRODUCT, BIAS, direction="grad_image").delivered is None
    wide = ArithmeticModel(2.0**-24, smallest=1.0)
    for model, bias in ((SHORT, None), (wide, BIAS)):
        probe = problem(expecting(PRODUCT), name="random", bias=bias, dtype="float16")
        verdict = judge(probe, "forward", TWICE, model)
        assert verdict == Verdict("pass", verdict.bound_ratio)


def test_a_wrong_result_that_may_be_rounded_twice_is_told_with_what_was_delivered():
    observed = TWICE.copy()
    observed[1, 20, 3] = 60
    verdict = roundings(observed, PRODUCT, BIAS, 2)
    assert (verdict.verdict, verdict.effective_bits) == ("fail", None)
    assert verdict.delivered == "float16 rounded twice"
    assert verdict.message.startswith("1 of 400 values are outside the deterministic bound; ")
