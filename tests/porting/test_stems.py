"""Convolutions and batch norms in front of the projection, and behind it."""

import numpy as np
import pytest

from patchparity.porting.embed import embed
from patchparity.porting.files.safetensors_files import write_safetensors
from patchparity.porting.inspection import inspect_checkpoint
from patchparity.porting.port import port
from patchparity.porting.verify import verify
from patchparity.reference.errors import PatchParityError

from .pictures import images


def with_stem(seed=1):
    """VOLO's names: three convolutions with batch norms, then patches of 4."""
    random = np.random.default_rng(seed)
    held = {"network.0.0.norm1.weight": random.standard_normal(10)}
    channels = 3
    for place, (side, width) in enumerate([(7, 4), (3, 4), (3, 4)]):
        at = 3 * place
        held[f"patch_embed.conv.{at}.weight"] = random.standard_normal(
            (width, channels, side, side)
        )
        for part in ("weight", "bias", "running_mean"):
            held[f"patch_embed.conv.{at + 1}.{part}"] = random.standard_normal(width)
        held[f"patch_embed.conv.{at + 1}.running_var"] = random.uniform(0.5, 2, width)
        held[f"patch_embed.conv.{at + 1}.num_batches_tracked"] = np.array(7)
        channels = width
    held["patch_embed.proj.weight"] = random.standard_normal((10, 4, 4, 4))
    held["patch_embed.proj.bias"] = random.standard_normal(10)
    return held


def test_a_stem_is_run_before_the_projection(tmp_path):
    torch = pytest.importorskip("torch")
    held = with_stem()
    write_safetensors(tmp_path / "a.safetensors", held, {"format": "pt"})
    modules, channels = [], 3
    for side, stride in ((7, 2), (3, 1), (3, 1)):
        convolution = torch.nn.Conv2d(channels, 4, side, stride, side // 2, bias=False)
        modules += [convolution, torch.nn.BatchNorm2d(4), torch.nn.ReLU()]
        channels = 4
    model = torch.nn.ModuleDict(
        {"conv": torch.nn.Sequential(*modules), "proj": torch.nn.Conv2d(4, 10, 4, 4)}
    ).double()
    named = {
        name.removeprefix("patch_embed."): torch.tensor(value)
        for name, value in held.items()
        if "patch" in name
    }
    model.load_state_dict(named)
    model.eval()
    pictures = images(40, 26)
    expected = (
        model["proj"](model["conv"](torch.from_numpy(pictures).double()))
        .flatten(2)
        .transpose(1, 2)
        .detach()
        .numpy()
    )
    # In float64; the statistics of the norms make sums of some hundred.
    np.testing.assert_allclose(
        embed(tmp_path / "a.safetensors", pictures), expected, atol=1e-9 * np.abs(expected).max()
    )
    told = inspect_checkpoint(tmp_path / "a.safetensors")
    assert (told["dialect"], told["spec"]["in_channels"], len(told["spec"]["stem"])) == (
        "timm-volo",
        3,
        3,
    )


def test_a_stem_is_not_left_behind(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", with_stem(), {"format": "pt"})
    with pytest.raises(
        PatchParityError,
        match=r"3 convolutions in front of its projection.*--from oihw --prefix "
        r"'patch_embed.proj.'",
    ):
        port(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "timm-vit")
    assert not (tmp_path / "b.safetensors").exists()


def test_stems_are_compared(tmp_path):
    held = with_stem()
    write_safetensors(tmp_path / "a.safetensors", held, {"format": "pt"})
    write_safetensors(tmp_path / "b.safetensors", held, {"format": "pt"})
    assert verify(tmp_path / "a.safetensors", tmp_path / "b.safetensors").same
    held["patch_embed.conv.4.running_var"] *= 1.01
    write_safetensors(tmp_path / "b.safetensors", held, {"format": "pt"})
    found = verify(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert not found.same
    assert "convolution 2 in front of the projection differs" in found.explanation


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("patch_embed.conv.3.weight", (4, 5, 3, 3)),
        ("patch_embed.conv.4.bias", (3,)),
        ("patch_embed.conv.6.weight", (4, 4, 3, 2)),
        ("patch_embed.conv.0.weight", (4, 3)),
    ],
)
def test_a_stem_whose_parts_do_not_fit_is_refused(tmp_path, name, shape):
    held = {**with_stem(), name: np.ones(shape)}
    write_safetensors(tmp_path / "a.safetensors", held, {"format": "pt"})
    with pytest.raises(PatchParityError):
        embed(tmp_path / "a.safetensors", images(40, 26))


def test_a_batch_norm_behind_the_projection_is_ported_in_kernel_and_bias(tmp_path):
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(4)
    held = {
        f"patch_embed.norm.{part}": random.standard_normal(10)
        for part in ("weight", "bias", "running_mean")
    }
    held |= {
        "patch_embed.norm.running_var": random.uniform(0.5, 2, 10),
        "patch_embed.norm.num_batches_tracked": np.array(3),
    }
    held |= {
        "patch_embed.proj.weight": random.standard_normal((10, 3, 4, 4)),
        "stages.0.blocks.0.mlp.fc1.weight": np.ones((4, 4)),
    }
    write_safetensors(tmp_path / "a.safetensors", held, {"format": "pt"})
    report = port(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "oihw")
    assert report.ok
    assert report.source == "timm-fasternet"
    pictures = images(12, 20)
    convolved = torch.nn.functional.conv2d(
        torch.from_numpy(pictures).double(),
        torch.from_numpy(held["patch_embed.proj.weight"]),
        None,
        4,
    )
    parts = [
        torch.from_numpy(held[f"patch_embed.norm.{part}"])
        for part in ("running_mean", "running_var", "weight", "bias")
    ]
    expected = (
        torch.nn.functional.batch_norm(convolved, *parts, eps=1e-5)
        .flatten(2)
        .transpose(1, 2)
        .numpy()
    )
    for name in ("a", "b"):
        found = embed(tmp_path / f"{name}.safetensors", pictures, to="tokens")
        # Kernel and bias are rounded to float32 once more: √K·2⁻²⁴ of the products, K = 48.
        np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
