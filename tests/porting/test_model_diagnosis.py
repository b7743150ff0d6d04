"""Whole live models against what they should compute: right ones are right, and of wrong ones the
mistake and its block are named."""

import copy

import numpy as np
import pytest

from patchparity import diagnose_model
from patchparity.porting.whole.port import port_whole
from patchparity.reference.errors import PatchParityError

from ..census.stand_in import import_library

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ..reference.test_encoder_libraries import grown  # noqa: E402

SIZES = dict(hidden_size=24, num_attention_heads=3, num_hidden_layers=8, intermediate_size=40)
WIDE = dict(**SIZES, patch_size=8, image_size=(16, 24))


def vit(**arguments):
    config = transformers.ViTConfig(**{**WIDE, **arguments})
    return grown(transformers.ViTModel(config))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A ViT of transformers, and the folder that it was written to."""
    model, folder = vit(), tmp_path_factory.mktemp("vit")
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture
def right(saved):
    """A copy that a test may spoil, and the folder."""
    return copy.deepcopy(saved[0]), saved[1]


def explained(found):
    """The mistake, where it is one and nothing else is wrong."""
    assert not found.correct
    assert found.embedding.verdict == "pass", found
    assert len(found.encoder.findings) == 1, found
    return found.encoder.explanation


def test_a_right_model_is_right(right):
    model, folder = right
    found = diagnose_model(model, folder)
    assert found.ok, found
    assert not found.encoder.findings
    assert len(found.encoder.evidence["over"]) == SIZES["num_hidden_layers"]
    assert max(found.encoder.evidence["over"]) <= 1
    assert found.to_dict()["ok"]
    assert "ViTModel against " in found.lines()[0]


def test_images_of_somebody_s_own(right):
    model, folder = right
    images = np.random.default_rng(3).normal(size=(3, 3, 16, 24))
    assert diagnose_model(model, folder, images=images).correct
    for layer in model.layers:
        layer.mlp.activation_fn = torch.nn.ReLU()
    assert "ReLU" in explained(diagnose_model(model, folder, images=images))


def test_the_tanh_gelu_of_all_blocks(right):
    model, folder = right
    for layer in model.layers:
        layer.mlp.activation_fn = torch.nn.GELU("tanh")
    words = explained(diagnose_model(model, folder))
    assert words == "all blocks: the activation is tanh GELU, exact GELU was declared"


def test_the_epsilon_of_all_blocks(right):
    model, folder = right
    for layer in model.layers:
        layer.layernorm_before.eps = layer.layernorm_after.eps = 1e-6
    words = explained(diagnose_model(model, folder))
    assert words == "all blocks: eps is 1e-6, 1e-12 was declared"


def test_exchanged_norms_of_one_block(right):
    model, folder = right
    layer = model.layers[7]
    layer.layernorm_before, layer.layernorm_after = layer.layernorm_after, layer.layernorm_before
    words = explained(diagnose_model(model, folder))
    assert words.startswith("block 7: ")
    assert "norm" in words


def test_blocks_in_the_order_of_their_names(tmp_path):
    """From eleven blocks on, "10" comes before "2"."""
    model = vit(num_hidden_layers=12)
    model.save_pretrained(tmp_path / "vit")
    order = sorted(range(12), key=str)
    model.layers = torch.nn.ModuleList([model.layers[number] for number in order])
    words = explained(diagnose_model(model, tmp_path / "vit"))
    assert "order" in words
    assert "10" in words


def test_wrong_positions_are_of_the_embedding(right):
    model, folder = right
    with torch.no_grad():
        positions = model.embeddings.position_embeddings
        positions[:, 1:] = positions[:, 1:].flip(1).clone()
    found = diagnose_model(model, folder)
    assert not found.correct
    assert found.embedding.verdict == "fail"
    assert found.encoder.correct
    assert any("mend: `patchparity diagnose`" in line for line in found.lines())


def test_a_bfloat16_copy_is_right(right):
    model, folder = right
    narrow = model.to(torch.bfloat16)
    found = diagnose_model(narrow, folder)
    assert found.correct, found
    assert "bfloat16" in found.semantics[-1]
    assert next(narrow.parameters()).dtype == torch.bfloat16
    for layer in narrow.layers:
        layer.mlp.activation_fn = torch.nn.GELU("tanh")
    assert "tanh GELU" in explained(diagnose_model(narrow, folder))


def test_a_head_that_a_model_has_not_is_not_called_correct(tmp_path):
    timm = import_library("timm")
    config = transformers.ViTConfig(**WIDE, layer_norm_eps=1e-6, num_labels=5)
    grown(transformers.ViTForImageClassification(config)).save_pretrained(tmp_path / "vit")
    port_whole(tmp_path / "vit", tmp_path / "timm", "timm-vit", prove=False)
    moved = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
    assert "not measured" not in str(diagnose_model(moved, tmp_path / "vit"))
    moved.reset_classifier(0)
    assert "not measured: the head" in str(diagnose_model(moved, tmp_path / "vit"))


def test_timm_s_model_against_its_ported_file(tmp_path):
    timm = import_library("timm")
    config = transformers.ViTConfig(**WIDE, layer_norm_eps=1e-6)
    grown(transformers.ViTModel(config, add_pooling_layer=False)).save_pretrained(tmp_path / "vit")
    port_whole(tmp_path / "vit", tmp_path / "timm", "timm-vit", prove=False)
    moved = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
    assert diagnose_model(moved, tmp_path / "timm").correct
    assert diagnose_model(moved, tmp_path / "vit").correct
    with torch.no_grad():
        rows = moved.blocks[2].attn.qkv.weight
        rows.copy_(torch.cat([rows[24:48], rows[:24], rows[48:]]))
    words = explained(diagnose_model(moved, tmp_path / "vit"))
    assert words.startswith("block 2: ")
    for block in moved.blocks:
        block.mlp.act = torch.nn.GELU("tanh")
    found = diagnose_model(moved, tmp_path / "timm").encoder.findings
    assert any("tanh GELU" in finding.explanation for finding in found)


def test_a_live_reference(right):
    model, _ = right
    other = copy.deepcopy(model)
    assert diagnose_model(model, other).correct
    with torch.no_grad():
        weight = other.layers[3].attention.o_proj.weight
        weight.copy_(weight.T.clone())
    words = explained(diagnose_model(other, model))
    assert words.startswith("block 3: ")
    assert "transposed" in words
    with pytest.raises(PatchParityError, match="expected a checkpoint, or a torch model"):
        diagnose_model(model, object())


def test_a_checkpoint_as_its_own_library_builds_it(right):
    model, folder = right
    assert diagnose_model(folder, folder).correct
    assert diagnose_model(str(folder), model).correct


def test_another_number_of_blocks_is_refused(right):
    model, folder = right
    model.layers = model.layers[:6]
    with pytest.raises(PatchParityError, match=r"ViTModel has 6 blocks, and .* 8"):
        diagnose_model(model, folder)
    more = vit(num_hidden_layers=9)
    with pytest.raises(PatchParityError, match=r"ViTModel has 9 blocks, and .* 8"):
        diagnose_model(more, folder)


def test_another_size_is_refused(right):
    with pytest.raises(PatchParityError):
        diagnose_model(vit(hidden_size=48), right[1])
