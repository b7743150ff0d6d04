"""Files by the names that their own libraries give, held against torch's operations called as those
libraries call them: MONAI, mmpretrain, vit-pytorch's others, LAVIS, SAM, I-JEPA, Pixtral,
InternViT."""

import json

import numpy as np
import pytest

from patchparity import PatchParityError, embed
from patchparity.porting.dialects.sizes import Sizes
from patchparity.porting.dialects.stage import read_stage
from patchparity.porting.files.opening import open_checkpoint

torch = pytest.importorskip("torch")
F = torch.nn.functional

D, C, P, Q = 24, 2, 8, 4
"""Width, channels, and rows and columns of a patch."""
SIZE = (24, 20)
GRID = (3, 5)
NEAR = 1e-5

pytestmark = pytest.mark.filterwarnings("ignore:.*is assumed:UserWarning")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(13)


def rows(*shape):
    return 0.3 * torch.randn(*shape)


def blocks(name, *parts, width=D):
    return {
        f"{name}.{number}.{part}.weight": rows(width, width) for number in (0, 1) for part in parts
    }


def patches(images, kernel, bias=None, **given):
    axes = kernel.ndim - 2
    convolution = F.conv3d if axes == 3 else F.conv2d
    return convolution(images, kernel, bias, **{"stride": kernel.shape[2:], **given}).flatten(2).mT


def with_first(token, tokens):
    return torch.cat([token.reshape(1, -1, token.shape[-1]).expand(len(tokens), -1, -1), tokens], 1)


def read(folder, held, images, told=None, config=None, metadata=None):
    """What is made of a file of these tensors; its dialect too."""
    numpy = pytest.importorskip("safetensors.numpy")
    path = folder / "model.safetensors"
    arrays = {name: np.ascontiguousarray(values.numpy()) for name, values in held.items()}
    numpy.save_file(arrays, path, metadata or {"format": "pt"})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    given = dict(told or {})
    dialect = given.pop("from_", None)
    sizes = Sizes.told(**given) if given else None
    with open_checkpoint(path) as checkpoint:
        stage = read_stage(checkpoint, dialect, sizes=sizes)
    return embed(path, images.numpy(), sizes=sizes, from_=dialect), stage.dialect.id


def same(found, expected):
    expected = expected.numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < NEAR * np.abs(expected).max()


