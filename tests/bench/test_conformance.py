"""`check`: results and contract, the verdict on a wrong adapter, skips, errors, pictures."""

import contextlib
import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import patchparity
from patchparity import PatchEmbedWeights, PatchParityError, check, get_backend
from patchparity.backends.base import Implementation
from patchparity.bench.check import photographs as pictures
from patchparity.bench.check import suite as conformance
from patchparity.bench.check.behavior import BEHAVIORS
from patchparity.bench.check.results import CheckReport, CheckResult, load_check
from patchparity.bench.check.shapes import CHECK_CASES
from patchparity.bench.check.tables import false_alarms
from patchparity.reference.pipeline import round_to_bits

from ..fake_backends import AGED, FRAGILE, WRONG

FIELDS = {
    "implementation",
    "backend",
    "formulation",
    "mode",
    "device",
    "dtype",
    "precision",
    "case",
    "probe",
    "direction",
    "verdict",
    "bound_ratio",
    "effective_bits",
    "message",
    "declared",
    "delivered",
}
PIXELS = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    """Backends that are made up here are known to this process alone."""

    def known_here_alone(work):
        packages = [get_backend(check.backend).packages for check in work]
        return packages == [("numpy",)]

    monkeypatch.setattr(conformance, "_runs_here", known_here_alone)


@pytest.fixture
def with_fakes(monkeypatch):
    """Let the fake backends be found, as if an entry point had named them."""
    from patchparity.backends import registry

    found, broken = registry._discovered()
    monkeypatch.setattr(
        registry,
        "_discovered",
        lambda: ({**found, "aged": AGED, "wrong": WRONG, "fragile": FRAGILE}, broken),
    )


@pytest.fixture(scope="module")
def numpy_report() -> CheckReport:
    return check(backends=["numpy"], image=PIXELS)


@pytest.mark.anywhere
def test_numpy_passes_everything(numpy_report):
    assert numpy_report.ok
    judged = [result for result in numpy_report.results if result.verdict != "skip"]
    assert numpy_report.summary == {
        "pass": len(judged),
        "fail": 0,
        "known": 0,
        "skip": 8,
        "error": 0,
    }
    skipped = [result for result in numpy_report.results if result.verdict == "skip"]
    alone = "is no formulation of its own, so only c3-b3 is checked: --every-case for all"
    variants = ("linear_nchw", "block", "linear_uint8", "naive_uint8")
    assert [row.formulation for row in skipped if row.message == alone] == list(variants)
    others = [row for row in skipped if row.message != alone]
    assert {row.formulation for row in others} == {"linear_uint8", "naive_uint8"}
    assert all("takes raw pixels" in row.message or "are bytes" in row.message for row in others)
    seen = {
        name: {getattr(result, name) for result in judged}
        for name in ("dtype", "direction", "probe", "case", "device")
    }
    assert seen["dtype"] == {"float32", "float64", "bfloat16", "float16"}
    assert seen["direction"] == {"forward", "grad_image", "grad_kernel", "grad_bias"}
    assert seen["probe"] == {
        "identity-kernel",
        "one-hot-images",
        "bounded-integers",
        "mantissa-ladder",
        "wide-range",
        "swamping",
        "random",
        "random-zero-bias",
        "random-0.001",
        "random-1000",
        "random-no-bias",
        "random-bytes",
        "random-bytes-zero-bias",
        "random-bytes-no-bias",
        "photograph",
        *BEHAVIORS,
    }
    assert len(seen["case"]) == 12, "ten shapes, the picture, and that of the behaviors"
    assert seen["device"] == {"cpu"}


@pytest.mark.anywhere
def test_types_are_checked_where_they_tell_something_new(numpy_report):
    def cases(report, dtype):
        return {r.case for r in report.results if r.dtype == dtype and r.behavior is None}

    every = {case.name for case in CHECK_CASES} | {"photograph"}
    assert cases(numpy_report, "float32") == every
    assert cases(numpy_report, "float64") == {
        "c3-b3",
        "overlap-k7s4p3",
        "vit-b16-224",
        "long-k12288",
        "photograph",
    }
    assert (
        cases(numpy_report, "bfloat16")
        == cases(numpy_report, "float16")
        == {"c3-b3", "overlap-k7s4p3"}
    )
    assert cases(check(backends=["numpy"], dtypes=["float64"], image=PIXELS), "float64") == every


