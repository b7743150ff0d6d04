"""google's and big_vision's Vision Transformers, written anew in Flax as their repositories have
them (vision_transformer/vit_jax/models_vit.py, big_vision/models/vit.py), neither of which can be
installed."""

import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from .npz_arrays import arrays_of


class MlpBlock(nn.Module):
    """Dense, tanh GELU, dense."""

    mlp_dim: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        wide = nn.gelu(nn.Dense(self.mlp_dim)(x))
        return nn.Dense(x.shape[-1])(wide)


class Block(nn.Module):
    """A block of both; a pair as `nn.scan` wants it."""

    mlp_dim: int
    num_heads: int

    @nn.compact
    def __call__(self, x: Any, _: Any = None) -> Any:
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=self.num_heads, deterministic=True)(y, y)
        return x + MlpBlock(self.mlp_dim)(nn.LayerNorm()(x)), None


class Positions(nn.Module):
    """google's `AddPositionEmbs`."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        init = nn.initializers.normal(0.02)
        return x + self.param("pos_embedding", init, (1, *x.shape[1:]))


class Encoder(nn.Module):
    """Blocks and the norm behind them."""

    depth: int
    mlp_dim: int
    num_heads: int
    scan: bool = False
    positions: bool = False

    @nn.compact
    def __call__(self, x: Any) -> Any:
        if self.positions:
            x = Positions(name="posembed_input")(x)
        if self.scan:
            stacked = nn.scan(
                Block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=self.depth,
            )
            x, _ = stacked(self.mlp_dim, self.num_heads, name="encoderblock")(x, None)
        else:
            for number in range(self.depth):
                x, _ = Block(self.mlp_dim, self.num_heads, name=f"encoderblock_{number}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class MAPHead(nn.Module):
    """big_vision's attention pooling."""

    mlp_dim: int
    num_heads: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, x.shape[-1]))
        probe = jnp.tile(probe, [x.shape[0], 1, 1])
        attention = nn.MultiHeadDotProductAttention(num_heads=self.num_heads, deterministic=True)
        x = attention(probe, x)
        return (x + MlpBlock(self.mlp_dim)(nn.LayerNorm()(x)))[:, 0]


class GoogleViT(nn.Module):
    """google's `VisionTransformer` without a ResNet."""

    num_classes: int
    patch: tuple[int, int]
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    classifier: str = "token"
    representation_size: int | None = None

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(self.width, self.patch, self.patch, "VALID", name="embedding")(x)
        x = x.reshape(len(x), -1, self.width)
        if self.classifier in ("token", "token_unpooled"):
            token = self.param("cls", nn.initializers.zeros, (1, 1, self.width))
            x = jnp.concatenate([jnp.tile(token, [len(x), 1, 1]), x], 1)
        x = Encoder(self.depth, self.mlp_dim, self.num_heads, positions=True, name="Transformer")(x)
        self.sow("intermediates", "tokens", x)
        if self.classifier == "token":
            x = x[:, 0]
        elif self.classifier == "gap":
            x = jnp.mean(x, axis=1)
        if self.representation_size is not None:
            x = nn.tanh(nn.Dense(self.representation_size, name="pre_logits")(x))
        if self.num_classes:
            x = nn.Dense(self.num_classes, name="head")(x)
        return x


