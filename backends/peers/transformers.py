"""transformers: the patch embedding of its ViT, as its users call it: a peer, of random weights,
that ours are put into."""

from typing import Any

from ...reference.spec import PatchEmbedSpec
from ..base import Implementation
from ..layouts import OIHW
from ..torch.adapter import TorchBackend
from ..torch.formulations import Forward


def _vit(spec: PatchEmbedSpec, bias: bool) -> tuple[Any, Forward]:
    """`ViTPatchEmbeddings`, which always has a bias."""
    import torch
    from transformers import ViTConfig
    from transformers.models.vit.modeling_vit import ViTPatchEmbeddings

    config = ViTConfig(
        image_size=spec.image_size,
        patch_size=spec.patch_size,
        num_channels=spec.in_channels,
        hidden_size=spec.embed_dim,
    )
    module = ViTPatchEmbeddings(config)
    torch.nn.init.zeros_(module.projection.bias)
    return module.projection, module


class TransformersBackend(TorchBackend):
    """transformers on torch."""

    name = "transformers"
    packages = ("transformers", "torch")
    formulations = {"vit": (_vit, OIHW)}
    # On a GPU torch adds a convolution's bias afterwards.
    implementations = (
        Implementation(
            "transformers",
            "vit",
            "eager",
            default_on_cuda="tf32",
            output_roundings_on_cuda=2,
            peer=True,
        ),
    )

    @property
    def yardstick(self) -> str:
        """Its products are torch's."""
        return "torch"

    def usage(self, implementation: Implementation, spec: PatchEmbedSpec, batch: int) -> str:
        """The module, as the library builds it."""
        sizes = (
            f"image_size={spec.image_size}, patch_size={spec.patch_size}, "
            f"num_channels={spec.in_channels}"
        )
        return f"""\
import torch
from transformers import ViTConfig
from transformers.models.vit.modeling_vit import ViTPatchEmbeddings

module = ViTPatchEmbeddings(ViTConfig({sizes}, hidden_size={spec.embed_dim})).to(kernel.dtype)
with torch.no_grad():
    module.projection.weight.copy_(kernel)
    module.projection.bias.copy_(bias)


@torch.inference_mode()
def embed(images):
    return module(images)
"""

    def refuses(self, implementation: Implementation, spec: PatchEmbedSpec) -> str | None:
        """The module knows images, and patches that do not overlap."""
        if (
            spec.spatial_axes == 2
            and spec.stride == spec.patch_size
            and not any(map(any, spec.effective_padding))
        ):
            return None
        return f"{implementation.name} knows images without padding and patches that do not overlap"


BACKENDS = (TransformersBackend(),)