def test_check_json_keeps_its_contract(numpy_report, tmp_path):
    numpy_report.save(tmp_path / "check.json")
    content = json.loads(
        (tmp_path / "check.json").read_text(),
        parse_constant=lambda name: pytest.fail(f"{name} is no JSON"),
    )
    assert content["schema"] == "patchparity.check/1"
    assert set(content["summary"]) == {"pass", "fail", "known", "skip", "error"}
    judged = [row for row in content["results"] if row["case"] != "behavior"]
    assert all(set(row) == FIELDS for row in judged)
    assert {row["bound_ratio"] is None for row in judged if row["verdict"] != "skip"} == {False}
    found = [row for row in content["results"] if row["case"] == "behavior"]
    assert all(set(row) == FIELDS | {"behavior"} for row in found)
    assert content["environment"]["versions"]["numpy"] == np.__version__
    for name in (
        "processor",
        "cores",
        "memory_bytes",
        "gpus",
        "blas",
        "blas_kernels",
        "variables",
        "python",
        "platform",
    ):
        assert name in content["environment"]
    assert load_check(tmp_path / "check.json").to_dict() == content


def test_a_kernel_in_the_wrong_layout_fails_every_probe_but_its_bias(with_fakes):
    report = check(backends=["wrong"], dtypes=["float32"], image=PIXELS)
    assert not report.ok
    verdicts = {}
    judged = [result for result in report.results if result.behavior is None]
    for result in judged:
        verdicts.setdefault((result.direction, result.verdict), []).append(result)
    color = [
        result
        for result in verdicts["forward", "fail"]
        if result.case != "c1-b1" and result.probe != "swamping"
    ]
    assert {result.probe for result in color} == {
        "identity-kernel",
        "one-hot-images",
        "bounded-integers",
        "mantissa-ladder",
        "wide-range",
        "random",
        "random-zero-bias",
        "random-0.001",
        "random-1000",
        "random-no-bias",
        "photograph",
    }
    blind = [
        result
        for result in judged
        if result.verdict == "pass" and result.direction == "forward" and result.case != "c1-b1"
    ]
    assert {result.probe for result in blind} <= {"swamping"}, (
        "with one channel the orders are the same; flat images show no layout"
    )
    assert ("grad_bias", "fail") not in verdicts
    assert all(result.message for result in report.results if result.verdict == "fail")


def test_what_an_implementation_raises_is_one_error_row_a_shape(with_fakes):
    report = check(implementations=["fragile:raises"], dtypes=["float64"], image=PIXELS)
    assert report.summary["error"] == 11
    assert {result.message for result in report.results} == {
        "RuntimeError: no kernel image is available"
    }
    assert not report.ok


def test_missing_frameworks_are_skips_that_name_the_extra(monkeypatch):
    find_spec = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name: (
            None if name in ("torch", "tensorflow", "jax", "onnxruntime") else find_spec(name)
        ),
    )
    report = check(dtypes=["float32"], image=PIXELS)
    assert report.ok
    skipped = {
        result.implementation: result.message
        for result in report.results
        if result.verdict == "skip"
    }
    assert "pip install 'patchparity[torch]'" in skipped["torch:conv2d:eager"]
    assert "pip install 'patchparity[tensorflow]'" in skipped["tensorflow:keras_conv2d:graph"]
    assert "pip install 'patchparity[jax]'" in skipped["jax:linear:jit"]
    with pytest.raises(
        PatchParityError,
        match=r"backend 'torch' was asked for, but torch is not installed: pip install "
        r"'patchparity\[torch\]'",
    ):
        check(backends=["torch"])


def test_no_default_picture_is_a_skip_that_says_so(monkeypatch):
    import builtins

    real_import = builtins.__import__

    def without_skimage(name, *arguments, **keywords):
        if name.startswith("skimage"):
            raise ImportError(name)
        return real_import(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_skimage)
    report = check(implementations=["numpy:linear:eager"], dtypes=["float32"])
    (skip,) = [result for result in report.results if result.verdict == "skip"]
    assert skip.probe == "photograph"
    assert "patchparity[images]" in skip.message


def test_a_device_that_is_asked_for_and_absent_is_a_misuse():
    with pytest.raises(
        PatchParityError,
        match="device 'cuda' was asked for, but no backend that is installed and selected has it "
        "here",
    ):
        check(backends=["numpy"], devices=["cuda"], image=PIXELS)
    with pytest.raises(
        PatchParityError, match="device 'tpu' is unknown; expected one of cpu, cuda"
    ):
        check(backends=["numpy"], devices=["tpu"])


