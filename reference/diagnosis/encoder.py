"""What is wrong with an encoder? Each block is fed with the reference's own input, so that nothing
of an earlier one reaches it, and every mistake of the catalogue is made on purpose and compared."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from ..answer import Answer
from ..encoder import NOWHERE, Places
from ..encoder_case import EncoderCase
from ..encoder_weights import EncoderSpec, EncoderWeights
from ..errors import PatchParityError, require_array, require_choice
from ..pipeline import Array
from .block_search import Explained, Judge
from .encoder_words import Finding, grouped

DTYPES = ("float16", "bfloat16", "float32", "float64")
"""Types of blocks that can be judged."""


@dataclass(frozen=True, eq=False)
class MeasuredBlocks:
    """What a model made, block by block.

    Args:
        given: what each block was given, shape `(B, S, D)` each: the reference's own input of it,
            in the values that the model's type could hold.
        left: what the model's block made of that, shape unchanged.
        end_given: what the end was given, `(B, S, D)`, or None where it was not measured.
        tokens, pooled, output: what the end made of that, as `Encoded` has them; None of what was
            not measured.

    Examples:
        >>> import numpy as np
        >>> import patchparity
        >>> from patchparity.reference.diagnosis.encoder import MeasuredBlocks
        >>> weights = patchparity.initialize_encoder(12, depth=2, mlp_width=20, seed=0)
        >>> tokens = np.random.default_rng(0).normal(size=(2, 5, 12))
        >>> left = tuple(patchparity.encode_blocks(tokens, weights, patchparity.EncoderSpec(3)))
        >>> len(MeasuredBlocks((tokens, left[0]), left).left)
        2
    """

    given: tuple[Array, ...]
    left: tuple[Array, ...]
    end_given: Array | None = None
    tokens: Array | None = None
    pooled: Array | None = None
    output: Array | None = None

    def __post_init__(self) -> None:
        if len(self.given) != len(self.left):
            raise PatchParityError(
                f"{len(self.given)} inputs and {len(self.left)} outputs of blocks: expected one "
                "of each for every block"
            )
        for number, (given, left) in enumerate(zip(self.given, self.left, strict=True)):
            require_array(f"the input of block {number}", given)
            require_array(f"the output of block {number}", left)
            if given.ndim != 3 or given.shape != left.shape or not given.size:
                raise PatchParityError(
                    f"block {number} made {left.shape} of {given.shape}: expected (B, S, D) of the "
                    "same shape"
                )
        if self.end_given is None and self.at_end():
            names = ", ".join(self.at_end())
            raise PatchParityError(f"{names} of an end without `end_given`, what it was given")

    def at_end(self) -> dict[str, Array]:
        """What was measured behind the last block, by name."""
        found = {name: getattr(self, name) for name in ("tokens", "pooled", "output")}
        return {name: each for name, each in found.items() if each is not None}


@dataclass(frozen=True, repr=False)
class EncoderDiagnosis(Answer):
    """What is wrong with an encoder.

    Args:
        correct: whether every block, and the end, lies within its bound.
        status: `correct`; that of the first wrong thing: `unique`, `tied` (several explain it) or
            `unknown` (nothing of the catalogue does).
        findings: what is wrong, the first wrong block's first.
        explanation: the first of them, in a sentence.
        mend: a line, empty if there is nothing to mend or nothing known.
        evidence: `dtype`, and how far off each block is, as a share of its bound: `over`, and
            `end_over` by name.
    """

    correct: bool
    status: Literal["correct", "unique", "tied", "unknown"]
    findings: tuple[Finding, ...] = ()
    explanation: str = ""
    mend: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """What is wrong, how to mend it, what explains it as well."""
        if self.correct:
            return [f"{self.status}: {self.explanation}"]
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.status}: {finding.explanation}")
            lines += [f"mend: {finding.mend}"] if finding.mend else []
            lines += [
                f"also possible ({', '.join(ids)}): {words}"
                for ids, words in zip(finding.also, finding.also_told, strict=True)
            ]
        return lines

    @property
    def ok(self) -> bool:
        """Whether the encoder is correct."""
        return self.correct

    def to_dict(self) -> dict[str, Any]:
        """Return the diagnosis as plain data, ready for JSON."""
        return {
            "correct": self.correct,
            "status": self.status,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "explanation": self.explanation,
            "mend": self.mend,
            "evidence": self.evidence,
        }


def diagnose_encoder(
    measured: MeasuredBlocks,
    weights: EncoderWeights,
    spec: EncoderSpec,
    places: Places = NOWHERE,
    *,
    dtype: str = "float32",
    pairs: bool = True,
) -> EncoderDiagnosis:
    """Say which known mistake explains what an encoder's blocks made, and in which block.

    Args:
        measured: what each block made of the reference's own input.
        weights: what the model should hold, in the values that it stores.
        spec: what was declared.
        places: rotary positions and windows, where there are some.
        dtype: that in which the model computes; blocks are judged at its precision.
        pairs: whether pairs of mistakes are made too, where no single one explains a block: some
            thousand runs of one block on one sample.

    Raises:
        PatchParityError: a type that cannot be judged; inputs of another width; an end that was
            measured and that the weights do not have.

    Examples:
        >>> import dataclasses
        >>> import numpy as np
        >>> import patchparity
        >>> from patchparity.reference.diagnosis.encoder import MeasuredBlocks, diagnose_encoder
        >>> weights = patchparity.initialize_encoder(12, depth=2, mlp_width=20, seed=0)
        >>> spec = patchparity.EncoderSpec(3)
        >>> tokens = np.random.default_rng(0).normal(size=(2, 5, 12)).astype(np.float32)
        >>> given = [tokens, *patchparity.encode_blocks(tokens, weights, spec)][:2]
        >>> wrong = dataclasses.replace(spec, activation="quick-gelu")
        >>> left = [next(patchparity.encode_blocks(x, patchparity.EncoderWeights((b,)), wrong))
        ...         for x, b in zip(given, weights.blocks)]
        >>> diagnose_encoder(MeasuredBlocks(tuple(given), tuple(left)), weights, spec)
        unique: all blocks: the activation is quick GELU, exact GELU was declared
        mend: set the activation, which no tensor holds: GELU is exact in torch, tanh in JAX, \
