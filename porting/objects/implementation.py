"""Anyone's implementation as a peer: `module:attribute`, timed as it is, with the weights that it
has.

Its rows are called `BACKEND:ATTRIBUTE@MODULE:object`, BACKEND being that of the framework it is
called with, whose processes it shares.
"""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...backends.base import Implementation
from ...backends.computation import LoadedEmbedding, Operation
from ...backends.registry import get_backend
from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights

OBJECT_MODE = "object"
"""The mode of somebody's own implementation, which is called as it is."""
READ_SECONDS = 300.0
"""Time to import somebody's module, with a framework behind it."""


@dataclass(frozen=True)
class ObjectFacts:
    """What is known of somebody's implementation before it is timed.

    Args:
        implementation: as rows name it.
        spec: its sizes.
        any_size: whether it takes images of other sizes too.
        dtype: that of its weights.
        to_sequence: whether it returns the sequence, prefix tokens or positions added, instead of
            the tokens.
    """

    implementation: str
    spec: PatchEmbedSpec
    any_size: bool
    dtype: str
    to_sequence: bool

    def refuses(self, spec: PatchEmbedSpec, dtype: str) -> str | None:
        """Say in one sentence why it cannot compute a problem, or None if it can."""
        name = self.implementation.split(":")[1]
        if dtype != self.dtype:
            return f"{name} is of {self.dtype}, not of {dtype}"
        for field, word in (
            ("in_channels", "channels"),
            ("embed_dim", "width"),
            ("patch_size", "patch"),
            ("stride", "stride"),
        ):
            size, asked = getattr(self.spec, field), getattr(spec, field)
            if size != asked:
                return f"{name} has {word} {_text(size)}, this case {_text(asked)}"
        if self.spec.effective_padding != spec.effective_padding:
            return (
                f"{name} has padding {self.spec.effective_padding}, this case "
                f"{spec.effective_padding}"
            )
        if self.spec.image_size != spec.image_size and not self.any_size:
            return (
                f"{name} takes images of {_text(self.spec.image_size)}, this case has "
                f"{_text(spec.image_size)}"
            )
        return None


def _text(sizes: Any) -> str:
    return "×".join(map(str, sizes)) if isinstance(sizes, tuple) else str(sizes)


@functools.cache
def read_facts(target: str) -> ObjectFacts:
    """Find out, in a process of its own, what `module:attribute` is.

    Raises:
        PatchParityError: whatever `read_live` refuses, and what cannot be a peer.
    """
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    command = [
        sys.executable,
        "-c",
        f"from {__name__} import tell; import sys; tell(sys.argv[1])",
        target,
    ]
    import_paths = [path for path in sys.path if path]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [os.environ.get("PYTHONPATH", ""), here, *import_paths]
        ).strip(os.pathsep),
    }
    try:
        asked = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=READ_SECONDS,
            check=False,
            env=environment,
        )
        answer = json.loads(asked.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise PatchParityError(f"{target!r} was not read within {READ_SECONDS:g} s") from None
    except (IndexError, ValueError):
        lines = asked.stderr.strip().splitlines() or [f"exit status {asked.returncode}"]
        raise PatchParityError(f"{target!r} could not be read: {lines[-1]}") from None
    if "error" in answer:
        raise PatchParityError(answer["error"])
    return ObjectFacts(**{**answer, "spec": PatchEmbedSpec.from_dict(answer["spec"])})


def tell(target: str) -> None:
    """Print the facts of a target as JSON, or why there are none."""
    from .read import read_live

    try:
        live = read_live(target)
        backend = _backend_of(live.framework)
        get_backend(backend)
        module, _, path = target.partition(":")
        facts: dict[str, Any] = dict(
            implementation=f"{backend}:{path}@{module}:{OBJECT_MODE}",
            spec=live.spec.to_dict(),
            any_size=_takes_other_sizes(target, live.spec),
            dtype=live.dtype,
            to_sequence=live.to_sequence,
        )
    except PatchParityError as error:
        facts = {"error": str(error)}
    print(json.dumps(facts))


def _backend_of(framework: str) -> str:
    """Name of the backend that an object of a framework belongs to."""
    if framework != "keras":
        return framework
    import keras

    return f"keras-{keras.backend.backend()}"


def _takes_other_sizes(target: str, spec: PatchEmbedSpec) -> bool:
    """Whether it takes images of a size beside its own; where it fails on its own too, which may be
    a guess, its worker will tell why."""
    from .read import read_live

    def works(size: tuple[int, ...]) -> bool:
        try:
            live = read_live(target, image_size=size)
            return bool(
                live.call(np.zeros(live.spec.images_shape(1), live.dtype)).shape[1]
                >= live.spec.num_patches
            )
        except PatchParityError:
            return False

    other = tuple(size + step for size, step in zip(spec.image_size, spec.stride, strict=True))
    return works(other) or not works(spec.image_size)


def target_of(implementation: Implementation) -> str:
    """`module:attribute` of a row's implementation."""
    path, _, module = implementation.formulation.partition("@")
    return f"{module}:{path}"


class ObjectEmbedding(LoadedEmbedding):
    """An object with the weights that it has: nothing is put into it."""

    def __init__(
        self, implementation: Implementation, spec: PatchEmbedSpec, dtype: str, device: str
    ) -> None:
        from .load import load_object
        from .read import read_live

        subject = load_object(target_of(implementation))
        if device == "cuda" and hasattr(subject, "to"):
            subject = subject.to(device)
        if hasattr(subject, "eval"):
            subject.eval()
        self.backend = get_backend(implementation.backend)
        self.live = read_live(subject, image_size=spec.image_size)
        self.weights = self.live.weights
        if self.live.dtype != dtype:
            raise PatchParityError(
                f"{target_of(implementation)} is of {self.live.dtype}, not of {dtype}"
            )

    def assign(self, weights: PatchEmbedWeights) -> None:
        """It keeps its own."""

    def place(self, images: NDArray[Any]) -> Any:
        """Into its own framework's arrays and layout."""
        return self.live.call.place(images)

    def call(self, inputs: Any) -> Any:
        """As its users call it."""
        return self.live.call.run(inputs)

    def synchronize(self, outputs: Any) -> None:
        """As its framework does."""
        self.backend.wait(outputs)

    def fetch(self, outputs: Any) -> NDArray[Any]:
        """`(B, N, D)`, whatever it returned."""
        return self.live.call.fetch(outputs)

    def sequence(self, class_token: NDArray[Any], positions: NDArray[Any]) -> Operation | None:
        """What it returns, with its own prefix tokens and positions."""
        return (
            Operation(self, self.call, lambda outputs: {"forward": self.fetch(outputs)})
            if self.live.to_sequence
            else None
        )


def find_implementation(name: str) -> Implementation:
    """The implementation that a row names: its backend's, or somebody's object, of its framework's
    arithmetic, bias and positions added apart.

    Raises:
        PatchParityError: an unknown name.
    """
    backend = get_backend(name.partition(":")[0])
    if not name.endswith(f":{OBJECT_MODE}"):
        return backend.implementation(name)
    _, formulation, mode = name.split(":")
    return dataclasses.replace(
        backend.implementations[0],
        formulation=formulation,
        mode=mode,
        output_roundings=2,
        differentiable=False,
        peer=True,
        variant=False,
    )
