"""Live objects by name: `module:attribute` imported, and built where it is a class or a factory."""

import importlib
import inspect
import os
import sys
from typing import Any

from ...reference.errors import PatchParityError
from ..files.checkpoint import first_line


def load_object(target: str) -> Any:
    """Import `module:attribute`; a class, or a function that needs no arguments, is called first.

    Raises:
        PatchParityError: a target that cannot be imported, built or called.
    """
    module_name, _, path = target.partition(":")
    if not (module_name and path):
        raise PatchParityError(
            f"{target!r}: expected module:attribute, such as mymodel.vit:PatchEmbed"
        )
    # of what the module imports, in case it is TensorFlow
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        subject: Any = importlib.import_module(module_name)
        for part in path.split("."):
            subject = getattr(subject, part)
    except (ImportError, AttributeError) as error:
        raise PatchParityError(f"{target!r} cannot be found: {error}") from None
    except Exception as error:  # whatever a stranger's module raises while it is imported
        raise PatchParityError(
            f"{target!r} cannot be imported: {type(error).__name__}: {first_line(error)}"
        ) from None
    if not callable(subject):
        raise PatchParityError(
            f"{target!r} is a {type(subject).__name__}: expected a module, a layer, a function or "
            "a class of these"
        )
    if inspect.isclass(subject) or (inspect.isroutine(subject) and _needs_nothing(subject)):
        return build(subject, repr(target))
    return subject


def build(factory: Any, name: str) -> Any:
    """Call a class or a factory without arguments."""
    try:
        subject = factory()
    except Exception as error:
        raise PatchParityError(
            f"{name} cannot be built without arguments ({type(error).__name__}: "
            f"{first_line(error)}): name a function that builds it"
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
