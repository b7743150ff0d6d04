"""Runtimes that people deploy on: each is checked as a user checks it, and what their converters
and engines do in silence is found."""

import dataclasses
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from patchparity import PatchEmbedSpec, PatchParityError, __version__, get_backend, list_backends
from patchparity.backends import install
from patchparity.backends.runtime import RuntimeBackend
from patchparity.bench.check.known_issues import load_known_issues
from patchparity.bench.check.suite import check_suite
from patchparity.bench.machine.interpreters import own_interpreters
from patchparity.reference.probes import random_normal
from patchparity.reference.verdict import judge

RUNTIMES = [backend.name for backend in list_backends() if isinstance(backend, RuntimeBackend)]
SPEC = PatchEmbedSpec((18, 20), (6, 4), 3, 40)


def installed(name):
    if reason := get_backend(name).missing():
        pytest.skip(reason)
    return get_backend(name)


@pytest.mark.parametrize("name", [*RUNTIMES, "onnxruntime"])
def test_nothing_is_wrong_but_what_is_known_and_what_is_known_is_found(name):
    installed(name)
    report = check_suite(backends=[name])
    wrong = [
        (row.implementation, row.dtype, row.case, row.probe, row.message)
        for row in report.results
        if row.verdict in ("fail", "error")
    ]
    assert wrong == []
    versions = get_backend(name).versions()
    expected = {
        issue.id
        for issue in load_known_issues()
        if issue.covers(issue.implementations[0])
        and issue.implementations[0].split(":")[0] == name
        and issue.applies(versions)
    }
    found = {row.message.split(":")[0] for row in report.results if row.verdict == "known"}
    assert expected <= found


STORED = [
    (backend, implementation)
    for backend in map(get_backend, [*RUNTIMES, "onnxruntime"])
    for implementation in backend.implementations
    if implementation.stored
]


@pytest.mark.parametrize(
    ("backend", "implementation"), STORED, ids=[each.name for _, each in STORED]
)
def test_the_verdict_on_a_stored_kernel_rejects_another_kernel(backend, implementation):
    installed(backend.name)
    probe = random_normal(SPEC, 3, "float32", 4, forward_only=True)
    mirrored = dataclasses.replace(
        probe.weights, kernel=np.ascontiguousarray(probe.weights.kernel[:, :, ::-1])
    )
    model = implementation.arithmetic("float32")
    with backend.precision("ieee"):
        loaded = backend.load(implementation, probe.weights, SPEC, "float32", "cpu")
        tokens = loaded.tokens(probe.images)
        steps = loaded.quantization(probe.images)
        assert (steps is not None) == (implementation.stored == "int8")
        right = judge(probe, "forward", tokens, model, steps)
        loaded.assign(mirrored)
        wrong = judge(probe, "forward", loaded.tokens(probe.images), model, steps)
    known = implementation.name == "mnn:conv2d_float16:graph"  # cut off: within twice the bound
    assert right.verdict == "pass" or known
    assert wrong.verdict == "fail"
    assert wrong.bound_ratio > 10 * right.bound_ratio


def test_what_is_not_installed_says_how_it_is():
    for name in RUNTIMES:
        backend = get_backend(name)
        reason = backend.missing()
        if reason and "compiler" not in reason:
            assert f"pip install 'patchparity[{name}]'" in reason
            assert f"patchparity backends --install {name}" in reason


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "patchparity" / "backends"


def test_an_environment_that_was_not_finished_is_none(cache):
    (cache / "mnn" / "bin").mkdir(parents=True)
    (cache / "mnn" / "bin" / "python").symlink_to(sys.executable)
    assert install.own_interpreter("mnn") is None
    mark = {"versions": {"MNN": "3"}, "patchparity": __version__, "root": str(install.ROOT)}
    for other in ({}, {"root": "/elsewhere"}, {"patchparity": "0.0.1"}):
        (cache / "mnn" / install.MARK).write_text(json.dumps({**mark, **other}) if other else "[")
        assert install.own_interpreter("mnn") is None
    (cache / "mnn" / install.MARK).write_text(json.dumps(mark))
    assert install.own_interpreter("mnn") == str(cache / "mnn" / "bin" / "python")
    assert install.installed_versions(get_backend("mnn")) == {"MNN": "3"}
    here = get_backend("mnn").missing() is None
    assert own_interpreters(["mnn"]) == (
        {} if here else {"mnn": str(cache / "mnn" / "bin" / "python")}
    )


def test_what_cannot_be_installed_is_one_sentence_and_leaves_no_interpreter(cache, monkeypatch):
    monkeypatch.setattr(
        type(get_backend("mnn")), "distributions", ("no-such-package-of-patchparity",)
    )
    sentence = r"^pip could not install mnn: ERROR: .*no-such"
    with pytest.raises(PatchParityError, match=sentence) as told:
        install.install("mnn")
    assert "\n" not in str(told.value)
    assert install.own_interpreter("mnn") is None
    assert list(cache.iterdir()) == []


def test_an_interpreter_gets_what_the_package_needs():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert [each.split(">=")[0] for each in project["dependencies"]] == list(install.REQUIREMENTS)


def test_the_pins_of_an_install_are_those_of_the_tests():
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in install.CONSTRAINTS.read_text().splitlines()
        if "==" in line
    }
    for name in RUNTIMES:
        wanted = {each.lower().replace("_", "-") for each in get_backend(name).distributions}
        assert wanted <= pinned


@pytest.mark.install
def test_an_interpreter_of_its_own_checks_a_runtime(cache):
    python = install.install("ncnn")
    versions = install.installed_versions(get_backend("ncnn"))
    assert set(versions) == {"ncnn", "pnnx", "onnx"}
    report = check_suite(backends=["ncnn"], pythons=[f"ncnn={python}"])
    assert report.ok
    assert report.environment["versions"]["ncnn"] == versions["ncnn"]
    beside = subprocess.run(
        [python, "-c", "import json, patchparity, sys; print(json.dumps(sys.path))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not [path for path in json.loads(beside.stdout) if path == str(install.ROOT.parent)]


def test_paddle_is_not_imported_where_it_would_crash(monkeypatch):
    from patchparity.backends.runtimes import paddle

    monkeypatch.delitem(sys.modules, "paddle", raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow", object())
    with pytest.raises(PatchParityError, match="give it a process of its own"):
        paddle.imported()
