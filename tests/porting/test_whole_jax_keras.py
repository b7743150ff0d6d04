"""Whole models of the libraries around JAX, Keras, torchvision, OpenAI's CLIP and vit-pytorch: what
each has saved is moved, loaded by the other's own class, and computes the same."""

import importlib
import importlib.util
import json
import os

import numpy as np
import pytest

from patchparity.porting.dialects.sizes import Sizes
from patchparity.porting.whole.port import port_whole
from patchparity.reference.errors import PatchParityError

from ..census.stand_in import import_library
from .npz_arrays import arrays_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

DEPTH, HEADS, WIDTH, M, SIDE, PATCH, CLASSES = 3, 4, 32, 40, 24, 6, 5
IMAGES = np.random.default_rng(1).standard_normal((2, SIDE, SIDE, 3)).astype(np.float32)
GIVEN = torch.from_numpy(np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2)))
HF = dict(
    hidden_size=WIDTH,
    num_hidden_layers=DEPTH,
    num_attention_heads=HEADS,
    intermediate_size=M,
    image_size=SIDE,
    patch_size=PATCH,
)
FLAX = dict(patch=(PATCH, PATCH), width=WIDTH, depth=DEPTH, mlp_dim=M, num_heads=HEADS)
KERAS = dict(
    image_shape=(SIDE, SIDE, 3),
    patch_size=PATCH,
    num_layers=DEPTH,
    num_heads=HEADS,
    hidden_dim=WIDTH,
)


def array(held):
    if isinstance(held, torch.Tensor):
        return held.detach().numpy()
    return np.asarray(held)


def require_same(ours, theirs, bound=1e-6):
    ours, theirs = array(ours).astype(np.float64), array(theirs).astype(np.float64)
    assert ours.shape == theirs.shape
    assert np.std(theirs) > 0.01
    assert np.sqrt(np.mean((ours - theirs) ** 2) / np.mean(theirs**2)) <= bound


def grown(model, seed=0):
    """A model of torch with weights of realistic scale, in place."""
    numbers = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = 0.2 * numbers.standard_normal(tuple(parameter.shape))
            scale = name.endswith("weight") and parameter.ndim == 1
            if scale or "lambda" in name or "gamma" in name:
                values += 1
            parameter.copy_(torch.from_numpy(np.asarray(values)))
    return model.eval()


def hf(kind, **settings):
    """A model of transformers and what saves it."""
    config = getattr(transformers, kind).config_class(**{**HF, **settings})
    return grown(getattr(transformers, kind)(config))


def of_hf(folder, kind, **settings):
    with torch.no_grad():
        return getattr(transformers, kind).from_pretrained(folder, **settings).eval()(GIVEN)


def of_timm(folder):
    timm = import_library("timm")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        return model(GIVEN) if model.num_classes else model.forward_features(GIVEN)


# ---------------------------------------------------------------------------------------- google


@pytest.fixture
def vits():
    pytest.importorskip("flax.linen")
    from . import jax_vits

    return jax_vits


def saved_flax(vits, folder, model, names=None, under="", dtype=None):
    """The path of its npz, and its output and tokens."""
    params = vits.params_of(model, IMAGES, 3)
    folder.mkdir()
    vits.save_npz(folder / "model.npz", names(params) if names else params, under, dtype)
    if dtype is not None:
        params = {name: held.astype(dtype).astype(np.float32) for name, held in params.items()}
    return folder / "model.npz", *vits.run(model, params, IMAGES)


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("under", ["", "opt/target/", "params/"])
def test_google_to_transformers_and_back(vits, tmp_path, published, under):
    model = vits.GoogleViT(CLASSES, **FLAX)
    names = vits.before_linen if published else None
    path, output, _ = saved_flax(vits, tmp_path / "google", model, names, under)
    report = port_whole(path, tmp_path / "hf", "hf-vit", prove=False)
    told = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (told["hidden_act"], told["layer_norm_eps"]) == ("gelu_pytorch_tanh", 1e-6)
    assert (report.left, report.losses) == ([], [])
    require_same(of_hf(tmp_path / "hf", "ViTForImageClassification").logits, output)
    port_whole(tmp_path / "hf", tmp_path / "back", "google-vit", prove=False)
    again, first = vits.load_npz(tmp_path / "back" / "model.npz"), vits.load_npz(path)
    wanted = {name.removeprefix(under): held for name, held in first.items()}
    again, wanted = vits.of_linen(again), vits.of_linen(wanted)
    assert set(again) == set(wanted)
    assert all(again[name].tobytes() == wanted[name].tobytes() for name in wanted)
    require_same(vits.run(model, again, IMAGES)[0], output, 0)


