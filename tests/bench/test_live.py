"""Anyone's implementation: real library code with random weights passes, its broken copies fail and
are told why."""

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
    transfer,
)
from patchparity.porting.objects.load import load_object
from patchparity.porting.objects.read import read_live

from .modules import torch_module

SPEC = PatchEmbedSpec((24, 40), 8, 3, 20)
WEIGHTS = initialize_weights(SPEC, seed=3, class_token=False, positions="none")
WEIGHTS = PatchEmbedWeights(
    WEIGHTS.kernel, np.random.default_rng(4).standard_normal(20).astype(np.float32)
)


def test_the_libraries_that_this_file_is_about_are_there():
    """tox names what its environment must hold, so that none of these tests can pass by being
    skipped."""
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
    assert {result.probe for result in report.results} >= {
        "random",
        "random-0.001",
        "random-1000",
        "random-fingerprint",
        "batch-1",
        "batch-3",
        "one-hot-images",
        "repeatability",
        "nan-containment",
    }
    assert {
        result.delivered for result in report.results if result.probe == "random-fingerprint"
    } == {"float32"}
    assert module.training, "the object is left as it was"
    assert all((value == before[key]).all() for key, value in module.state_dict().items())
    live = read_live(module)
    assert live.to_sequence == (name in ("vit-sequence", "clip"))


def test_detection_tokens_stand_behind_the_patches_and_are_ported():
    transformers = pytest.importorskip("transformers")
    from transformers.models.yolos.modeling_yolos import YolosEmbeddings

    config = transformers.YolosConfig(
        patch_size=8, hidden_size=24, image_size=[32, 48], num_detection_tokens=5
    )
    module, other = randomized(YolosEmbeddings(config)), YolosEmbeddings(config)
    report = check(module)
    assert report.ok, str(report)
    live = read_live(module)
    assert (live.weights.layout.suffix, len(live.weights.register_tokens)) == (
        ("register_tokens",),
        5,
    )
    transfer(module, other)
    assert all(
        bool((value == other.state_dict()[key]).all()) for key, value in module.state_dict().items()
    )

    class Both(YolosEmbeddings):
        def __init__(self):
            super().__init__(config)
            self.register_tokens = self.detection_tokens.__class__(self.detection_tokens[:, :2])

    with pytest.raises(PatchParityError, match=r"registers \(1, 2, 24\) and detection tokens"):
        check(randomized(Both()))


def test_a_video_has_the_size_that_its_module_tells_and_a_few_frames():
    transformers = pytest.importorskip("transformers")
    from transformers.models.videomae.modeling_videomae import VideoMAEEmbeddings

    config = transformers.VideoMAEConfig(
        patch_size=8, hidden_size=24, image_size=[16, 24], num_frames=4, num_attention_heads=2
    )
    embeddings = randomized(VideoMAEEmbeddings(config))
    report = check(embeddings.patch_embeddings)
    assert report.ok, str(report)
    assert read_live(embeddings.patch_embeddings).spec.image_size == (6, 16, 24)
    embeddings.patch_embeddings.num_frames = 8
    assert read_live(embeddings.patch_embeddings).spec.image_size == (8, 16, 24)
    sized = read_live(embeddings.patch_embeddings, image_size=(4, 16, 24))
    assert sized.spec.image_size == (4, 16, 24)
    with pytest.raises(PatchParityError, match="it takes more than images: give a function"):
        check(embeddings)


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
    assert (
        "diagnosis: the channels were read in reverse, BGR for RGB (mend: reverse the channel axis"
        in first.message
    )


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


