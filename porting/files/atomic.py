"""Files that are written whole or not at all, and never over what is read."""

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...reference.errors import PatchParityError


def plain(value: Any) -> Any:
    """Return a value with infinities and NaN as None: JSON has neither, and a parser must not choke
    on them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file in one step: a reader sees the old content or the new, never half of it.

    Raises:
        PatchParityError: a file that cannot be written.
    """
    write_text(path, json.dumps(plain(content), indent=1))


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Write a text, or its pieces one after another, as a file, in one step; a link is followed,
    and what is no regular file (a pipe, /dev/null) is written to as it is.

    Raises:
        PatchParityError: a file that cannot be written.
    """
    draft = None
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            with target.open("w", encoding="utf-8") as pipe:
                pipe.writelines([text] if isinstance(text, str) else text)
            return
        with tempfile.NamedTemporaryFile(
            "w", dir=target.parent, prefix=f".{target.name}-", delete=False, encoding="utf-8"
        ) as file:
            draft = file.name
            file.writelines([text] if isinstance(text, str) else text)
        os.chmod(draft, usual_mode())
        os.replace(draft, target)
    except (OSError, RuntimeError, UnicodeError) as error:
        raise PatchParityError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}"
        ) from None
    finally:  # of whatever the making of a piece raised too
        if draft and os.path.exists(draft):
            os.unlink(draft)


def require_writable(path: Path, *read: str | os.PathLike[str] | None) -> None:
    """Raise PatchParityError unless a file can be written here: asked before the work that it is to
    hold.

    Args:
        path: the file to be written.
        read: what the command reads, and what else it writes: none of them may be this file,
            whatever its name. Of a folder, none of its files.
    """
    if str(path) == "-":
        raise PatchParityError("cannot write -: expected the name of a file")
    try:
        target = path.resolve()
        for other in (file for file in read if file is not None and str(file)):
            if _is_of(target, Path(other)):
                raise PatchParityError(
                    f"cannot write {path}: it is {other} itself, or a file of it, which this "
                    "command reads or writes too"
                )
    except (OSError, RuntimeError) as error:  # a name that is too long, a loop of links
        raise PatchParityError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}"
        ) from None
    if target.is_dir():
        raise PatchParityError(
            f"cannot write {path}: it is a folder, and a folder is never replaced"
        )
    if target.exists() and not target.is_file():
        return
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise PatchParityError(f"cannot write {path}: {error.strerror or error}") from None


def _is_of(target: Path, other: Path) -> bool:
    """Whether a file is another one, by whatever name, or lies in that folder."""
    if other.is_dir():
        return target.exists() and other.resolve() in target.parents
    if other.exists() and target.exists():
        return target.samefile(other)
    return target == other.resolve()


def files_read(*checkpoints: str | os.PathLike[str] | None) -> list[Path]:
    """All files that reading checkpoints may touch: themselves, their shards, what lies beside them
    under their own names."""
    from .opening import opened

    files: list[Path] = []
    for path in (file for file in checkpoints if file is not None and str(file)):
        source = Path(path)
        with contextlib.suppress(PatchParityError), opened(source) as checkpoint:
            files += [
                *checkpoint.files,
                *([checkpoint.config_folder / "config.json"] if checkpoint.config_folder else []),
            ]
        if not source.is_dir():
            files.append(source)
    return files


def folders_read(*checkpoints: str | os.PathLike[str] | None) -> list[Path]:
    """The folders that are checkpoints' own, as those of Orbax and torch.distributed are."""
    from .opening import opened

    folders: list[Path] = []
    for path in (file for file in checkpoints if file is not None and str(file)):
        with contextlib.suppress(PatchParityError), opened(path) as checkpoint:
            folders += checkpoint.folders
    return folders


def require_outside(path: Path, *checkpoints: str | os.PathLike[str] | None) -> None:
    """Raise PatchParityError for a new file in a folder that is a checkpoint's own."""
    target = path.resolve()
    for folder in folders_read(*checkpoints):
        if folder.resolve() in target.parents:
            raise PatchParityError(
                f"cannot write {path}: {folder} is a checkpoint, which is read; name another folder"
            )


def usual_mode() -> int:
    """Permissions that a new file of this user gets; temporary files are private, and what replaces
    them must not be."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
