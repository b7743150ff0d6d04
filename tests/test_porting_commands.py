"""inspect, port, verify and embed as users type them."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from patchparity import PatchEmbedSpec
from patchparity.__main__ import app
from patchparity.porting.files.opening import opened
from patchparity.porting.files.writing import write_checkpoint
from patchparity.reference.errors import PatchParityError

SPEC = PatchEmbedSpec((32, 32), 8, 3, 20)


@pytest.fixture
def google(tmp_path):
    """A checkpoint as google's vision_transformer saves it."""
    generator = np.random.default_rng(0)
    tensors = {
        "embedding/kernel": generator.standard_normal((8, 8, 3, 20)),
        "embedding/bias": generator.standard_normal(20),
        "cls": generator.standard_normal((1, 1, 20)),
        "Transformer/posembed_input/pos_embedding": generator.standard_normal((1, 17, 20)),
        "head/kernel": generator.standard_normal((20, 10)),
    }
    path = tmp_path / "ViT-B_16.npz"
    write_checkpoint(path, {name: array.astype(np.float32) for name, array in tensors.items()})
    return path


def told(*arguments, code=0):
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_a_checkpoint_is_inspected_ported_verified_and_run(google, tmp_path):
    output = told("inspect", google, "--json", tmp_path / "i.json")
    assert "dialect: google-vit (npz)" in output
    assert "1 other tensors" in output
    content = json.loads((tmp_path / "i.json").read_text())
    assert {"dialect", "candidates", "ambiguous", "spec", "tensors", "other_tensors"} <= set(
        content
    )
    assert content["spec"]["num_patches"] == 16

    target = tmp_path / "model.safetensors"
    output = told("port", google, target, "--to", "timm-vit", "--report", tmp_path / "r.json")
    assert (
        "google-vit -> timm-vit: patch_embed.proj.weight, patch_embed.proj.bias, cls_token, "
        "pos_embed" in output
    )
    assert json.loads((tmp_path / "r.json").read_text())["ok"]
    with opened(target) as moved:
        assert moved.tensors["patch_embed.proj.weight"].shape == (20, 3, 8, 8)

    assert "the same embedding stage, to the last bit" in told("verify", google, target)
    np.save(tmp_path / "x.npy", np.random.default_rng(1).standard_normal((2, 3, 32, 32)))
    outputs = []
    for path in (google, target):
        assert "sequence (2, 17, 20), float64" in told(
            "embed", path, tmp_path / "x.npy", tmp_path / "y.npy"
        )
        outputs.append(np.load(tmp_path / "y.npy"))
    assert (outputs[0] == outputs[1]).all()
    assert "tokens (2, 16, 20)" in told(
        "embed", target, tmp_path / "x.npy", tmp_path / "y.npy", "--to", "tokens"
    )
    images = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "link.npy").symlink_to(tmp_path / "x.npy")
    for out, why in (
        ("x.npy", "is the images itself"),
        ("link.npy", "is the images itself"),
        ("y.npz", "expected the name of a .npy file"),
    ):
        refused = CliRunner().invoke(
            app, ["embed", str(target), str(tmp_path / "x.npy"), str(tmp_path / out)]
        )
        assert why in str(refused.exception)
    assert (tmp_path / "x.npy").read_bytes() == images


def test_checkpoints_that_differ_exit_with_1_and_say_how(google, tmp_path):
    told("port", google, tmp_path / "a.safetensors", "--to", "timm-vit")
    with opened(tmp_path / "a.safetensors") as checkpoint:
        tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    swapped = {
        **tensors,
        "patch_embed.proj.weight": tensors["patch_embed.proj.weight"].transpose(0, 1, 3, 2),
    }
    write_checkpoint(tmp_path / "b.safetensors", swapped)
    assert "rows and columns are exchanged" in " ".join(
        told("verify", google, tmp_path / "b.safetensors", code=1).split()
    )


