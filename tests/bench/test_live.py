"""Anyone's implementation: real library code with random weights passes, its broken copies fail and are told why."""

import importlib.util
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from patchparity import (
    PatchEmbedSpec,
    PatchEmbedWeights,
    PatchParityError,
    check,
    initialize_weights,
    patch_embed,
    save_weights,
)
from patchparity.backends.porting.live import load_object, read_live
from patchparity.bench.live import diagnose_object

SPEC = PatchEmbedSpec((24, 40), 8, 3, 20)
WEIGHTS = initialize_weights(SPEC, seed=3, class_token=False, positions="none")
WEIGHTS = PatchEmbedWeights(WEIGHTS.kernel, np.random.default_rng(4).standard_normal(20).astype(np.float32))


def test_the_libraries_that_this_file_is_about_are_there():
    """tox names what its environment must hold, so that none of these tests can pass by being skipped."""
    required = filter(None, os.environ.get("PATCHPARITY_REQUIRE_LIBRARIES", "").split(","))
    assert [name for name in required if importlib.util.find_spec(name) is None] == []


def right(images):
    """A plain function: images (B, C, H, W) to tokens (B, N, D)."""
    spec = SPEC.replace(image_size=images.shape[2:])
    return patch_embed(images, WEIGHTS, spec, images.dtype)


def factory():
    return right


class Callable:
    def __call__(self, images):
        return right(images)


class NeedsArguments:
    def __init__(self, width):
        self.width = width


NOT_CALLABLE = 3