class InPlaceBackend(type(WRONG).__base__):
    """Rounds its inputs to bfloat16 in place, where they lie."""

    name = "in-place"
    implementations = (
        Implementation("in-place", "linear", "eager"),
        Implementation("in-place", "honest", "eager"),
    )

    def spoil(self, loaded, formulation):
        if formulation == "honest":
            return loaded
        call = loaded.call

        def rounded(inputs):
            inputs[...] = inputs.astype(ml_dtypes.bfloat16)
            return call(inputs)

        loaded.call = rounded
        return loaded


class ForgetfulBackend(type(WRONG).__base__):
    """Right on the first call after weights were assigned, zero afterwards."""

    name = "forgetful"
    implementations = (
        Implementation("forgetful", "linear", "eager"),
        Implementation("forgetful", "honest", "eager"),
    )

    def spoil(self, loaded, formulation):
        if formulation == "honest":
            return loaded
        call, assign, calls = loaded.call, loaded.assign, []
        loaded.call = lambda inputs: (
            call(inputs) * inputs.dtype.type(not calls.append(1) and len(calls) == 1)
        )
        loaded.assign = lambda weights: (calls.clear(), assign(weights))
        return loaded


@pytest.mark.anywhere
@pytest.mark.parametrize(
    "backend", [InPlaceBackend(), ForgetfulBackend()], ids=lambda backend: backend.name
)
def test_no_implementation_can_change_the_problem_or_be_right_once(backend, monkeypatch):
    from patchparity.backends import registry

    found, broken = registry._discovered()
    monkeypatch.setattr(registry, "_discovered", lambda: ({**found, backend.name: backend}, broken))
    report = check(backends=[backend.name], dtypes=["float32"], image=PIXELS)
    verdicts = {
        name: {r.verdict for r in report.results if r.formulation == name}
        for name in ("linear", "honest")
    }
    assert verdicts["honest"] == {"pass"}, "what runs later is judged by the same truth"
    assert verdicts["linear"] & {"fail", "error"}


class NarrowBackend(type(WRONG).__base__):
    """Rounds the images and the kernel of its products to TF32, or (formulation `bf16`) to
    bfloat16."""

    name = "narrow"
    implementations = tuple(
        Implementation("narrow", what, "eager") for what in ("tf32", "bf16", "float32")
    )
    rounding = {
        "tf32": lambda x: round_to_bits(x, 10),
        "bf16": lambda x: round_to_bits(x, 7),
        "float32": lambda x: x,
    }

    def lacks(self, precision, device):
        return None

    def precision(self, precision):
        return contextlib.nullcontext()

    def spoil(self, loaded, formulation):
        call, assign, rounded = loaded.call, loaded.assign, self.rounding[formulation]
        loaded.call = lambda inputs: call(rounded(inputs))
        loaded.assign = lambda weights: assign(
            PatchEmbedWeights(rounded(weights.kernel), weights.bias)
        )
        loaded.assign(loaded.weights)
        loaded.gradients = lambda images, grad: type(loaded).gradients(
            loaded, rounded(images), rounded(grad)
        )
        return loaded


@pytest.mark.anywhere
def test_declared_precision_is_compared_with_what_was_delivered(monkeypatch):
    from patchparity.backends import registry

    found, broken = registry._discovered()
    narrow = NarrowBackend()
    monkeypatch.setattr(registry, "_discovered", lambda: ({**found, "narrow": narrow}, broken))

    def verdicts(name, precision):
        report = check(
            implementations=[f"narrow:{name}"],
            dtypes=["float32"],
            precisions=[precision],
            image=PIXELS,
        )
        fingerprint = [r for r in report.results if r.probe == "random-zero-bias"]
        return (
            report.ok,
            {(r.declared, r.delivered) for r in fingerprint},
            {r.message for r in fingerprint},
        )

    ok, told, messages = verdicts("tf32", "ieee")
    assert (ok, told) == (False, {("float32", "TF32 or float16 inputs")})
    assert all(
        "declared float32, delivered TF32 or float16 inputs: 11." in message for message in messages
    )
    assert verdicts("bf16", "ieee")[:2] == (False, {("float32", "bfloat16 inputs")})
    assert verdicts("tf32", "tf32")[:2] == (True, {("TF32 inputs", "TF32 or float16 inputs")})
    assert verdicts("bf16", "tf32")[:2] == (False, {("TF32 inputs", "bfloat16 inputs")})
    assert verdicts("bf16", "bf16")[:2] == (True, {("bfloat16 inputs", "bfloat16 inputs")})
    assert verdicts("float32", "tf32")[:2] == (True, {("TF32 inputs", "float32")}), (
        "better than declared is fine, and is told"
    )