def test_google_of_the_mean_to_timm_and_back(vits, tmp_path):
    model = vits.GoogleViT(CLASSES, **FLAX, classifier="gap")
    path, output, _ = saved_flax(vits, tmp_path / "google", model, vits.before_linen)
    port_whole(path, tmp_path / "timm", "timm-vit", prove=False)
    require_same(of_timm(tmp_path / "timm"), output)
    port_whole(tmp_path / "timm", tmp_path / "back", "google-vit", prove=False)
    again = vits.of_linen(vits.load_npz(tmp_path / "back" / "model.npz"))
    require_same(vits.run(model, again, IMAGES)[0], output, 0)


def test_google_of_bfloat16(vits, tmp_path):
    import ml_dtypes

    model = vits.GoogleViT(CLASSES, **FLAX)
    path, output, _ = saved_flax(
        vits, tmp_path / "google", model, vits.before_linen, "", ml_dtypes.bfloat16
    )
    port_whole(path, tmp_path / "timm", "timm-vit", prove=False)
    timm = import_library("timm")
    built = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval().float()
    with torch.no_grad():
        require_same(built(GIVEN), output)


@pytest.mark.parametrize("width", [20, WIDTH])
def test_google_with_representation_to_big_vision(vits, tmp_path, width):
    model = vits.GoogleViT(CLASSES, **FLAX, representation_size=width)
    path, output, _ = saved_flax(vits, tmp_path / "google", model, vits.before_linen)
    with pytest.raises(PatchParityError, match=r"pooler|head"):
        port_whole(path, tmp_path / "hf", "hf-vit", prove=False)
    headless = vits.GoogleViT(0, **FLAX, representation_size=WIDTH)
    path, output, tokens = saved_flax(vits, tmp_path / "headless", headless, vits.before_linen)
    port_whole(path, tmp_path / "hf", "hf-vit", prove=False)
    given = of_hf(tmp_path / "hf", "ViTModel")
    require_same(given.last_hidden_state, tokens)
    require_same(given.pooler_output, output)


def test_exact_gelu_is_refused_by_google(tmp_path):
    hf("ViTForImageClassification", num_labels=CLASSES).save_pretrained(tmp_path / "hf")
    with pytest.raises(PatchParityError, match="gelu-tanh"):
        port_whole(tmp_path / "hf", tmp_path / "google", "google-vit")
    assert not (tmp_path / "google" / "model.npz").exists()
    hf("ViTForImageClassification", hidden_act="gelu_pytorch_tanh").save_pretrained(tmp_path / "2")
    with pytest.raises(PatchParityError, match="ε of the norms"):
        port_whole(tmp_path / "2", tmp_path / "google", "google-vit")


# ------------------------------------------------------------------------------------ big_vision


@pytest.mark.parametrize("pool", ["gap", "tok", "map", "0"])
@pytest.mark.parametrize("scan", [False, True])
def test_big_vision_to_timm(vits, tmp_path, pool, scan):
    model = vits.BigVisionViT(CLASSES, **FLAX, pool_type=pool, scan=scan)
    path, output, _ = saved_flax(vits, tmp_path / "big", model, None, "params/")
    told = {}
    if pool in ("gap", "0"):
        with pytest.raises(PatchParityError, match="--pooling"):
            port_whole(path, tmp_path / "timm", "timm-vit", prove=False)
        told = dict(pooling="mean" if pool == "gap" else "class")
    if pool == "0":
        with pytest.raises(PatchParityError, match="first patch pooled"):
            port_whole(path, tmp_path / "timm", "timm-vit", semantics=told, prove=False)
        return
    report = port_whole(path, tmp_path / "timm", "timm-vit", semantics=told, prove=False)
    assert any(step.startswith("unstack") for step in report.steps) == scan
    require_same(of_timm(tmp_path / "timm"), output)
    back = port_whole(tmp_path / "timm", tmp_path / "back", "big-vision-vit", prove=False)
    assert not back.losses
    held = vits.load_npz(tmp_path / "back" / "model.npz")
    unrolled = vits.BigVisionViT(CLASSES, **FLAX, pool_type=pool)
    require_same(vits.run(unrolled, held, IMAGES)[0], output)