# MONAI: networks/blocks/patchembedding.py, networks/nets/vit.py


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("volume", [True, False])
@pytest.mark.parametrize("convolution", [True, False])
@pytest.mark.parametrize("prefix", ["", "vit."])
def test_monai(prefix, convolution, volume, class_token, tmp_path):
    patch, size = ((2, P, Q), (4, *SIZE)) if volume else ((P, Q), SIZE)
    grid = [side // step for side, step in zip(size, patch, strict=True)]
    images, kernel, bias = torch.randn(2, C, *size), rows(D, C, *patch), rows(D)
    table, token = rows(1, int(np.prod(grid)), D), rows(1, 1, D)
    held = {f"{prefix}patch_embedding.position_embeddings": table}
    layer = f"{prefix}patch_embedding.patch_embeddings"
    if convolution:
        held |= {f"{layer}.weight": kernel, f"{layer}.bias": bias}
    else:  # "(p1 p2 c)": the channels last
        flat = kernel.movedim(1, -1).reshape(D, -1)
        held |= {f"{layer}.1.weight": flat, f"{layer}.1.bias": bias}
    held |= blocks(f"{prefix}blocks", "mlp.linear1", "attn.qkv", "norm1")
    held[f"{prefix}norm.weight"] = rows(D)
    if prefix:  # UNETR
        held["decoder5.transp_conv.conv.weight"] = rows(D, 4, 2, 2)
    expected = patches(images, kernel, bias) + table
    if class_token:  # in front of tokens that have their positions
        held[f"{prefix}cls_token"] = token
        expected = with_first(token, expected)
    told = {"image_size": size} | ({} if convolution else {"patch_size": patch})
    found, dialect = read(tmp_path, held, images, told)
    same(found, expected)
    assert dialect == "monai" + "-perceptron" * (not convolution) + "-3d" * volume


def test_a_perceptron_of_monai_asks_for_its_patch(tmp_path):
    held = {
        "patch_embedding.position_embeddings": rows(1, 16, D),
        "patch_embedding.patch_embeddings.1.weight": rows(D, 192),
        "patch_embedding.patch_embeddings.1.bias": rows(D),
        **blocks("blocks", "attn.qkv"),
    }
    with pytest.raises(PatchParityError, match="patch"):
        read(tmp_path, held, torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("volume", [True, False])
def test_monai_s_swin(volume, norm, tmp_path):
    patch, size = ((2, 2, 2), (4, 6, 8)) if volume else ((2, 2), (6, 8))
    images, kernel, bias = torch.randn(2, C, *size), rows(D, C, *patch), rows(D)
    scale, shift = rows(D), rows(D)
    held = {
        "swinViT.patch_embed.proj.weight": kernel,
        "swinViT.patch_embed.proj.bias": bias,
        "swinViT.layers1.0.blocks.0.attn.relative_position_bias_table": rows(2197, 3),
        "swinViT.layers1.0.blocks.0.attn.relative_position_index": torch.zeros(8, 8).long(),
        "swinViT.layers1.0.downsample.reduction.weight": rows(2 * D, 8 * D),
        "encoder1.layer.conv1.conv.weight": rows(D, C, 3, 3),
    }
    expected = patches(images, kernel, bias)
    if norm:
        held |= {"swinViT.patch_embed.norm.weight": scale, "swinViT.patch_embed.norm.bias": shift}
        expected = F.layer_norm(expected, (D,), scale, shift, 1e-5)
    found, dialect = read(tmp_path, held, images)
    same(found, expected)
    assert dialect == "monai-swin" + "-3d" * volume


# mmpretrain: models/backbones/, mmcv/cnn/bricks/transformer.py (PatchEmbed)


def mm(kernel, bias=None, prefix="backbone."):
    held = {f"{prefix}patch_embed.projection.weight": kernel}
    if bias is not None:
        held[f"{prefix}patch_embed.projection.bias"] = bias
    held |= blocks(f"{prefix}layers", "ln1", "attn.qkv", "ffn.layers.0.0")
    return held | {f"{prefix}ln1.weight": rows(D), "head.fc.weight": rows(5, D)}


@pytest.mark.parametrize("kind", ["vit", "none", "deit3", "clip", "deit"])
@pytest.mark.parametrize("images_of", [SIZE, (21, 18)])
def test_mmpretrain(images_of, kind, tmp_path):
    """Images are padded at their end up to whole patches ("corner")."""
    images, kernel, bias = torch.randn(2, C, *images_of), rows(D, C, P, Q), rows(D)
    held, token, other = mm(kernel, None if kind == "clip" else bias), rows(1, 1, D), rows(1, 1, D)
    padded = F.pad(images, (0, SIZE[1] - images_of[1], 0, SIZE[0] - images_of[0]))
    tokens = patches(padded, kernel, None if kind == "clip" else bias)
    table = rows(1, 15 + {"none": 0, "deit3": 0, "deit": 2}.get(kind, 1), D)
    held["backbone.pos_embed"] = table
    if kind != "none":
        held["backbone.cls_token"] = token
    if kind == "deit":
        held["backbone.dist_token"] = other
        expected = with_first(torch.cat([token, other], 1), tokens) + table
    elif kind == "deit3":
        expected = with_first(token, tokens + table)
    else:
        expected = (tokens if kind == "none" else with_first(token, tokens)) + table
    if kind == "clip":
        scale, shift = rows(D), rows(D)
        held |= {"backbone.pre_norm.weight": scale, "backbone.pre_norm.bias": shift}
        expected = F.layer_norm(expected, (D,), scale, shift, 1e-6)
    found, dialect = read(tmp_path, held, images, {"image_size": images_of})
    same(found, expected)
    assert dialect == ("mm-deit" if kind == "deit" else "mm-vit")


@pytest.mark.parametrize("shared", [True, False])
def test_mmpretrain_s_beit_adds_no_positions(shared, tmp_path):
    images, kernel, bias, token = torch.randn(2, C, *SIZE), rows(D, C, P, Q), rows(D), rows(1, 1, D)
    held = mm(kernel, bias) | {"backbone.cls_token": token}
    place = "rel_pos_bias" if shared else "layers.0.attn"
    held[f"backbone.{place}.relative_position_bias_table"] = rows(68, 2)
    found, dialect = read(tmp_path, held, images)
    same(found, with_first(token, patches(images, kernel, bias)))
    assert dialect == "mm-beit" + "-shared" * shared


@pytest.mark.parametrize("absolute", [True, False])
def test_mmpretrain_s_swin(absolute, tmp_path):
    images, kernel, bias = torch.randn(2, C, 16, 16), rows(D, C, 4, 4), rows(D)
    scale, shift, table = rows(D), rows(D), rows(1, 16, D)
    held = {
        "backbone.patch_embed.projection.weight": kernel,
        "backbone.patch_embed.projection.bias": bias,
        "backbone.patch_embed.norm.weight": scale,
        "backbone.patch_embed.norm.bias": shift,
        "backbone.stages.0.blocks.0.attn.w_msa.qkv.weight": rows(3 * D, D),
        "backbone.stages.0.downsample.reduction.weight": rows(2 * D, 4 * D),
        "backbone.norm3.weight": rows(D),
    }
    expected = F.layer_norm(patches(images, kernel, bias), (D,), scale, shift, 1e-5)
    if absolute:
        held["backbone.absolute_pos_embed"] = table
        expected = expected + table
    found, dialect = read(tmp_path, held, images)
    same(found, expected)
    assert dialect == "mm-swin"


def test_mmpretrain_s_davit_is_no_swin(tmp_path):
    """It has Swin's names, and a kernel that overlaps under images that are padded at both ends."""
    images, kernel, bias = torch.randn(2, C, 16, 24), rows(D, C, 7, 7), rows(D)
    scale, shift = rows(D), rows(D)
    held = {
        "backbone.patch_embed.projection.weight": kernel,
        "backbone.patch_embed.projection.bias": bias,
        "backbone.patch_embed.norm.weight": scale,
        "backbone.patch_embed.norm.bias": shift,
        "backbone.stages.0.blocks.0.spatial_block.attn.w_msa.qkv.weight": rows(3 * D, D),
        "backbone.stages.0.blocks.0.spatial_block.cpe1.proj.weight": rows(D, 1, 3, 3),
    }
    padded = F.pad(images, (1, 2, 1, 2))
    expected = F.layer_norm(patches(padded, kernel, bias, stride=4), (D,), scale, shift, 1e-5)
    found, dialect = read(tmp_path, held, images)
    same(found, expected)
    assert dialect == "mm-davit"


def test_mmpretrain_s_van_has_a_batch_norm(tmp_path):
    images, kernel, bias = torch.randn(2, C, 16, 24), rows(D, C, 7, 7), rows(D)
    norm = {"weight": rows(D), "bias": rows(D), "running_mean": rows(D)}
    norm["running_var"] = torch.rand(D) + 0.5
    held = {f"patch_embed1.norm.{name}": values for name, values in norm.items()} | {
        "patch_embed1.projection.weight": kernel,
        "patch_embed1.projection.bias": bias,
        "patch_embed1.norm.num_batches_tracked": torch.zeros(()).long(),
        "patch_embed2.projection.weight": rows(D, D, 3, 3),
        "blocks1.0.attn.proj_1.weight": rows(D, D, 1, 1),
        "norm1.weight": rows(D),
    }
    grid = F.conv2d(images, kernel, bias, stride=4, padding=3)
    running = norm["running_mean"], norm["running_var"]
    expected = F.batch_norm(grid, *running, norm["weight"], norm["bias"]).flatten(2).mT
    found, dialect = read(tmp_path, held, images)
    same(found, expected)
    assert dialect == "mm-van"


@pytest.mark.parametrize(
    ("dialect", "kernel_name", "more"),
    [
        ("mm-mixer", "patch_embed.projection", {"layers.0.token_mix.layers.0.0.weight": (9, 15)}),
        ("mm-sam", "patch_embed.projection", {"channel_reduction.0.weight": (4, D, 1, 1)}),
        (
            "mm-twins",
            "patch_embeds.0.projection",
            {"patch_embeds.1.projection.weight": (9, D, 2, 2)},
        ),
        ("convnext", "downsample_layers.0.0", {"stages.0.0.dwconv.weight": (D, 1, 7, 7)}),
    ],
)
def test_others_that_mmpretrain_and_their_authors_write(dialect, kernel_name, more, tmp_path):
    images, kernel, bias = torch.randn(2, C, *SIZE), rows(D, C, P, Q), rows(D)
    scale, shift, table = rows(D), rows(D), rows(1, *GRID, D)
    held = {f"{kernel_name}.weight": kernel, f"{kernel_name}.bias": bias}
    held |= {name: rows(*shape) for name, shape in more.items()}
    expected = patches(images, kernel, bias)
    if dialect == "mm-sam":
        held |= {"pos_embed": table, "layers.0.attn.rel_pos_h": rows(5, 8)}
        expected = expected + table.reshape(1, 15, D)
    if dialect in ("mm-twins", "convnext"):
        norm = "downsample_layers.0.1" if dialect == "convnext" else "patch_embeds.0.norm"
        held |= {f"{norm}.weight": scale, f"{norm}.bias": shift}
        epsilon = 1e-6 if dialect == "convnext" else 1e-5
        expected = F.layer_norm(expected, (D,), scale, shift, epsilon)
    found, read_as = read(tmp_path, held, images)
    same(found, expected)
    assert read_as == dialect


def test_a_poolformer_overlaps(tmp_path):
    images, kernel, bias = torch.randn(2, C, 16, 24), rows(D, C, 7, 7), rows(D)
    held = {
        "patch_embed.proj.weight": kernel,
        "patch_embed.proj.bias": bias,
        "network.0.0.layer_scale_1": rows(D),
        "network.0.0.layer_scale_2": rows(D),
        "network.0.0.norm1.weight": rows(D),
        "network.1.proj.weight": rows(32, D, 3, 3),
    }
    found, dialect = read(tmp_path, held, images)
    same(found, patches(images, kernel, bias, stride=4, padding=2))
    assert dialect == "mm-poolformer"


# vit-pytorch: pit.py, na_vit_nested_tensor.py


def test_vit_pytorch_s_pit_overlaps(tmp_path):
    images, kernel, bias = torch.randn(2, C, 32, 32), rows(D, C, 8, 8), rows(D)
    token, table = rows(1, 1, D), rows(1, 50, D)
    held = {
        "to_patch_embedding.2.weight": kernel.reshape(D, -1),
        "to_patch_embedding.2.bias": bias,
        "cls_token": token,
        "pos_embedding": table,
        "layers.0.layers.0.0.to_qkv.weight": rows(3 * D, D),
        "layers.1.downsample.net.0.weight": rows(2 * D, 1, 3, 3),
    }
    told = {"image_size": 32, "patch_size": 8}
    found, dialect = read(tmp_path, held, images, told)
    same(found, with_first(token, patches(images, kernel, bias, stride=4)) + table)
    assert dialect == "lucidrains-pit"


def test_vit_pytorch_s_navit_over_nested_tensors(tmp_path):
    images, kernel, bias = torch.randn(2, C, 24, 16), rows(D, C * P * Q), rows(D)
    norms = [(rows(C * P * Q), rows(C * P * Q)), (rows(D), rows(D))]
    down, across = rows(6, D), rows(6, D)
    held = {
        "to_patch_embedding.0.weight": norms[0][0],
        "to_patch_embedding.0.bias": norms[0][1],
        "to_patch_embedding.1.weight": kernel,
        "to_patch_embedding.1.bias": bias,
        "to_patch_embedding.2.weight": norms[1][0],
        "to_patch_embedding.2.bias": norms[1][1],
        "pos_embed_height": down,
        "pos_embed_width": across,
        "attn_pool_queries": rows(D),
        "attn_pool.to_queries.weight": rows(D, D),
        "transformer.layers.0.0.to_queries.weight": rows(D, D),
    }
    cut = images.reshape(2, C, 3, P, 4, Q).permute(0, 2, 4, 1, 3, 5).reshape(2, 12, -1)
    tokens = F.linear(F.layer_norm(cut, (C * P * Q,), *norms[0]), kernel, bias)
    tokens = F.layer_norm(tokens, (D,), *norms[1])
    expected = tokens + (down[:3, None] + across[None, :4]).reshape(12, D)
    told = {"image_size": (24, 16), "patch_size": (P, Q)}
    found, dialect = read(tmp_path, held, images, told)
    same(found, expected)
    assert dialect == "lucidrains-navit-nested"


# LAVIS, SAM, I-JEPA, Pixtral, InternViT: what their authors' own files hold


def timm(prefix, kernel, bias):
    held = {f"{prefix}patch_embed.proj.weight": kernel, f"{prefix}patch_embed.proj.bias": bias}
    return held | blocks(f"{prefix}blocks", "attn.qkv", "mlp.fc1", "norm1")


def test_lavis_blip_2(tmp_path):
    images, kernel, bias = torch.randn(2, C, *SIZE), rows(D, C, P, Q), rows(D)
    token, table = rows(1, 1, D), rows(1, 16, D)
    held = timm("visual_encoder.", kernel, bias) | {
        "visual_encoder.cls_token": token,
        "visual_encoder.pos_embed": table,
        "ln_vision.weight": rows(D),
        "query_tokens": rows(1, 4, D),
        "Qformer.bert.encoder.layer.0.attention.self.query.weight": rows(D, D),
        "opt_proj.weight": rows(9, D),
    }
    found, dialect = read(tmp_path, held, images, {"image_size": SIZE})
    same(found, with_first(token, patches(images, kernel, bias)) + table)
    assert dialect == "lavis-blip2"


def test_lavis_blip_2_on_clip(tmp_path):
    images, kernel = torch.randn(2, C, *SIZE), rows(D, C, P, Q)
    token, table, scale, shift = rows(D), rows(16, D), rows(D), rows(D)
    held = {
        "visual_encoder.conv1.weight": kernel,
        "visual_encoder.class_embedding": token,
        "visual_encoder.positional_embedding": table,
        "visual_encoder.ln_pre.weight": scale,
        "visual_encoder.ln_pre.bias": shift,
        "visual_encoder.transformer.resblocks.0.attn.in_proj_weight": rows(3 * D, D),
        "ln_vision.weight": rows(D),
        "query_tokens": rows(1, 4, D),
    }
    found, dialect = read(tmp_path, held, images, {"image_size": SIZE})
    sequence = with_first(token, patches(images, kernel)) + table
    same(found, F.layer_norm(sequence, (D,), scale, shift, 1e-5))
    assert dialect == "lavis-blip2-clip"


def test_sam_s_own_file(tmp_path):
    images, kernel, bias, table = (
        torch.randn(2, C, *SIZE),
        rows(D, C, P, Q),
        rows(D),
        rows(1, *GRID, D),
    )
    held = timm("image_encoder.", kernel, bias) | {
        "image_encoder.pos_embed": table,
        "image_encoder.blocks.0.attn.rel_pos_h": rows(5, 8),
        "image_encoder.neck.0.weight": rows(4, D, 1, 1),
        "prompt_encoder.point_embeddings.0.weight": rows(1, 4),
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": rows(2, 2),
        "mask_decoder.iou_token.weight": rows(1, 4),
        "pixel_mean": rows(3, 1, 1),
    }
    found, dialect = read(tmp_path, held, images)
    same(found, patches(images, kernel, bias) + table.reshape(1, 15, D))
    assert dialect == "timm-sam"


def test_i_jepa_s_own_file_holds_two_encoders(tmp_path):
    images = torch.randn(2, C, 16, 16)
    parts = {}
    for name in ("encoder", "target_encoder"):
        held = timm("module.", rows(D, C, 4, 4), rows(D)) | {"module.pos_embed": rows(1, 16, D)}
        parts[name] = held
    predictor = {"module.predictor_embed.weight": rows(12, D), "module.mask_token": rows(1, 1, 12)}
    path = tmp_path / "jepa.pth.tar"
    torch.save({**parts, "predictor": predictor, "epoch": 3, "loss": 0.1}, path)
    with pytest.raises(PatchParityError, match=r"ambiguous.*target_encoder\.") as error:
        embed(path, images.numpy())
    assert "--prefix would" in str(error.value)
    for name, held in parts.items():
        kernel, bias = (held[f"module.patch_embed.proj.{part}"] for part in ("weight", "bias"))
        found = embed(path, images.numpy(), prefix=f"{name}.")
        same(found, patches(images, kernel, bias) + held["module.pos_embed"])


def test_pixtral_s_own_file(tmp_path):
    images, kernel, scale = torch.randn(2, 3, 24, 32), rows(D, 3, P, P), rows(D)
    held = {
        "vision_encoder.patch_conv.weight": kernel,
        "vision_encoder.ln_pre.weight": scale,
        "vision_encoder.transformer.layers.0.attention.wq.weight": rows(D, D),
        "vision_encoder.transformer.layers.0.attention_norm.weight": rows(D),
        "vision_language_adapter.w_in.weight": rows(9, D),
        "patch_merger.merging_layer.weight": rows(D, 4 * D),
        "pre_mm_projector_norm.weight": rows(D),
        "tok_embeddings.weight": rows(40, 9),
        "norm.weight": rows(9),
    }
    tokens = patches(images, kernel)
    expected = tokens * torch.rsqrt(tokens.pow(2).mean(-1, keepdim=True) + 1e-5) * scale
    found, dialect = read(tmp_path, held, images)
    same(found, expected)
    assert dialect == "hf-pixtral"


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("told", [True, False])
def test_internvit_s_own_file(told, whole, tmp_path):
    images, kernel, bias = torch.randn(2, 3, 32, 32), rows(D, 3, P, P), rows(D)
    token, table, before = rows(1, 1, D), rows(1, 17, D), "vision_model." * whole
    held = {
        f"{before}embeddings.class_embedding": token,
        f"{before}embeddings.patch_embedding.weight": kernel,
        f"{before}embeddings.patch_embedding.bias": bias,
        f"{before}embeddings.position_embedding": table,
        f"{before}encoder.layers.0.ls1": rows(D),
        f"{before}encoder.layers.0.ls2": rows(D),
        f"{before}encoder.layers.0.attn.qkv.weight": rows(3 * D, D),
    }
    if whole:
        held |= {"mlp1.0.weight": rows(4 * D), "language_model.model.norm.weight": rows(9)}
    config = {"model_type": "intern_vit_6b", "image_size": 32, "patch_size": P, "hidden_size": D}
    if whole:
        config = {"model_type": "internvl_chat", "vision_config": config}
    found, dialect = read(tmp_path, held, images, config=config if told else None)
    same(found, with_first(token, patches(images, kernel, bias)) + table)
    assert dialect == "internvit"


def entering(model, part, images):
    """What a part of a model takes when this is called."""
    seen = []
    handle = part.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    with torch.no_grad():
        model(images)
    handle.remove()
    return seen[0]


def with_random_weights(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(rows(*parameter.shape))
    return model.eval()


@pytest.mark.parametrize("kind", ["conv", "perceptron"])
@pytest.mark.parametrize(("size", "patch"), [((24, 32), (8, 16)), ((8, 24, 16), (4, 8, 8))])
@pytest.mark.parametrize("class_token", [True, False])
def test_monai_s_own_vit(class_token, size, patch, kind, tmp_path):
    nets = pytest.importorskip("monai.networks.nets")
    model = nets.ViT(
        in_channels=C,
        img_size=size,
        patch_size=patch,
        hidden_size=D,
        mlp_dim=20,
        num_layers=1,
        num_heads=3,
        proj_type=kind,
        classification=class_token,
        spatial_dims=len(size),
    )
    images = torch.randn(2, C, *size)
    expected = entering(with_random_weights(model), model.blocks[0], images)
    told = {"image_size": size} | ({} if kind == "conv" else {"patch_size": patch})
    same(read(tmp_path, model.state_dict(), images, told)[0], expected)


@pytest.mark.parametrize("volume", [True, False])
def test_monai_s_own_networks(volume, tmp_path):
    nets = pytest.importorskip("monai.networks.nets")
    axes = 3 if volume else 2
    size = (32,) * axes
    common = dict(in_channels=1, out_channels=2, spatial_dims=axes)
    unetr = nets.UNETR(
        img_size=size, feature_size=4, hidden_size=D, mlp_dim=20, num_heads=3, **common
    )
    images = torch.randn(2, 1, *size)
    expected = entering(with_random_weights(unetr), unetr.vit.blocks[0], images)
    same(read(tmp_path, unetr.state_dict(), images, {"image_size": size})[0], expected)
    swin = with_random_weights(nets.SwinUNETR(feature_size=12, **common))
    expected = entering(swin.swinViT, swin.swinViT.pos_drop, images).flatten(2).mT
    same(read(tmp_path, swin.state_dict(), images)[0], expected)
