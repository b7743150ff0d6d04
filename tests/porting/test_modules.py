"""Weights as live layers of every framework, and from one live model into another."""

import os

import numpy as np
import pytest

from patchparity import (
    PatchEmbedSpec,
    PatchParityError,
    from_module,
    initialize_weights,
    patch_embed,
    to_module,
    transfer,
)
from patchparity.porting.dialects.fit import same_bits
from patchparity.reference.weights import PatchEmbedWeights

SPEC = PatchEmbedSpec((24, 40), (8, 4), 3, 10)


NEAR = 1e-4
"""Largest difference that float32 allows: 4·√K·2⁻²⁴ of K = 192 products of standard deviation 1 is
4e-4, of which correct sums reach a quarter at most."""


def weights_of(spec, seed=0, bias=True):
    generator = np.random.default_rng(seed)
    kernel = generator.standard_normal(spec.kernel_shape).astype(np.float32)
    return PatchEmbedWeights(
        kernel, generator.standard_normal(spec.embed_dim).astype(np.float32) if bias else None
    )


NEEDS = {
    "torch": "torch",
    "torch-linear": "torch",
    "keras": "keras",
    "keras-dense": "keras",
    "flax": "flax",
    "jax": "jax",
}


def need(kind):
    pytest.importorskip(NEEDS[kind])
    if kind.startswith("keras") and os.environ.get("KERAS_BACKEND") not in (
        "tensorflow",
        "jax",
        "torch",
    ):
        pytest.skip("KERAS_BACKEND is not set")


def called(kind, module, images):
    """What the layer gives for images `(B, C, H, W)`, as tokens."""
    if kind == "torch":
        import torch

        return module(torch.from_numpy(images)).flatten(2).transpose(1, 2).detach().numpy()
    if kind == "keras" or kind == "flax":
        out = np.asarray(module(images.transpose(0, 2, 3, 1)))
    return out.reshape(len(images), -1, out.shape[-1])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["torch", "keras", "flax"])
def test_a_layer_computes_what_the_reference_does_and_gives_its_weights_back(kind, bias):
    need(kind)
    weights = weights_of(SPEC, bias=bias)
    module = to_module(weights, kind, SPEC)
    images = np.random.default_rng(1).standard_normal(SPEC.images_shape(2)).astype(np.float32)
    expected = patch_embed(images, weights.astype(np.float64), SPEC)
    assert np.abs(called(kind, module, images) - expected).max() < NEAR
    back, spec = from_module(module, image_size=SPEC.image_size)
    assert same_bits(back, weights) == []
    assert (spec.patch_size, spec.in_channels, spec.embed_dim) == (SPEC.patch_size, 3, 10)


@pytest.mark.parametrize("kind", ["torch-linear", "keras-dense", "jax"])
def test_matrices_and_trees_hold_the_same_values(kind):
    need(kind)
    weights = weights_of(SPEC)
    module = to_module(weights, kind, SPEC)
    if kind == "jax":
        assert (np.asarray(module["kernel"]) == weights.kernel.transpose(1, 2, 3, 0)).all()
        assert (np.asarray(module["bias"]) == weights.bias).all()
    elif kind == "torch-linear":
        assert (
            module.weight.detach().numpy() == weights.kernel.transpose(0, 3, 1, 2).reshape(10, -1)
        ).all()
    else:
        assert (np.asarray(module.get_weights()[0]) == weights.kernel.reshape(10, -1).T).all()


ORDERS = {"torch-linear": "linear-chw", "keras-dense": "dense-hwc"}


def reading(kind, spec):
    """What a bare linear layer does not show."""
    return {"kernel_layout": ORDERS[kind], "patch_size": spec.patch_size} if kind in ORDERS else {}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", list(NEEDS))
@pytest.mark.parametrize(
    "spec", [SPEC, PatchEmbedSpec((6, 16, 12), (2, 8, 4), 3, 10)], ids=["image", "video"]
)
def test_everything_that_to_module_makes_is_read_again(kind, spec, bias):
    need(kind)
    weights = weights_of(spec, bias=bias)
    back, found = from_module(
        to_module(weights, kind, spec), image_size=spec.image_size, **reading(kind, spec)
    )
    assert same_bits(back, weights) == []
    assert found.image_size == spec.image_size or kind == "jax"