@pytest.mark.parametrize("scan", [False, True])
def test_big_vision_of_siglip_to_transformers_and_back(vits, tmp_path, scan):
    model = vits.BigVisionViT(0, **FLAX, pool_type="map", scan=scan)
    path, output, tokens = saved_flax(vits, tmp_path / "big", model)
    port_whole(path, tmp_path / "hf", "hf-siglip", prove=False)
    given = of_hf(tmp_path / "hf", "SiglipVisionModel")
    require_same(given.last_hidden_state, tokens)
    require_same(given.pooler_output, output)
    port_whole(tmp_path / "hf", tmp_path / "back", "big-vision-vit", prove=False)
    again = vits.load_npz(tmp_path / "back" / "model.npz")
    loops = vits.BigVisionViT(0, **FLAX, pool_type="map")
    require_same(vits.run(loops, again, IMAGES)[0], output)


# ------------------------------------------------------------------------ transformers 4 in Flax


@pytest.fixture(scope="module")
def flax_files(tmp_path_factory):
    from . import flax_beside

    folder = tmp_path_factory.mktemp("flax")
    flax_beside.beside("write", folder)
    return folder


@pytest.mark.parametrize(
    ("name", "to", "kind"),
    [
        ("vit", "hf-vit", "ViTModel"),
        ("vit-head", "hf-vit", "ViTForImageClassification"),
        ("dinov2", "hf-dinov2", "Dinov2Model"),
        ("clip", "hf-clip", "CLIPVisionModel"),
    ],
)
def test_flax_of_transformers_4_to_torch_and_back(flax_files, tmp_path, name, to, kind):
    from . import flax_beside

    source = flax_files / name / "flax_model.msgpack"
    port_whole(source, tmp_path / "torch", to, prove=False)
    truth = arrays_of(flax_files / name / "truth.npz")
    images = np.load(flax_files / name / "images.npy")
    with torch.no_grad():
        model = getattr(transformers, kind).from_pretrained(tmp_path / "torch").eval()
        given = model(torch.from_numpy(images))
    for key, array in truth.items():
        require_same(given[key], array)
    back = tmp_path / "flax"
    port_whole(tmp_path / "torch", back, f"{to}-flax", prove=False)
    (back / "kind").write_text(name)
    np.save(back / "images.npy", images)
    flax_beside.beside("run", back)
    again = arrays_of(back / "truth.npz")
    assert set(again) == set(truth)
    for key, array in truth.items():
        require_same(again[key], array, 0)


# ------------------------------------------------------------------------------------- KerasHub


def keras_models():
    """KerasHub's models, in a process whose backend runs here."""
    pytest.importorskip("keras_hub")
    if os.environ.get("KERAS_BACKEND") not in ("tensorflow", "jax", "torch"):
        pytest.skip("KERAS_BACKEND is not set")
    return importlib.import_module("keras_hub").models


def keras_grown(model, seed=0):
    numbers = np.random.default_rng(seed)
    for weight in model.weights:
        if "position_ids" in weight.path:
            weight.assign(np.arange(weight.shape[1])[None])
        if "int" in str(weight.dtype):
            continue
        values = 0.2 * numbers.standard_normal(weight.shape)
        if weight.path.split("/")[-1] in ("gamma", "lambda1"):
            values += 1
        weight.assign(values.astype(np.float32))
    embeddings = getattr(model, "embeddings", None)
    if hasattr(
        embeddings, "interpolated_position_embeddings"
    ):  # made of the table when it is built
        embeddings.interpolated_position_embeddings.assign(embeddings.position_embeddings)
    return model


def of_keras(model, name=None):
    import keras

    return keras.ops.convert_to_numpy(model({name: IMAGES} if name else IMAGES))


def saved_keras(model, folder, form):
    """The path of a model in one of the forms that Keras has."""
    folder.mkdir()
    if form == "keras":
        model.save(folder / "model.keras")
        return folder / "model.keras"
    if hasattr(model, "backbone"):  # a preset has the head in a file of its own
        import keras

        told = keras.saving.serialize_keras_object(model)
        (folder / "task.json").write_text(json.dumps(told))
        model.save_weights(folder / "model.weights.h5")
    else:
        model.save_to_preset(str(folder))
    return folder / "model.weights.h5"


