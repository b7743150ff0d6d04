"""What follows from samples: operations, fractions, ratios, roofs, and what no machine can do."""

from collections import defaultdict

import pytest

pytest.importorskip("pytest_benchmark")
pytest.importorskip("execnet")

from patchparity import BenchOptions, get_backend
from patchparity.bench.cases import named_case
from patchparity.bench.record.figures import figures_of
from patchparity.bench.record.rows import blank_outcome, row_work
from patchparity.bench.record.words import rate_text, ratio_text
from patchparity.bench.timing.plan import plan
from patchparity.bench.timing.session import BenchSession
from patchparity.bench.timing.too_fast import faster_than_the_machine
from patchparity.bench.worker.operations import timing_probe

SMALL = dict(
    cases=("vit-ti32-224-b2",),
    implementations=("numpy:linear", "numpy:conv2d"),
    threads=(1,),
    rounds=4,
)


def test_what_is_faster_than_the_machine_is_told_by_its_fastest_product():
    rows = BenchSession(plan(BenchOptions(**SMALL))).rows
    case = named_case("vit-ti32-224-b2")
    by_key = {row.key: row for row in rows}
    linear, gemm, peak = (
        by_key[name] for name in ("numpy:linear:eager", "numpy:gemm", "numpy:peak")
    )
    operations = row_work("tokens", case, 4)[0]
    seconds = defaultdict(
        list,
        {
            linear.identity: [operations / 390e9] * 4,
            gemm.identity: [operations / 50e9] * 4,
            peak.identity: [2 * 1024**3 / 100e9] * 4,
        },
    )
    assert faster_than_the_machine(rows, case, seconds) == {}
    seconds[linear.identity] = [operations / 410e9] * 6
    assert list(faster_than_the_machine(rows, case, seconds)) == [linear.identity]
    assert faster_than_the_machine(rows, case, seconds, disturbed_rounds=3) == {}, (
        "a neighbor may have slowed every product"
    )
    seconds[linear.identity] = [operations / 990e9] * 5
    assert faster_than_the_machine(rows, case, seconds) == {}, "few rounds"
    seconds[linear.identity] = [operations / 1010e9] * 5
    assert list(faster_than_the_machine(rows, case, seconds)) == [linear.identity]
    seconds[linear.identity] = [operations / 410e9] * 6
    assert (
        "410 GFLOP/s, where the fastest matrix product here reaches 100"
        in faster_than_the_machine(rows, case, seconds)[linear.identity]
    )


def test_a_row_of_16_bits_is_held_against_a_product_in_float32_too():
    """NumPy computes float16 in float32, at 30 times the rate of the only float16 product there is
    (torch's, on a CPU without the type)."""
    rows = BenchSession(plan(BenchOptions(**SMALL, dtypes=("float16",)))).rows
    case = named_case("vit-ti32-224-b2")
    by_key = {row.key: row for row in rows}
    linear, peak = by_key["numpy:linear:eager"], by_key["numpy:peak-float32"]
    operations = row_work("tokens", case, 2)[0]
    seconds = defaultdict(
        list, {linear.identity: [operations / 90e9] * 4, peak.identity: [2 * 1024**3 / 100e9] * 4}
    )
    assert faster_than_the_machine(rows, case, seconds) == {}
    seconds[linear.identity] = [operations / 410e9] * 6
    assert list(faster_than_the_machine(rows, case, seconds)) == [linear.identity]


def test_the_roof_of_16_bits_is_no_lower_than_that_of_float32():
    """A CPU without 16-bit arithmetic computes in float32 what its libraries' 16-bit products do at
    a fiftieth of the rate."""
    session = BenchSession(
        plan(
            BenchOptions(
                **{**SMALL, "implementations": ("numpy:linear", "torch:linear:eager")},
                dtypes=("float16",),
            )
        )
    )
    case = session.cases["vit-ti32-224-b2"]
    by_key = {row.key: row.identity for row in session.rows}
    operations = row_work("tokens", case, 2)[0]
    names = {"numpy:linear:eager": 50e9, "torch:gemm": 2e9, "numpy:peak-float32": 100e9}
    seconds = {by_key[name]: [operations / rate] * 4 for name, rate in names.items()}
    seconds[by_key["numpy:peak-float32"]] = [2 * 1024**3 / 100e9] * 4
    seconds.update(
        {by_key["numpy:copy"]: [1e-9] * 4, by_key["numpy:linear:eager#one-patch"]: [1e-9] * 4}
    )
    outcomes = [blank_outcome(row) for row in session.rows]
    square = next(each for each in outcomes if each.row == by_key["numpy:peak-float32"])
    rate = figures_of(square, outcomes, seconds, case, [], [4]).gigabytes_per_second
    assert rate == pytest.approx(3 * 4 * 1024**2 / (2 * 1024**3 / 100e9) / 1e9), (
        "float32 moves four bytes a value beside rows of two"
    )
    info = figures_of(outcomes[0], outcomes, seconds, case, [], [4])
    assert (info.roof, info.roof_fraction) == ("compute", pytest.approx(0.5))


