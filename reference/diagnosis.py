"""Which mistake explains an output? Every mistake of the catalogue, then every pair, is made on
purpose and compared."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .error import ArithmeticModel, bound_ratio, effective_bits, error_bound, is_cut_off
from .errors import PatchParityError
from .fits import Fit, fits
from .mistakes import CATALOGUE, Mistake
from .patches import patchify
from .pipeline import Array, Pipeline
from .spec import PatchEmbedSpec
from .two_mistakes import two_mistakes
from .weights import PatchEmbedWeights

Explanation = tuple[str, ...]

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Types of tokens that can be diagnosed."""

NEAR = 0.05
"""Relative rms distance from which a candidate is looked at closely. bfloat16 inputs move an output
by 0.004 of its rms, float16 sums by 0.02 at K = 12288; a wrong layout moves it by 1.1 to 1.4. (The
bound decides; this only saves its cost.)"""


SAMPLED = 256
"""Outputs whose partial sums are looked at."""

GATE = 4.0
"""How many times the rms error of a sum its arithmetic may reach; right float32 of torch, JAX and
NumPy, added up in a row or in blocks, on photographs and bytes, reaches 0.6, and TF32 inputs 24
(tests hold both)."""

ALIKE = 1e-3
"""Relative spread of a sum's terms below which they are all alike, and their rounding errors
too."""

HALVED = 0.95
"""Share of products that are numbers of float16 above which sums were kept in it; of others it is
one in a hundred."""

FITTED = 4.0
"""How many times the allowed error a fit may leave: a scale or a mix of channels changes the size
of the terms, seldom by more."""

ALONG = 0.3
"""Least correlation of an output's errors with those that rounded inputs make. Rounded to nearest
alike it is 1; against truncation, whose error is the rounding's or that less one unit, it is 0.5;
of independent errors 1/√(B·N·D), under 0.1 for a hundred values."""


@dataclass(frozen=True)
class Diagnosis:
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
    mistakes: Explanation = ()
    also: tuple[Explanation, ...] = ()
    explanation: str = ""
    mend: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the diagnosis as plain data, ready for JSON."""
        return {
            "correct": self.correct,
            "status": self.status,
            "mistakes": list(self.mistakes),
            "also": [list(each) for each in self.also],
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
    """
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
    extended = weights.num_prefix_tokens > 0 or weights.positions is not None
    to_sequence = extended and (tokens.ndim < 2 or sequence_rows in tokens.shape[1:])
    # The pattern of the mistake is in the values, not in their type: all candidates are computed
    # from the same rounded data.
    search = _Search(Pipeline(images, weights, spec, to_sequence), tokens)
    evidence = {
        "shape": list(tokens.shape),
        "expected_shape": list(search.correct.shape),
        "dtype": tokens.dtype.name,
    }
    if search.cut_off():
        told = (
            f"the output is correct but for its rounding: {tokens.dtype} results have their lower "
            "bits dropped, "
            "where rounding to nearest lowers half of them"
        )
        mend = (
            "round to nearest (TensorFlow's bfloat16 product on a CPU without the type drops "
            "them; its convolution and XLA round)"
        )
        return Diagnosis(
            False, "unique", ("output-cut-off",), (), told, mend, {**evidence, **search.measure()}
        )
    if search.explains(search.pipeline, search.correct):
        told = "the output is correct"
        if extended and not to_sequence:
            told += ": the tokens, to which prefix tokens and positions are not added"
        return Diagnosis(
            True, "correct", explanation=told, evidence={**evidence, **search.measure()}
        )
    for explain in (search.singles, search.arithmetic):
        if found := explain():
            return _told(found, {**evidence, **search.measure()})
    if fit := search.fitted():
        return Diagnosis(
            False,
            "unique",
            (fit.id,),
            (),
            fit.explanation,
            fit.mend,
            {**evidence, **search.measure()},
        )
    if pairs and (found := search.pairs()):
        return _told(found, {**evidence, **search.measure()})
    if pairs and (both := search.both_fitted()):
        return Diagnosis(
            False, "unique", both[0], (), both[1], both[2], {**evidence, **search.measure()}
        )
    evidence.update(search.measure(), **search.provable())
    return Diagnosis(False, "unknown", explanation=_unknown(evidence), evidence=evidence)


