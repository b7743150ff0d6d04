"""The recipe behind a resized table, and behind a model's sequence."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import patchparity as pp
from patchparity.reference.recipes import LIBRARIES, RECIPES
from patchparity.reference.resample import Rule

RANDOM = np.random.default_rng(21)
OPERATIONS = sorted(
    name
    for name in RECIPES
    if name.startswith(("torch-", "jax-", "tf-", "scipy-")) or name == "dinov2"
)


@settings(max_examples=60)
@given(
    name=st.sampled_from(OPERATIONS),
    grids=st.sampled_from([((14, 14), (24, 24)), ((14, 14), (20, 27)), ((37, 37), (16, 16))]),
    dtype=st.sampled_from(["float32", "float64"]),
    smooth=st.booleans(),
)
def test_every_recipe_is_named(name, grids, dtype, smooth):
    grid, new = grids
    count = grid[0] * grid[1]
    table = pp.sincos_positions(grid, 32) if smooth else RANDOM.standard_normal((count, 32))
    resized = pp.resize_positions(table, grid, new, recipe=name).astype(dtype)
    found = pp.diagnose_resize(table, resized, grid, new)
    assert name in found.recipes
    assert found.correct
    assert found.status in ("unique", "tied")
    # which lie 0.1 and more apart on these tables
    different = {"torch-bilinear", "torch-bicubic", "torch-bicubic-align-corners"}
    assert not different <= set(found.recipes)
    again = pp.diagnose_resize(table, resized, grid, new, expected=name)
    assert again.correct
    # two areas of a grid that grows, say, lie within the rounding of float32
    if found.status == "unique":
        assert again.status == "correct"


def told(found, expected, **sizes):
    grid, new = sizes.get("grid", (24, 24)), sizes.get("new", (14, 14))
    table = RANDOM.standard_normal((grid[0] * grid[1], 16))
    resized = pp.resize_positions(table, grid, new, recipe=found).astype(np.float32)
    diagnosis = pp.diagnose_resize(table, resized, grid, new, expected=expected)
    assert not diagnosis.correct
    return diagnosis.explanation


def test_what_differs_is_said_in_words():
    assert "antialias was on, a = −0.5 for −0.75;" in told("timm", "transformers-vit")
    assert "antialias was off, a = −0.75 for −0.5;" in told("transformers-vit", "timm")
    assert "the corners are aligned" in told("torchvision", "transformers-vit")
    assert "the corners are not aligned" in told("torch-bicubic", "torchvision")
    assert "off by the 0.1 that DINOv2 adds" in told("dinov2", "transformers-dinov2")
    assert "linear for cubic" in told("timm-npz", "transformers-vit")
    growing = {"grid": (14, 14), "new": (24, 24)}
    assert "a = −0.5 for −0.75" in told("jax-cubic", "torch-bicubic", **growing)
    zeros = {"grid": (32, 32), "new": (16, 16)}
    assert "a last row or column is zero" in told("google-vit", "google-vit-filled", **zeros)


def test_what_is_done_by_mistake_is_named():
    table = RANDOM.standard_normal((1 + 36, 10)).astype(np.float32)
    kept = pp.diagnose_resize(table, table, (6, 6), (4, 9), prefix_rows=1)
    assert (kept.correct, kept.status) == (False, "unique")
    assert kept.explanation.startswith("not resized: the table was taken as it is")
    swapped = pp.resize_positions(table, (6, 6), (5, 9), prefix_rows=1, recipe="torch-bicubic")
    turned = swapped[1:].reshape(5, 9, 10).transpose(1, 0, 2).reshape(45, 10)
    swapped = np.concatenate([table[:1], turned])
    found = pp.diagnose_resize(table, swapped, (6, 6), (9, 5), prefix_rows=1)
    assert "rows and columns of the new grid are swapped" in found.explanation
    one_axis = pp.resize_positions(table[1:], (36, 1), (45, 1), recipe="torch-bilinear")
    found = pp.diagnose_resize(table[1:], one_axis, (6, 6), (9, 5))
    assert "resized as one axis of 36" in found.explanation
    all_rows = pp.resize_positions(table, (37, 1), (46, 1), recipe="torch-bicubic")
    found = pp.diagnose_resize(table, all_rows, (6, 6), (9, 5), prefix_rows=1)
    assert found.status == "unknown"
    assert "of prefix tokens, are not those of the table" in found.explanation
    noise = RANDOM.standard_normal((45, 10))
    found = pp.diagnose_resize(table[1:], noise, (6, 6), (9, 5))
    assert found.status == "unknown"
    assert "no recipe gives it: the nearest" in found.explanation


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tables_of_16_bits_are_known_again(dtype):
    kind = np.float16 if dtype == "float16" else ml_dtypes.bfloat16
    table = RANDOM.standard_normal((196, 16)).astype(kind)
    for name in ("timm", "transformers-vit", "google-vit-filled"):
        resized = pp.resize_positions(
            table, (14, 14), (9, 11) if name != "google-vit-filled" else (9, 9), recipe=name
        )
        new = (9, 11) if name != "google-vit-filled" else (9, 9)
        found = pp.diagnose_resize(table, resized.astype(kind), (14, 14), new)
        assert name in found.recipes
        assert "transformers-vit" not in found.recipes or name == "transformers-vit"


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("recipe", ["timm", "transformers-dinov2", "dinov2", "torchvision"])
def test_the_recipe_of_a_model_is_found_in_its_sequence(recipe, norm):
    old = pp.PatchEmbedSpec((48, 48), 8, 3, 20)
    new = old.replace(image_size=(80, 80))
    weights = pp.initialize_weights(old, seed=1)
    weights = dataclasses.replace(
        weights,
        class_token=RANDOM.standard_normal(20),
        positions=RANDOM.standard_normal((37, 20)) * 0.3,
    )
    if norm:
        from patchparity.reference.weights import LayerNorm

        weights = dataclasses.replace(
            weights, sequence_norm=LayerNorm(RANDOM.standard_normal(20), RANDOM.standard_normal(20))
        )
    table = pp.resize_positions(weights.positions, (6, 6), (10, 10), prefix_rows=1, recipe=recipe)
    images = RANDOM.standard_normal((2, 3, 80, 80)).astype(np.float32)
    from patchparity.reference.sequence import embed_sequence

    sequence = embed_sequence(images, dataclasses.replace(weights, positions=table), new)
    found = pp.diagnose_resized_output(images, weights, sequence.astype(np.float32), new, (6, 6))
    assert recipe in found.recipes
    assert found.status == "unique"
    with pytest.raises(pp.PatchParityError, match="expected 26 rows, for a grid of 5×5"):
        pp.diagnose_resized_output(images, weights, sequence, new, (5, 5))
    with pytest.raises(pp.PatchParityError, match="a sequence of shape"):
        pp.diagnose_resized_output(images, weights, sequence[:, 1:], new, (6, 6))


def test_what_cannot_be_told_is_tied():
    old = pp.PatchEmbedSpec((48, 48), 8, 3, 20)
    new = old.replace(image_size=(80, 80))
    weights = pp.initialize_weights(old, seed=1)
    images = RANDOM.standard_normal((4, 3, 80, 80)).astype(np.float32)

    def made(given_images, table):
        resized = pp.resize_positions(table, (6, 6), (10, 10), prefix_rows=1, recipe="timm")
        held = dataclasses.replace(weights, positions=resized)
        tokens = pp.patch_embed(given_images, held, new)
        return pp.assemble_sequence(tokens, held, new).astype(np.float32)

    drowned = pp.diagnose_resized_output(
        images * 1e6, weights, made(images * 1e6, weights.positions), new, (6, 6), expected="mae"
    )
    assert drowned.status == "tied"
    assert "cannot be told apart here" in drowned.explanation
    zero = np.zeros((37, 20))
    resized = np.zeros((101, 20))
    tied = pp.diagnose_resize(zero, resized, (6, 6), (10, 10), prefix_rows=1, expected="timm")
    assert tied.status == "tied"
    # every image of a batch is looked at
    sequence = made(images, weights.positions)
    sequence[3] += 1
    found = pp.diagnose_resized_output(images, weights, sequence, new, (6, 6), expected="timm")
    assert not found.correct
    with pytest.raises(pp.PatchParityError, match="the sequence holds NaN"):
        pp.diagnose_resized_output(images, weights, sequence * np.nan, new, (6, 6))
    one = pp.diagnose_resize(np.ones((1, 3)), np.ones((9, 3)), (1, 1), (3, 3))
    assert one.status == "tied"
    # rows of prefix tokens are equal to their rounding, and not to a percent
    table = RANDOM.standard_normal((37, 20))
    new_table = pp.resize_positions(table, (6, 6), (10, 10), prefix_rows=1, recipe="timm")
    new_table[0] *= 1.001
    found = pp.diagnose_resize(table, new_table, (6, 6), (10, 10), prefix_rows=1)
    assert "of prefix tokens, are not those" in found.explanation
    # of a grid that grows, nobody knows whether antialias was on
    bilinear = pp.resize_positions(table[1:], (6, 6), (12, 12), recipe="torch-bilinear-antialias")
    told = pp.diagnose_resize(table[1:], bilinear, (6, 6), (12, 12), expected="timm").explanation
    assert "antialias" not in told.partition(";")[0].partition(": ")[2]
    with pytest.raises(pp.PatchParityError, match="torchvision knows square grids alone"):
        pp.diagnose_resize(table[1:], bilinear, (6, 6), (16, 9), expected="torchvision")


def test_libraries_rules_are_those_of_their_operations():
    for name, (operation, *_) in LIBRARIES.items():
        assert RECIPES[name].rule == RECIPES[operation].rule
    assert RECIPES["dinov2"].rule == Rule("cubic", offset=0.1)


def test_tables_that_do_not_fit_are_refused():
    table = np.zeros((37, 4))
    for changed, message in (
        ({"prefix_rows": 0}, r"positions of shape \(37, 4\): expected \(36, 4\), 0 rows of prefix"),
        ({"new_grid": (5, 5)}, r"resized of shape \(82, 4\): expected \(26, 4\)"),
        ({"resized": np.full((82, 4), np.nan)}, "resized holds NaN or infinite values"),
        ({"expected": "tim"}, "recipe 'tim' is unknown: did you mean timm"),
    ):
        given_ = {
            "positions": table, "resized": np.zeros((82, 4)), "grid": (6, 6), "new_grid": (9, 9),
            "prefix_rows": 1, **changed,
        }  # fmt: skip
        with pytest.raises(pp.PatchParityError, match=message):
            pp.diagnose_resize(**given_)
