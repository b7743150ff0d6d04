"""The catalogue of known mistakes: negative controls for every verdict, and the vocabulary of
diagnosis.

A patch embedding is written as a `Pipeline` (data, sizes, arithmetic, and what is done to the
tokens); a mistake is a function from a pipeline to the wrong one. Two mistakes in one program are
therefore two functions in a row.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np

from .errors import PatchParityError
from .pipeline import Array, Pipeline, round_through, round_to_bits
from .spec import PatchEmbedSpec
from .weights import PrefixToken

Stage = Literal["images", "kernel", "bias", "sizes", "arithmetic", "tokens", "sequence"]


@dataclass(frozen=True)
class Mistake:
    """One known mistake.

    Args:
        id: stable name.
        stage: where in the pipeline it sits.
        explanation: what was done, in one sentence.
        mend: what to do, in one line.
        make: the wrong pipeline, or None where the mistake makes no difference or cannot be made
            (bias dropped where there is none).
        reshapes: whether the tokens are no longer `(B, N, D)` afterwards, so that nothing more can
            be done to them as such.
    """

    id: str
    stage: Stage
    explanation: str
    mend: str
    make: Callable[[Pipeline], Pipeline | None]
    reshapes: bool = False

    def apply(self, pipeline: Pipeline) -> Pipeline | None:
        """Return the wrong pipeline, or None where the mistake cannot be made (the kernel's are
        those of images, not of video)."""
        if self.stage == "kernel" and pipeline.spec.spatial_axes != 2:
            return None
        return self.make(pipeline)


CATALOGUE: dict[str, Mistake] = {}
"""All mistakes by id, in the order of the pipeline."""


def _mistake(
    name: str, stage: Stage, explanation: str, mend: str, reshapes: bool = False
) -> Callable[[Callable[[Pipeline], Pipeline | None]], Any]:
    def register(
        make: Callable[[Pipeline], Pipeline | None],
    ) -> Callable[[Pipeline], Pipeline | None]:
        CATALOGUE[name] = Mistake(name, stage, explanation, mend, make, reshapes)
        return make

    return register


# Images.


@_mistake(
    "channels-reversed", "images",
    "the channels were read in reverse, BGR for RGB",
    "reverse the channel axis of the images: images[:, ::-1], or images.flip(1) of torch",
)  # fmt: skip
def _channels_reversed(p: Pipeline) -> Pipeline | None:
    return dataclasses.replace(p, images=p.images[:, ::-1]) if p.spec.in_channels > 1 else None


@_mistake(
    "input-scaled-255", "images",
    "the pixels were left at 0..255 where the weights expect them divided by 255",
    "divide the images by 255",
)  # fmt: skip
def _input_scaled(p: Pipeline) -> Pipeline | None:
    return dataclasses.replace(p, images=p.images * p.images.dtype.type(255))


@_mistake(
    "normalization-missing", "images",
    "the pixels were not normalized: mean 0.5 and standard deviation 0.5 were not taken out",
    "normalize the images: (images - 0.5) / 0.5",
)  # fmt: skip
def _normalization_missing(p: Pipeline) -> Pipeline | None:
    half = p.images.dtype.type(0.5)
    return dataclasses.replace(p, images=p.images * half + half)


# Kernel. Each is written as the canonical kernel that the wrong program behaves as if it had.


@_mistake(
    "flatten-channels-first", "kernel",
    "patches were flattened as (C, Ph, Pw) for a matrix whose columns are in the order (Ph, Pw, C)",
    "flatten patches channels last, or reorder the matrix: W.reshape(D, Ph, Pw, C).transpose(0, 3, "
    "1, 2).reshape(D, -1)",
)  # fmt: skip
def _flatten_channels_first(p: Pipeline) -> Pipeline | None:
    D, Ph, Pw, C = p.weights.kernel.shape
    return _changed_kernel(p, p.weights.kernel.reshape(D, C, Ph, Pw).transpose(0, 2, 3, 1))


@_mistake(
    "flatten-channels-last", "kernel",
    "patches were flattened as (Ph, Pw, C) for a matrix whose columns are in the order (C, Ph, Pw)",
    "flatten patches channels first, or reorder the matrix: W.reshape(D, C, Ph, Pw).transpose(0, "
    "2, 3, 1).reshape(D, -1)",
)  # fmt: skip
def _flatten_channels_last(p: Pipeline) -> Pipeline | None:
    return _changed_kernel(
        p, p.weights.kernel.transpose(0, 3, 1, 2).reshape(p.weights.kernel.shape)
    )


@_mistake(
    "kernel-hwio-as-oihw", "kernel",
    "the kernel's memory, laid out as HWIO, was read as OIHW",
    "the kernel is HWIO: transpose it with (3, 2, 0, 1)",
)  # fmt: skip
def _kernel_hwio_as_oihw(p: Pipeline) -> Pipeline | None:
    D, Ph, Pw, C = p.weights.kernel.shape
    return _changed_kernel(
        p, p.weights.kernel.transpose(1, 2, 3, 0).reshape(D, C, Ph, Pw).transpose(0, 2, 3, 1)
    )


@_mistake(
    "kernel-reshaped-not-transposed", "kernel",
    "the OIHW kernel was reshaped to HWIO instead of transposed",
    "transpose the kernel with (2, 3, 1, 0); reshape keeps the order of the memory",
)  # fmt: skip
def _kernel_reshaped(p: Pipeline) -> Pipeline | None:
    D, Ph, Pw, C = p.weights.kernel.shape
    return _changed_kernel(
        p, p.weights.kernel.transpose(0, 3, 1, 2).reshape(Ph, Pw, C, D).transpose(3, 0, 1, 2)
    )


@_mistake(
    "kernel-transposed-whole", "kernel",
    "the OIHW kernel was turned into HWIO by a full .T, which gives WHIO: rows and columns are "
    "exchanged",
    "transpose the kernel with (2, 3, 1, 0) instead of .T",
)  # fmt: skip
def _kernel_transposed_whole(p: Pipeline) -> Pipeline | None:
    return _kernel_hw_swapped(p)


@_mistake(
    "kernel-hw-swapped", "kernel",
    "the kernel's rows and columns were exchanged",
    "exchange the kernel's two patch axes",
)  # fmt: skip
def _kernel_hw_swapped(p: Pipeline) -> Pipeline | None:
    square = p.spec.patch_size[0] == p.spec.patch_size[1]
    return _changed_kernel(p, p.weights.kernel.transpose(0, 2, 1, 3)) if square else None


@_mistake(
    "matrix-transposed", "kernel",
    "the projection matrix W was used as its transpose, which only a square one (D = P²C) lets "
    "through",
    "transpose the matrix: torch's Linear keeps (D, K), Flax and Keras Dense keep (K, D)",
)  # fmt: skip
def _matrix_transposed(p: Pipeline) -> Pipeline | None:
    square = p.spec.embed_dim == p.spec.patch_values
    return (
        _changed_kernel(p, p.weights.matrix.T.reshape(p.weights.kernel.shape)) if square else None
    )


@_mistake(
    "kernel-flipped", "kernel",
    "the kernel was flipped: a true convolution was computed where frameworks compute a "
    "correlation",
    "flip the kernel along both patch axes: kernel[:, ::-1, ::-1]",
)  # fmt: skip
def _kernel_flipped(p: Pipeline) -> Pipeline | None:
    return _changed_kernel(p, p.weights.kernel[:, ::-1, ::-1])


@_mistake(
    "kernel-not-patch", "kernel",
    "the kernel is one row and one column smaller than the patch: the last ones of each patch are "
    "not seen",
    "set kernel_size to the patch size",
)  # fmt: skip
def _kernel_not_patch(p: Pipeline) -> Pipeline | None:
    kernel = p.weights.kernel.copy()
    kernel[:, -1, :, :] = 0
    kernel[:, :, -1, :] = 0
    return _changed_kernel(p, kernel)


@_mistake(
    "last-term-dropped", "kernel",
    "the last of the K products is missing from every sum",
    "sum over all P²C values of a patch: a loop ends one too early",
)  # fmt: skip
def _last_term_dropped(p: Pipeline) -> Pipeline | None:
    kernel = p.weights.kernel.copy()
    kernel[:, -1, -1, -1] = 0
    return _changed_kernel(p, kernel)


def _changed_kernel(p: Pipeline, kernel: Array) -> Pipeline | None:
    """Return the pipeline with the kernel, or None where it is the same as before."""
    return (
        None
        if np.array_equal(kernel, p.weights.kernel)
        else p.with_kernel(np.ascontiguousarray(kernel))
    )


# Bias.


@_mistake(
    "bias-missing",
    "bias",
    "the bias was not added",
    "add the bias, or create the layer with bias=True",
)
def _bias_missing(p: Pipeline) -> Pipeline | None:
    return None if p.weights.bias is None or not p.weights.bias.any() else p.with_weights(bias=None)


@_mistake(
    "bias-doubled",
    "bias",
    "the bias was added twice",
    "add the bias once: the layer adds it already",
)
def _bias_doubled(p: Pipeline) -> Pipeline | None:
    return (
        None
        if p.weights.bias is None or not p.weights.bias.any()
        else p.with_weights(bias=p.weights.bias * 2)
    )


# Sizes.


def _resized(p: Pipeline, **changes: Any) -> Pipeline | None:
    """Return the pipeline with other sizes, or None where they are impossible, or lead to the same
    windows."""
    try:
        spec = p.spec.replace(**changes)
    except PatchParityError:
        return None
    same = (spec.grid, spec.stride, spec.effective_padding) == (
        p.spec.grid,
        p.spec.stride,
        p.spec.effective_padding,
    )
    table_misfits = p.to_sequence and p.weights.positions is not None and spec.grid != p.spec.grid
    return None if same or table_misfits else dataclasses.replace(p, spec=spec)


@_mistake(
    "stride-not-patch", "sizes",
    "the stride is half of what it should be, so that patches overlap",
    "set stride to the patch size (or to what the model says)",
)  # fmt: skip
def _stride_not_patch(p: Pipeline) -> Pipeline | None:
    stride = tuple(max(1, step // 2) for step in p.spec.stride)
    return _resized(p, stride=stride, remainder="same" if p.spec.remainder == "same" else "floor")


@_mistake(
    "padding-same", "sizes",
    "TensorFlow's SAME padding was used where the model pads by a fixed amount: it splits the "
    "zeros unevenly",
    "pad explicitly and use VALID",
)  # fmt: skip
def _padding_same(p: Pipeline) -> Pipeline | None:
    return _resized(p, padding=0, remainder="same")


@_mistake(
    "pad-end-for-floor", "sizes",
    "an image that does not divide was padded at the end where the model leaves the rest out",
    "crop instead of padding: remainder='floor'",
)  # fmt: skip
def _pad_end_for_floor(p: Pipeline) -> Pipeline | None:
    return _resized(p, remainder="pad-end") if p.spec.remainder == "floor" else None


# Arithmetic.


@_mistake(
    "precision-tf32", "arithmetic",
    "inputs were rounded to TF32 (10 mantissa bits)",
    "switch TF32 off: torch.backends.cudnn.conv.fp32_precision = 'ieee', "
    "tf.config.experimental.enable_tensor_float_32_execution(False), "
    "jax_default_matmul_precision = 'highest'",
)  # fmt: skip
def _precision_tf32(p: Pipeline) -> Pipeline | None:
    return dataclasses.replace(p, round_inputs=lambda values: round_to_bits(values, 10))


@_mistake(
    "precision-bf16", "arithmetic",
    "inputs were rounded to bfloat16 (7 mantissa bits)",
    "compute in float32: switch autocast and bf16 math modes off",
)  # fmt: skip
def _precision_bf16(p: Pipeline) -> Pipeline | None:
    return dataclasses.replace(p, round_inputs=round_through(ml_dtypes.bfloat16))


@_mistake(
    "precision-fp16", "arithmetic",
    "inputs were rounded to float16 (10 mantissa bits, short range)",
    "compute in float32: switch autocast off",
)  # fmt: skip
def _precision_fp16(p: Pipeline) -> Pipeline | None:
    return dataclasses.replace(p, round_inputs=round_through(np.float16))


@_mistake(
    "accumulate-fp16", "arithmetic",
    "partial sums were kept in float16",
    "accumulate in float32: torch.backends.cuda.matmul.allow_fp16_accumulation = False",
)  # fmt: skip
def _accumulate_fp16(p: Pipeline) -> Pipeline | None:
    return dataclasses.replace(p, accumulate="float16")


@_mistake(
    "output-bf16", "arithmetic",
    "outputs were rounded to bfloat16 (7 mantissa bits) and widened again",
    "return what the product gives: drop .bfloat16() and .to(torch.bfloat16), and switch autocast "
    "off",
)  # fmt: skip
def _output_bf16(p: Pipeline) -> Pipeline | None:
    return dataclasses.replace(p, round_output=round_through(ml_dtypes.bfloat16))


@_mistake(
    "output-fp16", "arithmetic",
    "outputs were rounded to float16 (10 mantissa bits, short range) and widened again",
    "return what the product gives: drop .half() and .to(torch.float16), and switch autocast off",
)  # fmt: skip
def _output_fp16(p: Pipeline) -> Pipeline | None:
    return dataclasses.replace(p, round_output=round_through(np.float16))


# Tokens.


@_mistake(
    "tokens-column-major", "tokens",
    "tokens are in column-major order: down the columns of the grid first",
    "order tokens by row, then column: flatten(2) of (B, D, rows, columns)",
)  # fmt: skip
def _tokens_column_major(p: Pipeline) -> Pipeline | None:
    if p.spec.spatial_axes != 2 or min(p.spec.grid) == 1:
        return None
    return p.then(
        lambda tokens, spec: (
            tokens.reshape(-1, *spec.grid, tokens.shape[-1])
            .transpose(0, 2, 1, 3)
            .reshape(tokens.shape)
        )
    )


@_mistake(
    "tokens-not-transposed", "tokens",
    "tokens were left as (B, D, N)",
    "add transpose(1, 2) after flatten(2)",
    reshapes=True,
)  # fmt: skip
def _tokens_not_transposed(p: Pipeline) -> Pipeline | None:
    return p.then(lambda tokens, spec: tokens.transpose(0, 2, 1))


@_mistake(
    "tokens-reshaped-not-transposed", "tokens",
    "(B, D, N) was reshaped to (B, N, D) instead of transposed",
    "use transpose(1, 2); reshape keeps the order of the memory",
)  # fmt: skip
def _tokens_reshaped(p: Pipeline) -> Pipeline | None:
    if 1 in (p.spec.num_patches, p.spec.embed_dim):
        return None
    return p.then(
        lambda tokens, spec: np.ascontiguousarray(tokens.transpose(0, 2, 1)).reshape(tokens.shape)
    )


@_mistake(
    "flatten-wrong-axes", "tokens",
    "flatten joined the width with the rows of the grid: (B, D·rows, columns) instead of (B, D, "
    "rows·columns)",
    "flatten from axis 2: flatten(2), then transpose(1, 2)",
    reshapes=True,
)  # fmt: skip
def _flatten_wrong_axes(p: Pipeline) -> Pipeline | None:
    if p.spec.spatial_axes != 2 or p.spec.grid[0] == 1:
        return None
    return p.then(
        lambda tokens, spec: (
            tokens.transpose(0, 2, 1).reshape(tokens.shape[0], -1, spec.grid[1]).transpose(0, 2, 1)
        )
    )


STALE_PATCH = 3
"""The patch that `patch-stale` does not refresh; any would do, and this one is neither a corner nor
on an edge of most grids."""


@_mistake(
    "patch-stale", "tokens",
    "a token holds the result of the patch before it: its own was never computed",
    "look for an index that is not advanced, or a buffer that is read before it is written",
)  # fmt: skip
def _patch_stale(p: Pipeline) -> Pipeline | None:
    if p.spec.num_patches < 2:
        return None

    def stale(tokens: Array, spec: PatchEmbedSpec) -> Array:
        place = min(STALE_PATCH, tokens.shape[1] - 1)
        changed = tokens.copy()
        changed[:, place] = tokens[:, place - 1]
        return changed

    return p.then(stale)


@_mistake(
    "batch-merged", "tokens",
    "the batch was merged into the tokens: (1, B·N, D)",
    "keep the batch axis: flatten from axis 2, not from 0",
    reshapes=True,
)  # fmt: skip
def _batch_merged(p: Pipeline) -> Pipeline | None:
    return (
        p.then(lambda tokens, spec: tokens.reshape(1, -1, tokens.shape[-1]))
        if p.images.shape[0] != 1
        else None
    )


# Sequence: these matter where prefix tokens and positions are added.


def _moved_positions(p: Pipeline, change: Callable[[Array, int], Array]) -> Pipeline | None:
    """Return the pipeline with its table of positions changed; `change` receives the table and the
    number of prefix rows."""
    if not p.to_sequence or p.weights.positions is None:
        return None
    positions = change(p.weights.positions, p.weights.num_positioned_prefix_tokens)
    return (
        None
        if np.array_equal(positions, p.weights.positions)
        else p.with_weights(positions=positions)
    )


@_mistake(
    "positions-off-by-prefix", "sequence",
    "patches took positions that start at row 0, the prefix tokens' own",
    "skip the rows of the prefix tokens: positions[:, num_prefix_tokens:]",
)  # fmt: skip
def _positions_off_by_prefix(p: Pipeline) -> Pipeline | None:
    return _moved_positions(p, lambda positions, rows: np.roll(positions, rows, axis=0))


@_mistake(
    "positions-before-for-after", "sequence",
    "positions were added to the patches before the prefix tokens were put in front, so these got "
    "none",
    "concatenate first, then add positions to the whole sequence",
)  # fmt: skip
def _positions_before_for_after(p: Pipeline) -> Pipeline | None:
    def without_prefix(positions: Array, rows: int) -> Array:
        changed = positions.copy()
        first = p.weights.num_positions_ahead
        patches = slice(first, first + len(positions) - rows)
        changed[:] = 0
        changed[patches] = positions[patches]
        return changed

    return _moved_positions(p, without_prefix)


@_mistake(
    "positions-transposed", "sequence",
    "the grid of positions was read column by column",
    "order positions as the patches: by row, then column",
)  # fmt: skip
def _positions_transposed(p: Pipeline) -> Pipeline | None:
    def transposed(positions: Array, rows: int) -> Array:
        turned, first = positions.copy(), p.weights.num_positions_ahead
        patches = slice(first, first + len(positions) - rows)
        grid = positions[patches]
        turned[patches] = grid.reshape(*p.spec.grid, -1).swapaxes(0, 1).reshape(grid.shape)
        return turned

    return _moved_positions(p, transposed) if p.spec.spatial_axes == 2 else None


@_mistake(
    "sincos-halves-swapped", "sequence",
    "the two halves of the sine-cosine table, rows and columns, were exchanged",
    "exchange the halves of the width: concatenate([positions[:, D//2:], positions[:, :D//2]], "
    "axis=1)",
)  # fmt: skip
def _sincos_halves_swapped(p: Pipeline) -> Pipeline | None:
    return _moved_positions(
        p, lambda positions, rows: np.roll(positions, positions.shape[1] // 2, axis=1)
    )


@_mistake(
    "registers-misplaced", "sequence",
    "the register tokens stand before the class token",
    "order the prefix as class token, registers, patches",
)  # fmt: skip
def _registers_misplaced(p: Pipeline) -> Pipeline | None:
    weights = p.weights
    if not p.to_sequence or weights.register_tokens is None or weights.class_token is None:
        return None
    layout = weights.layout
    order: tuple[PrefixToken, ...] = (
        "register_tokens",
        *(name for name in layout.prefix if name != "register_tokens"),
    )
    return (
        None
        if order == layout.prefix
        else p.with_weights(layout=dataclasses.replace(layout, prefix=order))
    )