def test_a_bare_linear_layer_does_not_show_its_order():
    need("torch")
    layer = to_module(weights_of(SPEC), "torch-linear", SPEC)
    with pytest.raises(
        PatchParityError, match=r"does not show in which order .* linear-chw or linear-hwc"
    ):
        from_module(layer, patch_size=SPEC.patch_size)
    with pytest.raises(PatchParityError, match="which does not show the patch size"):
        from_module(layer, kernel_layout="linear-hwc")
    grey = PatchEmbedSpec((24, 40), (8, 4), 1, 10)
    back, _ = from_module(
        to_module(weights_of(grey), "torch-linear", grey), patch_size=grey.patch_size
    )
    assert same_bits(back, weights_of(grey)) == []


def test_a_state_dict_is_read_in_its_dialect():
    need("torch")
    transformers = pytest.importorskip("transformers")
    import torch
    from transformers.models.vit.modeling_vit import ViTModel

    model = ViTModel(
        transformers.ViTConfig(
            image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=1, num_attention_heads=2
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    weights, spec = from_module(model.state_dict())
    assert (spec.image_size, spec.patch_size) == ((32, 32), (8, 8))
    assert (weights.class_token == model.embeddings.cls_token.detach().numpy().ravel()).all()
    assert (weights.positions == model.embeddings.position_embeddings.detach().numpy()[0]).all()
    assert weights.kernel.dtype == np.float32
    narrow, _ = from_module(
        {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    )
    assert narrow.kernel.dtype.name == "bfloat16"


def test_trees_of_flax_are_read():
    need("flax")
    import jax
    from flax import linen, nnx

    layer = to_module(weights_of(SPEC), "flax", SPEC)
    back, _ = from_module(nnx.state(layer))
    assert same_bits(back, weights_of(SPEC)) == []
    variables = linen.Conv(10, (8, 4), (8, 4)).init(
        jax.random.key(0), np.zeros((1, 24, 40, 3), np.float32)
    )
    assert (
        from_module(variables)[0].kernel
        == np.asarray(variables["params"]["kernel"]).transpose(3, 0, 1, 2)
    ).all()


def test_a_tree_that_may_be_read_in_two_ways_is_refused():
    kernel = np.random.default_rng(0).standard_normal((192, 192)).astype(np.float32)
    with pytest.raises(PatchParityError, match="the dict is ambiguous"):
        from_module({"weight": kernel})
    with pytest.warns(UserWarning, match="the patch is assumed to be square, 8×8 of 3 channels"):
        weights, _ = from_module({"weight": kernel}, from_="linear-ppc")
    assert (weights.kernel.reshape(192, 192) == kernel).all()
    weights, spec = from_module(
        {"weight": kernel}, from_="linear-ppc", patch_size=(4, 16), image_size=(8, 32)
    )
    assert (spec.patch_size, spec.image_size) == ((4, 16), (8, 32))
    for wrong in (
        {"patch_size": 0},
        {"patch_size": (4,)},
        {"image_size": "224"},
        {"in_channels": -1},
    ):
        with pytest.raises(PatchParityError, match="expected a positive integer"):
            from_module({"weight": kernel}, from_="linear-ppc", **wrong)
    with pytest.raises(PatchParityError, match="is in no dialect that is known"):
        from_module({"step": 3, "name": "vit", "inner": {}})


def test_tubelets_and_overlap_become_layers_where_there_are_some():
    need("torch")
    video = PatchEmbedSpec((4, 8, 12), (2, 4, 3), 3, 10)
    weights = weights_of(video)
    layer = to_module(weights, "torch", video)
    assert type(layer).__name__ == "Conv3d"
    overlap = PatchEmbedSpec((32, 40), 7, 3, 10, stride=4, padding=3, remainder="floor")
    assert to_module(weights_of(overlap), "torch", overlap).padding == (3, 3)
    uneven = PatchEmbedSpec((17, 22), 4, 3, 10, remainder="same")
    with pytest.raises(PatchParityError, match="is not the same on both sides"):
        to_module(weights_of(uneven), "torch", uneven)
    with pytest.raises(PatchParityError, match="kind 'mxnet' is unknown"):
        to_module(weights, "mxnet", video)


PAIRS = [
    (source, target) for source in NEEDS for target in NEEDS if source != target and target != "jax"
]


@pytest.mark.parametrize("pair", PAIRS)
def test_weights_move_between_live_models_and_the_move_is_proved(pair):
    source_kind, target_kind = pair
    need(source_kind)
    need(target_kind)
    spec = PatchEmbedSpec((24, 20), (8, 4), 3, 10)
    source, target = (
        to_module(weights_of(spec, 1), source_kind, spec),
        to_module(weights_of(spec, 2), target_kind, spec),
    )
    done = transfer(
        source,
        target,
        reading(source_kind, spec),
        reading(target_kind, spec),
        image_size=spec.image_size,
    )
    assert done.moved == ("kernel", "bias")
    assert done.bound_ratio < 1
    assert (
        same_bits(from_module(target, **reading(target_kind, spec))[0], weights_of(spec, 1)) == []
    )
    images = np.random.default_rng(1).standard_normal(spec.images_shape(2)).astype(np.float32)
    expected = patch_embed(images, weights_of(spec, 1).astype(np.float64), spec)
    if target_kind not in ORDERS:
        assert np.abs(called(target_kind, target, images) - expected).max() < NEAR


def test_nothing_moves_into_a_tree():
    with pytest.raises(
        PatchParityError, match=r"the target is a tree of parameters, .*to_module makes another"
    ):
        transfer(
            {"kernel": np.ones((8, 4, 3, 10), np.float32)},
            {"kernel": np.ones((8, 4, 3, 10), np.float32)},
        )


def test_a_whole_vit_s_embeddings_move_from_torch_to_keras_hub():
    need("torch")
    need("keras")
    transformers, keras_hub = pytest.importorskip("transformers"), pytest.importorskip("keras_hub")
    import torch
    from keras_hub.src.models.vit.vit_layers import ViTPatchingAndEmbedding
    from transformers.models.vit.modeling_vit import ViTEmbeddings

    assert keras_hub
    source = ViTEmbeddings(transformers.ViTConfig(image_size=32, patch_size=8, hidden_size=24))
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.normal_()
    target = ViTPatchingAndEmbedding(image_size=(32, 32), patch_size=(8, 8), hidden_dim=24)
    target(np.zeros((1, 32, 32, 3), np.float32))
    done = transfer(source, target)
    assert set(done.moved) == {"kernel", "bias", "class_token", "positions"}
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        expected = source.eval()(torch.from_numpy(images)).numpy()
    assert np.abs(np.asarray(target(images.transpose(0, 2, 3, 1))) - expected).max() < NEAR


def test_what_cannot_move_is_said_and_the_target_stays_as_it_was():
    need("torch")
    spec, other = PatchEmbedSpec((24, 16), 8, 3, 10), PatchEmbedSpec((24, 16), 8, 3, 12)
    source, target = (
        to_module(weights_of(spec), "torch", spec),
        to_module(weights_of(other), "torch", other),
    )
    with pytest.raises(PatchParityError, match=r"has width 10, .* 12: they are not of one model"):
        transfer(source, target)
    bare = to_module(weights_of(spec, 5, bias=False), "torch", spec)
    with pytest.raises(PatchParityError, match="the target has no bias, and the source has"):
        transfer(source, bare)
    assert (
        same_bits(from_module(bare, image_size=spec.image_size)[0], weights_of(spec, 5, bias=False))
        == []
    )


def test_an_object_that_does_something_else_with_its_weights_moves_nowhere():
    """Its parameters would arrive, and the two models would differ."""
    need("torch")
    import torch

    spec = PatchEmbedSpec((24, 16), 8, 3, 10)

    class ReadsBgr(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = to_module(weights_of(spec, 1), "torch", spec)

        def forward(self, images):
            return self.proj(images.flip(1)).flatten(2).transpose(1, 2)

    class Plain(ReadsBgr):
        def forward(self, images):
            return self.proj(images).flatten(2).transpose(1, 2)

    target = Plain()
    before = target.proj.weight.detach().clone()
    with pytest.raises(
        PatchParityError,
        match="ReadsBgr gives something else than its weights do, so there is nothing to move",
    ):
        transfer(ReadsBgr(), target)
    assert (target.proj.weight == before).all()


def test_initialized_weights_fit():
    assert initialize_weights(SPEC, seed=0).kernel.shape == SPEC.kernel_shape
