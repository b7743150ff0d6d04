"""Live objects by name: `module:attribute` or `file.py:attribute` imported, and built where it is
a class or a factory."""

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...reference.errors import PatchParityError
from ..files.checkpoint import first_line


def load_object(target: str, init: Mapping[str, Any] | None = None) -> Any:
    """Import `module:attribute` or `file.py:attribute`; a class, or a function that needs no
    arguments, is called first.

    Args:
        target: what is meant.
        init: arguments of a class or factory.

    Raises:
        PatchParityError: a target that cannot be imported, built or called.
    """
    module_name, _, path = target.partition(":")
    if not (module_name and path):
        raise PatchParityError(
            f"{target!r}: expected module:attribute, such as mymodel.vit:PatchEmbed, or "
            "file.py:attribute"
        )
    # of what the module imports, in case it is TensorFlow
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        subject: Any = (
            _of_file(Path(module_name))
            if module_name.endswith(".py")
            else importlib.import_module(module_name)
        )
        for part in path.split("."):
            subject = getattr(subject, part)
    except (ImportError, AttributeError) as error:
        raise PatchParityError(f"{target!r} cannot be found: {error}{_hint(error)}") from None
    except Exception as error:  # whatever a stranger's module raises while it is imported
        raise PatchParityError(
            f"{target!r} cannot be imported: {type(error).__name__}: {first_line(error)}"
        ) from None
    if not callable(subject):
        raise PatchParityError(
            f"{target!r} is a {type(subject).__name__}: expected a module, a layer, a function or "
            "a class of these"
        )
    function = inspect.isroutine(subject)
    if inspect.isclass(subject) or (function and (init or _needs_nothing(subject))):
        return build(subject, repr(target), init)
    if init:
        raise PatchParityError(f"{target!r} is built already, and takes no arguments (--init)")
    return subject


def _hint(error: ImportError | AttributeError) -> str:
    """Where a module was looked for, or which names are near one that is not there."""
    if isinstance(error, ModuleNotFoundError):
        return f" (looked for in {os.getcwd()} and among what is installed)"
    if not isinstance(error, AttributeError) or not error.name:
        return ""
    near = difflib.get_close_matches(error.name, dir(error.obj), n=1)
    return f" (near is {near[0]})" if near else ""


def _of_file(path: Path) -> Any:
    """A file as a module, beside which it finds what it imports."""
    if not path.is_file():
        raise ImportError(f"there is no file {path}")
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.insert(0, folder)
    described = importlib.util.spec_from_file_location(path.stem, path)
    assert described is not None  # of a name that ends in .py
    assert described.loader is not None
    module = importlib.util.module_from_spec(described)
    sys.modules.setdefault(path.stem, module)
    described.loader.exec_module(module)
    return module


def build(factory: Any, name: str, init: Mapping[str, Any] | None = None) -> Any:
    """Call a class or a factory, without arguments or with those that were told."""
    try:
        subject = factory(**(init or {}))
    except Exception as error:
        told = "with these arguments" if init else "without arguments"
        hint = "" if init else ": name a function that builds it, or give them (init, --init)"
        raise PatchParityError(
            f"{name} cannot be built {told} ({type(error).__name__}: {first_line(error)}){hint}"
        ) from None
    if not callable(subject):
        raise PatchParityError(
            f"{name} gave a {type(subject).__name__} when it was called without arguments: "
            "expected a callable"
        )
    return subject


def _needs_nothing(function: Any) -> bool:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        return False
    return not any(
        parameter.kind is parameter.VAR_POSITIONAL
        for parameter in inspect.signature(function).parameters.values()
    )
