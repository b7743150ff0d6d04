"""One valid checkpoint, to be mutated."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Seed:
    """One valid checkpoint.

    Args:
        name: of its kind.
        files: content by name; the first is the one that is opened.
        checked: whether its format has a checksum over every value, so that a changed byte may be
            refused and never read as another value.
    """

    name: str
    files: dict[str, bytes]
    checked: bool = False

    @property
    def first(self) -> str:
        """The file that is opened."""
        return next(iter(self.files))

    def write(self, folder: Path) -> Path:
        """Write it, and return the file that is opened."""
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder / self.first
