"""The README and the pages of docs/ are true: two commands, examples that run and print what stands
there, options, fields and links that exist."""

import collections
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from . import field_tables, recipe_tables
from .figures import PAGE, PICTURE, made_anew, picture

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in (ROOT / "docs").glob("*.md")}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_first_two_commands_are_one_line_each_and_go_through_tox():
    main_job, tests = blocks("sh")[:2]
    for command in (main_job, tests):
        assert len(command.strip().splitlines()) == 1
        assert "tox run" in command
    assert main_job.strip().endswith("tox run -e report")


def test_ci_calls_the_test_command():
    script = (ROOT / ".ci" / "run").read_text()
    (extract,) = re.findall(r"\$\((awk .*)\)$", script, re.MULTILINE)
    found = subprocess.run(
        ["bash", "-c", extract], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert found == blocks("sh")[1]


def test_it_is_a_page():
    assert len(README.splitlines()) <= 150


def test_the_python_example_runs(tmp_path):
    (example,) = [block for block in blocks("python") if "import patchparity as pp" in block]
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


NUMBER = re.compile(r"-?\d[\d.]*(e[-+]\d+)?")


@pytest.fixture(scope="module")
def folder_of_the_readme(tmp_path_factory):
    """What the README says that is there: vit.py, hf/, dinov2/, images.npy, the kept
    records."""
    torch, transformers = map(pytest.importorskip, ("torch", "transformers"))
    import numpy as np

    folder = tmp_path_factory.mktemp("readme")
    (module,) = [block for block in blocks("python") if "class Reversed" in block]
    (folder / "vit.py").write_text(module)
    torch.manual_seed(0)
    config = transformers.ViTConfig(image_size=64, num_hidden_layers=2)
    transformers.ViTModel(config).save_pretrained(folder / "hf")
    config = transformers.Dinov2WithRegistersConfig(
        image_size=64, patch_size=16, num_hidden_layers=2, num_register_tokens=4
    )
    transformers.Dinov2WithRegistersModel(config).save_pretrained(folder / "dinov2")
    np.save(folder / "images.npy", np.random.default_rng(0).standard_normal((2, 3, 64, 64)))
    (folder / "bench").symlink_to(ROOT / "bench")
    return folder


@pytest.fixture(scope="module")
def folder_of_resizing(folder_of_the_readme):
    """What docs/resizing.md says that is there: tables, a larger image and what the model made of
    it, a photograph and its processor's file."""
    torch, transformers = map(pytest.importorskip, ("torch", "transformers"))
    image = pytest.importorskip("PIL.Image")
    import numpy as np

    import patchparity as pp

    folder, random = folder_of_the_readme, np.random.default_rng(0)
    table = random.standard_normal((17, 32))
    resized = pp.resize_positions(table, (4, 4), (6, 6), prefix_rows=1, recipe="timm")
    larger = random.standard_normal((1, 3, 96, 96)).astype(np.float32)
    model = transformers.ViTModel.from_pretrained(folder / "hf")
    with torch.no_grad():
        tokens = model.embeddings(torch.from_numpy(larger), interpolate_pos_encoding=True)
    named = {"old": table, "new": resized, "larger": larger, "tokens": tokens.numpy()}
    for name, array in named.items():
        np.save(folder / f"{name}.npy", array)
    rows, columns = np.mgrid[:90, :120]
    photo = np.stack([rows * 2, columns * 2, (rows * columns) % 251], axis=-1).astype(np.uint8)
    image.fromarray(photo).save(folder / "photo.jpg")
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 64, "width": 64},
        "resample": 3,
    }
    file = folder / "hf" / "preprocessor_config.json"
    file.write_text(json.dumps(processor))
    np.save(folder / "pixel_values.npy", pp.preprocess(folder / "photo.jpg", file))
    return folder


def runs_of(page):
    """Each command of a page's console blocks, and the lines below it."""
    for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
        for run in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *lines = run.splitlines()
            yield command, lines


