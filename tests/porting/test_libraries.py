"""Real libraries' own models with random weights, as they save them: the reference gives what they
give, before and after a port."""

import numpy as np
import pytest

from patchparity import embed, inspect_checkpoint, port, verify

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

BOUND = 2e-5
"""Largest difference that float32 allows here: sums of K = 3·16·16 terms of products near 1, λ√K·u
of them (reference/error.py), 4·28·6e-8, and a layer norm behind them."""


NEAR = 1e-4
"""The same where weights and images are of standard deviation 1: 4·√192·2⁻²⁴ of 192 products whose
mean is 2/π, 4e-4, of which correct float32 reaches a quarter at most (reference/error.py)."""


def randomized(model):
    """Every parameter random: a fresh table of zeros would prove nothing."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 and parameter.numel():
                parameter.copy_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


SMALL = dict(hidden_size=48, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)


def vit():
    model = transformers.ViTModel(
        transformers.ViTConfig(image_size=(32, 48), patch_size=8, **SMALL), add_pooling_layer=False
    )
    return model, (2, 3, 32, 48), lambda images: model.embeddings(images)


def vit_for_classification():
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=32, patch_size=8, **SMALL)
    )
    return model, (2, 3, 32, 32), lambda images: model.vit.embeddings(images)


def deit():
    model = transformers.DeiTModel(
        transformers.DeiTConfig(image_size=32, patch_size=8, **SMALL), add_pooling_layer=False
    )
    return model, (2, 3, 32, 32), lambda images: model.embeddings(images)


def dinov2():
    model = transformers.Dinov2Model(
        transformers.Dinov2Config(image_size=32, patch_size=8, **SMALL)
    )
    return model, (2, 3, 32, 32), lambda images: model.embeddings(images)


def dinov2_with_registers():
    config = transformers.Dinov2WithRegistersConfig(
        image_size=32, patch_size=8, num_register_tokens=3, **SMALL
    )
    model = transformers.Dinov2WithRegistersModel(config)
    return model, (2, 3, 32, 32), lambda images: model.embeddings(images)


def dinov3():
    config = transformers.DINOv3ViTConfig(
        image_size=32, patch_size=8, num_register_tokens=2, **SMALL
    )
    model = transformers.DINOv3ViTModel(config)
    return model, (2, 3, 32, 32), lambda images: model.embeddings(images)


def clip():
    model = transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(image_size=32, patch_size=8, **SMALL)
    )
    inner = getattr(model, "vision_model", model)
    norm = getattr(inner, "pre_layrnorm", None) or inner.pre_layernorm
    return model, (2, 3, 32, 32), lambda images: norm(inner.embeddings(images))


def siglip():
    model = transformers.SiglipVisionModel(
        transformers.SiglipVisionConfig(image_size=32, patch_size=8, **SMALL)
    )
    inner = getattr(model, "vision_model", model)
    return model, (2, 3, 32, 32), lambda images: inner.embeddings(images)


def vit_mae():
    model = transformers.ViTMAEModel(
        transformers.ViTMAEConfig(image_size=32, patch_size=8, mask_ratio=0.0, **SMALL)
    )

    def sequence(images):
        embeddings = model.embeddings
        tokens = embeddings.patch_embeddings(images) + embeddings.position_embeddings[:, 1:]
        first = embeddings.cls_token + embeddings.position_embeddings[:, :1]
        return torch.cat([first.expand(len(images), -1, -1), tokens], 1)

    return model, (2, 3, 32, 32), sequence


def swin():
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=24, depths=[1], num_heads=[2]
    )
    model = transformers.SwinModel(config, add_pooling_layer=False)
    return model, (2, 3, 32, 32), lambda images: model.embeddings(images)[0]


def vivit():
    config = transformers.VivitConfig(image_size=32, num_frames=4, tubelet_size=[2, 8, 8], **SMALL)
    model = transformers.VivitModel(config, add_pooling_layer=False)
    return model, (2, 3, 4, 32, 32), lambda video: model.embeddings(video.transpose(1, 2))


def videomae():
    config = transformers.VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=4, tubelet_size=2, **SMALL
    )
    model = transformers.VideoMAEModel(config)

    def sequence(video):
        embeddings = model.embeddings
        tokens = embeddings.patch_embeddings(video.transpose(1, 2))
        return tokens + embeddings.position_embeddings.type_as(tokens)

    return model, (2, 3, 4, 32, 32), sequence


def beit():
    config = transformers.BeitConfig(
        image_size=32,
        patch_size=8,
        use_absolute_position_embeddings=True,
        use_mask_token=True,
        **SMALL,
    )
    model = transformers.BeitModel(config, add_pooling_layer=False)

    def sequence(images):
        found = model.embeddings(images)
        return found[0] if isinstance(found, tuple) else found

    return model, (2, 3, 32, 32), sequence


def siglip2():
    model = transformers.Siglip2VisionModel(
        transformers.Siglip2VisionConfig(num_patches=16, patch_size=8, **SMALL)
    )
    inner = getattr(model, "vision_model", model)

    def sequence(images):
        patches = (
            images.reshape(-1, 3, 4, 8, 4, 8).permute(0, 2, 4, 3, 5, 1).reshape(len(images), 16, -1)
        )
        return inner.embeddings(patches, torch.tensor([[4, 4]] * len(images)))

    return model, (2, 3, 32, 32), sequence


def llama4():
    config = transformers.Llama4VisionConfig(
        image_size=32,
        patch_size=8,
        hidden_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=192,
        vision_output_dim=16,
        projector_input_dim=16,
        projector_output_dim=16,
    )
    model = transformers.Llama4VisionModel(config)

    def sequence(images):
        tokens = model.patch_embedding(images)
        whole = torch.cat([tokens, model.class_embedding.expand(len(images), 1, -1)], 1)
        return model.layernorm_pre(whole + model.positional_embedding_vlm)

    return model, (2, 3, 32, 32), sequence


def merged_patches(video):
    """Patches of one picture, twice over, as Qwen's image processor flattens and orders them."""
    rows, columns = video.shape[-2] // 8, video.shape[-1] // 8
    blocks = video[0].transpose(0, 1).reshape(1, 2, 3, rows // 2, 2, 8, columns // 2, 2, 8)
    return blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(rows * columns, -1)


def qwen2_vl():
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

    config = Qwen2VLVisionConfig(
        depth=1, embed_dim=48, hidden_size=16, num_heads=2, patch_size=8, mlp_ratio=1
    )
    model = Qwen2VisionTransformerPretrainedModel(config)
    return model, (1, 3, 2, 32, 48), lambda video: model.patch_embed(merged_patches(video))[None]


def qwen3_vl():
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

    config = Qwen3VLVisionConfig(
        depth=1,
        hidden_size=48,
        intermediate_size=8,
        num_heads=2,
        patch_size=8,
        out_hidden_size=16,
        num_position_embeddings=16,
        deepstack_visual_indexes=[0],
    )
    model = Qwen3VLVisionModel(config)

    def sequence(video):
        """What the first block is given, caught on its way."""
        caught = []

        class CaughtError(Exception):
            pass

        def catch(module, arguments, keywords):
            caught.append(arguments[0] if arguments else keywords["hidden_states"])
            raise CaughtError

        handle = model.blocks[0].register_forward_pre_hook(catch, with_kwargs=True)
        try:
            model(merged_patches(video), grid_thw=torch.tensor([[1, 4, 4]]))
        except CaughtError:
            pass
        finally:
            handle.remove()
        return caught[0][None]

    return model, (1, 3, 2, 32, 32), sequence


MODELS = {
    "hf-beit": beit,
    "hf-siglip2": siglip2,
    "hf-llama4": llama4,
    "hf-qwen2-vl": qwen2_vl,
    "hf-qwen3-vl": qwen3_vl,
    "hf-vit": vit,
    "hf-vit-classifier": vit_for_classification,
    "hf-deit": deit,
    "hf-dinov2": dinov2,
    "hf-dinov2-registers": dinov2_with_registers,
    "hf-dinov3": dinov3,
    "hf-clip": clip,
    "hf-siglip": siglip,
    "hf-vit-mae": vit_mae,
    "hf-swin": swin,
    "hf-vivit": vivit,
    "hf-videomae": videomae,
}
IDS = {"hf-vit-classifier": "hf-vit", "hf-dinov2-registers": "hf-dinov2"}
TARGETS = {
    "hf-vit": [("timm-vit", ".safetensors"), ("google-vit", ".npz"), ("big-vision-vit", ".npz")],
    "hf-deit": [("timm-deit", ".safetensors")],
    "hf-dinov2": [("timm-vit", ".safetensors")],
    "hf-dinov2-registers": [("dinov2", ".pt"), ("timm-vit", ".safetensors")],
    "hf-dinov3": [("dinov3", ".pt")],
    "hf-clip": [("openai-clip", ".pt"), ("timm-clip", ".safetensors")],
    "hf-siglip": [("hf-siglip2", ".safetensors")],
    "hf-vit-mae": [("mae", ".pt")],
    "hf-beit": [("hf-vit", ".safetensors")],
    "hf-siglip2": [("hf-siglip", ".safetensors"), ("big-vision-naflex", ".npz")],
    "hf-videomae": [("videomae", ".pt")],
}


@pytest.fixture(scope="module", params=MODELS)
def saved(request, tmp_path_factory):
    """A model, the folder that it saved itself to, images that it takes, and what it makes of
    them."""
    try:
        model, shape, sequence = MODELS[request.param]()
    except AttributeError as error:
        pytest.skip(f"this version of transformers has no {error}")
    randomized(model)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    images = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    with torch.no_grad():
        expected = sequence(torch.from_numpy(images)).double().numpy()
    return request.param, folder, images, expected


def test_the_reference_gives_what_the_library_gives(saved):
    name, folder, images, expected = saved
    told = inspect_checkpoint(folder)
    assert not told["ambiguous"], told["rivals"]
    assert told["dialect"] == IDS.get(name, name)
    found = embed(folder, images, to="sequence")
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < BOUND * max(1.0, np.abs(expected).max())


@pytest.mark.filterwarnings("ignore:the patch is assumed to be square")
@pytest.mark.filterwarnings("ignore:ε of its norms is taken")
def test_and_after_a_port(saved, tmp_path):
    name, folder, images, expected = saved
    for target, suffix in TARGETS.get(name, []):
        path = tmp_path / f"{target}{suffix}"
        done = port(folder, path, target)
        assert done.ok
        assert not done.losses
        found = embed(path, images, to="sequence", from_=target)
        assert np.abs(found - expected).max() < BOUND * max(1.0, np.abs(expected).max()), target
        assert verify(folder, path, from_=(None, target)).same


def test_every_tensor_of_an_example_matters(saved):
    """A table of zeros, say, would let a port that forgets it pass."""
    from patchparity.porting.dialects.stage import read_stage
    from patchparity.porting.files.opening import opened
    from patchparity.reference.sequence import embed_sequence

    _, folder, _, _ = saved
    with opened(folder) as checkpoint:
        stage = read_stage(checkpoint)
    images = np.random.default_rng(0).standard_normal(stage.spec.images_shape(1))
    weights = stage.weights.astype(np.float64)
    whole = embed_sequence(images, weights, stage.spec)
    import dataclasses

    for field in (
        "kernel",
        "bias",
        "class_token",
        "distillation_token",
        "register_tokens",
        "positions",
    ):
        array = getattr(weights, field)
        if array is not None:
            less = dataclasses.replace(weights, **{field: np.zeros_like(array)})
            assert np.abs(embed_sequence(images, less, stage.spec) - whole).max() > 0.01, field


def test_segformer_s_stages_are_told_apart(tmp_path):
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 20, 24], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 1, 1]
    )
    model = randomized(transformers.SegformerModel(config))
    model.save_pretrained(tmp_path)
    images = np.random.default_rng(0).standard_normal((1, 3, 64, 48)).astype(np.float32)
    with torch.no_grad():
        stages = getattr(model, "encoder", model)
        first = [
            module
            for module in stages.modules()
            if type(module).__name__ == "SegformerOverlapPatchEmbeddings"
        ]
        hidden = torch.from_numpy(images)
        for number, module in enumerate(first, 1):
            tokens, height, width = module(hidden)
            found = embed(tmp_path, hidden.numpy(), to="sequence", from_=f"hf-segformer-{number}")
            assert np.abs(found - tokens.numpy()).max() < NEAR, number
            hidden = tokens.transpose(1, 2).reshape(1, -1, height, width)


