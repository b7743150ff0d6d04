"""InternVL's vision tower as transformers keeps it, moved into timm."""

import json

import pytest

from patchparity.porting.whole.port import port_whole
from patchparity.reference.errors import PatchParityError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from .test_whole_torch import (  # noqa: E402
    SQUARE,
    answers,
    apart,
    loaded,
    of_transformers,
    saved,
    timm_or_skip,
)

SIZES = {**SQUARE, "image_size": [32, 32], "patch_size": [8, 8]}
RELATIVE = 1e-6
"""As in `test_whole_torch`."""


def internvl(**options):
    return of_transformers("InternVLVisionModel", "InternVLVisionConfig", SIZES, **options)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_internvl_to_timm(tmp_path, mean, bias):
    timm_or_skip()
    model = internvl(use_mean_pooling=mean, attention_bias=bias)
    report = port_whole(saved(model, tmp_path / "source"), tmp_path / "timm", "timm-vit")
    ours = answers(model, (32, 32))["tokens"]
    assert apart(answers(loaded(report), (32, 32))["tokens"], ours) <= RELATIVE
    assert report.left == report.losses == []


@pytest.mark.parametrize(
    "options", [dict(use_qk_norm=True), dict(norm_type="rms_norm"), dict(use_mean_pooling=True)]
)
def test_an_internvl_of_another_kind_is_refused(tmp_path, options):
    model = internvl(**options)
    place = saved(model, tmp_path / "source")
    if "use_mean_pooling" in options:
        table = json.loads((place / "config.json").read_text())
        table["norm_type"] = "rms_norm"
        (place / "config.json").write_text(json.dumps(table))
    with pytest.raises(PatchParityError):
        port_whole(place, tmp_path / "timm", "timm-vit")
    assert not (tmp_path / "timm").exists()
