"""The project's own weight files: safetensors with the axis names, the spec and the sequence layout
in the metadata.

Writing never leaves a half-written or wrong file: every array is made contiguous (safetensors 0.8.0
writes a transposed view as if it were not transposed, safetensors issue 825), the file is read back
and compared bit by bit, then moved over the target.
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  safetensors finds bfloat16 only once ml_dtypes has registered it
import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from ...backends.layouts import CANONICAL, with_time_axis
from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import LayerNorm, PatchEmbedWeights, SequenceLayout
from .atomic import usual_mode

FORMAT = "patchparity.weights/1"
DTYPES = ("float64", "float32", "float16", "bfloat16")
NORMS = ("patch_norm", "token_norm", "sequence_norm")
_NORM_PARTS = ("scale", "shift")


def _tensors(weights: PatchEmbedWeights) -> Iterator[tuple[str, NDArray[Any]]]:
    for entry in dataclasses.fields(weights):
        value = getattr(weights, entry.name)
        if isinstance(value, LayerNorm):
            for part in _NORM_PARTS:
                if getattr(value, part) is not None:
                    yield f"{entry.name}.{part}", getattr(value, part)
        elif isinstance(value, np.ndarray):
            yield entry.name, value


def _axes(name: str, array: NDArray[Any]) -> str:
    """Axis names of a tensor, as they stand in the metadata."""
    if name == "kernel":
        return with_time_axis(CANONICAL, array.ndim - 2)
    return {"register_tokens": "R D", "positions": "rows D"}.get(
        name, "K" if name.startswith("patch_norm") else "D"
    )


def save_weights(
    path: str | os.PathLike[str], weights: PatchEmbedWeights, spec: PatchEmbedSpec
) -> None:
    """Write canonical weights to a safetensors file, with the axis names, the spec and the sequence
    layout in its metadata.

    Args:
        path: the file; an existing one is replaced, in one step.
        weights: kernel `(D, P_h, P_w, C)` and whatever else they hold, in any floating-point dtype.
        spec: sizes that the weights fit.

    Raises:
        PatchParityError: weights that do not fit the spec, a folder that cannot be written, a file
            that reads back differently.

    Examples:
        >>> import patchparity
        >>> spec = patchparity.PatchEmbedSpec((12, 20), 4, 3, 10)  # image, patch, channels, width
        >>> weights = patchparity.initialize_weights(spec, seed=0)
        >>> patchparity.save_weights("embedding.safetensors", weights, spec)
        >>> _, again = patchparity.load_weights("embedding.safetensors")
        >>> again == spec
        True
    """
    weights.check_spec(spec)
    target = Path(path).resolve()
    tensors = {
        name: np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        for name, array in _tensors(weights)
    }
    for name, array in tensors.items():
        if array.dtype.name not in DTYPES:
            raise PatchParityError(
                f"{name} is of dtype {array.dtype}: expected one of {', '.join(DTYPES)}"
            )
    metadata = {
        "format": FORMAT,
        "spec": json.dumps(spec.to_dict()),
        "layout": json.dumps(dataclasses.asdict(weights.layout)),
        "rms": json.dumps(
            [
                name
                for name in NORMS
                if (norm := getattr(weights, name)) is not None and not norm.centered
            ]
        ),
        "axes": json.dumps({name: _axes(name, array) for name, array in tensors.items()}),
    }
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".patchparity-") as folder:
            draft = Path(folder) / "weights.safetensors"
            safetensors.numpy.save_file(tensors, draft, metadata)
            for name, array in safetensors.numpy.load_file(draft).items():
                if array.dtype != tensors[name].dtype or array.tobytes() != tensors[name].tobytes():
                    raise PatchParityError(
                        f"{name} reads back differently from {target}: nothing was written"
                    )
            draft.chmod(usual_mode())
            draft.replace(target)
    except OSError as error:
        raise PatchParityError(f"cannot write {target}: {error.strerror or error}") from None


def load_weights(path: str | os.PathLike[str]) -> tuple[PatchEmbedWeights, PatchEmbedSpec]:
    """Read weights that `save_weights` wrote.

    Returns:
        The weights, in the dtypes of the file, and their spec.

    Raises:
        PatchParityError: a file that cannot be read, is no safetensors file, or was not written by
            `save_weights`.

    Examples:
        >>> import patchparity
        >>> spec = patchparity.PatchEmbedSpec((12, 20), 4, 3, 10)  # image, patch, channels, width
        >>> weights = patchparity.initialize_weights(spec, seed=0)
        >>> patchparity.save_weights("embedding.safetensors", weights, spec)
        >>> held, _ = patchparity.load_weights("embedding.safetensors")
        >>> bool((held.kernel == weights.kernel).all())
        True
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (OSError, safetensors.SafetensorError) as error:
        raise PatchParityError(f"cannot read weights from {path}: {error}") from None
    if metadata.get("format") != FORMAT:
        held = ", ".join(sorted(tensors)) or "nothing"
        raise PatchParityError(
            f"{path} holds {held}, format {metadata.get('format')!r}: expected {FORMAT!r}"
        )
    try:
        spec = PatchEmbedSpec.from_dict(json.loads(metadata["spec"]))
        layout = SequenceLayout(**json.loads(metadata["layout"]))
        weights = PatchEmbedWeights(
            **_fields(tensors, json.loads(metadata.get("rms", "[]"))), layout=layout
        )
    except PatchParityError as error:
        raise PatchParityError(f"{path} is damaged: {error}") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise PatchParityError(f"{path} is damaged: {type(error).__name__} {error}") from None
    weights.check_spec(spec)
    return weights, spec


def _fields(tensors: dict[str, NDArray[Any]], rms: list[str]) -> dict[str, Any]:
    """Group tensors into the fields of PatchEmbedWeights; a norm is a scale, and mostly a shift.
    `rms` names those that do not take the mean out.

    Raises:
        PatchParityError: a tensor that is no field, half a norm, or numbers that are no floats.
    """
    norms = set(NORMS)
    names = {entry.name for entry in dataclasses.fields(PatchEmbedWeights)} - norms - {"layout"}
    expected = {*names, *(f"{norm}.{part}" for norm in norms for part in _NORM_PARTS)}
    fields: dict[str, Any] = {}
    for name, array in tensors.items():
        owner, _, part = name.partition(".")
        partners = [f"{owner}.scale"] if part else [name]
        if name not in expected or not set(partners) <= set(tensors):
            raise PatchParityError(
                f"tensor {name!r} is unknown, or its partner is missing: expected "
                f"{', '.join(sorted(expected))}"
            )
        if array.dtype.name not in DTYPES:
            raise PatchParityError(
                f"{name} is of dtype {array.dtype}: expected one of {', '.join(DTYPES)}"
            )
        norm = (
            LayerNorm(tensors[f"{owner}.scale"], tensors.get(f"{owner}.shift"), owner not in rms)
            if part
            else None
        )
        fields[owner] = norm or array
    return fields
