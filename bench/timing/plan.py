"""What a benchmark measures: whether its options are possible, and the rows that follow from
them."""

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...backends.base import (
    DTYPES,
    Backend,
    Implementation,
    Precision,
    check_place,
    check_precision,
)
from ...backends.registry import (
    get_backend,
    list_implementations,
    missing_of,
    require_installed,
)
from ...porting.objects.implementation import ObjectFacts, read_facts
from ...reference.errors import PatchParityError, require_choice
from ..cases import named_case
from ..machine.hosts import LOCAL, Host, Machine, parse_hosts
from ..record.rows import NEARLY_PEAK, OPERATIONS, Block, Row, product_shape
from ..record.schema import Role
from ..worker.client import machine_of
from .fleet import nodes_of
from .memory import refuse_what_does_not_fit, require_fit
from .options import CACHES, BenchOptions
from .presets import Part, preset

REFERENCE_IMPLEMENTATION = "numpy:linear:eager"
"""What ratios are to: the reference's own formulation."""

BYTES_IMPLEMENTATION = "numpy:linear_uint8:eager"
"""The same of pixels as bytes."""


@dataclass(frozen=True)
class Plan:
    """What a benchmark measures, laid out once for all who work on it.

    Args:
        options: what was asked for.
        rows: every row, block by block.
        hosts: the machines that take part, by label; none in a replay.
        machines: what is known of them.
        interpreters: that of each backend that has one of its own.
    """

    options: BenchOptions
    rows: tuple[Row, ...]
    hosts: Mapping[str, Host]
    machines: Mapping[str, Machine]
    interpreters: Mapping[str, str]

    def into(self, folder: Path) -> "Plan":
        """The same, with its record in a folder."""
        options = dataclasses.replace(self.options, out=str(folder.resolve()))
        return dataclasses.replace(self, options=options)


def plan(options: BenchOptions) -> Plan:
    """Lay out a benchmark.

    Raises:
        PatchParityError: anything unknown or impossible, before any work is done.
    """
    if options.replay:
        return Plan(options, (), {}, {}, {})
    known = taking_part(options)
    hosts = {host.label: host for host in known}
    machines = {host.label: machine for host, machine in known.items()}
    for dtype in options.dtypes:
        require_choice("dtype", dtype, DTYPES)
    interpreters = options.interpreters()
    rows = rows_of(options, machines, interpreters)
    _require_possible(options, machines, interpreters)
    return Plan(options, tuple(rows), hosts, machines, interpreters)


def taking_part(options: BenchOptions) -> dict[Host, Machine]:
    """The hosts that options name, with what is known of them; of a Ray cluster every node.

    Raises:
        PatchParityError: one that cannot be read or reached, or that cannot measure.
    """
    known: dict[Host, Machine] = {}
    for host in parse_hosts(options.hosts):
        if host.ray:
            first = 1 + sum(bool(other.ray) for other in known)
            nodes = nodes_of(host.ray, first)
            if {node.node for node in nodes} & {other.node for other in known}:
                raise PatchParityError(f"host {host.ray}: this cluster is named twice")
            known.update(nodes)
        else:
            known[host] = machine_of(host)
    return known


def _require_possible(
    options: BenchOptions, machines: Mapping[str, Machine], elsewhere: Mapping[str, str]
) -> None:
    """Raise PatchParityError for anything unknown or impossible in options."""
    for label, machine in machines.items():
        for threads in options.threads:
            if not 1 <= threads <= machine.cores:
                whose = "that this process may use" if label == LOCAL else f"of {label}"
                raise PatchParityError(
                    f"threads={threads}: expected 1 to {machine.cores}, the cores {whose}"
                )
    if LOCAL in machines:
        require_installed(name for name in options.backends if name not in elsewhere)
    check_place(options.dtypes, options.devices)
    for precision in options.precisions:
        check_precision(precision)
    for cache in options.caches:
        require_choice("cache", cache, CACHES)
    for operation in options.operations:
        require_choice("operation", operation, OPERATIONS)
    for name in ("rounds", "generations"):
        if (count := getattr(options, name)) is not None and count < 1:
            raise PatchParityError(f"{name}={count}: expected at least 1")
    for name in ("call_seconds", "precision_goal", "time_budget"):
        if (amount := getattr(options, name)) is not None and not 0 < amount < math.inf:
            raise PatchParityError(f"{name}={amount}: expected a finite number above 0")
    if options.seed < 0:
        raise PatchParityError(f"seed={options.seed}: expected an integer of at least 0")
    for label, machine in machines.items():
        if "cuda" in options.devices and "cuda" not in machine.devices:
            where = "here" if label == LOCAL else f"on {label}"
            raise PatchParityError(
                f"device 'cuda' was asked for, but no NVIDIA GPU is seen {where} (nvidia-smi)"
            )


