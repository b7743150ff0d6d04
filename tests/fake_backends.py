"""Backends that are wrong in a known way, installed for a test as a stranger would install one:
through the entry-point group."""

import os
import time
from pathlib import Path
from typing import Any

from patchparity.backends.base import Implementation
from patchparity.backends.numpy import NumPyBackend
from patchparity.reference.weights import PatchEmbedWeights


class _Fake(NumPyBackend):
    """NumPy's linear formulation under another name, with something done to it."""

    def load(self, implementation: Any, weights: Any, spec: Any, dtype: Any, device: Any) -> Any:
        loaded = super().load(self.like, weights, spec, dtype, device)
        return self.spoil(loaded, implementation.formulation)

    like = Implementation("numpy", "linear", "eager")

    def spoil(self, loaded: Any, formulation: str) -> Any:
        return loaded


class WrongBackend(_Fake):
    """Reads the kernel in the order (C, Ph, Pw) where it is kept as (Ph, Pw, C): the classic
    port."""

    name = "wrong"
    implementations = (Implementation("wrong", "conv2d", "eager"),)

    def spoil(self, loaded: Any, formulation: str) -> Any:
        assign = loaded.assign

        def misread(weights: PatchEmbedWeights) -> None:
            shape = weights.kernel.shape
            assign(
                PatchEmbedWeights(weights.kernel.transpose(0, 3, 1, 2).reshape(shape), weights.bias)
            )

        loaded.assign = misread
        misread(loaded.weights)
        return loaded


class FragileBackend(_Fake):
    """Raises, dies or hangs when called."""

    name = "fragile"
    implementations = tuple(
        Implementation("fragile", what, "eager")
        for what in ("fine", "raises", "dies", "hangs", "ends", "leaves")
    )

    def spoil(self, loaded: Any, formulation: str) -> Any:
        call = loaded.call
        calls: list[int] = []

        def broken(inputs: Any) -> Any:
            calls.append(1)
            if formulation == "raises":
                raise RuntimeError("no kernel image is available\nfor execution on the device")
            if formulation == "dies" and len(calls) > 4:
                os._exit(3)
            if formulation == "hangs" and len(calls) > 4:
                time.sleep(3600)
            if formulation == "ends" and len(calls) > 4:
                os._exit(0)
            if formulation == "leaves" and len(calls) > 4:
                raise SystemExit(0)
            return call(inputs)

        loaded.call = broken
        return loaded


class PuzzledBackend(_Fake):
    """Raises an error when it is asked whether it is here."""

    name = "puzzled"
    implementations = (Implementation("puzzled", "linear", "eager"),)

    def missing(self) -> str | None:
        raise RuntimeError("cannot look")


class AbsentBackend(_Fake):
    """Needs a framework that is not installed."""

    name = "absent"
    packages = ("no_such_framework",)
    implementations = (
        Implementation("absent", "conv2d", "eager"),
        Implementation("absent", "linear", "eager"),
    )


class NoisyBackend(_Fake):
    """Prints to stdout, and to file descriptor 1 below Python."""

    name = "noisy"
    implementations = (Implementation("noisy", "linear", "eager"),)

    def spoil(self, loaded: Any, formulation: str) -> Any:
        print("loading ...")
        os.write(1, b"\x80 loading below Python ...")
        return loaded


class StubbornBackend(_Fake):
    """Cannot say what devices it has."""

    name = "stubborn"
    implementations = (Implementation("stubborn", "linear", "eager"),)

    def devices(self) -> Any:
        raise RuntimeError("no driver\nwas found")


class SwitchedBackend(_Fake):
    """Is itself only in a process with its switch."""

    name = "switched"
    implementations = (Implementation("switched", "linear", "eager"),)
    switches = {"PATCHPARITY_FAKE_SWITCH": "on"}

    def spoil(self, loaded: Any, formulation: str) -> Any:
        if os.environ.get("PATCHPARITY_FAKE_SWITCH") != "on":
            raise RuntimeError("the switch does not stand")
        return loaded


class HastyBackend(_Fake):
    """Computes in a thread and does not wait: `synchronize` is missing, though what is fetched is
    right."""

    name = "hasty"
    implementations = (Implementation("hasty", "linear", "eager"),)

    def spoil(self, loaded: Any, formulation: str) -> Any:
        from concurrent.futures import ThreadPoolExecutor

        call, fetch, pool = loaded.call, loaded.fetch, ThreadPoolExecutor(1)
        loaded.call = lambda inputs: pool.submit(call, inputs)
        loaded.fetch = lambda outputs: fetch(outputs.result())
        return loaded


