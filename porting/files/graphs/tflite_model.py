"""The tables of a TFLite file
(https://github.com/google-ai-edge/LiteRT/blob/main/tflite/converter/schema/schema.fbs): its
tensors, each with where its values lie, and its operators by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ....reference.errors import PatchParityError
from ..checkpoint import TensorInfo, dtype_of
from .flatbuffer import FlatBuffer, Table

TYPES = {
    0: "float32",
    1: "float16",
    2: "int32",
    3: "uint8",
    4: "int64",
    6: "bool",
    7: "int16",
    9: "int8",
    10: "float64",
    12: "uint64",
    15: "uint32",
    16: "uint16",
    17: "int4",
    18: "bfloat16",
    19: "int2",
    20: "uint4",
    21: "float8_e4m3fn",
    22: "float8_e5m2",
}
"""`TensorType` of the schema, as far as they are real numbers."""

PACKED = {"int4": 4, "uint4": 4, "int2": 2}
"""Types of which several lie in a byte, the first in its lowest bits; and the bits of one."""

NAMES = """
ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE
EMBEDDING_LOOKUP FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D
LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1 RELU6
RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS SKIP_GRAM CALL CUSTOM
EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND
TRANSPOSE MEAN SUB DIV SQUEEZE UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN
EXP TOPK_V2 SPLIT LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX
MINIMUM LESS NEG PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV
SPARSE_TO_DENSE TILE EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT
REDUCE_PROD REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV
REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU
SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE RANK ELU
REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE
NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM BATCH_MATMUL
PLACEHOLDER CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D IMAG REAL COMPLEX_ABS HASHTABLE
HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE
ASSIGN_VARIABLE BROADCAST_ARGS RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU
DYNAMIC_UPDATE_SLICE RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM
ATAN2 UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT STABLEHLO_LOGISTIC STABLEHLO_ADD
STABLEHLO_DIVIDE STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM STABLEHLO_RESHAPE STABLEHLO_CLAMP
STABLEHLO_CONCATENATE STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CONVOLUTION STABLEHLO_SLICE
STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE STABLEHLO_ABS STABLEHLO_AND STABLEHLO_COSINE
STABLEHLO_EXPONENTIAL STABLEHLO_FLOOR STABLEHLO_LOG STABLEHLO_MINIMUM STABLEHLO_NEGATE STABLEHLO_OR
STABLEHLO_POWER STABLEHLO_REMAINDER STABLEHLO_RSQRT STABLEHLO_SELECT STABLEHLO_SUBTRACT
STABLEHLO_TANH STABLEHLO_SCATTER STABLEHLO_COMPARE STABLEHLO_CONVERT STABLEHLO_DYNAMIC_SLICE
STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD STABLEHLO_IOTA STABLEHLO_DOT_GENERAL
STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT STABLEHLO_WHILE STABLEHLO_GATHER STABLEHLO_TRANSPOSE DILATE
STABLEHLO_RNG_BIT_GENERATOR REDUCE_WINDOW STABLEHLO_COMPOSITE STABLEHLO_SHIFT_LEFT STABLEHLO_CBRT
STABLEHLO_CASE
"""
"""`BuiltinOperator` of the schema."""

OPERATORS = NAMES.split()
"""The same, by number."""


@dataclass(frozen=True)
class Quantization:
    """How the integers of a tensor stand for real numbers: scale · (integer - zero point).

    Args:
        table: of the file, whose vectors are read when the values are.
        count: of scales: 1, or one for each index along `axis`.
        axis: of the scales.
        blocks: the tensors of scales and of zero points (-1 for none) and the length of a block,
            where there is a scale for each block along the last axis.
        strange: a way of its own, which is not read.
    """

    table: Table
    count: int
    axis: int
    blocks: tuple[int, int, int] | None = None
    strange: bool = False


@dataclass(frozen=True)
class Tensor:
    """One tensor.

    Args:
        number: in its subgraph.
        name: as the file has it, perhaps empty, perhaps that of another one too.
        shape: None for an extent that is open.
        dtype: NumPy's name, or empty for texts, handles and complex numbers.
        place: first byte and number of bytes of a constant.
        quantization: None where its numbers are what they are.
        strange: why its values are not read, in words; empty where they are.
    """

    number: int
    name: str
    shape: tuple[int | None, ...]
    dtype: str
    place: tuple[int, int] | None
    quantization: Quantization | None
    strange: str = ""

    @property
    def extents(self) -> tuple[int, ...]:
        """The shape of a tensor that has its values."""
        return tuple(extent if extent is not None else 0 for extent in self.shape)

    @property
    def empty(self) -> bool:
        """Whether it has no values, and nothing has to make it."""
        return 0 in self.shape


@dataclass(frozen=True)
class Operator:
    """One operator: name (`CUSTOM` with its own behind it), tensors by number, -1 for one that is
    left out; its options, and of which kind they are."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Table | None
    kind: int


