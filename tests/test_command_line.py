"""The command line: tables, exit status, and one sentence for each mistake of a user."""

import base64
import gzip
import html.parser
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

pytest.importorskip("pytest_benchmark")

from .fake_backends import install, running_below


def patchparity(
    *arguments: str, environment: dict[str, str] | None = None, cwd=None
) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "patchparity", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd)


def test_help_and_version_need_no_numpy():
    code = (
        "import sys, patchparity.cli.app; sys.exit(', '.join(each for each in ('numpy', "
        "'jinja2', 'rich') if each in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_command_has_an_example_below_its_help():
    from patchparity.cli.app import COMMANDS
    from patchparity.cli.help import EXAMPLES

    assert list(EXAMPLES) == list(COMMANDS)
    for name in ("check", "port"):
        for option in ("-h", "--help"):
            done = patchparity(name, option)
            assert done.returncode == 0, done.stderr
            assert EXAMPLES[name] in " ".join(done.stdout.split())
    assert patchparity("-h").stdout == patchparity("--help").stdout


def test_help_shows_options_in_groups_that_exist():
    from typer.main import get_command

    from patchparity.cli.app import command_line
    from patchparity.cli.help import GROUPS

    commands = get_command(command_line()).commands
    for name, groups in GROUPS.items():
        known = {parameter.name for parameter in commands[name].params}
        named = [option for options in groups.values() for option in options]
        assert len(named) == len(set(named)), name
        if name not in ("run", "inspect", "verify"):  # which share the groups of bench and port
            assert set(named) <= known, (name, set(named) - known)
    done = patchparity("check", "-h")
    assert "Somebody's implementation:" in done.stdout
    assert "--image-layout nchw|nhwc" in done.stdout


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("patchparity chec", {"check"}),
        ("patchparity bench --preset ", {"smoke", "quick", "full"}),
        ("patchparity check --backend tens", {"tensorflow"}),
        ("patchparity port a b --to timm-vi", {"timm-vit"}),
        ("patchparity check --kernel-layout hw", {"hwio"}),
    ],
)
def test_a_shell_completes_names(typed, completed):
    words = typed.split(" ")
    environment = {
        **os.environ,
        "_PATCHPARITY_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words) - 1),
    }
    code = "import sys; sys.argv = ['patchparity']; from patchparity.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    shown = set(done.stdout.split())
    assert completed <= shown, done.stderr
    assert all(name.startswith(words[-1]) for name in shown)


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (("bench", "--backend", "troch"), "did you mean torch?"),
        (("bench", "--preset", "quik"), "did you mean quick?"),
        (("bench", "--case", "swin-s4-224"), "did you mean swin-t4-224?"),
        (("port", "a", "b", "--to", "hf-vti"), "hf-vit"),
        (("chek",), "check"),
    ],
)
def test_what_is_nearly_a_name_is_told(arguments, near, tmp_path):
    done = patchparity(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert near in " ".join(done.stderr.split()), done.stderr


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "report"
    image = folder.parent / "photo.npy"
    import numpy as np

    np.save(image, np.random.default_rng(0).random((48, 32, 3)))
    arguments = (
        "--backend",
        "numpy",
        "--case",
        "vit-ti32-224",
        "--case",
        "vit-ti32-224-b2",
        "--rounds",
        "4",
        "--threads",
        "1",
    )
    return patchparity("run", *arguments, "--image", image, "--out", folder), folder


def test_run_does_the_main_job(finished_run):
    pytest.importorskip("jinja2")
    done, folder = finished_run
    assert done.returncode == 0, done.stderr
    names = {path.name for path in folder.iterdir()}
    assert {
        "check.json",
        "controls.json",
        "bench.json",
        "samples.jsonl",
        "report.html",
        "report.md",
        "report.csv",
    } <= names
    assert "numpy:linear:eager" in done.stdout
    assert "Fastest of each framework" in done.stdout
    assert "\nvit-ti32-224-b2, 1 thread\n" in done.stdout
    assert "mistakes made on purpose were rejected" in done.stdout
    assert json.loads((folder / "check.json").read_text())["summary"]["fail"] == 0
    assert len(json.loads((folder / "bench.json").read_text())["benchmarks"]) == 20


class _Addresses(html.parser.HTMLParser):
    """Every address that a tag of a page points to; a script's own text is no tag."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags = 0

    def handle_starttag(self, tag, attributes):
        self.tags += 1
        self.found += [
            value
            for name, value in attributes
            if name in ("src", "href", "srcset", "data", "action") and value
        ]


def test_the_report_is_self_contained_and_holds_every_row(finished_run):
    pytest.importorskip("jinja2")
    _, folder = finished_run
    page = (folder / "report.html").read_text()
    finder = _Addresses()
    finder.feed(page)
    assert finder.tags > 100, "the parser saw the page"
    assert [address for address in finder.found if not address.startswith("#")] == []
    text = (folder / "report.md").read_text()
    held = data_of(page)
    for needle in (
        "Is it right?",
        "Can the verdicts fail?",
        "kernel-hwio-as-oihw",
        "Convolution or linear?",
        "vit-ti32-224-b1",
        "vit-ti32-224-b2",
        "numpy:gemm (ceiling)",
        "(A/A copy)",
    ):
        assert needle in page or needle in json.dumps(held["tables"])
        assert needle in text
    assert any(": over batch" in picture["title"] for picture in held["pictures"])
    assert len(text) < 60_000, "a comment of a pull request holds no more"
    assert "implementations are right on this machine" in page
    rows = [row for table in held["tables"] for row in table["rows"]]
    assert sum(row[0].startswith("numpy:gemm (ceiling)") for row in rows) >= 2
    before_a_fold_is_opened = finder.tags
    assert before_a_fold_is_opened < len(rows) * 5
    lines = (folder / "report.csv").read_text().splitlines()
    assert len(lines) == 1 + 20
    assert lines[0].startswith("case,implementation,backend")


def data_of(page: str) -> dict:
    """What a page holds compressed: its tables and pictures."""
    packed = page.partition('id="data">')[2].partition("<")[0]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_report_beside_an_earlier_record_and_its_figures(finished_run, tmp_path):
    pytest.importorskip("resvg_py")
    _, folder = finished_run
    new, figures = tmp_path / "new", tmp_path / "figures"
    shutil.copytree(folder, new)
    done = patchparity("report", new, "--against", folder, "--figures", figures)
    assert done.returncode == 0, done.stderr
    page = (new / "report.html").read_text()
    assert f"Against {folder.name}" in page
    titles = [picture["title"] for picture in data_of(page)["pictures"]]
    assert "vit-ti32-224-b2, float32, 1 thread, cpu" in titles
    drawn = sorted(path.name for path in figures.iterdir())
    assert len(drawn) == 2 * len(titles)
    assert all(name.endswith((".svg", ".png")) for name in drawn)
    assert any(name.startswith("trend-") for name in drawn)
    for path in figures.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    refused = patchparity("report", new, "--against", tmp_path / "none")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1


def test_report_needs_the_record_alone(finished_run, tmp_path):
    pytest.importorskip("jinja2")
    _, folder = finished_run
    (tmp_path / "bench.json").write_text((folder / "bench.json").read_text())
    done = patchparity("report", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Is it right?" not in (tmp_path / "report.md").read_text()
    assert (tmp_path / "report.csv").read_text() == (folder / "report.csv").read_text()


def test_backends_lists_all_and_how_to_get_them():
    done = patchparity("backends")
    assert done.returncode == 0
    for name in ("numpy", "torch", "tensorflow", "jax"):
        assert name in done.stdout


def test_check_exits_1_on_a_wrong_adapter_and_says_what_is_wrong(tmp_path):
    environment = install(tmp_path, "wrong")
    done = patchparity(
        "check",
        "--backend",
        "wrong",
        "--dtype",
        "float32",
        "--json",
        tmp_path / "c.json",
        environment=environment,
    )
    assert done.returncode == 1
    assert "fail" in done.stdout
    assert "wrong:conv2d:eager" in done.stdout
    assert "are outside the exact result" in done.stdout.replace("\n", " ")
    assert json.loads((tmp_path / "c.json").read_text())["summary"]["fail"] > 0


def test_a_wrong_adapter_is_not_timed(tmp_path):
    environment = install(tmp_path, "wrong")
    done = patchparity(
        "bench",
        "--backend",
        "wrong",
        "--preset",
        "smoke",
        "--out",
        tmp_path / "o",
        environment=environment,
    )
    assert done.returncode == 1
    assert "not timed, for it is wrong" in done.stdout.replace("\n", " ")


def test_diagnose_names_the_mistake_and_its_mend(tmp_path):
    import numpy as np

    generator = np.random.default_rng(0)
    images = generator.random((2, 3, 32, 48)).astype(np.float32)
    kernel = generator.standard_normal((20, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    np.savez(tmp_path / "weights.npz", kernel=kernel)
    patches = images.reshape(2, 3, 4, 8, 6, 8).transpose(0, 2, 4, 1, 3, 5).reshape(2, 24, -1)
    hwio_read_as_oihw = np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)).reshape(20, -1)
    outputs = {"right": patches @ kernel.reshape(20, -1).T, "wrong": patches @ hwio_read_as_oihw.T}
    files = ("--images", tmp_path / "images.npy", "--weights", tmp_path / "weights.npz")
    for name, tokens in outputs.items():
        np.save(tmp_path / f"{name}.npy", tokens)
    right = patchparity("diagnose", *files, "--tokens", tmp_path / "right.npy")
    assert (right.returncode, right.stdout) == (0, "correct: the output is correct\n")
    wrong = patchparity(
        "diagnose", *files, "--tokens", tmp_path / "wrong.npy", "--json", tmp_path / "d.json"
    )
    assert wrong.returncode == 1
    assert "mend: the kernel is HWIO: transpose it with (3, 2, 0, 1)" in wrong.stdout
    told = json.loads((tmp_path / "d.json").read_text())
    assert (told["correct"], told["status"], told["mistakes"]) == (
        False,
        "unique",
        ["kernel-hwio-as-oihw"],
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("diagnose", "--images", "i.npy", "--weights", "w.npz", "--tokens", "t.npy"),
            "error: cannot read arrays from i.npy",
        ),
        (("check", "--backend", "theano"), "error: backend 'theano' is unknown; expected one of"),
        (
            ("check", "--implementation", "numpy:fft"),
            "error: implementation 'numpy:fft' is unknown",
        ),
        (("check", "--dtype", "int8"), "error: dtype 'int8' is unknown"),
        (
            ("check", "--backend", "numpy", "--image", "absent.png"),
            "error: cannot read image absent.png",
        ),
        (
            ("check", "--backend", "numpy", "--remainder", "crop"),
            "error: remainder 'crop' is unknown; expected one of error, floor, pad-end, same",
        ),
        (
            ("check", "--backend", "numpy", "--device", "cpu", "--json", "no/such/folder/c.json"),
            "error: cannot write no/such/folder/c.json",
        ),
        (
            ("bench", "--preset", "fast"),
            "error: preset 'fast' is unknown; expected one of smoke, quick, full",
        ),
        (("bench", "--threads", "two"), "error: threads='two': expected numbers"),
        (("bench", "--threads", "999"), "error: threads=999: expected 1 to"),
        (
            ("bench", "--case", "vit-b16-225"),
            "error: image_size=(225, 225) does not divide into patches of (16, 16)",
        ),
        (("bench", "--case", "alexnet"), "error: case 'alexnet' is unknown"),
        (("run", "--out", "/proc/nowhere"), "error: output folder /proc/nowhere cannot be written"),
        (
            ("report", "nowhere"),
            "error: cannot read nowhere/bench.json: No such file or directory; patchparity bench "
            "--out nowhere makes it",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_2(arguments, message, tmp_path):
    done = patchparity(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(message), done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir()), "nothing half-written"


def test_traceback_on_demand(tmp_path):
    done = patchparity("--traceback", "check", "--backend", "theano")
    assert "Traceback" in done.stderr


def test_the_process_ends_as_any_other_with_its_handlers_run_and_its_output_written():
    code = """
import atexit, sys, threading, time
from patchparity import __main__ as door
def end():
    atexit.register(print, "handler ran")
    if {thread}:
        threading.Thread(target=lambda: (time.sleep(0.2), print("thread ran"))).start()
    print("x" * 100_000)
    sys.exit({status})
door._run = end
door.console()
print("never")
"""
    for status, told in ((0, 0), (3, 3), (None, 0), ("'a sentence'", 1), (True, 1)):
        for thread in (False, True):
            done = subprocess.run(
                [sys.executable, "-c", code.format(status=status, thread=thread)],
                capture_output=True,
                text=True,
            )
            assert done.returncode == told, (status, done.stderr)
            lines = ["x" * 100_000, "handler ran"]
            assert done.stdout.splitlines() == lines[:1] + ["thread ran"] * thread + lines[1:]
            assert done.stderr == ("a sentence\n" if told == 1 and status is not True else "")


def test_json_is_refused_before_the_work_not_after(tmp_path, monkeypatch):
    import importlib

    from patchparity import PatchParityError

    command_line = importlib.import_module("patchparity.__main__")
    monkeypatch.setattr(
        "patchparity.bench.check.check.check", lambda **_: pytest.fail("worked first")
    )
    monkeypatch.setattr(
        "patchparity.bench.timing.benchmark.benchmark", lambda _: pytest.fail("worked first")
    )
    for command in ("check", "bench"):
        with pytest.raises(PatchParityError, match=r"cannot write .*No such file"):
            CliRunner().invoke(
                command_line.app,
                [command, "--json", str(tmp_path / "no" / "c.json")],
                catch_exceptions=False,
            )
        with pytest.raises(PatchParityError, match="it is a folder"):
            CliRunner().invoke(
                command_line.app, [command, "--json", str(tmp_path)], catch_exceptions=False
            )
        with pytest.raises(PatchParityError, match="cannot write -: expected the name of a file"):
            CliRunner().invoke(command_line.app, [command, "--json", "-"], catch_exceptions=False)


def test_ctrl_c_says_how_to_go_on_and_leaves_no_process(tmp_path):
    command = [
        sys.executable,
        "-m",
        "patchparity",
        "bench",
        "--preset",
        "smoke",
        "--backend",
        "numpy",
        "--rounds",
        "100000",
    ]
    # A shell starts background jobs with SIGINT ignored, and what is ignored is inherited: a run of
    # the tests may be such a job. What has a handler is not. (A preexec_fn would do as well, but
    # forks, and a JAX that another test has loaded warns of forks.)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    signal.signal(signal.SIGINT, before)
    while not (tmp_path / "samples.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130
    assert (
        "interrupted; finished cases are kept: the same command with --resume goes on"
        in told.replace("\n", " ")
    )
    assert "Traceback" not in told
    assert not running_below(tmp_path)


@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_a_folder_that_is_gone_while_it_is_measured_is_told(tmp_path, how):
    folder = tmp_path / "record"
    command = [
        sys.executable,
        "-m",
        "patchparity",
        "bench",
        "--case",
        "vit-ti32-224-b2",
        "--backend",
        "numpy",
        "--rounds",
        "500",
    ]
    process = subprocess.Popen(
        [*command, "--out", str(folder)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while not (folder / "samples.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.1)
    if how == "renamed":
        folder.rename(tmp_path / "elsewhere")
    else:
        shutil.rmtree(folder)
    _, told = process.communicate()
    assert process.returncode == 2, told
    assert "was removed or renamed while the benchmark ran" in told.replace("\n", " ")
    assert "Traceback" not in told
