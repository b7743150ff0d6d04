"""DINOv3 as Meta's own code keeps and computes it, written anew: biases of keys behind a mask,
periods of rotary positions in the file, layer scales, SwiGLU of three matrices."""

import math

import torch
from torch import nn
from torch.nn import functional


class MaskedLinear(nn.Linear):
    """Queries, keys and values in one matrix, whose bias of keys is taken out."""

    def __init__(self, width):
        super().__init__(width, 3 * width)
        mask = torch.ones(3 * width)
        mask[width : 2 * width] = 0
        self.register_buffer("bias_mask", mask)

    def forward(self, tokens):
        return functional.linear(tokens, self.weight, self.bias * self.bias_mask)


class Rope(nn.Module):
    def __init__(self, head, base):
        super().__init__()
        self.register_buffer("periods", base ** (2 * torch.arange(head // 4) / (head // 2)))

    def forward(self, rows, columns):
        ys = (torch.arange(0.5, rows) / rows)[:, None].expand(rows, columns)
        xs = (torch.arange(0.5, columns) / columns)[None].expand(rows, columns)
        places = 2 * torch.stack([ys, xs], -1).flatten(0, 1) - 1
        angles = 2 * math.pi * places[:, :, None] / self.periods
        angles = angles.flatten(1, 2).tile(2)
        return angles.sin(), angles.cos()


class Attention(nn.Module):
    def __init__(self, width, heads, masked):
        super().__init__()
        self.heads = heads
        self.qkv = MaskedLinear(width) if masked else nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens, rope):
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).reshape(batch, count, 3, self.heads, width // self.heads)
        query, key, value = (each.transpose(1, 2) for each in qkv.unbind(2))
        sin, cos = rope
        ahead = count - len(sin)

        def turned(each):
            front, rest = each[:, :, :ahead], each[:, :, ahead:]
            first, second = rest.chunk(2, -1)
            rest = rest * cos + torch.cat([-second, first], -1) * sin
            return torch.cat([front, rest], 2)

        mixed = functional.scaled_dot_product_attention(turned(query), turned(key), value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, width))


class Mlp(nn.Module):
    def __init__(self, width, wide):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, wide), nn.Linear(wide, width)

    def forward(self, tokens):
        return self.fc2(functional.gelu(self.fc1(tokens)))


class SwiGlu(nn.Module):
    def __init__(self, width, wide):
        super().__init__()
        self.w1, self.w2 = nn.Linear(width, wide), nn.Linear(width, wide)
        self.w3 = nn.Linear(wide, width)

    def forward(self, tokens):
        return self.w3(functional.silu(self.w1(tokens)) * self.w2(tokens))


class Scale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, tokens):
        return tokens * self.gamma


class Block(nn.Module):
    def __init__(self, width, heads, wide, gated, masked, epsilon):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=epsilon) for _ in range(2))
        self.attn = Attention(width, heads, masked)
        self.ls1, self.ls2 = Scale(width), Scale(width)
        self.mlp = (SwiGlu if gated else Mlp)(width, wide)

    def forward(self, tokens, rope):
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens), rope))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class Patches(nn.Module):
    def __init__(self, width, patch):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)


class DinoVisionTransformer(nn.Module):
    """Its tokens, all of them behind the norm."""

    def __init__(
        self, width, heads, wide, depth, patch, registers,
        gated=False, masked=True, base=100.0, epsilon=1e-5,
    ):  # fmt: skip
        super().__init__()
        self.patch_embed = Patches(width, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.storage_tokens = nn.Parameter(torch.zeros(1, registers, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.rope_embed = Rope(width // heads, base)
        blocks = [Block(width, heads, wide, gated, masked, epsilon) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, eps=epsilon)

    def forward(self, images):
        grid = self.patch_embed.proj(images)
        patches = grid.flatten(2).transpose(1, 2)
        front = [self.cls_token, self.storage_tokens]
        tokens = torch.cat([*(each.expand(len(images), -1, -1) for each in front), patches], 1)
        rope = self.rope_embed(*grid.shape[2:])
        for block in self.blocks:
            tokens = block(tokens, rope)
        return self.norm(tokens)
