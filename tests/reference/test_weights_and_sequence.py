"""Canonical weights, their initialization, and the sequence that enters the encoder."""

import dataclasses
import math

import numpy as np
import pytest

from patchparity import (
    PatchEmbedSpec,
    PatchEmbedWeights,
    PatchParityError,
    SequenceLayout,
    assemble_sequence,
    initialize_weights,
    patch_embed,
    sincos_positions,
)
from patchparity.reference.sequence import (
    embed_sequence,
    layer_norm,
    merge_block_order,
    order_of,
    sinusoid_table,
    unrolled_order,
    window_order,
)
from patchparity.reference.weights import LayerNorm

SPEC = PatchEmbedSpec((32, 48), 8, 3, 20)


def images(batch: int = 2) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(SPEC.images_shape(batch))


def permute_patches(batch: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Rearrange the patches of an image, as blocks."""
    rows, columns = SPEC.grid
    blocks = (
        batch.reshape(len(batch), 3, rows, 8, columns, 8)
        .transpose(0, 2, 4, 1, 3, 5)
        .reshape(len(batch), -1, 3, 8, 8)
    )
    blocks = blocks[:, order].reshape(len(batch), rows, columns, 3, 8, 8)
    return blocks.transpose(0, 3, 1, 4, 2, 5).reshape(batch.shape)


def test_vit_b16_sequence_is_197_by_768():
    spec = PatchEmbedSpec(224, 16)
    weights = initialize_weights(spec)
    sequence = embed_sequence(
        np.random.default_rng(0).standard_normal((1, 3, 224, 224)), weights, spec
    )
    assert sequence.shape == (1, 197, 768)


def test_initialization_is_seeded_truncated_and_vits():
    weights = initialize_weights(
        PatchEmbedSpec(64, 16), seed=3, num_registers=4, distillation_token=True
    )
    again = initialize_weights(
        PatchEmbedSpec(64, 16), seed=3, num_registers=4, distillation_token=True
    )
    assert (weights.kernel == again.kernel).all()
    assert not (weights.kernel == initialize_weights(PatchEmbedSpec(64, 16), seed=4).kernel).all()
    assert weights.kernel.dtype == np.float32
    assert weights.kernel.shape == (768, 16, 16, 3)
    assert abs(weights.kernel).max() <= np.float32(0.04)
    # A normal cut at ±2σ keeps a standard deviation of 0.8796·σ; 590 000 draws settle it to a
    # thousandth.
    assert weights.kernel.std() == pytest.approx(0.02 * 0.8796, rel=5e-3)
    assert (weights.bias == 0).all()
    assert weights.register_tokens.shape == (4, 768)
    assert weights.positions.shape == (16 + 2, 768), (
        "class and distillation token have rows, registers have none"
    )
    assert weights.num_prefix_tokens == 6


def test_without_positions_the_sequence_is_permutation_equivariant_with_them_it_is_not():
    order = np.random.default_rng(1).permutation(SPEC.num_patches)
    batch = images()
    for positions, equivariant in (("none", True), ("learned", False), ("sincos", False)):
        weights = initialize_weights(SPEC, positions=positions).astype(np.float64)
        sequence = embed_sequence(batch, weights, SPEC)
        permuted = embed_sequence(permute_patches(batch, order), weights, SPEC)
        np.testing.assert_array_equal(
            sequence[:, 0], permuted[:, 0], "the class token does not move"
        )
        assert np.array_equal(sequence[:, 1:][:, order], permuted[:, 1:]) is equivariant


def test_prefix_order_and_position_rows():
    weights = initialize_weights(SPEC, distillation_token=True, num_registers=3).astype(np.float64)
    tokens = patch_embed(images(), weights, SPEC)
    sequence = assemble_sequence(tokens, weights, SPEC)
    assert sequence.shape == (2, 5 + 24, 20)
    assert (sequence[1, 0] == weights.class_token + weights.positions[0]).all()
    assert (sequence[1, 1] == weights.distillation_token + weights.positions[1]).all()
    assert (sequence[1, 2:5] == weights.register_tokens).all(), (
        "DINOv2's registers carry no position"
    )
    assert (sequence[:, 5:] == tokens + weights.positions[2:]).all()


def test_prefix_last_and_positions_for_patches_only():
    layout = SequenceLayout(
        prefix=("register_tokens", "class_token"), prefix_side="last", positioned=("class_token",)
    )
    weights = initialize_weights(SPEC, num_registers=2, layout=layout).astype(np.float64)
    tokens = patch_embed(images(), weights, SPEC)
    sequence = assemble_sequence(tokens, weights, SPEC)
    assert (sequence[:, :24] == tokens + weights.positions[:24]).all()
    assert (sequence[0, 24:26] == weights.register_tokens).all()
    assert (sequence[0, 26] == weights.class_token + weights.positions[24]).all()
    unpositioned = initialize_weights(SPEC, layout=SequenceLayout(positioned=())).astype(np.float64)
    assert unpositioned.positions.shape == (24, 20)
    assert (assemble_sequence(tokens, unpositioned, SPEC)[0, 0] == unpositioned.class_token).all()


def test_mask_norms_and_merge_order():
    generator = np.random.default_rng(2)
    base = initialize_weights(SPEC, positions="none", class_token=False).astype(np.float64)
    norm = LayerNorm(generator.standard_normal(20), generator.standard_normal(20))
    patch_norm = LayerNorm(generator.standard_normal(192), generator.standard_normal(192))
    tokens = patch_embed(images(), base, SPEC)
    masked = PatchEmbedWeights(base.kernel, base.bias, mask_token=generator.standard_normal(20))
    mask = generator.random((2, 24)) < 0.5
    result = assemble_sequence(tokens, masked, SPEC, mask)
    assert (result[mask] == masked.mask_token).all()
    assert (result[~mask] == tokens[~mask]).all()

    normed = assemble_sequence(
        tokens, PatchEmbedWeights(base.kernel, base.bias, token_norm=norm), SPEC
    )
    assert (normed == layer_norm(tokens, norm, 1e-6)).all()
    standardized = (normed - norm.shift) / norm.scale
    # shift and scale were put on and taken off: an ulp of 4, divided by the smallest scale
    np.testing.assert_allclose(
        standardized.mean(-1), 0, atol=4.4e-16 * 4 / abs(norm.scale).min() * 20
    )
    assert not np.allclose(
        embed_sequence(
            images(), PatchEmbedWeights(base.kernel, base.bias, patch_norm=patch_norm), SPEC
        ),
        tokens,
    )
    final = PatchEmbedWeights(base.kernel, base.bias, sequence_norm=norm)
    assert (assemble_sequence(tokens, final, SPEC) == layer_norm(tokens, norm, 1e-6)).all()

    merged = PatchEmbedWeights(
        base.kernel, base.bias, layout=SequenceLayout(token_order="merge-2x2")
    )
    assert list(merge_block_order(SPEC.grid)[:8]) == [0, 1, 6, 7, 2, 3, 8, 9]
    assert (
        assemble_sequence(tokens, merged, SPEC) == tokens[:, merge_block_order(SPEC.grid)]
    ).all()


def test_sincos_table_is_maes():
    """Against the formula of MAE's `get_2d_sincos_pos_embed`, written out here: the column's half
    comes first."""
    table = sincos_positions((3, 5), 16)
    omega = 1 / 10000 ** (np.arange(4) / 4)
    for row, column in np.ndindex(3, 5):
        expected = np.concatenate(
            [
                np.sin(column * omega),
                np.cos(column * omega),
                np.sin(row * omega),
                np.cos(row * omega),
            ]
        )
        # frequencies by two formulas differ by 2 ulp, angles of at most 4 radians by 4 · 2 ·
        # 2.2e-16
        np.testing.assert_allclose(table[row * 5 + column], expected, rtol=0, atol=1.8e-15)
    swapped = sincos_positions((3, 5), 16, first_half="row")
    assert (swapped == np.concatenate([table[:, 8:], table[:, :8]], axis=1)).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(bias=np.zeros(21)), r"bias of shape \(21,\): expected \(20,\)"),
        (
            dict(positions=np.zeros((24, 19))),
            r"positions of shape \(24, 19\): expected \(rows, 20\)",
        ),
        (dict(class_token=np.zeros((1, 1, 20))), r"class_token of shape \(1, 1, 20\)"),
        (dict(token_norm=LayerNorm(np.zeros(3), np.zeros(20))), r"token_norm.scale of shape"),
        (
            dict(bias=[0.0] * 20),
            r"^bias: list, expected a NumPy array \(numpy.asarray gives one\)$",
        ),
        (
            dict(kernel=[[0.0]]),
            r"^kernel: list, expected a NumPy array \(numpy.asarray gives one\)$",
        ),
    ],
)
def test_arrays_that_cannot_belong_together(fields, message):
    with pytest.raises(PatchParityError, match=message):
        PatchEmbedWeights(**{"kernel": np.zeros((20, 8, 8, 3)), **fields})


def test_other_errors():
    with pytest.raises(PatchParityError, match=r"kernel of shape \(20, 192\)"):
        PatchEmbedWeights(np.zeros((20, 192)))
    with pytest.raises(
        PatchParityError,
        match=r"positions of shape \(9, 20\): expected 24 rows, 0 for .*num_patches = 24",
    ):
        PatchEmbedWeights(np.zeros((20, 8, 8, 3)), positions=np.zeros((9, 20))).check_spec(SPEC)
    weights = initialize_weights(SPEC)
    with pytest.raises(PatchParityError, match="no mask_token"):
        assemble_sequence(np.zeros((2, 24, 20)), weights, SPEC, np.zeros((2, 24), bool))
    with pytest.raises(PatchParityError, match=r"tokens of shape \(2, 20, 24\)"):
        assemble_sequence(np.zeros((2, 20, 24)), weights, SPEC)
    with pytest.raises(PatchParityError, match="multiple of 4"):
        sincos_positions((3, 5), 18)
    with pytest.raises(
        PatchParityError,
        match=r"^grid=\(2, 3, 5\): a 2-D sine-cosine table needs \(rows, columns\)$",
    ):
        sincos_positions((2, 3, 5), 16)
    for grid in ((3, 4), (4, 3), (2, 3, 4), (2, 4, 3), (4,), (2, 2, 2, 2)):
        with pytest.raises(PatchParityError) as refused:
            merge_block_order(grid)
        assert str(refused.value) == (
            f"grid={grid}: 2x2 merge order needs an even number of rows and of columns"
        )
    masked = dataclasses.replace(weights, mask_token=np.zeros(20))
    with pytest.raises(
        PatchParityError, match=r"^mask of shape \(2, 20\): expected \(2, 24\), \(B, N\)$"
    ):
        assemble_sequence(np.zeros((2, 24, 20)), masked, SPEC, np.zeros((2, 20), bool))
    with pytest.raises(PatchParityError, match=r"^tokens: list, expected a NumPy array"):
        assemble_sequence([[[0.0]]], weights, SPEC)
    with pytest.raises(
        PatchParityError, match="prefix_side 'middle' is unknown; expected one of first, last"
    ):
        SequenceLayout(prefix_side="middle")
    with pytest.raises(PatchParityError, match="expected distinct names"):
        SequenceLayout(prefix=("cls",))
    with pytest.raises(PatchParityError, match="positions 'rope' is unknown"):
        initialize_weights(SPEC, positions="rope")


def test_merged_blocks_of_video_follow_frame_by_frame():
    frame = merge_block_order((2, 4))
    assert frame.tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
    assert merge_block_order((3, 2, 4)).tolist() == [*frame, *(8 + frame), *(16 + frame)]


@pytest.mark.parametrize(
    ("grid", "window"), [((10, 6), 4), ((6, 10), 4), ((4, 6), 2), ((8, 14), 6), ((4, 6), 8)]
)
def test_merged_blocks_of_a_window_follow_one_another(grid, window):
    """Written out as loops: windows, in each its blocks, in each its four tokens, all row by
    row."""
    rows, columns = grid
    expected = [
        (row + i) * columns + column + j
        for top in range(0, rows, window)
        for left in range(0, columns, window)
        for row in range(top, min(top + window, rows), 2)
        for column in range(left, min(left + window, columns), 2)
        for i in (0, 1)
        for j in (0, 1)
    ]
    assert merge_block_order(grid, window).tolist() == expected
    layout = SequenceLayout(token_order="merge-2x2", window=window)
    assert order_of(grid, layout).tolist() == expected
    assert order_of(grid, SequenceLayout()).tolist() == list(range(rows * columns))


@pytest.mark.parametrize(
    ("grid", "window"), [((4, 6), 2), ((6, 3), 3), ((8, 24), 8), ((5, 7), 3), ((2, 3), 4)]
)
def test_tokens_of_a_window_follow_one_another(grid, window):
    """Written out as loops: windows row by row, in each its tokens row by row."""
    expected = [
        (top + row) * grid[1] + left + column
        for top in range(0, grid[0], window)
        for left in range(0, grid[1], window)
        for row in range(min(window, grid[0] - top))
        for column in range(min(window, grid[1] - left))
    ]
    assert window_order(grid, window).tolist() == expected
    count = grid[0] * grid[1]
    assert window_order((2, *grid), window).tolist() == [
        *expected,
        *(count + place for place in expected),
    ]


@pytest.mark.parametrize(("grid", "window"), [((4, 6), 2), ((8, 4), 4), ((8, 24), 8)])
def test_unrolled_tokens_are_sorted_by_their_places_in_the_smallest_blocks_first(grid, window):
    """As a key of sorting: the last bits of row and column, then the next ones, ..., at last the
    window."""

    def key(index):
        row, column = divmod(index, grid[1])
        bits = [
            bit
            for step in range(window.bit_length() - 1)
            for bit in (row >> step & 1, column >> step & 1)
        ]
        return *bits, row // window, column // window

    assert unrolled_order(grid, window).tolist() == sorted(range(grid[0] * grid[1]), key=key)


def test_an_order_moves_tokens_and_their_positions():
    base = initialize_weights(SPEC, seed=3, positions="learned", class_token=True)
    raster = embed_sequence(images(), base, SPEC)
    for order, window in (("windows", 2), ("unrolled-2x2", 2), ("merge-2x2", 0)):
        layout = SequenceLayout(token_order=order, window=window)
        changed = embed_sequence(images(), dataclasses.replace(base, layout=layout), SPEC)
        moved = {
            "windows": window_order,
            "unrolled-2x2": unrolled_order,
            "merge-2x2": merge_block_order,
        }[order](SPEC.grid, window)
        assert (changed[:, :1] == raster[:, :1]).all()
        assert (changed[:, 1:] == raster[:, 1:][:, moved]).all()


def test_tokens_may_stand_on_both_sides():
    """YOLOS: a class token before the patches, detection tokens behind, one row of positions for
    each in that order."""
    draw = np.random.default_rng(7).standard_normal
    count, width = SPEC.num_patches, SPEC.embed_dim
    layout = SequenceLayout(
        ("class_token", "register_tokens"),
        suffix=("register_tokens",),
        positioned=("class_token", "register_tokens"),
    )
    assert (layout.ahead, layout.behind) == (("class_token",), ("register_tokens",))
    fields = dict(
        class_token=draw(width),
        register_tokens=draw((5, width)),
        positions=draw((1 + count + 5, width)),
    )
    weights = PatchEmbedWeights(draw((width, 8, 8, 3)), **fields, layout=layout)
    tokens = patch_embed(images(), weights, SPEC)
    cat = [
        np.broadcast_to(each, (2, *each.shape))
        for each in (weights.class_token[None], weights.register_tokens)
    ]
    expected = np.concatenate([cat[0], tokens, cat[1]], axis=1) + weights.positions
    np.testing.assert_array_equal(assemble_sequence(tokens, weights, SPEC), expected)
    assert (
        weights.num_tokens_ahead,
        weights.num_positions_ahead,
        weights.num_positioned_prefix_tokens,
    ) == (1, 1, 6)


def test_a_window_that_no_order_has():
    for order, window, wanted in (
        ("raster", 2, "0"),
        ("merge-2x2", 3, "an even number of patches"),
        ("merge-2x2", -2, "an even number of patches"),
        ("windows", 0, "a number of patches"),
        ("windows", 2.0, "a number of patches"),
        ("unrolled-2x2", 6, "a power of two"),
        ("unrolled-2x2", 1, "a power of two"),
    ):
        with pytest.raises(
            PatchParityError, match=f"^window={window}: expected {wanted} for {order} order$"
        ):
            SequenceLayout(token_order=order, window=window)
    for order, window in (("merge-2x2", 4), ("merge-2x2", 6), ("windows", 1), ("unrolled-2x2", 8)):
        assert SequenceLayout(token_order=order, window=window).window == window
    with pytest.raises(
        PatchParityError,
        match=r"grid=\(3, 4\): expected \(rows, columns\) that windows of 2×2 divide",
    ):
        unrolled_order((3, 4), 2)


def test_simple_vits_table_reaches_its_last_frequency():
    """Against vit-pytorch's `posemb_sincos_2d`, written out here."""
    table = sincos_positions((3, 5), 16, last_frequency=True)
    omega = 1 / 10000 ** (np.arange(4) / 3)
    for row, column in np.ndindex(3, 5):
        expected = np.concatenate(
            [
                np.sin(column * omega),
                np.cos(column * omega),
                np.sin(row * omega),
                np.cos(row * omega),
            ]
        )
        # as above
        np.testing.assert_allclose(table[row * 5 + column], expected, rtol=0, atol=1.8e-15)
    with pytest.raises(PatchParityError, match="at least 8"):
        sincos_positions((3, 5), 4, last_frequency=True)
    assert sincos_positions((3, 5), 8, last_frequency=True).shape == (15, 8)


def test_a_layout_holds_tuples():
    names = ["register_tokens", "class_token"]
    layout = SequenceLayout(prefix=names, positioned=names[1:], suffix=names[:1])
    assert layout.prefix == ("register_tokens", "class_token")
    assert layout.positioned == ("class_token",)
    assert layout.suffix == ("register_tokens",)
    with pytest.raises(PatchParityError, match=r"^norm_epsilon='1e-6': expected a number$"):
        SequenceLayout(norm_epsilon="1e-6")


def test_kernels_of_video_and_of_one_row_are_weights():
    draw = np.random.default_rng(8).standard_normal
    video = PatchEmbedWeights(draw((5, 2, 3, 4, 6)), patch_norm=LayerNorm(draw(144)))
    assert video.matrix.shape == (5, 144)
    single = PatchEmbedWeights(draw((1, 3, 4, 2)), patch_norm=LayerNorm(draw(24), draw(24)))
    assert single.matrix.shape == (1, 24)
    with pytest.raises(
        PatchParityError,
        match=r"^kernel of shape \(20, 8, 8, 4\): expected \(20, 8, 8, 3\), \(D, \*patch, C\) of "
        r"the spec$",
    ):
        PatchEmbedWeights(draw((20, 8, 8, 4))).check_spec(SPEC)


def test_every_array_is_changed_but_those_of_the_fields_named():
    draw = np.random.default_rng(9).standard_normal
    weights = PatchEmbedWeights(
        draw((5, 2, 3, 4)),
        draw(5),
        positions=draw((7, 5)),
        patch_norm=LayerNorm(draw(24), draw(24), centered=True),
        token_norm=LayerNorm(draw(5), None, centered=False),
        layout=SequenceLayout(norm_epsilon=0.5),
    )
    doubled = weights.map(lambda array: 2 * array, ("bias",))
    assert (doubled.kernel == 2 * weights.kernel).all()
    assert (doubled.bias == weights.bias).all()
    assert (doubled.positions == 2 * weights.positions).all()
    assert (doubled.patch_norm.scale == 2 * weights.patch_norm.scale).all()
    assert (doubled.patch_norm.shift == 2 * weights.patch_norm.shift).all()
    assert (doubled.token_norm.scale == 2 * weights.token_norm.scale).all()
    assert doubled.token_norm.shift is None
    assert (doubled.patch_norm.centered, doubled.token_norm.centered) == (True, False)
    assert doubled.class_token is None
    assert doubled.layout == weights.layout
    single = weights.astype(np.float32)
    for array in (single.kernel, single.bias, single.patch_norm.scale, single.patch_norm.shift):
        assert array.dtype == np.float32


def test_weights_are_shown_by_shapes():
    weights = PatchEmbedWeights(
        np.zeros((5, 2, 3, 4), np.float32),
        positions=np.zeros((7, 5)),
        patch_norm=LayerNorm(np.zeros(24)),
        token_norm=LayerNorm(np.zeros(5), centered=False),
    )
    assert repr(weights) == (
        "PatchEmbedWeights(kernel=float32[5, 2, 3, 4], positions=float64[7, 5], "
        "patch_norm=LayerNorm[24], token_norm=RMSNorm[5])"
    )


def test_videomaes_table_has_sines_on_even_channels():
    table = sinusoid_table(6, 10)
    assert table.shape == (6, 10)
    for place, channel in np.ndindex(6, 10):
        angle = place / 10000 ** (channel // 2 * 2 / 10)
        expected = math.cos(angle) if channel % 2 else math.sin(angle)
        # an angle of at most 5, off by 2 ulp
        assert table[place, channel] == pytest.approx(expected, rel=0, abs=1.8e-15)


def normed(vector: np.ndarray, norm: LayerNorm, epsilon: float) -> np.ndarray:
    """A norm of one vector, written out."""
    width = len(vector)
    mean = sum(vector) / width if norm.centered else 0.0
    spread = math.sqrt(sum((value - mean) ** 2 for value in vector) / width + epsilon)
    shift = np.zeros(width) if norm.shift is None else norm.shift
    return np.array([(vector[k] - mean) / spread * norm.scale[k] + shift[k] for k in range(width)])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("centered", [True, False])
def test_a_norm_is_over_the_last_axis(centered, dtype):
    draw = np.random.default_rng(10).standard_normal
    values = draw((2, 3, 7)).astype(dtype) + dtype(1)
    norm = LayerNorm(draw(7), draw(7) if centered else None, centered)
    result = layer_norm(values, norm, 0.25)
    assert result.dtype == dtype
    expected = [[normed(row, norm, 0.25) for row in rows] for rows in values.astype(np.float64)]
    np.testing.assert_allclose(result, expected, rtol=0, atol=100 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("with_norm", [True, False])
def test_a_sequence_is_made_token_by_token(with_norm, with_bias, dtype):
    """All that weights can have, written out as loops; one prefix token is not there."""
    spec = PatchEmbedSpec((6, 8), (3, 2), 4, 5)
    generator = np.random.default_rng(11)
    draw = generator.standard_normal
    weights = PatchEmbedWeights(
        draw((5, 3, 2, 4)),
        draw(5) if with_bias else None,
        register_tokens=draw((3, 5)),
        distillation_token=draw(5),
        mask_token=draw(5),
        positions=draw((12, 5)),
        patch_norm=LayerNorm(draw(24), draw(24)) if with_norm else None,
        token_norm=LayerNorm(draw(5), None, centered=False),
        sequence_norm=LayerNorm(draw(5), draw(5)),
        layout=SequenceLayout(
            ("class_token", "register_tokens", "distillation_token"),
            positioned=("register_tokens", "distillation_token"),
            token_order="windows",
            window=2,
            norm_epsilon=0.125,
        ),
    )
    batch, mask = draw((3, 4, 6, 8)), generator.random((3, 8)) < 0.3
    result = embed_sequence(batch, weights, spec, dtype, mask)
    assert result.dtype == dtype
    expected = []
    for image, hidden in zip(batch, mask, strict=True):
        tokens = []
        for index in range(8):
            row, column = divmod(index, 4)
            window = image[:, row * 3 : row * 3 + 3, column * 2 : column * 2 + 2]
            patch = window.transpose(1, 2, 0).ravel()
            if with_norm:
                patch = normed(patch, weights.patch_norm, 0.125)
            token = np.array([(weights.kernel[out].ravel() * patch).sum() for out in range(5)])
            if with_bias:
                token = token + weights.bias
            token = normed(token, weights.token_norm, 0.125)
            token = weights.mask_token if hidden[index] else token
            tokens.append(token + weights.positions[4 + index])
        prefix = [*weights.register_tokens, weights.distillation_token]
        whole = [token + weights.positions[row] for row, token in enumerate(prefix)]
        whole += [tokens[index] for index in (0, 1, 4, 5, 2, 3, 6, 7)]
        expected.append([normed(token, weights.sequence_norm, 0.125) for token in whole])
    np.testing.assert_allclose(result, expected, rtol=0, atol=400 * np.finfo(dtype).eps)


def test_each_prefix_token_takes_its_own_rows_of_positions():
    draw = np.random.default_rng(12).standard_normal
    names = ("class_token", "distillation_token", "register_tokens")
    weights = PatchEmbedWeights(
        draw((20, 8, 8, 3)),
        class_token=draw(20),
        distillation_token=draw(20),
        register_tokens=draw((3, 20)),
        positions=draw((29, 20)),
        layout=SequenceLayout(names, positioned=names),
    )
    tokens = draw((2, 24, 20))
    sequence = assemble_sequence(tokens, weights, SPEC)
    prefix = [weights.class_token, weights.distillation_token, *weights.register_tokens]
    for image in range(2):
        for row, token in enumerate([*prefix, *tokens[image]]):
            np.testing.assert_array_equal(sequence[image, row], token + weights.positions[row])
    for dtype in (np.float32, np.float64):
        assert embed_sequence(images(), weights, SPEC, dtype).dtype == dtype
