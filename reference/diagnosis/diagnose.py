"""Which mistake explains an output? Every mistake of the catalogue, then every pair, is made on
purpose and compared."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..answer import Answer
from ..errors import PatchParityError
from ..mistakes import CATALOGUE
from ..pipeline import Pipeline
from ..spec import PatchEmbedSpec
from ..weights import PatchEmbedWeights
from .fit import Cause
from .precision import cut_off, is_cut, is_precision, lower_precision
from .search import Search

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Types of tokens that can be diagnosed."""


@dataclass(frozen=True, repr=False)
class Diagnosis(Answer):
    """What is wrong with an output.

    Args:
        correct: whether it lies within the bound of the correct one.
        status: `correct`; `unique` (one simplest explanation); `tied` (several equally simple
            ones); `unknown`.
        mistakes: ids of the simplest explanation, in the order in which they act; empty if correct
            or unknown.
        also: the others that explain it as well.
        explanation: a sentence.
        mend: a line, empty if there is nothing to mend or nothing known.
        evidence: what was measured: shapes, error over bound, effective bits, and for an unknown
            one what can be proved.
    """

    correct: bool
    status: Literal["correct", "unique", "tied", "unknown"]
    mistakes: tuple[str, ...] = ()
    also: tuple[tuple[str, ...], ...] = ()
    explanation: str = ""
    mend: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """What explains the output, how to mend it, and what explains it as well."""
        lines = [f"{self.status}: {self.explanation}"]
        lines += [f"mend: {self.mend}"] if self.mend else []
        for other in self.also:
            told = "; and ".join(CATALOGUE[name].explanation for name in other)
            lines.append(f"also possible ({', '.join(other)}): {told}")
        return lines

    @property
    def ok(self) -> bool:
        """Whether the output is correct."""
        return self.correct

    def to_dict(self) -> dict[str, Any]:
        """Return the diagnosis as plain data, ready for JSON."""
        return {
            "correct": self.correct,
            "status": self.status,
            "mistakes": list(self.mistakes),
            "also": [list(mistakes) for mistakes in self.also],
            "explanation": self.explanation,
            "mend": self.mend,
            "evidence": self.evidence,
        }


def diagnose(
    images: NDArray[Any],
    weights: PatchEmbedWeights,
    tokens: NDArray[Any],
    spec: PatchEmbedSpec,
    *,
    pairs: bool = True,
) -> Diagnosis:
    """Say which known mistake, or which pair of mistakes, explains an output.

    Args:
        images: shape `(B, C, H, W)`.
        weights: canonical. Where they hold prefix tokens or positions and `tokens` has as many rows
            as the whole sequence, the output is taken for the sequence.
        tokens: what the implementation gave, any shape; judged at the precision of its dtype, by
            the deterministic bound.
        spec: the sizes.
        pairs: whether pairs of mistakes are made too; there are some 800, each as costly as the
            embedding itself.

    Raises:
        PatchParityError: images or weights that do not fit the spec, or hold NaN or infinite
            values; an output with no values, or of no real floating-point type.

    Examples:
        >>> import numpy as np
        >>> import patchparity
        >>> spec = patchparity.PatchEmbedSpec((12, 20), 4, 3, 10)  # image, patch, channels, width
        >>> weights = patchparity.initialize_weights(spec, seed=0)
        >>> images = np.random.default_rng(0).standard_normal((2, 3, 12, 20))
        >>> wrong = patchparity.patch_embed(images[:, ::-1], weights, spec, np.float32)
        >>> patchparity.diagnose(images.astype(np.float32), weights, wrong, spec)
        unique: the channels were read in reverse, BGR for RGB
        mend: reverse the channel axis of the images: images[:, ::-1], or images.flip(1) of torch
    """
    _require_diagnosable(images, weights, tokens, spec)
    if (
        tokens.dtype == np.float64
        and images.dtype == np.float32
        and (tokens == tokens.astype(np.float32)).all()
    ):
        # float32 results that were saved as float64; judged as what they are
        tokens = tokens.astype(np.float32)
    if images.dtype.itemsize < 4 or images.dtype.kind not in "fV":
        images = images.astype(np.float32)  # exact, and it can be scaled by 255
    sequence_rows = spec.num_patches + weights.num_prefix_tokens
    extended = _is_extended(weights)
    to_sequence = extended and (
        tokens.ndim < 2
        or sequence_rows in tokens.shape[1:]
        # some of its prefix tokens may be missing
        or (tokens.ndim == 3 and spec.num_patches < tokens.shape[1] < sequence_rows)
    )
    # The pattern of the mistake is in the values, not in their type: all candidates are computed
    # from the same rounded data.
    search = Search(Pipeline(images, weights, spec, to_sequence), tokens)
    evidence = {
        "shape": list(tokens.shape),
        "expected_shape": list(search.correct.shape),
        "dtype": tokens.dtype.name,
        **search.measure(),
    }
    if is_cut(search):
        return _explained([cut_off(tokens.dtype)], evidence)
    if search.explains(search.pipeline, search.correct):
        if causes := search.other_epsilon():
            return _explained(causes, evidence)
        words = "the output is correct"
        if extended and not to_sequence:
            words += ": the tokens, to which prefix tokens and positions are not added"
        return Diagnosis(True, "correct", explanation=words, evidence=evidence)
    if search.right_in_its_type():
        kind = tokens.dtype.name
        words = f"the output is correct: of images and weights in {kind}, the type of the tokens"
        return Diagnosis(True, "correct", explanation=words, evidence=evidence)
    searches: list[Callable[[], list[Cause]]] = [
        search.singles,
        lambda: _imprecise_or_fitted(search),
        search.fitted,
    ]
    if pairs:
        searches += [
            search.pairs,
            search.pairs_with_forms,
            search.imprecise_forms,
            search.both_fitted,
        ]
    searches.append(lambda: search.fitted(vague=True))
    for find in searches:
        if causes := find():
            return _explained(causes, evidence)
    evidence.update(search.provable())
    nearest = search.nearest() if pairs else ""
    return Diagnosis(
        False, "unknown", explanation=f"{_unknown(evidence)}{nearest}", evidence=evidence
    )


