"""Diagnosis of a real library's blocks: timm's ViT, right in every type, and wrong as people make
it."""

import functools

import numpy as np
import pytest

from patchparity.reference.diagnosis.encoder import MeasuredBlocks, diagnose_encoder
from patchparity.reference.encoder import encode_blocks
from patchparity.reference.encoder_weights import EncoderSpec, EncoderWeights

from .test_encoder_libraries import DEPTH, HEADS, D, M, Names, grown, of_timm, timm_or_skip

torch = pytest.importorskip("torch")

SPEC = EncoderSpec(HEADS)
TANH = functools.partial(torch.nn.GELU, approximate="tanh")


def model_of(kind=torch.float32, **options):
    """timm's ViT with weights of realistic scales, in a type."""
    model = timm_or_skip().models.vision_transformer.VisionTransformer(
        img_size=(24, 32), patch_size=8, embed_dim=D, depth=DEPTH, num_heads=HEADS,
        mlp_ratio=M / D, num_classes=0, **options,
    )  # fmt: skip
    return grown(model).to(kind)


def weights_of(model):
    """What its blocks hold."""
    return EncoderWeights(of_timm(Names(model)))


def said(model, weights, kind=torch.float32):
    """Each block of the model is fed with the reference's own input of it."""
    tokens = 0.3 * np.random.default_rng(4).standard_normal((2, 13, D))
    inputs = [tokens, *encode_blocks(tokens, weights, SPEC)][:DEPTH]
    given = [torch.from_numpy(each).to(kind) for each in inputs]
    with torch.no_grad():
        left = [block(each) for block, each in zip(model.blocks, given, strict=True)]
    both = (tuple(each.double().numpy() for each in part) for part in (given, left))
    name = str(kind).removeprefix("torch.")
    return diagnose_encoder(MeasuredBlocks(*both), weights, SPEC, dtype=name)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_right_blocks_are_right(kind):
    model = model_of(kind)
    assert said(model, weights_of(model), kind).correct


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"act_layer": TANH}, "all blocks: the activation is tanh GELU, exact GELU was declared"),
        (
            {"norm_layer": functools.partial(torch.nn.LayerNorm, eps=1e-3)},
            "all blocks: eps is 1e-3, 1e-6 was declared",
        ),
    ],
)
def test_what_no_tensor_holds_is_named(options, words):
    model = model_of(**options)
    assert said(model, weights_of(model)).explanation == words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b[1].norm1.load_state_dict(b[0].norm1.state_dict()), "by nothing"),
        (lambda b: b[1].attn.proj.weight.copy_(b[1].attn.proj.weight.T.clone()),
         "block 1: the output projection is not transposed"),
        (lambda b: b[0].mlp.fc2.bias.zero_(), "block 0: the bias of the MLP's down matrix"),
        (lambda b: b[1].load_state_dict(b[0].state_dict()),
         "block 1 holds the weights of block 0"),
        (lambda b: setattr(b[1].attn, "scale", 1.0), "block 1: scores are not scaled"),
    ],
)  # fmt: skip
def test_what_was_loaded_wrongly_is_named(change, words):
    model = model_of()
    weights = weights_of(model)
    for block in model.blocks:
        block.attn.fused_attn = False  # which takes no scale
    with torch.no_grad():
        change(model.blocks)
    found = said(model, weights)
    assert not found.correct
    assert words in found.explanation
    assert len(found.findings) == 1
