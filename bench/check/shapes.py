"""The shapes that are checked."""

from ...reference.spec import PatchEmbedSpec
from ..cases import Case

CHECK_CASES = (
    Case("c3-b3", PatchEmbedSpec((30, 28), (6, 4), 3, 80), 3),
    Case("c1-b1", PatchEmbedSpec((24, 40), (4, 8), 1, 40), 1),
    Case("c4-b5", PatchEmbedSpec((35, 24), (5, 3), 4, 64), 5),
    Case("gaps-p3s5", PatchEmbedSpec((19, 27), 3, 4, 40, stride=5, remainder="pad-end"), 2),
    Case("overlap-k5s2", PatchEmbedSpec((17, 23), 5, 3, 80, stride=2), 2),
    Case(
        "overlap-k7s4p3",
        PatchEmbedSpec((32, 40), 7, 3, 160, stride=4, padding=3, remainder="floor"),
        2,
    ),
    Case("pad-same-k3s2", PatchEmbedSpec((16, 22), 3, 4, 40, stride=2, remainder="same"), 2),
    Case("vit-b16-224", PatchEmbedSpec(224, 16, 3, 768), 2),
    Case("long-k3072", PatchEmbedSpec((64, 96), 32, 3, 12), 2),
    Case("long-k12288", PatchEmbedSpec((64, 128), 64, 3, 10), 2),
)
"""The shapes of `check`: batch 1 and more, image and patch not square, C of 1, 3 and 4 and never
equal to P, overlapping, gaps between patches, padding at the end, TensorFlow's uneven SAME padding,
and sums of K = P²·C terms from 32 to 12288, for what a short accumulator loses grows with K. D ≥ K
wherever that is small, so that the identity kernel reads every value of a patch."""