def preset(folder, name=None):
    return of_keras(keras_models().Backbone.from_preset(str(folder)), name)


@pytest.mark.parametrize("form", ["keras", "preset"])
@pytest.mark.parametrize("bias", [True, False])
def test_keras_vit_to_transformers_and_back(tmp_path, form, bias):
    built = keras_models().ViTBackbone(
        **KERAS, mlp_dim=M, use_mha_bias=bias, layer_norm_epsilon=1e-5
    )
    model = keras_grown(built)
    path = saved_keras(model, tmp_path / "keras", form)
    port_whole(path, tmp_path / "hf", "hf-vit", prove=False)
    given = of_hf(tmp_path / "hf", "ViTModel", add_pooling_layer=False)
    require_same(given.last_hidden_state, of_keras(model))
    port_whole(tmp_path / "hf", tmp_path / "back", "keras-hub-vit", prove=False)
    require_same(preset(tmp_path / "back"), of_keras(model), 1e-6)


def test_the_head_of_a_preset_that_lies_apart_is_no_loss_without_a_word(tmp_path):
    models = keras_models()
    backbone = models.ViTBackbone(**KERAS, mlp_dim=M)
    model = keras_grown(models.ViTImageClassifier(backbone, CLASSES))
    model.save_to_preset(str(tmp_path / "keras"))
    with pytest.raises(PatchParityError, match=r"ViTImageClassifier lies in task\.weights\.h5"):
        port_whole(tmp_path / "keras", tmp_path / "timm", "timm-vit", prove=False)
    report = port_whole(
        tmp_path / "keras", tmp_path / "timm", "timm-vit", prove=False, allow_loss=True
    )
    assert "task.weights.h5" in report.losses[0]
    require_same(of_timm(tmp_path / "timm"), of_keras(model.backbone))


@pytest.mark.parametrize("to", ["timm-vit", "hf-vit", "hf-dinov2"])
def test_a_patch_bias_that_a_class_always_has_is_made_of_zeros(tmp_path, to):
    built = keras_models().ViTBackbone(**KERAS, mlp_dim=2 * WIDTH, use_patch_bias=False)
    model = keras_grown(built)
    path = saved_keras(model, tmp_path / "keras", "preset")
    report = port_whole(path, tmp_path / "new", to)
    assert proofs(report)[1] == "pass"
    assert report.steps[0].startswith("zero-bias")
    if to == "timm-vit":
        require_same(of_timm(tmp_path / "new"), of_keras(model))


def test_keras_vit_without_class_token_to_timm(tmp_path):
    built = keras_models().ViTBackbone(**KERAS, mlp_dim=M, use_class_token=False)
    model = keras_grown(built)
    path = saved_keras(model, tmp_path / "keras", "preset")
    port_whole(path, tmp_path / "timm", "timm-vit", prove=False)
    require_same(of_timm(tmp_path / "timm"), of_keras(model))


@pytest.mark.parametrize("form", ["keras", "preset"])
@pytest.mark.parametrize(
    ("pooling", "class_token"), [("token", True), ("gap", False), ("gap", True)]
)
def test_keras_classifier_to_timm_and_back(tmp_path, form, pooling, class_token):
    models = keras_models()
    backbone = models.ViTBackbone(**KERAS, mlp_dim=M, use_class_token=class_token)
    model = keras_grown(models.ViTImageClassifier(backbone, CLASSES, pooling=pooling))
    path = saved_keras(model, tmp_path / "keras", form)
    if pooling == "gap" and class_token:  # the mean of all tokens, the class token too
        with pytest.raises(PatchParityError, match="gap"):
            port_whole(path, tmp_path / "timm", "timm-vit", prove=False)
        return
    report = port_whole(path, tmp_path / "timm", "timm-vit")
    assert proofs(report)[0] == ("skip" if form == "keras" else "pass")
    require_same(of_timm(tmp_path / "timm"), of_keras(model))
    to = "keras-hub-vit" if class_token else "keras-hub-patches"
    report = port_whole(tmp_path / "timm", tmp_path / "back", to)
    assert proofs(report)[1] == "pass"
    import keras

    told = json.loads((tmp_path / "back" / "task.json").read_text())
    again = keras.saving.deserialize_keras_object(told)
    again.optimizer = None  # compiled when it is built, and of no state in the file
    again.load_weights(tmp_path / "back" / "model.weights.h5")
    require_same(of_keras(again), of_keras(model))


