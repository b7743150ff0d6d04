"""What breakers found: wrong numbers, changed tensors and endless memory that a port, a proof or a
reading once let pass."""

import dataclasses
import json
import os
import pickle
import warnings
import zipfile

import numpy as np
import pytest

from patchparity import PatchParityError, Sizes, from_module, inspect_checkpoint, port, verify
from patchparity.porting.dialects.catalogue import list_dialects
from patchparity.porting.files.opening import opened
from patchparity.porting.files.writing import replace_tensors, write_checkpoint

from .test_dialects import random_stage, tensors_of, written

DIALECTS = list_dialects()
HF, TIMM = DIALECTS["hf-vit"], DIALECTS["timm-vit"]


def saved(
    folder,
    dialect=HF,
    seed=0,
    grid=None,
    size=None,
    change=lambda weights: weights,
    tensors=lambda held: held,
):
    """A checkpoint in a folder of its own, with a config.json that tells the image size."""
    folder.mkdir(exist_ok=True)
    weights, spec = random_stage(dialect, seed, grid=grid)
    path = folder / "model.safetensors"
    write_checkpoint(path, tensors(tensors_of(change(weights), spec, dialect)))
    if size:
        (folder / "config.json").write_text(json.dumps({"image_size": list(size)}))
    return path


def test_the_existing_checkpoint_s_own_size_is_not_overruled(tmp_path):
    """Patches of 5×4 pixels: grids of 3×5 and of 5×3 have as many positions."""
    one = saved(tmp_path / "one", seed=1, grid=(3, 5), size=(15, 20))
    other = saved(tmp_path / "other", seed=2, grid=(5, 3), size=(25, 12))
    with pytest.raises(
        PatchParityError,
        match=r"the existing checkpoint has a grid of \(5, 3\), the source of \(3, 5\)",
    ):
        port(one, tmp_path / "out.safetensors", "hf-vit", into=other)
    same = saved(tmp_path / "same", seed=1, grid=(3, 5), size=(25, 12))
    found = verify(one, same)
    assert not found.same
    assert found.explanation == (
        "the first has a grid of (3, 5), the second of (5, 3); the positions of the second are "
        "those of the first, not resized: the table was taken as it is, for it has as many rows"
    )


def test_a_copy_keeps_the_shapes_that_its_model_takes(tmp_path):
    source = saved(
        tmp_path / "source",
        seed=1,
        grid=(4, 4),
        change=lambda weights: dataclasses.replace(weights, positions=None),
        size=(20, 16),
    )
    existing = saved(tmp_path / "existing", seed=2, grid=(3, 3), size=(15, 12))
    with pytest.raises(
        PatchParityError,
        match=r"has embeddings.position_embeddings of shape \(1, 10, 24\), and it would be \(1, "
        r"17, 24\): its model",
    ):
        port(source, tmp_path / "out.safetensors", "hf-vit", into=existing)
    assert not (tmp_path / "out.safetensors").exists()


def test_each_tensor_keeps_the_type_of_its_slot(tmp_path):
    def mixed(held):
        return {
            name: array.astype(np.float16) if "projection" in name else array
            for name, array in held.items()
        }

    existing = saved(tmp_path / "existing", seed=2, tensors=mixed)
    source = saved(
        tmp_path / "source",
        TIMM,
        seed=1,
        change=lambda weights: dataclasses.replace(weights, register_tokens=None),
    )
    done = port(source, tmp_path / "out.safetensors", "hf-vit", into=existing, allow_loss=True)
    assert any(
        step == "cast: kernel, bias kept in the types that the existing checkpoint has"
        for step in done.steps
    )
    with opened(tmp_path / "out.safetensors") as out, opened(existing) as before:
        assert {name: info.dtype for name, info in out.tensors.items()} == {
            name: info.dtype for name, info in before.tensors.items()
        }
    large = saved(
        tmp_path / "large",
        change=lambda weights: dataclasses.replace(
            weights, kernel=weights.kernel * np.float32(1e6)
        ),
    )
    with pytest.raises(
        PatchParityError, match=r"values up to .*e\+06 are beyond what float16 reaches to"
    ):
        port(large, tmp_path / "out.safetensors", "hf-vit", into=existing)


