"""What whole models compute, by code that knows nothing of layouts: the library's own model in
float64, or else torch's functions over names that are written here by hand. Where no library of
today builds the model (transformers 4's Flax) it is our own reading, which the way back is held
against too."""

import dataclasses
import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchparity.porting.encoders.canonical import block_of, ends_of
from patchparity.porting.files.opening import opened
from patchparity.porting.whole.read import read_whole, side_of
from patchparity.reference.encoder import encode

from ..census.stand_in import import_library
from . import vitax_beside
from .npz_arrays import arrays_of
from .whole_models import Kind

Tensors = dict[str, Any]


def reduced(output: NDArray[Any], kind: Kind, ahead: int) -> NDArray[Any]:
    """One vector for each image, where there are tokens yet."""
    if output.ndim == 2:
        return output
    if kind.pooling == "mean":
        return np.asarray(output[:, ahead:].mean(axis=1))
    return output[:, 0]


def _torch_images(images: NDArray[Any]) -> Any:
    import torch

    return torch.from_numpy(images)


def of_transformers(folder: Path, loads: str, images: NDArray[Any]) -> NDArray[Any]:
    """What the line that the report gives makes of them."""
    import torch

    transformers = importlib.import_module("transformers")
    told_too = f"{loads[:-1]}, output_loading_info=True)"
    model, told = eval(told_too, {"transformers": transformers})
    names = {*told["missing_keys"], *told["unexpected_keys"]}
    assert not [name for name in names if not name.endswith("mask_token")], told
    with torch.no_grad():
        output = model.double().eval()(pixel_values=_torch_images(images))
    for name in ("logits", "image_embeds", "pooler_output", "last_hidden_state"):
        if getattr(output, name, None) is not None:
            return np.asarray(getattr(output, name))
    raise AssertionError(type(output))


def of_timm(folder: Path, loads: str, images: NDArray[Any]) -> NDArray[Any]:
    """The same of timm's."""
    import torch

    model = eval(loads, {"timm": import_library("timm")}).double().eval()
    # of a distilled one without heads timm gives the mean of two tokens, others the first
    run = model.forward_features if hasattr(model, "head_dist") else model
    with torch.no_grad():
        return np.asarray(run(_torch_images(images)))


def of_keras_hub(folder: Path, loads: str, images: NDArray[Any]) -> NDArray[Any]:
    """KerasHub's, in float64."""
    import keras
    import keras_hub

    keras.backend.clear_session()
    model = eval(f"{loads[:-1]}, dtype='float64')", {"keras_hub": keras_hub})
    given: Any = images.transpose(0, 2, 3, 1)
    if isinstance(model.input, dict):
        given = dict.fromkeys(model.input, given)
    return np.asarray(model(given, training=False))


def of_vit_pytorch(folder: Path, loads: str, images: NDArray[Any]) -> NDArray[Any]:
    """vit-pytorch's, of the class that the configuration tells."""
    import torch

    table = json.loads((folder / "config.json").read_text())
    kind = getattr(import_library("vit_pytorch"), table["class_name"])
    model = kind(**table["arguments"])
    model.load_state_dict(torch.load(folder / "model.pt"))
    with torch.no_grad():
        return np.asarray(model.double().eval()(_torch_images(images)))


def of_reading(folder: Path, loads: str, images: NDArray[Any]) -> NDArray[Any]:
    """The NumPy encoder of what is read of the file, where no library of today builds its model."""
    (file,) = (path for path in folder.iterdir() if path.name.endswith((".msgpack", ".h5")))
    with opened(file) as checkpoint:
        side = side_of(read_whole(checkpoint))
        blocks = tuple(block_of(side.parts, number, side.rms) for number in range(side.depth))
        weights = dataclasses.replace(ends_of(side.parts, side.rms), blocks=blocks)
        tokens = side.stage.sequence(images, side.stage.spec)
        encoded = encode(tokens, weights, side.spec, side.places)
    given = (encoded.output, encoded.pooled, encoded.tokens)
    return np.asarray(next(each for each in given if each is not None))


