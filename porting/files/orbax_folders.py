"""Folders as Orbax lays them out: a CheckpointManager's with a folder for each step, a step's with
a folder for each item, an item's with arrays; and what the JSON in an item tells of its tree.

Orbax's own account of the forms: orbax/checkpoint/_src/metadata/tree.py, path/step.py.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...reference.errors import PatchParityError
from .checkpoint import LONGEST_NAMES, first_line, first_twin
from .safetensors_files import LARGEST_HEADER, without_twins

TREE, STEP, MANIFEST, SUCCESS = (
    "_METADATA",
    "_CHECKPOINT_METADATA",
    "manifest.ocdbt",
    "commit_success.txt",
)
"""Files of Orbax: what an item's tree is, what a step holds, where the arrays of an item are, and
that a step was written whole."""

AGGREGATE = "checkpoint"
"""A file of msgpack with the tree, as Orbax wrote it before `_METADATA`."""

UNFINISHED = ".orbax-checkpoint-tmp"
"""What is in the name of a folder that is being written, or was when it was cut off."""

PROCESS = "ocdbt.process_"
"""How a folder begins that holds what one process wrote; the manifest beside it leads to all."""

STEPS = re.compile(r"(?:(.*)_)?(\d+)")
"""Names of a step's folder: a number, maybe behind a word (`checkpoint_7` of Flax)."""

MOST_FOLDERS = 2**14
"""Folders that are looked into."""

ARRAY_TYPES = ("jax.Array", "np.ndarray", "scalar")
"""Types of leaves that are arrays, as an item's tree names them."""


@dataclass(frozen=True)
class Leaf:
    """A leaf of an item's tree.

    Args:
        keys: the path to it.
        required: whether it must be an array that is there.
    """

    keys: tuple[str, ...]
    required: bool

    @property
    def stored(self) -> str:
        """How its array is called on disk."""
        return ".".join(self.keys)


def folder_of(path: Path) -> Path:
    """The folder that is meant where one of Orbax's own files in it is named."""
    return path.parent if path.name in (TREE, STEP, MANIFEST) else path


def is_orbax(folder: Path) -> bool:
    """Whether a folder is one of Orbax: an item, a step, or a CheckpointManager's."""
    return (
        _is_item(folder)
        or (folder / STEP).is_file()
        or UNFINISHED in folder.name
        or any(
            _is_item(place) or (place / STEP).is_file() or UNFINISHED in place.name
            for place in _folders(folder)
        )
    )


def _folders(folder: Path) -> list[Path]:
    found = []
    for place in folder.iterdir():
        if place.is_dir():
            found.append(place)
        if len(found) > MOST_FOLDERS:
            raise PatchParityError(f"{folder} holds more than {MOST_FOLDERS} folders")
    return sorted(found)


def _is_item(folder: Path) -> bool:
    if (folder / TREE).is_file() or (folder / MANIFEST).is_file():
        return True
    return (folder / AGGREGATE).is_file() and any(
        (place / name).is_file() for place in _folders(folder) for name in (".zarray", "zarr.json")
    )


def items_of(folder: Path) -> tuple[dict[str, Path], str]:
    """The items that a folder means, by what stands before their names (nothing where there is
    one), and which step of several they are, in words.

    Raises:
        PatchParityError: a folder that was not written to its end, or holds no item.
    """
    if UNFINISHED in folder.resolve().name:
        raise PatchParityError(f"{folder} was not written to its end: Orbax calls it unfinished")
    if folder.resolve().name.startswith(PROCESS):
        raise PatchParityError(f"{folder} is what one process wrote: name the folder that it is in")
    told = ""
    if not _is_item(folder) and not (folder / STEP).is_file():
        steps, unfinished = _steps_of(folder)
        if steps:
            newest = max(steps)
            others = [str(step) for step in sorted(steps) if step != newest]
            folder = steps[newest]
            word = "steps" if len(others) > 1 else "step"
            told = f"of step {newest}, the newest, beside {word} {', '.join(others[-4:])}"
            told = told if others else ""
        elif unfinished:
            raise PatchParityError(
                f"{folder} holds no step that was written to its end, {unfinished.name} among "
                "others that were not"
            )
    if _is_item(folder):
        return {"": folder}, told
    items = [place for place in _folders(folder) if UNFINISHED not in place.name]
    items = [place for place in items if _is_item(place)]
    if not items:
        parts = any(next(place.glob(f"{PROCESS}*"), None) for place in (folder, *_folders(folder)))
        why = "its parts were never merged" if parts else "no item with arrays is in it"
        raise PatchParityError(f"{folder} is a folder of Orbax, and not whole: {why}")
    if len(items) == 1:
        return {"": items[0]}, told
    return {f"{place.name}/": place for place in items}, told


