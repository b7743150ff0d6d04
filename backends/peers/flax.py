"""Flax: `nnx.Conv` and `linen.Conv` with kernel = stride = P, as its users call them under
`jax.jit`: peers."""

from typing import Any

from ...reference.spec import PatchEmbedSpec
from ..base import Implementation
from ..jax.adapter import JaxBackend
from ..layouts import HWIO, NHWC


def _settings(spec: PatchEmbedSpec, dtype: Any) -> dict[str, Any]:
    padding = [*spec.effective_padding]
    return dict(
        kernel_size=spec.patch_size,
        strides=spec.stride,
        padding=padding,
        dtype=dtype,
        param_dtype=dtype,
    )


def _nnx(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """`flax.nnx.Conv`; the parameters that it is made with are replaced, and XLA leaves their
    making out."""
    from flax import nnx

    layer = nnx.Conv(
        spec.in_channels,
        spec.embed_dim,
        use_bias=bias is not None,
        rngs=nnx.Rngs(0),
        **_settings(spec, images.dtype),
    )
    layer.kernel[...] = kernel
    if bias is not None:
        layer.bias[...] = bias
    return layer(images).reshape(len(images), spec.num_patches, spec.embed_dim)


def _linen(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """`flax.linen.Conv`."""
    from flax import linen

    layer = linen.Conv(spec.embed_dim, use_bias=bias is not None, **_settings(spec, images.dtype))
    parameters = {"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias}
    return layer.apply({"params": parameters}, images).reshape(
        len(images), spec.num_patches, spec.embed_dim
    )


class FlaxBackend(JaxBackend):
    """Flax on JAX."""

    name = "flax"
    packages = ("flax", "jax")
    formulations = {"nnx_conv": (_nnx, HWIO), "linen_conv": (_linen, HWIO)}
    implementations = tuple(
        Implementation(
            "flax",
            formulation,
            "jit",
            NHWC,
            HWIO,
            flush_to_zero=True,
            output_roundings=2,
            default_on_cuda="tf32",
            peer=True,
        )
        for formulation in formulations
    )

    def usage(self, implementation: Implementation, spec: PatchEmbedSpec, batch: int) -> str:
        """The layer, under `jax.jit`."""
        settings = (
            f"kernel_size={spec.patch_size}, strides={spec.stride}, "
            f"padding={spec.effective_padding}"
        )
        if implementation.formulation == "nnx_conv":
            layer = f"nnx.Conv({spec.in_channels}, {spec.embed_dim}, {settings}, rngs=nnx.Rngs(0))"
            made = f"layer = {layer}\nlayer.kernel[...], layer.bias[...] = kernel, bias\n"
            called = "layer(images)"
        else:
            made = f"layer = linen.Conv({spec.embed_dim}, {settings})\n"
            called = 'layer.apply({"params": {"kernel": kernel, "bias": bias}}, images)'
        return f"""\
import jax
from flax import linen, nnx

{made}

@jax.jit
def embed(images):
    return {called}.reshape(len(images), {spec.num_patches}, {spec.embed_dim})
"""

    @property
    def yardstick(self) -> str:
        """Its products are JAX's."""
        return "jax"


BACKENDS = (FlaxBackend(),)
