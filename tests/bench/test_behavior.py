"""Behavior as found, known issues as data: every behavior can surprise, every entry can go
stale."""

import dataclasses

import numpy as np
import pytest

from patchparity import PatchParityError, get_backend, list_backends, list_implementations
from patchparity.bench.check import behavior
from patchparity.bench.check.behavior import (
    BEHAVIORS,
    FRAMEWORK_BEHAVIORS,
    IMPLEMENTATION_BEHAVIORS,
    SPEC,
)
from patchparity.bench.check.known_issues import (
    KNOWN_ISSUES,
    KnownIssue,
    apply_known_issues,
    load_known_issues,
)
from patchparity.bench.check.results import CheckResult
from patchparity.bench.check.sharding import (
    QUESTIONS,
    RIGHT,
    SHARDED_BEHAVIORS,
    ask_sharded,
)

PROBLEM = behavior.problem(seed=4)


def loaded(spoil=None):
    backend = get_backend("numpy")
    found = backend.load(backend.implementations[0], PROBLEM.weights, SPEC, "float32", "cpu")
    if spoil is not None:
        tokens = found.unchecked_tokens
        found.unchecked_tokens = lambda images: spoil(tokens, images)
    return found


def spoil_nan(tokens, images):
    result = tokens(images)
    return result + 0 * result.sum(axis=1, keepdims=True)


def swallow(tokens, images):
    return tokens(np.nan_to_num(images))


def flush(tokens, images):
    return tokens(np.where(np.abs(images) < np.finfo(np.float32).tiny, 0, images))


def lose_the_batch(tokens, images):
    return tokens(images) if len(images) else np.zeros((0, 3, 18, 20), np.float32)


def refuse_nothing(tokens, images):
    return tokens(images[:, :, :18, :20])[:, :-1] if images.shape[2] > 18 else tokens(images)


CALLS = []


def drift(tokens, images):
    CALLS.append(1)
    return np.nextafter(tokens(images), np.float32(len(CALLS) % 2 * 99))


def mix_the_batch(tokens, images):
    result = tokens(images)
    return result + result.mean(axis=0, keepdims=True)


def lose_the_late_ones(tokens, images):
    result = tokens(images)
    result[5:] = 0
    return result


def memory_order(tokens, images):
    return tokens(
        np.frombuffer(np.ascontiguousarray(images).tobytes(), np.float32).reshape(images.shape)
    )


def base_memory(tokens, images):
    """Read the base of a view, as code does that takes the pointer and forgets the strides."""
    source = images if images.base is None else images.base
    return tokens(np.resize(source, images.shape).astype(np.float32))


def coarsen_each(tokens, images):
    """Integers with one step an image."""
    steps = np.abs(images).max(axis=(1, 2, 3), keepdims=True, initial=1e-9) / 127
    return tokens((np.rint(images / steps) * steps).astype(np.float32))


def coarsen_all(tokens, images):
    """Integers with one step for all images."""
    step = np.abs(images).max(initial=1e-9) / 127
    return tokens((np.rint(images / step) * step).astype(np.float32))


def make_tokens_of_nothing(tokens, images):
    short = images.shape[2] < SPEC.patch_size[0]
    return np.zeros((3, 5, 72), np.float32) if short else tokens(images)


def coarsen_results(tokens, images):
    """Integers with one step for all tokens."""
    result = tokens(images)
    step = np.abs(result).max(initial=1e-9) / 127
    return (np.rint(result / step) * step).astype(np.float32)


def cut_off(tokens, images):
    """What one-hot images read of a kernel, cut off at float16."""
    result = tokens(images)
    short = result.astype(np.float16)
    return np.where(
        np.abs(short.astype(np.float32)) > np.abs(result), np.nextafter(short, 0), short
    ).astype(np.float32)


def written(tokens, images):
    images[0, 0, 0, 0] += 0
    return tokens(images)


@pytest.mark.parametrize(
    ("name", "spoil", "found"),
    [
        ("nan-containment", spoil_nan, "spreads"),
        ("nan-containment", swallow, "swallowed"),
        ("infinity", swallow, "turned finite"),
        ("subnormals", flush, "flushed"),
        ("zero-batch", lose_the_batch, "shape (0, 3, 18, 20) for (0, 15, 72)"),
        ("not-dividing", refuse_nothing, "shape (3, 14, 72)"),
        ("repeatability", drift, "differs"),
        ("batch-invariance", mix_the_batch, "differs"),
        ("batch-sizes", lose_the_late_ones, "differs at 7"),
        ("outlier-pixel", coarsen_each, "its image"),
        ("outlier-pixel", coarsen_all, "every image"),
        ("lower-than-patch", make_tokens_of_nothing, "shape (3, 5, 72)"),
        ("stored-kernel", cut_off, "float16, cut off toward zero"),
        ("channel-scales", coarsen_results, "those of 2 of 3 scales lost"),
        ("input-strided", base_memory, "differs"),
        ("input-reversed", base_memory, "differs"),
        ("input-read-only", written, "raises ValueError"),
        ("input-big-endian", memory_order, "differs"),
    ],
)
def test_every_behavior_can_surprise(name, spoil, found):
    asked = BEHAVIORS[name]
    assert behavior.is_expected(asked, behavior.find(asked, loaded(), PROBLEM))
    observed = behavior.find(asked, loaded(spoil), PROBLEM)
    assert observed == found
    assert not behavior.is_expected(asked, observed)