def rows_of(
    options: BenchOptions,
    machines: Mapping[str, Machine] | None = None,
    interpreters: Mapping[str, str] | None = None,
) -> list[Row]:
    """Lay out every row, block by block: in each the implementations (and one patch of each), the
    ceilings, and the A/A copy.

    Args:
        options: what is asked for.
        machines: those that take part, by label; None for those that the options name.
        interpreters: of backends that have one of their own; None for those of the options.

    Raises:
        PatchParityError: an unknown preset, case, backend or implementation.
    """
    if machines is None:
        machines = {host.label: machine for host, machine in taking_part(options).items()}
    chosen = preset(options.preset)
    parts = chosen.parts
    if options.cases:
        first = next(part for part in parts if not part.devices)
        parts = (dataclasses.replace(first, cases=options.cases, compiled=first.every_formulation),)
    separate_backends = set(options.interpreters() if interpreters is None else interpreters)
    rows: list[Row] = []
    for label, machine in machines.items():
        for part in parts:
            selection = _selection(options, part, machine.devices)
            # What is installed elsewhere, a worker there tells.
            elsewhere = (
                separate_backends if label == LOCAL else {backend.name for backend, _ in selection}
            )
            counts = options.threads or (
                thread_counts(machine.cores) if part.every_thread_count else (machine.cores,)
            )
            devices = [
                device
                for device in options.devices or machine.devices
                if not part.devices or device in part.devices
            ]
            places = itertools.product(
                part.cases, counts, options.caches, devices, _precisions(options, part)
            )
            most = max(counts)
            objects = [read_facts(target) for target in options.peers]
            operations = {
                *(options.operations or part.operations),
                *("sequence" for facts in objects if facts.to_sequence),
                *("uint8" for _, each in selection if each.pixels == "uint8"),
            }
            for case, threads, cache, device, (dtype, precision) in places:
                if device == "cpu" and precision not in (options.precisions or ("ieee",)):
                    continue
                # a GPU computes no faster for more threads of the CPU
                if device != "cpu" and threads < most:
                    continue
                place: dict[str, Any] = dict(
                    case=named_case(case).name,
                    dtype=dtype,
                    threads=threads,
                    cache=cache,
                    host=label,
                )
                place.update(device=device, precision=precision)
                rows += _place_rows(selection, objects, place, elsewhere, operations)
    return _that_fit(list({row.identity: row for row in rows}.values()), options, machines)


def _that_fit(rows: list[Row], options: BenchOptions, machines: Mapping[str, Machine]) -> list[Row]:
    """The rows, those of blocks for which there is no memory with that reason to skip them.

    Raises:
        PatchParityError: a case that was asked for by name, and for which there is no memory.
    """
    blocks: dict[Block, list[Row]] = defaultdict(list)
    for row in rows:
        blocks[row.block].append(row)
    reasons = {
        block: refuse_what_does_not_fit(
            members, named_case(block[0]), machines[block[-1]].available_bytes
        )
        for block, members in blocks.items()
    }
    if options.cases:
        for reason in reasons.values():
            require_fit(reason)
    return [dataclasses.replace(row, skip=row.skip or reasons[row.block] or "") for row in rows]


def thread_counts(cores: int) -> tuple[int, ...]:
    """1, 2, 4, ... threads, up to all cores."""
    return tuple(dict.fromkeys((*(2**power for power in range(cores.bit_length())), cores)))


def _precisions(options: BenchOptions, part: Part) -> tuple[tuple[str, str], ...]:
    """Types with their precisions: those that were asked for, or a preset's, which are about
    float32 alone."""
    return tuple(
        (dtype, precision)
        for dtype in options.dtypes or part.dtypes
        for precision in options.precisions
        or (part.precisions_on_cuda if dtype == "float32" else ("ieee",))
    )


