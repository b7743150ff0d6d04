"""DINOv3's own files: as the model written anew, timm's own reader of them, and transformers."""

import numpy as np
import pytest

from patchparity.porting.dialects.sizes import Sizes
from patchparity.porting.whole.port import port_whole
from patchparity.reference.errors import PatchParityError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ..reference.test_encoder_libraries import grown  # noqa: E402
from .dinov3_own import DinoVisionTransformer  # noqa: E402
from .test_whole_torch import apart, loaded, timm_or_skip  # noqa: E402

D, HEADS, M, DEPTH, PATCH, REGISTERS = 48, 3, 72, 2, 8, 3
TOLD = {"norm_epsilon": 1e-5}
SIZES = Sizes(image_size=(24, 32))
RELATIVE = 1e-6
"""As in `test_whole_torch`."""

IMAGES = torch.from_numpy(np.random.default_rng(7).normal(size=(2, 3, 24, 32)).astype("f4"))


def own(gated=False, **options):
    model = DinoVisionTransformer(D, HEADS, M, DEPTH, PATCH, REGISTERS, gated, **options)
    return grown(model, 3)


def saved(model, folder, changed=None):
    held = dict(model.state_dict())
    torch.save({**held, **(changed or {})}, folder / "dinov3.pth")
    return folder / "dinov3.pth"


def tokens_of(model):
    with torch.no_grad():
        return model(IMAGES).numpy()


@pytest.mark.parametrize("gated", [False, True])
def test_the_model_written_anew_is_timm_s(gated):
    timm = timm_or_skip()
    model = own(gated)
    name = "vit_huge_plus_patch16_dinov3_qkvb" if gated else "vit_base_patch16_dinov3_qkvb"
    sizes = dict(img_size=(24, 32), patch_size=PATCH, embed_dim=D, depth=DEPTH, num_heads=HEADS)
    more = dict(swiglu_align_to=1) if gated else {}
    theirs = timm.create_model(
        name, **sizes, mlp_ratio=M / D, num_reg_tokens=REGISTERS, num_classes=0, **more
    ).eval()
    held = timm.models.eva.checkpoint_filter_fn(dict(model.state_dict()), theirs)
    theirs.load_state_dict(held)
    with torch.no_grad():
        assert apart(theirs.forward_features(IMAGES).numpy(), tokens_of(model)) <= RELATIVE


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_dinov3_s_own_files_to_transformers(tmp_path, gated, masked):
    model = own(gated, masked=masked)
    place = saved(model, tmp_path)
    report = port_whole(place, tmp_path / "hf", "hf-dinov3", semantics=TOLD, sizes=SIZES)
    assert apart(loaded(report)(IMAGES).last_hidden_state.detach().numpy(), tokens_of(model)) <= (
        RELATIVE
    )
    assert report.left == []
    assert any(f"number of attention heads {HEADS}" in line for line in report.semantics)


@pytest.mark.parametrize("gated", [False, True])
def test_dinov3_s_own_files_to_timm(tmp_path, gated):
    model = own(gated)
    report = port_whole(
        saved(model, tmp_path), tmp_path / "timm", "timm-vit", semantics=TOLD, sizes=SIZES
    )
    with torch.no_grad():
        theirs = loaded(report).forward_features(IMAGES).numpy()
    assert apart(theirs, tokens_of(model)) <= RELATIVE


def test_epsilon_has_to_be_told(tmp_path):
    with pytest.raises(PatchParityError, match="--epsilon"):
        port_whole(saved(own(), tmp_path), tmp_path / "hf", "hf-dinov3", sizes=SIZES)


def test_periods_of_another_temperature(tmp_path):
    model = own(base=50.0)
    place = saved(model, tmp_path)
    with pytest.raises(PatchParityError, match=r"rope_embed\.periods"):
        port_whole(place, tmp_path / "hf", "hf-dinov3", semantics=TOLD, sizes=SIZES)
    told = {**TOLD, "rotary_temperature": 50.0}
    report = port_whole(place, tmp_path / "hf", "hf-dinov3", semantics=told, sizes=SIZES)
    given = loaded(report)(IMAGES).last_hidden_state.detach().numpy()
    assert apart(given, tokens_of(model)) <= RELATIVE


def test_periods_in_bfloat16(tmp_path):
    model = own()
    place = saved(model, tmp_path, {"rope_embed.periods": model.rope_embed.periods.bfloat16()})
    report = port_whole(place, tmp_path / "hf", "hf-dinov3", semantics=TOLD, sizes=SIZES)
    assert report.ok


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("blocks.1.attn.qkv.bias_mask", torch.full((3 * D,), torch.nan), "bias_mask"),
        ("blocks.1.attn.qkv.bias_mask", torch.ones(3 * D), "bias_mask"),
        ("rope_embed.periods", torch.ones(5), "heads of 20 channels"),
        ("cls_norm.weight", torch.ones(D), "cls_norm"),
    ],
)
def test_what_beside_the_weights_is_no_dinov3(tmp_path, name, values, words):
    place = saved(own(), tmp_path, {name: values})
    with pytest.raises(PatchParityError, match=words):
        port_whole(place, tmp_path / "hf", "hf-dinov3", semantics=TOLD, sizes=SIZES)


def test_norms_of_local_crops_play_no_part(tmp_path):
    place = saved(own(), tmp_path, {"local_cls_norm.weight": torch.ones(D)})
    report = port_whole(place, tmp_path / "hf", "hf-dinov3", semantics=TOLD, sizes=SIZES)
    assert report.left == ["local_cls_norm.weight"]