def randomized(module):
    """Random weights and biases, so that no mistake hides behind zeros."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(generator=generator)
    return module


def transformers_modules():
    transformers = pytest.importorskip("transformers")
    from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings
    from transformers.models.dinov2.modeling_dinov2 import Dinov2PatchEmbeddings
    from transformers.models.vit.modeling_vit import ViTEmbeddings, ViTPatchEmbeddings

    sizes = dict(patch_size=8, hidden_size=24, num_attention_heads=2)
    return {
        "vit": ViTPatchEmbeddings(transformers.ViTConfig(image_size=(32, 48), **sizes)),
        "vit-sequence": ViTEmbeddings(transformers.ViTConfig(image_size=32, **sizes)),
        "dinov2": Dinov2PatchEmbeddings(transformers.Dinov2Config(image_size=32, **sizes)),
        "clip": CLIPVisionEmbeddings(transformers.CLIPVisionConfig(image_size=32, **sizes)),
    }


@pytest.mark.parametrize("name", ["vit", "vit-sequence", "dinov2", "clip"])
def test_transformers_modules_are_right(name):
    module = randomized(transformers_modules()[name])
    module.train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    report = check(module)
    assert report.ok, [result.message for result in report.results]
    assert {result.probe for result in report.results} == {
        "random", "random-0.001", "random-1000", "random-fingerprint", "one-hot-images", "repeatability", "nan-containment",
    }  # fmt: skip
    assert {result.delivered for result in report.results if result.probe == "random-fingerprint"} == {"float32"}
    assert module.training, "the object is left as it was"
    assert all((value == before[key]).all() for key, value in module.state_dict().items())
    live = read_live(module)
    assert live.to_sequence == (name in ("vit-sequence", "clip"))


@pytest.mark.parametrize("name", ["vit", "vit-sequence", "clip"])
def test_a_copy_that_reads_bgr_is_rejected_and_told_so(name):
    torch = pytest.importorskip("torch")
    module = randomized(transformers_modules()[name])

    class Reversed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, images):
            return self.inner(images.flip(1))

    report = check(Reversed())
    assert not report.ok
    first = next(result for result in report.results if result.verdict == "fail")
    assert "diagnosis: the channels were read in reverse, BGR for RGB (mend: reverse the channel axis" in first.message


def test_keras_hub_is_right():
    pytest.importorskip("keras_hub")
    from keras_hub.src.models.vit.vit_layers import ViTPatchingAndEmbedding

    layer = ViTPatchingAndEmbedding(image_size=(32, 48), patch_size=(8, 8), hidden_dim=24)
    report = check(layer)
    assert report.ok, [result.message for result in report.results]
    live = read_live(layer)
    assert (live.framework, live.to_sequence, live.weights.num_prefix_tokens) == ("keras", True, 1)


def test_flax_convolutions_are_right_and_their_padding_is_read():
    nnx = pytest.importorskip("flax.nnx")
    linen = pytest.importorskip("flax.linen")
    import jax

    for padding in ("VALID", "SAME"):
        layer = nnx.Conv(3, 24, (8, 6), strides=(8, 6), padding=padding, rngs=nnx.Rngs(0))
        layer.bias[...] = np.random.default_rng(2).standard_normal(24)
        report = check(layer, image_size=(24, 30))
        assert report.ok, [result.message for result in report.results]
    module = linen.Conv(10, (4, 4), strides=(4, 4), padding="VALID")
    bound = module.bind(module.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32)))
    assert check(bound, stride=4).ok


@pytest.mark.parametrize(("order", "layout"), [("c p1 p2", "(C, Ph, Pw)"), ("p1 p2 c", "(Ph, Pw, C)")])
def test_einops_and_linear_needs_the_patch_size_and_finds_its_order(order, layout):
    torch = pytest.importorskip("torch")
    from einops.layers.torch import Rearrange

    module = torch.nn.Sequential(Rearrange(f"b c (h p1) (w p2) -> b (h w) ({order})", p1=8, p2=8), torch.nn.Linear(192, 20))
    with pytest.raises(PatchParityError, match=r"holds a matrix \(20, 192\), which does not show the patch size: give it"):
        check(module)
    with pytest.raises(PatchParityError, match=r"192 values are no patch of \(7, 7\)"):
        check(module, patch_size=7)
    report = check(randomized(module), patch_size=8)
    assert report.ok
    assert len(report.notes) == 1
    assert layout in report.notes[0]
    other = "linear-hwc" if layout == "(C, Ph, Pw)" else "linear-chw"
    wrong = check(module, patch_size=8, kernel_layout=other)
    assert not wrong.ok
    assert f"diagnosis: patches were flattened as {layout}" in wrong.results[0].message


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_dtypes(dtype):
    torch = pytest.importorskip("torch")
    report = check(randomized(torch.nn.Conv2d(3, 12, 8, 8)).to(getattr(torch, dtype)))
    assert report.ok, [result.message for result in report.results]
    assert {result.dtype for result in report.results} == {dtype}


def test_low_precision_inside_is_named():
    torch = pytest.importorskip("torch")

    class Autocast(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.projection = torch.nn.Conv2d(3, 24, 8, 8)

        def forward(self, images):
            with torch.autocast("cpu", torch.bfloat16):
                return self.projection(images).flatten(2).transpose(1, 2).float()

    report = check(randomized(Autocast()))
    fingerprint = next(result for result in report.results if result.probe == "random-fingerprint")
    assert fingerprint.message.startswith("declared float32, delivered bfloat16 inputs")


def test_a_plain_function_with_weights_given_in_every_way(tmp_path):
    save_weights(tmp_path / "own.safetensors", WEIGHTS, SPEC)
    oihw = WEIGHTS.kernel.transpose(0, 3, 1, 2)
    np.savez(tmp_path / "plain.npz", kernel=oihw, bias=WEIGHTS.bias)
    for weights in (WEIGHTS, {"kernel": oihw, "bias": WEIGHTS.bias}, tmp_path / "own.safetensors", tmp_path / "plain.npz"):
        assert check(right, weights=weights).ok
    wrong = check(right, weights={"kernel": oihw.transpose(2, 3, 1, 0).reshape(oihw.shape), "bias": WEIGHTS.bias})
    assert not wrong.ok
    with pytest.raises(PatchParityError, match="right holds nothing: expected one kernel"):
        check(right)


def test_what_depends_on_its_neighbors_or_its_calls_is_rejected():
    def leaky(images):
        tokens = right(images)
        return tokens + 0 * tokens.sum(axis=1, keepdims=True)

    failed = {result.probe: result.message for result in check(leaky, weights=WEIGHTS).results if result.verdict == "fail"}
    assert set(failed) == {"nan-containment"}
    calls = []

    def drifting(images):
        calls.append(1)
        return np.nextafter(right(images), np.float32(len(calls) % 2 * 9))

    assert "repeatability" in {result.probe for result in check(drifting, weights=WEIGHTS).results if result.verdict == "fail"}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_colon", "expected module:attribute"),
        ("no_such_module_here:x", "cannot be found: No module named"),
        (f"{__name__}:absent", "has no attribute 'absent'"),
        (f"{__name__}:NOT_CALLABLE", "is a int: expected a module, a layer, a function"),
        (f"{__name__}:NeedsArguments", "cannot be built without arguments .*name a function that builds it"),
    ],
)
def test_targets_that_cannot_be_used(target, message):
    with pytest.raises(PatchParityError, match=message):
        check(target, weights=WEIGHTS)


def test_objects_that_cannot_be_read_or_called():
    torch = pytest.importorskip("torch")
    with pytest.raises(PatchParityError, match=r"holds 0.weight .*, 1.weight .*: expected one kernel"):
        check(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Conv2d(8, 8, 1)))
    with pytest.raises(PatchParityError, match=r"holds 1.weight \(8,\), 1.bias \(8,\) beside its kernel"):
        check(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.GroupNorm(1, 8)))
    with pytest.raises(PatchParityError, match=r"a kernel of 3 channels was found, 4 were asked for"):
        check(torch.nn.Conv2d(3, 8, 4, 4), in_channels=4)
    with pytest.raises(PatchParityError, match=r"failed on images of shape .*RuntimeError: out of luck"):
        check(_raise, weights=WEIGHTS)
    with pytest.raises(PatchParityError, match=r"returned an array of shape \(\): expected tokens"):
        check(lambda images: 1.0, weights=WEIGHTS)
    with pytest.raises(PatchParityError, match="framework 'mxnet' is unknown"):
        check(right, weights=WEIGHTS, framework="mxnet")


def _raise(images):
    raise RuntimeError("out of luck\nsecond line")


def test_classes_and_factories_are_called_first():
    for name in ("right", "factory", "Callable"):
        assert (load_object(f"{__name__}:{name}")(np.zeros((1, 3, 24, 40), np.float32))).shape == (1, 15, 20)


def test_diagnosis_of_an_object():
    assert diagnose_object(read_live(right, weights=WEIGHTS)).correct
    found = diagnose_object(read_live(lambda images: right(images).transpose(0, 2, 1), weights=WEIGHTS))
    assert found.mistakes == ("tokens-not-transposed",)


def test_our_sequence_through_a_real_encoder_gives_the_models_own_output():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from patchparity.reference.sequence import embed_sequence

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=(32, 48), patch_size=8, hidden_size=24, num_attention_heads=2, num_hidden_layers=3, intermediate_size=48
    )
    model = transformers.ViTModel(config, add_pooling_layer=False).double().eval()
    randomized(model.embeddings)
    live = read_live(model.embeddings, image_size=(32, 48))
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 48))
    sequence = torch.from_numpy(embed_sequence(images, live.weights, live.spec))
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).last_hidden_state
        hidden = model.encoder(sequence) if hasattr(model, "encoder") else _through_layers(model, sequence)
        hidden = getattr(hidden, "last_hidden_state", hidden)
        observed = model.layernorm(hidden)
        own = model.embeddings(torch.from_numpy(images))
        # How much the encoder amplifies the embedding's rounding errors, measured: its answer to a push of known size.
        push = 1e-6 * torch.randn(own.shape, dtype=own.dtype, generator=torch.Generator().manual_seed(2))
        pushed = model.encoder(own + push) if hasattr(model, "encoder") else _through_layers(model, own + push)
        pushed = model.layernorm(getattr(pushed, "last_hidden_state", pushed))
    amplification = float((pushed - expected).abs().max() / push.abs().max())
    embedding_error = float((sequence - own).abs().max())
    # Twice: the push is one direction of many; and the encoder's own rounding, 2⁻⁵³ for each of some 10³ sums.
    assert float((observed - expected).abs().max()) <= 2 * amplification * embedding_error + 1e3 * 2.0**-53
    assert float((pushed - expected).abs().max()) > 1e3 * 2.0**-53, "a wrong embedding would show"


def _through_layers(model, hidden):
    for layer in model.layers:
        hidden = layer(hidden)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    return hidden


PLUGIN_SUITE = """
import numpy as np
import pytest
import patchparity as pp

