"""What a live model gives behind its last block: told by what its norms and matrices take and make,
and by what the model returns; no framework is known here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .block_record import BlockRecord, to_tokens


@dataclass
class Ending:
    """What is seen behind the blocks.

    Args:
        record: that of the blocks.
        tokens, pooled, output: as in `BlockRun`, once it is concluded.
        normed: the tokens behind the final norm.
        fields: what parts of the model returned under names, the outermost last.
        heads: what entered each matrix, and what it made; of what is no matrix, as if None entered.
    """

    record: BlockRecord
    tokens: NDArray[Any] | None = None
    pooled: NDArray[Any] | None = None
    output: NDArray[Any] | None = None
    normed: NDArray[Any] | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    heads: list[tuple[Any, Any]] = field(default_factory=list)

    @property
    def begun(self) -> bool:
        """Whether the last block was left."""
        return len(self.record.left) == len(self.record.names)

    def see_norm(self, value: Any, made: Any) -> None:
        """A norm, or what changes nothing: the final one takes just what the last block made."""
        if self.normed is None and self.begun:
            tokens = self.as_tokens(value)
            if tokens is not None and np.array_equal(tokens, self.record.left[-1]):
                self.normed = self.as_tokens(made)

    def see_head(self, value: Any, made: Any) -> None:
        """A matrix behind the blocks."""
        if self.begun:
            self.heads.append((value, made))

    def see_pool(self, made: Any) -> None:
        """A part that pools: what a model gives that ends with it has no head."""
        if self.begun:
            self.heads.append((None, made))

    def see_fields(self, made: Any) -> None:
        """What a part of the model returned under names."""
        if self.begun:
            for name in ("last_hidden_state", "pooler_output"):
                if (value := _field(made, name)) is not None:
                    self.fields[name] = value

    def as_tokens(self, value: Any) -> NDArray[Any] | None:
        """One of the framework's arrays as tokens of the blocks' shape; None where it is none."""
        shape = tuple(getattr(value, "shape", ()))
        expected, record = self.record.left[-1].shape, self.record
        if record.layout == "sequence first" and shape == (expected[1], expected[0], expected[2]):
            return to_tokens(record.to_array(value), record.layout, record.batch)
        if shape[-1:] != expected[-1:] or np.prod(shape) != np.prod(expected):
            return None
        return np.array(record.to_array(value).reshape(expected))

    def two_axes(self, value: Any) -> NDArray[Any] | None:
        """One of the framework's arrays, where it has a row for each image."""
        shape = tuple(getattr(value, "shape", ()))
        fits = len(shape) == 2 and shape[0] == self.record.batch
        return np.array(self.record.to_array(value)) if fits else None

    def conclude(self, result: Any) -> None:
        """Sort what the model returned, and what was seen on the way, into tokens, pooled and
        output."""
        fields, pooler = self.fields, _field(result, "pooler_output")
        inner = fields.get("pooler_output")
        final = next(
            (value for name in FINAL if (value := _field(result, name)) is not None),
            result if hasattr(result, "shape") else None,
        )
        if final is None and pooler is not None and inner is not None and pooler is not inner:
            final = pooler  # transformers' get_image_features puts the projection there
        last = _field(result, "last_hidden_state")
        last = fields.get("last_hidden_state") if last is None else last
        if last is None and len(getattr(final, "shape", ())) == 3:
            last = final  # the model gives its tokens, whatever its norm made
        self.tokens = self.normed if last is None else self.as_tokens(last)
        if self.tokens is None and len(getattr(final, "shape", ())) > 2:
            self.tokens = self.as_tokens(final)
            if self.tokens is None and final is not None and len(final.shape) == 3:
                self.tokens = np.array(self.record.to_array(final))
        self.output = self.two_axes(final)
        self.pooled = self.two_axes(pooler if inner is None else inner)
        entered = [value for value, made in self.heads if made is final and final is not None]
        if entered and entered[-1] is None:  # no head
            self.pooled, self.output = self.output, None
        elif entered:
            self.pooled = self.two_axes(entered[-1])


FINAL = ("logits", "image_embeds")
"""How models call what their head makes."""


def _field(result: Any, name: str) -> Any:
    """What is returned under a name, of a mapping; None without."""
    return result.get(name) if isinstance(result, Mapping) else None
