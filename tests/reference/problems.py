"""Random problems for the reference's tests: specs of every kind, and data that no permutation
leaves as it was."""

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from patchparity import PatchEmbedSpec, PatchEmbedWeights, PatchParityError
from patchparity.reference.spec import Remainder

SPECS = [
    PatchEmbedSpec((12, 20), (4, 5), 3, 7),
    PatchEmbedSpec((11, 14), 5, 3, 6, stride=2, remainder="floor"),  # kernel 5, stride 2
    PatchEmbedSpec((17, 23), 5, 2, 6, stride=2),
    # kernel 7, stride 4, padding 3
    PatchEmbedSpec((21, 18), 7, 3, 5, stride=4, padding=3, remainder="floor"),
    PatchEmbedSpec((10, 13), (4, 3), 1, 4, remainder="pad-end"),
    PatchEmbedSpec((10, 13), (4, 3), 4, 4, stride=(3, 2), remainder="same"),
    PatchEmbedSpec((9, 13), 2, 3, 4, stride=4, remainder="floor"),  # gaps between patches
    PatchEmbedSpec((8, 6), 2, 3, 4, padding=((1, 3), (0, 2))),
    PatchEmbedSpec((4, 6, 8), (2, 3, 4), 3, 5),
]


def random_problem(
    spec: PatchEmbedSpec, batch: int = 2, seed: int = 0
) -> tuple[NDArray[np.float64], PatchEmbedWeights, NDArray[np.float64]]:
    """Images, weights and a token gradient, float64."""
    generator = np.random.default_rng(seed)
    images = generator.standard_normal(spec.images_shape(batch))
    weights = PatchEmbedWeights(
        generator.standard_normal(spec.kernel_shape), generator.standard_normal(spec.embed_dim)
    )
    return images, weights, generator.standard_normal(spec.tokens_shape(batch))


@st.composite
def specs(draw: st.DrawFn) -> PatchEmbedSpec:
    """Any valid 2-D spec of small size."""
    remainder: Remainder = draw(st.sampled_from(["floor", "pad-end", "same"]))
    sizes = st.integers(1, 12)
    padding = (
        0
        if remainder == "same"
        else draw(
            st.tuples(
                st.tuples(st.integers(0, 2), st.integers(0, 2)),
                st.tuples(st.integers(0, 2), st.integers(0, 2)),
            )
        )
    )
    while True:
        try:
            return PatchEmbedSpec(
                (draw(sizes), draw(sizes)),
                (draw(st.integers(1, 5)), draw(st.integers(1, 5))),
                draw(st.integers(1, 4)),
                draw(st.integers(1, 5)),
                stride=(draw(st.integers(1, 5)), draw(st.integers(1, 5))),
                padding=padding,
                remainder=remainder,
            )
        except PatchParityError:
            continue