def _is_step(folder: Path) -> bool:
    return _is_item(folder) or (folder / STEP).is_file() or any(map(_is_item, _folders(folder)))


def _steps_of(folder: Path) -> tuple[dict[int, Path], Path | None]:
    """The steps that are whole, by number, and one that is not."""
    steps: dict[int, Path] = {}
    unfinished = None
    words = set()
    for place in _folders(folder):
        if UNFINISHED in place.name:
            unfinished = place
        elif (match := STEPS.fullmatch(place.name)) and _is_step(place):
            words.add(match[1])
            if int(match[2]) in steps:
                raise PatchParityError(
                    f"{folder} holds {place.name} and {steps[int(match[2])].name}: name one"
                )
            steps[int(match[2])] = place
    if len(words) > 1:
        raise PatchParityError(
            f"{folder} holds steps under several names ({', '.join(map(str, words))}): name one"
        )
    # where any says that it was written to its end, one that does not was not
    if any((place / SUCCESS).is_file() for place in steps.values()):
        for number, place in list(steps.items()):
            if not (place / SUCCESS).is_file():
                unfinished = steps.pop(number)
    return steps, unfinished


def tree_of(item: Path) -> tuple[list[Leaf], bool] | None:
    """The leaves of an item's tree, and whether arrays of zeros are written like others; None where
    no file tells.

    Raises:
        PatchParityError: a file that is damaged, or whose names lead outside.
    """
    path = item / TREE
    if not path.is_file():
        return None
    if path.stat().st_size > LARGEST_HEADER:
        raise PatchParityError(f"{path} is damaged or hostile: it has {path.stat().st_size} bytes")
    try:
        told = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=without_twins)
        leaves = [_leaf(entry) for entry in told["tree_metadata"].values()]
        whole = told.get("store_array_data_equal_to_fill_value") is True
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise PatchParityError(
            f"{path} is damaged or hostile: it tells no tree ({first_line(error)})"
        ) from None
    if sum(len(leaf.stored) for leaf in leaves) > LONGEST_NAMES:
        raise PatchParityError(
            f"{path} is damaged or hostile: its names have more than {LONGEST_NAMES} characters"
        )
    if twice := first_twin([leaf.stored for leaf in leaves]):
        raise PatchParityError(f"{path} tells {twice!r} twice")
    return leaves, whole


def _leaf(entry: Mapping[str, Any]) -> Leaf:
    keys = tuple(part["key"] for part in entry["key_metadata"])
    if not keys or not all(isinstance(key, str) for key in keys):
        raise ValueError("a leaf without a name")
    require_inside(".".join(keys))
    told = entry["value_metadata"]
    return Leaf(keys, told["value_type"] in ARRAY_TYPES and not told.get("skip_deserialize"))


def require_inside(stored: str) -> None:
    """Raise ValueError where the name of an array leads out of its folder, or is none."""
    parts = stored.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in stored or "\\" in stored:
        raise ValueError(f"{stored[:200]!r} is no name of an array")


def names_of(leaves: list[tuple[str, tuple[str, ...]]]) -> list[tuple[str, bool]]:
    """How leaves are called, and whether a last key `value` was left out: an `nnx.State` keeps each
    variable as a mapping of it alone.

    Args:
        leaves: what stands before the name of each, and its keys.
    """
    children: dict[tuple[str, tuple[str, ...]], int] = {}
    for before, keys in leaves:
        children[before, keys[:-1]] = children.get((before, keys[:-1]), 0) + 1
    named = []
    for before, keys in leaves:
        wrapped = len(keys) > 1 and keys[-1] == "value" and children[before, keys[:-1]] == 1
        named.append((before + "/".join(keys[:-1] if wrapped else keys), wrapped))
    if first_twin([name for name, _ in named]):
        return [(before + "/".join(keys), False) for before, keys in leaves]
    return named
