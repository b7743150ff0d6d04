"""Positions and what is folded into kernels, of dialects made up for it."""

import itertools
import math

import ml_dtypes
import numpy as np
import pytest

from patchparity import PatchEmbedSpec, PatchParityError
from patchparity.porting.dialects import positions
from patchparity.porting.dialects.recognize import Candidate
from patchparity.reference.resize import resize_grid

from .made_up import C, D, Held, dialect_of, rows


def candidate_of(dialect, sizes=(), grid=(2, 3), names=()):
    return Candidate(
        dialect, "", dict(names), dict(sizes), (), grid, (6, 4), (0, 0), 0, (), "", "", ()
    )


SPEC = PatchEmbedSpec((12, 12), (6, 4), C, D)
"""Of a grid of 2×3."""
FRAMES = PatchEmbedSpec((8, 12, 12), (2, 6, 4), C, D)
"""Of a grid of 4×2×3."""


def folded(dialect, arrays, spec=SPEC, **given):
    arrays = {"kernel": rows(D, 6, 4, C), **arrays}
    positions.fold_positions(
        Held({}, path="f/a.safetensors"), candidate_of(dialect, **given), arrays, spec
    )
    return {name: value for name, value in arrays.items() if name != "kernel"}


def as_expected(found, expected, dtype=np.float32):
    assert found.dtype == dtype
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_ids_tell_rows_and_none_beyond():
    table, dialect = rows(4, D), dialect_of()
    for ids in ([3, 0, 0, 2, 1, 1], [0, 1], [1, 3]):
        given = {"positions": table, "position_ids": np.array(ids, np.float32)}
        found = folded(dialect, given)
        assert list(found) == ["positions"]
        assert (found["positions"] == table[ids]).all()
    for ids in ([3, -1], [0, 4], [-1, 4]):
        with pytest.raises(
            PatchParityError, match=r"^f/a\.safetensors: p\.ids names rows beyond the 4 of the "
        ) as raised:
            folded(
                dialect,
                {"positions": table, "position_ids": np.array(ids)},
                names={"position_ids": "p.ids"},
            )
        assert str(raised.value).endswith("the 4 of the positions")


def test_spare_rows_are_left_out_and_shared_ones_added():
    table = rows(11, D)
    given = {"positions": table}
    assert folded(dialect_of(spare_rows=1, spare_last=2), given)["positions"].tolist() == (
        table[1:9].tolist()
    )
    assert (folded(dialect_of(), given)["positions"] == table).all()
    found = folded(dialect_of(spare_rows=1, spare_last=2, shared_rows=2), given)["positions"]
    as_expected(found, table[3:9] + table[1:2] + table[2:3])
    for dtype, kept in ((np.float16, np.float32), (np.float64, np.float64)):
        narrow = {"positions": table.astype(dtype)}
        found = folded(dialect_of(shared_rows=2), narrow)["positions"]
        whole = narrow["positions"].astype(np.float64)
        as_expected(found, whole[2:] + whole[0] + whole[1], kept)


def test_a_table_of_any_grid_is_resized_to_the_image():
    table, window = rows(20, D), rows(1, 3, D)
    dialect = dialect_of(resize="torch-bicubic")
    sizes = {"Gh": 5, "Gw": 4}
    plain = resize_grid(table.reshape(5, 4, D), (2, 3), "torch-bicubic")
    found = folded(dialect, {"positions": table}, sizes=sizes)
    as_expected(found["positions"], plain.reshape(6, D))
    found = folded(dialect, {"positions": table, "position_window": window}, sizes=sizes)
    assert list(found) == ["positions"]
    as_expected(found["positions"], (plain + window).reshape(6, D))
    found = folded(dialect, {"positions": table[:9]}, FRAMES)["positions"]
    square = resize_grid(table[:9].reshape(3, 3, D), (2, 3), "torch-bicubic")
    as_expected(found, np.concatenate([square.reshape(6, D)] * 4))