@pytest.mark.parametrize("width", [20, WIDTH])
def test_keras_classifier_with_representation_to_google(tmp_path, width):
    models = keras_models()
    backbone = models.ViTBackbone(**KERAS, mlp_dim=M)
    built = models.ViTImageClassifier(backbone, CLASSES, intermediate_dim=width)
    path = saved_keras(keras_grown(built), tmp_path / "keras", "preset")
    with pytest.raises(PatchParityError, match="computes with gelu-tanh"):
        port_whole(path, tmp_path / "google", "google-vit", prove=False)
    report = port_whole(path, tmp_path / "tv", "torchvision-vit")
    assert "representation_size" in report.target
    assert not report.losses
    assert proofs(report)[0] == "pass"
    report = port_whole(tmp_path / "tv" / "model.pth", tmp_path / "back", "keras-hub-vit")
    assert proofs(report)[1] == "pass"


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("gated", [False, True])
def test_keras_dinov2_to_transformers_and_back(tmp_path, registers, gated):
    built = keras_models().DINOV2Backbone(
        **KERAS,
        intermediate_dim=2 * WIDTH,
        position_embedding_shape=(SIDE, SIDE, 3),
        num_register_tokens=registers,
        use_swiglu_ffn=gated,
    )
    model = keras_grown(built)
    path = saved_keras(model, tmp_path / "keras", "preset")
    port_whole(path, tmp_path / "hf", "hf-dinov2", prove=False)
    kind = "Dinov2WithRegistersModel" if registers else "Dinov2Model"
    given = of_hf(tmp_path / "hf", kind)
    require_same(given.last_hidden_state, of_keras(model, "images"))
    to = "keras-hub-dinov2-registers" if registers else "keras-hub-dinov2"
    port_whole(tmp_path / "hf", tmp_path / "back", to, prove=False)
    require_same(preset(tmp_path / "back", "images"), of_keras(model, "images"))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("mask", [False, True])
def test_keras_dinov3_to_itself(tmp_path, gated, mask):
    built = keras_models().DINOV3Backbone(
        **KERAS,
        intermediate_dim=M,
        use_gated_mlp=gated,
        use_mask_token=mask,
        use_key_bias=mask,
        hidden_activation="silu" if gated else "gelu",
        rope_theta=50.0,
    )
    model = keras_grown(built)
    path = saved_keras(model, tmp_path / "keras", "preset")
    to = "keras-hub-dinov3" if mask else "keras-hub-dinov3-unmasked"
    port_whole(path, tmp_path / "back", to)
    require_same(preset(tmp_path / "back", "pixel_values"), of_keras(model, "pixel_values"), 0)


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("mask", [False, True])
def test_keras_dinov3_to_transformers_timm_and_back(tmp_path, registers, gated, mask):
    built = keras_models().DINOV3Backbone(
        **KERAS,
        intermediate_dim=M,
        num_register_tokens=registers,
        use_gated_mlp=gated,
        use_mask_token=mask,
        use_query_bias=True,
        use_key_bias=False,
        hidden_activation="silu" if gated else "gelu",
        rope_theta=50.0,
    )
    model = keras_grown(built)
    path = saved_keras(model, tmp_path / "keras", "preset")
    report = port_whole(path, tmp_path / "hf", "hf-dinov3")
    assert proofs(report) == ["pass", "pass"]
    given = of_hf(tmp_path / "hf", "DINOv3ViTModel").last_hidden_state
    require_same(given, of_keras(model, "pixel_values"))
    told = {"pooling": "class"}
    report = port_whole(tmp_path / "hf", tmp_path / "timm", "timm-vit", semantics=told)
    require_same(of_timm(tmp_path / "timm"), of_keras(model, "pixel_values"))
    to = "keras-hub-dinov3" if registers else "keras-hub-dinov3-plain"
    report = port_whole(tmp_path / "hf", tmp_path / "back", to)
    assert proofs(report) == ["pass", "pass"]
    require_same(preset(tmp_path / "back", "pixel_values"), of_keras(model, "pixel_values"))


def proofs(report):
    return [check.verdict for check in report.checks if "library" in check.name]


