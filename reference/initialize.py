"""Seeded initialization of weights, as ViT does it."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import require_choice
from .sequence import sincos_positions
from .spec import PatchEmbedSpec
from .weights import PatchEmbedWeights, SequenceLayout


def truncated_normal(
    generator: np.random.Generator, shape: tuple[int, ...], std: float
) -> NDArray[np.float64]:
    """Draw from a normal of standard deviation `std` cut at ±2·`std`, by rejection; shape `shape`,
    float64.

    Source: `torch.nn.init.trunc_normal_(std=0.02)` as timm and transformers call it, whose cut at
    ±2 is absolute and so never reached; JAX's and big_vision's initializers cut at ±2 standard
    deviations, and so does this one.
    """
    draws = generator.standard_normal(shape)
    while (outside := np.abs(draws) > 2).any():
        draws[outside] = generator.standard_normal(int(outside.sum()))
    return draws * std


INITIALIZER_STD = 0.02
"""Standard deviation of ViT's initial weights: `initializer_range` of transformers' ViTConfig,
timm's `trunc_normal_(std=.02)`."""


def initialize_weights(
    spec: PatchEmbedSpec,
    seed: int = 0,
    *,
    bias: bool = True,
    class_token: bool = True,
    distillation_token: bool = False,
    num_registers: int = 0,
    positions: Literal["learned", "sincos", "none"] = "learned",
    layout: SequenceLayout | None = None,
) -> PatchEmbedWeights:
    """Initialize weights as ViT does: kernel, tokens and positions truncated normal of std 0.02,
    bias zero; float32.

    Args:
        spec: the sizes.
        seed: of NumPy's PCG64; the same seed gives the same weights on every machine.
        bias, class_token, distillation_token: whether there is one.
        num_registers: R, the number of register tokens.
        positions: `learned` (random rows), `sincos` (fixed 2-D table, zero rows for prefix tokens)
            or `none`.
        layout: how the sequence is put together; None means ViT's.

    Returns:
        Weights with kernel `(D, P_h, P_w, C)`, bias `(D,)`, tokens `(D,)`, registers `(R, D)`,
        positions `(rows, D)`.

    Source: timm `vision_transformer.init_weights_vit_timm`, transformers
    `ViTPreTrainedModel._init_weights`.

    Examples:
        >>> import patchparity
        >>> spec = patchparity.PatchEmbedSpec((12, 20), 4, 3, 10)  # image, patch, channels, width
        >>> weights = patchparity.initialize_weights(spec, seed=0)
        >>> weights.kernel.shape  # (D, P, P, C)
        (10, 4, 4, 3)
    """
    require_choice("positions", positions, ("learned", "sincos", "none"))
    generator = np.random.default_rng(seed)
    D = spec.embed_dim
    layout = layout or SequenceLayout()

    def draw(*shape: int) -> NDArray[np.float32]:
        return truncated_normal(generator, shape, INITIALIZER_STD).astype(np.float32)

    arrays: dict[str, Any] = {"kernel": draw(*spec.kernel_shape), "layout": layout}
    if bias:
        arrays["bias"] = np.zeros(D, np.float32)
    if class_token:
        arrays["class_token"] = draw(D)
    if distillation_token:
        arrays["distillation_token"] = draw(D)
    if num_registers:
        arrays["register_tokens"] = draw(num_registers, D)
    if positions == "none":
        return PatchEmbedWeights(**arrays)
    prefix_rows = PatchEmbedWeights(**arrays).num_positioned_prefix_tokens
    if positions == "sincos":
        grid_rows = sincos_positions(spec.grid, D).astype(np.float32)
        arrays["positions"] = np.concatenate([np.zeros((prefix_rows, D), np.float32), grid_rows])
    else:
        arrays["positions"] = draw(prefix_rows + spec.num_patches, D)
    return PatchEmbedWeights(**arrays)