@pytest.mark.parametrize("grid", [(4, 6), (6, 4), (2, 3, 4, 6)])
@pytest.mark.parametrize("to", ["grid", "square", "swapped"])
@pytest.mark.parametrize(("dtype", "kept"), [(np.float16, np.float32), (np.float64, np.float64)])
def test_positions_are_resized_as_the_dialect_does(grid, to, dtype, kept):
    table, window = rows(15, D, dtype=dtype), rows(2, 2, D)
    dialect = dialect_of(resize="torch-bilinear", resize_to=to)
    height, width = grid[-2:]
    over = {"grid": (height, width), "square": (6, 6), "swapped": (width, height)}[to]
    wanted = resize_grid(table.reshape(3, 5, D), over, "torch-bilinear")
    wanted = wanted[:height, :width] if to == "square" else wanted
    frames = math.prod(grid[:-2])
    sizes = {"Gh": 3, "Gw": 5}
    found = positions.resized_positions(table, None, grid, sizes, dialect)
    as_expected(found, np.concatenate([wanted.reshape(-1, D)] * frames), kept)
    if to != "swapped":
        wanted = wanted.copy()
        for at in itertools.product(range(height), range(width)):
            wanted[at] += window[at[0] % 2, at[1] % 2]
        found = positions.resized_positions(table, window, grid, sizes, dialect)
        as_expected(found, np.concatenate([wanted.reshape(-1, D)] * frames), kept)


def test_the_class_token_is_given_its_position():
    for dtype, kept in ((np.float32, np.float32), (np.float16, np.float32)):
        token, position = rows(D, dtype=dtype), rows(D, dtype=dtype)
        found = folded(dialect_of(), {"class_token": token, "class_position": position})
        assert list(found) == ["class_token"]
        as_expected(found["class_token"], token.astype(np.float64) + position, kept)


def test_positions_of_rows_and_columns_are_summed():
    for cut, spec, (height, width) in (
        (False, SPEC, (4, 5)),
        (True, SPEC, (2, 3)),
        (True, FRAMES, (2, 3)),
    ):
        of_rows, of_columns = rows(4, D), rows(5, D)
        given = {"position_rows": of_rows, "position_columns": of_columns}
        found = folded(dialect_of(cut=cut), given, spec)
        assert list(found) == ["positions"]
        wanted = [of_rows[row] + of_columns[at] for row in range(height) for at in range(width)]
        as_expected(found["positions"], np.stack(wanted))


@pytest.mark.parametrize("spec", [SPEC, FRAMES])
def test_of_two_tables_the_first_is_of_columns(spec):
    tables = rows(2, 7, D)
    found = folded(dialect_of(), {"position_tables": tables}, spec)
    assert list(found) == ["positions"]
    wanted = [tables[1, row] + tables[0, column] for row in range(2) for column in range(3)]
    as_expected(found["positions"], np.stack(wanted))


def test_sums_of_narrow_positions_are_kept_wide():
    of_rows, of_columns = rows(2, D), rows(3, D)
    narrow = {"kernel": rows(D, 6, 4, C, dtype=np.float16)}
    for given in (
        {"position_rows": of_rows, "position_columns": of_columns},
        {"position_tables": np.stack([of_columns, np.concatenate([of_rows, of_rows[:1]])])},
    ):
        found = folded(dialect_of(), {**narrow, **given})["positions"]
        as_expected(found, (of_rows[:, None] + of_columns).reshape(6, D))