def of_nnx(folder: Path, loads: str, images: NDArray[Any]) -> NDArray[Any]:
    """vitax's, loaded as the line says."""
    import flax.nnx
    import orbax.checkpoint

    kind = vitax_beside.vision_transformer()
    arguments = json.loads((folder / "config.json").read_text())["arguments"]
    model = kind(**arguments, fsdp=False)
    if "its classifier" in loads:
        model.classifier = lambda tokens: tokens
    known = {"flax": flax, "orbax": orbax, "os": os, "model": model}
    eval(loads.partition(", where model is")[0], known)
    return vitax_beside.run(model, images.transpose(0, 2, 3, 1))


def of_torchvision(folder: Path, loads: str, images: NDArray[Any]) -> NDArray[Any]:
    """torchvision's names, over torch's functions."""
    held, table = _torch_file(folder), json.loads((folder / "config.json").read_text())
    blocks = [
        _block(
            held,
            f"encoder.layers.encoder_layer_{number}.",
            ("ln_1", "self_attention.in_proj_", "self_attention.out_proj", "ln_2"),
            ("mlp.0", "mlp.3"),
        )
        for number in range(table["arguments"]["num_layers"])
    ]
    tokens = _tokens(images, held, "conv_proj", held["class_token"], held["encoder.pos_embedding"])
    tokens = _encoded(tokens, blocks, table["arguments"]["num_heads"], 1e-6, "gelu")
    return _numpy(_linear(held, "heads.head", _norm(held, "encoder.ln", tokens, 1e-6)[:, 0]))