def _selection(
    options: BenchOptions, part: Part, devices: tuple[str, ...]
) -> list[tuple[Backend, Implementation]]:
    """The implementations of a part, the reference among them; those that nobody named only where
    the preset has them, and the machine a device."""
    selection = list_implementations(
        list(options.backends) or None, list(options.implementations) or None
    )
    selection = [
        (backend, implementation)
        for backend, implementation in selection
        if implementation.name in options.implementations
        or set(implementation.devices) & set(options.devices or devices)
    ]
    of_bytes = "uint8" in (options.operations or part.operations)
    if not options.implementations:
        selection = [
            (backend, implementation)
            for backend, implementation in selection
            if (part.compiled or not implementation.costly_compile)
            and (not implementation.sharded or backend.name in options.backends)
            and (
                of_bytes
                if implementation.pixels == "uint8"
                else (part.every_formulation or not implementation.variant)
                and not implementation.stored
            )
        ]
    if not (options.implementations or options.backends):  # nobody asked for a peer
        selection = [
            (backend, implementation)
            for backend, implementation in selection
            if not implementation.peer or (part.every_formulation and not missing_of(backend))
        ]
    references = [REFERENCE_IMPLEMENTATION]
    if of_bytes or any(implementation.pixels == "uint8" for _, implementation in selection):
        references.append(BYTES_IMPLEMENTATION)
    chosen = {implementation.name for _, implementation in selection}
    numpy = get_backend("numpy")
    missing = [(numpy, numpy.implementation(name)) for name in references if name not in chosen]
    return [*missing, *selection]


def _place_rows(
    selection: list[tuple[Backend, Implementation]],
    objects: list[ObjectFacts],
    place: dict[str, Any],
    elsewhere: set[str],
    operations: set[str],
) -> list[Row]:
    """All rows of one block on one device at one precision; the A/A copy does whatever operations
    are timed. On a GPU there is another copy, of one of its own implementations, for the noise of
    the CPU says nothing of it."""
    theirs = [
        get_backend(get_backend(facts.implementation.split(":")[0]).yardstick) for facts in objects
    ]
    backends = dict.fromkeys([*(backend for backend, _ in selection), *theirs])
    reference = {**place, "device": "cpu", "precision": "ieee"}
    numpy = get_backend("numpy")
    bytes_twin = numpy.implementation(BYTES_IMPLEMENTATION)
    byte_skip = numpy.refuses(bytes_twin, named_case(place["case"]).spec) or ""
    return [
        *(
            row
            for backend, implementation in selection
            for row in _implementation_rows(
                backend, implementation, place, backend.name in elsewhere, operations
            )
        ),
        *(row for facts in objects for row in _object_rows(facts, place)),
        *(
            row
            for backend in backends
            for row in _ceiling_rows(backend, place, backend.name in elsewhere)
        ),
        *(
            Row(
                implementation=BYTES_IMPLEMENTATION
                if operation == "uint8"
                else REFERENCE_IMPLEMENTATION,
                operation=operation,
                role="aa",
                skip=byte_skip if operation == "uint8" else "",
                **reference,
            )
            for operation in OPERATIONS
            if operation == "tokens" or operation in operations
        ),
        *(
            Row(
                implementation=implementation.name,
                operation="tokens",
                role="aa",
                **{**place, "precision": "ieee"},
            )
            for implementation in _twin_on(place["device"], place["dtype"], selection, elsewhere)
        ),
    ]


def _twin_on(
    device: str, dtype: str, selection: list[tuple[Backend, Implementation]], elsewhere: set[str]
) -> list[Implementation]:
    """The implementation of which a GPU's A/A copy is: the first of the selection that runs there
    as it is, of a framework that times by the GPU's own clock if there is one, for others are timed
    with what the CPU does meanwhile; none on the CPU."""
    candidates = [
        (backend.events(device) is None, number)
        for number, (backend, implementation) in enumerate(selection)
        if device in implementation.devices
        and dtype in implementation.dtypes
        and not (
            implementation.variant
            or implementation.peer
            or implementation.costly_compile
            or backend.name == "numpy"
        )
        and (backend.name in elsewhere or not missing_of(backend))
    ]
    return [selection[min(candidates)[1]][1]] if candidates and device != "cpu" else []


