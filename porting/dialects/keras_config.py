"""What the `config.json` of a Keras archive tells of the layers in it: which stand in front of the
patch embedding, and how a convolution by itself is called."""

from collections.abc import Iterator, Mapping
from typing import Any

from .dialect import Dialect

DEEPEST = 24
"""Tables and lists within one another: a task holds a backbone, that an encoder, each in the list
of a functional model's layers: a dozen."""

CONVOLUTIONS = ("Conv2D", "Conv3D")
PIXELS = ("Rescaling", "Normalization")
"""Layers of fixed numbers by which pixels are scaled: what comes out of them is called images."""

NOTHING = ("InputLayer", "Identity", "Dropout", "GaussianNoise")
"""Layers that change nothing where a model is not trained; so do those that begin with Random."""

MOST_CHANNELS = 4
"""Channels of a picture: an axis of no more is none of pixels."""

CALLED = {
    "activation": "linear",
    "dilation_rate": 1,
    "groups": 1,
    "data_format": "channels_last",
}
"""Arguments of a convolution that no tensor shows, and what this reading has of them."""


def _layers(node: Any, depth: int = 0) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Class, registered name and arguments of the layers of a model, those of models inside it in
    their places."""
    if not isinstance(node, dict) or depth > DEEPEST:
        return
    given = node.get("config")
    given = given if isinstance(given, dict) else {}
    inner = given.get("layers")
    if isinstance(inner, list):
        for child in inner:
            yield from _layers(child, depth + 1)
    elif isinstance(given.get("layer"), dict):  # a wrapper, such as TimeDistributed
        yield from _layers(given["layer"], depth + 1)
    elif isinstance(node.get("class_name"), str):
        yield node["class_name"], str(node.get("registered_name") or ""), given


def layers_in_front(settings: Mapping[str, Any], library: str) -> list[str]:
    """Kinds of the layers that images pass before a model's first convolution, dense layer or model
    of a library; none where there is no such.

    Args:
        settings: as Keras writes them.
        library: how the library registers its classes.
    """
    kinds: list[str] = []
    for kind, registered, _ in _layers(settings):
        if kind in (*CONVOLUTIONS, "Dense") or registered.startswith(library):
            return list(dict.fromkeys(kinds))
        if kind not in NOTHING and not kind.startswith("Random"):
            kinds.append(kind)
    return []


def input_shape(settings: Mapping[str, Any]) -> tuple[int, ...]:
    """Rows, columns and channels of the images that a model takes, where it has one input and tells
    its size; empty where it does not."""
    inputs = [given for kind, _, given in _layers(settings) if kind == "InputLayer"]
    shape = inputs[0].get("batch_shape", inputs[0].get("batch_input_shape")) if inputs else None
    if len(inputs) != 1 or not isinstance(shape, list) or len(shape) != 4:
        return ()
    known = all(type(size) is int and 0 < size < 2**24 for size in shape[1:])
    return tuple(shape[1:]) if known and shape[3] <= MOST_CHANNELS < min(shape[1:3]) else ()


def convolution(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of the first convolution of a model; empty without one."""
    return next((given for kind, _, given in _layers(settings) if kind in CONVOLUTIONS), {})


def stride_of(given: Mapping[str, Any], axes: int) -> tuple[int, ...]:
    """The stride of a convolution; empty where it is not told."""
    strides = given.get("strides")
    strides = [strides] * axes if isinstance(strides, int) else strides
    if not isinstance(strides, list) or len(strides) != axes:
        return ()
    return tuple(strides) if all(type(step) is int and step > 0 for step in strides) else ()


def against_call(
    file: str,
    dialect: Dialect,
    kernel: tuple[int, ...],
    given: Mapping[str, Any],
) -> Iterator[str]:
    """What a layer by itself does that the reading of its kernel does not, in sentences.

    Args:
        file: what the configuration is called.
        dialect: of a layer by itself, or of a model that is no class of a library.
        kernel: shape `(*patch, C, D)`.
        given: the layer's arguments.
    """
    size = given.get("kernel_size")
    size = [size] * (len(kernel) - 2) if isinstance(size, int) else size
    if dialect.architectures or dialect.framework != "keras" or not given:
        return
    if size != list(kernel[:-2]) or given.get("filters") != kernel[-1]:
        return
    steps = stride_of(given, len(kernel) - 2)
    if not dialect.plain and steps and steps != kernel[:-2]:
        told, side = ("×".join(map(str, axes)) for axes in (steps, kernel[:-2]))
        yield (f"{file} gives the layer stride {told}, and patches of {dialect.id}, {side}, tile")
    for name, usual in CALLED.items():
        value = given.get(name)
        parts = value if isinstance(value, list) else [value]
        if value is not None and any(part != usual for part in parts):
            yield (
                f"{file} gives the layer {name} {value!r}, and {dialect.id} is read with {usual!r}"
            )
    tiles = steps == kernel[:-2]
    if given.get("padding") not in (None, "valid") and not tiles:
        yield (
            f"{file} gives the layer padding {given['padding']!r} at another stride than its "
            "kernel's size, by which every image is padded otherwise"
        )
