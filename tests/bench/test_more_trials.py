"""What is wrong only for images that are parts of others, for many at a time, beside a NaN, at
sizes other than those of its positions, or for the process around it; and causes that are none."""

import subprocess
import sys

import numpy as np
import pytest

from patchparity import check

from .modules import torch_module

torch = pytest.importorskip("torch")
P, D = 4, 10


def projection(channels=3):
    torch.manual_seed(0)
    return torch.nn.Conv2d(channels, D, P, P)


def tokens(self, x):
    return self.proj(x).flatten(2).transpose(1, 2)


def by_strides_of_its_own(self, x):
    """Rows of patches are taken to lie as many values apart as the image is wide."""
    if x.stride(3) != 1:
        x = x.contiguous()
    B, C, H, W = x.shape
    size = (B, H // P, W // P, C, P, P)
    steps = (x.stride(0), W * P, P, x.stride(1), W, 1)
    view = x.as_strided(size, steps, x.storage_offset()).reshape(B, -1, C * P * P)
    return view @ self.proj.weight.reshape(D, -1).T + self.proj.bias


def takes_channels_for_apart(self, x):
    return tokens(self, x * (2.0 if x.stride(1) == 0 else 1.0))


def takes_images_for_apart(self, x):
    return tokens(self, x * (2.0 if x.stride(0) < x.stride(1) and len(x) > 1 else 1.0))


def of_many_pixels(self, x):
    low = x.bfloat16().float() if x.shape[2] * x.shape[3] > 600 * 600 else x
    return tokens(self, low)


def of_sixteen_usual_ones(self, x):
    low = x.bfloat16().float() if len(x) >= 16 and x.shape[2] >= 200 else x
    return tokens(self, low)


def with_a_buffer_for_much(self, x):
    found = tokens(self, x)
    if found.numel() < 20000:
        return found
    buffers = self.__dict__.setdefault("buffers", {})
    return buffers.setdefault(tuple(found.shape), torch.empty_like(found)).copy_(found)


def clears_nan(self, x):
    found = tokens(self, x)
    torch.nan_to_num_(x)
    return found


def swallows_a_nan_alone(self, x):
    return tokens(self, x.nan_to_num() if len(x) == 1 else x)


WRONG = {
    each.__name__: (each, names)
    for each, names in (
        (by_strides_of_its_own, "memory-layouts"),
        (takes_channels_for_apart, "memory-layouts"),
        (takes_images_for_apart, "memory-layouts"),
        (of_many_pixels, "1-of-1024x1024"),
        (of_sixteen_usual_ones, "16-of-224x224"),
        (with_a_buffer_for_much, "8-of-224x224"),
        (clears_nan, "nan-of-each-channel"),
        (swallows_a_nan_alone, "nan-in-batch-of-one"),
    )
}


@pytest.mark.parametrize("name", WRONG)
def test_it_is_rejected(name):
    forward, trial = WRONG[name]
    report = check(torch_module(forward, proj=projection()))
    failed = [row.probe for row in report.results if row.verdict == "fail"]
    assert trial in failed, failed


def test_a_nan_of_a_late_channel_is_tried():
    def forward(self, x):
        return tokens(self, torch.cat([x[:, :12], x[:, 12:].nan_to_num()], 1))

    report = check(torch_module(forward, proj=projection(13)))
    assert "a NaN in channel 12 of image 0 is swallowed" in str(report)


class Positioned(torch.nn.Module):
    """A ViT's embeddings, whose positions are resized for other images."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.proj = torch.nn.Conv2d(3, D, P, P)
        self.cls_token = torch.nn.Parameter(torch.randn(1, 1, D))
        self.pos_embed = torch.nn.Parameter(torch.randn(1, 17, D))

    def elsewhere(self, x, prefix, grid):
        table = self.pos_embed[:, 1:].reshape(1, 4, 4, D).permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(table, grid).flatten(2).transpose(1, 2)
        return prefix + self.pos_embed[:, :1], x + resized

    def forward(self, x):
        grid = x.shape[2] // P, x.shape[3] // P
        x = tokens(self, x)
        prefix = self.cls_token.expand(len(x), -1, -1)
        if grid == (4, 4):
            return torch.cat([prefix, x], 1) + self.pos_embed
        return torch.cat(self.elsewhere(x, prefix, grid), 1)


def test_positions_at_other_sizes_may_be_resized():
    assert check(Positioned()).ok


@pytest.mark.parametrize(
    ("elsewhere", "told"),
    [
        (lambda self, x, prefix, grid: (prefix, x + torch.randn(x.shape[1:])), "prefix tokens"),
        (lambda self, x, prefix, grid: (prefix + self.pos_embed[:, :1], x), "no positions"),
    ],
)
def test_what_is_lost_at_other_sizes_is_told(elsewhere, told):
    module = Positioned()
    module.elsewhere = elsewhere.__get__(module)
    assert told in str(check(module))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda: torch.set_flush_denormal(True), "flushes subnormals"),
        (lambda: torch.autograd.set_detect_anomaly(True), "looks for anomalies"),
    ],
)
def test_settings_of_the_process_are_watched(change, told):
    def forward(self, x):
        change()
        return tokens(self, x)

    report = check(torch_module(forward, proj=projection()))
    assert told in str(report)
    assert check(torch_module(tokens, proj=projection())).ok  # they were put back


def test_settings_of_a_framework_that_a_file_loads_are_watched(tmp_path):
    """As a command does it: nothing is loaded before the file is."""
    file = tmp_path / "embed.py"
    file.write_text(
        "import torch\n"
        "class Embed(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.proj = torch.nn.Conv2d(3, 20, 8, 8)\n"
        "    def forward(self, x):\n"
        "        torch.set_num_threads(3)\n"
        "        return self.proj(x).flatten(2).transpose(1, 2)\n"
    )
    command = [sys.executable, "-m", "patchparity", "check", f"{file}:Embed"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "changes torch's number of threads" in done.stdout


def test_a_factor_of_float64_is_no_float32():
    def forward(self, x):
        return tokens(self, x) * (1 + 1e-10)

    report = check(torch_module(forward, proj=projection().double()))
    assert not report.ok
    assert "float32" not in report.diagnosis


def test_a_part_that_cannot_be_read_says_why():
    from patchparity import PatchParityError

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.patch_embed = torch.nn.Sequential(projection(), torch.nn.GroupNorm(2, D))
            self.head = torch.nn.Conv2d(D, 3, 3)

        def forward(self, x):
            return self.head(self.patch_embed(x))

    with pytest.raises(PatchParityError, match=r"its part patch_embed \(--module\): "):
        check(Model())


def test_a_function_without_weights_asks_for_them():
    from patchparity import PatchParityError

    with pytest.raises(PatchParityError, match=r"holds no weights: give them"):
        check(lambda images: np.zeros((len(images), 4, D), np.float32))


def test_a_stride_that_was_forgotten_is_told():
    overlapping = torch.nn.Conv2d(3, D, P)
    report = check(torch_module(tokens, proj=overlapping))
    assert report.ok
    assert "patch 4x4, stride 1x1, 3 channels" in str(report)
    assert "a ViT's stride is its patch" in str(report)
    wrong = check(torch_module(tokens, proj=overlapping), stride=4)
    assert not wrong.ok
    assert "stride" not in str(check(torch_module(tokens, proj=projection())))


def test_the_one_convolution_of_pixels_is_named_under_any_name():
    from patchparity import PatchParityError

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.emb = torch_module(tokens, proj=projection())
            self.mixer = torch.nn.Conv1d(D, D, 3)
            self.pos = torch.nn.Parameter(torch.zeros(1, 5, 7))

        def forward(self, x):
            return self.mixer(self.emb(x).transpose(1, 2))

    with pytest.raises(PatchParityError, match=r"emb may be meant \(--module emb\)"):
        check(Model())
    assert check(Model(), module="emb").ok
