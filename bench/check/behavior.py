"""Behavior where no bound applies: NaN, infinities, subnormals, empty batches, awkward arrays,
repetition; recorded as found.

Every behavior has findings that nobody is surprised by. Anything else is a known issue with a
reason (`known_issues.toml`), or a failure.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ...backends.base import Backend
from ...backends.computation import LoadedEmbedding
from ...reference.embed import patch_embed
from ...reference.errors import PatchParityError
from ...reference.patches import fold
from ...reference.probe import Probe
from ...reference.probes import random_normal
from ...reference.quantize import float16_kernels
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights

SPEC = PatchEmbedSpec((18, 20), (6, 4), 3, 72)
"""Neither image nor patch square, C ≠ P, D = K, so that an identity kernel reads every value."""
BATCH = 3


@dataclass(frozen=True)
class Behavior:
    """One question to an implementation or to a framework.

    Args:
        name: as in the results (`probe`) and in `known_issues.toml`.
        question: what is asked, for the table.
        expected: findings that are no surprise; `raises` stands for any refusal.
        find: the finding, from a loaded implementation and the problem, or from the backend.
    """

    name: str
    question: str
    expected: tuple[str, ...]
    find: Callable[..., str]


def _tokens(loaded: LoadedEmbedding, images: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(invalid="ignore", over="ignore"):
        return np.array(loaded.unchecked_tokens(images))


def _equal(first: NDArray[Any], second: NDArray[Any]) -> bool:
    return (
        first.shape == second.shape
        and first.dtype == second.dtype
        and first.tobytes() == second.tobytes()
    )


def _restore(loaded: LoadedEmbedding, probe: Probe) -> None:
    """Give the problem's weights back, and its images: some models are made, or calibrated, when
    they see the first."""
    loaded.assign(probe.weights)
    _tokens(loaded, probe.images)


def _poisoned(probe: Probe, value: float) -> NDArray[Any]:
    """The probe's images with one pixel of image 1, in patch (1, 2), replaced."""
    images = np.array(probe.images)
    images[1, 1, 8, 9] = value
    return images


_TOUCHED = (1, 1 * SPEC.grid[1] + 2)


def _nan(loaded: LoadedEmbedding, probe: Probe) -> str:
    clean, dirty = _tokens(loaded, probe.images), _tokens(loaded, _poisoned(probe, np.nan))
    if not np.isnan(dirty[_TOUCHED]).all():
        return "swallowed"
    dirty[_TOUCHED] = clean[_TOUCHED]
    return "its own token only" if _equal(clean, dirty) else "spreads"


def _infinity(loaded: LoadedEmbedding, probe: Probe) -> str:
    taps = np.asarray(probe.weights.kernel)[:, 2, 1, 1]
    for value in (np.inf, -np.inf):
        token = _tokens(loaded, _poisoned(probe, value))[_TOUCHED]
        if np.isfinite(token).all():
            return "turned finite"
        if not (token == np.sign(taps) * value).all():
            return "wrong"
    return "signed by the kernel"


OUTLIER = 1e4
"""A pixel that is ten thousand times as large as others, and float16 still holds."""


def _outlier(loaded: LoadedEmbedding, probe: Probe) -> str:
    """Whose tokens change with one pixel, beside the one that sees it."""
    clean, dirty = _tokens(loaded, probe.images), _tokens(loaded, _poisoned(probe, OUTLIER))
    dirty[_TOUCHED] = clean[_TOUCHED]
    if _equal(clean, dirty):
        return "its own token only"
    return "its image" if _equal(clean[[0, 2]], dirty[[0, 2]]) else "every image"


def _lower_than_patch(loaded: LoadedEmbedding, probe: Probe) -> str:
    """Images of fewer rows than a patch has."""
    images = np.ascontiguousarray(probe.images[:, :, : SPEC.patch_size[0] - 1])
    tokens = _tokens(loaded, images)
    return "no tokens" if not tokens.size else f"shape {tokens.shape}"


LEAST_EXPONENT = -20
"""Of a kernel that is read out: float16's normal numbers end at 2⁻¹⁴, its subnormal ones at
2⁻²⁴."""


