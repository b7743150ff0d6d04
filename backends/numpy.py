"""NumPy: the reference's own formulation in the dtype under test, the same as fast as NumPy can,
and a direct convolution."""

import contextlib
import dataclasses
import itertools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference.embed import PatchEmbedGradients, patch_embed, patch_embed_gradients
from ..reference.errors import PatchParityError
from ..reference.patches import pad_images, patchify
from ..reference.sequence import assemble_sequence
from ..reference.spec import PatchEmbedSpec
from ..reference.weights import PatchEmbedWeights
from .base import DTYPES, Backend, Implementation, Precision, nothing_held, only_ieee
from .computation import Computation, LoadedEmbedding, Operation, step_results
from .layouts import (
    CANONICAL,
    DENSE_CHANNELS_FIRST,
    DENSE_CHANNELS_LAST,
    NCHW,
    NHWC,
    images_to_layout,
    kernel_from_layout,
    kernel_to_layout,
)
from .pixels import SCALE, as_bytes, channel_statistics, unfolded


def usable_threads() -> int:
    """As many as NumPy's product uses: what its BLAS was told, or the cores that this process may
    run on."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    thread_limits = [
        os.environ[name] for name in BLAS_THREADS if os.environ.get(name, "").isdigit()
    ]
    return max(1, min([cores, *map(int, thread_limits)]))


BLAS_THREADS = (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS",
)
"""Variables by which the BLAS libraries that NumPy may be linked with are told how many threads to
use."""


def _taps(offset: tuple[int, ...]) -> Any:
    """The index of one row of a kernel, of all outputs."""
    return (slice(None), *offset)


class _Naive(LoadedEmbedding):
    """Reshape to (N, P²C) and matmul, as the reference has it."""

    def __init__(self, weights: PatchEmbedWeights, spec: PatchEmbedSpec, dtype: str) -> None:
        self.spec = spec
        self.dtype = np.dtype(dtype)
        # NumPy has no BLAS for 16-bit types: they are computed in float32 and rounded once.
        self.work = self.dtype if self.dtype in (np.float32, np.float64) else np.dtype(np.float32)
        self.assign(weights)

    def assign(self, weights: PatchEmbedWeights) -> None:
        self.weights = weights.astype(self.dtype).astype(self.work)

    def place(self, images: NDArray[Any]) -> NDArray[Any]:
        # formulations that set strides by hand would read whatever lies there
        self.spec.check_images(images)
        return np.ascontiguousarray(images, self.dtype)

    def call(self, inputs: NDArray[Any]) -> NDArray[Any]:
        return self._work_tokens(inputs).astype(self.dtype, copy=False)

    def synchronize(self, outputs: NDArray[Any]) -> None:
        """NumPy returns when it has computed."""

    def fetch(self, outputs: NDArray[Any]) -> NDArray[Any]:
        return outputs

    def gradients(self, images: NDArray[Any], grad_tokens: NDArray[Any]) -> PatchEmbedGradients:
        return self._rounded(
            patch_embed_gradients(images, self.weights, self.spec, grad_tokens, self.work)
        )

    def sequence(self, class_token: NDArray[Any], positions: NDArray[Any]) -> Operation | None:
        """As the reference assembles it, in the dtype under test (16-bit ones in float32, rounded
        once)."""
        weights = dataclasses.replace(
            self.weights, class_token=class_token, positions=positions
        ).astype(self.work)

        def function(inputs: NDArray[Any]) -> NDArray[Any]:
            tokens = self._work_tokens(inputs)
            return assemble_sequence(tokens, weights, self.spec).astype(self.dtype, copy=False)

        return Operation(self, function, lambda outputs: {"forward": outputs})

    def train_step(self, grad_tokens: NDArray[Any]) -> Operation | None:
        """Tokens, and the closed-form gradients of kernel and bias."""
        upstream = grad_tokens.reshape(-1, self.spec.embed_dim).astype(self.work)

        def function(inputs: NDArray[Any]) -> list[NDArray[Any]]:
            results = (*self._work_step(inputs, upstream), upstream.sum(axis=0))
            return [array.astype(self.dtype, copy=False) for array in results]

        return Operation(
            self,
            function,
            lambda outputs: step_results([array.copy() for array in outputs], CANONICAL, self.spec),
        )

    def _work_tokens(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Tokens in the dtype that is computed in."""
        return patch_embed(inputs, self.weights, self.spec, self.work)

    def _work_step(
        self, inputs: NDArray[Any], upstream: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Tokens and the kernel's gradient Gᵀ·X, from patches that are cut once."""
        spec, weights = self.spec, self.weights
        patches = (
            patchify(inputs, spec).astype(self.work, copy=False).reshape(-1, spec.patch_values)
        )
        tokens = patches @ weights.matrix.T
        if weights.bias is not None:
            tokens += weights.bias
        return tokens.reshape(spec.tokens_shape(inputs.shape[0])), (upstream.T @ patches).reshape(
            spec.kernel_shape
        )

    def _rounded(self, gradients: PatchEmbedGradients) -> PatchEmbedGradients:
        return PatchEmbedGradients(
            *(array.astype(self.dtype, copy=False) for array in vars(gradients).values())
        )


PIECE_BYTES = 5 * 2**20
"""Patches that `linear` copies and multiplies at a time. Larger pieces leave the caches between the
copy and the product; smaller ones make BLAS bring the matrix into its own order too often, and meet
more often. ViT-B/16 on two cores, in parts of NumPy's own product: batch 32 (19 MB of patches)
whole 0.94, in pieces of 8 images (4.8 MB) 0.99, of 4 0.96; batch 8 whole 0.95, in halves 0.92. That
was with BLAS's AVX2 kernels; with its AVX-512 ones the product takes half as long, the copy as long
as before, and batch 32 is as fast whole as in such pieces (0.91), batch 8 slower in halves (0.92
whole)."""

THREADED_COPY_BYTES = 2**21
"""Patches of which each thread copies a part. Handing work to a thread and waiting for it takes
some 50 µs, and one core copies 10 to 30 GB/s: half of a smaller copy is not worth it (ViT-B/16 on
two cores: at batch 1, 0.6 MB, threads cost 4% of the whole; of 4.8 MB they gain up to 2%).

That each thread also multiplies its own part, with a product of one thread, was tried: hardly
faster (0.93 and 0.96 of the product at batch 8 and 32; with OpenBLAS's AVX-512 kernels 0.93 and
0.93, against 0.92 and 0.90), and half as fast for a tenth of a second after any other product, for
so long BLAS's own idle threads spin. What is missing to 1 is the copy: 4.8 MB take 0.31 ms of one
core in whatever order, of which reading alone is 0.14, and the product 7.8."""


class _Linear(_Naive):
    """The same in pieces that stay in the caches: each a copy of its patches, whole rows of pixels
    at a time, into an array that is kept, and a product into another.

    Images are kept channels last, where a row of a patch is P·C values that lie together, in the
    image as in the patch. The patches have a column of ones behind them and the kernel the bias as
    its last row, so that the product adds the bias. The result is a buffer that the next call
    overwrites; `fetch` copies it.
    """

    image_layout, kernel_layout = NHWC, DENSE_CHANNELS_LAST
    piece_bytes = PIECE_BYTES

    def assign(self, weights: PatchEmbedWeights) -> None:
        super().assign(weights)
        kernel, bias = kernel_to_layout(self.weights.kernel, self.kernel_layout), self.weights.bias
        self.matrix = np.ascontiguousarray(
            kernel if bias is None else np.concatenate([kernel, bias[None]])
        )
        self.buffers: dict[tuple[int, int], tuple[NDArray[Any], NDArray[Any]]] = {}
        self.threads = usable_threads()
        # starts none before it is given something to do
        self.pool = ThreadPoolExecutor(max(1, self.threads - 1))

    def place(self, images: NDArray[Any]) -> NDArray[Any]:
        self.spec.check_images(images)
        return np.ascontiguousarray(images_to_layout(images, self.image_layout), self.dtype)

    def fetch(self, outputs: NDArray[Any]) -> NDArray[Any]:
        return outputs.copy()

    def _pieces(self, images: int, lead: int) -> list[tuple[slice, slice]]:
        """Images, and rows of their grids, that are embedded at once: several whole images, or a
        part of one; all about as large."""
        rows = max(
            1,
            self.piece_bytes
            // (math.prod(self.spec.grid[1:]) * len(self.matrix) * self.work.itemsize),
        )
        if rows >= lead:
            return [(part, slice(0, lead)) for part in _parts(images, rows // lead)]
        return [
            (slice(image, image + 1), part)
            for image in range(images)
            for part in _parts(lead, rows)
        ]

    def _embed(
        self, inputs: NDArray[Any], whole: bool = False
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Tokens `(B, N, D)`, and the patches `(rows, K)` of the last piece, behind them a column
        of ones if there is a bias; both arrays are kept.

        With `whole` there is but one piece.
        """
        spec, batch = self.spec, inputs.shape[0]
        row = math.prod(spec.grid[1:])
        windows = self._rows_of_images(self._padded(inputs))
        images, lead = windows.shape[:2]
        everything = [(slice(0, images), slice(0, lead))] if batch else []
        pieces = everything if whole or not batch else self._pieces(images, lead)
        most = max(
            ((part.stop - part.start) * (rows.stop - rows.start) * row for part, rows in pieces),
            default=0,
        )
        if (batch, most) not in self.buffers:
            room = np.ones((most, len(self.matrix)), self.work)
            self.buffers = {(batch, most): (room, np.empty(spec.tokens_shape(batch), self.work))}
        patches, tokens = self.buffers[batch, most]
        room, results = patches, tokens.reshape(images, lead * row, spec.embed_dim)
        for part, rows in pieces:
            source = windows[part, rows]
            patches = room[: source.shape[0] * source.shape[1] * row]
            self._copy(source, self._runs_of(patches[:, : spec.patch_values], source.shape))
            result = results[part, rows.start * row : rows.stop * row]
            np.matmul(patches, self.matrix, out=result.reshape(len(patches), spec.embed_dim))
        return tokens, patches

    def _copy(self, source: NDArray[Any], target: NDArray[Any]) -> None:
        """Copy patches, large ones in threads, of which this is one: NumPy lets go of the
        interpreter meanwhile."""
        threads = self.threads
        axis = 0 if len(source) >= threads else 1
        if threads == 1 or target.nbytes < THREADED_COPY_BYTES or source.shape[axis] < threads:
            np.copyto(target, source)
            return
        first_part, *others = zip(
            np.array_split(target, threads, axis),
            np.array_split(source, threads, axis),
            strict=True,
        )
        given = [self.pool.submit(np.copyto, *part) for part in others]
        np.copyto(*first_part)
        for done in given:
            done.result()

    def _runs_of(self, patches: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Patches `(rows, K)` as what windows of such a shape are copied to."""
        return patches.view(self._run()).reshape(shape)

    def _padded(self, inputs: NDArray[Any]) -> NDArray[Any]:
        images, padding = inputs.astype(self.work, copy=False), self.spec.effective_padding
        return np.ascontiguousarray(
            np.pad(images, ((0, 0), *padding, (0, 0))) if any(map(any, padding)) else images
        )

    def _run(self) -> np.dtype[np.void]:
        """A row of a patch, as one thing to copy: sixteen floats at a time are three times as fast
        as one by one, 48 eight times."""
        return np.dtype(
            (np.void, self.work.itemsize * self.spec.patch_size[-1] * self.spec.in_channels)
        )

    def _rows_of_images(self, images: NDArray[Any]) -> NDArray[Any]:
        """`(B, *grid, *patch[:-1])` views of rows of pixels; those of neighboring patches may
        overlap.

        Images whose rows of patches follow each other across images are one tall image: `(1,
        B·grid[0], ...)`.
        """
        spec = self.spec
        batch, *pixels, _ = images.strides
        steps = [stride * step for stride, step in zip(pixels, spec.stride, strict=True)]
        lead, *rest = spec.grid
        first = (1, len(images) * lead) if batch == lead * steps[0] else (len(images), lead)
        shape = (*first, *rest, *spec.patch_size[:-1])
        return np.ndarray(shape, self._run(), images, strides=(batch, *steps, *pixels[:-1]))

    def _work_tokens(self, inputs: NDArray[Any]) -> NDArray[Any]:
        tokens, _ = self._embed(inputs)
        return tokens

    def _work_step(
        self, inputs: NDArray[Any], upstream: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """In one piece: the kernel's gradient needs all patches."""
        tokens, patches = self._embed(inputs, whole=True)
        gradient = patches[:, : self.spec.patch_values].T @ upstream
        return tokens, kernel_from_layout(gradient, self.kernel_layout, self.spec)


def _parts(length: int, most: int) -> list[slice]:
    """Cut a length into as few parts of at most `most` as there can be, as equal as they can be."""
    count = -(-length // most)
    ends = [length * number // count for number in range(count + 1)] if count else []
    return [slice(begin, end) for begin, end in itertools.pairwise(ends)]


class _LinearChannelsFirst(_Linear):
    """The same from images as torch keeps them, where a row of a patch in one channel is what lies
    together."""

    image_layout, kernel_layout = NCHW, DENSE_CHANNELS_FIRST

    def _padded(self, inputs: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(pad_images(inputs.astype(self.work, copy=False), self.spec))

    def _run(self) -> np.dtype[np.void]:
        return np.dtype((np.void, self.work.itemsize * self.spec.patch_size[-1]))

    def _rows_of_images(self, images: NDArray[Any]) -> NDArray[Any]:
        """`(B, *grid, C, *patch[:-1])` views of rows of pixels in a channel."""
        spec = self.spec
        batch, channel, *pixels = images.strides
        steps = [stride * step for stride, step in zip(pixels, spec.stride, strict=True)]
        shape = (images.shape[0], *spec.grid, spec.in_channels, *spec.patch_size[:-1])
        return np.ndarray(
            shape, self._run(), images, strides=(batch, *steps, channel, *pixels[:-1])
        )


BLOCK_BYTES = 2**18
"""Patches that `block` copies at a time: a quarter of the smallest second-level caches of today's
servers (1 MiB; 512 KiB on older ones), so that patches, a part of the matrix and of the tokens are
still there when the product reads them."""


class _Block(_Linear):
    """As `linear`, some rows of the grid at a time: the copied patches never leave the second-level
    cache."""

    piece_bytes = BLOCK_BYTES


class _OfBytes(LoadedEmbedding):
    """What takes pixels as bytes has tokens, and neither gradients nor sequences."""

    def gradients(self, images: NDArray[Any], grad_tokens: NDArray[Any]) -> PatchEmbedGradients:
        return LoadedEmbedding.gradients(self, images, grad_tokens)

    def sequence(self, class_token: NDArray[Any], positions: NDArray[Any]) -> Operation | None:
        return None

    def train_step(self, grad_tokens: NDArray[Any]) -> Operation | None:
        return None


class _LinearBytes(_OfBytes, _Linear):
    """As `linear`, from bytes, which the copy of the patches casts: a row of a patch at a time is
    as fast as moving floats is, for a quarter of the bytes is read."""

    def place(self, images: NDArray[Any]) -> NDArray[Any]:
        self.spec.check_images(images)
        return np.ascontiguousarray(images_to_layout(as_bytes(images), self.image_layout))

    def _padded(self, inputs: NDArray[Any]) -> NDArray[Any]:
        return inputs  # sizes that pad are refused

    def _run(self) -> np.dtype[np.void]:
        return np.dtype((np.void, self.spec.patch_size[-1] * self.spec.in_channels))

    def _rows_of_images(self, images: NDArray[Any]) -> NDArray[Any]:
        """`(B, *grid, *patch[:-1], P·C)` views of bytes."""
        rows = super()._rows_of_images(images)
        shape, strides = (*rows.shape, rows.itemsize), (*rows.strides, 1)
        return np.ndarray(shape, np.uint8, images, strides=strides)

    def _runs_of(self, patches: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        return patches.reshape(shape)


class _NaiveBytes(_OfBytes, _Naive):
    """Bytes rescaled and normalized as users write it, then as `naive`."""

    def assign(self, weights: PatchEmbedWeights) -> None:
        super().assign(unfolded(weights))

    def place(self, images: NDArray[Any]) -> NDArray[Any]:
        self.spec.check_images(images)
        return np.ascontiguousarray(as_bytes(images))

    def _work_tokens(self, inputs: NDArray[Any]) -> NDArray[Any]:
        mean, std = channel_statistics(self.spec.in_channels, self.work, self.spec.spatial_axes)
        images = (inputs.astype(self.work) * self.work.type(SCALE) - mean) / std
        return super()._work_tokens(images)


class _DirectConvolution(_Naive):
    """The convolution's definition, one kernel row at a time: the windows' rows times that row of
    the kernel, added up."""

    def _rows(self, padded: NDArray[Any]) -> list[tuple[tuple[int, ...], NDArray[Any]]]:
        """For each offset of the kernel's leading axes, a view `(B, C, *grid, P_w)` of the pixels
        that it meets."""
        spec = self.spec
        *_, patch = spec.patch_size
        dense = np.lib.stride_tricks.sliding_window_view(padded, patch, axis=-1)
        *lead_steps, step = spec.stride
        *lead_grid, columns = spec.grid
        last = slice(0, (columns - 1) * step + 1, step)
        rows = []
        for offset in np.ndindex(*spec.patch_size[:-1]):
            lead = tuple(
                slice(o, o + (n - 1) * s + 1, s)
                for o, n, s in zip(offset, lead_grid, lead_steps, strict=True)
            )
            rows.append((offset, dense[(slice(None), slice(None), *lead, last)]))
        return rows

    def _flat(self, row: NDArray[Any]) -> NDArray[Any]:
        """`(B, C, *grid, P_w)` as a matrix `(B·N, P_w·C)`."""
        axes = self.spec.spatial_axes
        return row.transpose(0, *range(2, 2 + axes), 2 + axes, 1).reshape(
            -1, self.spec.patch_size[-1] * self.spec.in_channels
        )

    def _work_tokens(self, inputs: NDArray[Any]) -> NDArray[Any]:
        return self._accumulated(inputs, lambda offset, flat: None)

    def _work_step(
        self, inputs: NDArray[Any], upstream: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        spec = self.spec
        gradient = np.zeros_like(self.weights.kernel)

        def differentiate(offset: tuple[int, ...], flat: NDArray[Any]) -> None:
            gradient[_taps(offset)] = (upstream.T @ flat).reshape(
                spec.embed_dim, spec.patch_size[-1], -1
            )

        return self._accumulated(inputs, differentiate), gradient

    def _accumulated(
        self, inputs: NDArray[Any], visit: Callable[[tuple[int, ...], NDArray[Any]], None]
    ) -> NDArray[Any]:
        """Tokens, added up over the kernel's rows; `visit` sees the pixels that each row meets, as
        a matrix."""
        spec, kernel = self.spec, self.weights.kernel
        tokens = np.zeros((inputs.shape[0] * spec.num_patches, spec.embed_dim), self.work)
        for offset, row in self._rows(pad_images(inputs.astype(self.work, copy=False), spec)):
            flat = self._flat(row)
            tokens += flat @ kernel[_taps(offset)].reshape(spec.embed_dim, -1).T
            visit(offset, flat)
        if self.weights.bias is not None:
            tokens += self.weights.bias
        return tokens.reshape(spec.tokens_shape(inputs.shape[0]))

    def gradients(self, images: NDArray[Any], grad_tokens: NDArray[Any]) -> PatchEmbedGradients:
        spec = self.spec
        padded = pad_images(images.astype(self.work, copy=False), spec)
        upstream = grad_tokens.reshape(-1, spec.embed_dim).astype(self.work, copy=False)
        grad_padded = np.zeros_like(padded)
        grad_kernel = np.zeros_like(self.weights.kernel)
        patch, step, columns = spec.patch_size[-1], spec.stride[-1], spec.grid[-1]
        for (offset, row), (_, target) in zip(
            self._rows(padded), self._rows_of(grad_padded), strict=True
        ):
            taps = self.weights.kernel[_taps(offset)].reshape(spec.embed_dim, -1)
            grad_kernel[_taps(offset)] = (upstream.T @ self._flat(row)).reshape(
                spec.embed_dim, patch, -1
            )
            pulled = (upstream @ taps).reshape(images.shape[0], *spec.grid, patch, spec.in_channels)
            for column in range(patch):
                target[..., slice(column, column + (columns - 1) * step + 1, step)] += np.moveaxis(
                    pulled[..., column, :], -1, 1
                )
        inner = tuple(
            slice(before, before + size)
            for (before, _), size in zip(spec.effective_padding, spec.image_size, strict=True)
        )
        gradients = PatchEmbedGradients(
            grad_padded[(slice(None), slice(None), *inner)], grad_kernel, upstream.sum(axis=0)
        )
        return self._rounded(gradients)

    def _rows_of(self, padded: NDArray[Any]) -> list[tuple[tuple[int, ...], NDArray[Any]]]:
        """For each offset of the kernel's leading axes, a writable view `(B, C, *grid[:-1],
        W')`."""
        spec = self.spec
        rows = []
        for offset in np.ndindex(*spec.patch_size[:-1]):
            lead = tuple(
                slice(o, o + (n - 1) * s + 1, s)
                for o, n, s in zip(offset, spec.grid[:-1], spec.stride[:-1], strict=True)
            )
            rows.append((offset, padded[(slice(None), slice(None), *lead)]))
        return rows


class _Gemm(Computation):
    def __init__(self, rows: int, depth: int, columns: int, dtype: str) -> None:
        generator = np.random.default_rng(0)
        self.left = generator.standard_normal((rows, depth)).astype(dtype)
        self.right = generator.standard_normal((depth, columns)).astype(dtype)
        self.out = np.empty((rows, columns), dtype)

    def call(self, inputs: None) -> NDArray[Any]:
        return np.matmul(self.left, self.right, out=self.out)

    def synchronize(self, outputs: NDArray[Any]) -> None:
        """NumPy returns when it has computed."""


class _Copy(Computation):
    def __init__(self, values: int, dtype: str) -> None:
        self.source, self.target = np.ones(values, dtype), np.empty(values, dtype)

    def call(self, inputs: None) -> NDArray[Any]:
        np.copyto(self.target, self.source)
        return self.target

    def synchronize(self, outputs: NDArray[Any]) -> None:
        """NumPy returns when it has computed."""


class NumPyBackend(Backend):
    """NumPy itself, always installed."""

    name = "numpy"
    packages = ("numpy",)
    product_dtypes = ("float32", "float64")
    formulations = {
        "linear": (_Linear, NHWC, DENSE_CHANNELS_LAST),
        "naive": (_Naive, NCHW, CANONICAL),
        "conv2d": (_DirectConvolution, NCHW, CANONICAL),
        "linear_nchw": (_LinearChannelsFirst, NCHW, DENSE_CHANNELS_FIRST),
        "block": (_Block, NHWC, DENSE_CHANNELS_LAST),
        "linear_uint8": (_LinearBytes, NHWC, DENSE_CHANNELS_LAST),
        "naive_uint8": (_NaiveBytes, NCHW, CANONICAL),
    }
    implementations = tuple(
        Implementation(
            "numpy",
            formulation,
            "eager",
            images,
            kernel,
            dtypes=("float32",) if formulation == "naive_uint8" else DTYPES,
            narrow_gradients=False,
            differentiable=not formulation.endswith("_uint8"),
            variant=formulation not in ("linear", "naive", "conv2d"),
            customary=formulation in ("naive", "naive_uint8"),
            pixels="uint8" if formulation.endswith("_uint8") else "float",
            normalizes=formulation == "naive_uint8",
        )
        for formulation, (_, images, kernel) in formulations.items()
    )

    def usage(self, implementation: Implementation, spec: PatchEmbedSpec, batch: int) -> str:
        """`linear` of images that patches tile, on one thread; the others as patchparity has
        them."""
        plain = spec.tiles and not any(map(any, spec.effective_padding)) and spec.spatial_axes == 2
        if implementation.formulation != "linear" or not plain:
            return super().usage(implementation, spec, batch)
        (rows, columns), (height, breadth), width, values = (
            spec.grid,
            spec.patch_size,
            spec.embed_dim,
            spec.patch_values,
        )
        strips = batch * rows
        # the last is the longest
        step = _parts(strips, max(1, PIECE_BYTES // (columns * (values + 1) * 4)))[-1]
        return f"""\
import numpy as np

run = np.dtype((np.void, {breadth * spec.in_channels} * kernel.itemsize))  # a row of a patch, copied at once
matrix = np.concatenate([kernel, bias[None]])  # the product adds the bias
step = {step.stop - step.start}  # rows of patches at a time, so that they stay in the cache
patches = np.ones((step * {columns}, {values} + 1), kernel.dtype)
tokens = np.empty(({strips * columns}, {width}), kernel.dtype)  # overwritten by every call


def embed(images):  # {(batch, *spec.image_size, spec.in_channels)}, contiguous
    source = images.reshape({strips}, -1).view(run).reshape({strips}, {height}, {columns}).transpose(0, 2, 1)
    for first in range(0, {strips}, step):
        piece = source[first : first + step]
        part = patches[: len(piece) * {columns}]
        np.copyto(part[:, :{values}].view(run).reshape(piece.shape), piece)
        np.matmul(part, matrix, out=tokens[first * {columns} : first * {columns} + len(part)])
    return tokens.reshape({batch}, {spec.num_patches}, {width})
"""  # noqa: E501

    def devices(self) -> tuple[str, ...]:
        """NumPy computes on the CPU."""
        return ("cpu",)

    def environment(self, threads: int) -> dict[str, str]:
        """Thread counts of the BLAS libraries that NumPy may be linked with."""
        return dict.fromkeys(BLAS_THREADS, str(threads))

    def lacks(self, precision: Precision, device: str) -> str | None:
        """NumPy hands float32 to a BLAS that computes it as it is."""
        return only_ieee("NumPy", precision)

    def precision(self, precision: Precision) -> contextlib.AbstractContextManager[None]:
        """NumPy has no precision settings: it is always `ieee`."""
        return nothing_held(precision)

    def load(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> LoadedEmbedding:
        """Load the canonical weights, for `linear` in the order of its patches."""
        weights.check_spec(spec)
        if reason := self.refuses(implementation, spec):
            raise PatchParityError(reason)
        return self.formulations[implementation.formulation][0](weights, spec, dtype)

    def copy(self, values: int, dtype: str, device: str) -> Computation:
        """`np.copyto`, on one thread whatever was asked."""
        return _Copy(values, dtype)

    def cast_and_back(self, array: NDArray[Any]) -> NDArray[Any]:
        """`astype`."""
        return array.astype(np.float16).astype(np.float32)

    def gemm(self, rows: int, depth: int, columns: int, dtype: str, device: str) -> Computation:
        """`np.matmul` into a preallocated result."""
        return _Gemm(rows, depth, columns, dtype)


BACKENDS = (NumPyBackend(),)
