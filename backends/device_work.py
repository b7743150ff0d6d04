"""What each of several devices does of one computation: floating-point operations, bytes, and what
is sent between them; and whether that is a split.

Knows no framework: the numbers come from a compiled program, or from what was counted while it ran.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

SPLIT, IN_PART, REPLICATED = "split", "split in part", "replicated"
GATHERED = "gathered"

COARSER = math.sqrt(2)
"""How far the largest share of the work may be above the best one. The next coarser split, over
half of the devices, doubles it: √2 lies in the middle of the two as a ratio. What a compiler adds
to a share (bias, masks, the edges of a halo) was seen to be 7% at most."""

GATHERS = ("all-gather", "all-to-all")
"""Collectives after which a device holds what others were given: the split was given up before
them. An all-reduce adds partial sums up and a collective-permute fetches a halo: both belong to
splits."""


class Collective(NamedTuple):
    """Something sent between devices: its name as XLA has it, and the bytes of its result on one
    device."""

    name: str
    size: int


@dataclass(frozen=True)
class DeviceWork:
    """One forward pass, a device at a time.

    Args:
        units: what is split: images, channels, rows or columns of patches.
        flops: floating-point operations of each device.
        whole_flops: those of one device that does it alone, counted in the same way.
        sizes: bytes that each device holds of images, weights and result.
        whole_size: the same on one device alone.
        collectives: what is sent, in order.
    """

    units: int
    flops: tuple[float, ...]
    whole_flops: float
    sizes: tuple[int, ...]
    whole_size: int
    collectives: tuple[Collective, ...] = ()

    @property
    def share(self) -> float:
        """The largest share of the operations that one device computes: 1 where it computes all."""
        return max(self.flops) / self.whole_flops if self.whole_flops else 1.0

    @property
    def best_share(self) -> float:
        """The share of the fullest device where units stay whole: ⌈units/devices⌉/units."""
        return best_share(self.units, len(self.flops))

    @property
    def finding(self) -> str:
        """`split`, `split in part` or `replicated`, and `, gathered` behind it where something was
        put together on every device.

        Replicated is a share nearer to all than to half, as a ratio.
        """
        if self.share <= COARSER * self.best_share:
            kind = SPLIT
        else:
            kind = REPLICATED if self.share * COARSER >= 1 else IN_PART
        gathered = any(collective.name in GATHERS for collective in self.collectives)
        return f"{kind}, {GATHERED}" if gathered else kind

    def describe(self) -> str:
        """One sentence for a reader: share, bytes and collectives."""
        sent = ", ".join(f"{each.name} of {size_text(each.size)}" for each in self.collectives)
        held = f"{size_text(max(self.sizes))} of {size_text(self.whole_size)}"
        return (
            f"the fullest of {len(self.flops)} devices computes {100 * self.share:.0f}% (at best "
            f"{100 * self.best_share:.0f}%) and holds {held}; sent: {sent or 'nothing'}"
        )


def best_share(units: int, devices: int) -> float:
    """The share of the fullest device where `units` stay whole; 1 of none."""
    return math.ceil(units / devices) / units if units else 1.0


def size_text(size: int) -> str:
    """Bytes with a unit, in thousands."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if size >= 10**power:
            return f"{size / 10**power:.3g} {unit}"
    return f"{size} B"
