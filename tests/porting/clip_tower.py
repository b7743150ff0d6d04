"""OpenAI CLIP's and open_clip's own vision tower, written anew as clip/model.py and
open_clip/transformer.py have it, neither of which can be installed."""

from collections import OrderedDict
from typing import Any

import torch


class QuickGELU(torch.nn.Module):
    """x·σ(1.702 x)."""

    def forward(self, x: Any) -> Any:
        """Of any shape."""
        return x * torch.sigmoid(1.702 * x)


class ResidualAttentionBlock(torch.nn.Module):
    """A block; tokens are in front, `(L, N, D)`."""

    def __init__(self, width: int, heads: int, mlp_width: int, quick: bool) -> None:
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(width, heads)
        self.ln_1 = torch.nn.LayerNorm(width)
        self.mlp = torch.nn.Sequential(
            OrderedDict(
                c_fc=torch.nn.Linear(width, mlp_width),
                gelu=QuickGELU() if quick else torch.nn.GELU(),
                c_proj=torch.nn.Linear(mlp_width, width),
            )
        )
        self.ln_2 = torch.nn.LayerNorm(width)

    def forward(self, x: Any) -> Any:
        """Of shape (L, N, D)."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(torch.nn.Module):
    """Blocks."""

    def __init__(self, width: int, layers: int, heads: int, mlp_width: int, quick: bool) -> None:
        super().__init__()
        self.resblocks = torch.nn.Sequential(
            *(ResidualAttentionBlock(width, heads, mlp_width, quick) for _ in range(layers))
        )

    def forward(self, x: Any) -> Any:
        """Of shape (L, N, D)."""
        return self.resblocks(x)


class VisionTransformer(torch.nn.Module):
    """The tower: class token, positions, norm, blocks, norm of the class token, projection."""

    def __init__(
        self,
        side: int,
        patch: int,
        width: int,
        layers: int,
        heads: int,
        output: int,
        mlp_width: int,
        quick: bool,
    ) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = torch.nn.Parameter(torch.zeros(width))
        self.positional_embedding = torch.nn.Parameter(torch.zeros((side // patch) ** 2 + 1, width))
        self.ln_pre = torch.nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, mlp_width, quick)
        self.ln_post = torch.nn.LayerNorm(width)
        self.proj = torch.nn.Parameter(torch.zeros(width, output))

    def forward(self, x: Any) -> Any:
        """From (N, 3, H, W) to (N, output)."""
        x = self.conv1(x).flatten(2).permute(0, 2, 1)
        first = self.class_embedding + torch.zeros(len(x), 1, x.shape[-1])
        x = self.ln_pre(torch.cat([first, x], 1) + self.positional_embedding)
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        return self.ln_post(x[:, 0]) @ self.proj


class CLIP(torch.nn.Module):
    """Both towers; that of text is only there."""

    def __init__(self, visual: VisionTransformer) -> None:
        super().__init__()
        self.visual = visual
        self.transformer = Transformer(16, 1, 2, 24, True)
        self.token_embedding = torch.nn.Embedding(20, 16)
        self.positional_embedding = torch.nn.Parameter(torch.zeros(7, 16))
        self.ln_final = torch.nn.LayerNorm(16)
        self.text_projection = torch.nn.Parameter(torch.zeros(16, visual.proj.shape[1]))
        self.logit_scale = torch.nn.Parameter(torch.ones([]))
