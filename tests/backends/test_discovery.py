"""Backends are found in the folder and through entry points; unknown names are errors; a stranger's
breakage stays his own."""

import subprocess
import sys
from pathlib import Path

import pytest

from patchparity import PatchParityError, get_backend, list_backends, list_implementations

from ..fake_backends import install

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_file_of_the_folder_with_a_backend_is_found():
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "backends").rglob("*.py")
        if "\nBACKENDS = " in path.read_text()
    }
    assert {
        f"backends.{name}"
        for name in (
            "numpy",
            "torch.adapter",
            "tensorflow",
            "jax.adapter",
            "keras",
            "onnxruntime",
            "peers.flax",
            "runtimes.openvino",
            "runtimes.tract",
            "sharded.jax",
            "sharded.tensorflow",
            "sharded.torch",
        )
    } <= files
    names = [backend.name for backend in list_backends()]
    assert files == {
        type(backend).__module__.removeprefix("patchparity.") for backend in list_backends()
    }
    assert [name for name in names if name.startswith("keras-") and "hub" not in name] == [
        "keras-jax",
        "keras-tensorflow",
        "keras-torch",
    ]
    assert names[0] == "numpy"


def test_implementation_names_are_unique_and_belong_to_their_backend():
    names = [implementation.name for _, implementation in list_implementations()]
    assert len(names) == len(set(names))
    for backend, implementation in list_implementations():
        assert implementation.backend == backend.name
        assert backend.implementation(implementation.name) is implementation
    formulations = {
        (implementation.backend, implementation.formulation)
        for _, implementation in list_implementations()
    }
    for name in ("numpy", "torch", "tensorflow", "jax"):
        assert {(name, "conv2d"), (name, "linear")} <= formulations


def test_selection():
    assert {i.name for _, i in list_implementations(["torch"], ["torch:conv2d"])} == {
        "torch:conv2d:eager",
        "torch:conv2d:compile",
        "torch:conv2d:cudagraph",
    }
    assert len(list_implementations(["numpy", "numpy"])) == len(
        get_backend("numpy").implementations
    )
    assert {i.backend for _, i in list_implementations(None, ["torch"])} == {"torch"}
    with pytest.raises(
        PatchParityError, match="implementation 'jax:linear' was asked for, but only backend numpy"
    ):
        list_implementations(["numpy"], ["jax:linear"])
    with pytest.raises(
        PatchParityError,
        match=r"backend 'tourch' is unknown.*; expected one of einops, .*flax, .*jax, .*numpy, "
        r"onnxruntime, .*tensorflow, tensorflow-sharded, .*torch, torch-sharded, .*transformers",
    ):
        get_backend("tourch")
    with pytest.raises(
        PatchParityError,
        match=r"implementation 'torch:conv' is unknown.*; expected one of .*torch:conv2d:eager",
    ):
        list_implementations(None, ["torch:conv"])
    with pytest.raises(
        PatchParityError,
        match="implementation 'numpy:linear:xla' is unknown; numpy has numpy:linear:eager",
    ):
        get_backend("numpy").implementation("numpy:linear:xla")


def test_a_missing_framework_names_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert get_backend("torch").missing() == (
        "torch is not installed: pip install 'patchparity[torch]', or patchparity backends "
        "--install torch"
    )
    assert "patchparity[tensorflow]" in get_backend("tensorflow").missing()
    assert "patchparity[keras,jax]" in get_backend("keras-jax").missing()


def test_an_entry_point_adds_a_backend(tmp_path):
    code = (
        "import patchparity as p; print([b.name for b in p.list_backends()], "
        "p.get_backend('wrong').implementations[0].name)"
    )
    assert python(code, install(tmp_path, "wrong")).endswith("'wrong'] wrong:conv2d:eager")


@pytest.mark.parametrize(
    ("named", "brought"), [("class", ["wrong"]), ("module", ["fragile", "wrong"])]
)
def test_an_entry_point_may_name_a_class_or_a_module(tmp_path, named, brought):
    code = (
        "import patchparity as p; print(*(b.name for b in p.list_backends() if b.name in "
        "('wrong', 'fragile')))"
    )
    assert python(code, install(tmp_path, named)).split() == brought


def test_a_broken_or_clashing_entry_point_costs_only_itself(tmp_path):
    environment = install(tmp_path, "broken", "wrong", "numpy")
    code = (
        "from patchparity.backends.registry import *; print([b.name for b in "
        "list_backends()]); "
        "print([(b.name, b.reason) for b in list_broken_backends()])"
    )
    found, broken = python(code, environment).splitlines()
    assert "'wrong'" in found
    assert "entry point broken = patchparity_fake_backends:NOT_THERE failed" in broken
    code = (
        "import patchparity as p\ntry: p.get_backend('broken')\nexcept p.PatchParityError as "
        "error: print(error)"
    )
    assert "entry point broken" in python(code, environment)