class UnluckyBackend(type(WRONG).__base__):
    """Right but at one seed: where the first random image value lies in a narrow interval, a token
    is off by a millionth."""

    name = "unlucky"
    implementations = (Implementation("unlucky", "linear", "eager"),)
    first = -0.11

    def spoil(self, loaded, formulation):
        call = loaded.call
        unlucky = abs(np.float32(self.first))
        loaded.call = lambda inputs: (
            call(inputs) * np.float32(1 + 1e-5 * (abs(inputs.flat[0]) == unlucky))
        )
        return loaded


def test_seeds_are_gone_through_and_one_that_fails_is_named(monkeypatch):
    from patchparity.backends import registry
    from patchparity.reference.probes import standard_probes

    probe = next(
        p
        for p in standard_probes(CHECK_CASES[0].spec, CHECK_CASES[0].batch, "float32", 7)
        if p.name == "random"
    )
    UnluckyBackend.first = float(probe.images.flat[0])
    found, broken = registry._discovered()
    monkeypatch.setattr(
        registry, "_discovered", lambda: ({**found, "unlucky": UnluckyBackend()}, broken)
    )
    report = check(backends=["unlucky"], dtypes=["float32"], precisions=["ieee"], seed=5, seeds=4)
    wrong = [result for result in report.results if result.verdict == "fail"]
    assert {(result.probe, result.direction, result.message.split(":")[0]) for result in wrong} >= {
        ("random", "forward", "seed 7")
    }
    assert {result.message.split(":")[0] for result in wrong} == {"seed 7"}
    passed = {
        (result.probe, result.direction): result.seeds
        for result in report.results
        if result.verdict == "pass"
    }
    assert passed["random", "forward"] == 3, "of four, one failed"
    assert passed["swamping", "forward"] == 4
    assert {result.case for result in report.results} == {"c3-b3"}
    told = false_alarms(report.results)
    assert f"{4 * 19} verdicts on 1 implementations over 4 seeds: {len(wrong)} rejected" in told
    whole = check(backends=["numpy"], dtypes=["bfloat16"], image=PIXELS)
    assert false_alarms(whole.results) == ""


def test_the_worst_of_all_seeds_is_what_is_told():
    reports = [
        check(
            implementations=["numpy:linear"],
            dtypes=["float32"],
            precisions=["ieee"],
            seed=seed,
            seeds=seeds,
        )
        for seed, seeds in ((3, 2), (3, 3))
    ]
    two, three = ({(r.probe, r.direction): r for r in report.results} for report in reports)
    assert all(three[key].bound_ratio >= two[key].bound_ratio for key in two)
    assert any(three[key].bound_ratio > two[key].bound_ratio for key in two)
    bits = [table["random-zero-bias", "forward"].effective_bits for table in (two, three)]
    assert bits[1] <= bits[0]
    with pytest.raises(PatchParityError, match="seeds=0: expected"):
        check(backends=["numpy"], seeds=0)


def test_a_precision_that_a_framework_lacks_is_a_skip_that_says_so():
    report = check(backends=["numpy"], precisions=["tf32"], image=PIXELS)
    assert {(r.verdict, r.message) for r in report.results} >= {
        ("skip", "NumPy has no tf32 mode: it computes float32 as it is")
    }
    with pytest.raises(PatchParityError, match="precision 'fp8' is unknown"):
        check(precisions=["fp8"])


@pytest.mark.usefixtures("with_fakes")
def test_a_dtype_that_this_machine_lacks_is_one_skip_that_says_so():
    report = check(backends=["aged"], dtypes=["float32", "bfloat16"], image=PIXELS)
    skips = [
        (r.implementation, r.device, r.dtype, r.message)
        for r in report.results
        if r.verdict == "skip"
    ]
    assert skips == [
        ("aged:linear:eager", "cpu", "bfloat16", "aged:linear:eager has no bfloat16 on this CPU")
    ]
    assert report.ok
    assert {r.dtype for r in report.results if r.verdict == "pass"} == {"float32"}


def test_progress_is_told_of_every_unit():
    told = []
    check(
        backends=["numpy"],
        dtypes=["float32"],
        image=PIXELS,
        progress=lambda *news: told.append(news),
    )
    assert [done for done, _, _ in told] == list(range(45))
    assert {total for _, total, _ in told} == {44}, (
        "33 at ieee, one of each of the four variants, and one for each implementation at the "
        "default precision"
    )