def of_dinov2(folder: Path, loads: str, images: NDArray[Any]) -> NDArray[Any]:
    """DINOv2's own names."""
    import torch

    held = _torch_file(folder)
    depth = 1 + max(int(name.split(".")[1]) for name in held if name.startswith("blocks."))
    blocks = [
        _block(
            held,
            f"blocks.{number}.",
            ("norm1", "attn.qkv.", "attn.proj", "norm2"),
            ("mlp.fc1", "mlp.fc2"),
            ("ls1.gamma", "ls2.gamma"),
        )
        if f"blocks.{number}.mlp.fc1.weight" in held
        else _block(
            held,
            f"blocks.{number}.",
            ("norm1", "attn.qkv.", "attn.proj", "norm2"),
            ("mlp.w12", "mlp.w3"),
            ("ls1.gamma", "ls2.gamma"),
        )
        for number in range(depth)
    ]
    tokens = _tokens(images, held, "patch_embed.proj", held["cls_token"], held["pos_embed"])
    if "register_tokens" in held:
        registers = held["register_tokens"].expand(len(tokens), -1, -1)
        tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], 1)
    tokens = _encoded(tokens, blocks, tokens.shape[-1] // 64, 1e-6, "gelu")
    return _numpy(_norm(held, "norm", tokens, 1e-6)[:, 0])


def of_openai(folder: Path, loads: str, images: NDArray[Any]) -> NDArray[Any]:
    """OpenAI's CLIP."""
    import safetensors.torch

    held = {
        name.removeprefix("visual."): tensor.double()
        for name, tensor in safetensors.torch.load_file(folder / "model.safetensors").items()
    }
    table = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    blocks = [
        _block(
            held,
            f"transformer.resblocks.{number}.",
            ("ln_1", "attn.in_proj_", "attn.out_proj", "ln_2"),
            ("mlp.c_fc", "mlp.c_proj"),
            ("ls_1.gamma", "ls_2.gamma"),
        )
        for number in range(table["vision_cfg"]["layers"])
    ]
    tokens = _tokens(
        images,
        held,
        "conv1",
        held["class_embedding"][None, None],
        held["positional_embedding"][None],
    )
    tokens = _norm(held, "ln_pre", tokens, 1e-5)
    heads = tokens.shape[-1] // table["vision_cfg"].get("head_width", 64)
    activation = "quick" if table.get("quick_gelu") else "gelu"
    tokens = _encoded(tokens, blocks, heads, 1e-5, activation)
    return _numpy(_norm(held, "ln_post", tokens[:, 0], 1e-5) @ held["proj"])


def of_google(folder: Path, loads: str, images: NDArray[Any]) -> NDArray[Any]:
    """google's npz."""
    return _of_jax(folder, images, "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")


def of_big_vision(folder: Path, loads: str, images: NDArray[Any]) -> NDArray[Any]:
    """big_vision's npz."""
    return _of_jax(folder, images, "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")


def _of_jax(
    folder: Path, images: NDArray[Any], attention: str, second: str, mlp: str
) -> NDArray[Any]:
    """Both by their names, put as torch's Linear has them."""
    import torch

    (file,) = folder.glob("*.npz")
    raw = {name: torch.from_numpy(array).double() for name, array in arrays_of(file).items()}
    raw = {name.removeprefix("params/"): array for name, array in raw.items()}
    width, heads = raw[f"Transformer/encoderblock_0/{attention}/query/kernel"].shape[:2]

    def attended(place: str) -> dict[str, Any]:
        kernels = [raw[f"{place}/{each}/kernel"].reshape(width, -1).T for each in _QKV]
        biases = [raw[f"{place}/{each}/bias"].reshape(-1) for each in _QKV]
        return {
            "qkv": (torch.cat(kernels), torch.cat(biases)),
            "out": (raw[f"{place}/out/kernel"].reshape(-1, width).T, raw[f"{place}/out/bias"]),
        }

    def dense(place: str) -> tuple[Any, Any]:
        return raw[f"{place}/kernel"].T, raw[f"{place}/bias"]

    def norm(place: str) -> tuple[Any, Any]:
        return raw[f"{place}/scale"], raw[f"{place}/bias"]

    blocks = []
    while f"Transformer/encoderblock_{len(blocks)}/LayerNorm_0/scale" in raw:
        place = f"Transformer/encoderblock_{len(blocks)}"
        blocks.append(
            {
                "first": norm(f"{place}/LayerNorm_0"),
                **attended(f"{place}/{attention}"),
                "second": norm(f"{place}/{second}"),
                "up": dense(f"{place}/{mlp}/Dense_0"),
                "down": dense(f"{place}/{mlp}/Dense_1"),
            }
        )
    held = {
        "embedding.weight": raw["embedding/kernel"].permute(3, 2, 0, 1),
        "embedding.bias": raw["embedding/bias"],
    }
    positions = raw.get("Transformer/posembed_input/pos_embedding", raw.get("pos_embedding"))
    class_token = raw.get("cls")
    if "pos_embedding" in raw and class_token is not None and positions.shape[1] % 2:
        # as big_vision's `fix_old_checkpoints` has it, for a grid with an even number of patches
        class_token, positions = class_token + positions[:, :1], positions[:, 1:]
    apart = "pos_embedding" in raw
    tokens = _tokens(images, held, "embedding", None if apart else class_token, positions)
    if apart and class_token is not None:
        tokens = torch.cat([class_token.expand(len(tokens), -1, -1), tokens], 1)
    tokens = _encoded(tokens, blocks, heads, 1e-6, "tanh")
    tokens = _normed(tokens, norm("Transformer/encoder_norm"), 1e-6)
    pooled = tokens[:, 0]
    if "MAPHead_0/probe" in raw:
        place = "MAPHead_0"
        made = {**attended(f"{place}/MultiHeadDotProductAttention_0")}
        probe = raw[f"{place}/probe"].expand(len(tokens), -1, -1)
        pooled = _attended(probe, tokens, made, heads)
        inner = _normed(pooled, norm(f"{place}/LayerNorm_0"), 1e-6)
        up = _activated(_through(inner, dense(f"{place}/MlpBlock_0/Dense_0")), "tanh")
        pooled = (pooled + _through(up, dense(f"{place}/MlpBlock_0/Dense_1")))[:, 0]
    if "pre_logits/kernel" in raw:
        pooled = torch.tanh(_through(pooled, dense("pre_logits")))
    if "head/kernel" in raw:
        pooled = _through(pooled, dense("head"))
    return _numpy(pooled)


_QKV = ("query", "key", "value")


def _torch_file(folder: Path) -> Tensors:
    import torch

    (file,) = folder.glob("*.pth")
    return {name: tensor.double() for name, tensor in torch.load(file).items()}


def _numpy(tensor: Any) -> NDArray[Any]:
    return np.asarray(tensor.detach())


def _through(values: Any, matrix: tuple[Any, Any]) -> Any:
    import torch

    return torch.nn.functional.linear(values, *matrix)


def _linear(held: Tensors, name: str, values: Any) -> Any:
    return _through(values, (held[f"{name}.weight"], held.get(f"{name}.bias")))


def _normed(values: Any, norm: tuple[Any, Any], epsilon: float) -> Any:
    import torch

    return torch.nn.functional.layer_norm(values, values.shape[-1:], *norm, eps=epsilon)


def _norm(held: Tensors, name: str, values: Any, epsilon: float) -> Any:
    return _normed(values, (held[f"{name}.weight"], held[f"{name}.bias"]), epsilon)


def _tokens(
    images: NDArray[Any], held: Tensors, name: str, class_token: Any, positions: Any
) -> Any:
    import torch

    kernel = held[f"{name}.weight"]
    patches = torch.nn.functional.conv2d(
        _torch_images(images), kernel, held.get(f"{name}.bias"), stride=kernel.shape[-2:]
    )
    tokens = patches.flatten(2).transpose(1, 2)
    if class_token is not None:
        tokens = torch.cat([class_token.expand(len(tokens), -1, -1), tokens], 1)
    return tokens if positions is None else tokens + positions


def _block(
    held: Tensors,
    at: str,
    attention: tuple[str, str, str, str],
    mlp: tuple[str, str],
    scales: tuple[str, ...] = (),
) -> dict[str, Any]:
    first, qkv, out, second = attention

    def both(name: str) -> tuple[Any, Any]:
        name = name if name.endswith(("_", ".")) else f"{name}."
        return held[f"{at}{name}weight"], held.get(f"{at}{name}bias")

    block = {
        "first": both(first),
        "qkv": both(qkv),
        "out": both(out),
        "second": both(second),
        "up": both(mlp[0]),
        "down": both(mlp[1]),
    }
    for name, scale in zip(("scale1", "scale2"), scales, strict=False):
        block[name] = held.get(f"{at}{scale}")
    return block


def _attended(queries: Any, tokens: Any, block: dict[str, Any], heads: int) -> Any:
    import torch

    weights = block["qkv"][0].chunk(3)
    biases = (None,) * 3 if block["qkv"][1] is None else block["qkv"][1].chunk(3)
    parts = [
        _through(given, (weight, bias)).unflatten(-1, (heads, -1)).transpose(1, 2)
        for given, weight, bias in zip((queries, tokens, tokens), weights, biases, strict=True)
    ]
    mixed = torch.nn.functional.scaled_dot_product_attention(*parts)
    return _through(mixed.transpose(1, 2).flatten(2), block["out"])


def _activated(values: Any, activation: str) -> Any:
    import torch

    if activation == "quick":
        return values * torch.sigmoid(1.702 * values)
    how = "tanh" if activation == "tanh" else "none"
    return torch.nn.functional.gelu(values, approximate=how)


def _encoded(
    tokens: Any, blocks: list[dict[str, Any]], heads: int, epsilon: float, activation: str
) -> Any:
    import torch

    for block in blocks:
        normed = _normed(tokens, block["first"], epsilon)
        added = _attended(normed, normed, block, heads)
        tokens = tokens + (added if block.get("scale1") is None else added * block["scale1"])
        up = _through(_normed(tokens, block["second"], epsilon), block["up"])
        if up.shape[-1] == 2 * block["down"][0].shape[1]:
            gate, up = up.chunk(2, -1)
            inner = torch.nn.functional.silu(gate) * up
        else:
            inner = _activated(up, activation)
        added = _through(inner, block["down"])
        tokens = tokens + (added if block.get("scale2") is None else added * block["scale2"])
    return tokens


Oracle = Callable[[Path, str, NDArray[Any]], NDArray[Any]]

BY_LINE: tuple[tuple[str, Oracle], ...] = (
    ("transformers.Flax", of_reading),
    ("flax.nnx.", of_nnx),
    ("task = keras.saving", of_reading),
    ("transformers.", of_transformers),
    ("timm.", of_timm),
    ("keras_hub.", of_keras_hub),
    ("vit_pytorch.", of_vit_pytorch),
    ("torchvision.", of_torchvision),
    ("dinov2.", of_dinov2),
    ("open_clip's", of_openai),
    ("vit_jax.", of_google),
    ("big_vision.", of_big_vision),
)
"""By how the line begins that tells how a file is loaded."""


def oracle_of(loads: str) -> Oracle | None:
    """Who computes it; None for a library of which nothing is here."""
    return next((oracle for start, oracle in BY_LINE if loads.startswith(start)), None)
