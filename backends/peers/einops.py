"""einops: `Rearrange` and `torch.nn.Linear`, as vit-pytorch (lucidrains) and what was copied from
it write a patch embedding: a peer."""

from typing import Any

from ...reference.spec import PatchEmbedSpec
from ..base import Implementation
from ..torch.adapter import TorchBackend
from ..torch.formulations import Forward


def _rearrange(spec: PatchEmbedSpec, bias: bool) -> tuple[Any, Forward]:
    """`Rearrange("b c (h p1) (w p2) -> b (h w) (p1 p2 c)")`, then `torch.nn.Linear`; no norms,
    which are not linear."""
    import torch
    from einops.layers.torch import Rearrange

    height, width = spec.patch_size
    layer = torch.nn.Linear(spec.patch_values, spec.embed_dim, bias=bias)
    return layer, torch.nn.Sequential(
        Rearrange("b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=height, p2=width), layer
    )


class EinopsBackend(TorchBackend):
    """einops on torch."""

    name = "einops"
    packages = ("einops", "torch")
    formulations = {"linear": (_rearrange, "D (Ph Pw C)")}
    implementations = (
        Implementation(
            "einops",
            "linear",
            "eager",
            kernel_layout="D (Ph Pw C)",
            output_roundings_on_cuda=2,
            peer=True,
        ),
    )

    @property
    def extra(self) -> str:
        """einops is always there; torch may not be."""
        return "torch"

    @property
    def yardstick(self) -> str:
        """Its products are torch's."""
        return "torch"

    def usage(self, implementation: Implementation, spec: PatchEmbedSpec, batch: int) -> str:
        """The two layers, as vit-pytorch has them."""
        height, width = spec.patch_size
        return f"""\
import torch
from einops.layers.torch import Rearrange

projection = torch.nn.Linear({spec.patch_values}, {spec.embed_dim}, dtype=kernel.dtype)
with torch.no_grad():
    projection.weight.copy_(kernel)
    projection.bias.copy_(bias)
module = torch.nn.Sequential(Rearrange("b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1={height}, p2={width}), projection)


@torch.inference_mode()
def embed(images):
    return module(images)
"""  # noqa: E501

    def refuses(self, implementation: Implementation, spec: PatchEmbedSpec) -> str | None:
        """The pattern cuts images that patches tile."""
        if spec.spatial_axes == 2 and spec.tiles and not any(map(any, spec.effective_padding)):
            return None
        return f"{implementation.name} knows images that patches tile without padding"


BACKENDS = (EinopsBackend(),)