def test_exact_failures_are_null_in_json_not_infinity(tmp_path):
    report = CheckReport(
        [CheckResult("a:b:c", "a", verdict="fail", bound_ratio=math.inf, effective_bits=-math.inf)]
    )
    report.save(tmp_path / "check.json")
    (row,) = json.loads((tmp_path / "check.json").read_text())["results"]
    assert row["bound_ratio"] is None
    assert row["effective_bits"] is None


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (
            PIXELS[:30],
            r"image photograph of shape \(30, 48, 3\): .*does not divide .*expected for instance "
            r"16 or 32",
        ),
        (
            PIXELS[..., :2],
            r"image array of shape \(32, 48, 2\): expected .* with 1, 3 or 4 channels",
        ),
        (
            np.full((32, 48), np.nan),
            r"image array of shape \(32, 48\) holds 1536 NaN or infinite values",
        ),
        (PIXELS.astype(complex), "dtype complex128: expected integers or floats"),
        (PIXELS / 128, r"image array holds floats from 0 to 1.99\d*: expected 0 to 1"),
        (
            PIXELS.astype(int) - 5,
            "image array holds integers from -5 to 250: expected 0 to 255, or 0 to 65535",
        ),
        (PIXELS[:0], r"image array of shape \(0, 48, 3\)"),
    ],
)
def test_pictures_that_do_not_fit(pixels, message):
    with pytest.raises(PatchParityError, match=message):
        check(backends=["numpy"], image=pixels)


def test_pictures_from_files(tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.fromarray(PIXELS).save(tmp_path / "color.png")
    image.fromarray(PIXELS).convert("P").save(tmp_path / "palette.png")
    image.fromarray(PIXELS[..., 0]).save(tmp_path / "gray.png")
    np.save(tmp_path / "array.npy", PIXELS / 255)
    assert (pictures.read_image(tmp_path / "color.png") == PIXELS).all()
    assert pictures.read_image(tmp_path / "palette.png").shape == PIXELS.shape
    for name, channels in (("gray.png", 1), ("array.npy", 3)):
        report = check(implementations=["numpy:linear"], dtypes=["float32"], image=tmp_path / name)
        assert report.ok
        assert f"photograph:{name}" in {result.case for result in report.results}, channels
    wide = np.random.default_rng(1).integers(0, 65536, (32, 48), dtype=np.uint16)
    image.fromarray(wide).save(tmp_path / "wide.png")
    assert (pictures.read_image(tmp_path / "wide.png") == wide).all(), (
        "16-bit pictures keep their values"
    )
    image.fromarray((PIXELS[..., 0] / 255).astype(np.float32)).save(tmp_path / "float.tiff")
    assert pictures.read_image(tmp_path / "float.tiff").max() > 0.9
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object))
    for name in ("broken.png", "absent.png", "object.npy", "empty.npy"):
        with pytest.raises(PatchParityError, match="cannot read"):
            check(backends=["numpy"], image=tmp_path / name)


def test_integers_of_any_type_are_the_picture_that_they_hold():
    for kind in (np.int64, np.int32, np.uint16):
        pixels, _ = pictures.find_picture(PIXELS.astype(kind))[0]
        assert (pixels == PIXELS).all()
        assert pixels.dtype == (np.uint16 if kind == np.uint16 else np.uint8)


@pytest.mark.anywhere
def test_remainder_lets_any_size_through():
    for remainder in ("floor", "pad-end", "same"):
        assert check(
            backends=["numpy"], dtypes=["float32"], image=PIXELS[:30, :41], remainder=remainder
        ).ok


def test_unknown_names():
    with pytest.raises(
        PatchParityError,
        match=r"dtype 'float8' is unknown.*; expected one of float32, float64, bfloat16, float16",
    ):
        check(dtypes=["float8"])
    with pytest.raises(PatchParityError, match="backend 'theano' is unknown"):
        check(backends=["theano"])


def test_save_names_a_folder_that_cannot_be_written(numpy_report, tmp_path):
    with pytest.raises(PatchParityError, match=r"cannot write .*No such file"):
        numpy_report.save(tmp_path / "no" / "check.json")
    with pytest.raises(PatchParityError, match=r"is no patchparity.check/1 file"):
        load_check(Path(patchparity.__file__))


@pytest.mark.anywhere
def test_negative_controls_are_results_with_mistake_and_killers(tmp_path):
    report = conformance.check_controls(dtypes=["bfloat16"])
    assert report.ok
    report.save(tmp_path / "controls.json")
    content = json.loads((tmp_path / "controls.json").read_text())
    assert all(set(row) == FIELDS | {"mistake", "killed_by"} for row in content["results"])
    assert {row["verdict"] for row in content["results"]} == {"pass", "known"}
    assert all(row["message"] for row in content["results"] if row["verdict"] == "known")
    with pytest.raises(PatchParityError, match="dtype 'int8' is unknown"):
        conformance.check_controls(dtypes=["int8"])