@pytest.mark.parametrize(
    ("command", "lines"), runs_of(PAGES["resizing.md"]), ids=lambda value: str(value)[:40]
)
def test_every_command_of_resizing_prints_what_stands_below_it(command, lines, folder_of_resizing):
    (folder_of_resizing / "vit.safetensors").unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)],
        capture_output=True,
        text=True,
        cwd=folder_of_resizing,
    )
    printed = (done.stdout + done.stderr).splitlines()
    for line in lines:
        beginning = line.partition(", ...")[0]
        assert line == "..." or any(each.startswith(beginning) for each in printed), printed


def runs():
    """Each command of a console block, and the lines below it."""
    for block in blocks("console"):
        for run in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *lines = run.splitlines()
            yield command, lines


@pytest.mark.parametrize(("command", "lines"), runs(), ids=lambda value: str(value)[:40])
def test_every_command_prints_what_stands_below_it(command, lines, folder_of_the_readme):
    program, *arguments = shlex.split(command)
    assert program == "patchparity"
    done = subprocess.run(
        [sys.executable, "-m", program, *arguments],
        capture_output=True,
        text=True,
        cwd=folder_of_the_readme,
    )
    printed = done.stdout.splitlines()
    # of an answer of a page the README shows the beginning
    shown = printed if arguments[0] != "recommend" else printed[: len(lines)]
    assert [NUMBER.sub("#", line) for line in shown] == [NUMBER.sub("#", line) for line in lines], (
        done.stderr
    )


def test_every_link_leads_to_a_file():
    for name, text in {"README.md": README, **PAGES}.items():
        folder = ROOT if name == "README.md" else ROOT / "docs"
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (folder / target).exists(), f"{name}: {target}"


@pytest.mark.parametrize(
    "command",
    [
        "backends",
        "check",
        "diagnose",
        "bench",
        "recommend",
        "compare",
        "report",
        "run",
        "inspect",
        "port",
        "verify",
        "embed",
    ],
)
def test_every_option_named_in_the_readme_exists(command):
    help_text = subprocess.run(
        [sys.executable, "-m", "patchparity", command, "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    everything = "\n".join([README, *PAGES.values()])
    for line in re.findall(rf"^(?:\$ )?patchparity {command} (.*)$", everything, re.MULTILINE):
        for option in re.findall(r"--[a-z-]+", line.split("#")[0]):
            assert option in help_text, (command, option)


def test_every_field_of_the_contract_is_documented():
    """`python -m tests.field_tables` makes the page anew."""
    assert field_tables.PAGE.read_text(encoding="utf-8") == field_tables.page()
    assert recipe_tables.PAGE.read_text(encoding="utf-8") == recipe_tables.page()
    for kind in field_tables.KINDS.values():
        named = [name for names in field_tables.meanings_of(kind) for name in names]
        assert sorted(named) == sorted(field_tables.fields_of(kind)), kind
    session = pytest.importorskip("patchparity.bench.timing.plan")
    for name in session.BenchOptions.__dataclass_fields__:
        assert re.search(rf"\b{name}\b", PAGES["reference.md"]), name


def test_the_tables_of_times_and_the_picture_are_those_of_the_record():
    """`python -m tests.figures` makes them anew."""
    assert made_anew(PAGE.read_text(encoding="utf-8")) == PAGE.read_text(encoding="utf-8")
    assert PICTURE.read_text(encoding="utf-8") == picture()


def test_the_census_is_counted_as_it_stands_in_its_table():
    counts = collections.Counter(
        row.split("|")[3].strip().partition(":")[0].split()[0]
        for row in (ROOT / "docs" / "census.md").read_text(encoding="utf-8").splitlines()
        if row.startswith("| ") and not row.startswith("| model")
    )
    told = {
        "README.md": f"of {counts.total()} models of transformers, timm, KerasHub and vit-pytorch "
        f"{counts['right']} are read as their own library computes them, {counts['told']} when",
        "docs/porting.md": f"{counts.total()}, of which {counts['right']} are read as their own "
        f"library computes them, {counts['told']} when told what no file says, "
        f"{counts['unproved']} are read where its model could not be asked, {counts['refused']} "
        "are",
    }
    assert counts["wrong"] == 0
    for page, words in told.items():
        assert words in " ".join((ROOT / page).read_text(encoding="utf-8").split())