@pytest.mark.parametrize("form", ["keras", "preset"])
def test_keras_deit_to_transformers_and_back(tmp_path, form):
    model = keras_grown(keras_models().DeiTBackbone(**KERAS, intermediate_dim=M))
    path = saved_keras(model, tmp_path / "keras", form)
    report = port_whole(path, tmp_path / "hf", "hf-deit")
    assert proofs(report)[-1] == "pass"
    given = of_hf(tmp_path / "hf", "DeiTModel", add_pooling_layer=False).last_hidden_state
    require_same(given, of_keras(model))
    report = port_whole(tmp_path / "hf", tmp_path / "back", "keras-hub-deit")
    assert proofs(report) == ["pass", "pass"]
    require_same(preset(tmp_path / "back"), of_keras(model))


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_transformers_clip_to_keras_and_back(tmp_path, act):
    source = hf("CLIPVisionModel", hidden_act=act)
    source.save_pretrained(tmp_path / "hf")
    report = port_whole(tmp_path / "hf", tmp_path / "keras", "keras-hub-clip")
    assert proofs(report) == ["pass", "pass"]
    given = preset(tmp_path / "keras", "images")[:, 0]
    require_same(given, run(source).pooler_output)
    port_whole(tmp_path / "keras", tmp_path / "back", "hf-clip")
    require_same(of_hf(tmp_path / "back", "CLIPVisionModel").pooler_output, given)


def test_transformers_siglip_to_keras_and_back(tmp_path):
    source = hf("SiglipVisionModel")
    source.save_pretrained(tmp_path / "hf")
    report = port_whole(tmp_path / "hf", tmp_path / "keras", "keras-hub-siglip")
    assert proofs(report) == ["pass", "pass"]
    require_same(preset(tmp_path / "keras", "images"), run(source).pooler_output)
    port_whole(tmp_path / "keras", tmp_path / "back", "hf-siglip")
    given = of_hf(tmp_path / "back", "SiglipVisionModel")
    require_same(given.pooler_output, run(source).pooler_output, 0)


def test_what_keras_s_towers_cannot_compute(tmp_path):
    for name, to, words, settings in (
        ("CLIPVisionModel", "keras-hub-clip", "activation", dict(hidden_act="silu")),
        ("CLIPVisionModel", "keras-hub-clip", "ε", dict(layer_norm_eps=1e-6)),
        ("CLIPVisionModelWithProjection", "keras-hub-clip", "head", dict(projection_dim=20)),
        ("SiglipVisionModel", "keras-hub-siglip", "ε", dict(layer_norm_eps=1e-5)),
        ("SiglipVisionModel", "keras-hub-siglip", "pool", dict(vision_use_head=False)),
    ):
        place = tmp_path / f"{name}{to}{words}"
        hf(name, **settings).save_pretrained(place)
        with pytest.raises(PatchParityError, match=words):
            port_whole(place, tmp_path / "keras", to)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_keras_clip_to_transformers(tmp_path, activation):
    built = keras_models().CLIPVisionEncoder(
        **KERAS, intermediate_dim=M, intermediate_activation=activation
    )
    model = keras_grown(built)
    path = saved_keras(model, tmp_path / "keras", "preset")
    port_whole(path, tmp_path / "hf", "hf-clip", prove=False)
    given = of_hf(tmp_path / "hf", "CLIPVisionModel")
    require_same(given.pooler_output, of_keras(model, "images")[:, 0])


def test_keras_siglip_to_transformers(tmp_path):
    model = keras_grown(keras_models().SigLIPVisionEncoder(**KERAS, intermediate_dim=M))
    path = saved_keras(model, tmp_path / "keras", "preset")
    port_whole(path, tmp_path / "hf", "hf-siglip", prove=False)
    given = of_hf(tmp_path / "hf", "SiglipVisionModel")
    require_same(given.pooler_output, of_keras(model, "images"))


def test_keras_deit_to_itself(tmp_path):
    model = keras_grown(keras_models().DeiTBackbone(**KERAS, intermediate_dim=M))
    path = saved_keras(model, tmp_path / "keras", "keras")
    port_whole(path, tmp_path / "back", "keras-hub-deit", prove=False)
    require_same(preset(tmp_path / "back"), of_keras(model), 0)


# ----------------------------------------------------------------------- OpenAI's CLIP, open_clip