def _told(found: list[Explanation], evidence: dict[str, Any]) -> Diagnosis:
    first, *others = found
    mistakes = [CATALOGUE[name] for name in first]
    explanation = "; and ".join(mistake.explanation for mistake in mistakes)
    mend = "; then ".join(mistake.mend for mistake in mistakes)
    return Diagnosis(
        False, "tied" if others else "unique", first, tuple(others), explanation, mend, evidence
    )


LEFT_OF_CUT = 0.5
"""What the errors of the rounding that was done may leave of those that were observed: float32's
own, a thousandth of TF32's, and those of an order of summation."""

DROPPED_BITS = {"precision-tf32": 13, "precision-bf16": 16}
"""Bits of a float32 that a precision of inputs does not have."""


def _truncating(mistake: str, candidate: Pipeline) -> list[Pipeline]:
    """The same lower precision of the inputs, cut off instead of rounded."""
    if mistake not in DROPPED_BITS:
        return []
    kept = ~np.int32((1 << DROPPED_BITS[mistake]) - 1)

    def cut(values: Array) -> Array:
        narrow = np.ascontiguousarray(values, np.float32)
        return np.asarray((narrow.view(np.int32) & kept).view(np.float32), values.dtype)

    return [dataclasses.replace(candidate, round_inputs=cut)]


