"""Small Vision Transformers of Flax: one of nnx, and one of linen with google's names."""

import jax
import jax.numpy as jnp
from flax import linen, nnx


class Block(nnx.Module):
    def __init__(self, width, heads, inner, rngs):
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, inner, rngs=rngs)
        self.down = nnx.Linear(inner, width, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.down(nnx.gelu(self.up(self.norm2(x)), approximate=False))


class Vit(nnx.Module):
    def __init__(self, width, heads, inner, depth):
        rngs = nnx.Rngs(3)
        self.patch = nnx.Conv(3, width, (8, 8), (8, 8), padding="VALID", rngs=rngs)
        self.cls_token = nnx.Param(jax.random.normal(jax.random.key(1), (1, 1, width)))
        self.blocks = nnx.List([Block(width, heads, inner, rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, 5, rngs=rngs)

    def __call__(self, images):
        x = self.patch(images)
        x = x.reshape(len(x), -1, x.shape[-1])
        cls = jnp.broadcast_to(self.cls_token[...], (len(x), 1, x.shape[-1]))
        x = jnp.concatenate([cls, x], axis=1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def nnx_vit(width, heads, inner, depth):
    model = Vit(width, heads, inner, depth)
    model.eval()
    return model


class EncoderBlock(linen.Module):
    heads: int
    inner: int

    @linen.compact
    def __call__(self, x, deterministic):
        given = linen.LayerNorm()(x)
        x = x + linen.MultiHeadDotProductAttention(self.heads)(given, given)
        given = linen.gelu(linen.Dense(self.inner)(linen.LayerNorm()(x)))
        given = linen.Dropout(0.5, deterministic=deterministic)(given)
        return x + linen.Dense(x.shape[-1])(given)


class Encoder(linen.Module):
    heads: int
    inner: int
    depth: int

    @linen.compact
    def __call__(self, x, train):
        for number in range(self.depth):
            block = EncoderBlock(self.heads, self.inner, name=f"encoderblock_{number}")
            x = block(x, deterministic=not train)
        return linen.LayerNorm(name="encoder_norm")(x)


class LinenVit(linen.Module):
    width: int
    heads: int
    inner: int
    depth: int

    @linen.compact
    def __call__(self, images, *, train):
        x = linen.Conv(self.width, (8, 8), (8, 8), padding="VALID", name="embedding")(images)
        x = x.reshape(len(x), -1, self.width)
        cls = self.param("cls", linen.initializers.normal(1.0), (1, 1, self.width))
        x = jnp.concatenate([jnp.tile(cls, (len(x), 1, 1)), x], axis=1)
        x = Encoder(self.heads, self.inner, self.depth, name="Transformer")(x, train=train)
        return linen.Dense(5, name="head")(x[:, 0])


def linen_vit(width, heads, inner, depth, images):
    model = LinenVit(width, heads, inner, depth)
    return model.bind(model.init(jax.random.key(0), images, train=False))