def test_what_an_existing_checkpoint_lacks_is_told(tmp_path):
    existing = saved(
        tmp_path / "existing",
        seed=2,
        tensors=lambda held: {name: held[name] for name in held if "mask" not in name},
    )
    done = port(
        saved(tmp_path / "source", seed=1), tmp_path / "out.safetensors", "hf-vit", into=existing
    )
    assert "added: embeddings.mask_token, which the existing checkpoint does not have" in done.steps


def test_the_type_of_one_field_does_not_excuse_another(tmp_path):
    one = saved(tmp_path / "one", seed=1)

    def nearly(held):
        table = held["embeddings.position_embeddings"] * np.float32(1.003)
        token = held["embeddings.cls_token"].astype("bfloat16")
        return {**held, "embeddings.position_embeddings": table, "embeddings.cls_token": token}

    assert not verify(one, saved(tmp_path / "other", seed=1, tensors=nearly)).same

    def narrow(held):
        return {**held, "embeddings.cls_token": held["embeddings.cls_token"].astype("bfloat16")}

    assert verify(one, saved(tmp_path / "narrow", seed=1, tensors=narrow)).same


def test_orders_of_tokens_are_compared(tmp_path):
    qwen = DIALECTS["hf-qwen2-vl"]
    weights, spec = random_stage(qwen)
    write_checkpoint(tmp_path / "a.safetensors", tensors_of(weights, spec, qwen))
    write_checkpoint(tmp_path / "b.safetensors", tensors_of(weights, spec, DIALECTS["oidhw"]))
    with pytest.raises(PatchParityError, match=r"no tensor tells one from another: a config\.json"):
        verify(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    dialects = {"a": "hf-qwen2-vl", "b": "oidhw"}
    for pair in (("a", "b"), ("b", "a")):
        from_ = tuple(dialects[name] for name in pair)
        found = verify(*(tmp_path / f"{name}.safetensors" for name in pair), from_=from_)
        assert not found.same
        assert "merge-2x2 order" in found.explanation


def test_norms_that_would_vanish_are_counted(tmp_path):
    def tiny(weights):
        norm = weights.sequence_norm
        return dataclasses.replace(
            weights, sequence_norm=dataclasses.replace(norm, scale=norm.scale * np.float32(1e-9))
        )

    source = saved(tmp_path / "source", DIALECTS["hf-clip"], change=tiny)
    with pytest.raises(
        PatchParityError, match="24 values that are not zero become zero in float16"
    ):
        port(source, tmp_path / "out.safetensors", "hf-clip", dtype="float16")


def test_a_mask_token_that_differs_is_told(tmp_path):
    one = saved(tmp_path / "one", seed=1)
    other = saved(
        tmp_path / "other",
        seed=1,
        change=lambda weights: dataclasses.replace(weights, mask_token=weights.mask_token + 1),
    )
    assert "but for the mask token" in verify(one, other).explanation


@pytest.mark.parametrize("kind", ["activated", "padded", "transposed", "two tables"])
def test_objects_that_compute_something_else_are_not_read(kind):
    torch = pytest.importorskip("torch")
    from torch import nn

    torch.manual_seed(0)

    class TwoTables(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Conv2d(3, 8, 4, 4)
            self.row_pos_embed, self.col_pos_embed = (
                nn.Parameter(torch.randn(1, 4, 8)) for _ in range(2)
            )

        def forward(self, images):
            return (
                self.proj(images).flatten(2).transpose(1, 2)
                + self.row_pos_embed
                + self.col_pos_embed
            )

    made = {
        "activated": lambda: nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.GELU()),
        "padded": lambda: nn.Sequential(nn.ZeroPad2d(2), nn.Conv2d(3, 8, 4, 4)),
        "transposed": lambda: nn.ConvTranspose2d(8, 8, 4, 4),
        "two tables": TwoTables,
    }
    with pytest.raises(
        PatchParityError,
        match=r"gives something else than its weights do|, its weights \(|beside its kernel",
    ):
        from_module(made[kind]())
    if kind == "two tables":  # which an image of their size shows
        module = made[kind]()
        weights, _ = from_module(module, image_size=8)
        both = (module.row_pos_embed + module.col_pos_embed).detach().numpy()
        np.testing.assert_array_equal(weights.positions, both[0])
    if kind == "activated":
        weights, _ = from_module(made[kind](), check=False)
        assert weights.kernel.shape == (8, 4, 4, 3)


def test_a_tree_shows_no_stride_and_may_have_an_assumed_grid():
    torch = pytest.importorskip("torch")
    state = torch.nn.Conv2d(3, 8, 7, 4, 3).state_dict()
    _, spec = from_module(state, stride=4, padding=3, image_size=28)
    assert (spec.stride, spec.padding, spec.grid) == ((4, 4), ((3, 3), (3, 3)), (7, 7))
    # the class token of a timm model may have a row of positions or none
    tensors = tensors_of(*random_stage(TIMM, grid=(3, 5)), TIMM)
    with pytest.warns(UserWarning, match="the grid is assumed to be square, 4×4"):
        from_module(tensors)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_module(tensors, image_size=(15, 20))[1].grid == (3, 5)
    with pytest.raises(PatchParityError, match="16 positions are of no square grid"):
        from_module(tensors_of(*random_stage(HF, grid=(3, 5)), HF))
    endless: dict = {}
    endless["again"] = endless
    with pytest.raises(PatchParityError, match="without end"):
        from_module(endless)


@pytest.mark.parametrize("alias", ["container", "none", "attribute", "tuple"])
def test_tensors_that_are_called_otherwise_too_are_not_changed_unseen(tmp_path, alias):
    torch = pytest.importorskip("torch")
    import collections

    table = torch.randn(5, 4)
    state = collections.OrderedDict(a=table)
    held = {"state_dict": state}
    if alias == "container":
        held["ema"] = state
    elif alias == "none":
        held[None] = table
    elif alias == "tuple":
        held[("a", 1)] = table[:2]
    else:
        state._metadata = {"a": table}
    torch.save(held, tmp_path / "old.pth")
    with (
        opened(tmp_path / "old.pth") as checkpoint,
        pytest.raises(PatchParityError, match="shares its values with"),
    ):
        replace_tensors(
            checkpoint, tmp_path / "new.pth", {"state_dict.a": np.ones((5, 4), np.float32)}
        )
    assert not (tmp_path / "new.pth").exists()


def test_packed_and_lying_pickles_take_no_memory(tmp_path):
    bomb = b"\x80\x02(" + b"]" * 2**20 + b"l."
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bomb)
    with pytest.raises(PatchParityError, match=r"x/data.pkl is packed"):
        inspect_checkpoint(tmp_path / "a.pt")
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    (tmp_path / "b.pt").write_bytes(magic + b"\x80\x02}r" + (10**8).to_bytes(4, "little") + b".")
    with pytest.raises(PatchParityError, match="its pickle numbers an object 100000000"):
        inspect_checkpoint(tmp_path / "b.pt")


