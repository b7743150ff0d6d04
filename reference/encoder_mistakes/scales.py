"""Mistakes of layer scale."""

from collections.abc import Callable

from ..encoder_case import BlockCase
from ..pipeline import Array
from .catalogue import block_with, register


def _scales(case: BlockCase, change: Callable[[Array], Array | None]) -> BlockCase | None:
    found = {name: getattr(case.block, name) for name in ("first_scale", "second_scale")}
    kept = {name: change(each) for name, each in found.items() if each is not None}
    return block_with(case, **kept) if kept else None


register(
    "layer-scales-dropped", "scales",
    "layer scale was left out",
    "multiply what either half gives by its layer scale, or fold it into the last matrices",
    lambda case: _scales(case, lambda scale: None),
)  # fmt: skip
for _name, _called in {"first_scale": "first", "second_scale": "second"}.items():
    register(
        f"{_called}-layer-scale-dropped",
        "scales",
        f"the {_called} layer scale was left out",
        "multiply what either half gives by its layer scale",
        lambda case, name=_name: block_with(case, **{name: None}),  # type: ignore[misc]
    )
register(
    "layer-scales-exchanged", "scales",
    "the two layer scales are exchanged",
    "give the first layer scale to attention and the second to the MLP",
    lambda case: block_with(
        case, first_scale=case.block.second_scale, second_scale=case.block.first_scale
    ),
)  # fmt: skip
register(
    "layer-scales-twice", "scales",
    "layer scale was applied twice: folded into the matrices, and kept",
    "fold layer scale or keep it, not both",
    lambda case: _scales(case, lambda scale: scale * scale),
)  # fmt: skip
