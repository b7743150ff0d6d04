"""The blocks of a live torch model: found in its lists, watched and fed by hooks.

Laws: hooks alone are put on a model, and taken off whatever happens; a block that is no module (a
pair whose residuals its owner adds) is fed by writing into the stream of its owner.
"""

import contextlib
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .block_ending import Ending
from .block_record import BlockRecord
from .frameworks import evaluating
from .torch_entry import entry_of
from .towers import MATRICES, Tower
from .whole import OF_PIXELS


def torch_towers(model: Any) -> dict[str, Tower]:
    """Sequences of blocks of one class in a torch model, none inside another, by the dotted name of
    what holds them."""
    import torch

    lists = (torch.nn.ModuleList, torch.nn.Sequential)
    towers: dict[str, Tower] = {}
    taken: list[str] = []
    for path, module in model.named_modules():
        if any(path.startswith(f"{name}.") or path == name for name in taken):
            continue
        children = [
            (f"{path}.{name}" if path else name, child) for name, child in module.named_children()
        ]
        if isinstance(module, lists):
            groups = [children] if len({type(child) for _, child in children}) == 1 else []
        else:
            groups = [group for group in _numbered(children) if len(group) > 1]
        for group in groups:
            if all(is_block(child) for _, child in group):
                towers[path] = group
                taken += [name for name, _ in group]
    return towers


def _numbered(children: Tower) -> list[list[tuple[str, Any]]]:
    """Children of one class whose names end in numbers, by class."""
    groups: dict[type, list[tuple[str, Any]]] = {}
    for name, child in children:
        if name[-1:].isdigit():
            groups.setdefault(type(child), []).append((name, child))
    return list(groups.values())


def is_block(module: Any) -> bool:
    """Whether a module has a norm and the matrices of a block."""
    matrices = sum(parameter.ndim == 2 for parameter in module.parameters())
    return matrices >= MATRICES and any(is_norm(part) for part in module.modules())


def is_norm(module: Any) -> bool:
    """Whether a module is a norm, by what its class is called."""
    return any("norm" in base.__name__.lower() for base in type(module).__mro__[:2])


def is_pool(module: Any) -> bool:
    """Whether a module pools, by what its class is called."""
    return "pool" in type(module).__name__.lower()


def torch_embeds(model: Any, part: str) -> bool:
    """Whether patches are embedded within a part of a torch model."""
    for path, module in model.get_submodule(part).named_modules():
        kernel = getattr(module, "kernel_size", None)
        channels = getattr(module, "in_channels", None)
        if "patch" in path.rpartition(".")[2] or (
            kernel is not None and isinstance(channels, int) and channels <= OF_PIXELS
        ):
            return True
    return False


def run_torch_blocks(model: Any, tower: Tower, images: NDArray[Any], record: BlockRecord) -> Ending:
    """Run a torch model in evaluation mode, its blocks watched and fed.

    Args:
        model: the module.
        tower: its blocks.
        images: shape `(B, C, H, W)`.
        record: what writes down and feeds.
    """
    import torch

    from ...backends.torch.adapter import as_tensor

    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    placed = as_tensor(images)
    if first is not None:
        placed = placed.to(first.device, first.dtype)
    record.sequence_first = _sequence_first(tower[0][1])
    ending = Ending(record)
    with contextlib.ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        call = entry_of(model, tower[0][0], placed, stack)
        if isinstance(tower[0][1], torch.nn.ModuleList):
            _Pairs(model, tower, record).watch(stack)
        else:
            _watch(tower, record, stack)
        _watch_ending(model, tower, ending, stack)
        result = call()
    record.complete()
    ending.conclude(result)
    return ending


def framework_array(array: NDArray[Any], like: Any) -> Any:
    """A NumPy array as a tensor like another, its strides included: on them depends the order in
    which torch sums."""
    import torch

    from ...backends.torch.adapter import as_tensor

    return torch.empty_like(like).copy_(as_tensor(array))


def _sequence_first(block: Any) -> bool | None:
    """What torch's own attention within a block says of the order of its tokens."""
    says = {not part.batch_first for part in block.modules() if hasattr(part, "batch_first")}
    return says.pop() if len(says) == 1 else None


KNOWN = ("hidden_states", "x", "src", "tokens", "inputs", "input")
"""What models call the tokens where they name them."""


def _tokens_at(arguments: tuple[Any, ...], named: Mapping[str, Any]) -> int | str | None:
    """Where among arguments the tokens stand: a name that is known, or the first tensor of
    numbers."""

    def fits(value: Any) -> bool:
        return hasattr(value, "is_floating_point") and value.is_floating_point()

    if arguments and fits(arguments[0]):
        return 0
    for name in (*KNOWN, *named):
        if fits(named.get(name)):
            return name
    return None


def _main(result: Any) -> Any:
    """The tokens among what a block returns."""
    return result[0] if isinstance(result, (tuple, list)) and result else result


