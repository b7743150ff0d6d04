"""Which backends there are: those of this folder, and those that other packages bring.

Laws: finding a backend imports no framework; a backend from elsewhere that is broken costs only
itself.
"""

import functools
import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ..reference.errors import PatchParityError, nearest, require_choice
from .base import Backend, Implementation

ENTRY_POINT_GROUP = "patchparity.backends"


@dataclass(frozen=True)
class BrokenBackend:
    """A backend from elsewhere that could not be loaded: its name and why."""

    name: str
    reason: str


@functools.cache
def _discovered() -> tuple[dict[str, Backend], tuple[BrokenBackend, ...]]:
    """Backends of this folder (`BACKENDS` of each file, of a folder, or of the files in it), then
    those of the entry-point group; a broken or clashing entry point costs only itself."""
    import importlib.metadata  # loads email and sockets

    backends: dict[str, Backend] = {}
    broken = []
    for loaded in _modules(importlib.import_module(__package__)):
        backends.update({backend.name: backend for backend in getattr(loaded, "BACKENDS", ())})
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        try:
            brought = _backends_of(entry.load(), entry.value)
            if clashing := next(
                (backend.name for backend in brought if backend.name in backends), None
            ):
                raise ValueError(f"a backend named {clashing!r} exists already")
        except (Exception, SystemExit) as error:  # a stranger's module must not stop ours
            broken.append(
                BrokenBackend(
                    entry.name, f"entry point {entry.name} = {entry.value} failed: {error}"
                )
            )
        else:
            backends.update({backend.name: backend for backend in brought})
    return backends, tuple(broken)


def missing_of(backend: Backend) -> str | None:
    """Why a backend cannot run here; that it cannot tell, where it raises an error instead."""
    try:
        return backend.missing()
    except (Exception, SystemExit) as error:  # a stranger's, which costs only itself
        return f"{backend.name} cannot tell what it needs ({type(error).__name__}: {error})"


def _backends_of(loaded: Any, name: str) -> list[Backend]:
    """What an entry point names: a backend, its class, or a module with BACKENDS, as each file of
    ours is."""
    brought = (
        list(loaded.BACKENDS)
        if hasattr(loaded, "BACKENDS")
        else [loaded() if isinstance(loaded, type) else loaded]
    )
    for backend in brought:
        if not isinstance(backend, Backend):
            kind = type(backend).__name__
            raise TypeError(
                f"{name} is a {kind}, expected a patchparity.Backend, its class, or a module with "
                "BACKENDS"
            )
    return brought


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    """The modules of a folder; of a folder in it the folder alone, where that has BACKENDS."""
    for module in pkgutil.iter_modules(package.__path__):
        loaded = importlib.import_module(f"{package.__name__}.{module.name}")
        if module.ispkg and not hasattr(loaded, "BACKENDS"):
            yield from _modules(loaded)
        else:
            yield loaded


def list_backends() -> list[Backend]:
    """Return every backend, installed or not, without importing any framework; the reference's own
    (`numpy`) first.

    Examples:
        >>> import patchparity
        >>> "numpy" in [backend.name for backend in patchparity.list_backends()]
        True
    """
    return sorted(
        _discovered()[0].values(), key=lambda backend: (backend.name != "numpy", backend.name)
    )


def list_broken_backends() -> tuple[BrokenBackend, ...]:
    """Return the entry points that could not be loaded, and why."""
    return _discovered()[1]


def get_backend(name: str) -> Backend:
    """Return the backend of a name.

    Raises:
        PatchParityError: an unknown name; the message lists the known ones.

    Examples:
        >>> import patchparity
        >>> patchparity.get_backend("numpy").missing() is None
        True
    """
    known = _discovered()[0]
    for entry in list_broken_backends():
        if entry.name == name and name not in known:
            raise PatchParityError(entry.reason)
    require_choice("backend", name, sorted(known))
    return known[name]


def list_implementations(
    backends: list[str] | None = None, implementations: list[str] | None = None
) -> list[tuple[Backend, Implementation]]:
    """Return the implementations that a selection names, all where it names none.

    Args:
        backends: names of backends, or None for all.
        implementations: names `backend:formulation:mode`; a part may be left out at the end, so
            `torch:conv2d` means all its modes.

    Raises:
        PatchParityError: a name that selects nothing.

    Examples:
        >>> import patchparity
        >>> pairs = patchparity.list_implementations(["numpy"], ["numpy:linear"])
        >>> [implementation.name for _, implementation in pairs]
        ['numpy:linear:eager']
    """
    chosen = (
        [get_backend(name) for name in dict.fromkeys(backends)] if backends else list_backends()
    )
    rows = [
        (backend, implementation)
        for backend in chosen
        for implementation in backend.implementations
    ]
    if not implementations:
        return rows
    picked: dict[str, tuple[Backend, Implementation]] = {}
    for wanted in implementations:
        owner = get_backend(wanted.split(":")[0])
        if owner not in chosen:
            raise PatchParityError(
                f"implementation {wanted!r} was asked for, but only backend "
                f"{', '.join(b.name for b in chosen)}"
            )
        matches = [
            row for row in rows if row[1].name == wanted or row[1].name.startswith(wanted + ":")
        ]
        if not matches:
            names = [row[1].name for row in rows if row[0] is owner]
            raise PatchParityError(
                f"implementation {wanted!r} is unknown{nearest(wanted, names)}; expected one of "
                f"{', '.join(names)}"
            )
        picked.update({row[1].name: row for row in matches})
    return list(picked.values())


def require_installed(backends: Iterable[str]) -> None:
    """Raise PatchParityError for a backend that was asked for by name and is not installed."""
    for name in backends:
        if reason := missing_of(get_backend(name)):
            raise PatchParityError(f"backend {name!r} was asked for, but {reason}")
