"""The blocks of a live Keras model: found among its layers, watched and fed through their `call`.

Laws: a layer's `call` is shadowed on that very layer, past Keras's tracking, and the shadow is
taken away whatever happens; the model is called eagerly, whatever its backend.
"""

import contextlib
import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...backends.layouts import images_to_layout
from .block_ending import Ending
from .block_record import BlockRecord
from .frameworks import image_layout
from .towers import MATRICES, Tower


def children_of(layer: Any) -> list[Any]:
    """The layers directly inside a layer, in their order."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def keras_towers(model: Any) -> dict[str, Tower]:
    """Sequences of blocks of one class among the layers of a Keras model, none inside another, by
    the dotted name of what holds them."""
    towers: dict[str, Tower] = {}
    seen: set[int] = set()

    def walk(layer: Any, path: str) -> None:
        groups: dict[type, list[tuple[str, Any]]] = {}
        rest = []
        for child in children_of(layer):
            if id(child) in seen:
                continue
            seen.add(id(child))
            inner = f"{path}.{child.name}" if path else str(child.name)
            if is_block(child):
                groups.setdefault(type(child), []).append((inner, child))
            rest.append((inner, child))
        blocks = {
            kind: group
            for kind, group in groups.items()
            if len(group) > 1 or _ends_in_number(group[0][0])
        }
        several = len(blocks) > 1
        for kind, group in blocks.items():
            towers[f"{path}.{kind.__name__}" if several else path] = group
        inside = {id(block) for group in blocks.values() for _, block in group}
        for inner, child in rest:
            if id(child) not in inside:
                walk(child, inner)

    walk(model, "")
    return towers


def _ends_in_number(name: str) -> bool:
    return name[-1:].isdigit()


def is_block(layer: Any) -> bool:
    """Whether a layer has a norm and the matrices of a block, and is no model."""
    if hasattr(layer, "get_layer"):
        return False
    matrices = sum(len(variable.shape) >= 2 for variable in layer.weights)
    return matrices >= MATRICES and any(is_norm(part) for part in layer._flatten_layers())


def is_norm(layer: Any) -> bool:
    """Whether a layer is a norm, by what its class is called."""
    return "norm" in type(layer).__name__.lower()


def is_pool(layer: Any) -> bool:
    """Whether a layer pools, by what its class is called."""
    return "pool" in type(layer).__name__.lower()


def keras_embeds(model: Any, part: str) -> bool:
    """Whether patches are embedded within a part of a Keras model, by its dotted name."""
    layer = model
    for name in part.split("."):
        layer = next((each for each in children_of(layer) if each.name == name), layer)
    return any(
        hasattr(each, "patch_size") or "patch" in str(each.name) or hasattr(each, "strides")
        for each in layer._flatten_layers()
    )


def run_keras_blocks(model: Any, tower: Tower, images: NDArray[Any], record: BlockRecord) -> Ending:
    """Call a Keras model as at inference, its blocks watched and fed.

    Args:
        model: the layer or model.
        tower: its blocks.
        images: shape `(B, C, H, W)`.
        record: what writes down and feeds.
    """
    import keras

    ending = Ending(record)
    placed = keras.ops.convert_to_tensor(
        np.ascontiguousarray(images_to_layout(images, image_layout(model, "keras")))
    )
    with contextlib.ExitStack() as stack:
        if keras.backend.backend() == "torch":
            import torch

            stack.enter_context(torch.no_grad())
        for number, (_, block) in enumerate(tower):
            _shadow(block, functools.partial(_fed, record, number, block.call), stack)
        inside = {id(part) for _, block in tower for part in block._flatten_layers()}
        for layer in model._flatten_layers(include_self=False):
            told = is_norm(layer) or is_pool(layer) or hasattr(layer, "units")
            if id(layer) not in inside and told:
                _shadow(layer, functools.partial(_behind, ending, layer, layer.call), stack)
        part = part_of_images(model, tower[0][1])
        result = part(_named(part, placed), training=False)
    record.complete()
    if isinstance(result, dict):
        result = result.get("sequence_output", next(iter(result.values())))
    ending.conclude(result)
    return ending


def framework_array(array: NDArray[Any], like: Any) -> Any:
    """A NumPy array as a tensor of Keras's backend, in the dtype of another."""
    import keras

    tensor = keras.ops.convert_to_tensor(array.astype(np.float32), "float32")
    return keras.ops.cast(tensor, keras.backend.standardize_dtype(like.dtype))


def numpy_array(tensor: Any) -> NDArray[Any]:
    """A tensor of Keras's backend as a NumPy array."""
    import keras

    if type(tensor).__module__.partition(".")[0] == "torch":
        from ...backends.torch.adapter import as_array

        return as_array(tensor)
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def part_of_images(model: Any, block: Any) -> Any:
    """The largest part of a model around a block that takes images alone."""
    inputs = getattr(model, "inputs", None) or ()
    if len(inputs) < 2:
        return model
    for child in children_of(model):
        if any(layer is block for layer in child._flatten_layers()):
            return part_of_images(child, block)
    return model


def _named(model: Any, placed: Any) -> Any:
    """Images under the name by which a model takes them, where it takes them by one."""
    inputs = model.input if getattr(model, "inputs", None) else None
    return dict.fromkeys(inputs, placed) if isinstance(inputs, dict) else placed


def _shadow(layer: Any, call: Any, stack: contextlib.ExitStack) -> None:
    held = vars(layer).get("call")
    object.__setattr__(layer, "call", call)
    if held is None:
        stack.callback(object.__delattr__, layer, "call")
    else:
        stack.callback(object.__setattr__, layer, "call", held)


def _fed(record: BlockRecord, number: int, call: Any, *arguments: Any, **named: Any) -> Any:
    """A block's call, its tokens written down and fed."""
    at = None if arguments else next(iter(named), None)
    value = arguments[0] if arguments else named.get(at) if at is not None else None
    replaced = record.enter(number, value)
    if replaced is not None and arguments:
        arguments = (replaced, *arguments[1:])
    elif replaced is not None and at is not None:
        named = {**named, at: replaced}
    result = call(*arguments, **named)
    record.leave(number, result[0] if isinstance(result, (tuple, list)) else result)
    return result


def _behind(ending: Ending, layer: Any, call: Any, *arguments: Any, **named: Any) -> Any:
    """The call of a norm, a pooling or a matrix that is in no block."""
    result = call(*arguments, **named)
    value = next(iter((*arguments, *named.values())), None)
    if is_norm(layer):
        ending.see_norm(value, result)
    elif is_pool(layer):
        ending.see_pool(result)
    else:
        ending.see_head(value, result)
    return result
