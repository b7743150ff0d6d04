"""The patch embedding over several devices: what is split where, what is wrong is caught, what each
device does is counted, and ranks that die are told.

JAX and TensorFlow take their number of devices once in a process, so that this file runs itself
again where it is set.
"""

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchparity import PatchEmbedSpec, PatchParityError, get_backend, list_backends
from patchparity.backends.device_work import Collective, DeviceWork, best_share, size_text
from patchparity.backends.sharded import splits
from patchparity.backends.sharded.ranks import RankError, Ranks
from patchparity.bench.check import sharding
from patchparity.bench.check.known_issues import KnownIssue, apply_known_issues, load_known_issues
from patchparity.bench.check.one_backend import BackendCheck, Found
from patchparity.bench.check.results import CheckResult
from patchparity.bench.check.shapes import CHECK_CASES
from patchparity.reference.patches import pad_images
from patchparity.reference.probes import random_normal
from patchparity.reference.verdict import judge

SHARDED = [
    backend for backend in list_backends() if all(each.sharded for each in backend.implementations)
]
SMALL = [case for case in CHECK_CASES if case.name != "vit-b16-224"]
ALONE = "PATCHPARITY_SHARDED_OF"
"""Set in a process that is for one backend alone."""


def here(backend):
    return all(os.environ.get(name) == value for name, value in backend.switches.items())


def parameters(right=None):
    """Every implementation of this process, or those that are right, or wrong."""
    for backend in SHARDED:
        if os.environ.get(ALONE, backend.name) != backend.name or not here(backend):
            continue
        for implementation in backend.implementations:
            if right is not None and right == bool(wrong(backend, implementation)):
                continue
            reason = backend.missing()
            marks = [pytest.mark.skip(reason=reason)] if reason else []
            yield pytest.param(backend, implementation, id=implementation.name, marks=marks)


def wrong(backend, implementation):
    """The known issue that says that its results are wrong."""
    return [
        issue
        for issue in load_known_issues()
        if issue.probe == sharding.SHARDED_RESULT
        and issue.covers(implementation.name)
        and issue.applies(backend.versions())
    ]


def judged(backend, implementation, spec, batch, seed=1):
    """The verdict on a random probe; what the framework raises is one too."""
    probe = random_normal(spec, batch, "float32", seed)
    loaded = backend.load(implementation, probe.weights, spec, "float32", "cpu")
    try:
        tokens = loaded.tokens(probe.images)
    except PatchParityError:
        raise
    except Exception as error:
        return f"raises {type(error).__name__}"
    return judge(probe, "forward", tokens, implementation.arithmetic("float32")).message


