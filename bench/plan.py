"""What a benchmark measures: options, and the rows that follow from them."""

import dataclasses
import json
import math
import subprocess
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import __version__
from ..backends.base import Backend, Implementation, check_place, get_backend, list_implementations, require_installed
from ..reference.errors import PatchParityError, require_choice
from .cases import named_case, preset
from .hosts import LOCAL, parse_hosts
from .operations import OPERATIONS
from .rows import NEARLY_PEAK, Row, product_shape
from .timing import Effort
from .workers import CALL_SECONDS, START_SECONDS, machine_of

REFERENCE_IMPLEMENTATION = "numpy:linear:eager"
"""What ratios are to: the reference's own formulation."""


CACHES = ("warm", "cold")

MOST_ROUNDS = 512
"""Rounds at which the search for a precision goal ends: the interval narrows with their root, and 512 halve that of 128 at four times the time."""


@dataclass(frozen=True)
class BenchOptions:
    """What to measure. Every field is an option of `patchparity bench` and, as `--patchparity-FIELD`, of `pytest bench`.

    Args:
        preset: `smoke`, `quick` or `full`.
        cases: names of cases instead of the preset's.
        backends, implementations: as in `check`; none means all.
        threads: CPU threads to ask for; none means all cores.
        devices: `cpu`, `cuda`; none means all that are found.
        dtypes: float32 by default.
        caches: `warm`, `cold`; warm by default.
        operations: `tokens`, `sequence`, `train-step`; none means the preset's.
        rounds: samples a row; None means the preset's. With a precision goal, the most there may be (512 unless given).
        generations: lives of the worker processes that the rounds are spread over; None means the preset's.
        precision_goal: half-width of the interval of every ratio to the reference, as a fraction, at which a case is done; looked at after 16,
            32, 64, ... rounds.
        time_budget: seconds for a case, looked at when the goal is.
        pythons: other interpreters for some backends, each `BACKEND=PATH`, so that frameworks whose dependencies conflict can take part in one
            run; patchparity must be installed there.
        hosts: `local`, `ssh=USER@MACHINE` or `ssh=USER@MACHINE//python=PATH`: the machines to measure on; none means this one. Where another
            takes part, this version of patchparity must be installed there.
        seed: of data and order.
        call_seconds: a worker that takes longer than this for one call is ended, and its rows say so.
        out: folder of the record.
        resume: keep what the record holds, and measure the rest.
        replay: measure nothing: tell again what the record holds.
    """

    preset: str = "smoke"
    cases: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    implementations: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ("float32",)
    caches: tuple[str, ...] = ("warm",)
    operations: tuple[str, ...] = ()
    rounds: int | None = None
    generations: int | None = None
    precision_goal: float | None = None
    time_budget: float | None = None
    pythons: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    seed: int = 0
    call_seconds: float = CALL_SECONDS
    out: str = ""
    resume: bool = False
    replay: bool = False

    def check(self) -> None:
        """Raise PatchParityError for anything unknown or impossible, before any work is done."""
        machines = {host.label: machine_of(host) for host in parse_hosts(self.hosts)}
        plan(self)
        for label, machine in machines.items():
            for threads in self.threads:
                if not 1 <= threads <= machine.cores:
                    whose = "that this process may use" if label == LOCAL else f"of {label}"
                    raise PatchParityError(f"threads={threads}: expected 1 to {machine.cores}, the cores {whose}")
        elsewhere = self.interpreters()
        if LOCAL in machines:
            require_installed(name for name in self.backends if name not in elsewhere)
        check_place(self.dtypes, self.devices)
        for cache in self.caches:
            require_choice("cache", cache, CACHES)
        for operation in self.operations:
            require_choice("operation", operation, OPERATIONS)
        for name in ("rounds", "generations"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise PatchParityError(f"{name}={count}: expected at least 1")
        for name in ("call_seconds", "precision_goal", "time_budget"):
            if (amount := getattr(self, name)) is not None and not 0 < amount < math.inf:
                raise PatchParityError(f"{name}={amount}: expected a finite number above 0")
        if self.time_budget is not None and self.precision_goal is None:
            raise PatchParityError(f"time_budget={self.time_budget}: it ends the search for a precision_goal, and none was given")
        if self.seed < 0:
            raise PatchParityError(f"seed={self.seed}: expected an integer of at least 0")
        for label, machine in machines.items():
            if "cuda" in self.devices and "cuda" not in machine.devices:
                where = "here" if label == LOCAL else f"on {label}"
                raise PatchParityError(f"device 'cuda' was asked for, but no NVIDIA GPU is seen {where} (nvidia-smi)")

    def interpreters(self) -> dict[str, str]:
        """The interpreter of each backend that has one of its own.

        Raises:
            PatchParityError: an unknown backend, or an interpreter that is absent or has no patchparity.
        """
        found = {}
        for text in self.pythons:
            name, _, path = text.partition("=")
            if not path:
                raise PatchParityError(f"python {text!r}: expected BACKEND=PATH, for instance tensorflow=/opt/tf/bin/python")
            get_backend(name)
            try:
                command = [path, "-c", "import patchparity, execnet; print(patchparity.__version__)"]
                asked = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise PatchParityError(f"python {text!r} cannot be run: {error}") from None
            if asked.returncode or asked.stdout.strip() != __version__:
                told = asked.stdout.strip() or (asked.stderr.strip().splitlines() or ["no answer"])[-1]
                raise PatchParityError(
                    f"python {text!r}: expected an interpreter with patchparity[bench] {__version__}, found {told}; pip install it there"
                )
            found[name] = path
        return found

    def effort(self) -> Effort:
        """How long each block is measured."""
        chosen = preset(self.preset)
        rounds = self.rounds or (chosen.rounds if self.precision_goal is None else MOST_ROUNDS)
        return Effort(rounds, self.generations or chosen.generations, self.precision_goal, self.time_budget)

    def arguments(self) -> list[str]:
        """The options as arguments of pytest, those that differ from the default."""
        given = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                text = _listed(value) if isinstance(value, tuple) else str(value)
                given.append(f"--patchparity-{field.name}={text}")
        return given

    @classmethod
    def parse(cls, texts: dict[str, str | None]) -> "BenchOptions":
        """Build options from the texts of pytest's options.

        Raises:
            PatchParityError: a text that is no number where one is expected.
        """
        fields: dict[str, Any] = {}
        for name, text in texts.items():
            if text is None:
                continue
            try:
                if name in ("rounds", "generations", "seed"):
                    fields[name] = int(text)
                elif name in ("call_seconds", "precision_goal", "time_budget"):
                    fields[name] = float(text)
                elif name in ("resume", "replay"):
                    fields[name] = text == "True"
                elif name in ("preset", "out"):
                    fields[name] = text
                else:
                    items = _items(text)
                    fields[name] = tuple(map(int, items)) if name == "threads" else items
            except ValueError:
                raise PatchParityError(f"{name}={text!r}: expected numbers") from None
        return cls(**fields)


def _listed(values: tuple[Any, ...]) -> str:
    """Values with commas between them, as JSON where one holds a comma itself (options of ssh, paths)."""
    texts = [str(value) for value in values]
    return json.dumps(texts) if any("," in text for text in texts) else ",".join(texts)


def _items(text: str) -> tuple[str, ...]:
    """What `_listed` wrote."""
    return tuple(json.loads(text) if text.startswith("[") else filter(None, text.split(",")))


def plan(options: BenchOptions) -> list[Row]:
    """Lay out every row, block by block: in each the implementations (and one patch of each), the ceilings, and the A/A copy.

    Raises:
        PatchParityError: an unknown preset, case, backend or implementation.
    """
    if options.replay:
        return []
    chosen = preset(options.preset)
    selection = list_implementations(list(options.backends) or None, list(options.implementations) or None)
    if not options.implementations and not chosen.every_formulation:
        selection = [(backend, each) for backend, each in selection if not (each.costly_compile or each.variant)]
    if not (options.implementations or options.backends):  # nobody asked for a peer
        wanted = chosen.every_formulation
        selection = [(backend, each) for backend, each in selection if not each.peer or (wanted and not backend.missing())]
    reference = REFERENCE_IMPLEMENTATION
    if reference not in {each.name for _, each in selection}:
        numpy = get_backend("numpy")
        selection.insert(0, (numpy, numpy.implementation(reference)))
    cases = [named_case(name) for name in options.cases or chosen.cases]
    own = {text.partition("=")[0] for text in options.pythons}
    operations = options.operations or chosen.operations
    rows = []
    for host in parse_hosts(options.hosts):
        machine = machine_of(host)
        # What is installed elsewhere, a worker there tells.
        elsewhere = own if host.label == LOCAL else {backend.name for backend, _ in selection}
        for case in cases:
            for device in options.devices or machine.devices:
                for dtype in options.dtypes:
                    for threads in options.threads or (machine.cores,):
                        for cache in options.caches:
                            place: dict[str, Any] = dict(case=case.name, dtype=dtype, precision="ieee", threads=threads)
                            place.update(cache=cache, host=host.label)
                            rows += _block_rows(selection, device, place, elsewhere, operations)
    return list(dict.fromkeys(rows))


def _block_rows(
    selection: list[tuple[Backend, Implementation]],
    device: str,
    place: dict[str, Any],
    elsewhere: set[str],
    operations: tuple[str, ...],
) -> list[Row]:
    """All rows of one block on one device; the A/A copy does whatever operations are timed."""
    backends = dict.fromkeys(backend for backend, _ in selection)
    return [
        *(
            row
            for backend, implementation in selection
            for row in _implementation_rows(backend, implementation, device, place, backend.name in elsewhere, operations)
        ),
        *(row for backend in backends for row in _ceiling_rows(backend, device, place, backend.name in elsewhere)),
        *(
            Row(implementation=REFERENCE_IMPLEMENTATION, device="cpu", operation=operation, role="aa", **place)
            for operation in OPERATIONS
            if operation == "tokens" or operation in operations
        ),
    ]


def _implementation_rows(
    backend: Backend,
    implementation: Implementation,
    device: str,
    place: dict[str, Any],
    elsewhere: bool,
    operations: tuple[str, ...],
) -> list[Row]:
    """A row for each operation, and one for a single patch of the case. NumPy is on the CPU alone, and the reference in the blocks of every device.

    Whether a backend with an interpreter of its own (`elsewhere`) is installed there, its worker tells.
    """
    name, dtype = implementation.name, place["dtype"]
    if backend.name == "numpy" and device != "cpu":
        if name != REFERENCE_IMPLEMENTATION:
            return []
        device = "cpu"
    skip = ("" if elsewhere else backend.missing()) or ("" if dtype in implementation.dtypes else f"{name} has no {dtype}")
    skip = skip or ("" if device in implementation.devices else f"{name} does not run on {device}")
    skip = skip or backend.refuses(implementation, named_case(place["case"]).spec) or ""
    role = "peer" if implementation.peer else "implementation"
    rows = [
        Row(implementation=name, device=device, role=role, skip=skip, **place),
        Row(implementation=name, device=device, operation="one-patch", role="overhead", skip=skip, **place),
    ]
    for operation in OPERATIONS[1:]:
        if operation in operations:
            lacking = operation == "train-step" and not implementation.differentiable
            reason = skip or (f"{name} has no gradients" if lacking else "")
            rows.append(Row(implementation=name, device=device, operation=operation, role=role, skip=reason, **place))
    return rows


def _ceiling_rows(backend: Backend, device: str, place: dict[str, Any], elsewhere: bool) -> list[Row]:
    """The matrix product of the case's shape, where that is no peak a square one, and a copy, if the framework has its own worth timing.

    Of a framework without a product of 16 bits (NumPy, which is always there) the one in float32.
    """
    if backend.yardstick != backend.name or (backend.name == "numpy" and device != "cpu"):
        return []
    products = ["gemm"] if min(product_shape("gemm", named_case(place["case"]))) >= NEARLY_PEAK else ["gemm", "peak"]
    operations = products if place["dtype"] in backend.product_dtypes else []
    if not operations and np.dtype(place["dtype"]).itemsize == 2 and "float32" in backend.product_dtypes:
        operations = ["peak-float32"]
    if type(backend).copy is not Backend.copy:
        operations.append("copy")
    about: dict[str, Any] = dict(device=device, role="ceiling", skip=("" if elsewhere else backend.missing()) or "", **place)
    return [Row(implementation=f"{backend.name}:{name}", operation=name, **about) for name in operations]