@pytest.mark.parametrize("asked", FRAMEWORK_BEHAVIORS, ids=lambda asked: asked.name)
def test_what_a_framework_refuses_or_changes_is_seen(asked):
    class Picky(type(get_backend("numpy"))):
        def adopt(self, array):
            return array.astype(np.float16).astype(np.float32) * 0

        def cast_and_back(self, array):
            return array

        def convolve(self, images, kernel):
            return np.ones((2, len(kernel) + 1, 2, 3), np.float32)

    assert behavior.find(asked, get_backend("numpy")) in (
        "taken",
        "rounds",
        "has no convolution",
    )
    assert not behavior.is_expected(asked, behavior.find(asked, Picky()))


def backends_of_this_process():
    """Those installed; of Keras's frameworks one alone can be had."""
    own = [
        backend
        for backend in list_backends()
        if not all(each.peer for each in backend.implementations)
    ]
    present = [backend for backend in own if not backend.missing()]
    return [
        backend
        for backend in present
        if not (backend.name.startswith("keras-") or is_sharded(backend))
        or not backend.unavailable(backend.implementations[0])
    ]


def is_sharded(backend):
    return all(each.sharded for each in backend.implementations)


def everything_found() -> list[CheckResult]:
    results = []
    for backend, implementation in list_implementations():
        asked = implementation.sharded or not implementation.minor
        if backend.missing() or not asked or backend.unavailable(implementation):
            continue
        if implementation.sharded:
            found = [ask_sharded(each, backend, implementation) for each in QUESTIONS]
            results += [
                CheckResult(implementation.name, backend.name, device="cpu", **finding)
                for finding in found
            ]
            if implementation.minor or found[0]["behavior"] != RIGHT:
                continue
        with backend.precision("ieee"):
            ready = backend.load(implementation, PROBLEM.weights, SPEC, "float32", "cpu")
            for each in IMPLEMENTATION_BEHAVIORS:
                finding = behavior.ask(each, ready, PROBLEM)
                results.append(
                    CheckResult(implementation.name, backend.name, device="cpu", **finding)
                )
    for backend in backends_of_this_process():
        if is_sharded(backend):
            continue
        found = [behavior.ask(each, backend) for each in FRAMEWORK_BEHAVIORS]
        results += [
            CheckResult(backend.name, backend.name, device="cpu", **finding) for finding in found
        ]
    return results


def test_every_surprise_is_known_and_every_entry_reproduces():
    results = apply_known_issues(everything_found(), load_known_issues(), list_backends())
    assert [
        (result.implementation, result.message) for result in results if result.verdict == "fail"
    ] == []
    asked = {backend.name for backend in backends_of_this_process()}
    expected = {
        issue.id
        for issue in load_known_issues()
        if issue.probe in {*BEHAVIORS, *SHARDED_BEHAVIORS}
        and {name.split(":")[0] for name in issue.implementations} & asked
        and not all(
            each.costly_compile for _, each in list_implementations() if issue.covers(each.name)
        )
        and issue.applies(
            {
                name: version
                for backend in list_backends()
                for name, version in backend.versions().items()
            }
        )
    }
    assert {
        result.message.split(":")[0] for result in results if result.verdict == "known"
    } == expected


ISSUE = KnownIssue(
    "flushes", ("numpy:linear",), "subnormals", "flushed", {"numpy": ">=1"}, "a reason"
)


def outcome(issue, found="flushed", implementation="numpy:linear:eager", device="cpu"):
    asked = BEHAVIORS["subnormals"]
    verdict = "pass" if behavior.is_expected(asked, found) else "fail"
    result = CheckResult(
        implementation, "numpy", device=device, probe="subnormals", behavior=found, verdict=verdict
    )
    return [
        (each.verdict, each.message)
        for each in apply_known_issues([result], [issue], list_backends())
    ]


def test_an_entry_covers_what_it_names_and_nothing_else():
    assert outcome(ISSUE) == [("known", "flushes: a reason")]
    assert outcome(dataclasses.replace(ISSUE, link="https://example.org")) == [
        ("known", "flushes: a reason (https://example.org)")
    ]
    assert outcome(ISSUE, implementation="numpy:conv2d:eager") == [("fail", "")]
    assert outcome(dataclasses.replace(ISSUE, versions={"numpy": "<1"})) == [("fail", "")]
    assert outcome(dataclasses.replace(ISSUE, versions={"no-such-package": ">=1"})) == [
        ("fail", "")
    ]
    assert outcome(dataclasses.replace(ISSUE, machines=("vax",))) == [("fail", "")]
    assert outcome(dataclasses.replace(ISSUE, devices=("cuda",))) == [("fail", "")]