@pytest.mark.parametrize(
    ("order", "layout"), [("c p1 p2", "(C, Ph, Pw)"), ("p1 p2 c", "(Ph, Pw, C)")]
)
def test_einops_and_linear_needs_the_patch_size_and_finds_its_order(order, layout):
    torch = pytest.importorskip("torch")
    from einops.layers.torch import Rearrange

    module = torch.nn.Sequential(
        Rearrange(f"b c (h p1) (w p2) -> b (h w) ({order})", p1=8, p2=8), torch.nn.Linear(192, 20)
    )
    with pytest.raises(
        PatchParityError,
        match=r"holds a matrix \(20, 192\), which does not show the patch size: give it",
    ):
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
    for weights in (
        WEIGHTS,
        {"kernel": oihw, "bias": WEIGHTS.bias},
        tmp_path / "own.safetensors",
        tmp_path / "plain.npz",
    ):
        assert check(right, weights=weights).ok
    wrong = check(
        right,
        weights={"kernel": oihw.transpose(2, 3, 1, 0).reshape(oihw.shape), "bias": WEIGHTS.bias},
    )
    assert not wrong.ok
    with pytest.raises(PatchParityError, match="right holds no weights: give them"):
        check(right)


def test_what_depends_on_its_neighbors_or_its_calls_is_rejected():
    def leaky(images):
        tokens = right(images)
        return tokens + 0 * tokens.sum(axis=1, keepdims=True)

    failed = {
        result.probe: result.message
        for result in check(leaky, weights=WEIGHTS).results
        if result.verdict == "fail"
    }
    assert not failed, (
        "a NaN that stays in its image is a behavior: a Fourier transform does the same"
    )
    told = {result.probe: result.message for result in check(leaky, weights=WEIGHTS).results}
    assert (
        told["nan-containment"]
        == "a NaN in one pixel reaches every token of its image (as through a Fourier transform)"
    )

    def leaking_into_others(images):
        return right(images) + 0 * right(images).sum(axis=(0, 1), keepdims=True)

    failed = {
        result.probe
        for result in check(leaking_into_others, weights=WEIGHTS).results
        if result.verdict == "fail"
    }
    assert failed == {"nan-containment", "nan-of-each-channel"}
    calls = []

    def drifting(images):
        calls.append(1)
        return np.nextafter(right(images), np.float32(len(calls) % 2 * 9))

    assert "repeatability" in {
        result.probe
        for result in check(drifting, weights=WEIGHTS).results
        if result.verdict == "fail"
    }


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_colon", "expected module:attribute"),
        ("no_such_module_here:x", "cannot be found: No module named"),
        (f"{__name__}:absent", "has no attribute 'absent'"),
        (f"{__name__}:NOT_CALLABLE", "is a int: expected a module, a layer, a function"),
        (
            f"{__name__}:NeedsArguments",
            "cannot be built without arguments .*name a function that builds it",
        ),
    ],
)
def test_targets_that_cannot_be_used(target, message):
    with pytest.raises(PatchParityError, match=message):
        check(target, weights=WEIGHTS)


def test_objects_that_cannot_be_read_or_called():
    torch = pytest.importorskip("torch")
    with pytest.raises(
        PatchParityError, match=r"holds 0.weight .*, 1.weight .*: expected one kernel"
    ):
        check(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Conv2d(8, 8, 1)))
    with pytest.raises(
        PatchParityError, match=r"holds 1.weight \(8,\), 1.bias \(8,\) beside its kernel"
    ):
        check(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.GroupNorm(1, 8)))
    with pytest.raises(
        PatchParityError, match=r"a kernel of 3 channels was found, 4 were asked for"
    ):
        check(torch.nn.Conv2d(3, 8, 4, 4), in_channels=4)
    with pytest.raises(
        PatchParityError, match=r"failed on images of shape .*RuntimeError: out of luck"
    ):
        check(_raise, weights=WEIGHTS)
    with pytest.raises(
        PatchParityError,
        match=r"returned an array of shape \(\) and dtype float64: expected tokens",
    ):
        check(lambda images: 1.0, weights=WEIGHTS)
    with pytest.raises(PatchParityError, match="framework 'mxnet' is unknown"):
        check(right, weights=WEIGHTS, framework="mxnet")


def _raise(images):
    raise RuntimeError("out of luck\nsecond line")


def _leave(images):
    raise SystemExit(0)