class CarelessBackend(_Fake):
    """Tokens are right; a sequence has its positions twice, and a train step the gradient of half
    the images."""

    name = "careless"
    implementations = (Implementation("careless", "linear", "eager"),)

    def spoil(self, loaded: Any, formulation: str) -> Any:
        sequence, step = loaded.sequence, loaded.train_step

        def halved(grad_tokens: Any) -> Any:
            kept = grad_tokens.copy()
            kept[len(kept) // 2 :] = 0
            return step(kept)

        loaded.sequence = lambda token, positions: sequence(token, 2 * positions)
        loaded.train_step = halved
        return loaded


class SteadyBackend(_Fake):
    """NumPy's own code under another name, in a process of its own: the same, and must be called
    so."""

    name = "steady"
    implementations = (Implementation("steady", "linear", "eager"),)


class SluggishBackend(_Fake):
    """NumPy's own code, and then 5% of its time doing nothing."""

    name = "sluggish"
    implementations = (Implementation("sluggish", "linear", "eager"),)

    def spoil(self, loaded: Any, formulation: str) -> Any:
        call = loaded.call

        def slower(inputs: Any) -> Any:
            started = time.perf_counter()
            outputs = call(inputs)
            end = started + 1.05 * (time.perf_counter() - started)
            while time.perf_counter() < end:
                pass
            return outputs

        loaded.call = slower
        return loaded


class ParentalBackend(_Fake):
    """Starts a process that outlives it and holds its pipes, and is killed."""

    name = "parental"
    implementations = (Implementation("parental", "linear", "eager"),)

    def spoil(self, loaded: Any, formulation: str) -> Any:
        import signal
        import subprocess
        import sys

        left = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False
        )
        Path(os.environ["PATCHPARITY_FAKE_CHILD"]).write_text(str(left.pid))
        os.kill(os.getpid(), signal.SIGKILL)


class SingleBackend(_Fake):
    """Has one dtype."""

    name = "single"
    implementations = (Implementation("single", "linear", "eager", dtypes=("float32",)),)


class AgedBackend(_Fake):
    """Has bfloat16, but not on this CPU."""

    name = "aged"
    implementations = (Implementation("aged", "linear", "eager", dtypes=("float32", "bfloat16")),)

    def lacks_dtype(self, implementation: Any, dtype: Any, device: Any) -> Any:
        return f"{implementation.name} has no bfloat16 on this CPU" if dtype == "bfloat16" else None


class BiasedBackend(_Fake):
    """Adds 1 where there is no bias."""

    name = "biased"
    implementations = (Implementation("biased", "linear", "eager"),)

    def spoil(self, loaded: Any, formulation: str) -> Any:
        call = loaded.call
        loaded.call = lambda inputs: call(inputs) + (loaded.weights.bias is None)
        return loaded


ABSENT = AbsentBackend()
AGED = AgedBackend()
CARELESS = CarelessBackend()
PARENTAL = ParentalBackend()
SINGLE = SingleBackend()
BIASED = BiasedBackend()
STEADY = SteadyBackend()
SLUGGISH = SluggishBackend()
HASTY = HastyBackend()
NOISY = NoisyBackend()
STUBBORN = StubbornBackend()
SWITCHED = SwitchedBackend()
WRONG = WrongBackend()
FRAGILE = FragileBackend()
PUZZLED = PuzzledBackend()


BACKENDS = (WRONG, FRAGILE)


def install(folder: Path, *names: str) -> dict[str, str]:
    """Lay a distribution with this file's backends into a folder; return the environment in which
    it is found."""
    module = "patchparity_fake_backends"
    (folder / f"{module}.py").write_text(Path(__file__).read_text())
    metadata = folder / f"{module}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    entries = {"broken": ":NOT_THERE", "numpy": ":WRONG", "class": ":WrongBackend", "module": ""}
    lines = "\n".join(f"{name} = {module}{entries.get(name, ':' + name.upper())}" for name in names)
    (metadata / "entry_points.txt").write_text(f"[patchparity.backends]\n{lines}\n")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))),
    }


def running_below(folder: Path) -> list[str]:
    """Command lines of processes that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return [line for line in found if f"--patchparity-out={folder}" in line]
