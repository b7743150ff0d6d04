"""The blocks of a live Flax module: of nnx found in its graph, of linen in its variables, watched
and fed through their `__call__`.

Laws: of nnx the `__call__` of the blocks' class is replaced while one call lasts, and sees no other
instances; of linen `intercept_methods` does the same. Nothing is compiled.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...backends.layouts import NHWC, images_to_layout
from ...reference.errors import PatchParityError
from .block_ending import Ending
from .block_record import BlockRecord
from .frameworks import deterministic
from .towers import MATRICES, Tower
from .whole import OF_PIXELS

EVALUATING = {"train": False, "training": False, "is_training": False, "deterministic": True}
"""What says in a call that a model is not trained."""


def flax_towers(model: Any) -> dict[str, Tower]:
    """Sequences of blocks of one class in an nnx module, or of one form in the parameters of a
    bound linen module, by the dotted name of what holds them.

    Raises:
        PatchParityError: a linen module without variables.
    """
    from flax import nnx

    if not isinstance(model, nnx.Module):
        return _linen_towers(_parameters(model), "")
    groups: dict[tuple[str, type], list[tuple[tuple[Any, ...], Any]]] = {}
    for path, module in nnx.iter_modules(model):
        if path and str(path[-1])[-1:].isdigit() and _is_block(module):
            groups.setdefault((_dotted(path[:-1]), type(module)), []).append((path, module))
    towers: dict[str, Tower] = {}
    for (outer, _), group in sorted(groups.items(), key=lambda each: each[0][0].count(".")):
        group.sort(key=lambda each: _place(each[0][-1]))
        inside = any(
            outer == name or outer.startswith(f"{name}.")
            for tower in towers.values()
            for name, _ in tower
        )
        if not inside:
            towers[outer] = [(_dotted(path), module) for path, module in group]
    return towers


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def _place(name: Any) -> int:
    """The number with which a name ends."""
    digits = str(name)[len(str(name).rstrip("0123456789")) :]
    return int(digits or -1)


def _is_block(module: Any) -> bool:
    from flax import nnx

    leaves = [leaf for _, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param))]
    matrices = sum(len(leaf.shape) >= 2 for leaf in leaves)
    return matrices >= MATRICES and any(is_norm(part) for _, part in nnx.iter_modules(module))


def is_norm(module: Any) -> bool:
    """Whether a module is a norm, by what its class is called."""
    return "norm" in type(module).__name__.lower()


def _parameters(model: Any) -> Mapping[str, Any]:
    """The parameters of a bound linen module."""
    if getattr(model, "scope", None) is None:
        raise PatchParityError(
            f"{type(model).__name__} has no variables: give it bound to them, module.bind(...)"
        )
    return model.variables["params"]


def _linen_towers(tree: Mapping[str, Any], path: str) -> dict[str, Tower]:
    towers: dict[str, Tower] = {}
    groups: dict[Any, list[tuple[str, Any]]] = {}
    for name, inner in tree.items():
        if isinstance(inner, Mapping):
            form = tuple(sorted((each, leaf.shape) for each, leaf in _leaves(inner)))
            matrices = sum(len(shape) >= 2 for _, shape in form)
            normed = any(each.rpartition(".")[2] == "scale" for each, _ in form)
            if name[-1:].isdigit() and matrices >= MATRICES and normed:
                groups.setdefault(form, []).append((name, inner))
            else:
                towers |= _linen_towers(inner, f"{path}.{name}" if path else name)
    for group in groups.values():
        group.sort(key=lambda each: _place(each[0]))
        outer = path if len(groups) == 1 else f"{path}.{group[0][0]}"
        towers[outer] = [(f"{path}.{name}" if path else name, inner) for name, inner in group]
    return towers


def linen_leaves(model: Any) -> list[tuple[str, tuple[int, ...]]]:
    """Dotted name and shape of each parameter of a bound linen module."""
    return [(name, tuple(leaf.shape)) for name, leaf in _leaves(_parameters(model))]


def _leaves(tree: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, inner in tree.items():
        here = f"{path}.{name}" if path else str(name)
        found += _leaves(inner, here) if isinstance(inner, Mapping) else [(here, inner)]
    return found


def flax_embeds(model: Any, part: str) -> bool:
    """Whether patches are embedded within a part of a Flax module, by its dotted name."""
    from flax import nnx

    if not isinstance(model, nnx.Module):
        inside = [
            (name, leaf)
            for name, leaf in _leaves(_parameters(model))
            if name == part or name.startswith(f"{part}.")
        ]
        return any(len(leaf.shape) == 4 and leaf.shape[2] <= OF_PIXELS for _, leaf in inside)
    for path, module in nnx.iter_modules(model):
        name = _dotted(path)
        if name == part or name.startswith(f"{part}."):
            channels = getattr(module, "in_features", None)
            if "patch" in name.rpartition(".")[2] or (
                hasattr(module, "kernel_size")
                and isinstance(channels, int)
                and channels <= OF_PIXELS
            ):
                return True
    return False


def run_flax_blocks(model: Any, tower: Tower, images: NDArray[Any], record: BlockRecord) -> Ending:
    """Call a Flax module as at inference, its blocks watched and fed.

    Args:
        model: an nnx module, or a bound linen module.
        tower: its blocks.
        images: shape `(B, C, H, W)`.
        record: what writes down and feeds.
    """
    import jax
    from flax import linen, nnx

    ending = Ending(record)
    placed = jax.numpy.asarray(np.ascontiguousarray(images_to_layout(images, NHWC)))
    known = inspect.signature(type(model).__call__).parameters
    options = {name: value for name, value in EVALUATING.items() if name in known}
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.disable_jit())
        if isinstance(model, nnx.Module):
            stack.enter_context(deterministic(model))
            _watch_nnx(model, tower, record, ending, stack)
        else:
            numbers = {name: number for number, (name, _) in enumerate(tower)}
            watch = functools.partial(_intercepted, record, ending, numbers)
            stack.enter_context(linen.intercept_methods(watch))
        result = model(placed, **options)
    record.complete()
    ending.conclude(result)
    return ending


def _watch_nnx(
    model: Any, tower: Tower, record: BlockRecord, ending: Ending, stack: contextlib.ExitStack
) -> None:
    """Replace the `__call__` of the classes of blocks, norms and matrices."""
    from flax import nnx

    numbers = {id(block): number for number, (_, block) in enumerate(tower)}
    inside = {id(part) for _, block in tower for _, part in nnx.iter_modules(block)}
    behind = {
        id(part): part
        for _, part in nnx.iter_modules(model)
        if id(part) not in inside and (is_norm(part) or hasattr(part, "out_features"))
    }
    kinds = {type(block) for _, block in tower} | {type(part) for part in behind.values()}
    for kind in kinds:
        call = kind.__call__

        def shadow(self: Any, *arguments: Any, _call: Any = call, **named: Any) -> Any:
            inner = functools.partial(_call, self)
            if id(self) in numbers:
                return _fed(record, numbers[id(self)], inner, arguments, named)
            result = inner(*arguments, **named)
            if id(self) in behind:
                _see(ending, self, arguments, result)
            return result

        if "__call__" in vars(kind):
            stack.callback(setattr, kind, "__call__", call)
        else:
            stack.callback(delattr, kind, "__call__")
        kind.__call__ = shadow


def _intercepted(
    record: BlockRecord,
    ending: Ending,
    numbers: Mapping[str, int],
    call: Callable[..., Any],
    arguments: tuple[Any, ...],
    named: dict[str, Any],
    context: Any,
) -> Any:
    """A method of a linen module while one call of the model lasts."""
    number = numbers.get(_dotted(context.module.path))
    if context.method_name != "__call__":
        return call(*arguments, **named)
    if number is not None:
        return _fed(record, number, call, arguments, named)
    result = call(*arguments, **named)
    _see(ending, context.module, arguments, result)
    return result


def _fed(
    record: BlockRecord,
    number: int,
    call: Callable[..., Any],
    arguments: tuple[Any, ...],
    named: dict[str, Any],
) -> Any:
    at = next(iter(named), "") if not arguments else ""
    replaced = record.enter(number, arguments[0] if arguments else named.get(at))
    if replaced is not None and arguments:
        arguments = (replaced, *arguments[1:])
    elif replaced is not None:
        named = {**named, at: replaced}
    result = call(*arguments, **named)
    record.leave(number, result[0] if isinstance(result, (tuple, list)) else result)
    return result


def _see(ending: Ending, module: Any, arguments: tuple[Any, ...], result: Any) -> None:
    if not arguments:
        return
    if is_norm(module):
        ending.see_norm(arguments[0], result)
    elif hasattr(module, "out_features") or hasattr(module, "features"):
        ending.see_head(arguments[0], result)


def framework_array(array: NDArray[Any], like: Any) -> Any:
    """A NumPy array as JAX's, in the dtype of another."""
    import jax

    return jax.numpy.asarray(array).astype(like.dtype)
