"""The patch embedding itself, by explicit reshape to (N, P²C) and matmul, and its closed-form
gradients."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .errors import PatchParityError, require_array
from .patches import fold, patchify
from .spec import PatchEmbedSpec
from .weights import PatchEmbedWeights


def patch_embed(
    images: NDArray[Any],
    weights: PatchEmbedWeights,
    spec: PatchEmbedSpec,
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Project each flattened patch: z = W·flatten(p) + b.

    Equal to a convolution with kernel size P and the spec's stride, then flatten(2) and
    transpose(1, 2). The kernel's channel axis is summed over like the two patch axes: that is where
    the three channels of an image go.

    Args:
        images: shape `(B, C, H, W)`.
        weights: kernel `(D, P_h, P_w, C)` and bias `(D,)` or None; the other fields play no part.
        spec: the sizes.
        dtype: of the whole computation and of the result; images and weights are converted first.

    Returns:
        Tokens of shape `(B, N, D)`, patches in raster order.

    Raises:
        PatchParityError: images or weights that do not fit the spec.

    Source: Dosovitskiy et al. (2021), equation 1.

    Examples:
        >>> import numpy as np
        >>> import patchparity
        >>> spec = patchparity.PatchEmbedSpec((12, 20), 4, 3, 10)  # image, patch, channels, width
        >>> weights = patchparity.initialize_weights(spec, seed=0)
        >>> images = np.random.default_rng(0).standard_normal((2, 3, 12, 20))
        >>> patchparity.patch_embed(images, weights, spec).shape
        (2, 15, 10)
    """
    weights.check_spec(spec)
    patches = patchify(images, spec).astype(dtype, copy=False)
    tokens = patches.reshape(-1, spec.patch_values) @ weights.matrix.astype(dtype, copy=False).T
    if weights.bias is not None:
        tokens = tokens + weights.bias.astype(dtype, copy=False)
    return tokens.reshape(images.shape[0], spec.num_patches, spec.embed_dim)


@dataclass(frozen=True)
class PatchEmbedGradients:
    """Gradients of a scalar loss: `image` `(B, C, H, W)`, `kernel` `(D, P_h, P_w, C)`, `bias`
    `(D,)`."""

    image: NDArray[Any]
    kernel: NDArray[Any]
    bias: NDArray[Any]


def patch_embed_gradients(
    images: NDArray[Any],
    weights: PatchEmbedWeights,
    spec: PatchEmbedSpec,
    grad_tokens: NDArray[Any],
    dtype: DTypeLike = np.float64,
) -> PatchEmbedGradients:
    """Gradients of a loss with respect to image, kernel and bias, given its gradient with respect
    to the tokens.

    The map is linear, so they are closed form: with X the patches `(B·N, K)`, W the matrix `(D, K)`
    and G the token gradient
    `(B·N, D)`: dX = G·W folded back to the image, dW = Gᵀ·X, db = Σ G over rows.

    Args:
        images: shape `(B, C, H, W)`.
        weights: kernel `(D, P_h, P_w, C)`.
        spec: the sizes.
        grad_tokens: shape `(B, N, D)`.
        dtype: of the whole computation and of the results.

    Raises:
        PatchParityError: shapes that do not fit the spec.

    Examples:
        >>> import numpy as np
        >>> import patchparity
        >>> spec = patchparity.PatchEmbedSpec((12, 20), 4, 3, 10)  # image, patch, channels, width
        >>> weights = patchparity.initialize_weights(spec, seed=0)
        >>> images = np.random.default_rng(0).standard_normal((2, 3, 12, 20))
        >>> upstream = np.ones((2, 15, 10))
        >>> found = patchparity.patch_embed_gradients(images, weights, spec, upstream)
        >>> found.kernel.shape == weights.kernel.shape
        True
    """
    weights.check_spec(spec)
    spec.check_images(images)
    require_array("grad_tokens", grad_tokens)
    expected = spec.tokens_shape(images.shape[0])
    if grad_tokens.shape != expected:
        raise PatchParityError(
            f"grad_tokens of shape {grad_tokens.shape}: expected {expected}, (B, N, D)"
        )
    X = patchify(images, spec).astype(dtype, copy=False).reshape(-1, spec.patch_values)
    G = grad_tokens.astype(dtype, copy=False).reshape(-1, spec.embed_dim)
    W = weights.matrix.astype(dtype, copy=False)
    return PatchEmbedGradients(
        image=fold((G @ W).reshape(images.shape[0], spec.num_patches, spec.patch_values), spec),
        kernel=(G.T @ X).reshape(spec.kernel_shape),
        bias=G.sum(axis=0),
    )