def clip(quick, seed=0):
    from .clip_tower import CLIP, VisionTransformer

    return grown(CLIP(VisionTransformer(SIDE, PATCH, WIDTH, DEPTH, HEADS, 20, M, quick)), seed)


def saved_torch(model, folder):
    folder.mkdir()
    torch.save(model.state_dict(), folder / "model.pt")
    return folder / "model.pt"


def run(model):
    with torch.no_grad():
        return model(GIVEN)


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("alone", [True, False])
def test_openai_clip_to_transformers_and_timm(tmp_path, quick, alone):
    model = clip(quick)
    path = saved_torch(model.visual if alone else model, tmp_path / "clip")
    with pytest.raises(PatchParityError, match=r"--heads \d+ --activation gelu"):
        port_whole(path, tmp_path / "hf", "hf-clip", prove=False)
    told = dict(num_heads=HEADS, activation="quick-gelu" if quick else "gelu")
    report = port_whole(path, tmp_path / "hf", "hf-clip", semantics=told, prove=False)
    assert bool(report.left) is not alone
    given = of_hf(tmp_path / "hf", "CLIPVisionModelWithProjection").image_embeds
    require_same(given, run(model.visual))
    port_whole(path, tmp_path / "timm", "timm-clip", semantics=told, prove=False)
    require_same(of_timm(tmp_path / "timm"), run(model.visual))


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_transformers_clip_to_open_clip(tmp_path, act):
    from safetensors.torch import load_file

    source = hf("CLIPVisionModelWithProjection", projection_dim=20, hidden_act=act)
    source.save_pretrained(tmp_path / "hf")
    port_whole(tmp_path / "hf", tmp_path / "open", "openai-clip")
    told = json.loads((tmp_path / "open" / "open_clip_config.json").read_text())["model_cfg"]
    assert told["vision_cfg"]["head_width"] == WIDTH // HEADS
    assert told["quick_gelu"] is (act == "quick_gelu")
    model = clip(told["quick_gelu"], seed=1)
    held = load_file(tmp_path / "open" / "model.safetensors")
    result = model.load_state_dict(held, strict=False)
    assert not result.unexpected_keys
    assert not [name for name in result.missing_keys if name.startswith("visual.")]
    require_same(run(model.visual), run(source).image_embeds)


@pytest.mark.parametrize(
    "other",
    [
        {"timm_model_name": "vit_base_patch16_224"},
        {"attentional_pool": True},
        {"norm_kwargs": {"eps": 1e-6}},
        {"pool_type": "avg"},
    ],
)
def test_open_clip_of_another_kind(tmp_path, other):
    path = saved_torch(clip(False), tmp_path / "open")
    vision = dict(image_size=SIDE, layers=DEPTH, width=WIDTH, head_width=8, patch_size=PATCH)
    told = {"model_cfg": {"embed_dim": 20, "vision_cfg": {**vision, "mlp_ratio": 1.25}}}
    (path.parent / "open_clip_config.json").write_text(json.dumps(told))
    report = port_whole(path, tmp_path / "hf", "hf-clip", prove=False)
    assert any("gelu" in line for line in report.semantics)
    told["model_cfg"]["vision_cfg"] |= other
    (path.parent / "open_clip_config.json").write_text(json.dumps(told))
    with pytest.raises(PatchParityError):
        port_whole(path, tmp_path / "other", "hf-clip", prove=False)


def test_open_clip_with_an_attention_pool(tmp_path):
    model = clip(False)
    held = {**model.state_dict(), "visual.attn_pool.query": torch.zeros(4, WIDTH)}
    torch.save(held, tmp_path / "model.pt")
    told = dict(num_heads=HEADS, activation="gelu")
    with pytest.raises(PatchParityError, match="attn_pool"):
        port_whole(tmp_path / "model.pt", tmp_path / "hf", "hf-clip", semantics=told)


# ------------------------------------------------------------------------------------ vit-pytorch


LUCIDRAINS = dict(
    image_size=SIDE, patch_size=PATCH, num_classes=CLASSES, dim=WIDTH, depth=DEPTH, mlp_dim=M
)


def vit_pytorch(kind="ViT", module="vit", **settings):
    if importlib.util.find_spec("vit_pytorch") is None:
        pytest.skip("vit_pytorch is not installed")
    import_library("vit_pytorch")
    library = import_library(f"vit_pytorch.{module}")
    return getattr(library, kind)(**{**LUCIDRAINS, **settings})