class _Search:
    """Makes mistakes and compares; the candidate's product is kept, since most pairs share one with
    others."""

    def __init__(self, pipeline: Pipeline, observed: Array) -> None:
        self.pipeline = pipeline
        self.observed = observed.astype(np.float64)
        # Nobody declared how often a 16-bit result is rounded: twice, the bias after the product,
        # is common, and positions are added once more.
        roundings = 3 if pipeline.to_sequence else 2
        self.model = ArithmeticModel.of(observed.dtype, output_roundings=roundings)
        self.narrow = observed.dtype
        self.correct = pipeline.run(np.float64)
        self.finite = bool(np.isfinite(self.observed).all())
        self.rms = math.sqrt(float(np.mean(self.observed**2))) if self.finite else math.inf

    def explains(self, candidate: Pipeline, value: Array | None = None) -> bool:
        """Whether the observed output lies within the deterministic bound of a candidate's."""
        if not self.finite:
            return False
        quick = candidate.run(np.float32) if value is None else value
        if quick.shape != self.observed.shape:
            return False
        with np.errstate(over="ignore", invalid="ignore"):
            distance = math.sqrt(float(np.mean((quick - self.observed) ** 2)))
        if not distance <= NEAR * self.rms:
            return False
        if candidate.round_output is not None:
            return self._rounded(
                dataclasses.replace(candidate, round_output=None), candidate.round_output
            )
        exact = candidate.run(np.float64) if value is None else value
        if self._ratio(candidate, exact) > 1:
            return False
        return math.sqrt(float(np.mean((exact - self.observed) ** 2))) <= self.allowed_rms(
            candidate, exact
        )

    def allowed_rms(self, candidate: Pipeline, exact: Array) -> float:
        """Largest rms error of correct arithmetic, whatever the data and the order of summation.

        Adding a term rounds the partial sum s, by an error within ±u·|s| of rms u·|s|/√3 at most;
        over a sum they add up, independent of one another, to u·√(Σs²/3). (Rounding a 16-bit result
        errs by 0.42·u of it in rms, each time; taken is u.) Taken is four times u·√(Σs²), of the
        worst of three orders, at 256 outputs: seven times what is expected. Where all terms are
        alike (constant images and a constant kernel) the errors are too, and nothing but the bound
        holds.
        """
        generator = np.random.default_rng(0)
        spec = candidate.spec
        patches = patchify(candidate.images, spec).reshape(-1, spec.patch_values)
        matrix = candidate.weights.kernel.reshape(len(candidate.weights.kernel), -1)
        rows, columns = (generator.integers(0, len(each), SAMPLED) for each in (patches, matrix))
        terms = patches[rows].astype(np.float64) * matrix[columns].astype(np.float64)
        sizes = np.abs(terms)
        if float(sizes.std()) <= ALIKE * float(sizes.mean()):
            return math.inf
        channels_first = np.arange(terms.shape[1]).reshape(-1, spec.in_channels).T.ravel()
        orders = (slice(None), channels_first, generator.permutation(terms.shape[1]))
        sums = [np.cumsum(terms[:, order], axis=1) for order in orders]
        worst = max(float(np.mean((each**2).sum(axis=1))) for each in sums)
        # The bias and a position are two more additions.
        added = 2 * float(np.mean(exact**2))
        accumulated = GATE * self.model.accumulate * math.sqrt(worst + added)
        earlier = math.sqrt(float(np.mean(exact**2))) + 0.5 * self._added()
        rounded = math.sqrt(self.model.output_roundings) * self.model.output * earlier
        return accumulated + rounded + self.model.smallest * terms.shape[1]

    def cut_off(self) -> bool:
        """Whether 16-bit results are the right ones with their lower bits dropped."""
        if (
            self.narrow.itemsize > 2
            or not self.finite
            or self.correct.shape != self.observed.shape
            or self.pipeline.to_sequence
        ):
            return False
        observed = self.observed.astype(self.narrow)
        bias = self.pipeline.weights.bias
        if is_cut_off(observed, self.correct):
            return True
        return bias is not None and is_cut_off(
            observed, self.correct - bias.astype(np.float64), bias.astype(np.float64)
        )

    def fitted(self) -> Fit | None:
        """The first mistake with a number in it that explains the output."""
        if not self.finite:
            return None
        if not math.isfinite(self._allowed(self.pipeline, self.correct, 1.0)):
            return None
        return next(
            fits(
                self.pipeline,
                self.correct,
                self.observed,
                lambda factor: self._allowed(self.pipeline, self.correct, factor),
            ),
            None,
        )

    def _allowed(self, candidate: Pipeline, exact: Array, factor: float) -> float:
        """Largest rms that a fitted mistake may leave, whose products are so many times those of a
        program."""
        if factor < 1:
            candidate, exact = (
                dataclasses.replace(candidate, images=candidate.images * factor),
                self.observed,
            )
        return FITTED * self.allowed_rms(candidate, exact)

    def both_fitted(self) -> tuple[Explanation, str, str] | None:
        """Two mistakes, with a number in one of them or both, that explain the output."""
        if not self.finite:
            return None
        most = self._deviation() / 2

        def allowed(candidate: Pipeline, exact: Array, factor: float) -> float:
            return min(self._allowed(candidate, exact, factor), most)

        return next(two_mistakes(self.pipeline, self.observed, allowed), None)

    def _deviation(self) -> float:
        """How far the output is from the right one, in rms: two mistakes that undo each other leave
        as much, and explain nothing. Infinite where the shapes differ."""
        if self.correct.shape != self.observed.shape:
            return math.inf
        return math.sqrt(float(np.mean((self.observed - self.correct) ** 2)))

    def _leaves_less(self, candidate: Pipeline) -> bool:
        """Whether a candidate is nearer to the output than the right program is."""
        value = candidate.run(np.float64)
        if value.shape != self.observed.shape:
            return True
        left = math.sqrt(float(np.mean((self.observed - value) ** 2)))
        return left <= self._deviation() / 2

    def _rounded(self, candidate: Pipeline, rounding: Callable[[Array], Array]) -> bool:
        """Whether the observed output is that of a candidate, rounded.

        Rounding keeps the order: what lies within the bound of the exact value lies, rounded,
        between its rounded ends.
        """
        if (rounding(self.observed) != self.observed).any():
            return False
        exact = candidate.run(np.float64)
        bound = self._bound(candidate, exact)
        return bool(
            (
                (rounding(exact - bound) <= self.observed)
                & (self.observed <= rounding(exact + bound))
            ).all()
        )

    def _bound(self, candidate: Pipeline, value: Array) -> Array:
        gauge = _gauge(candidate)
        largest = max(
            float(np.abs(candidate.images).max(initial=0)),
            float(np.abs(candidate.weights.kernel).max(initial=0)),
        )
        terms = self.pipeline.spec.patch_values + 2  # the products, the bias, and a position
        return error_bound(
            value, gauge, terms, self.model, "deterministic", largest, np.abs(value) + self._added()
        )

    def _added(self) -> float:
        """Largest magnitude of what is added to a product before its last rounding."""
        weights = self.pipeline.weights
        added = [weights.bias, *([weights.positions] if self.pipeline.to_sequence else [])]
        return sum(
            float(np.abs(each.astype(np.float64)).max(initial=0))
            for each in added
            if each is not None
        )

    def _ratio(self, candidate: Pipeline, value: Array) -> float:
        return bound_ratio(self.observed, value, self._bound(candidate, value))[0]

    def singles(self) -> list[Explanation]:
        """All single mistakes that explain the output."""
        narrow = self.narrow.itemsize <= 2
        possible = [
            mistake
            for mistake in CATALOGUE.values()
            if not (narrow and mistake.id.startswith("output-"))
        ]
        made = ((mistake, mistake.apply(self.pipeline)) for mistake in possible)
        return [
            (mistake.id,)
            for mistake, candidate in made
            if candidate is not None and self.explains(candidate)
        ]

    def arithmetic(self) -> list[Explanation]:
        """Lower precisions whose errors are of the observed size, and as evenly spread.

        Their rounding depends on hardware and order of summation, so that no output of theirs can
        be foretold to the last bit. But an output that is an affine map of the patches to the last
        bit was not rounded on the way (a 16-bit output's last bit is too coarse to tell), and
        rounding the inputs (which hardware does to nearest, or by truncation) makes errors that go
        along with the candidate's.
        """
        if self.correct.shape != self.observed.shape or not self.finite:
            return []
        error = np.abs(self.observed - self.correct)
        size = math.sqrt(float(np.mean(error**2)))
        # Of a normal distribution half lies within 0.67 of its rms; where a few values are wrong,
        # half of them are right.
        if not size or float(np.median(error)) < 0.3 * size:
            return []
        affine = self._affine()
        if affine and self.narrow.itemsize > 2:
            return []
        halved = self._in_halves()
        found: list[Explanation] = []
        for mistake in CATALOGUE.values():
            candidate = mistake.apply(self.pipeline) if mistake.stage == "arithmetic" else None
            # which can be told to the last bit, and was not
            if candidate is not None and candidate.round_output is None:
                if any(self._goes_along(each) for each in _truncating(mistake.id, candidate)):
                    found.append((mistake.id,))
                    continue
                errors = candidate.run(np.float64) - self.correct
                made = math.sqrt(float(np.mean(errors**2)))
                # Truncation instead of rounding doubles an error, and a little more where both
                # inputs are cut; an order of summation changes it less.
                if not made or not 0.5 <= size / made <= 2.5:
                    continue
                along = float(np.mean(errors * (self.observed - self.correct))) / (made * size)
                if mistake.id.startswith("accumulate"):
                    if halved:
                        found.append((mistake.id,))
                elif along >= ALONG:
                    found.append((mistake.id,))
        return found

    def _goes_along(self, candidate: Pipeline) -> bool:
        """Whether the errors of a candidate, which can be told but for their last bits, are those
        that were observed: what is cut off makes every output smaller, as a factor does."""
        made = candidate.run(np.float64) - self.correct
        left = self.observed - self.correct - made
        size = math.sqrt(float(np.mean(made**2)))
        return bool(size) and math.sqrt(float(np.mean(left**2))) <= LEFT_OF_CUT * size

    def _in_halves(self) -> bool:
        """Whether the products, without the bias, are numbers of float16, as sums that were kept in
        it are."""
        if self.narrow.itemsize <= 2 or self.pipeline.to_sequence:
            return self.narrow.itemsize <= 2
        bias = (
            0.0
            if self.pipeline.weights.bias is None
            else self.pipeline.weights.bias.astype(np.float64)
        )
        product = self.observed - bias
        with np.errstate(over="ignore"):
            nearest = product.astype(np.float16).astype(np.float64)
        slack = 2 * self.model.accumulate * (np.abs(self.observed) + np.abs(bias))
        return float(np.mean(np.abs(nearest - product) <= slack)) >= HALVED

    def pairs(self) -> list[Explanation]:
        """All pairs of mistakes that explain the output, in the order in which they act; both
        orders within a stage."""
        found: list[Explanation] = []
        for first, second in _ordered_pairs():
            half_way = first.apply(self.pipeline)
            candidate = None if half_way is None else second.apply(half_way)
            if candidate is None or not self._possible(candidate):
                continue
            if self.explains(candidate) and self._leaves_less(candidate):
                found.append((first.id, second.id))
        return found

    def _possible(self, candidate: Pipeline) -> bool:
        """Whether a candidate's number of values can be right; decided without computing it. Prefix
        tokens may or may not be added."""
        spec, batch = candidate.spec, candidate.images.shape[0]
        rows = {spec.num_patches, spec.num_patches + candidate.weights.num_prefix_tokens}
        return self.observed.size in {batch * count * spec.embed_dim for count in rows}

    def measure(self) -> dict[str, Any]:
        """Error over bound, and effective bits, against the correct output; None where the shapes
        differ."""
        if self.correct.shape != self.observed.shape or not self.finite:
            return {"bound_ratio": None, "effective_bits": None}
        squares = _gauge(self.pipeline, np.square)
        bits = effective_bits(self.observed, self.correct, np.sqrt(squares))
        ratio = self._ratio(self.pipeline, self.correct)
        return {
            "bound_ratio": ratio if math.isfinite(ratio) else None,
            "effective_bits": bits if math.isfinite(bits) else None,
        }

    def provable(self) -> dict[str, Any]:
        """What can be said of an output that nothing explains: finite or not, which tokens and
        channels differ, affine or not."""
        found: dict[str, Any] = {"finite": self.finite}
        if self.correct.shape != self.observed.shape or not self.finite:
            return found
        terms = self.pipeline.spec.patch_values + 2
        largest = float(np.abs(self.pipeline.images).max(initial=0))
        bound = error_bound(
            self.correct, _gauge(self.pipeline), terms, self.model, "deterministic", largest
        )
        wrong = np.abs(self.observed - self.correct) > bound
        for name, axes in (("images", (1, 2)), ("tokens", (0, 2)), ("channels", (0, 1))):
            touched = np.flatnonzero(wrong.any(axis=axes))
            found[f"wrong_{name}"] = (
                touched.tolist() if touched.size < wrong.any(axis=axes).size else "all"
            )
        found["affine"] = self._affine()
        return found

    def _affine(self) -> bool | None:
        """Whether the output is some affine map of the patches; None where there are too few
        patches to tell."""
        X = (
            patchify(self.pipeline.images, self.pipeline.spec)
            .reshape(-1, self.pipeline.spec.patch_values)
            .astype(np.float64)
        )
        X = np.concatenate([X, np.ones((len(X), 1))], axis=1)
        spare = len(X) - np.linalg.matrix_rank(X)
        if self.pipeline.to_sequence or spare < 1:
            return None
        Y = self.observed.reshape(len(X), -1)
        residual = Y - X @ np.linalg.lstsq(X, Y, rcond=None)[0]
        # Of an affine map's rounding errors, rms at most √K·u·|y|, a least-squares fit leaves the
        # most.
        allowed = (
            math.sqrt(X.shape[1]) * self.model.accumulate + self.model.output + self.model.inputs
        )
        return bool(np.sqrt(np.mean(residual**2)) <= 4 * allowed * self.rms)


