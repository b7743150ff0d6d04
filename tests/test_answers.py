"""Every answer of the package shows itself: as text, and in a notebook."""

import html

import numpy as np
import pytest
import safetensors.numpy

import patchparity as pp

RECORD = "bench/records/cpu-2-cores"


@pytest.fixture
def tokens():
    spec = pp.PatchEmbedSpec(image_size=(12, 20), patch_size=4, in_channels=3, embed_dim=10)
    weights = pp.initialize_weights(spec, seed=0)
    images = np.random.default_rng(1).standard_normal((2, 3, 12, 20)).astype(np.float32)
    return images, weights, spec


def shows(answer, *words):
    text, page = str(answer), answer._repr_html_()
    assert repr(answer) == text
    for word in words:
        assert word in text
        assert html.escape(word) in page.replace("</b>", "").replace("</td><td>", "  ")
    return text, page


def test_a_diagnosis_says_what_and_how_to_mend_it(tokens):
    images, weights, spec = tokens
    wrong = pp.patch_embed(images[:, ::-1], weights, spec, np.float32)
    found = pp.diagnose(images, weights, wrong, spec)
    text, _ = shows(found, "the channels were read in reverse, BGR for RGB", "mend: ")
    assert text.splitlines()[0].startswith("unique: ")
    assert not found.ok
    assert pp.diagnose(images, weights, pp.patch_embed(images, weights, spec), spec).ok


def test_what_stands_in_an_answer_is_text_in_a_notebook(tokens):
    images, weights, spec = tokens
    found = pp.diagnose(images, weights, pp.patch_embed(images, weights, spec), spec)
    hostile = type(found)(False, "unknown", explanation="<script>alert(1)</script>")
    assert "<script>" not in hostile._repr_html_()


def test_a_port_and_its_proof(tmp_path, tokens):
    _, weights, _ = tokens
    source, target = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    kernel = weights.kernel.transpose(0, 3, 1, 2).astype(np.float32).copy()
    held = {"patch_embed.proj.weight": kernel, "patch_embed.proj.bias": weights.bias}
    safetensors.numpy.save_file(held, source)
    done = pp.port(source, target, "oihw", from_="timm-vit", image_size=(12, 20))
    text, _ = shows(done, "timm-vit -> oihw", "pass file: the file gives back every bit")
    assert text.splitlines()[-1].startswith(f"{target}: ")
    found = pp.verify(source, target, from_=("timm-vit", "oihw"), image_size=(12, 20))
    shows(found, "the same embedding stage")
    assert found.ok


def test_a_check_of_the_suite():
    report = pp.check(backends=["numpy"], dtypes=["float32"], image=np.full((32, 48, 3), 0.5))
    shows(report, "right: ", "pass")


def test_a_recommendation_and_a_comparison():
    pytest.importorskip("pytest_benchmark")
    answer = pp.recommend("vit_b16", batch=8, record=RECORD)
    text, page = shows(answer, "use ", "gain [95%]")
    assert text.splitlines()[0] == answer.answer()
    assert page.count("<tr>") == 1 + len(answer.choices)
    shows(pp.compare(RECORD, RECORD), "rows: ")


def test_sizes_are_told_one_by_one_or_in_one_object(tmp_path, tokens):
    images, weights, spec = tokens
    file = tmp_path / "a.safetensors"
    pp.save_weights(file, weights, spec)
    with pytest.raises(pp.PatchParityError, match="sizes= tells all sizes"):
        pp.embed(file, images, patch_size=4, sizes=pp.Sizes.told(4))