@pytest.mark.skipif(ALONE in os.environ, reason="this is such a process")
@pytest.mark.parametrize("backend", [backend for backend in SHARDED if not here(backend)])
def test_in_a_process_with_the_switches_of_a_backend(backend):
    if reason := backend.missing():
        pytest.skip(reason)
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    environment = {**os.environ, **backend.switches, ALONE: backend.name}
    done = subprocess.run(
        [sys.executable, *command, __file__],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout


# What is right


@pytest.mark.parametrize(("backend", "implementation"), parameters(right=True))
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_what_is_not_known_to_be_wrong_is_right_on_every_shape(backend, implementation, case):
    assert judged(backend, implementation, case.spec, case.batch) == ""


@pytest.mark.parametrize(("backend", "implementation"), parameters(right=True))
@pytest.mark.parametrize("batch", [1, 3, 4, 9])
def test_more_and_fewer_images_than_devices(backend, implementation, batch):
    spec = PatchEmbedSpec((20, 44), (4, 4), 3, 70)  # 5 rows and 11 columns
    assert judged(backend, implementation, spec, batch) == ""


@pytest.mark.parametrize(("backend", "implementation"), parameters(right=True))
def test_fewer_rows_columns_channels_and_outputs_than_devices(backend, implementation):
    for spec in (PatchEmbedSpec((8, 12), 4, 1, 2), PatchEmbedSpec((4, 4), 4, 2, 3)):
        assert judged(backend, implementation, spec, 2) == ""


# What is wrong


@pytest.mark.parametrize(("backend", "implementation"), parameters(right=False))
def test_what_is_known_to_be_wrong_is_caught(backend, implementation):
    """By the verdict on a shape that divides, and on most that `check` has; the reason names a
    formulation that is right."""
    assert judged(backend, implementation, sharding.EVEN, sharding.FEW)
    failed = [case for case in SMALL if judged(backend, implementation, case.spec, case.batch)]
    assert len(failed) >= len(SMALL) - 1
    (issue,) = wrong(backend, implementation)
    named = [each.formulation for each in backend.implementations if each != implementation]
    mends = [name for name in named if name in issue.reason and name not in splits.SPLITS]
    assert mends
    mended = [each for each in backend.implementations if each.formulation in mends]
    assert not any(wrong(backend, each) for each in mended)


def torch_sharded():
    backend = get_backend("torch-sharded")
    if reason := backend.missing() or backend.unavailable(backend.implementations[0]):
        pytest.skip(reason)
    if os.environ.get(ALONE, backend.name) != backend.name:
        pytest.skip("another backend's process")
    return backend


@pytest.mark.parametrize("batch", [4, 5, 8])
def test_dtensor_splits_as_many_images_as_ranks(batch):
    backend = torch_sharded()
    implementation = backend.implementation("torch-sharded:batch:sharded")
    for spec in (sharding.EVEN, sharding.OVERLAPPING):
        assert judged(backend, implementation, spec, batch) == ""


def test_padding_that_a_split_forgets_is_caught(monkeypatch):
    backend = get_backend("jax-sharded")
    if backend.missing() or not here(backend):
        pytest.skip("in a process with its switches")
    implementation = backend.implementation("jax-sharded:height-whole:sharded")
    assert judged(backend, implementation, sharding.OVERLAPPING, 2) == ""
    padding = "patchparity.backends.sharded.jax.whole_padding"
    monkeypatch.setattr(padding, lambda spec, axis: (0, 3))
    assert "outside" in judged(backend, implementation, sharding.OVERLAPPING, 2)
    monkeypatch.setattr(padding, lambda spec, axis: (0, 0))
    assert "shape" in judged(backend, implementation, sharding.OVERLAPPING, 2)


def test_a_result_that_one_rank_alone_is_told_is_caught():
    backend = torch_sharded()
    from patchparity.backends.sharded import torch as adapter

    implementation = backend.implementation("torch-sharded:height-local:sharded")
    probe = random_normal(sharding.OVERLAPPING, 2, "float32", 1)
    loaded = backend.load(implementation, probe.weights, sharding.OVERLAPPING, "float32", "cpu")
    outputs = loaded.call(loaded.place(probe.images))
    assert len(outputs) == splits.DEVICES
    model = implementation.arithmetic("float32")
    assert judge(probe, "forward", loaded.fetch(outputs), model).verdict == "pass"
    spoiled = [np.array(each) for each in outputs]
    spoiled[2][0, 0, 3, 5] += 1e-2  # one rank alone is told another result
    assert adapter.told(spoiled) is spoiled[2]
    assert judge(probe, "forward", loaded.fetch(spoiled), model).verdict == "fail"


def test_a_wrong_row_fails_its_check_until_an_entry_explains_it():
    backend = torch_sharded()
    name = "torch-sharded:output-channels:sharded"
    request = BackendCheck(
        backend.name, (name,), None, ("float32",), None, False, 0, None, behaviors=True
    )
    rows = [row for event in request.run() if isinstance(event, Found) for row in event.results]
    verdicts = [row for row in rows if row.behavior is None]
    assert len(verdicts) > 50
    assert {row.verdict for row in verdicts} == {"fail"}
    assert {row.probe for row in rows if row.behavior is not None} == {
        *sharding.SHARDED_BEHAVIORS
    }, "what is wrong is asked nothing else"
    unexplained = apply_known_issues(rows, [], list_backends())
    assert {row.verdict for row in unexplained if row.behavior is None} == {"fail"}
    known = apply_known_issues(rows, wrong_entries(name), list_backends())
    assert {row.verdict for row in known if row.behavior is None} == {"known"}
    assert all("Shard(1)" in row.message for row in known if row.verdict == "known")


def wrong_entries(name):
    return [issue for issue in load_known_issues() if issue.covers(name)]


def test_only_the_result_is_asked_for_where_no_behavior_is():
    backend = torch_sharded()
    name = "torch-sharded:output-channels:sharded"
    for seeds in (1, 2):
        request = BackendCheck(
            backend.name, (name,), None, ("float32",), ("ieee",), False, 0, None, False, seeds
        )
        rows = [row for event in request.run() if isinstance(event, Found) for row in event.results]
        asked = [row for row in rows if row.behavior is not None]
        assert [row.probe for row in asked] == [sharding.SHARDED_RESULT]
        known = apply_known_issues(rows, wrong_entries(name), list_backends())
        assert {row.verdict for row in known} == {"known"}


ENTRY = KnownIssue(
    "mislabelled",
    ("torch-sharded:height",),
    sharding.SHARDED_RESULT,
    "wrong values",
    {"numpy": ">=1"},
    "use height-local",
)


def outcome(found="wrong values", **fields):
    """What becomes of a verdict beside a sharded result that was found."""
    place = dict(
        implementation="torch-sharded:height:sharded", backend="torch-sharded", device="cpu"
    )
    row = CheckResult(
        **place,
        probe=sharding.SHARDED_RESULT,
        behavior=found,
        verdict="pass" if found == sharding.RIGHT else "fail",
        dtype="float32",
    )
    other = CheckResult(**{**place, "dtype": "float32", "probe": "random", **fields})
    _, verdict, *stale = apply_known_issues([row, other], [ENTRY], list_backends())
    return verdict.verdict, [each.verdict for each in stale]


def test_an_entry_about_a_sharded_result_explains_what_its_implementation_gives():
    assert outcome(verdict="fail") == ("known", [])
    assert outcome(verdict="error", message="RankError: rank 0 of 4: narrow") == ("known", [])
    assert outcome(verdict="pass") == ("pass", [])
    assert outcome(verdict="skip") == ("skip", [])


def test_and_nothing_else():
    assert outcome(verdict="error", message="PatchParityError: rank 2 of 4 ended") == ("error", [])
    assert outcome(verdict="fail", implementation="torch-sharded:width:sharded") == ("fail", [])
    assert outcome(verdict="fail", device="cuda") == ("fail", [])
    assert outcome(verdict="fail", probe="infinity", behavior="wrong") == ("fail", [])


def test_an_entry_that_no_longer_reproduces_fails():
    assert outcome(sharding.RIGHT, verdict="pass") == ("pass", ["fail"])
    assert outcome(sharding.RIGHT, verdict="fail") == ("fail", ["fail"])


# What each device does


@pytest.mark.parametrize(("backend", "implementation"), parameters())
def test_every_split_of_what_divides_is_a_split(backend, implementation):
    for spec in (sharding.EVEN, sharding.OVERLAPPING):
        work = backend.device_work(implementation, spec, sharding.EVEN_BATCH)
        assert len(work.flops) == splits.DEVICES
        assert work.best_share == 1 / splits.DEVICES
        assert work.best_share <= work.share < 1.1 * work.best_share
        assert max(work.sizes) < work.whole_size


@pytest.mark.parametrize(("backend", "implementation"), parameters(right=True))
@pytest.mark.parametrize(("rows", "batch"), [(5, 3), (13, 6), (14, 2), (15, 7), (17, 9)])
def test_whole_units_give_the_best_share_at_any_size(backend, implementation, rows, batch):
    """Of every formulation that a mend names: no device has more than its whole units."""
    if implementation.formulation in ("height", "width") or implementation.minor:
        pytest.skip("split in pixels, or by torch as it likes")
    spec = PatchEmbedSpec((4 * rows, 4 * (rows + 2)), 4, rows, 10 * rows)
    work = backend.device_work(implementation, spec, batch)
    split = splits.split_of(implementation.formulation)
    assert work.units == splits.units_of(split, spec, batch)
    assert work.finding == "split", work.describe()
    # the bias, and what a halo's edges cost
    assert work.share <= 1.1 * best_share(work.units, splits.DEVICES), work.describe()


def test_rows_that_no_patch_sees_are_not_shared():
    backend = get_backend("jax-sharded")
    if backend.missing() or not here(backend):
        pytest.skip("in a process with its switches")
    spec = PatchEmbedSpec((35, 12), 4, 3, 16, remainder="floor")  # 8 rows of patches, and 3 pixels
    for formulation, finding in (("height-whole", "split"), ("height", "replicated, gathered")):
        implementation = backend.implementation(f"jax-sharded:{formulation}:sharded")
        assert judged(backend, implementation, spec, 2) == ""
        assert backend.device_work(implementation, spec, 2).finding == finding


@pytest.mark.parametrize("name", ["height", "width"])
def test_xla_gathers_the_image_at_224_over_four_devices(name):
    backend = get_backend("jax-sharded")
    if backend.missing() or not here(backend):
        pytest.skip("in a process with its switches")
    spec = PatchEmbedSpec(224, 16, 3, 64)
    found = {
        formulation: backend.device_work(
            backend.implementation(f"jax-sharded:{formulation}:sharded"), spec, 2
        )
        for formulation in (name, f"{name}-whole")
    }
    gathered, split = found[name], found[f"{name}-whole"]
    assert gathered.finding == "replicated, gathered"
    assert gathered.share == pytest.approx(1, rel=0.01)
    image = 4 * math.prod(spec.images_shape(2))
    assert Collective("all-gather", image) in gathered.collectives
    assert split.finding == "split"
    assert split.collectives == ()
    assert split.share == pytest.approx(4 / 14, rel=0.01)
    assert "all-gather of 1.2 MB" in gathered.describe()
    # 256 pixels divide into whole patches
    even = backend.device_work(
        backend.implementation(f"jax-sharded:{name}-whole:sharded"), spec.replace(image_size=256), 2
    )
    assert even.share == pytest.approx(1 / 4, rel=0.01)


def test_overlapping_patches_send_their_halo_alone():
    backend = get_backend("jax-sharded")
    if backend.missing() or not here(backend):
        pytest.skip("in a process with its switches")
    implementation = backend.implementation("jax-sharded:height-whole:sharded")
    work = backend.device_work(implementation, sharding.OVERLAPPING, 8)
    batch, channels, _, columns = sharding.OVERLAPPING.images_shape(8)
    halo = 4 * batch * channels * columns * (7 - 4)
    assert work.collectives == (Collective("collective-permute", halo),)


def test_collectives_are_read_from_a_compiled_program():
    from patchparity.backends.sharded.jax import collectives_of

    program = """
  %all-gather.1 = f32[8,28,40,8]{3,2,0,1} all-gather(f32[8,7,40,8]{3,2,0,1} %x), channel_id=1
  %done = (f32[4]{0}, bf16[2,3]{1,0}) all-reduce(f32[4]{0} %a, bf16[2,3]{1,0} %b), to_apply=%sum
  %start = f32[2]{0} collective-permute-start(f32[2]{0} %c), source_target_pairs={{0,1}}
  %fusion = f32[2]{0} fusion(f32[2]{0} %all-gather.1), kind=kLoop
"""
    assert collectives_of(program) == (
        Collective("all-gather", 4 * 8 * 28 * 40 * 8),
        Collective("all-reduce", 4 * 4 + 2 * 6),
        Collective("collective-permute", 8),
    )


def work(flops, units=8, whole=100.0, collectives=()):
    return DeviceWork(units, flops, whole, (1,) * len(flops), 4, collectives)


@pytest.mark.parametrize(
    ("flops", "units", "collectives", "finding"),
    [
        ((25, 25, 25, 25), 8, (), "split"),
        ((29, 29, 29, 14), 14, (), "split"),
        ((35, 0, 0, 0), 8, (), "split"),
        ((36, 0, 0, 0), 8, (), "split in part"),
        ((50, 50, 50, 50), 8, (), "split in part"),
        ((71, 71, 71, 71), 8, (), "replicated"),
        ((100, 100, 100, 100), 8, ("all-gather",), "replicated, gathered"),
        ((25, 25, 25, 25), 8, ("all-reduce", "collective-permute"), "split"),
        ((25, 25, 25, 25), 8, ("all-to-all",), "split, gathered"),
        ((100, 0, 0, 0), 1, (), "split"),
        ((50, 50, 0, 0), 2, (), "split"),
    ],
)
def test_a_share_of_the_work_has_a_word(flops, units, collectives, finding):
    sent = tuple(Collective(name, 8) for name in collectives)
    assert work(flops, units, collectives=sent).finding == finding


def test_what_is_said_of_it():
    said = work((50.0,) * 4, collectives=(Collective("all-gather", 1_234_567),)).describe()
    assert said == (
        "the fullest of 4 devices computes 50% (at best 25%) and holds 1 B of 4 B; sent: "
        "all-gather of 1.23 MB"
    )
    assert work((25.0,) * 4).describe().endswith("sent: nothing")
    assert [size_text(size) for size in (999, 1500, 2 * 10**9)] == ["999 B", "1.5 kB", "2 GB"]
    assert work((0.0,) * 4, units=0, whole=0.0).share == 1


# Where to cut


@given(st.integers(0, 60), st.integers(1, 9))
def test_parts_are_all_in_order_and_none_is_larger_than_the_best_share(count, devices):
    found = splits.parts(count, devices)
    assert len(found) == devices
    assert [place for first, last in found for place in range(first, last)] == list(range(count))
    largest = max(last - first for first, last in found)
    assert not count or largest / count == best_share(count, devices)


def test_parts_are_those_of_torch():
    torch = pytest.importorskip("torch")
    for count in range(1, 20):
        for devices in range(1, 7):
            chunks = [len(chunk) for chunk in torch.arange(count).chunk(devices)]
            sizes = [last - first for first, last in splits.parts(count, devices)]
            assert sizes == chunks + [0] * (devices - len(chunks))


SPECS = st.builds(
    lambda rows, patch, stride, before, after: (rows, patch, stride, before, after),
    st.integers(1, 30),
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(0, 3),
    st.integers(0, 3),
)


def spec_of(sizes):
    extent, patch, stride, before, after = sizes
    if extent + before + after < patch:
        return None
    return PatchEmbedSpec(
        (extent, patch),
        patch,
        2,
        3,
        stride=stride,
        padding=((before, after), (0, 0)),
        remainder="floor",
    )


@given(SPECS, st.integers(1, 6))
def test_windows_hold_what_their_patches_see(sizes, devices):
    spec = spec_of(sizes)
    if spec is None:
        return
    rows = np.arange(spec.padded_size[0])
    seen = []
    for window in splits.windows(spec, 0, devices):
        own = rows[window.begin : window.end]
        seen += [
            own[number * spec.stride[0] :][: spec.patch_size[0]].tolist()
            for number in range(window.last - window.first)
        ]
        used = window.last > window.first
        assert len(own) == (
            (window.last - window.first - 1) * spec.stride[0] + spec.patch_size[0] if used else 0
        )
    expected = [
        rows[number * spec.stride[0] :][: spec.patch_size[0]].tolist()
        for number in range(spec.grid[0])
    ]
    assert seen == expected


@given(SPECS, st.integers(1, 6))
def test_whole_extents_divide_and_give_the_same_patches(sizes, devices):
    spec = spec_of(sizes)
    if spec is None:
        return
    extent = splits.whole_extent(spec, 0, devices)
    assert extent % (devices * spec.stride[0]) == 0
    images = 1.0 + np.arange(math.prod(spec.images_shape(1))).reshape(spec.images_shape(1))
    before, after = splits.whole_padding(spec, 0)
    assert min(before, after) >= 0
    longer = splits.lengthened(images[:, :, :extent], 2, extent)
    padded = np.pad(longer, ((0, 0), (0, 0), (before, after), (0, 0)))
    original = pad_images(images, spec)
    for number in range(spec.grid[0]):
        begin = number * spec.stride[0]
        mine = padded[:, :, begin : begin + spec.patch_size[0]]
        assert (mine == original[:, :, begin : begin + spec.patch_size[0]]).all()


@given(st.integers(0, 50), st.integers(1, 9))
def test_rounding_up(count, multiple):
    rounded = splits.rounded_up(count, multiple)
    assert rounded % multiple == 0
    assert 0 <= rounded - count < multiple


# Names, and where nothing runs


def test_names_and_modes():
    for backend in SHARDED:
        for implementation in backend.implementations:
            assert implementation.mode == splits.MODE
            assert implementation.sharded
            assert splits.split_of(implementation.formulation) in splits.SPLITS
            video = PatchEmbedSpec((4, 8, 12), (2, 4, 3), 3, 10)
            assert "images" in backend.refuses(implementation, video)
            assert backend.refuses(implementation, sharding.EVEN) is None
    assert {backend.name for backend in SHARDED} == {
        "jax-sharded",
        "tensorflow-sharded",
        "torch-sharded",
    }
    for name in ("jax-sharded", "torch-sharded"):
        found = {splits.split_of(each.formulation) for each in get_backend(name).implementations}
        assert found == {*splits.SPLITS}


@pytest.mark.parametrize("name", ["jax-sharded", "tensorflow-sharded"])
def test_without_its_switches_a_backend_says_what_to_set(name, monkeypatch):
    backend = get_backend(name)
    if reason := backend.missing():
        pytest.skip(reason)
    if here(backend):
        pytest.skip("they are set")
    chosen = backend.implementations[0]
    reason = backend.unavailable(chosen)
    assert "=4 before" in reason
    probe = random_normal(sharding.EVEN, 2, "float32", 0)
    with pytest.raises(PatchParityError, match="=4 before"):
        backend.load(chosen, probe.weights, sharding.EVEN, "float32", "cpu")


def test_the_benchmark_leaves_them_out_until_they_are_named():
    from patchparity.bench.timing.options import BenchOptions
    from patchparity.bench.timing.plan import _selection
    from patchparity.bench.timing.presets import PRESETS

    part = PRESETS["full"].parts[0]
    for backends, expected in (((), False), (("torch-sharded",), True), (("torch",), False)):
        chosen = _selection(BenchOptions(backends=backends), part, ("cpu",))
        assert any(implementation.sharded for _, implementation in chosen) is expected


# Ranks

ECHO = """
import os, signal, sys, time
from multiprocessing.connection import Connection

def prepare():
    print("prepared", file=sys.stderr)

def serve(rank, size, folder, connection):
    connection.send(os.getpid())
    while True:
        try:
            name, *arguments = connection.recv()
        except EOFError:
            return
        if name == "echo":
            connection.send((rank, size, *arguments))
        if name == "raise" and rank == arguments[0]:
            from {ranks} import Raised
            connection.send(Raised("ValueError: no"))
        elif name == "raise":
            connection.send(None)
        if name == "exit" and rank == arguments[0]:
            print("I am going", file=sys.stderr, flush=True)
            os._exit(3)
        if name == "hang" and rank == arguments[0]:
            time.sleep(600)
        if name in ("exit", "hang"):
            connection.send(None)
"""


@pytest.fixture
def group(tmp_path, monkeypatch):
    """Three ranks that answer what they are told."""
    module = f"echoing_ranks_{tmp_path.name.replace('-', '_')}"
    text = ECHO.replace("{ranks}", Ranks.__module__)
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = Ranks(module, 3, start_seconds=60, answer_seconds=2)
    yield made
    made.close()
    assert_gone(made)


def assert_gone(group):
    """No process is left, and no folder."""
    deadline = time.monotonic() + 10
    left = [Path(f"/proc/{pid}") for pid in (group.host.pid, *group.pids)]
    while any(path.exists() for path in left) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(path.exists() for path in left), "not even as a zombie"
    assert group.host.poll() is not None
    assert not group.folder.exists()


def test_every_rank_answers_and_none_is_left(group):
    assert len(set(group.pids)) == 3
    assert group.ask("echo", 5) == [(0, 3, 5), (1, 3, 5), (2, 3, 5)]
    big = np.arange(300_000.0)
    assert all((answer[2] == big).all() for answer in group.ask("echo", big))
    folder = group.folder
    assert folder.exists()
    group.close()
    group.close()
    assert_gone(group)
    with pytest.raises(PatchParityError, match="the ranks have ended"):
        group.ask("echo", 5)


def test_what_a_rank_raises_is_raised_and_the_group_goes_on(group):
    with pytest.raises(RankError, match="rank 1 of 3: ValueError: no"):
        group.ask("raise", 1)
    assert len(group.ask("echo", 1)) == 3


def test_a_rank_that_ends_is_told_with_its_last_words(group):
    with pytest.raises(PatchParityError, match=r"rank 2 of 3 ended \(exit\).*: I am going"):
        group.ask("exit", 2)
    assert_gone(group)


def test_a_rank_that_is_killed_is_told(group):
    os.kill(group.pids[1], signal.SIGKILL)
    with pytest.raises(PatchParityError, match="rank 1 of 3 ended"):
        group.ask("echo", 0)
    assert_gone(group)


def test_a_rank_that_hangs_is_ended(group):
    started = time.monotonic()
    with pytest.raises(PatchParityError, match="rank 0 of 3 kept silent for 2 s"):
        group.ask("hang", 0)
    assert time.monotonic() - started < 20
    assert_gone(group)


def test_ranks_that_do_not_start_are_told(tmp_path, monkeypatch):
    (tmp_path / "broken_ranks.py").write_text("raise ImportError('no such framework')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PatchParityError, match=r"ended \(starting\).*no such framework"):
        Ranks("broken_ranks", 2, start_seconds=60)


def test_ranks_end_with_a_process_that_is_killed(tmp_path):
    """Nobody is left to tell them: their connection ends."""
    (tmp_path / "kept_ranks.py").write_text(ECHO.replace("{ranks}", Ranks.__module__))
    code = (
        f"import os, signal\nfrom {Ranks.__module__} import Ranks\n"
        "group = Ranks('kept_ranks', 2)\n"
        "print(*group.pids, group.host.pid, group.folder, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    *pids, folder = done.stdout.split()
    deadline = time.monotonic() + 60
    while (any(map(running, pids)) or Path(folder).exists()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(running, pids))
    assert not Path(folder).exists()


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_rank_of_torch_that_dies_is_told_and_the_next_load_starts_others():
    backend = torch_sharded()
    from patchparity.backends.sharded import torch as adapter

    implementation = backend.implementation("torch-sharded:batch-local:sharded")
    probe = random_normal(sharding.EVEN, 4, "float32", 1)
    load = (implementation, probe.weights, sharding.EVEN, "float32", "cpu")
    loaded = backend.load(*load)
    group = adapter.ranks()
    os.kill(group.pids[2], signal.SIGKILL)
    with pytest.raises(PatchParityError, match="rank 2 of 4 ended"):
        loaded.tokens(probe.images)
    with pytest.raises(PatchParityError, match="load the implementation again"):
        loaded.tokens(probe.images)
    assert_gone(group)
    again = backend.load(*load)
    assert adapter.ranks() is not group
    model = implementation.arithmetic("float32")
    assert judge(probe, "forward", again.tokens(probe.images), model).verdict == "pass"


def test_weights_are_replaced_and_dropped():
    backend = torch_sharded()
    first, second = (random_normal(sharding.EVEN, 4, "float32", seed) for seed in (1, 2))
    for implementation in backend.implementations[:5]:
        loaded = backend.load(implementation, first.weights, sharding.EVEN, "float32", "cpu")
        loaded.assign(second.weights)
        model = implementation.arithmetic("float32")
        part = dataclasses.replace(second)
        assert judge(part, "forward", loaded.tokens(second.images), model).verdict == "pass"
        group, key = loaded.group, loaded.key
        del loaded
        with pytest.raises(RankError, match="KeyError"):
            group.ask("call", key, first.images)