class TfliteModel:
    """One subgraph of a file, read.

    Args:
        path: the file.
        buffer: its tables.
        tensors: by number.
        operators: in their order.
        inputs, outputs: numbers of the tensors that it is given, and that it gives.
        notes: what is to be told of the choice of the subgraph.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.notes = path, list[str]()
        self.buffer = FlatBuffer(path)
        root = self.buffer.root
        version = root.number(0, "I")
        if version != 3:
            raise PatchParityError(f"{path} is a TFLite file of version {version}, expected 3")
        if root.tables(8):
            self.notes.append("some of its values may lie in other files, which are not looked for")
        self.codes = [self._code(table) for table in root.tables(1)]
        self.buffers = root.vector(4, 4)
        graph = self._subgraph(root)
        count = graph.vector(0, 4)[1]
        self.inputs = self._numbers(graph, 1, count, optional=False)
        self.outputs = self._numbers(graph, 2, count, optional=False)
        self.tensors = [self._tensor(at, table) for at, table in enumerate(graph.tables(0))]
        self.operators = [self._operator(table, count) for table in graph.tables(3)]

    def _subgraph(self, root: Table) -> Table:
        """The one that is given an image; of several the one that serves."""
        graphs = root.tables(2)
        if not graphs:
            raise self.buffer.damaged("it holds no graph")
        entries = {table.text(2): table.number(4, "I") for table in root.tables(7)}
        if any(number >= len(graphs) for number in entries.values()):
            raise self.buffer.damaged("a signature is of a graph that is not there")
        ways = {
            name: number for name, number in entries.items() if self._takes_image(graphs[number])
        }
        if len(set(ways.values())) < 2 or "serving_default" in ways:
            chosen = "serving_default" if "serving_default" in ways else next(iter(ways), "")
            if len(entries) > 1 and chosen:
                others = ", ".join(name for name in entries if name != chosen)
                self.notes.append(
                    f"it has several signatures: {chosen} was read, and {others[:200]} was not"
                )
            return graphs[ways.get(chosen, 0)]
        raise PatchParityError(
            f"{self.path} has several signatures that take images ("
            f"{', '.join(ways)[:200]}), and none of them is serving_default: write a file of the "
            "one that is meant"
        )

    def _takes_image(self, graph: Table) -> bool:
        tensors = graph.tables(0)
        numbers = self._numbers(graph, 1, len(tensors), optional=False)
        return any(len(tensors[number].numbers(0, "i4")) >= 3 for number in numbers)

    def _numbers(self, table: Table, field: int, most: int, optional: bool) -> tuple[int, ...]:
        numbers = tuple(table.numbers(field, "i4").tolist())
        if any(not (-1 if optional else 0) <= number < most for number in numbers):
            raise self.buffer.damaged(f"a tensor of a number that is none of {most}")
        return numbers

    def _code(self, table: Table) -> str:
        # Numbers that came after 127 stand in the second field, smaller ones in either.
        number = max(table.number(0, "b"), table.number(3, "i"))
        if not 0 <= number < len(OPERATORS):
            return f"number_{number}"
        name = OPERATORS[number]
        return f"CUSTOM {table.text(1)}" if name == "CUSTOM" else name

    def _operator(self, table: Table, tensors: int) -> Operator:
        code = table.number(0, "I")
        if code >= len(self.codes):
            raise self.buffer.damaged(f"an operator of kind {code} of {len(self.codes)}")
        return Operator(
            self.codes[code],
            self._numbers(table, 1, tensors, optional=True),
            self._numbers(table, 2, tensors, optional=False),
            table.table(4) if self.codes[code] in OPERATORS else None,
            table.number(3, "B"),
        )

    def _tensor(self, number: int, table: Table) -> Tensor:
        extents = table.numbers(0, "i4").tolist()
        signature = table.numbers(7, "i4").tolist()
        code = table.number(1, "b")
        place = self._place(table.number(2, "I"))
        strange = ""
        if table.place(6):
            strange = "is kept sparse, which is not read"
        elif table.number(10, "I"):
            strange = "lies in another file, which is not read"
        if table.number(5, "?"):  # it changes from call to call
            place = None
        open_ones = signature if len(signature) == len(extents) and place is None else extents
        shape = tuple(extent if extent >= 0 else None for extent in open_ones)
        return Tensor(
            number,
            table.text(3),
            shape,
            TYPES.get(code, ""),
            place,
            self._quantization(table.table(4)),
            strange,
        )

    def _place(self, number: int) -> tuple[int, int] | None:
        begin, count = self.buffers
        if not number or number >= count:
            if number:
                raise self.buffer.damaged(f"a tensor has its values in buffer {number} of {count}")
            return None
        at = begin + 4 * number
        table = Table(self.buffer, at + self.buffer.number(at, "I"))
        data = table.vector(0, 1)
        if data[1]:
            return data
        offset, size = table.number(1, "Q"), table.number(2, "Q")
        if offset < 2 or not size:  # 1 is what writers set before they know
            return None
        self.buffer.require(offset, size)
        return offset, size

    def _quantization(self, table: Table | None) -> Quantization | None:
        if table is None:
            return None
        count = table.vector(2, 4)[1]
        kind, details = table.number(4, "B"), table.table(5)
        axis = table.number(6, "i")
        if kind == 2 and details is not None:
            blocks = (details.number(0, "i"), details.number(1, "i"), details.number(2, "i"))
            return Quantization(table, count, axis, blocks)
        if kind:
            return Quantization(table, count, axis, strange=True)
        return Quantization(table, count, axis) if count else None

    def info(self, tensor: Tensor) -> TensorInfo:
        """Shape and type of a constant.

        Raises:
            PatchParityError: more or fewer bytes than its shape takes.
        """
        try:
            info = TensorInfo(tensor.extents, tensor.dtype if tensor.dtype != "int2" else "int8")
        except ValueError as error:
            raise self.buffer.damaged(str(error)) from None
        count = int(np.prod(info.shape, dtype=object))
        bits = PACKED.get(tensor.dtype, 8 * dtype_of(info.dtype).itemsize)
        held = tensor.place[1] if tensor.place else 0
        if held != -(-count * bits // 8) and not tensor.strange:
            raise self.buffer.damaged(
                f"{tensor.name!r} of shape {info.shape} and type {tensor.dtype} has {held} bytes"
            )
        return info

    def values(self, tensor: Tensor) -> NDArray[Any]:
        """The numbers of a constant, as they lie in the file."""
        info = self.info(tensor)
        if tensor.strange:
            raise PatchParityError(f"{self.path}: {tensor.name!r} {tensor.strange}")
        if tensor.place is None:
            return np.zeros(info.shape, dtype_of(info.dtype))
        with self.path.open("rb") as file:
            file.seek(tensor.place[0])
            content = file.read(tensor.place[1])
        if tensor.dtype in PACKED:
            return unpacked(content, tensor.dtype, info.shape)
        return np.frombuffer(content, dtype_of(info.dtype)).reshape(info.shape)


def unpacked(content: bytes, dtype: str, shape: Sequence[int]) -> NDArray[Any]:
    """Values of two or four bits, the first in the lowest bits of a byte."""
    bits = PACKED[dtype]
    packed = np.frombuffer(content, np.uint8)
    parts = [(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    flat = np.stack(parts, -1).reshape(-1)[: int(np.prod(shape, dtype=np.int64))]
    if not dtype.startswith("u"):
        flat = ((flat ^ 2 ** (bits - 1)).astype(np.int16) - 2 ** (bits - 1)).astype(np.int8)
    kind = np.dtype(np.int8) if bits == 2 else np.dtype(getattr(ml_dtypes, dtype))
    return flat.astype(kind).reshape(tuple(shape))