def _watch(tower: Tower, record: BlockRecord, stack: contextlib.ExitStack) -> None:
    """Hooks on blocks that are modules."""

    def before(
        number: int, module: Any, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[Any, Any] | None:
        at = _tokens_at(arguments, named)
        value = None if at is None else arguments[at] if isinstance(at, int) else named[at]
        replaced = record.enter(number, value)
        if replaced is None:
            return None
        if isinstance(at, int):
            return (*arguments[:at], replaced, *arguments[at + 1 :]), named
        return arguments, {**named, str(at): replaced}

    def behind(number: int, module: Any, arguments: Any, result: Any) -> None:
        record.leave(number, _main(result))

    for number, (_, block) in enumerate(tower):
        hook = block.register_forward_pre_hook(functools.partial(before, number), with_kwargs=True)
        stack.callback(hook.remove)
        stack.callback(block.register_forward_hook(functools.partial(behind, number)).remove)


@dataclass
class _Pairs:
    """Hooks on blocks that are lists of two modules whose residuals their owner adds
    (vit-pytorch): the stream between them is fed.

    Args:
        model, tower, record: as in `run_torch_blocks`.
        stream: what entered the half that runs, and what it made.
    """

    model: Any
    tower: Tower
    record: BlockRecord
    stream: list[Any] = field(default_factory=list)

    def watch(self, stack: contextlib.ExitStack) -> None:
        """Put hooks on both halves of all pairs, and on all that may follow the last."""
        for number, (name, pair) in enumerate(self.tower):
            if len(pair) != 2:
                raise PatchParityError(
                    f"{name} is a list of {len(pair)} modules: expected attention and MLP, whose "
                    "residuals are known"
                )
            for half, module in enumerate(pair):
                before = functools.partial(self._before, number, half)
                stack.callback(module.register_forward_pre_hook(before).remove)
                stack.callback(module.register_forward_hook(self._behind).remove)
        inside = {id(part) for _, pair in self.tower for part in pair.modules()}
        for module in self.model.modules():
            if id(module) not in inside:
                stack.callback(module.register_forward_pre_hook(self._after_last).remove)
        stack.push(self._finish)

    def _before(self, number: int, half: int, module: Any, arguments: tuple[Any, ...]) -> None:
        if not arguments:
            raise PatchParityError(f"{self.tower[number][0]} is given no tokens by place")
        value = arguments[0]
        if half:
            self._require_sum(number, value)
        else:
            if number:
                self._require_sum(number - 1, value)
                self.record.leave(number - 1, value)
            replaced = self.record.enter(number, value)
            if replaced is not None:
                self._write(value, replaced, number)
        self.stream = [value.clone()]

    def _behind(self, module: Any, arguments: Any, result: Any) -> None:
        self.stream.append(_main(result))

    def _require_sum(self, number: int, value: Any) -> None:
        """Refuse what does more around its halves than add."""
        import torch

        before, made = self.stream
        if made.shape != before.shape or not torch.equal(before + made, value):
            raise PatchParityError(
                f"{self.tower[number][0]} is a pair of modules around which the model does more "
                "than add what they make to what they were given: its blocks cannot be fed"
            )

    def _write(self, value: Any, replaced: Any, number: int) -> None:
        """Feed a pair through the tensor that its owner keeps for the residual."""
        own = {tensor.untyped_storage().data_ptr() for tensor in self.model.parameters()}
        own |= {tensor.untyped_storage().data_ptr() for tensor in self.model.buffers()}
        if value.untyped_storage().data_ptr() in own or 0 in value.stride():
            raise PatchParityError(
                f"{self.tower[number][0]} is given a tensor of the model's own, which is not "
                "written into: give no replacement for it"
            )
        value.copy_(replaced)

    def _after_last(self, module: Any, arguments: tuple[Any, ...]) -> None:
        last = len(self.tower) - 1
        waits = len(self.record.fed) == last + 1 and len(self.record.left) == last
        if not waits or len(self.stream) != 2 or not arguments:
            return
        value = arguments[0]
        if getattr(value, "shape", None) == self.stream[0].shape:
            self._require_sum(last, value)
            self.record.leave(last, value)

    def _finish(self, kind: Any, error: Any, trace: Any) -> None:
        last = len(self.tower) - 1
        if error is None and len(self.record.left) == last and len(self.stream) == 2:
            self.record.leave(last, self.stream[0] + self.stream[1])


def _watch_ending(model: Any, tower: Tower, ending: Ending, stack: contextlib.ExitStack) -> None:
    """Hooks on all that is not a block, for what they give behind the last."""
    import torch

    inside = {id(part) for _, block in tower for part in block.modules()}

    def behind(module: Any, arguments: tuple[Any, ...], result: Any) -> None:
        value = arguments[0] if arguments else None
        ending.see_fields(result)
        if isinstance(module, torch.nn.Linear):
            ending.see_head(value, result)
        elif isinstance(module, torch.nn.Identity):
            ending.see_norm(value, result)
            ending.see_pool(result)
        elif is_norm(module):
            ending.see_norm(value, result)
        elif is_pool(module):
            ending.see_pool(result)

    for module in model.modules():
        if id(module) not in inside:
            stack.callback(module.register_forward_hook(behind).remove)
