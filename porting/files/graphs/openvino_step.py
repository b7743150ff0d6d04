"""One layer of OpenVINO on its way: what it is given, and what it says of itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .openvino_model import TYPES, Layer, OpenVinoModel, Place, numbers_of
from .translation import ONNX_TYPES, Translation

Result = str | tuple[str, ...] | None
"""Values that stand for the outputs; None where a layer is not translated."""

PRECISIONS = {"FP64": "float64", "FP32": "float32", "FP16": "float16", "BF16": "bfloat16"}
"""Types of ports whose values are real numbers."""

FLOATS = (*PRECISIONS.values(), "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float4_e2m1fn")
"""Types of constants that are real numbers."""

MOST_NUMBERS = 64
"""Numbers of a constant that says axes, an order or a shape, at most."""


LARGEST = 2**31
"""What integers of attributes are below: axes, strides and counts."""

SHAPED = ("Squeeze", "Unsqueeze")
"""Operations that change nothing but the shape."""


def _range(ends: list[list[int] | None]) -> list[int] | None:
    """The integers from a first to a last, by a step."""
    single = [end[0] for end in ends if end is not None and len(end) == 1]
    if len(single) != 3 or not single[2]:
        return None
    found = range(*single)
    return list(found) if len(found) <= MOST_NUMBERS else None


class UntranslatedError(Exception):
    """A layer that keeps its own name."""


class OpenVino(Translation):
    """A model that is being translated.

    Args:
        model: its layers.
        values: names of the values, by the ports that they come out of; real numbers are float32,
            whatever the file keeps or rounds them to.
        reals: ports whose values are real numbers.
        fixed: ports whose values follow from constants alone.
        known: the layers of constants, by their ports.
        made: those of operations.
    """

    def __init__(self, model: OpenVinoModel) -> None:
        super().__init__()
        self.model = model
        self.values: dict[Place, str] = {}
        self.reals: set[Place] = set()
        self.fixed: set[Place] = set()
        self.known: dict[Place, Layer] = {}
        self.made: dict[Place, Step] = {}


class Step:
    """One layer.

    Args:
        ir: the translation.
        layer: what the file says of it.
    """

    def __init__(self, ir: OpenVino, layer: Layer) -> None:
        self.ir, self.layer, self.hint = ir, layer, layer.name
        self.sources = [ir.model.source(layer, place) for place in range(len(layer.inputs))]

    @property
    def count(self) -> int:
        """How many inputs it has."""
        return len(self.sources)

    @property
    def outs(self) -> int:
        """How many outputs it has."""
        return len(self.layer.outputs)

    @property
    def fixed(self) -> bool:
        """Whether what it gives follows from constants alone."""
        return bool(self.sources) and all(source in self.ir.fixed for source in self.sources)

    def given(self, place: int) -> bool:
        """Whether it has an input there."""
        return place < self.count and self.sources[place] is not None

    def source(self, place: int) -> Place:
        """The port that an input comes from."""
        source = self.sources[place] if place < self.count else None
        if source is None:
            raise UntranslatedError
        return source

    def value(self, place: int) -> str:
        """An input."""
        return self.ir.values[self.source(place)]

    def all_values(self) -> list[str]:
        """All inputs."""
        return [self.value(place) for place in range(self.count)]

    def constant(self, place: int) -> Layer | None:
        """The constant that an input is."""
        return self.ir.known.get(self.source(place))

    def numbers(self, place: int, deep: int = 4) -> list[int] | None:
        """The integers of a small constant, whatever its shape, or of a range between constants;
        None where they are computed."""
        layer, made = self.constant(place), self.ir.made.get(self.source(place))
        if made and deep and made.layer.kind in SHAPED:
            return made.numbers(0, deep - 1)
        if made and deep and made.layer.kind == "Range":
            return _range([made.numbers(each, deep - 1) for each in range(made.count)])
        if layer is None or self.ir.model.element_type(layer) not in ("i32", "i64", "u64", "u32"):
            return None
        if int(np.prod(self.ir.model.info(layer).shape, dtype=object)) > MOST_NUMBERS:
            return None
        return [int(number) for number in self.ir.model.values(layer).reshape(-1)]

    def axes(self, place: int) -> list[int]:
        """The integers of a small constant.

        Raises:
            UntranslatedError: where they are computed.
        """
        found = self.numbers(place)
        if found is None:
            raise UntranslatedError
        return found

    def long(self, place: int, flat: bool = True) -> str:
        """An input of integers as int64; flat: as a vector, where it is a constant."""
        found = self.numbers(place) if flat else None
        return self.integers(found) if found is not None else self.cast(self.value(place), "int64")

    def rank(self, place: int) -> int:
        """How many axes an input has."""
        return len(self.layer.inputs[place].shape) if place < self.count else 0

    def shape(self, place: int) -> list[int | None]:
        """The shape of an input."""
        return self.layer.inputs[place].shape if place < self.count else []

    def real(self) -> bool:
        """Whether what it gives are real numbers."""
        return bool(self.outs) and self.layer.outputs[0].precision in PRECISIONS

    def text(self, name: str, default: str = "") -> str:
        """An attribute."""
        return self.layer.data.get(name, default).lower()

    def flag(self, name: str, default: bool = False) -> bool:
        """An attribute that is true or false."""
        found = self.text(name, str(default))
        if found not in ("true", "false", "1", "0"):
            raise UntranslatedError
        return found in ("true", "1")

    def number(self, name: str, default: int | None = None) -> int:
        """An attribute that is an integer."""
        found = self.list(name)
        if not found and default is not None:
            return default
        if len(found) != 1:
            raise UntranslatedError
        return found[0]

    def decimal(self, name: str, default: float | None = None) -> float:
        """An attribute that is a real number."""
        if default is not None and name not in self.layer.data:
            return default
        try:
            return float(self.layer.data[name])
        except (KeyError, ValueError):
            raise UntranslatedError from None

    def list(self, name: str) -> list[int]:
        """An attribute of integers.

        Raises:
            UntranslatedError: others, or larger ones than sizes and axes are.
        """
        try:
            found = numbers_of(self.layer.data.get(name, ""))
        except ValueError:
            raise UntranslatedError from None
        if any(abs(number) >= LARGEST for number in found):
            raise UntranslatedError
        return found

    def one(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Write a node of one output."""
        return self.ir.one(op, *inputs, hint=self.hint, **attributes)

    def several(self, op: str, inputs: Sequence[str], **attributes: Any) -> tuple[str, ...]:
        """Write a node of as many outputs as the layer has."""
        return self.ir.several(op, inputs, [self.hint] * self.outs, **attributes)

    def integers(self, values: Sequence[int]) -> str:
        """A vector of int64."""
        return self.ir.integers(values, self.hint)

    def scalar(self, value: float) -> str:
        """A real number that is not of the file."""
        return self.ir.value(np.array(value, np.float32), self.hint)

    def cast(self, value: str, dtype: str) -> str:
        """A value in another type."""
        if dtype not in ONNX_TYPES:
            raise UntranslatedError
        return self.ir.cast(value, dtype, self.hint)

    def transpose(self, value: str, order: Sequence[int]) -> str:
        """A value with its axes in another order."""
        return self.ir.transpose(value, order, self.hint)

    def converted(self) -> str:
        """An input as what the layer is said to give: real numbers stay as they are."""
        kind = TYPES.get(self.text("destination_type"), "")
        if kind in FLOATS:
            if self.source(0) not in self.ir.reals:
                return self.cast(self.value(0), "float32")
            if not self.fixed and kind in ("float16", "bfloat16"):
                self.ir.note(
                    f"it rounds to {kind} on the way, which OpenVINO itself does or leaves out by "
                    "the device, and is left out here"
                )
            return self.value(0)
        return self.cast(self.value(0), kind)