def test_the_roof_is_the_longest_of_three_times():
    session = BenchSession(plan(BenchOptions(**SMALL)))
    case = session.cases["vit-ti32-224-b2"]
    outcomes = [blank_outcome(row) for row in session.rows]
    by_key = {row.key: row.identity for row in session.rows}

    def roof(compute, move, dispatch):
        seconds = {
            by_key[name]: [value] * 4
            for name, value in (
                ("numpy:linear:eager", 8.0),
                ("numpy:gemm", compute),
                ("numpy:copy", move),
                ("numpy:linear:eager#one-patch", dispatch),
            )
        }
        info = figures_of(outcomes[0], outcomes, seconds, case, [], [4])
        return info.roof, info.roof_fraction

    assert roof(4.0, 1.0, 2.0) == ("compute", 0.5)
    assert roof(1.0, 6.0, 2.0) == ("bandwidth", pytest.approx(0.75, rel=1e-4))
    assert roof(1.0, 1.0, 2.0) == ("dispatch", 0.25)
    without = {by_key["numpy:linear:eager"]: [8.0] * 4}
    assert figures_of(outcomes[0], outcomes, without, case, [], [4]).roof_fraction is None


COUNTED = named_case("vit-b16-224-b2")
BIAS = COUNTED.batch * COUNTED.spec.num_patches * COUNTED.spec.embed_dim
"""One operation for every token's value: an addition, or its share in the bias's gradient."""


def loaded_for_counting(name):
    backend, probe = (
        get_backend(name.split(":")[0]),
        timing_probe(COUNTED.spec, COUNTED.batch, "float32", 0, "tokens", False),
    )
    return backend.load(
        backend.implementation(name), probe.weights, COUNTED.spec, "float32", "cpu"
    ), probe


@pytest.mark.parametrize("name", ["torch:conv2d:eager", "torch:linear:eager"])
def test_operations_are_counted_as_torch_counts_them(name):
    """FlopCounterMode counts products alone: the projection without its bias, a train step without
    the bias's gradient."""
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    loaded, probe = loaded_for_counting(name)
    inputs = loaded.place(probe.images)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        loaded.forward(inputs)
    assert counter.get_total_flops() == row_work("tokens", COUNTED, 4)[0]
    with FlopCounterMode(display=False) as counter:
        loaded.train_step(probe.grad_tokens).call(inputs)
    assert counter.get_total_flops() == row_work("train-step", COUNTED, 4)[0] - BIAS


@pytest.mark.parametrize("name", ["jax:conv2d:jit", "jax:linear:jit"])
def test_operations_are_counted_as_xla_counts_them(name):
    """XLA's cost analysis adds one operation a value for the bias."""
    pytest.importorskip("jax")
    loaded, probe = loaded_for_counting(name)
    compiled = loaded.forward.lower(
        loaded.place(probe.images), loaded.kernel, loaded.bias
    ).compile()
    # A float32 sum inside XLA: nine digits.
    assert compiled.cost_analysis()["flops"] == pytest.approx(
        row_work("tokens", COUNTED, 4)[0] + BIAS, rel=1e-9
    )


def test_fractions_and_ratios_are_paired_by_round():
    session = BenchSession(plan(BenchOptions(**SMALL)))
    keys = {row.key: row.identity for row in session.rows}
    names = ("numpy:linear:eager", "numpy:conv2d:eager", "numpy:gemm", "numpy:linear:eager#aa")
    linear, conv, gemm, copy = (keys[name] for name in names)
    drift = [1.0, 3.0, 2.0, 5.0]
    seconds = {
        linear: [2 * d for d in drift],
        conv: [4 * d for d in drift],
        gemm: [1 * d for d in drift],
        copy: [2 * d for d in drift],
    }
    outcomes = [blank_outcome(row) for row in session.rows if row.identity in seconds]
    info = [
        figures_of(outcome, outcomes, seconds, session.cases["vit-ti32-224-b2"], [], [4])
        for outcome in outcomes
    ]
    assert [entry.ratio for entry in info] == [1.0, 2.0, 0.5, 1.0]
    assert [entry.gemm_fraction for entry in info] == [0.5, 0.25, 1.0, 0.5], (
        "linear, conv, gemm, copy, in the plan's order"
    )
    assert info[1].ratio_interval is None


def test_a_train_step_is_held_against_two_products_and_the_references_own():
    session = BenchSession(plan(BenchOptions(**{**SMALL, "operations": ("train-step",)})))
    keys = {row.key: row.identity for row in session.rows}
    drift = [1.0, 3.0, 2.0, 5.0]
    factors = {
        "numpy:linear:eager": 2,
        "numpy:linear:eager#train-step": 5,
        "numpy:conv2d:eager#train-step": 10,
        "numpy:gemm": 1,
    }
    factors.update(
        {"numpy:copy": 0.1, "numpy:linear:eager#one-patch": 0.1, "numpy:linear:eager#aa": 2}
    )
    seconds = {keys[name]: [factor * d for d in drift] for name, factor in factors.items()}
    outcomes = {row.key: blank_outcome(row) for row in session.rows if row.identity in seconds}
    infos = {
        name: figures_of(
            outcome, list(outcomes.values()), seconds, session.cases["vit-ti32-224-b2"], [], [4]
        )
        for name, outcome in outcomes.items()
    }
    linear, conv = (infos[f"numpy:{name}:eager#train-step"] for name in ("linear", "conv2d"))
    assert (linear.gemm_fraction, conv.gemm_fraction) == (0.4, 0.2)
    assert (linear.ratio, conv.ratio) == (1.0, 2.0)
    assert (linear.roof, linear.roof_fraction) == ("compute", 0.4)
    assert infos["numpy:linear:eager"].gemm_fraction == 0.5


def test_small_ratios_and_great_rates_keep_their_digits():
    assert ratio_text(1.234, (1.2, 1.3)) == "1.23 [1.20, 1.30]"
    assert ratio_text(0.00054, (0.00052, 0.1)) == "0.00054 [0.00052, 0.10]"
    assert ratio_text(0.0456, None) == "0.046"
    assert [rate_text(each) for each in (184.62, 499364.6)] == ["184.6", "499365"]