def test_the_dialects_are_listed():
    output = told("port", "--list")
    for name in (
        "timm-vit",
        "hf-vit",
        "google-vit",
        "big-vision-vit",
        "keras-hub-vit",
        "openai-clip",
        "dinov2",
        "linear-ppc",
    ):
        assert name in output


def refused(*arguments):
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert isinstance(result.exception, PatchParityError), result.output
    return str(result.exception)


def test_what_cannot_be_done_is_said(google, tmp_path):
    assert "port needs SRC, DST and --to" in refused("port", google)
    assert "dialect 'timm' is unknown" in refused(
        "port", google, tmp_path / "a.safetensors", "--to", "timm"
    )
    assert "expected a name that ends in" in refused(
        "port", google, tmp_path / "a.zip", "--to", "timm-vit"
    )
    assert "is kept in safetensors, torch, and this name is of npz" in refused(
        "port", google, tmp_path / "a.npz", "--to", "timm-vit"
    )
    assert "google-vit is kept in npz, msgpack" in refused(
        "port", google, tmp_path / "a.safetensors", "--to", "google-vit"
    )
    assert "cannot read" in refused("inspect", tmp_path / "absent.npz")
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 24, 24)))
    assert "give 9 tokens, and there are positions for 16" in refused(
        "embed", google, tmp_path / "x.npy", tmp_path / "y.npy"
    )
    np.save(tmp_path / "flat.npy", np.zeros((3, 24, 24)))
    assert "expected (B, C, H, W)" in refused(
        "embed", google, tmp_path / "flat.npy", tmp_path / "y.npy"
    )
    (tmp_path / "no.txt").write_text("nothing of the kind, but long enough to look at")
    assert "is no checkpoint of a kind that is known" in refused("inspect", tmp_path / "no.txt")


def test_a_whole_checkpoint_is_not_overwritten_by_a_stage(google, tmp_path):
    shapes = {"patch_embed.proj.weight": (20, 3, 8, 8), "cls_token": (1, 1, 20)}
    stage = {name: np.ones(shape) for name, shape in shapes.items()}
    for others, way in ((stage, "--into"), ({}, "choose another name")):
        path = tmp_path / "whole.safetensors"
        write_checkpoint(path, {**others, "head.weight": np.zeros(3)})
        before = path.read_bytes()
        told_why = refused("port", google, path, "--to", "timm-vit")
        assert f"holds 1 tensors that would be lost (head.weight, ...): {way}" in told_why
        assert path.read_bytes() == before
    for _ in range(2):
        # what a port wrote, another may replace
        told("port", google, tmp_path / "stage.safetensors", "--to", "timm-vit")


