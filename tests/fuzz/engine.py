"""Mutants are judged in a process that may die or hang; each follows from its number alone."""

import collections
import contextlib
import io
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from patchparity import PatchParityError, embed, inspect_checkpoint, port, verify
from patchparity.porting.dialects.fit import same_bits
from patchparity.porting.dialects.stage import Stage, read_stage
from patchparity.porting.files.opening import opened

from .mutations import mutated
from .seed import Seed
from .seeds import seeds

SLOWEST = 10.0
"""Seconds that one mutant may take."""
SPARE = 200 * 2**20
"""Bytes beside four times the file that one mutant may take."""
BATCH = 20000
"""Mutants of one process."""


def judge(number: int, made: list[Seed], truths: list[Stage | None], folder: Path) -> str:
    """Read one mutant, in one of four ways, and tell what came of it: `read`, `refused`, or what
    must not be."""
    chance = random.Random(number)
    which = chance.randrange(len(made))
    files, kind = mutated(made[which], chance)
    for old in folder.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    path = Seed("", files).write(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            inspect_checkpoint(path)
            with opened(path) as checkpoint:
                stage = read_stage(checkpoint)
            way = number % 16
            if way == 0:
                verify(path, path, prove=False)
            elif way == 1:
                port(path, folder / "out.safetensors", "timm-vit", allow_loss=True, prove=False)
            elif way == 2 and stage.size_known and len(stage.spec.image_size) == 2:
                embed(path, np.zeros(stage.spec.images_shape(1), np.float32))
    except PatchParityError as error:
        found = "refused" if str(error).strip() else "refused without a word"
    except Exception:
        found = "traceback: " + traceback.format_exc().strip().splitlines()[-1][:200]
    else:
        truth = truths[which]
        silent = (
            made[which].checked
            and kind == "raw"
            and truth is not None
            and stage.candidate.names == truth.candidate.names
        )
        wrong = silent and truth is not None and same_bits(stage.weights, truth.weights)
        found = "wrong value in spite of a checksum" if wrong else "read"
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    most = 4 * sum(map(len, files.values())) + SPARE
    return found if grown <= most else f"memory: {grown >> 20} MiB"


def _work(start: int, stop: int, kind: str, answers: Any) -> None:
    made, truths = _prepared(kind)
    answers.send([seed.name for seed in made])
    with tempfile.TemporaryDirectory(
        dir="/dev/shm" if os.path.isdir("/dev/shm") else None
    ) as folder:
        for number in range(start, stop):
            answers.send((number, judge(number, made, truths, Path(folder))))


def _prepared(kind: str) -> tuple[list[Seed], list[Stage | None]]:
    """The seeds of a kind, and how each is read; None of one that asks for something."""
    with tempfile.TemporaryDirectory() as folder:
        made = [seed for seed in seeds(Path(folder)) if seed.name.startswith(kind)]
        truths: list[Stage | None] = []
        for seed in made:
            place = Path(folder) / str(len(truths))
            place.mkdir()
            with opened(seed.write(place)) as checkpoint:
                try:
                    truths.append(read_stage(checkpoint))
                except PatchParityError:
                    truths.append(None)
            with contextlib.suppress(PatchParityError):  # what it imports is not the mutants'
                port(
                    place / seed.first,
                    place / "out.safetensors",
                    "timm-vit",
                    allow_loss=True,
                    prove=False,
                )
    return made, truths


def run(mutants: int, start: int = 0, kind: str = "") -> dict[str, Any]:
    """Judge mutants `start` to `start + mutants` of the seeds of a kind, and return the record."""
    context = multiprocessing.get_context("spawn")
    kinds: list[str] = []
    counts: collections.Counter[str] = collections.Counter()
    bad: list[tuple[int, str]] = []

    def note(number: int, found: str) -> None:
        counts[found.partition(":")[0]] += 1
        if found not in ("read", "refused"):
            bad.append((number, found))

    at, end, began = start, start + mutants, time.monotonic()
    while at < end:
        stop = min(at + BATCH, end)
        answers, theirs = context.Pipe(False)
        child = context.Process(target=_work, args=(at, stop, kind, theirs))
        child.start()
        theirs.close()
        kinds = answers.recv()
        why = ""
        while at < stop and not why:
            try:
                if answers.poll(SLOWEST):
                    number, found = answers.recv()
                    note(number, found)
                    at = number + 1
                else:
                    why = "hang"
                    child.kill()
            except EOFError:
                child.join()
                why = f"crash: exit {child.exitcode}"
        if why:
            note(at, why)
            at += 1
        child.join()
        done = at - start
        print(
            f"{done} of {mutants}, {done / (time.monotonic() - began):.0f} a second: "
            f"{dict(counts)}",
            file=sys.stderr,
            flush=True,
        )
    return {
        "mutants": mutants,
        "first": start,
        "kinds": kinds,
        "outcomes": dict(counts),
        "bad": bad[:1000],
        "seconds": round(time.monotonic() - began),
    }
