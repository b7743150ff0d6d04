"""What no tensor of an encoder says: the record of it, and the words for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, get_args

from ...reference.encoder_weights import EncoderSpec, MlpActivation, NormPlacement, Pairing, Pooling
from ...reference.weights import PatchEmbedWeights

SEMANTICS: dict[str, str] = {
    "num_heads": "number of attention heads",
    "norm_epsilon": "ε of the norms",
    "activation": "activation of the MLP",
    "norms": "place of the norms",
    "pooling": "pooling",
    "pairing": "pairing of rotary channels",
    "rotary": "coordinates of rotary positions",
    "rotary_temperature": "temperature of rotary positions",
    "attention_scale": "scale of attention",
}
"""What no tensor says, in words."""


OPTIONS = {
    "num_heads": "--heads",
    "norm_epsilon": "--epsilon",
    "activation": "--activation",
    "pooling": "--pooling",
}
"""By which option a user tells it."""


DEFAULTS: dict[str, Any] = {
    "norms": "pre",
    "pairing": "halves",
    "rotary": "",
    "rotary_temperature": 100.0,
    "attention_scale": None,
}
"""What holds where no layout says otherwise: that of the ViT paper."""


CHOICES: dict[str, tuple[str, ...]] = {
    "activation": get_args(MlpActivation),
    "norms": get_args(NormPlacement),
    "pooling": get_args(Pooling),
    "pairing": get_args(Pairing),
}
"""Words of what has words."""


class Encoder(Protocol):
    """An encoder, as far as a configuration is told of it."""

    @property
    def depth(self) -> int:
        """Number of blocks."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Of its axes."""

    @property
    def held(self) -> frozenset[str]:
        """Fields that are there."""


TOLD = "as told"
"""Where it was read what a user told."""


@dataclass(frozen=True)
class Semantics:
    """What no tensor says.

    Args:
        values: by name of `SEMANTICS`.
        origins: where each was read, in words.
    """

    values: Mapping[str, Any]
    origins: Mapping[str, str]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def but(self, **changed: Any) -> "Semantics":
        """The same with other values."""
        return Semantics({**self.values, **changed}, self.origins)

    def spec(self, weights: PatchEmbedWeights) -> EncoderSpec:
        """As the NumPy encoder takes it, behind a stage of these weights."""
        ahead = sum(weights.prefix_rows(name) for name in weights.layout.ahead)
        behind = sum(weights.prefix_rows(name) for name in weights.layout.behind)
        return EncoderSpec(
            self["num_heads"],
            self["norm_epsilon"],
            self["activation"],
            self["norms"],
            self["attention_scale"],
            self["pooling"],
            ahead,
            behind,
            self["pairing"],
        )

    def lines(self) -> list[str]:
        """In sentences, one for all that was read in one place."""
        told: dict[str, list[str]] = {}
        for name in SEMANTICS:
            usual = name == "norms" and self.values[name] == DEFAULTS[name]
            if name in self.origins and not usual:
                words = f"{SEMANTICS[name]} {shown(self.values[name])}"
                told.setdefault(self.origins[name], []).append(words)
        return [
            f"{'told' if origin.startswith(TOLD) else 'read'} {', '.join(words)} ({origin})"
            for origin, words in told.items()
        ]


def shown(value: Any) -> str:
    """A value in words."""
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value in (None, "") else str(value)