def test_what_an_object_does_instead_of_returning_tokens_is_told_in_a_sentence():
    torch = pytest.importorskip("torch")
    with pytest.raises(PatchParityError, match=r"failed on images of shape .*SystemExit: 0"):
        check(_leave, weights=WEIGHTS)

    class Returns(torch.nn.Module):
        def __init__(self, change):
            super().__init__()
            self.proj, self.change = torch.nn.Conv2d(3, 8, 4, 4), change

        def forward(self, images):
            return self.change(self.proj(images).flatten(2).transpose(1, 2))

    for change, what in ((lambda tokens: None, "NoneType"), (str, "str")):
        with pytest.raises(
            PatchParityError, match=f"returned a {what}: expected an array of tokens"
        ):
            check(Returns(change))
    assert check(Returns(lambda tokens: tokens.numpy())).ok, "an array is what was asked for"
    broken = Returns(lambda tokens: tokens)
    torch.nn.init.constant_(broken.proj.bias, float("inf"))
    with pytest.raises(
        PatchParityError, match=r"bias of shape \(8,\) holds 8 NaN or infinite values"
    ):
        check(broken)


def test_classes_and_factories_are_called_first():
    for name in ("right", "factory", "Callable"):
        assert (load_object(f"{__name__}:{name}")(np.zeros((1, 3, 24, 40), np.float32))).shape == (
            1,
            15,
            20,
        )


def test_our_sequence_through_a_real_encoder_gives_the_models_own_output():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from patchparity.reference.sequence import embed_sequence

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=(32, 48),
        patch_size=8,
        hidden_size=24,
        num_attention_heads=2,
        num_hidden_layers=3,
        intermediate_size=48,
    )
    model = transformers.ViTModel(config, add_pooling_layer=False).double().eval()
    randomized(model.embeddings)
    live = read_live(model.embeddings, image_size=(32, 48))
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 48))
    sequence = torch.from_numpy(embed_sequence(images, live.weights, live.spec))
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).last_hidden_state
        hidden = (
            model.encoder(sequence)
            if hasattr(model, "encoder")
            else _through_layers(model, sequence)
        )
        hidden = getattr(hidden, "last_hidden_state", hidden)
        observed = model.layernorm(hidden)
        own = model.embeddings(torch.from_numpy(images))
        # How much the encoder amplifies the embedding's rounding errors, measured: its answer to a
        # push of known size.
        push = 1e-6 * torch.randn(
            own.shape, dtype=own.dtype, generator=torch.Generator().manual_seed(2)
        )
        pushed = (
            model.encoder(own + push)
            if hasattr(model, "encoder")
            else _through_layers(model, own + push)
        )
        pushed = model.layernorm(getattr(pushed, "last_hidden_state", pushed))
    amplification = float((pushed - expected).abs().max() / push.abs().max())
    embedding_error = float((sequence - own).abs().max())
    # Twice: the push is one direction of many; and the encoder's own rounding, 2⁻⁵³ for each of
    # some 10³ sums.
    assert (
        float((observed - expected).abs().max())
        <= 2 * amplification * embedding_error + 1e3 * 2.0**-53
    )
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
    assert "AssertionError: wrong is wrong: tokens were left as (B, D, N)" in done.stdout
    assert "fail random: output of shape (2, 20," in done.stdout


def test_options_of_the_other_kind_are_no_options():
    with pytest.raises(
        TypeError,
        match="check of somebody's implementation has no option dtypes; it has weights, "
        "kernel_layout",
    ):
        check(right, weights=WEIGHTS, dtypes=["float32"])
    with pytest.raises(
        TypeError, match="check of the suite has no option patch_size; it has backends"
    ):
        check(patch_size=16)


def test_options_of_the_other_kind_are_refused_on_the_command_line():
    from typer.testing import CliRunner

    from patchparity.__main__ import app

    for arguments, message in (
        (
            ["check", "--patch-size", "4"],
            "--patch-size has no part here: it is about somebody's implementation",
        ),
        (
            ["check", f"{__name__}:right", "--negative-controls"],
            "MODULE:ATTRIBUTE has no part here: --negative-controls is about",
        ),
        (["check", "--negative-controls", "--seeds", "3"], "--seeds has no part here"),
        (
            ["check", f"{__name__}:right", "--every-case", "--seeds", "3"],
            "--every-case, --seeds has no part here",
        ),
        (["diagnose", f"{__name__}:right", "--remainder", "same"], "--remainder has no part here"),
        (
            ["check", "--backend", "numpy", "--precision", "tf32"],
            "nothing was checked: NumPy has no tf32 mode",
        ),
        (
            ["check", f"{__name__}:right", "--dtype", "float32"],
            "--dtype has no part here: it is about the suite's own implementations",
        ),
    ):
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, PatchParityError)
        assert message in str(result.exception)


