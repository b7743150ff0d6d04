"""Ray clusters as hosts: their nodes are asked what they are, and measured on at the same time."""

import contextlib
import dataclasses
import importlib.util
import os
import queue
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from ... import __version__
from ...reference.errors import PatchParityError
from ..machine.hosts import CONNECT_SECONDS, RAY, Host, Machine
from ..record.rows import Row
from ..worker.process import START_SECONDS, LostError, Process, SilentError
from .options import BenchOptions

ANSWER_SECONDS = 30.0
"""Time for a cluster to answer: Ray is imported in 0.5 s, one that is there answers in 0.4 s, a Ray
client server in 2 s, and a Ray client itself gives up after 30 s."""

FREE_SECONDS = 60.0
"""Time for a session to start on a node: its actor is there after 2 s where the node's CPUs are
free; a task that somebody else runs there may take any time, and is not waited for."""

END_SECONDS = 10.0
"""Time for the process that speaks with Ray to leave the cluster: it gives sessions 5 s to end, and
Ray takes less than one. Of one that is killed Ray ends the actors too, some time later."""

_FIRST_WORDS = """\
import os, sys
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
sys.path[:] = channel.receive()
from patchparity.bench.timing.ray_process import serve
serve(channel)
"""
"""What that process runs first: Ray's and gRPC's own log goes nowhere."""


class _Cluster:
    """A cluster that was connected to, in a process of its own.

    Args:
        typed: `ray`, or `ray://HOST:PORT`.

    Raises:
        PatchParityError: no Ray, or nothing that answers.
    """

    def __init__(self, typed: str) -> None:
        self.typed = typed
        if importlib.util.find_spec("ray") is None:
            raise PatchParityError("ray is not installed: pip install 'patchparity[ray]'")
        address = _address(typed)
        # SIGINT is this process's, and the other's path is what is imported from here.
        launch = Host().launch(sys.executable, {"PYTHONSAFEPATH": "1"})
        try:
            self._process = Process(launch, _FIRST_WORDS)
        except Exception as error:
            raise PatchParityError(f"host {typed}: no process could be started: {error}") from None
        try:
            self._process.send(sys.path)
        except LostError as error:
            raise PatchParityError(f"host {typed}: {error}") from None
        self.nodes: list[tuple[str, float, float]] = self.ask(
            "connect", ANSWER_SECONDS, address=address
        )["nodes"]
        if not self.nodes:
            self.close()
            raise PatchParityError(f"host {typed}: none of its nodes has a CPU to give")

    def ask(self, action: str, within: float, **arguments: Any) -> dict[str, Any]:
        """Ask for something and wait for it.

        Raises:
            PatchParityError: no answer in time, or Ray's own reason.
        """
        try:
            self._process.send((action, arguments))
            answer: dict[str, Any] = self._process.receive(within)
        except SilentError:
            reason = f"no answer within {within:g} s"
        except LostError as error:
            reason = f"the process that speaks with it died {error}".rstrip()
        else:
            if "error" not in answer:
                return answer
            reason = answer["error"]
        self._process.end()
        self._process.forget()
        raise PatchParityError(
            f"host {self.typed}: {reason}; expected a running Ray cluster, this machine one of "
            "its nodes, or the port of its Ray client server"
        )

    def measure(
        self, jobs: dict[str, dict[str, Any]], news: "queue.SimpleQueue[tuple[str, str, Any]]"
    ) -> None:
        """Measure on nodes, and put what is told of each into a queue: the cluster as it was typed,
        the node, the news; None for the node when there is no more."""
        nodes = [node for node in self.nodes if node[0] in jobs]
        for name in set(jobs) - {name for name, *_ in nodes}:
            news.put((self.typed, name, {"lost": "it is not there any more"}))
        arguments = {
            "nodes": nodes,
            "jobs": {name: jobs[name] for name, *_ in nodes},
            "seconds": FREE_SECONDS,
        }
        try:
            self._process.send(("measure", arguments))
        except LostError:
            news.put((self.typed, "", None))
        else:
            self._process.listen(
                lambda told: news.put((self.typed, *(told or ("", None)))), end=None
            )

    def close(self) -> None:
        """Leave the cluster; sessions on it are ended."""
        self._process.ask_to_end()
        self._process.end(END_SECONDS)


def _address(typed: str) -> str:
    """Where a cluster is, as `HOST:PORT`, or `auto` where Ray is to find the one that runs here.

    Raises:
        PatchParityError: an address at which nothing listens.
    """
    address = os.environ.get("RAY_ADDRESS") or "auto" if typed == RAY else typed
    address = address.removeprefix("ray://")
    if address == "auto":
        return address
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PatchParityError(
            f"host {typed}: nothing answers there ({reason}); expected the address of a running "
            "Ray cluster, ray://HOST:PORT"
        ) from None
    return address