def test_keras_hub_takes_what_transformers_saved(tmp_path, monkeypatch):
    import os

    if os.environ.get("KERAS_BACKEND") not in ("tensorflow", "jax", "torch"):
        pytest.skip("KERAS_BACKEND is not set")
    keras_hub = pytest.importorskip("keras_hub")
    import keras

    backbone = keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=8, num_layers=1, num_heads=2, hidden_dim=48, mlp_dim=8
    )
    for variable in backbone.weights:
        if "seed" not in variable.path:
            variable.assign(
                np.random.default_rng(abs(hash(variable.path)) % 2**32).standard_normal(
                    variable.shape
                )
            )
    layer = next(each for each in backbone.layers if "patching" in each.name)
    images = np.random.default_rng(5).standard_normal((2, 3, 32, 32)).astype(np.float32)

    def sequence():
        return np.asarray(keras.ops.convert_to_numpy(layer(images.transpose(0, 2, 3, 1))))

    for name in ("own.weights.h5", "own.keras"):
        (backbone.save if name.endswith(".keras") else backbone.save_weights)(tmp_path / name)
        told = inspect_checkpoint(tmp_path / name)
        assert told["dialect"] == "keras-hub-vit", told["candidates"]
        found = embed(tmp_path / name, images, to="sequence")
        assert np.abs(found - sequence()).max() < NEAR
    model, _, expected = vit_for_classification()
    randomized(model)
    (tmp_path / "hf").mkdir()
    model.save_pretrained(tmp_path / "hf")
    done = port(
        tmp_path / "hf",
        tmp_path / "moved.weights.h5",
        "keras-hub-vit",
        into=tmp_path / "own.weights.h5",
    )
    assert done.ok
    backbone.load_weights(tmp_path / "moved.weights.h5")
    with torch.no_grad():
        wanted = expected(torch.from_numpy(images)).numpy()
    assert np.abs(sequence() - wanted).max() < NEAR