def test_a_batch_that_is_squeezed_or_written_into_the_code_is_seen():
    torch = pytest.importorskip("torch")
    projection = torch.nn.Conv2d(3, 8, 4, 4)
    for forward in (
        lambda self, x: self.proj(x).flatten(2).transpose(1, 2).squeeze(0),
        lambda self, x: self.proj(x).flatten(2).transpose(1, 2)[: 2 if len(x) > 2 else None],
    ):
        report = check(torch_module(forward, proj=projection))
        assert {result.probe for result in report.results if result.verdict == "fail"} & {
            "batch-1",
            "batch-3",
        }


def test_sixteen_bit_sums_are_seen_where_positions_are_added_too():
    """The roundings of a sequence are those of its tokens, not of the sum of all sizes of its
    terms."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(768, 32).half()
    positions = torch.nn.Parameter(torch.randn(1, 12, 32, generator=generator).half())

    def narrow(self, x):
        patches = (
            x.reshape(len(x), 3, 3, 16, 4, 16).permute(0, 2, 4, 1, 3, 5).reshape(len(x), 12, 768)
        )
        total = torch.zeros(len(x), 12, 32, dtype=torch.float16)
        for start in range(0, 768, 16):
            total = (
                total + patches[..., start : start + 16] @ self.proj.weight[:, start : start + 16].T
            )
        return total + self.proj.bias + self.pos_embed

    def wide(self, x):
        patches = (
            x.reshape(len(x), 3, 3, 16, 4, 16).permute(0, 2, 4, 1, 3, 5).reshape(len(x), 12, 768)
        )
        return self.proj(patches) + self.pos_embed

    options = dict(patch_size=16, image_size=(48, 64))
    good = check(torch_module(wide, proj=linear, pos_embed=positions), **options)
    assert good.ok, [result.message for result in good.results]
    assert not check(torch_module(narrow, proj=linear, pos_embed=positions), **options).ok


def test_layers_that_are_no_plain_convolution_are_refused():
    torch = pytest.importorskip("torch")
    for options, told in (
        (dict(padding=3, padding_mode="reflect"), "padding_mode='reflect'"),
        (dict(dilation=2), r"dilation=\(2, 2\)"),
    ):
        with pytest.raises(PatchParityError, match=f"has {told}: a patch embedding has"):
            check(torch.nn.Conv2d(3, 8, 7, 4, **options))
    with pytest.raises(PatchParityError, match="has groups=3: a patch embedding has 1"):
        check(torch.nn.Conv2d(3, 9, 4, 4, groups=3))


def test_flax_padding_and_stride_are_read_or_asked_for():
    nnx = pytest.importorskip("flax.nnx")
    import flax.linen as linen
    import jax

    for padding in (3, [(3, 3), (3, 3)], "SAME"):
        assert check(nnx.Conv(3, 8, (7, 7), strides=(4, 4), padding=padding, rngs=nnx.Rngs(0))).ok
    images = np.zeros((1, 9, 9, 3), np.float32)
    plain = linen.Conv(8, (3, 3), strides=None, padding="VALID")
    assert check(plain.bind(plain.init(jax.random.key(0), images))).ok, (
        "linen's None is a stride of 1"
    )

    class Nested(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.Conv(8, (5, 5), strides=(2, 2), padding="VALID")(x)
            return x.reshape(x.shape[0], -1, x.shape[-1])

    nested = Nested()
    bound = nested.bind(nested.init(jax.random.key(0), images))
    with pytest.raises(
        PatchParityError,
        match=r"does not show the stride of the layer inside it: give it \(stride, --stride\)",
    ):
        check(bound)
    assert check(bound, stride=2).ok


def test_our_own_images_overflow_nothing():
    torch = pytest.importorskip("torch")
    for kind, scale in ((torch.float16, 1.0), (torch.float32, 1e-38), (torch.float32, 1e30)):
        layer = torch.nn.Conv2d(3, 8, 16, 16)
        with torch.no_grad():
            layer.weight.copy_(
                torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * scale
            )
        report = check(layer.to(kind))
        assert report.ok, (kind, scale, [result.message for result in report.results])


def test_weights_that_we_wrote_bring_their_sizes_along(tmp_path):
    spec = PatchEmbedSpec((17, 23), 5, 3, 8, stride=2)
    weights = initialize_weights(spec, seed=0).astype(np.float32)
    weights = PatchEmbedWeights(weights.kernel, weights.bias)
    save_weights(tmp_path / "ov.safetensors", weights, spec)
    seen = []

    def embed(images):
        seen.append(images.shape)
        return patch_embed(images, weights, spec, np.float32)

    assert check(embed, weights=tmp_path / "ov.safetensors").ok
    assert seen[0] == (2, 3, 17, 23)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(patch_size=0), "patch_size=0: expected a positive integer"),
        (dict(patch_size="16"), "patch_size='16': expected a positive integer"),
        (dict(stride=0), "stride=0: expected a positive integer"),
        (dict(in_channels=0), "in_channels=0: expected a positive integer"),
        (dict(framework="foo"), "framework 'foo' is unknown"),
        (
            dict(weights=[np.ones((8, 3, 4, 4))]),
            "are a list: expected a file, a mapping or PatchEmbedWeights",
        ),
        (dict(patch_size=8), r"a kernel of patch size \(4, 4\) was found, 8 was asked for"),
        (dict(framework="jax"), "is an object of torch: framework='jax' is for plain functions"),
        (dict(seed=-1), "seed=-1: expected an integer of at least 0"),
    ],
)
def test_options_that_make_no_sense(options, message):
    torch = pytest.importorskip("torch")
    with pytest.raises(PatchParityError, match=message):
        check(torch.nn.Conv2d(3, 8, 4, 4), **options)


def test_objects_of_other_numbers_or_none_yet():
    torch = pytest.importorskip("torch")
    for module, message in (
        (
            torch.nn.Conv2d(3, 8, 4, 4, dtype=torch.complex64),
            "kernel of dtype complex64: expected real numbers",
        ),
        (torch.nn.LazyConv2d(8, 4, 4), "parameter weight has no values yet"),
        (torch.nn.Conv2d(3, 8, 4, 4, device="meta"), "parameter weight has no values yet"),
        (
            torch_module(lambda self, x: self.proj(x).long(), proj=torch.nn.Conv2d(3, 8, 4, 4)),
            "and dtype int64: expected tokens",
        ),
        (
            torch_module(
                lambda self, x: x,
                proj=torch.nn.Conv2d(3, 8, 4, 4),
                cls_token=torch.nn.Parameter(torch.zeros(1, 2, 8)),
            ),
            r"class_token of shape \(1, 2, 8\): expected 8 values",
        ),
    ):
        with pytest.raises(PatchParityError, match=message):
            check(module)


def test_a_class_is_built_first():
    torch = pytest.importorskip("torch")

    class Embed(torch.nn.Conv2d):
        def __init__(self):
            super().__init__(3, 8, 4, 4)

    assert check(Embed).ok
    with pytest.raises(PatchParityError, match="Conv2d cannot be built without arguments"):
        check(torch.nn.Conv2d)


def test_a_nan_that_is_swallowed_is_called_so():
    torch = pytest.importorskip("torch")
    module = torch_module(
        lambda self, x: torch.nan_to_num(self.proj(x)).flatten(2).transpose(1, 2),
        proj=torch.nn.Conv2d(3, 8, 4, 4),
    )
    wrong, *_ = [result for result in check(module).results if result.verdict == "fail"]
    assert wrong.message.startswith("NaN in one pixel of image 1 is swallowed: token [1, ")