def _stored_kernel(loaded: LoadedEmbedding, probe: Probe) -> str:
    """Read the kernel that is computed with, by images in which each patch holds a single 1."""
    generator = np.random.default_rng(SPEC.patch_values)
    shape = SPEC.kernel_shape
    exponents = generator.integers(LEAST_EXPONENT, 1, shape)
    signs = generator.choice((-1, 1), shape)
    kernel = (np.ldexp(generator.uniform(1, 2, shape), exponents) * signs).astype(np.float32)
    batch = -(-SPEC.patch_values // SPEC.num_patches)
    rows = np.arange(batch * SPEC.num_patches) % SPEC.patch_values
    patches = np.eye(SPEC.patch_values, dtype=np.float32)[rows]
    images = fold(patches.reshape(batch, SPEC.num_patches, -1), SPEC)
    loaded.assign(PatchEmbedWeights(kernel, np.zeros(SPEC.embed_dim, np.float32)))
    try:
        read = _tokens(loaded, images).reshape(-1, SPEC.embed_dim)[: SPEC.patch_values].T
    finally:
        _restore(loaded, probe)
    return _storage(read.astype(np.float64), kernel.reshape(SPEC.embed_dim, -1))


def _storage(read: NDArray[np.float64], kernel: NDArray[np.float32]) -> str:
    """What type a kernel was stored in, by what was read of it."""
    stored = float16_kernels(kernel)
    known = {"kept": kernel, **{f"float16{name}": array for name, array in stored.items()}}
    for name, expected in known.items():
        # a flushed or rounded product with 1 is none of the storage's faults
        if np.allclose(read, np.asarray(expected, np.float64), 2.0**-20, 2.0**-40):
            return name
    if all(map(_on_lattice, read, kernel)) or _on_lattice(read, kernel):
        return "integers of 8 bits"
    return "other values"


def _on_lattice(read: NDArray[np.float64], kernel: NDArray[np.float32]) -> bool:
    """Whether values are multiples of one step of 8 bits, and those nearest to a kernel's: the step
    is the least distance of two of them."""
    values = np.unique(read)
    distances = np.diff(values)
    distances = distances[distances > 1e-6 * np.abs(values).max(initial=0)]
    if not distances.size:
        return False
    step = float(distances.min())
    multiples = np.abs(read / step - np.rint(read / step))
    eight_bits = np.ptp(values) <= 260 * step
    # a kernel of seven bits, for sums that would saturate, is read by outputs of eight
    near = np.abs(read - kernel) <= 2 * step
    return bool(eight_bits and multiples.max() < 0.1 and near.all())


CHANNEL_SCALES = (1e-3, 1.0, 1e3)
"""Of the kernel's channels, in turn: one step for all of them leaves nothing of the smallest."""

LEAST_CHANNEL_BITS = 3.0
"""Effective bits below which a channel is lost: integers of 8 bits with a step of their own keep
6."""


def _channel_scales(loaded: LoadedEmbedding, probe: Probe) -> str:
    """Whether each channel of a kernel keeps its bits beside channels of other sizes."""
    scales = np.resize(np.array(CHANNEL_SCALES, np.float32), SPEC.embed_dim)
    kernel = probe.weights.kernel * scales.reshape(-1, *(1,) * (probe.weights.kernel.ndim - 1))
    weights = PatchEmbedWeights(kernel, np.zeros(SPEC.embed_dim, np.float32))
    loaded.assign(weights)
    try:
        tokens = _tokens(loaded, probe.images).astype(np.float64)
    finally:
        _restore(loaded, probe)
    expected = patch_embed(probe.images, weights, SPEC)
    error = np.sqrt(np.mean((tokens - expected) ** 2, axis=(0, 1)))
    size = np.sqrt(np.mean(expected**2, axis=(0, 1)))
    lost = error > size * 2.0**-LEAST_CHANNEL_BITS
    of_scales = [lost[scales == scale].mean() > 1 / 2 for scale in CHANNEL_SCALES]
    kinds = f"those of {sum(of_scales)} of {len(CHANNEL_SCALES)} scales lost"
    return "each its own bits" if not any(of_scales) else kinds


SUBNORMAL = 1e-40
"""Below float32's smallest normal number, 1.18e-38, and far above its smallest subnormal,
1.4e-45."""


def _subnormal(loaded: LoadedEmbedding, probe: Probe) -> str:
    identity = np.eye(SPEC.embed_dim, dtype=np.float32).reshape(SPEC.kernel_shape)
    loaded.assign(PatchEmbedWeights(identity, np.zeros(SPEC.embed_dim, np.float32)))
    try:
        images = np.full(SPEC.images_shape(1), SUBNORMAL, np.float32)
        tokens = _tokens(loaded, images)
    finally:
        _restore(loaded, probe)
    if (tokens == images.flat[0]).all():
        return "kept"
    return "flushed" if not tokens.any() else "wrong"


def _zero_batch(loaded: LoadedEmbedding, probe: Probe) -> str:
    shape = _tokens(loaded, probe.images[:0]).shape
    return (
        "(0, N, D)"
        if shape == SPEC.tokens_shape(0)
        else f"shape {shape} for {SPEC.tokens_shape(0)}"
    )


def _not_dividing(loaded: LoadedEmbedding, probe: Probe) -> str:
    """Images of one row and two columns more than the implementation was loaded for."""
    images = np.pad(np.array(probe.images), ((0, 0), (0, 0), (0, 1), (0, 2)), constant_values=1)
    tokens = _tokens(loaded, images)
    spec = SPEC.replace(image_size=images.shape[2:], remainder="floor")
    expected = patch_embed(images, probe.weights, spec)
    if tokens.shape != expected.shape:
        return f"shape {tokens.shape}"
    return "floor" if _near(tokens, expected) else "other values"


def _near(tokens: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Whether tokens are those, whatever precision they have: a window at another place changes
    them by as much as they are, integers of 8 bits by a twentieth."""
    error = np.asarray(tokens, np.float64) - expected
    of_tokens = np.sqrt(np.mean(error**2, axis=-1))
    return bool((of_tokens < 0.3 * np.sqrt(np.mean(np.square(expected)))).all())


def _input(
    change: Callable[[NDArray[Any]], NDArray[Any]],
) -> Callable[[LoadedEmbedding, Probe], str]:
    def find(loaded: LoadedEmbedding, probe: Probe) -> str:
        return (
            "same"
            if _equal(
                _tokens(loaded, change(np.array(probe.images))), _tokens(loaded, probe.images)
            )
            else "differs"
        )

    return find


def _repeated(loaded: LoadedEmbedding, probe: Probe) -> str:
    first = _tokens(loaded, probe.images)
    return (
        "bitwise"
        if all(_equal(first, _tokens(loaded, probe.images)) for _ in range(5))
        else "differs"
    )


def _batch_invariance(loaded: LoadedEmbedding, probe: Probe) -> str:
    together = _tokens(loaded, probe.images)
    alone = [_tokens(loaded, probe.images[number : number + 1]) for number in range(BATCH)]
    apart = np.concatenate(alone)
    if _equal(together, apart):
        return "bitwise"
    # A matrix product of another height may add up in another order: u·√K of the result, with a
    # margin of 100.
    return "last bits differ" if np.allclose(together, apart, 0, 1e-4) else "differs"


BATCHES = (1, 2, 4, 7, 19)
"""Batches that are tried beside those of the probes: small ones, and one that is more than a width
of vector registers. (Each is compiled anew.)"""


def _batch_sizes(loaded: LoadedEmbedding, probe: Probe) -> str:
    """Batches of every size, of the probe's images in turn, against each of these images alone."""
    alone = [_tokens(loaded, probe.images[number : number + 1]) for number in range(BATCH)]
    for size in BATCHES:
        turns = np.arange(size) % BATCH
        tokens = _tokens(loaded, np.ascontiguousarray(probe.images[turns]))
        expected = np.concatenate([alone[number] for number in turns])
        # as for batch invariance
        if tokens.shape != expected.shape or not np.allclose(tokens, expected, 0, 1e-4):
            return f"differs at {size}"
    return "same"


def _strided(images: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(images, 2, axis=-1)[..., ::2]


def _reversed(images: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(images[:, :, ::-1])[:, :, ::-1]


def _read_only(images: NDArray[Any]) -> NDArray[Any]:
    images.flags.writeable = False
    return images


def _big_endian(images: NDArray[Any]) -> NDArray[Any]:
    return images.astype(images.dtype.newbyteorder(">"))


IMPLEMENTATION_BEHAVIORS = (
    Behavior("nan-containment", "a NaN in one pixel", ("its own token only",), _nan),
    Behavior("infinity", "an infinity in one pixel", ("signed by the kernel",), _infinity),
    Behavior(
        "outlier-pixel",
        "one pixel of an image ten thousand times as large",
        ("its own token only",),
        _outlier,
    ),
    Behavior("subnormals", "1e-40 times 1, float32", ("kept",), _subnormal),
    Behavior("zero-batch", "a batch of no images", ("(0, N, D)",), _zero_batch),
    Behavior(
        "not-dividing", "images a row and two columns too large", ("floor", "raises"), _not_dividing
    ),
    Behavior(
        "lower-than-patch",
        "images lower than the patch",
        ("no tokens", "raises"),
        _lower_than_patch,
    ),
    Behavior(
        "stored-kernel",
        "a kernel of 2⁻²⁰ to 2, read out",
        ("kept", "float16", "integers of 8 bits"),
        _stored_kernel,
    ),
    Behavior(
        "channel-scales",
        "channels of scales 1e-3, 1 and 1e3",
        ("each its own bits",),
        _channel_scales,
    ),
    Behavior("repeatability", "the same call six times", ("bitwise",), _repeated),
    Behavior(
        "batch-invariance",
        "an image alone against the same in a batch",
        ("bitwise", "last bits differ"),
        _batch_invariance,
    ),
    Behavior("batch-sizes", "batches of 1, 2, 4, 7 and 19 images", ("same",), _batch_sizes),
    Behavior("input-strided", "every second value of a wider array", ("same",), _input(_strided)),
    Behavior("input-reversed", "a view with a negative stride", ("same",), _input(_reversed)),
    Behavior("input-read-only", "an array that must not be written", ("same",), _input(_read_only)),
    Behavior(
        "input-big-endian", "an array of the other byte order", ("same",), _input(_big_endian)
    ),
)
"""What every implementation is asked, through its adapter."""


HIDDEN_WARNINGS = (DeprecationWarning, PendingDeprecationWarning)
"""Those that Python does not show to a library's users."""


def _taken(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Backend], str]:
    def find(backend: Backend) -> str:
        array = change(np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            taken = backend.adopt(array)
        shown = [warning for warning in caught if not issubclass(warning.category, HIDDEN_WARNINGS)]
        if shown:
            return f"warns {shown[0].category.__name__}"
        if taken.dtype.newbyteorder("=") != array.dtype.newbyteorder("="):
            return f"becomes {taken.dtype.name}"
        return "taken" if (taken == array).all() else "changed"

    return find


def _cast(backend: Backend) -> str:
    """Float32 to float16 and back, computed at once."""
    array = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    cast = backend.cast_and_back(array)
    if cast is None:
        return "has no cast"
    if (cast == array).all():
        return "vanishes"
    return "rounds" if (cast == array.astype(np.float16).astype(np.float32)).all() else "changed"


def _empty(channels: int, width: int) -> Callable[[Backend], str]:
    def find(backend: Backend) -> str:
        images, kernel = (
            np.ones((2, channels, 8, 12), np.float32),
            np.ones((width, channels, 4, 4), np.float32),
        )
        output = backend.convolve(images, kernel)
        if output is None:
            return "has no convolution"
        expected = (2, width, 2, 3)
        return (
            f"shape {output.shape} for {expected}"
            if output.shape != expected
            else "changed"
            if output.any()
            else "zeros"
        )

    return find


FRAMEWORK_BEHAVIORS = (
    Behavior(
        "takes-strided",
        "NumPy array, every second value of a wider one",
        ("taken",),
        _taken(_strided),
    ),
    Behavior(
        "takes-reversed",
        "NumPy array with a negative stride",
        ("taken",),
        _taken(lambda a: a[::-1]),
    ),
    Behavior(
        "takes-read-only", "NumPy array that must not be written", ("taken",), _taken(_read_only)
    ),
    Behavior(
        "takes-big-endian", "NumPy array of the other byte order", ("taken",), _taken(_big_endian)
    ),
    Behavior(
        "takes-bfloat16",
        "NumPy array of ml_dtypes.bfloat16",
        ("taken",),
        _taken(lambda a: a.astype(ml_dtypes.bfloat16)),
    ),
    Behavior(
        "takes-float64",
        "NumPy array of float64",
        ("taken",),
        _taken(lambda a: a.astype(np.float64)),
    ),
    Behavior("cast-and-back", "float32 to float16 and back", ("rounds", "has no cast"), _cast),
    Behavior(
        "zero-channels",
        "convolution of images without channels",
        ("zeros", "raises", "has no convolution"),
        _empty(0, 16),
    ),
    Behavior(
        "zero-width",
        "convolution with a kernel of no outputs",
        ("zeros", "raises", "has no convolution"),
        _empty(3, 0),
    ),
)
"""What every framework is asked, through the calls with which its users hand a NumPy array over, or
convolve."""

BEHAVIORS = {
    behavior.name: behavior for behavior in (*IMPLEMENTATION_BEHAVIORS, *FRAMEWORK_BEHAVIORS)
}


def problem(seed: int) -> Probe:
    """The problem that behaviors are asked on: random images and weights, no zero in the kernel."""
    return random_normal(SPEC, BATCH, "float32", seed)


def find(behavior: Behavior, *subject: Any) -> str:
    """Ask, and put an exception into words: `raises` and its type."""
    try:
        return behavior.find(*subject)
    except PatchParityError:
        return "raises PatchParityError"
    except Exception as error:  # whatever a framework raises is its answer
        return f"raises {type(error).__name__}"


def is_expected(behavior: Behavior, finding: str) -> bool:
    """Whether a finding is no surprise."""
    return finding in behavior.expected or (
        finding.startswith("raises ") and "raises" in behavior.expected
    )


def ask(behavior: Behavior, *subject: Any) -> dict[str, Any]:
    """Ask and judge: the fields of a result, `fail` where the finding is a surprise that no known
    issue has explained yet."""
    finding = find(behavior, *subject)
    if is_expected(behavior, finding):
        return {"probe": behavior.name, "behavior": finding, "verdict": "pass"}
    message = f"{behavior.question}: found {finding!r}, expected {' or '.join(behavior.expected)}"
    return {"probe": behavior.name, "behavior": finding, "verdict": "fail", "message": message}