def _gauge(candidate: Pipeline, change: Any = np.abs) -> Array:
    """Run the candidate on the sizes of its terms: |X||W|ᵀ + |b|, rearranged as its tokens are (or
    squares, for effective bits)."""
    plain = Pipeline(
        change(candidate.images.astype(np.float64)),
        candidate.weights.astype(np.float64).map(change),
        candidate.spec,
        candidate.to_sequence,
        token_steps=candidate.token_steps,
    )
    return plain.run(np.float64)


_STAGES = ("images", "kernel", "bias", "sizes", "arithmetic", "tokens", "sequence")


def _ordered_pairs() -> list[tuple[Mistake, Mistake]]:
    """Pairs of different mistakes that one program can make: in the order of the stages, within one
    in both orders."""
    pairs: list[tuple[Mistake, Mistake]] = []
    for first, second in itertools.permutations(CATALOGUE.values(), 2):
        earlier, later = _STAGES.index(first.stage), _STAGES.index(second.stage)
        possible = earlier < later or (earlier == later and first.stage != "arithmetic")
        if possible and not (first.reshapes and second.stage in ("tokens", "sequence")):
            pairs.append((first, second))
    return pairs


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
        f"{name} {evidence[f'wrong_{name}'][:8]}"
        for name in ("images", "tokens", "channels")
        if evidence[f"wrong_{name}"] != "all"
    ]
    where = f"only {' and '.join(places)} are wrong" if places else "values are wrong everywhere"
    affine = {
        True: ", and it is an affine map of the patches",
        False: ", and it is no affine map of the patches",
        None: "",
    }[evidence["affine"]]
    return f"no known mistake, and no pair of them, explains the output: {where}{affine}"
