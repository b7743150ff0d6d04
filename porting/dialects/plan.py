"""What a port does beside moving axes: steps with a name, and what a target cannot hold."""

from dataclasses import dataclass, field

STEPS: dict[str, str] = {
    "zero-bias": "a bias of zeros is added, for the target has one: nothing changes",
    "drop-zero-bias": "the bias is all zeros, and left out: nothing changes",
    "zero-position-rows": "position rows of zeros are added for prefix tokens: nothing changes",
    "drop-zero-position-rows": "position rows of zeros are left out: nothing changes",
    "fold-position-rows": "position rows of prefix tokens are added to the tokens, for the target "
    "has none: lossy, one rounding",
    "zero-positions": "positions of zeros are added, for the target has some: nothing changes",
    "computed-positions": "positions that the source computes are written as a table",
    "fixed-positions": "positions that the source makes for the grid of any image are written as a "
    "table, for this grid alone",
    "drop-computed-positions": "positions are left out, for the target computes the same",
    "zero-norm-shift": "a shift of zeros is added to a norm, for the target has one: nothing "
    "changes",
    "zero-mask-token": "a mask token of zeros is added, for the target has one: it plays no part "
    "but in pre-training",
    "other-remainder": "images that patches do not divide are padded by the one and cut or refused "
    "by the other: nothing changes at sizes that they divide",
    "drop-mask-token": "the mask token is left out: it plays no part but in pre-training",
}
"""What may be done beside moving axes, and what that means. All but `fold-position-rows` leave the
sequence as it is, bit by bit."""


@dataclass(frozen=True)
class Loss:
    """Something that a target cannot hold."""

    field: str
    why: str


@dataclass
class Plan:
    """What a port does beside moving axes."""

    steps: list[str] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
