"""What is known on the way of an image through a graph."""

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from .folding import Folder, Known
from .graph import Node
from .moves import NotRun
from .norms import Norm
from .patches import Patches
from .values import Followed


@dataclass(eq=False)
class Way:
    """What was found on the way of one image.

    Args:
        input: name of the graph's input.
        shape: of the images.
        end: the value that enters the first block.
        last: its name.
        takers: operators that take it.
        ways: the same with their tensors, in words.
        stopped: why it ends there, in words.
        mismatch: whether that is a constant of another shape.
        block: whether a block begins there, or the graph ends.
        kernel: `(D, *patch, C)`; None where no projection was found.
        kernel_told: where it comes from.
        patches: which it takes.
        patch_norm, token_norm, sequence_norm: where there are some.
        before_norm: the tokens as they were before the token norm, with what was added to them.
        added: what the projection itself adds, of a normalization of the image.
        notes: what is to be told, in sentences.
    """

    input: str
    shape: tuple[int, ...]
    end: Followed
    last: str
    takers: list[str] = field(default_factory=list)
    ways: list[str] = field(default_factory=list)
    stopped: str = ""
    mismatch: bool = False
    block: bool = True
    kernel: NDArray[Any] | None = None
    kernel_told: str = ""
    patches: Patches | None = None
    patch_norm: tuple[Norm, Followed] | None = None
    token_norm: Norm | None = None
    sequence_norm: Norm | None = None
    before_norm: Followed | None = None
    added: Known | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def width(self) -> int:
        """D."""
        return 0 if self.kernel is None else len(self.kernel)


class Walk:
    """An image on its way.

    Args:
        folder: tells constants.
        way: what was found so far.
        image: the image.
    """

    def __init__(self, folder: Folder, way: Way, image: Followed) -> None:
        self.folder, self.way = folder, way
        self.values: dict[str, Followed] = {way.input: image}
        self.shapes: dict[str, tuple[int, ...]] = {}  # of those that nothing takes any more

    def note(self, sentence: str) -> None:
        """Take note of what is to be told."""
        if sentence not in self.way.notes:
            self.way.notes.append(sentence)

    def known(self, name: str) -> Known:
        """A constant.

        Raises:
            NotRun: what is none.
        """
        known = self.folder.of(name)
        if known is None:
            why = self.folder.why.get(name, "")
            raise NotRun(f"{name!r}, which {why or 'no constant of the file tells'}")
        return known

    def optional(self, node: Node, place: int) -> Known | None:
        """A constant that may be left out."""
        given = len(node.inputs) > place and node.inputs[place]
        return self.known(node.inputs[place]) if given else None

    def followed(self, node: Node, place: int = 0) -> Followed:
        """An input that depends on the image."""
        value = self.values.get(node.inputs[place])
        if value is None:
            raise NotRun("a constant is changed by what the image holds")
        return value