def nodes_of(typed: str, first: int = 1) -> dict[Host, Machine]:
    """Ask a cluster for its nodes, and each what it is, where a session would run.

    Args:
        typed: `ray`, or `ray://HOST:PORT`.
        first: number of its first node.

    Raises:
        PatchParityError: a cluster that does not answer; a node whose CPUs are not free, or that
            has no patchparity[bench] of this version.
    """
    with closing(_Cluster(typed)) as cluster:
        told = cluster.ask(
            "describe", FREE_SECONDS + ANSWER_SECONDS, nodes=cluster.nodes, seconds=FREE_SECONDS
        )
    known = {}
    for number, (node, cpus, gpus) in enumerate(cluster.nodes, first):
        label, answer = f"node{number}", told[node]
        which = f"host {typed}: {label} (Ray calls it {node[:8]})"
        if not answer:
            raise PatchParityError(
                f"{which} started no session within {FREE_SECONDS:g} s: expected its "
                f"{cpus:g} CPUs and {gpus:g} GPUs to be free"
            )
        if "error" in answer:
            raise PatchParityError(
                f"{which}: {answer['error']}; expected patchparity[bench] {__version__} there"
            )
        if answer["version"] != __version__:
            raise PatchParityError(
                f"{which} has patchparity {answer['version']}, expected {__version__}; pip install "
                "it there"
            )
        machine = Machine(answer["environment"], answer["available_bytes"])
        known[Host(label, ray=typed, node=node)] = machine
    return known


def job_of(options: BenchOptions, label: str, rows: list[Row], machine: Machine) -> dict[str, Any]:
    """What a node is to measure, as plain data.

    Args:
        options: of the whole benchmark; its record, its other hosts and their interpreters are not
            the node's.
        label: of the node.
        rows: whole blocks of it.
        machine: what is known of it.
    """
    own = dataclasses.replace(options, out="", resume=False, replay=False, hosts=(), pythons=())
    return {
        "options": dataclasses.asdict(own),
        "label": label,
        "rows": [dataclasses.asdict(row) for row in rows],
        "environment": machine.environment,
        "available_bytes": machine.available_bytes,
    }


class Fleet:
    """Sessions on nodes of clusters, all at the same time.

    Args:
        jobs: what each node is to measure, as `job_of` gives it.
    """

    def __init__(self, jobs: Mapping[Host, dict[str, Any]]) -> None:
        self._heard = {host: time.monotonic() for host in jobs}
        self._news: queue.SimpleQueue[tuple[str, str, Any]] = queue.SimpleQueue()
        self._clusters: list[_Cluster] = []
        of_clusters: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        for host, job in jobs.items():
            of_clusters[host.ray][host.node] = job
        for typed, own in of_clusters.items():
            try:
                cluster = _Cluster(typed)
            except PatchParityError:
                self._news.put((typed, "", None))
            else:
                self._clusters.append(cluster)
                cluster.measure(own, self._news)

    def news(self) -> dict[str, dict[str, Any]]:
        """What is told next, by label: `outcomes` and `samples` of a block, `progress`, or `end`
        with a sentence where there was more to do; nothing where nothing comes within a second."""
        answers = {}
        with contextlib.suppress(queue.Empty):
            typed, node, told = self._news.get(timeout=1.0)
            for host in list(self._heard):
                if host.ray == typed and node in (host.node, ""):
                    self._heard[host] = time.monotonic()
                    why = self._why_it_ended(told)
                    answers[host.label] = self._end(host, why) if why else told
        if self._news.empty():  # what was told while nobody asked is heard first
            now = time.monotonic()
            for host in [host for host, last in self._heard.items() if now - last > START_SECONDS]:
                answers[host.label] = self._end(host, f"gave no news for {START_SECONDS:g} s")
        return answers

    @staticmethod
    def _why_it_ended(told: dict[str, Any] | None) -> str:
        """What the last news of a session say; nothing of others."""
        if told is None:
            return "is lost: its cluster cannot be reached"
        if "failure" in told:
            return f"failed: {told['failure']}"
        if "late" in told:
            return f"did not start within {FREE_SECONDS:g} s: its CPUs and GPUs are not free"
        if "lost" in told:
            return f"is lost: its process or its node died ({told['lost']})"
        return "ended before its work was done" if "end" in told else ""

    def _end(self, host: Host, why: str) -> dict[str, Any]:
        del self._heard[host]
        return {"end": f"the session on {host.label} {why}"}

    def close(self) -> None:
        """End the sessions that still run."""
        for cluster in self._clusters:
            cluster.close()
