"""The search for what explains an output: programs with a mistake, or two, are run and compared."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..error import effective_bits
from ..mistakes import CATALOGUE, Mistake
from ..patches import patchify
from ..pipeline import Array, Pipeline, round_through
from .allowance import Allowance, gauge, has_norms
from .fit import Cause, cause_of, rms
from .fits import fits
from .forms import other_images
from .precision import lower_precision
from .two_mistakes import near_programs, two_mistakes
from .value_fits import norm_fits

NEAR = 0.05
"""Relative rms distance from which a candidate is looked at closely. bfloat16 inputs move an output
by 0.004 of its rms, float16 sums by 0.02 at K = 12288; a wrong layout moves it by 1.1 to 1.4. (The
bound decides; this only saves its cost.)"""


SOME = 64
"""Tokens that a candidate is compared at first."""

FITTED = 4.0
"""How many times the allowed error a fit may leave: a scale or a mix of channels changes the size
of the terms, seldom by more."""


LEAST_OF_FLOAT32 = 2.0**-28
"""Relative rms that products in float32 err by at least: a result's own rounding is 2⁻²⁶."""

VAGUE = ("positions-differ",)
"""Ids of fits that say where a mistake must be, and are asked where nothing says which it is."""


class Search:
    """Makes mistakes and compares; the candidate's product is kept, since most pairs share one with
    others."""

    def __init__(self, pipeline: Pipeline, observed: Array) -> None:
        self.pipeline = pipeline
        self.observed = observed.astype(np.float64)
        self.allowance = Allowance(pipeline, observed.dtype)
        self.model = self.allowance.model
        self.narrow = observed.dtype
        self.correct = pipeline.run(np.float64)
        self.finite = bool(np.isfinite(self.observed).all())
        self.rms = math.sqrt(float(np.mean(self.observed**2))) if self.finite else math.inf

    def explains(self, candidate: Pipeline, value: Array | None = None) -> bool:
        """Whether the observed output lies within the deterministic bound of a candidate's."""
        if not self.finite:
            return False
        if value is None and not self._near_at_some(candidate):
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
        if self.allowance.ratio(candidate, exact, self.observed) > 1:
            return False
        return math.sqrt(float(np.mean((exact - self.observed) ** 2))) <= self.allowance.rms(
            candidate, exact
        )

    def _near_at_some(self, candidate: Pipeline) -> bool:
        """Whether a candidate is near at a few tokens, where these can be computed alone."""
        spec, batch = candidate.spec, len(candidate.images)
        shape = (batch, spec.num_patches, spec.embed_dim)
        alone = not candidate.token_steps and not candidate.to_sequence
        if not alone or candidate.accumulate != "wide" or self.observed.shape != shape:
            return True
        rows = slice(None, None, max(1, batch * spec.num_patches // SOME))
        weights = candidate.weights.astype(np.float32)
        patches = candidate.patches(np.float32)[rows]
        with np.errstate(over="ignore", invalid="ignore"):
            prediction = patches @ weights.kernel.reshape(spec.embed_dim, -1).T
            if weights.bias is not None:
                prediction = prediction + weights.bias
            wanted = self.observed.reshape(-1, spec.embed_dim)[rows]
            # Inputs that are rounded move them by less than this leaves.
            return bool(rms(prediction - wanted) <= 2 * NEAR * max(rms(wanted), self.rms))

    def fitted(self, most: float = 0.5, vague: bool = False) -> list[Cause]:
        """The first mistake with a number in it that explains the output, and leaves at most so
        much of its errors; `vague` ones name no mistake, but where it must be."""
        if not self.finite or not math.isfinite(self._allowed(self.pipeline, self.correct, 1.0)):
            return []
        matching_fits = fits(
            self.pipeline,
            self.correct,
            self.observed,
            lambda factor: self._allowed(self.pipeline, self.correct, factor),
        )
        if most < 0.5 and self.correct.shape == self.observed.shape:
            left = most * self._deviation()
            matching_fits = (fit for fit in matching_fits if fit.left <= left)
        if not vague:
            matching_fits = (fit for fit in matching_fits if fit.id not in VAGUE)
        return [
            cause_of((fit.id, fit.explanation, fit.mend))
            for fit in itertools.islice(matching_fits, 1)
        ]

    def _allowed(self, candidate: Pipeline, exact: Array, factor: float) -> float:
        """Largest rms that a fitted mistake may leave, whose products are so many times those of a
        program."""
        if factor != 1:
            if has_norms(candidate):
                candidate = dataclasses.replace(candidate, images=candidate.images * factor)
                factor = 1.0
            exact = self.observed
        return FITTED * self.allowance.rms(candidate, exact, factor)

    def right_in_its_type(self) -> bool:
        """Whether an output of a 16-bit type is right of images and weights in that type."""
        if self.narrow.itemsize > 2 or self.correct.shape != self.observed.shape:
            return False
        narrow = round_through(self.narrow)
        weights = self.pipeline.weights.map(narrow)
        images = narrow(self.pipeline.images)
        candidate = dataclasses.replace(self.pipeline, images=images, weights=weights)
        return self.explains(candidate, candidate.run(np.float64))

    def imprecise_forms(self) -> list[Cause]:
        """One mistake and a lower precision behind it: the mistake alone comes near, and what it
        leaves are the errors of that precision."""
        if not self.finite:
            return []
        for form, program, restored in near_programs(self.pipeline, self.observed, NEAR):
            search = Search(program, restored.astype(self.narrow))
            if search.explains(program, search.correct):
                continue  # which fits or pairs tell
            causes = [
                cause_of(form_of(mistake))
                for mistake in CATALOGUE.values()
                if mistake.stage == "arithmetic"
                and (rounded := mistake.apply(program)) is not None
                and rounded.round_output is not None
                and search.explains(rounded)
            ] or lower_precision(search)
            if causes:
                return [
                    Cause(
                        (form[0], *cause.mistakes),
                        f"{form[1]}; and {cause.explanation}",
                        f"{form[2]}; then {cause.mend}",
                    )
                    for cause in causes
                ]
        return []

    def nearest(self) -> str:
        """The one mistake that comes near to an output that it does not explain, and what it
        leaves; empty where none does."""
        if not self.finite:
            return ""
        for form, program, restored in near_programs(self.pipeline, self.observed, NEAR):
            left = rms(program.run(np.float64) - restored) / (self.rms or 1.0)
            return f"; nearest: {form[1]}, which leaves {left:.1e} of it"
        return ""

    def both_fitted(self) -> list[Cause]:
        """Two mistakes, with a number in one of them or both, that explain the output."""
        if not self.finite:
            return []
        most = self._deviation() / 2

        def allowed(candidate: Pipeline, exact: Array, factor: float) -> float:
            return min(self._allowed(candidate, exact, factor), most)

        return list(itertools.islice(two_mistakes(self.pipeline, self.observed, allowed), 1))

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
        bound = self.allowance.bound(candidate, exact)
        within = (rounding(exact - bound) <= self.observed) & (
            self.observed <= rounding(exact + bound)
        )
        # All together they err as rounding does, and not more: its rms is known to 4 / √(2n).
        made = rms(rounding(exact) - exact) * (1 + 4 / math.sqrt(2 * exact.size))
        allowed = math.hypot(made, self.allowance.rms(candidate, exact))
        return bool(within.all()) and rms(self.observed - exact) <= allowed

    def singles(self) -> list[Cause]:
        """All single mistakes that explain the output."""
        if self.float32_alone():
            words = "the products were computed in float32, and the output widened to float64"
            mend = "compute in float64: convert images and weights before they are multiplied"
            return [Cause(("precision-float32",), words, mend)]
        narrow = self.narrow.itemsize <= 2
        possible = [
            mistake
            for mistake in CATALOGUE.values()
            if not (narrow and mistake.id.startswith("output-"))
        ]
        made = ((mistake, mistake.apply(self.pipeline)) for mistake in possible)
        return [
            cause_of(form_of(mistake))
            for mistake, candidate in made
            if candidate is not None and self.explains(candidate)
        ]

    def float32_alone(self) -> bool:
        """Whether a float64 output is right by the measure of float32."""
        if self.narrow != np.float64 or not self.finite:
            return False
        if not rms(self.observed - self.correct) >= LEAST_OF_FLOAT32 * rms(self.correct):
            return False
        with np.errstate(over="ignore"):
            shorter = Search(self.pipeline, self.observed.astype(np.float32))
        return shorter.finite and shorter.explains(self.pipeline, self.correct)

    def other_epsilon(self) -> list[Cause]:
        """An ε of the norms that leaves much less than the weights' own, which bounds allow."""
        if not has_norms(self.pipeline) or not self.finite:
            return []
        left = rms(self.observed - self.correct)
        fits_of_norms = norm_fits(self.pipeline, self.correct, self.observed)
        nearer = [fit for fit in fits_of_norms if fit.id == "norm-epsilon" and fit.left < left / 4]
        best = sorted(nearer, key=lambda fit: fit.left)[:1]
        return [cause_of((fit.id, fit.explanation, fit.mend)) for fit in best]

    def pairs(self) -> list[Cause]:
        """All pairs of mistakes that explain the output, in the order in which they act; both
        orders within a stage."""
        causes: list[Cause] = []
        for first, second in _ordered_pairs():
            half_way = first.apply(self.pipeline)
            candidate = None if half_way is None else second.apply(half_way)
            if candidate is not None and self._is_pair(candidate):
                causes.append(cause_of(form_of(first), form_of(second)))
        return causes

    def pairs_with_forms(self) -> list[Cause]:
        """Pairs of other images, and a mistake of the catalogue behind them."""
        causes: list[Cause] = []
        if not self.finite:
            return []
        for form, program in other_images(self.pipeline):
            for mistake in CATALOGUE.values():
                candidate = None if mistake.stage == "arithmetic" else mistake.apply(program)
                if candidate is not None and self._is_pair(candidate):
                    causes.append(cause_of(form, form_of(mistake)))
        return causes

    def _is_pair(self, candidate: Pipeline) -> bool:
        return (
            self._possible(candidate) and self.explains(candidate) and self._leaves_less(candidate)
        )

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
        bits = math.inf
        if not has_norms(self.pipeline):  # behind a norm no sum's terms are known
            squares = gauge(self.pipeline, np.square)
            bits = effective_bits(self.observed, self.correct, np.sqrt(squares))
        ratio = self.allowance.ratio(self.pipeline, self.correct, self.observed)
        return {
            "bound_ratio": ratio if math.isfinite(ratio) else None,
            "effective_bits": bits if math.isfinite(bits) else None,
        }

    def provable(self) -> dict[str, Any]:
        """What can be said of an output that nothing explains: finite or not, which tokens and
        channels differ, affine or not."""
        evidence: dict[str, Any] = {"finite": self.finite}
        if self.correct.shape != self.observed.shape or not self.finite:
            return evidence
        bound = self.allowance.bound(self.pipeline, self.correct)
        wrong = np.abs(self.observed - self.correct) > bound
        evidence["wrong_values"] = int(wrong.sum())
        for name, axes in (("images", (1, 2)), ("tokens", (0, 2)), ("channels", (0, 1))):
            touched = np.flatnonzero(wrong.any(axis=axes))
            evidence[f"wrong_{name}"] = (
                touched.tolist() if touched.size < wrong.any(axis=axes).size else "all"
            )
        evidence["affine"] = self.is_affine()
        return evidence

    def is_affine(self) -> bool | None:
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


_STAGES = ("images", "kernel", "bias", "sizes", "arithmetic", "tokens", "sequence")


def form_of(mistake: Mistake) -> tuple[str, str, str]:
    """A mistake of the catalogue as id, explanation and remedy."""
    return mistake.id, mistake.explanation, mistake.mend


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