@pytest.mark.parametrize(
    "settings",
    [
        dict(heads=4, dim_head=8),
        dict(heads=3, dim_head=5),
        dict(heads=1, dim_head=WIDTH),
        dict(heads=1, dim_head=16),
        dict(heads=4, dim_head=8, pool="mean"),
        dict(heads=4, dim_head=8, num_classes=0),
    ],
)
def test_vit_pytorch_to_itself_and_no_other(tmp_path, settings):
    model = grown(vit_pytorch(**settings))
    path = saved_torch(model, tmp_path / "one")
    told = dict(num_heads=settings["heads"])
    port_whole(path, tmp_path / "two", "lucidrains", semantics=told, prove=False)
    arguments = json.loads((tmp_path / "two" / "config.json").read_text())["arguments"]
    again = vit_pytorch(**arguments)
    again.load_state_dict(torch.load(tmp_path / "two" / "model.pt"))
    require_same(run(again.eval()), run(model), 0)
    with pytest.raises(PatchParityError, match=r"patch.norm|attention as wide"):
        port_whole(path, tmp_path / "timm", "timm-vit", semantics=told, prove=False)


def test_a_configuration_of_another_pooling_than_the_tensors(tmp_path):
    path = saved_torch(grown(vit_pytorch(heads=4, dim_head=8)), tmp_path / "one")
    port_whole(path, tmp_path / "two", "lucidrains", semantics=dict(num_heads=4), prove=False)
    config = tmp_path / "two" / "config.json"
    told = json.loads(config.read_text())
    told["arguments"]["pool"] = "mean"
    config.write_text(json.dumps(told))
    with pytest.raises(PatchParityError, match="class token False, and its tensors have True"):
        port_whole(tmp_path / "two" / "model.pt", tmp_path / "three", "lucidrains", prove=False)


def test_a_configuration_without_what_its_library_takes_by_itself(tmp_path):
    """Without `pool` vit-pytorch takes the class token."""
    path = saved_torch(grown(vit_pytorch(heads=4, dim_head=8)), tmp_path / "one")
    port_whole(path, tmp_path / "two", "lucidrains", semantics=dict(num_heads=4), prove=False)
    config = tmp_path / "two" / "config.json"
    told = json.loads(config.read_text())
    del told["arguments"]["pool"]
    config.write_text(json.dumps(told))
    port_whole(tmp_path / "two" / "model.pt", tmp_path / "three", "lucidrains", prove=False)
    written = json.loads((tmp_path / "three" / "config.json").read_text())
    assert written["arguments"]["pool"] == "cls"


def test_simple_vit_to_itself(tmp_path):
    model = grown(vit_pytorch("SimpleViT", "simple_vit", heads=4, dim_head=8))
    path = saved_torch(model, tmp_path / "one")
    told = dict(
        semantics=dict(num_heads=4), from_="lucidrains-simple", sizes=Sizes(image_size=(SIDE, SIDE))
    )
    port_whole(path, tmp_path / "two", "lucidrains-simple", **told)
    arguments = json.loads((tmp_path / "two" / "config.json").read_text())["arguments"]
    again = vit_pytorch("SimpleViT", "simple_vit", **arguments)
    again.load_state_dict(torch.load(tmp_path / "two" / "model.pt"))
    require_same(run(again.eval()), run(model), 0)


# ------------------------------------------------------------------------------------ torchvision


def test_torchvision_and_its_files_before_0_14(tmp_path):
    source = hf("ViTForImageClassification", num_labels=CLASSES, layer_norm_eps=1e-6)
    source.save_pretrained(tmp_path / "hf")
    port_whole(tmp_path / "hf", tmp_path / "tv", "torchvision-vit", prove=False)
    held = torch.load(tmp_path / "tv" / "model.pth")
    old = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): each
        for name, each in held.items()
    }
    assert set(old) != set(held)
    (tmp_path / "old").mkdir()
    torch.save(old, tmp_path / "old" / "model.pth")
    told = dict(num_heads=HEADS)
    path = tmp_path / "old" / "model.pth"
    port_whole(path, tmp_path / "back", "hf-vit", semantics=told, prove=False)
    given = of_hf(tmp_path / "back", "ViTForImageClassification").logits
    require_same(given, run(source).logits, 0)