def test_sizes_that_no_file_tells(tmp_path):
    """A grid of 3×5 and its class token are 16 rows, as many as a grid of 4×4 without a row for
    it."""
    generator = np.random.default_rng(0)
    shapes = {
        "patch_embed.proj.weight": (20, 3, 8, 8),
        "patch_embed.proj.bias": (20,),
        "cls_token": (1, 1, 20),
        "pos_embed": (1, 16, 20),
    }
    path, target = tmp_path / "vit.safetensors", tmp_path / "hf.safetensors"
    write_checkpoint(
        path,
        {
            name: generator.standard_normal(shape).astype(np.float32)
            for name, shape in shapes.items()
        },
    )
    assumed = (
        "the grid is assumed to be square, 4×4, with position rows for no prefix token; an "
        "image size would tell"
    )
    assert assumed in told("inspect", path)
    with pytest.raises(
        PatchParityError,
        match=r"is ambiguous: the grid is assumed to be square.*--image-size, or a config.json",
    ):
        CliRunner().invoke(
            app, ["port", str(path), str(target), "--to", "hf-vit"], catch_exceptions=False
        )
    output = told("inspect", path, "--image-size", "24x40")
    assert "grid 3×5" in output
    assert "assumed" not in output
    with pytest.raises(PatchParityError, match=r"has grid 4×4, and 2×5 .of 16×40 pixels. was told"):
        CliRunner().invoke(
            app, ["inspect", str(path), "--image-size", "16x40"], catch_exceptions=False
        )
    output = told("port", path, target, "--to", "hf-vit", "--image-size", "24x40")
    assert "assumed" not in output
    with opened(target) as moved:
        assert moved.tensors["embeddings.position_embeddings"].shape == (1, 16, 20)
    assert "the same embedding stage" in told("verify", path, target, "--image-size", "24x40")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--image-size", "40x40"), "has grid 4×4, and 5×5 .of 40×40 pixels. was told"),
        (("--patch-size", "16"), "has patch 8×8, and 16×16 was told"),
        (("--in-channels", "4"), "has channels 3, and 4 was told"),
        (
            ("--image-size", "wide"),
            "--image-size wide: expected a number, or numbers with x between them, such as 224x160",
        ),
        (("--image-size", "0"), "expected a number, or numbers with x"),
        (("--image-size", "2x2x2x2"), "expected a number, or numbers with x"),
        (("--in-channels", "-3"), "in_channels=-3: expected a positive integer"),
    ],
)
def test_sizes_that_are_wrong(google, tmp_path, options, message):
    for command in (
        ("inspect", google),
        ("port", google, tmp_path / "a.safetensors", "--to", "timm-vit"),
    ):
        with pytest.raises(PatchParityError, match=message):
            CliRunner().invoke(
                app, [str(each) for each in (*command, *options)], catch_exceptions=False
            )


def test_a_matrix_that_needs_its_patch(tmp_path):
    generator, path = np.random.default_rng(0), tmp_path / "a.safetensors"
    write_checkpoint(
        path, {"weight": generator.standard_normal((20, 4 * 16 * 3)).astype(np.float32)}
    )
    output = told(
        "inspect",
        path,
        "--from",
        "linear-ppc",
        "--patch-size",
        "4x16",
        "--image-size",
        "8x32",
        "--in-channels",
        "3",
    )
    assert "patch 4×16, 3 channels, width 20, grid 2×2" in output


def test_images_that_patches_do_not_divide_are_treated_otherwise(tmp_path):
    generator, path = np.random.default_rng(0), tmp_path / "swin.safetensors"
    projection = "embeddings.patch_embeddings.projection"
    shapes = {
        f"{projection}.weight": (20, 3, 4, 4),
        f"{projection}.bias": (20,),
        "embeddings.norm.weight": (20,),
        "embeddings.norm.bias": (20,),
    }
    write_checkpoint(
        path,
        {
            name: generator.standard_normal(shape).astype(np.float32)
            for name, shape in shapes.items()
        },
    )
    output = told(
        "port",
        path,
        tmp_path / "b.safetensors",
        "--to",
        "oihw",
        "--allow-loss",
        "--image-size",
        "30x33",
    )
    assert "other-remainder" not in output
    output = told("inspect", path, "--image-size", "30x33")
    assert "grid 8×9" in output
    output = told("port", path, tmp_path / "timm.safetensors", "--to", "timm-vit", "--allow-loss")
    assert "step other-remainder: images that patches do not divide are padded by the one" in output
    assert "other-remainder" not in told(
        "port", path, tmp_path / "same.safetensors", "--to", "hf-swin"
    )


def test_sizes_that_leave_no_reading(tmp_path):
    """Of 15 rows neither 15 nor 14 patches are a square: a size must be told, and the right one."""
    generator, path = np.random.default_rng(0), tmp_path / "a.safetensors"
    shapes = {
        "patch_embed.proj.weight": (20, 3, 8, 8),
        "cls_token": (1, 1, 20),
        "pos_embed": (1, 15, 20),
    }
    write_checkpoint(
        path,
        {
            name: generator.standard_normal(shape).astype(np.float32)
            for name, shape in shapes.items()
        },
    )
    assert "grid 2×7" in told("inspect", path, "--from", "timm-vit", "--image-size", "16x56")
    command = [
        "port",
        str(path),
        str(tmp_path / "b.safetensors"),
        "--to",
        "hf-vit",
        "--image-size",
        "16",
    ]
    with pytest.raises(
        PatchParityError,
        match="tensors of timm-vit, but its 15 positions are not of an image of 16×16: "
        "--image-size",
    ):
        CliRunner().invoke(app, command, catch_exceptions=False)
    for without in (command[:-2], ["inspect", str(path)]):
        with pytest.raises(
            PatchParityError,
            match="its 15 positions are of no square grid: --image-size tells the right one",
        ):
            CliRunner().invoke(app, without, catch_exceptions=False)