quick in OpenAI's CLIP
    """
    require_choice("dtype", dtype, DTYPES)
    if not weights.blocks:
        raise PatchParityError("weights without blocks: there is nothing to hold a model against")
    _require_width(measured, weights)
    case = EncoderCase.of(weights, spec, places)
    judge = Judge(case, measured.given, measured.left, dtype, pairs)
    causes = judge.blocks()
    end = _end(judge, measured)
    evidence = {
        "dtype": dtype,
        "over": [float(over) for over in judge.over],
        "end_over": {name: float(over) for name, over in judge.end_over.items()},
    }
    findings = grouped(judge, causes, end)
    if not findings:
        behind = ", and the end," if measured.at_end() else ""
        words = f"all {len(measured.left)} blocks{behind} are correct in {dtype}"
        if unseen := _unseen(measured, weights):
            words += f"; not measured: {', '.join(unseen)}"
        return EncoderDiagnosis(True, "correct", explanation=words, evidence=evidence)
    first = findings[0]
    return EncoderDiagnosis(False, first.status, findings, first.explanation, first.mend, evidence)


def _unseen(measured: MeasuredBlocks, weights: EncoderWeights) -> list[str]:
    """What the weights have behind the last block, and no output was given of."""
    tokens, pooled, output = measured.tokens, measured.pooled, measured.output
    behind = (
        ("the final norm", weights.final_norm, (tokens, pooled, output)),
        ("attention pooling", weights.pool, (pooled, output)),
        ("the norm of what is pooled", weights.pooled_norm, (pooled, output)),
        ("the pooler", weights.pooler, (pooled, output)),
        ("the head", weights.head, (output,)),
    )
    return [
        words
        for words, part, seen in behind
        if part is not None and all(array is None for array in seen)
    ]


def _end(judge: Judge, measured: MeasuredBlocks) -> Explained | None:
    """What explains the end, or None where it is right or was not measured."""
    if measured.end_given is None or not measured.at_end():
        return None
    return judge.end(measured.end_given, measured.at_end())


def _require_width(measured: MeasuredBlocks, weights: EncoderWeights) -> None:
    width = weights.blocks[0].attention.query.weight.shape[1]
    for number, given in enumerate(measured.given):
        if given.shape[2] != width:
            raise PatchParityError(
                f"block {number} was given {given.shape}: the weights take a width of {width}"
            )
