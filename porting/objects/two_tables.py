"""Layers of Keras that keep two tables of positions: the one that is computed with, and the one
that their file holds.

KerasHub's DINOv2 adds `interpolated_position_embeddings`, and loads `position_embeddings`, of which
it makes the former anew; on saving it brings the latter up to date only where the sum of what the
former lost is above Keras's epsilon (keras_hub/src/models/dinov2/dinov2_layers.py,
`save_own_variables`).
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

COMPUTED_WITH, SAVED = "interpolated_position_embeddings", "position_embeddings"
"""How a layer calls the two."""

EPSILON = 1e-7
"""Keras's, `keras.config.epsilon()`, of a process that has not set it otherwise."""

ALIKE = 1e-5
"""Of the largest position: how far a table may be from the one that is made of the other by the
same arithmetic, resized in float32."""


def layers_of_two_tables(subject: Any, framework: str) -> Iterator[Any]:
    """The layers of an object that keep two tables, itself among them."""
    if framework != "keras" or not hasattr(subject, "_flatten_layers"):
        return
    for layer in subject._flatten_layers():
        both = (getattr(layer, COMPUTED_WITH, None), getattr(layer, SAVED, None))
        if all(hasattr(table, "assign") for table in both):
            yield layer


def saved_tables(subject: Any, framework: str) -> list[Any]:
    """The variables of an object that its file holds and that it does not compute with."""
    return [getattr(layer, SAVED) for layer in layers_of_two_tables(subject, framework)]


def told_of_two_tables(subject: Any, framework: str) -> list[str]:
    """Where what an object's file holds, or would hold, is something else than what it computes
    with, in sentences."""
    return [told for layer in layers_of_two_tables(subject, framework) if (told := _told_of(layer))]


def _told_of(layer: Any) -> str:
    used, saved = (_values(getattr(layer, name)) for name in (COMPUTED_WITH, SAVED))
    start = f"{COMPUTED_WITH} {used.shape} were read, with which it computes"
    if used.shape != saved.shape:
        made = _made_of_saved(layer)
        if made is not None and np.abs(made - used).max() <= ALIKE * np.abs(used).max():
            return ""
        return (
            f"{start}; its file holds {SAVED} {saved.shape}, of which these are not made: what it "
            "saves and loads again has other positions"
        )
    apart = np.abs(saved - used).max()
    if not apart or float((saved - used).sum()) > 2 * EPSILON:  # its library then saves these
        return ""
    return (
        f"{start}; they are up to {apart:.3g} from the {SAVED} that its file holds, and saving "
        "does not bring those up to date, for the sum of the differences did not fall: what it "
        "saves and loads again has other positions"
    )


def _values(variable: Any) -> Any:
    return np.array(variable.numpy(), np.float64)


def _made_of_saved(layer: Any) -> Any:
    """The table that the layer makes of the saved one when it is loaded; None where its library
    does that otherwise than is known."""
    try:
        made = layer._interpolate_position_embeddings(
            getattr(layer, SAVED),
            patch_size=layer.patch_size,
            source_shape=layer.position_embedding_shape,
            target_shape=layer.image_shape,
            antialias=layer.antialias_in_interpolation,
        )
        import keras

        made = np.asarray(keras.ops.convert_to_numpy(made), np.float64)
    except (AttributeError, TypeError, ValueError):
        return None
    return made if made.shape == tuple(getattr(layer, COMPUTED_WITH).shape) else None


def bring_up_to_date(subject: Any, framework: str) -> Callable[[], None]:
    """Give the saved table of each layer the values of the one that it computes with, where both
    have one size, so that its file holds them.

    Returns:
        What puts the old ones back.
    """
    held = []
    for layer in layers_of_two_tables(subject, framework):
        used, saved = getattr(layer, COMPUTED_WITH), getattr(layer, SAVED)
        if tuple(used.shape) == tuple(saved.shape):
            held.append((saved, np.array(saved.numpy())))
            saved.assign(np.array(used.numpy()))

    def undo() -> None:
        for variable, value in held:
            variable.assign(value)

    return undo
