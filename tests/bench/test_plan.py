"""What is measured, before anything is: options, what is wrong with them, and the rows that
follow."""

import pytest

pytest.importorskip("pytest_benchmark")
pytest.importorskip("execnet")

from patchparity import BenchOptions, PatchParityError, benchmark, get_backend
from patchparity.bench.cases import named_case
from patchparity.bench.machine.environment import usable_cores
from patchparity.bench.record.rows import row_work
from patchparity.bench.timing.effort import LEAST_ROUNDS, Effort
from patchparity.bench.timing.plan import rows_of, thread_counts

SMALL = dict(
    cases=("vit-ti32-224-b2",),
    implementations=("numpy:linear", "numpy:conv2d"),
    threads=(1,),
    rounds=4,
)


@pytest.mark.parametrize(
    ("effort", "stretches"),
    [
        (Effort(20), [20]),
        (Effort(20, 3), [7, 7, 6]),
        (Effort(2, 4), [1, 1]),
        (Effort(100, goal=0.01), [16, 16, 32, 36]),
        (Effort(70, goal=0.01), [16, 16, 38]),
        (Effort(17, goal=0.01), [17]),
        (Effort(64, goal=0.01), [16, 16, 32]),
        (Effort(8, goal=0.01), [8]),
    ],
)
def test_stretches_between_looks(effort, stretches):
    assert effort.stretches() == stretches


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("numpy", "python 'numpy': expected BACKEND=PATH"),
        ("theano=python", "backend 'theano' is unknown"),
        ("numpy=/no/such/python", "python 'numpy=/no/such/python' cannot be run"),
        (
            "numpy=/bin/true",
            "expected an interpreter with patchparity.*found no answer; pip install it there",
        ),
    ],
)
def test_interpreters_that_will_not_do(text, message):
    with pytest.raises(PatchParityError, match=message):
        benchmark(BenchOptions(**SMALL, pythons=(text,), out="unused"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(threads=(0,)), r"threads=0: expected 1 to \d+"),
        (dict(threads=(10_000,)), r"threads=10000: expected 1 to \d+, the cores"),
        (dict(preset="fast"), "preset 'fast' is unknown"),
        (dict(cases=("vit-b16",)), "case 'vit-b16' is unknown"),
        (dict(backends=("theano",)), "backend 'theano' is unknown"),
        (dict(implementations=("numpy:fft",)), "implementation 'numpy:fft' is unknown"),
        (dict(devices=("tpu",)), "device 'tpu' is unknown; expected one of cpu, cuda"),
        (dict(dtypes=("int8",)), "dtype 'int8' is unknown"),
        (dict(rounds=0), "rounds=0: expected at least 1"),
        (dict(generations=0), "generations=0: expected at least 1"),
        (dict(precision_goal=0.0), "precision_goal=0.0: expected a finite number above 0"),
        (dict(precisions=("fp8",)), "precision 'fp8' is unknown"),
        (dict(peers=("nothing",)), "'nothing': expected module:attribute"),
        (
            dict(peers=("no.such.module:Thing",)),
            "'no.such.module:Thing' cannot be found: No module named 'no'",
        ),
        (dict(call_seconds=0.0), "call_seconds=0.0"),
        (dict(call_seconds=float("inf")), "call_seconds=inf"),
        (
            dict(operations=("grad",)),
            "operation 'grad' is unknown; expected one of tokens, sequence, train-step",
        ),
        (dict(hosts=("box",)), "host 'box': expected local, or ssh="),
        (dict(seed=-1), "seed=-1: expected an integer of at least 0"),
    ],
)
def test_bad_options_are_refused_before_any_work(changed, message, tmp_path):
    with pytest.raises(PatchParityError, match=message):
        benchmark(BenchOptions(**{**SMALL, **changed}, out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_options_travel_as_text_and_back():
    options = BenchOptions(
        **SMALL,
        seed=3,
        call_seconds=7.5,
        generations=2,
        precision_goal=0.01,
        time_budget=9.5,
        out="/tmp/x y",
        resume=True,
    )
    texts = dict(
        argument.removeprefix("--patchparity-").split("=", 1) for argument in options.arguments()
    )
    assert BenchOptions.parse(texts) == options
    with_comma = BenchOptions(
        hosts=("local", "ssh=-o Ciphers=a,b user@box"), pythons=("numpy=/a,b/python",)
    )
    texts = dict(
        argument.removeprefix("--patchparity-").split("=", 1) for argument in with_comma.arguments()
    )
    assert BenchOptions.parse(texts) == with_comma
    with pytest.raises(PatchParityError, match="threads='two': expected numbers"):
        BenchOptions.parse({"threads": "two"})


def test_the_plan_holds_the_reference_its_copy_and_a_gemm_for_each_backend():
    rows = rows_of(
        BenchOptions(cases=("vit-b16-224",), implementations=("torch:conv2d:eager",), threads=(1,))
    )
    assert [(row.implementation, row.role) for row in rows] == [
        ("numpy:linear:eager", "implementation"),
        ("numpy:linear:eager", "overhead"),
        ("torch:conv2d:eager", "implementation"),
        ("torch:conv2d:eager", "overhead"),
        *(
            (f"{name}:{what}", "ceiling")
            for name in ("numpy", "torch")
            for what in ("gemm", "copy")
        ),
        ("numpy:linear:eager", "aa"),
    ]
    assert len({row.identity for row in rows}) == 9
    keras = rows_of(
        BenchOptions(
            cases=("vit-b16-224",),
            implementations=("keras-torch",),
            dtypes=("bfloat16",),
            threads=(1,),
        )
    )
    assert {row.implementation for row in keras if row.role == "ceiling"} == {
        "numpy:peak-float32",
        "numpy:copy",
    }, "Keras's products are torch's"
    narrow = rows_of(
        BenchOptions(
            cases=("vit-b16-224",),
            implementations=("onnxruntime:conv2d",),
            dtypes=("float64",),
            threads=(1,),
        )
    )
    assert {
        row.skip for row in narrow if row.backend == "onnxruntime" and row.role == "implementation"
    } == {get_backend("onnxruntime").missing() or "onnxruntime:conv2d:graph has no float64"}
    assert not any("compile" in row.implementation for row in rows_of(BenchOptions(preset="quick")))
    assert any("compile" in row.implementation for row in rows_of(BenchOptions(preset="full")))
    assert {row.threads for row in rows_of(BenchOptions())} == {usable_cores()}


def test_full_measures_what_it_promises_and_each_row_once():
    rows = rows_of(BenchOptions(preset="full"))
    assert len({row.identity for row in rows}) == len(rows)
    cores = usable_cores()
    main = {row.threads for row in rows if row.case == "vit-b16-224-b8" and row.dtype == "float32"}
    assert main == set(thread_counts(cores))
    assert {row.threads for row in rows if row.case == "vit-b16-224-b64"} == {cores}
    assert {row.dtype for row in rows} == {"float32", "bfloat16", "float16"}
    assert {row.operation for row in rows} >= {"tokens", "sequence", "train-step"}
    compiled = {row.case for row in rows if row.implementation.endswith(":compile")}
    assert compiled == {"vit-b16-224-b8"}
    assert not [row for row in rows if row.case == "vit-b16-224-b256"], "for a GPU alone"


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (16, (1, 2, 4, 8, 16))]
)
def test_thread_counts(cores, counts):
    assert thread_counts(cores) == counts