def test_no_command_writes_over_what_it_reads(google, tmp_path):
    told("port", google, tmp_path / "a.safetensors", "--to", "timm-vit")
    told("port", google, tmp_path / "b.safetensors", "--to", "timm-vit")
    one, other = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    held = {path: path.read_bytes() for path in (Path(google), one, other)}
    for command in (
        ("inspect", one, "--json", one),
        ("verify", one, other, "--json", other),
        ("port", google, tmp_path / "c.safetensors", "--to", "timm-vit", "--report", google),
        (
            "port",
            google,
            tmp_path / "c.safetensors",
            "--to",
            "timm-vit",
            "--report",
            tmp_path / "c.safetensors",
        ),
        (
            "port",
            google,
            tmp_path / "c.safetensors",
            "--to",
            "timm-vit",
            "--into",
            one,
            "--report",
            one,
        ),
        ("port", google, google, "--to", "google-vit"),
    ):
        assert refused(*command)
        assert {path: path.read_bytes() for path in held} == held


def test_an_unexplained_tensor_ends_inspect_with_1_and_ignore_says_otherwise(google, tmp_path):
    told("port", google, tmp_path / "a.safetensors", "--to", "timm-vit")
    with opened(tmp_path / "a.safetensors") as checkpoint:
        tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    write_checkpoint(
        tmp_path / "b.safetensors",
        {**tensors, "patch_embed.norm_of_mine.weight": np.ones(20, np.float32)},
    )
    output = told("inspect", tmp_path / "b.safetensors", code=1)
    assert "patch_embed.norm_of_mine.weight" in output
    assert "patch_embed.norm_of_mine.weight" in told(
        "inspect", tmp_path / "b.safetensors", "--ignore", "*norm_of_mine*"
    )


def test_a_layer_that_could_be_read_alone_is_named(tmp_path):
    generator = np.random.default_rng(5)
    tensors = {
        f"net.{at}.weight": generator.standard_normal(shape).astype(np.float32)
        for at, shape in enumerate(((20, 3, 8, 8), (7, 20)))
    }
    write_checkpoint(tmp_path / "a.safetensors", tensors)
    assert "the layer alone as oihw --prefix 'net.0.'" in told(
        "inspect", tmp_path / "a.safetensors", code=1
    )
    assert "the layer alone as oihw --prefix 'net.0.'" in refused(
        "port", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--to", "timm-vit"
    )
    assert "dialect: oihw under 'net.0.'" in told(
        "inspect", tmp_path / "a.safetensors", "--from", "oihw", "--prefix", "net.0."
    )


def test_a_backend_of_preprocessing_without_its_steps_is_refused(google, tmp_path):
    """It would say nothing: a picture is then only scaled, or taken as it is."""
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 32, 32), np.float32))
    why = "--preprocess-backend has no part here: it says with what"
    with pytest.raises(PatchParityError, match=why):
        raise (
            CliRunner()
            .invoke(
                app,
                [
                    *("embed", str(google), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")),
                    *("--preprocess-backend", "pillow"),
                ],
            )
            .exception
        )
    picture = tmp_path / "x.png"
    with pytest.raises(PatchParityError, match=why):
        raise (
            CliRunner()
            .invoke(
                app,
                [
                    *("diagnose", "--image", str(picture), "--pixels", str(tmp_path / "x.npy")),
                    *("--preprocess-backend", "pillow"),
                ],
            )
            .exception
        )
