"""Inputs whose answer is known: exact probes (tolerance zero), random ones (a bound), and
photographs.

Each probe is a full problem (images, weights, token gradient) in the dtype under test, so that the
implementation is called just as a user calls it. All probes of one spec share its shapes: a
compiled implementation is compiled once.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from .errors import PatchParityError
from .initialize import initialize_weights
from .patches import fold
from .probe import DIRECTIONS, Probe
from .spec import PatchEmbedSpec
from .weights import PatchEmbedWeights


def _precision_bits(dtype: DTypeLike) -> int:
    """Significand bits p of a type, the implicit one among them: 53, 24, 11, 8."""
    return int(ml_dtypes.finfo(np.dtype(dtype)).nmant) + 1


def _selection(
    spec: PatchEmbedSpec, generator: np.random.Generator, dtype: DTypeLike
) -> PatchEmbedWeights:
    """Identity kernel for any D: row d picks value π(d mod K) of the patch, π a random permutation;
    bias zero."""
    K, D = spec.patch_values, spec.embed_dim
    matrix = np.zeros((D, K), dtype)
    matrix[np.arange(D), generator.permutation(K)[np.arange(D) % K]] = 1
    return PatchEmbedWeights(matrix.reshape(spec.kernel_shape), np.zeros(D, dtype))


def _no_gradient(spec: PatchEmbedSpec, batch: int, dtype: DTypeLike) -> NDArray[np.generic]:
    return np.zeros(spec.tokens_shape(batch), dtype)


def identity_kernel(spec: PatchEmbedSpec, batch: int, dtype: DTypeLike, seed: int) -> Probe:
    """A kernel that only moves values: tokens must equal patches to the last bit, whatever the
    images.

    Exact because each output is one product with 1 and additions of 0. Fails if a layout is wrong,
    or if inputs are truncated.
    """
    generator = np.random.default_rng(seed)
    weights = _selection(spec, generator, dtype)
    images = generator.standard_normal(spec.images_shape(batch)).astype(dtype)
    return Probe(
        "identity-kernel", spec, images, weights, _no_gradient(spec, batch, dtype), "exact"
    )


def one_hot_images(spec: PatchEmbedSpec, batch: int, dtype: DTypeLike, seed: int) -> Probe:
    """Images in which each patch holds a single 1: tokens must be rows of the kernel to the last
    bit.

    Exact because each output is one product with 1 and additions of 0.
    """
    generator = np.random.default_rng(seed)
    images = images_of_single_ones(spec, batch, dtype, generator)
    kernel = generator.standard_normal(spec.kernel_shape).astype(dtype)
    weights = PatchEmbedWeights(kernel, np.zeros(spec.embed_dim, dtype))
    return Probe("one-hot-images", spec, images, weights, _no_gradient(spec, batch, dtype), "exact")


def images_of_single_ones(
    spec: PatchEmbedSpec, batch: int, dtype: DTypeLike, generator: np.random.Generator
) -> NDArray[np.generic]:
    """Images `(B, C, H, W)` of zeros in which each patch holds a single 1.

    Patches that do not overlap get a random place each, in the order of a permutation, so B·N ≥ K
    patches read the whole kernel. Overlapping ones get a lattice of the patch's own period at a
    random offset: every window then sees exactly one 1 (at most one at the border).
    """
    images = np.zeros(spec.images_shape(batch), dtype)
    if not spec.overlapping:
        rows = batch * spec.num_patches
        order = np.concatenate(
            [
                generator.permutation(spec.patch_values)
                for _ in range(math.ceil(rows / spec.patch_values))
            ]
        )
        patches = np.zeros((rows, spec.patch_values), dtype)
        patches[np.arange(rows), order[:rows]] = 1
        images = fold(patches.reshape(batch, spec.num_patches, spec.patch_values), spec)
    else:
        for image in images:
            lattice = tuple(
                slice(int(generator.integers(patch)), None, patch) for patch in spec.patch_size
            )
            cells = image[(slice(None), *lattice)]
            channels = generator.integers(spec.in_channels, size=cells.shape[1:])
            cells[...] = np.arange(spec.in_channels).reshape(-1, *(1,) * channels.ndim) == channels
    return images


def bounded_integers(spec: PatchEmbedSpec, batch: int, dtype: DTypeLike, seed: int) -> Probe:
    """Small integers: every order of summation gives the same, exact result, forward and backward.

    Derivation: integers up to 2^p are exact in a type of p significand bits. If Σ|x||w| + |b| ≤ 2^p
    for every output then every partial sum, in whatever order, is such an integer, and nothing is
    ever rounded. The magnitude m and then the density of nonzero values are lowered until that
    holds in each direction. Integers up to 2⁸ are exact as TF32 and bfloat16 inputs too: the probe
    separates a wrong layout from a low precision.
    """
    limit = 2 ** min(_precision_bits(dtype), 24)
    lengths = (
        spec.patch_values + 1,
        spec.embed_dim
        * math.prod(math.ceil(p / s) for p, s in zip(spec.patch_size, spec.stride, strict=True)),
    )
    longest = max(*lengths, batch * spec.num_patches)
    magnitude = max(1, min(8, math.isqrt(limit // longest)))
    density = min(1.0, limit / (longest * magnitude**2))
    generator = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...]) -> NDArray[np.generic]:
        values = generator.integers(-magnitude, magnitude + 1, shape)
        return np.where(generator.random(shape) < density, values, 0).astype(dtype)

    while True:
        weights = PatchEmbedWeights(draw(spec.kernel_shape), draw((spec.embed_dim,)))
        probe = Probe(
            "bounded-integers",
            spec,
            draw(spec.images_shape(batch)),
            weights,
            draw(spec.tokens_shape(batch)),
            "exact",
            DIRECTIONS[1:],
            short=True,
        )
        if all(
            expectation.gauge.max(initial=0) <= limit for expectation in probe.expectations.values()
        ):
            return probe
        density /= 2


def mantissa_ladder(spec: PatchEmbedSpec, batch: int, dtype: DTypeLike, seed: int) -> Probe:
    """Values 1 + 2⁻ᵏ for k up to the type's last bit, each picked by a kernel of ones and zeros:
    which bits arrive?

    Exact as the identity kernel is. The explanation names the largest k up to which all arrive: 23
    in float32, 10 with TF32 inputs, 7 with bfloat16 inputs.
    """
    generator = np.random.default_rng(seed)
    bits = _precision_bits(dtype) - 1
    steps = generator.integers(1, bits + 1, spec.images_shape(batch))
    images = (1 + np.ldexp(1.0, -steps)).astype(dtype)
    weights = _selection(spec, generator, dtype)
    probe = Probe(
        "mantissa-ladder", spec, images, weights, _no_gradient(spec, batch, dtype), "exact"
    )

    def explain(observed: NDArray[np.float64]) -> str:
        expected = probe.expectations["forward"].value
        seen = expected != 0
        wrong = seen & (observed != expected)
        kept = int(np.round(-np.log2(expected[wrong] - 1)).min()) - 1 if wrong.any() else bits
        return f"{kept} of {bits} explicit mantissa bits arrive"

    return dataclasses.replace(probe, explain=explain)


def wide_range(spec: PatchEmbedSpec, batch: int, dtype: DTypeLike, seed: int) -> Probe:
    """Powers of two from 2⁻³⁰ to 2³⁰, moved by a kernel of ones and zeros: does the range of the
    type arrive?

    Exact as the identity kernel is. float16 ends at 2¹⁵ and 2⁻²⁴, so inputs that pass through it
    are lost, where their mantissas would not show it. A type of less range gets its own normal
    range.
    """
    info = ml_dtypes.finfo(np.dtype(dtype))
    lowest, highest = max(-30, int(info.minexp)), min(30, int(info.maxexp) - 1)
    generator = np.random.default_rng(seed)
    exponents = generator.integers(lowest, highest + 1, spec.images_shape(batch))
    images = (np.ldexp(1.0, exponents) * generator.choice((-1, 1), exponents.shape)).astype(dtype)
    weights = _selection(spec, generator, dtype)
    return Probe(
        "wide-range", spec, images, weights, _no_gradient(spec, batch, dtype), "exact", short=True
    )


def swamping(spec: PatchEmbedSpec, batch: int, dtype: DTypeLike, seed: int) -> Probe | None:
    """Small integers between a large term early in the sum and its negative late in it: does the
    accumulator keep them?

    Exact in any order by the derivation of `bounded_integers`: with the large term 2^(p−2), p the
    accumulator's significand bits (24 for 16-bit types), Σ|x||w| stays below 2^p. The result, at
    most 99 but where padding hides one of the large terms, is rounded to the output's type once. An
    accumulator of fewer bits swallows the ones: their number is odd, so that no coarser grid holds
    it. Images are flat, so it tells nothing of layouts. None for patches of fewer than 12 values,
    which have no middle.

    Source: Fasi, Higham, Mikaitis, Pranesh, "Numerical behavior of NVIDIA tensor cores" (PeerJ CS
    7:e330, 2021).
    """
    if spec.patch_values < 12:
        return None
    generator = np.random.default_rng(seed)
    K, D = spec.patch_values, spec.embed_dim
    large = 2.0 ** min(
        max(_precision_bits(dtype), 24) - 2, int(ml_dtypes.finfo(np.dtype(dtype)).maxexp) - 2
    )
    third = K // 3
    matrix = np.zeros((D, K))
    middle = np.arange(third, K - third)
    for row in matrix:
        row[generator.choice(middle, min(99, len(middle) // 2 * 2 - 1), replace=False)] = 1
    matrix[np.arange(D), generator.integers(0, third, D)] = large
    matrix[np.arange(D), generator.integers(K - third, K, D)] = -large
    images = np.ones(spec.images_shape(batch)) * generator.choice(
        (-1, 1), (batch, *(1,) * (1 + spec.spatial_axes))
    )
    weights = PatchEmbedWeights(matrix.reshape(spec.kernel_shape).astype(dtype), np.zeros(D, dtype))
    return Probe(
        "swamping",
        spec,
        images.astype(dtype),
        weights,
        _no_gradient(spec, batch, dtype),
        "exact",
        short=True,
    )


def random_images(
    spec: PatchEmbedSpec, batch: int, dtype: DTypeLike, seed: int
) -> NDArray[np.generic]:
    """Zero-mean normal images `(B, C, H, W)` of std 1, those of `random_normal`."""
    generator = np.random.default_rng(seed)
    return generator.standard_normal(spec.images_shape(batch)).astype(dtype)


def random_normal(
    spec: PatchEmbedSpec,
    batch: int,
    dtype: DTypeLike,
    seed: int,
    *,
    scale: float = 1.0,
    zero_bias: bool = False,
    forward_only: bool = False,
) -> Probe:
    """Zero-mean normal data: images of std `scale`, kernel of std 1/√K, bias and token gradient of
    std 1 (bias times `scale`).

    The data are the same if `forward_only`, but for the gradient of the tokens: one zero stands for
    all of it.

    With a bias, the probe is judged by the probabilistic bound, forward and backward; with zero
    bias its forward error gives the effective bits.
    """
    generator = np.random.default_rng(seed)
    images = (generator.standard_normal(spec.images_shape(batch)) * scale).astype(dtype)
    kernel = (generator.standard_normal(spec.kernel_shape) / math.sqrt(spec.patch_values)).astype(
        dtype
    )
    bias = (generator.standard_normal(spec.embed_dim) * scale).astype(dtype)
    if forward_only:
        grad_tokens, gradients = (
            np.broadcast_to(np.zeros((), dtype), spec.tokens_shape(batch)),
            DIRECTIONS[:0],
        )
    else:
        grad_tokens, gradients = (
            generator.standard_normal(spec.tokens_shape(batch)).astype(dtype),
            DIRECTIONS[1:],
        )
    probe = Probe(
        "random",
        spec,
        images,
        PatchEmbedWeights(kernel, bias),
        grad_tokens,
        "probabilistic",
        gradients,
    )
    return without_bias(probe) if zero_bias else probe


def without_bias(probe: Probe) -> Probe:
    """The twin of a random problem with a zero bias, on the same data: its forward error gives the
    effective bits."""
    weights = PatchEmbedWeights(probe.weights.kernel, np.zeros_like(probe.weights.bias))
    return dataclasses.replace(
        probe, name="random-zero-bias", weights=weights, gradients=(), fingerprint=True
    )


def random_sequence(
    spec: PatchEmbedSpec,
    batch: int,
    dtype: DTypeLike,
    seed: int,
    *,
    scale: float = 1.0,
    num_registers: int = 2,
) -> Probe:
    """Zero-mean normal data with a class token, registers and positions, all of std `scale`: what
    enters the encoder is judged."""
    base = random_normal(spec, batch, dtype, seed, scale=scale)
    generator = np.random.default_rng([seed, 1])
    drawn = initialize_weights(spec, num_registers=num_registers)
    tokens = {
        name: (generator.standard_normal(getattr(drawn, name).shape) * scale).astype(dtype)
        for name in ("class_token", "register_tokens", "positions")
        if getattr(drawn, name) is not None
    }
    weights = PatchEmbedWeights(base.weights.kernel, base.weights.bias, **tokens)
    return Probe(
        "random-sequence",
        spec,
        base.images,
        weights,
        base.grad_tokens,
        "probabilistic",
        to_sequence=True,
    )


def train_step(spec: PatchEmbedSpec, batch: int, dtype: DTypeLike, seed: int) -> Probe:
    """The random problem, asked for tokens and the gradients of kernel and bias: what a training
    step of a first layer computes."""
    return dataclasses.replace(
        random_normal(spec, batch, dtype, seed), gradients=("grad_kernel", "grad_bias")
    )


def photograph(
    spec: PatchEmbedSpec, pixels: NDArray[np.generic], dtype: DTypeLike, seed: int
) -> Probe:
    """A real image, normalized to [−1, 1] as ViT's preprocessing does, with random weights.

    Neighboring pixels agree and their mean is not zero, so only the deterministic bound applies.

    Args:
        spec: the sizes; C, H and W those of the picture.
        pixels: shape `(H, W, C)` or `(H, W)`, uint8, or floats in [0, 1].
        dtype: type under test.
        seed: of the weights.

    Raises:
        PatchParityError: a picture that does not fit the spec, or holds NaN or infinity.
    """
    channels_last = pixels[..., None] if pixels.ndim == 2 else pixels
    if channels_last.ndim != 3:
        raise PatchParityError(f"image of shape {pixels.shape}: expected (H, W) or (H, W, C)")
    values = channels_last.astype(np.float64)
    if not np.isfinite(values).all():
        raise PatchParityError(
            f"image of shape {pixels.shape} holds {int((~np.isfinite(values)).sum())} NaN or "
            "infinite values: expected finite ones"
        )
    if np.issubdtype(pixels.dtype, np.integer):
        values = values / np.iinfo(str(pixels.dtype)).max
    images = (2 * values - 1).transpose(2, 0, 1)[None].astype(dtype)
    spec.check_images(images)
    random = random_normal(spec, 1, dtype, seed)
    return Probe(
        "photograph",
        spec,
        images,
        random.weights,
        random.grad_tokens,
        "deterministic",
        DIRECTIONS[1:],
    )


def random_bytes(
    spec: PatchEmbedSpec,
    batch: int,
    dtype: DTypeLike,
    seed: int,
    *,
    zero_bias: bool = False,
    forward_only: bool = True,
) -> Probe:
    """Pixels as bytes, 0 to 255 and each as likely, with the kernel of `random_normal` and a bias
    of the products' size.

    Bytes are not of zero mean: forward results are judged by the deterministic bound. The kernel
    is, so that the products are, and with zero bias effective bits are told as of other random
    data.
    """
    random = random_normal(spec, batch, dtype, seed, forward_only=forward_only)
    generator = np.random.default_rng([seed, 2])
    pixels = generator.integers(0, 256, spec.images_shape(batch)).astype(dtype)
    drawn = np.asarray(random.weights.bias, np.float64)
    bias = (drawn * BYTES_ROOT_MEAN_SQUARE).astype(dtype)
    weights = PatchEmbedWeights(random.weights.kernel, bias)
    probe = dataclasses.replace(
        random,
        name="random-bytes",
        images=pixels,
        weights=weights,
        gate="deterministic",
        gradients=(),
    )
    return (
        dataclasses.replace(without_bias(probe), name="random-bytes-zero-bias")
        if zero_bias
        else probe
    )


def byte_photograph(
    spec: PatchEmbedSpec, pixels: NDArray[np.generic], dtype: DTypeLike, seed: int
) -> Probe:
    """A real image as the bytes that it is, with random weights.

    Args:
        spec: the sizes; C, H and W those of the picture.
        pixels: shape `(H, W, C)` or `(H, W)`, uint8.
        dtype: type under test.
        seed: of the weights.

    Raises:
        PatchParityError: as `photograph`; a picture of another type.
    """
    if pixels.dtype != np.uint8:
        raise PatchParityError(f"image of dtype {pixels.dtype}: expected uint8")
    probe = photograph(spec, pixels, dtype, seed)
    channels_last = pixels[..., None] if pixels.ndim == 2 else pixels
    images = channels_last.transpose(2, 0, 1)[None].astype(dtype)
    return dataclasses.replace(probe, images=images, gradients=())


BYTES_ROOT_MEAN_SQUARE = 147.4
"""√(255·511/6): of bytes, and of their products with a kernel of std 1/√K."""


def byte_probes(spec: PatchEmbedSpec, batch: int, dtype: DTypeLike, seed: int) -> list[Probe]:
    """The probes that `check` runs on what takes pixels as bytes: forward alone, images of whole
    numbers from 0 to 255, which every dtype holds.

    The exact ones that can have such images are themselves, with the signs of their pixels left
    out: that changes no |x||w|, and so nothing of why they are exact. The identity kernel moves
    random bytes. Mantissas and ranges of pixels, and other scales, there are none.
    """

    def of_bytes(make: Callable[[PatchEmbedSpec, int, DTypeLike, int], Probe | None]) -> Any:
        def made(spec: PatchEmbedSpec, batch: int, dtype: DTypeLike, seed: int) -> Probe | None:
            probe = make(spec, batch, dtype, seed)
            if probe is None:
                return None
            moves_bytes = make is identity_kernel
            images = np.abs(probe.images)
            if moves_bytes:
                drawn = np.random.default_rng([seed, 3]).integers(0, 256, images.shape)
                images = drawn.astype(dtype)
            short = probe.short or moves_bytes  # a byte has 8 significand bits
            return dataclasses.replace(probe, images=images, gradients=(), short=short)

        return made

    makers = (identity_kernel, one_hot_images, bounded_integers, swamping)
    exact = [
        _telling(of_bytes(make), spec, batch, dtype, _derived(seed, 3, number))
        for number, make in enumerate(makers)
    ]
    random = [
        random_bytes(spec, batch, dtype, _derived(seed, 4, number), zero_bias=bool(number))
        for number in range(2)
    ]
    return [*(probe for probe in exact if probe is not None), *random]


def _derived(seed: int, *path: int) -> int:
    """A seed for each member of a family of probes. Sums would not do: members of neighboring seeds
    would share their data."""
    return int(np.random.SeedSequence((seed, *path)).generate_state(1, np.uint64)[0])


def exact_probes(spec: PatchEmbedSpec, batch: int, dtype: DTypeLike, seed: int) -> list[Probe]:
    """The probes of tolerance zero that fit a spec, all of the same shapes."""
    makers = (
        identity_kernel,
        one_hot_images,
        bounded_integers,
        mantissa_ladder,
        wide_range,
        swamping,
    )
    probes = [
        _telling(make, spec, batch, dtype, _derived(seed, 0, number))
        for number, make in enumerate(makers)
    ]
    return [probe for probe in probes if probe is not None]


DRAWS = 100
"""Draws of a probe before its all-zero outputs are accepted: where a window sees one pixel in nine,
100 draws miss it with probability (8/9)^100 = 8e-6."""


def _telling(
    make: Callable[[PatchEmbedSpec, int, DTypeLike, int], Probe | None],
    spec: PatchEmbedSpec,
    batch: int,
    dtype: DTypeLike,
    seed: int,
) -> Probe | None:
    """Draw a probe until its outputs are not all zero: an implementation that returns zeros would
    pass it."""
    for draw in range(DRAWS):
        probe = make(spec, batch, dtype, _derived(seed, draw))
        if probe is None or all(
            expectation.value.any() for expectation in probe.expectations.values()
        ):
            return probe
    return probe


def random_probes(
    spec: PatchEmbedSpec, batch: int, dtype: DTypeLike, seed: int, *, scale: float = 1.0
) -> list[Probe]:
    """The two random probes, with a bias and without, images and bias of std `scale`."""
    seeds = [_derived(seed, 1, number) for number in range(2)]
    return [
        random_normal(spec, batch, dtype, probe_seed, scale=scale, zero_bias=bool(zero))
        for zero, probe_seed in enumerate(seeds)
    ]


SCALES = (1e-3, 1e3)
"""Standard deviations of the random images beside 1: fixed tolerances are wrong in opposite ways at
these. Both, and their products with kernels of std 1/√K, lie within float16's normal range."""


def standard_probes(spec: PatchEmbedSpec, batch: int, dtype: DTypeLike, seed: int) -> list[Probe]:
    """The probes that `check` runs on one shape: the exact ones, and the random ones at three
    scales."""
    seeds = [_derived(seed, 2, number) for number in range(len(SCALES))]
    scaled = [
        random_normal(spec, batch, dtype, probe_seed, scale=scale)
        for probe_seed, scale in zip(seeds, SCALES, strict=True)
    ]
    forward = [
        dataclasses.replace(probe, name=f"random-{scale:g}", gradients=())
        for probe, scale in zip(scaled, SCALES, strict=True)
    ]
    return [
        *exact_probes(spec, batch, dtype, seed),
        *random_probes(spec, batch, dtype, seed),
        *forward,
    ]