class BigVisionViT(nn.Module):
    """big_vision's `_Model`."""

    num_classes: int
    patch: tuple[int, int]
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    pool_type: str = "gap"
    rep_size: int | bool = False
    scan: bool = False

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.Conv(self.width, self.patch, self.patch, "VALID", name="embedding")(x)
        x = x.reshape(len(x), -1, self.width)
        init = nn.initializers.normal(1 / np.sqrt(self.width))
        x = x + self.param("pos_embedding", init, (1, *x.shape[1:]))
        if self.pool_type == "tok":
            token = self.param("cls", nn.initializers.zeros, (1, 1, self.width))
            x = jnp.concatenate([jnp.tile(token, [len(x), 1, 1]), x], 1)
        sizes = (self.mlp_dim, self.num_heads)
        x = Encoder(self.depth, *sizes, scan=self.scan, name="Transformer")(x)
        self.sow("intermediates", "tokens", x)
        if self.pool_type == "map":
            x = MAPHead(*sizes)(x)
        elif self.pool_type == "gap":
            x = jnp.mean(x, axis=1)
        elif self.pool_type in ("0", "tok"):
            x = x[:, 0]
        if self.rep_size:
            width = self.width if self.rep_size is True else self.rep_size
            x = nn.tanh(nn.Dense(width, name="pre_logits")(x))
        if self.num_classes:
            x = nn.Dense(self.num_classes, name="head")(x)
        return x


def params_of(model: nn.Module, images: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Random parameters of realistic scale by joined name; the model has its `init`."""
    made = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(images))["params"]
    generator = np.random.default_rng(seed)
    flat = flax.traverse_util.flatten_dict(made, sep="/")
    return {name: _random(generator, name, held.shape) for name, held in flat.items()}


def _random(generator: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    draw = generator.standard_normal(shape)
    if name.endswith("scale"):
        draw = 1 + 0.2 * draw
    elif name.endswith("kernel"):
        draw = draw * 0.2
    else:
        draw = draw * 0.3
    return draw.astype(np.float32)


def run(model: nn.Module, params: dict[str, np.ndarray], images: np.ndarray) -> tuple[Any, Any]:
    """The output and the tokens behind the last norm; a parameter that is missing or one too many
    fails."""
    tree = flax.traverse_util.unflatten_dict(params, sep="/")
    made = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(images))["params"]
    wanted = flax.traverse_util.flatten_dict(made, sep="/")
    assert {name: held.shape for name, held in params.items()} == {
        name: held.shape for name, held in wanted.items()
    }
    with jax.default_matmul_precision("highest"):
        given = jnp.asarray(images)
        apply = jax.jit(lambda tree, given: model.apply(tree, given, mutable=["intermediates"]))
        output, kept = apply({"params": tree}, given)
    return np.asarray(output), np.asarray(kept["intermediates"]["tokens"][0])


def before_linen(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """google's published names: modules are numbered together."""
    pairs = {
        "MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1",
        "LayerNorm_1": "LayerNorm_2",
        "MlpBlock_0": "MlpBlock_3",
    }
    return {
        "/".join(pairs.get(part, part) for part in name.split("/")): held
        for name, held in params.items()
    }


def of_linen(params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What vit_jax/checkpoint.py's `convert_pre_linen` makes of them: numbers by kind."""
    return flax.traverse_util.flatten_dict(
        _of_linen(flax.traverse_util.unflatten_dict(params, sep="/")), sep="/"
    )


def _of_linen(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    counts: dict[str, int] = {}
    renamed = {}
    for name in sorted(
        tree, key=lambda name: [int(w) if w.isdigit() else w for w in re.split(r"(\d+)", name)]
    ):
        value = tree[name]
        if match := re.match(r"([A-Z]+\w+)_(\d+)", name):
            number = counts.get(match[1], 0)
            counts[match[1]] = number + 1
            name = f"{match[1]}_{number}"
        renamed[name] = _of_linen(value)
    return renamed


def save_npz(path: Path, params: dict[str, np.ndarray], under: str = "", dtype: Any = None) -> None:
    """As both save: joined names, bfloat16 as two bytes without a name."""
    held = {
        under + name: value if dtype is None else value.astype(dtype)
        for name, value in params.items()
    }
    np.savez(
        path,
        **{k: v.view("V2") if v.dtype == ml_dtypes.bfloat16 else v for k, v in held.items()},
    )


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """The other way."""
    return {
        name: array.view(ml_dtypes.bfloat16).astype(np.float32)
        if array.dtype == np.dtype("V2")
        else array
        for name, array in arrays_of(path).items()
    }