SPEC = pp.PatchEmbedSpec((24, 40), 8, 3, 20)
WEIGHTS = pp.initialize_weights(SPEC, seed=3, class_token=False, positions="none")

def right(images):
    return pp.patch_embed(images, WEIGHTS, SPEC.replace(image_size=images.shape[2:]), images.dtype)

def wrong(images):
    return right(images).transpose(0, 2, 1)

def test_right(patchparity):
    assert patchparity.check(right, weights=WEIGHTS).ok

def test_wrong(patchparity):
    patchparity.check(wrong, weights=WEIGHTS)
"""


def test_the_pytest_plugin_fails_a_test_in_one_sentence(tmp_path):
    (tmp_path / "test_theirs.py").write_text(textwrap.dedent(PLUGIN_SUITE))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_theirs.py"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "wrong is no patch embedding with these weights: random: output of shape (2, 20," in done.stdout
    assert "diagnosis: tokens were left as (B, D, N)" in done.stdout


def test_options_of_the_other_kind_are_no_options():
    with pytest.raises(TypeError, match="unexpected keyword argument 'dtypes'"):
        check(right, weights=WEIGHTS, dtypes=["float32"])
    with pytest.raises(TypeError, match="unexpected keyword argument 'patch_size'"):
        check(patch_size=16)


def test_options_of_the_other_kind_are_refused_on_the_command_line():
    from typer.testing import CliRunner

    from patchparity.__main__ import app

    for arguments, message in (
        (["check", "--patch-size", "4"], "--patch-size: options of somebody's implementation"),
        (["check", f"{__name__}:right", "--dtype", "float32"], "--dtype: options of the suite's own implementations"),
    ):
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, PatchParityError)
        assert message in str(result.exception)