KERAS_HUB = {
    "keras-hub-deit": (
        "DeiTBackbone",
        dict(image_shape=(32, 32, 3), intermediate_dim=8),
        "hf-deit",
    ),
    "keras-hub-dinov2": (
        "DINOV2Backbone",
        dict(
            image_shape=(32, 32, 3),
            position_embedding_shape=(32, 32),
            intermediate_dim=8,
            num_register_tokens=0,
        ),
        "hf-dinov2",
    ),
    "keras-hub-dinov2-registers": (
        "DINOV2Backbone",
        dict(
            image_shape=(32, 32, 3),
            position_embedding_shape=(32, 32),
            intermediate_dim=8,
            num_register_tokens=3,
        ),
        "hf-dinov2",
    ),
}


@pytest.mark.parametrize("name", KERAS_HUB)
def test_keras_hub_s_other_models(name, tmp_path):
    import os

    if os.environ.get("KERAS_BACKEND") not in ("tensorflow", "jax", "torch"):
        pytest.skip("KERAS_BACKEND is not set")
    keras_hub = pytest.importorskip("keras_hub")
    import keras

    kind, options, other = KERAS_HUB[name]
    backbone = getattr(keras_hub.models, kind)(
        patch_size=8, num_layers=1, num_heads=2, hidden_dim=48, **options
    )
    generator = np.random.default_rng(1)
    for variable in backbone.weights:
        if "seed" not in variable.path:
            variable.assign(generator.standard_normal(variable.shape))
    layer = next(each for each in backbone.layers if "embedding" in each.name)
    interpolated = getattr(layer, "interpolated_position_embeddings", None)
    if interpolated is not None:
        interpolated.assign(layer.position_embeddings)
    backbone.save_weights(tmp_path / "own.weights.h5")
    images = generator.standard_normal((2, 3, 32, 32)).astype(np.float32)
    told = inspect_checkpoint(tmp_path / "own.weights.h5")
    assert told["dialect"] == name, told["candidates"]

    def sequence():
        return np.asarray(keras.ops.convert_to_numpy(layer(images.transpose(0, 2, 3, 1))))

    assert (
        np.abs(embed(tmp_path / "own.weights.h5", images, to="sequence") - sequence()).max() < NEAR
    )
    port(tmp_path / "own.weights.h5", tmp_path / "there.safetensors", other)
    for variable in backbone.weights:
        if "seed" not in variable.path:
            variable.assign(generator.standard_normal(variable.shape))
    backbone.save_weights(tmp_path / "changed.weights.h5")
    port(
        tmp_path / "there.safetensors",
        tmp_path / "back.weights.h5",
        name,
        into=tmp_path / "changed.weights.h5",
    )
    backbone.load_weights(tmp_path / "back.weights.h5")
    assert (
        np.abs(embed(tmp_path / "own.weights.h5", images, to="sequence") - sequence()).max() < NEAR
    )