def test_a_time_budget_without_a_goal_makes_rounds_fewer_and_never_too_few():
    effort = Effort(32, 2, budget_seconds=20.0)
    assert effort.fitting(0.1).rounds == 32
    assert effort.fitting(1.0).rounds == 20
    assert effort.fitting(60.0).rounds == LEAST_ROUNDS
    assert Effort(4, 2, budget_seconds=20.0).fitting(60.0).rounds == 4
    assert Effort(32, 2).fitting(1e6).rounds == 32
    assert Effort(512, goal=0.01, budget_seconds=1.0).fitting(60.0).rounds == 512, (
        "looks are for that"
    )


def test_a_case_that_does_not_fit_into_memory_is_said_beforehand_with_its_bytes(monkeypatch):
    from patchparity.bench.machine.hosts import Machine
    from patchparity.bench.timing import plan as module

    machine = module.machine_of(module.parse_hosts(())[0])
    monkeypatch.setattr(module, "machine_of", lambda host: Machine(machine.environment, 2 * 2**30))
    with pytest.raises(
        PatchParityError,
        match=r"vit-b16-224-b4096 would take about 1\d\d GiB of memory, and 2 GiB are free: choose",
    ):
        rows_of(BenchOptions(cases=("vit-b16-224-b4096",), implementations=("numpy:linear",)))
    rows = rows_of(BenchOptions(preset="full", implementations=("numpy:linear",)))
    skipped = {row.case for row in rows if "of memory, and 2 GiB are free" in row.skip}
    assert "vit-b16-224-b128" in skipped
    assert "vit-b16-224-b1" not in skipped, "a preset's other cases are measured"


@pytest.mark.parametrize("precisions", [("tf32",), ("ieee", "tf32")])
def test_precisions_are_rows_of_their_own_beside_the_reference_as_it_is(precisions):
    rows = rows_of(
        BenchOptions(cases=("vit-ti32-224-b1",), backends=("torch", "numpy"), precisions=precisions)
    )
    assert len({row.identity for row in rows}) == len(rows)
    assert {row.precision for row in rows if row.backend == "numpy"} == {"ieee"}
    held = {row.precision for row in rows if row.implementation == "torch:conv2d:eager"}
    assert held == set(precisions)
    assert len({row.block for row in rows}) == 1, "one interleave, so that precisions are paired"


