"""Our own weight files: bitwise round trip, metadata, and no half-written file."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from patchparity import (
    PatchEmbedSpec,
    PatchEmbedWeights,
    PatchParityError,
    SequenceLayout,
    initialize_weights,
    load_weights,
    save_weights,
)
from patchparity.reference.weights import LayerNorm

SPEC = PatchEmbedSpec((30, 28), (6, 4), 3, 20, padding=((1, 5), (0, 0)))


def full_weights(dtype: object = np.float32) -> PatchEmbedWeights:
    layout = SequenceLayout(
        prefix=("class_token", "register_tokens"), positioned=("class_token",), norm_epsilon=1e-5
    )
    base = initialize_weights(SPEC, seed=2, num_registers=3, layout=layout)
    generator = np.random.default_rng(3)
    norm = LayerNorm(generator.standard_normal(20), generator.standard_normal(20))
    fields = {
        name: getattr(base, name)
        for name in ("bias", "class_token", "register_tokens", "positions", "layout")
    }
    return PatchEmbedWeights(base.kernel, **fields, token_norm=norm).astype(dtype)


@pytest.mark.parametrize(
    "dtype",
    [np.float32, np.float64, np.float16, ml_dtypes.bfloat16],
    ids=lambda d: np.dtype(d).name,
)
def test_round_trip_is_bitwise(tmp_path, dtype):
    weights = full_weights(dtype)
    save_weights(tmp_path / "w.safetensors", weights, SPEC)
    loaded, spec = load_weights(tmp_path / "w.safetensors")
    assert spec == SPEC
    assert loaded.layout == weights.layout
    for name in ("kernel", "bias", "class_token", "register_tokens", "positions"):
        assert getattr(loaded, name).dtype == dtype
        assert getattr(loaded, name).tobytes() == getattr(weights, name).tobytes()
    assert loaded.token_norm.scale.tobytes() == weights.token_norm.scale.tobytes()
    assert loaded.mask_token is None


def test_a_transposed_view_keeps_its_values(tmp_path):
    oihw = np.random.default_rng(0).standard_normal((20, 3, 6, 4)).astype(np.float32)
    view = oihw.transpose(0, 2, 3, 1)
    assert not view.flags.c_contiguous
    save_weights(tmp_path / "w.safetensors", PatchEmbedWeights(view), SPEC)
    assert (load_weights(tmp_path / "w.safetensors")[0].kernel == view).all()


def test_metadata_names_axes_and_spec(tmp_path):
    save_weights(tmp_path / "w.safetensors", full_weights(), SPEC)
    with safetensors.safe_open(tmp_path / "w.safetensors", framework="numpy") as file:
        metadata = file.metadata()
    assert json.loads(metadata["axes"])["kernel"] == "D Ph Pw C"
    assert json.loads(metadata["axes"])["positions"] == "rows D"
    assert json.loads(metadata["spec"])["patch_size"] == [6, 4]


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_weights(path, full_weights(), SPEC)
    before = path.read_bytes()
    monkeypatch.setattr(
        safetensors.numpy, "load_file", lambda draft: {"kernel": np.zeros(3, np.float32)}
    )
    with pytest.raises(PatchParityError, match="kernel reads back differently"):
        save_weights(path, full_weights(), SPEC)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_errors(tmp_path):
    with pytest.raises(PatchParityError, match="cannot write"):
        save_weights(tmp_path / "no" / "w.safetensors", full_weights(), SPEC)
    with pytest.raises(PatchParityError, match="cannot read weights"):
        load_weights(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(PatchParityError, match="cannot read weights"):
        load_weights(tmp_path / "text.safetensors")
    safetensors.numpy.save_file({"x": np.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(PatchParityError, match=r"holds x, format None"):
        load_weights(tmp_path / "foreign.safetensors")
    with pytest.raises(PatchParityError, match="expected"):
        save_weights(tmp_path / "w.safetensors", full_weights(), SPEC.replace(embed_dim=21))
    with pytest.raises(
        PatchParityError,
        match="kernel is of dtype int32: expected one of float64, float32, float16, bfloat16",
    ):
        save_weights(tmp_path / "w.safetensors", full_weights(np.int32), SPEC)


def test_big_endian_weights_keep_their_values(tmp_path):
    weights = full_weights(">f4")
    save_weights(tmp_path / "w.safetensors", weights, SPEC)
    assert (load_weights(tmp_path / "w.safetensors")[0].kernel == weights.kernel).all()


def test_a_new_file_has_the_usual_permissions_and_a_link_stays_one(tmp_path):
    (tmp_path / "plain").write_text("")
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "real.safetensors")
    save_weights(tmp_path / "link.safetensors", full_weights(), SPEC)
    assert (tmp_path / "link.safetensors").is_symlink()
    assert (tmp_path / "real.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_weights_show_shapes_not_values():
    text = repr(full_weights())
    assert "kernel=float32[20, 6, 4, 3]" in text
    assert len(text) < 300


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors, metadata: metadata.pop("spec"),
        lambda tensors, metadata: metadata.pop("layout"),
        lambda tensors, metadata: metadata.update(layout="[1]"),
        lambda tensors, metadata: metadata.update(layout='{"order": 1}'),
        lambda tensors, metadata: metadata.update(layout='{"norm_epsilon": "abc"}'),
        lambda tensors, metadata: metadata.update(spec="{"),
        lambda tensors, metadata: metadata.update(spec="[" * 100_000),
        lambda tensors, metadata: tensors.pop("kernel"),
        lambda tensors, metadata: tensors.pop("token_norm.scale"),
        lambda tensors, metadata: tensors.update({"class_token.foo": np.zeros(2, np.float32)}),
        lambda tensors, metadata: tensors.update(layout=np.zeros(2, np.float32)),
        lambda tensors, metadata: tensors.update(bias=np.zeros(20, np.int32)),
    ],
)
def test_damaged_files_are_named(tmp_path, damage):
    path = tmp_path / "w.safetensors"
    save_weights(path, full_weights(), SPEC)
    with safetensors.safe_open(path, framework="numpy") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    damage(tensors, metadata)
    safetensors.numpy.save_file(tensors, path, metadata)
    with pytest.raises(PatchParityError, match="is damaged"):
        load_weights(path)