def test_a_tensor_that_repeats_its_values_claims_nothing(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {
        name: torch.from_numpy(array) for name, array in tensors_of(*random_stage(HF), HF).items()
    }
    tensors["embeddings.position_embeddings"] = torch.zeros(1, 1, 1).expand(1, 4_000_001, 24)
    torch.save(tensors, tmp_path / "a.pt")
    with opened(tmp_path / "a.pt") as checkpoint:
        assert checkpoint.tensors["embeddings.position_embeddings"].shape == (1, 4_000_001, 24)
        with pytest.raises(PatchParityError, match="repeats 1 values, and claims far more"):
            checkpoint.read("embeddings.position_embeddings")


def test_training_state_beside_a_model_is_no_reason_to_refuse_it(tmp_path):
    torch = pytest.importorskip("torch")
    import collections

    tensors = {
        name: torch.from_numpy(array) for name, array in tensors_of(*random_stage(HF), HF).items()
    }
    beside = {
        "milestones": collections.Counter({30: 1}),
        "rng": np.arange(5),
        "phase": torch.zeros(2, dtype=torch.complex64),
    }
    torch.save({"model": tensors, **beside, "kind": torch.uint8}, tmp_path / "a.pt")
    assert inspect_checkpoint(tmp_path / "a.pt")["dialect"] == "hf-vit"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFO here")
def test_a_config_that_is_no_file_is_not_waited_for(tmp_path):
    path = saved(tmp_path / "one")
    os.mkfifo(path.parent / "config.json")
    assert inspect_checkpoint(path)["dialect"] == "hf-vit"


def test_a_file_keeps_its_mode(tmp_path):
    path = saved(tmp_path / "one")
    path.chmod(0o600)
    port(saved(tmp_path / "source", seed=3), path, "hf-vit", into=path)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (Sizes.told(image_size=3), "an image of 3×3 was told, which is smaller than a patch"),
        (Sizes.told(image_size=(16, 20, 16)), "is of images, and a size with 16 frames was told"),
        (Sizes.told(patch_size=(2, 5, 4)), "has patch 5×4, and 2×5×4 was told"),
    ],
)
def test_sizes_that_were_told_are_not_passed_over(tmp_path, sizes, message):
    with pytest.raises(PatchParityError, match=message):
        inspect_checkpoint(saved(tmp_path / "one"), sizes=sizes)