def test_a_gpu_has_an_a_a_copy_of_its_own(monkeypatch):
    from patchparity.bench.machine.hosts import Machine
    from patchparity.bench.timing import plan as module

    machine = module.machine_of(module.parse_hosts(())[0])
    monkeypatch.setattr(
        module, "machine_of", lambda host: Machine({**machine.environment, "gpus": ["a GPU"]})
    )
    rows = rows_of(
        BenchOptions(cases=("vit-ti32-224-b1",), pythons=("jax=python",), backends=("numpy", "jax"))
    )
    copies = [(row.implementation, row.device, row.worker.copy) for row in rows if row.role == "aa"]
    assert copies == [("numpy:linear:eager", "cpu", 1), ("jax:conv2d:jit", "cuda", 1)]
    own_clock = rows_of(
        BenchOptions(
            cases=("vit-ti32-224-b1",),
            pythons=("jax=python", "torch=python"),
            backends=("jax", "torch"),
        )
    )
    assert [
        row.implementation for row in own_clock if row.role == "aa" and row.device == "cuda"
    ] == ["torch:conv2d:eager"]
    assert len({row.identity for row in rows}) == len(rows)
    full = rows_of(BenchOptions(preset="full", pythons=("jax=python",), backends=("numpy", "jax")))
    assert {row.precision for row in full if row.device == "cuda" and row.dtype == "float32"} == {
        "ieee",
        "tf32",
    }
    assert {row.precision for row in full if row.dtype != "float32"} == {"ieee"}, (
        "the others are precisions of float32"
    )
    assert {row.precision for row in full if row.device == "cpu"} == {"ieee"}
    squares = {row.operation for row in full if row.device == "cuda" and row.role == "ceiling"}
    assert squares == {"gemm", "peak-4096"}, "products of small cases are all launch"
    named = rows_of(
        BenchOptions(
            preset="full", cases=("vit-ti32-224-b1",), backends=("jax",), pythons=("jax=python",)
        )
    )
    assert {(row.device, row.dtype) for row in named} == {
        ("cpu", "float32"),
        ("cuda", "float32"),
    }, "not as a part for GPUs alone"
    assert {row.threads for row in full if row.device == "cuda"} == {machine.cores}, (
        "once, not for every number of CPU threads"
    )
    both = rows_of(
        BenchOptions(
            cases=("vit-ti32-224-b1",), threads=(1, 2), backends=("jax",), pythons=("jax=python",)
        )
    )
    assert {(row.device, row.threads) for row in both} == {("cpu", 1), ("cpu", 2), ("cuda", 2)}
    assert (full[0].case, full[0].dtype) == ("vit-b16-224-b256", "bfloat16"), (
        "what decides comes first, where time is dear"
    )
    sweep = {row.case for row in full if (row.device, row.dtype) == ("cuda", "bfloat16")}
    assert {f"vit-b16-224-b{2**power}" for power in range(9)} <= sweep
    assert "vit-b16-224-b256" not in {
        row.case
        for row in full
        if row.device == "cpu" and row.role not in ("aa",) and row.backend != "numpy"
    }


def test_bytes_are_timed_where_somebody_asks_for_them_in_the_interleave_of_the_others():
    def planned(**changes):
        rows = rows_of(BenchOptions(**{"cases": ("vit-ti32-224-b2",), "threads": (1,), **changes}))
        return {(row.implementation, row.operation, row.role) for row in rows if not row.skip}

    of_bytes = ("numpy:linear_uint8:eager", "numpy:naive_uint8:eager")
    for preset in ("smoke", "quick", "full"):
        plain = planned(preset=preset, backends=("numpy",))
        assert not {name for name, operation, _ in plain if operation == "uint8"}
    asked = planned(backends=("numpy",), operations=("uint8",))
    assert {(name, "uint8", "implementation") for name in of_bytes} <= asked
    assert ("numpy:linear:eager", "tokens", "implementation") in asked
    named = planned(implementations=("numpy:naive_uint8",))
    assert {(name, "uint8", "implementation") for name in of_bytes} <= named
    for rows in (asked, named):
        assert ("numpy:linear_uint8:eager", "uint8", "aa") in rows
        assert not {row for row in rows if row[0] in of_bytes and row[1] != "uint8"}
        assert not {row for row in rows if row[0] not in of_bytes and row[1] == "uint8"}


def test_bytes_of_sizes_that_pad_are_skipped_with_the_reason():
    rows = rows_of(
        BenchOptions(
            cases=("segformer-k7s4p3-224-b4",),
            threads=(1,),
            backends=("numpy",),
            operations=("uint8",),
        )
    )
    skipped = [row for row in rows if row.operation == "uint8"]
    assert len(skipped) == 3
    assert all("padding behind normalization" in row.skip for row in skipped)


def test_bytes_move_a_byte_for_a_pixel():
    case = named_case("vit-ti32-224-b2")
    tokens, least = row_work("tokens", case, 4)
    assert row_work("uint8", case, 4) == (tokens, least - 3 * 2 * 3 * 224 * 224)