def _imprecise_or_fitted(search: Search) -> list[Cause]:
    """Lower precisions that explain the output, or what leaves nearly nothing of its errors: a
    factor of 0.998 makes errors as bfloat16 does, and rounding leaves a good part of them to any
    factor."""
    found = lower_precision(search)
    if not found:
        return []
    # Sums in 16 bits and an output in 16 bits look alike: whatever halves the error is likelier.
    sums = all(cause.mistakes[0].startswith("accumulate") for cause in found)
    coarse = sums and search.narrow.itemsize <= 2
    return search.fitted(0.5 if coarse else LEFT_OF_ROUNDING) or found


LEFT_OF_ROUNDING = 0.1
"""Share of an output's errors that a fit leaves where they are no rounding's: the random part of
what truncation does, which no factor takes away, is a third and more."""


def _require_diagnosable(
    images: NDArray[Any], weights: PatchEmbedWeights, tokens: NDArray[Any], spec: PatchEmbedSpec
) -> None:
    spec.check_images(images)
    weights.check_spec(spec)
    if not tokens.size:
        raise PatchParityError(f"tokens of shape {tokens.shape}: there is nothing to diagnose")
    if tokens.dtype.name not in FLOATS:
        raise PatchParityError(
            f"tokens of dtype {tokens.dtype}: expected one of {', '.join(FLOATS)}"
        )
    for name, array in (("images", images), ("kernel", weights.kernel), ("bias", weights.bias)):
        if array is not None and (np.iscomplexobj(array) or array.dtype.kind in "OSU"):
            raise PatchParityError(f"{name} of dtype {array.dtype}: expected real numbers")
        if array is not None and (wrong := int((~np.isfinite(array.astype(np.float64))).sum())):
            raise PatchParityError(
                f"{name} of shape {array.shape} hold {wrong} NaN or infinite values: no output of "
                "these can be diagnosed"
            )
    if not images.size:
        raise PatchParityError(f"images of shape {images.shape}: there is nothing to diagnose")


def _is_extended(weights: PatchEmbedWeights) -> bool:
    """Whether something stands around the projection: prefix tokens, positions, norms."""
    around = (weights.positions, weights.patch_norm, weights.token_norm, weights.sequence_norm)
    return weights.num_prefix_tokens > 0 or any(part is not None for part in around)


def _explained(causes: list[Cause], evidence: dict[str, Any]) -> Diagnosis:
    first, *others = causes
    explanation, mend = first.explanation, first.mend
    if others and all(is_precision(cause) for cause in causes):
        # Which of them it was no output shows, and a reader looks for the one he uses.
        explanation += "".join(f"; or {other.explanation}" for other in others)
        mend += "".join(f"; or {other.mend}" for other in others)
    return Diagnosis(
        False,
        "tied" if others else "unique",
        first.mistakes,
        tuple(other.mistakes for other in others),
        explanation,
        mend,
        evidence,
    )


def _some(places: list[int]) -> str:
    """The first of some numbers, and how many there are."""
    if len(places) <= 8:
        return str(places)
    return f"[{', '.join(map(str, places[:8]))}, …] ({len(places)} of them)"


def _unknown(evidence: dict[str, Any]) -> str:
    if evidence["shape"] != evidence["expected_shape"]:
        return (
            f"no known mistake explains an output of shape {tuple(evidence['shape'])}; "
            "expected "
            f"{tuple(evidence['expected_shape'])}"
        )
    if not evidence["finite"]:
        return "no known mistake explains it; the output holds NaN or infinite values"
    places = [
        f"{name} {_some(evidence[f'wrong_{name}'])}"
        for name in ("images", "tokens", "channels")
        if evidence[f"wrong_{name}"] != "all"
    ]
    where = f"only {' and '.join(places)} are wrong" if places else "values are wrong everywhere"
    if not evidence["wrong_values"]:
        bits = evidence["effective_bits"]
        where = (
            "no value is farther off than rounding may bring it, but all together are less exact "
            "than the type" + ("" if bits is None else f" ({bits:.1f} effective bits)")
        )
    affine = {
        True: ", and it is an affine map of the patches",
        False: ", and it is no affine map of the patches",
        None: "",
    }[evidence["affine"]]
    return f"no known mistake, and no pair of them, explains the output: {where}{affine}"