def test_frames_follow_from_the_count_where_the_image_is_told(tmp_path):
    """Of 16 patches 4 are those of a picture of 2×2, so there are 4 tubelets in time; a square
    picture alone would make it one of 4×4."""
    path, _, spec = written(DIALECTS["hf-vivit"], tmp_path, "v")
    (path.parent / "config.json").unlink(missing_ok=True)
    assert inspect_checkpoint(path)["spec"]["grid"] == [1, 4, 4]
    _, height, width = spec.patch_size
    told = inspect_checkpoint(path, sizes=Sizes.told(image_size=(2 * height, 2 * width)))
    assert told["spec"]["grid"] == [4, 2, 2]


@pytest.mark.parametrize(
    "setting", [{"groups": 3}, {"dilation": 2}, {"padding": 1, "padding_mode": "reflect"}], ids=str
)
def test_a_layer_that_is_refused_is_not_read_by_its_names_instead(setting):
    torch = pytest.importorskip("torch")
    with pytest.raises(PatchParityError, match="a patch embedding has"):
        from_module(torch.nn.Conv2d(3, 6, 4, 4, **setting))


def test_a_whole_model_is_read_by_its_names():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.models.vit.modeling_vit import ViTModel

    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    model = ViTModel(config)
    with torch.no_grad():
        model.embeddings.position_embeddings.normal_()
    weights, spec = from_module(model)
    assert spec.grid == (4, 4)
    assert (weights.positions == model.embeddings.position_embeddings.detach().numpy()[0]).all()
    with pytest.raises(PatchParityError, match=r"holds 0.weight .*: expected one kernel"):
        from_module(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Conv2d(8, 8, 3)))


def test_what_is_not_there_is_named(tmp_path):
    path = saved(
        tmp_path / "one",
        tensors=lambda held: {f"vit.{name}": array for name, array in held.items()},
    )
    with pytest.raises(
        PatchParityError,
        match=r"no embedding stage under the prefix 'vit'; there is one under 'vit.'",
    ):
        inspect_checkpoint(path, prefix="vit")
    with pytest.raises(
        PatchParityError, match=r"does not hold timm-vit: expected patch_embed.proj.weight"
    ):
        inspect_checkpoint(path, from_="timm-vit")
    with pytest.raises(PatchParityError, match=r"there is no folder .*nowhere"):
        port(path, tmp_path / "nowhere" / "out.safetensors", "timm-vit", allow_loss=True)


def test_what_was_not_compared_did_not_pass(tmp_path):
    path, _, _ = written(DIALECTS["timm-deit"], tmp_path, "deit")
    done = port(path, tmp_path / "out.safetensors", "timm-vit", allow_loss=True)
    assert [check.verdict for check in done.checks if check.name == "steps"] == ["skip"]
    assert done.ok


def test_a_difference_of_one_type_is_told_in_numbers(tmp_path):
    one = saved(tmp_path / "one", seed=1)
    other = saved(
        tmp_path / "other",
        seed=1,
        change=lambda weights: dataclasses.replace(weights, kernel=weights.kernel + 1),
    )
    found = verify(one, other)
    assert (
        next(check.message for check in found.checks if check.name == "kernel")
        == "up to 1 apart, in one type"
    )


def test_a_grid_that_means_giant_images_is_refused_before_they_are_made(tmp_path, monkeypatch):
    from patchparity.porting.dialects import stage as stages

    path = saved(tmp_path / "one", grid=(4, 4))  # 16×20 pixels in 3 channels
    monkeypatch.setattr(stages, "LARGEST_IMAGE", 20 * 16 * 3)
    assert verify(path, path).same
    monkeypatch.setattr(stages, "LARGEST_IMAGE", 20 * 16 * 3 - 1)
    for call in (
        lambda: verify(path, path),
        lambda: port(path, tmp_path / "out.safetensors", "hf-vit"),
    ):
        with pytest.raises(
            PatchParityError,
            match="has positions for a grid of 4×4: images of 960 values, expected at most 959",
        ):
            call()