def wave(count, half):
    """XCiT's positions along one axis, a value at a time."""
    table = np.zeros((count, half))
    for at in range(count):
        for channel in range(half):
            angle = (at + 1) / (count + 1e-6) * 2 * math.pi
            angle /= 10000.0 ** (2 * (channel // 2) / half)
            table[at, channel] = math.cos(angle) if channel % 2 else math.sin(angle)
    return table


def test_positions_of_waves_are_projected():
    wanted = np.array(
        [[*wave(2, 6)[row], *wave(3, 6)[column]] for row in range(2) for column in range(3)]
    )
    np.testing.assert_allclose(positions.fourier_table((2, 3), 12), wanted, rtol=0, atol=1e-12)
    for dtype, kept in ((np.float16, np.float32), (np.float32, np.float32)):
        projection, bias = rows(D, 12, dtype=dtype), rows(D, dtype=dtype)
        given = {"position_projection": projection, "position_projection_bias": bias}
        found = folded(dialect_of(computed="fourier"), given)
        assert list(found) == ["positions"]
        as_expected(found["positions"], wanted @ projection.T.astype(np.float64) + bias, kept)
        assert folded(dialect_of(computed="fourier"), given, grid=()) == {}


def test_computed_positions_are_of_the_kernel_s_type_and_of_a_known_grid():
    kernel = rows(D, 6, 4, C, dtype=np.float16)
    channels = np.arange(D)
    angles = np.arange(6)[:, None] / 10000.0 ** (2 * (channels // 2) / D)
    sinusoid = np.where(channels % 2, np.cos(angles), np.sin(angles))
    planes = []
    for steps in (5, 6):  # the last frequency is that of 10000 itself, or one step before it
        frequencies = 10000.0 ** (-np.arange(6) / steps)
        plane = [
            [f(at * frequencies) for at in (column, row) for f in (np.sin, np.cos)]
            for row in range(2)
            for column in range(3)
        ]
        planes.append(np.array(plane).reshape(6, D))
    kinds = ("sinusoid-1d", "sincos-2d", "sincos-2d-mae")
    for kind, wanted in zip(kinds, (sinusoid, *planes), strict=True):
        found = folded(dialect_of(computed=kind), {"kernel": kernel})["positions"]
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, wanted, atol=1e-3)
        assert folded(dialect_of(computed=kind), {}, grid=()) == {}
    assert folded(dialect_of(), {}) == {}


def normalized(dialect, arrays, names=()):
    positions.fold_normalizations(
        Held({}, path="f/a.safetensors"), candidate_of(dialect, names=names), arrays
    )
    return arrays


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_batch_norm_is_put_into_kernel_and_bias(biased, dtype):
    kernel, bias = rows(D, 6, 4, C, dtype=dtype), rows(D, dtype=dtype)
    scale, shift, mean = rows(D), rows(D), rows(D)
    variance = rows(D) ** 2 + 0.5
    given = {"kernel": kernel, **({"bias": bias} if biased else {})}
    for part, value in (
        ("mean", mean),
        ("variance", variance),
        ("scale", scale),
        ("shift", shift),
    ):
        given[f"batch_norm.{part}"] = value
    found = normalized(dialect_of(batch_norm="bn", batch_norm_epsilon=0.25), given)
    assert set(found) == {"kernel", "bias"}
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + 0.25)
    as_expected(found["kernel"], kernel * factor[:, None, None, None])
    as_expected(found["bias"], ((bias if biased else 0.0) - mean) * factor + shift)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("held", ["dialect", "both", "std"])
def test_pixels_are_normalized_by_kernel_and_bias(held, dtype, biased):
    kernel, bias = rows(D, 6, 4, C, dtype=dtype), rows(D, dtype=dtype)
    mean, std = np.array([0.5, -0.25, 2.0]), np.array([0.25, 0.5, 3.0])
    given = {"kernel": kernel, **({"bias": bias} if biased else {})}
    dialect = dialect_of()
    if held == "dialect":
        dialect = dialect_of(pixels={"mean": tuple(mean), "std": tuple(std)})
    else:
        given["pixel_std"] = std
        if held == "both":
            given["pixel_mean"] = mean
        else:
            mean = np.zeros(3)
    found = normalized(dialect, given)
    assert set(found) == {"kernel", "bias"}
    assert found["kernel"].dtype == found["bias"].dtype == np.float32
    patch = rows(6, 4, C).astype(np.float64)
    wide = kernel.astype(np.float64)
    wanted = (wide * ((patch - mean) / std)).sum(axis=(1, 2, 3)) + (bias if biased else 0.0)
    as_before = (found["kernel"].astype(np.float64) * patch).sum(axis=(1, 2, 3)) + found["bias"]
    np.testing.assert_allclose(as_before, wanted, atol=1e-4)


@pytest.mark.parametrize(("least", "word"), [(0.0, "0"), (-1.5, "-1.5")])
def test_pixels_are_divided_by_what_is_positive_alone(least, word):
    given = {"kernel": rows(D, 6, 4, C), "pixel_std": np.array([0.2, least, 0.3])}
    with pytest.raises(PatchParityError) as raised:
        normalized(dialect_of(), given, {"pixel_std": "p.std"})
    assert str(raised.value) == (
        f"f/a.safetensors: p.std holds {word}, by which pixels would be divided"
    )


def test_what_is_computed_of_narrow_weights_is_kept_wide():
    for narrow in (np.float16, ml_dtypes.bfloat16):
        assert positions.wide(np.dtype(narrow)) == np.float32
    for dtype in (np.float32, np.float64):
        assert positions.wide(np.dtype(dtype)) == dtype
