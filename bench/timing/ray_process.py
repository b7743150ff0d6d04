"""The process that speaks with a Ray cluster; no other room knows Ray.

It is one of its own because Ray writes to the terminal what nobody asked for, waits for an address
without an answer as long as it likes, and ends the whole process where it loses its node. From
here it is silent, and is ended when it takes too long.
"""

import os
import threading
import time
from typing import Any

END_SECONDS = 5.0
"""Time for sessions to end their workers before their actors are killed; a worker is given 0.2 s,
and an answer takes milliseconds. Workers of a killed actor end by themselves when their pipe
does."""


def serve(channel: Any) -> None:
    """Answer requests until None comes, or until nobody is there any more; `measure` is the last
    one, after which news are sent."""
    cluster, stopped = _Cluster(), threading.Event()
    while (request := channel.receive()) is not None:
        action, arguments = request
        if action == "measure":
            channel.setcallback(lambda _: stopped.set(), endmarker=None)
            cluster.measure(**arguments, tell=lambda *news: channel.send(news), stopped=stopped)
            stopped.wait()
            break
        try:
            answer = getattr(cluster, action)(**arguments)
        except Exception as error:
            answer = {"error": _reason(error)}
        channel.send(answer)
    cluster.end()
    os._exit(0)


def _reason(error: BaseException) -> str:
    """What an error says, on one line; of one on a node what was raised there."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}".rstrip(": ")


def _way_to(address: str) -> str:
    """An address as `ray.init` takes it: of a cluster's own port, where one that is part of the
    cluster connects, or else of its Ray client server, which everybody may."""
    if address == "auto":
        return address
    import ray._raylet

    try:
        # As `ray health-check` asks: a Ray client server refuses at once, where `ray.init` would
        # ask it for 20 s.
        ray._raylet.GcsClient(address=address)
    except Exception:
        return f"ray://{address}"
    return address


class _Cluster:
    """A cluster, and the actors on it."""

    def __init__(self) -> None:
        self.actors: dict[str, Any] = {}

    def connect(self, address: str) -> dict[str, Any]:
        """Connect to `auto` or `HOST:PORT`; return the nodes that are alive and have a CPU to give.

        They come in the order of their addresses, which outlive a restart of Ray; several at one
        address in that of Ray's names for them.
        """
        import ray

        try:
            ray.init(_way_to(address), log_to_driver=False, logging_level="CRITICAL")
        except ConnectionError as error:
            if address == "auto":
                return {"error": "no Ray cluster runs here, and RAY_ADDRESS names none"}
            return {"error": _reason(error)}
        nodes = sorted(
            (node for node in ray.nodes() if node["Alive"]),
            key=lambda node: (node["NodeManagerAddress"], node["NodeID"]),
        )
        return {
            "nodes": [
                (node["NodeID"], node["Resources"]["CPU"], node["Resources"].get("GPU", 0.0))
                for node in nodes
                if node["Resources"].get("CPU", 0.0) >= 1
            ]
        }

    def _start(self, nodes: list[tuple[str, float, float]]) -> None:
        """Start an actor on each node that owns all its CPUs and GPUs."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actor = ray.remote(_session_class())
        for node, cpus, gpus in nodes:
            self.actors[node] = actor.options(
                num_cpus=cpus,
                num_gpus=gpus,
                max_concurrency=3,  # news are waited for while it may be told to end
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            ).remote()

    def describe(
        self, nodes: list[tuple[str, float, float]], seconds: float
    ) -> dict[str, dict[str, Any]]:
        """Say what each node is, or the `error`; empty of one where no session started in time."""
        import ray

        self._start(nodes)
        asked = {self.actors[node].describe.remote(cpus, gpus): node for node, cpus, gpus in nodes}
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=seconds)
        told: dict[str, dict[str, Any]] = {node: {} for node, *_ in nodes}
        for reference in answered:
            try:
                told[asked[reference]] = ray.get(reference)
            except Exception as error:
                told[asked[reference]] = {"error": _reason(error)}
        return told

    def measure(
        self,
        nodes: list[tuple[str, float, float]],
        jobs: dict[str, dict[str, Any]],
        seconds: float,
        tell: Any,
        stopped: threading.Event,
    ) -> None:
        """Measure on all nodes at the same time, and tell of each, by its name, what its session
        tells; `failure` of one that raised, `lost` of one that cannot be asked any more, `late` of
        one where none started."""
        import ray

        self._start(nodes)
        asked = {self.actors[node].begin.remote(jobs[node]): node for node, *_ in nodes}
        beginning, deadline = set(asked), time.monotonic() + seconds
        while asked and not stopped.is_set():
            for reference in ray.wait(list(asked), num_returns=1, timeout=1.0)[0]:
                node = asked.pop(reference)
                beginning.discard(reference)
                try:
                    news = ray.get(reference)
                except Exception as error:
                    raised = getattr(error, "cause", None)
                    news = {"failure": _reason(error)} if raised else {"lost": type(error).__name__}
                if news is not None:
                    tell(node, news)
                if news is None or {"outcomes", "progress"} & set(news):
                    asked[self.actors[node].news.remote()] = node
                else:  # the node is given back
                    ray.kill(self.actors.pop(node))
            if beginning and time.monotonic() > deadline:
                for reference in beginning:
                    node = asked.pop(reference)
                    ray.kill(self.actors.pop(node))
                    tell(node, {"late": True})
                beginning.clear()

    def end(self) -> None:
        """End sessions and actors, and leave the cluster."""
        import ray

        if not ray.is_initialized():
            return
        if ending := [actor.end.remote() for actor in self.actors.values()]:
            ray.wait(ending, num_returns=len(ending), timeout=END_SECONDS)
        for actor in self.actors.values():
            ray.kill(actor)
        ray.shutdown()


def _session_class() -> type:
    """The class of the actors. Ray sends it to the nodes as it stands, for it is defined in a
    function: where patchparity is not installed a call says so."""

    class MeasuringSession:
        session: Any = None

        def describe(self, cpus: float, gpus: float) -> dict[str, Any]:
            from patchparity.bench.timing.node import describe

            return describe(cpus, gpus)

        def begin(self, job: dict[str, Any]) -> None:
            from patchparity.bench.timing.node import NodeSession

            self.session = NodeSession(job)

        def news(self) -> Any:
            return self.session.news()

        def end(self) -> None:
            if self.session is not None:
                self.session.end()

    return MeasuringSession