def _implementation_rows(
    backend: Backend,
    implementation: Implementation,
    place: dict[str, Any],
    elsewhere: bool,
    operations: set[str],
) -> list[Row]:
    """A row for each operation, and one for a single patch of the case. NumPy is on the CPU alone,
    and the reference in the blocks of every device and precision.

    Whether a backend with an interpreter of its own (`elsewhere`) is installed there, its worker
    tells.
    """
    name, dtype, spec = implementation.name, place["dtype"], named_case(place["case"]).spec
    if backend.name == "numpy" and (place["device"], place["precision"]) != ("cpu", "ieee"):
        if name not in (REFERENCE_IMPLEMENTATION, BYTES_IMPLEMENTATION):
            return []
        place = {**place, "device": "cpu", "precision": "ieee"}
    device, precision = place["device"], place["precision"]
    skip = ("" if elsewhere else missing_of(backend)) or (
        "" if dtype in implementation.dtypes else f"{name} has no {dtype}"
    )
    skip = skip or ("" if device in implementation.devices else f"{name} does not run on {device}")
    skip = skip or backend.lacks(precision, device) or _no_such_precision(precision, dtype)
    skip = skip or backend.refuses(implementation, spec) or ""
    role: Role = "peer" if implementation.peer else "implementation"
    if implementation.pixels == "uint8":
        return [Row(implementation=name, operation="uint8", role=role, skip=skip, **place)]
    rows = [
        Row(implementation=name, role=role, skip=skip, **place),
        Row(implementation=name, operation="one-patch", role="overhead", skip=skip, **place),
    ]
    for operation in OPERATIONS[1:]:
        if operation in operations and operation != "uint8":
            lacking = operation == "train-step" and not implementation.differentiable
            whole = operation == "sequence" and implementation.stored == "int8"
            reason = skip or (f"{name} has no gradients" if lacking else "")
            reason = reason or (f"{name} has the projection alone as integers" if whole else "")
            rows.append(
                Row(implementation=name, operation=operation, role=role, skip=reason, **place)
            )
    return rows


def _object_rows(facts: ObjectFacts, place: dict[str, Any]) -> list[Row]:
    """Somebody's own implementation at what it gives, tokens or the sequence, and on one patch
    where it takes images of that size."""
    case = named_case(place["case"])
    backend = get_backend(facts.implementation.split(":")[0])
    skip = (
        facts.refuses(case.spec, place["dtype"])
        or backend.lacks(place["precision"], place["device"])
        or ""
    )
    operation = "sequence" if facts.to_sequence else "tokens"
    rows = [
        Row(
            implementation=facts.implementation,
            role="peer",
            operation=operation,
            skip=skip,
            **place,
        )
    ]
    if facts.any_size and not facts.to_sequence:
        rows.append(
            Row(
                implementation=facts.implementation,
                role="overhead",
                operation="one-patch",
                skip=skip,
                **place,
            )
        )
    return rows


def _no_such_precision(precision: Precision, dtype: str) -> str:
    """Precisions are about float32 alone."""
    return (
        ""
        if precision in ("ieee", "default") or dtype == "float32"
        else f"{precision} is a precision of float32, not of {dtype}"
    )


def _ceiling_rows(backend: Backend, place: dict[str, Any], elsewhere: bool) -> list[Row]:
    """The matrix product of the case's shape, where that is no peak a square one, and a copy, if
    the framework has its own worth timing.

    Of a framework without a product of 16 bits (NumPy, which is always there) the one in float32.
    """
    dtype, device, precision = place["dtype"], place["device"], place["precision"]
    numpy_elsewhere = backend.name == "numpy" and (device, precision) != ("cpu", "ieee")
    meaningless = backend.lacks(precision, device) or _no_such_precision(precision, dtype)
    if backend.yardstick != backend.name or numpy_elsewhere or meaningless:
        return []
    products = (
        ["gemm"]
        if min(product_shape("gemm", named_case(place["case"]))) >= NEARLY_PEAK
        else ["gemm", "peak"]
    )
    if device != "cpu":  # there the case's own may be all launch, or its rows not aligned
        products = ["gemm", "peak-4096"]
    operations = products if dtype in backend.product_dtypes else []
    if not operations and np.dtype(dtype).itemsize == 2 and "float32" in backend.product_dtypes:
        operations = ["peak-float32"]
    if type(backend).copy is not Backend.copy and precision == "ieee":
        operations.append("copy")
    about: dict[str, Any] = dict(
        role="ceiling", skip=("" if elsewhere else missing_of(backend)) or "", **place
    )
    return [
        Row(implementation=f"{backend.name}:{name}", operation=name, **about) for name in operations
    ]