@pytest.mark.parametrize(
    ("fields", "features", "verdict"),
    [
        (dict(cpu_lacks=("avx512f", "amx_tile")), {"avx2"}, "known"),
        (dict(cpu_lacks=("avx512f", "amx_tile")), {"avx2", "avx512f"}, "fail"),
        (dict(cpu_has=("avx512f", "amx_tile")), {"avx2", "avx512f"}, "known"),
        (dict(cpu_has=("avx512f", "amx_tile")), {"avx2"}, "fail"),
        (dict(cpu_has=("avx2",), cpu_lacks=("avx512f",)), {"avx2", "avx512f"}, "fail"),
        (dict(cpu_lacks=("avx512f",)), None, "fail"),
        (dict(cpu_has=("avx512f",)), None, "fail"),
        ({}, None, "known"),
    ],
)
def test_an_entry_may_be_about_cpus_with_or_without_an_instruction_set(
    fields, features, verdict, monkeypatch
):
    monkeypatch.setattr("patchparity.bench.check.known_issues.processor_features", lambda: features)
    assert outcome(dataclasses.replace(ISSUE, **fields))[0][0] == verdict


def test_a_variable_may_avoid_an_issue(monkeypatch):
    avoided = dataclasses.replace(ISSUE, unless={"PATCHPARITY_TEST_AVOID": "0"})
    assert outcome(avoided)[0][0] == "known"
    monkeypatch.setenv("PATCHPARITY_TEST_AVOID", "0")
    assert outcome(avoided, found="kept") == [("pass", "")], (
        "it does not reproduce, and nobody said that it would"
    )


def test_an_entry_that_no_longer_reproduces_or_names_nothing_fails():
    passed, stale = outcome(ISSUE, found="kept")
    assert passed == ("pass", "")
    assert stale[0] == "fail"
    assert "known issue flushes no longer reproduces here: found 'kept', not 'flushed'" in stale[1]
    assert [verdict for verdict, _ in outcome(ISSUE, found="wrong")] == ["fail", "fail"]
    for wrong in (dict(implementations=("numpy:conv3d",)), dict(probe="subnormal")):
        told = outcome(dataclasses.replace(ISSUE, **wrong))
        assert ("fail", "known issue flushes names nothing that is there") in told


NARROW = KnownIssue(
    "narrow",
    ("numpy:linear",),
    "random-zero-bias",
    "float32",
    {"numpy": ">=1"},
    "a reason",
    dtype="float64",
)


def test_an_entry_about_delivered_arithmetic_explains_every_failure_of_its_cause_and_no_other():
    def row(
        verdict="fail",
        probe="random",
        dtype="float64",
        delivered=None,
        implementation="numpy:linear:eager",
        **other,
    ):
        return CheckResult(
            implementation,
            "numpy",
            device="cpu",
            dtype=dtype,
            precision="ieee",
            probe=probe,
            verdict=verdict,
            delivered=delivered,
            **other,
        )

    def verdicts(*rows):
        return [
            result.verdict for result in apply_known_issues(list(rows), [NARROW], list_backends())
        ]

    fingerprint = row(probe="random-zero-bias", delivered="float32")
    others = (
        row(dtype="float32"),
        row(implementation="numpy:conv2d:eager"),
        row(probe="subnormals", behavior="flushed"),
    )
    assert verdicts(row(), row(verdict="pass"), fingerprint) == ["known", "pass", "known"]
    of_bytes = row(probe="random-bytes-zero-bias", delivered="float32")
    assert verdicts(row(probe="random-bytes"), of_bytes) == ["known", "known"]
    assert verdicts(fingerprint, *others) == ["known", "fail", "fail", "fail"]
    assert verdicts(row(), row(probe="random-zero-bias", delivered="bfloat16 inputs")) == [
        "fail",
        "fail",
        "fail",
    ], "another cause"
    mended = verdicts(row(probe="random-zero-bias", verdict="pass", delivered="float64"))
    assert mended == ["pass", "fail"], "what no longer reproduces fails"


def test_files_that_are_no_known_issues(tmp_path):
    path = tmp_path / "issues.toml"
    with pytest.raises(PatchParityError, match="cannot read known issues"):
        load_known_issues(path)
    for text, message in (
        ("[[issue]", "cannot read known issues"),
        ('[[issue]]\nid = "a"', "known issue 'a' in .*missing .* required"),
        (KNOWN_ISSUES.read_text().replace(">=2.21", "=2"), "known issue .*Invalid specifier"),
    ):
        path.write_text(text)
        with pytest.raises(PatchParityError, match=message):
            load_known_issues(path)
