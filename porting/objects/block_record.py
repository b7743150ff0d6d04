"""What is seen of a live model's blocks while it runs, and what they are fed instead; no framework
is known here.

Laws: what a block was given and what it made are copied at once, for models may compute in place;
a block that is run twice, or out of turn, is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError

Given = Sequence[NDArray[Any]] | Callable[[int, NDArray[Any]], NDArray[Any]]
"""What blocks are fed: an array for each, or a function of the block's number and of what the block
before it made."""

Layout = Literal["batch first", "sequence first", "token major", "grid"]
"""How a model keeps its tokens: `(B, S, D)`, `(S, B, D)` (OpenAI's CLIP), `(B·S, D)` (Qwen2-VL), or
`(B, rows, columns, D)` (SAM)."""


def layout_of(shape: tuple[int, ...], batch: int, sequence_first: bool | None) -> Layout | None:
    """The layout of tokens of this shape; None where it is none.

    Args:
        shape: of what a block takes.
        batch: number of images, B.
        sequence_first: what the block's attention says of itself, which decides where the shape
            allows both; None where it says nothing.
    """
    if len(shape) == 4:
        return "grid" if shape[0] == batch else None
    if len(shape) == 2:
        return "token major" if shape[0] % batch == 0 else None
    if len(shape) != 3:
        return None
    first, second = shape[0] == batch, shape[1] == batch
    if first and second:
        return "sequence first" if sequence_first else "batch first"
    if first or second:
        return "batch first" if first else "sequence first"
    # several images as one sequence (Qwen2-VL in a batch of one)
    return "token major" if shape[0] == 1 and shape[1] % batch == 0 else None


def to_tokens(array: NDArray[Any], layout: Layout, batch: int) -> NDArray[Any]:
    """What a model keeps in a layout as tokens `(B, S, D)`, a copy."""
    if layout == "sequence first":
        array = array.swapaxes(0, 1)
    return np.array(array.reshape(batch, -1, array.shape[-1]), order="C")


def from_tokens(tokens: NDArray[Any], layout: Layout, shape: tuple[int, ...]) -> NDArray[Any]:
    """Tokens `(B, S, D)` as a model keeps them in a layout and of this shape."""
    if layout == "sequence first":
        tokens = tokens.swapaxes(0, 1)
    return np.ascontiguousarray(tokens).reshape(shape)


@dataclass
class BlockRecord:
    """What the hooks of a run write down, and what they feed.

    Args:
        names: of the blocks, in their order.
        batch: number of images, B.
        given: as in `run_blocks`.
        to_array: one of the framework's arrays as a NumPy array.
        to_framework: a NumPy array as one of the framework's, like another of it in dtype and
            place.
        sequence_first: as in `layout_of`.
        fed, left: what each block was given and made, so far.
        entered: what came to the first block.
        layout: how the model keeps its tokens, once it was seen.
        error: what was refused within a hook; frameworks may wrap it.
    """

    names: Sequence[str]
    batch: int
    given: Given | None
    to_array: Callable[[Any], NDArray[Any]]
    to_framework: Callable[[NDArray[Any], Any], Any]
    sequence_first: bool | None = None
    fed: list[NDArray[Any]] = field(default_factory=list)
    left: list[NDArray[Any]] = field(default_factory=list)
    entered: NDArray[Any] | None = None
    layout: Layout | None = None
    error: PatchParityError | None = None

    def enter(self, number: int, value: Any) -> Any | None:
        """What a block is to be given instead of `value`; None where that stays.

        Raises:
            PatchParityError: no tokens, a block out of turn, an array that does not fit.
        """
        with _Kept(self):
            if number != len(self.fed) or len(self.fed) != len(self.left):
                raise PatchParityError(
                    f"{self.names[number]} is run out of turn, behind {len(self.left)} blocks: "
                    "run_blocks takes models that run each block once, in their order"
                )
            own = self.tokens(value, f"{self.names[number]} is given")
            if number == 0:
                self.entered = own
            fed = self._asked(number, own)
            if fed is None:
                self.fed.append(own)
                return None
            assert self.layout is not None
            shape = tuple(value.shape)
            replaced = self.to_framework(from_tokens(fed, self.layout, shape), value)
            self.fed.append(to_tokens(self.to_array(replaced), self.layout, self.batch))
            return replaced

    def leave(self, number: int, value: Any) -> None:
        """What a block made."""
        with _Kept(self):
            made = self.tokens(value, f"{self.names[number]} gives")
            if made.shape != self.fed[number].shape:
                raise PatchParityError(
                    f"{self.names[number]} makes tokens {made.shape} of {self.fed[number].shape}: "
                    "expected blocks that keep the shape, as those of a ViT do"
                )
            self.left.append(made)

    def tokens(self, value: Any, what: str) -> NDArray[Any]:
        """One of the framework's arrays as tokens `(B, S, D)`, a copy.

        Raises:
            PatchParityError: an array that is none of tokens.
        """
        shape = tuple(getattr(value, "shape", ()))
        layout = self.layout or layout_of(shape, self.batch, self.sequence_first)
        if layout is None or not shape:
            raise PatchParityError(
                f"{what} {f'an array of shape {shape}' if shape else type(value).__name__}: "
                f"expected tokens (B, S, D) of {self.batch} images"
            )
        self.layout = layout
        return to_tokens(self.to_array(value), layout, self.batch)

    def complete(self) -> None:
        """Raise PatchParityError where a block was not run."""
        if len(self.left) < len(self.names):
            raise PatchParityError(
                f"the model does not run {self.names[len(self.left)]}, or not so that it can be "
                f"seen: {len(self.left)} of {len(self.names)} blocks were"
            )

    def _asked(self, number: int, own: NDArray[Any]) -> NDArray[Any] | None:
        if self.given is None:
            return None
        asked = self.given(number, own) if callable(self.given) else self.given[number]
        fed = np.asarray(asked)
        if fed.shape != own.shape:
            raise PatchParityError(
                f"given[{number}] of shape {fed.shape}: {self.names[number]} takes tokens "
                f"{own.shape}"
            )
        return fed


class _Kept:
    """Keeps what is refused inside, for frameworks raise other errors of it."""

    def __init__(self, record: BlockRecord) -> None:
        self.record = record

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, PatchParityError):
            self.record.error = error
