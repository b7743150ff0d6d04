"""Each part of a reading by itself, of dialects made up for it: the ledger, steps, positions,
evidence."""

import itertools
import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from patchparity import PatchEmbedSpec, PatchParityError, Sizes
from patchparity.porting.dialects import evidence, ledger, positions, strides
from patchparity.porting.dialects.dialect import Dialect, Entry
from patchparity.porting.dialects.ledger import LedgerEntry
from patchparity.porting.dialects.recognize import Candidate
from patchparity.porting.files.checkpoint import Checkpoint, TensorInfo
from patchparity.reference.resample import resize_grid

GENERATOR = np.random.default_rng(23)
D, C = 24, 3


def rows(*shape, dtype=np.float32):
    return GENERATOR.standard_normal(shape).astype(dtype)


def dialect_of(layout="D C Ph Pw", more=(), framework="torch", **given):
    """A dialect of a kernel of this layout, and of more fields, each under its own name."""
    entries = {name: Entry(name, name, "D") for name in more}
    entries["kernel"] = Entry("kernel", "kernel", layout)
    return Dialect("mine", "my own", framework, ("safetensors",), entries, **given)


class Held(Checkpoint):
    """A checkpoint of these shapes, which nobody reads."""

    def __init__(self, shapes, kind="safetensors", metadata=(), path="folder/a.safetensors"):
        super().__init__(Path(path))
        self.format = kind
        self.tensors = {name: TensorInfo(shape, "float32") for name, shape in shapes.items()}
        self.metadata = dict(metadata)

    def _read(self, name):
        raise NotImplementedError


# The ledger.


@pytest.mark.parametrize("part", [".", "/"])
def test_every_tensor_has_the_status_that_its_name_tells(part):
    prefix = part.join(["a", "trunk", "stem", ""])
    above = part.join(["a", "trunk", ""])
    expected = {
        f"{prefix}kernel": ((D, C, 6, 4), "used", "kernel"),
        f"{prefix}shift": ((D,), "copy", "bias"),
        f"{prefix}bias": ((D,), "copy", "bias"),
        "another": ((D,), "used", "bias"),
        f"{prefix}gate1": ((D,), "ignored", ""),
        f"{prefix}gate2": ((5,), "ignored", ""),
        f"{prefix}Gate2": ((1, D), "unexplained", ""),
        f"{prefix}nothing": ((0, D), "elsewhere", ""),
        f"{prefix}blocks{part}0{part}qkv": ((D, D), "elsewhere", ""),
        f"{prefix}blocks{part}0{part}adapter{part}down": ((2, D), "elsewhere", ""),
        f"{prefix}norm_last": ((D,), "elsewhere", ""),
        f"{prefix}blocks{part}1": ((2, D), "unexplained", ""),
        f"{above}pos_embed": ((1, 5, D), "unexplained", ""),
        f"{above}Norm": ((D,), "unexplained", ""),
        "token": ((7, D), "unexplained", ""),
        f"{above}pos_turned": ((D, 7), "outside", ""),
        f"{above}pos_scale": ((), "outside", ""),
        f"{above}thing": ((D,), "outside", ""),
        f"{above}other{part}pos_embed": ((D,), "outside", ""),
        f"{above}norm_known": ((D,), "outside", ""),
        f"{above}fc_norm": ((D,), "outside", ""),
    }
    dialect = dialect_of(
        more=("bias",),
        copies={"bias": ("shift",)},
        elsewhere=("norm_last", r"blocks[./]0[./]qkv", r"a[./]trunk[./]norm_known"),
    )
    names = {"kernel": f"{prefix}kernel", "bias": "another"}
    found = ledger.ledger_of(
        Held({name: shape for name, (shape, _, _) in expected.items()}),
        dialect,
        prefix,
        names,
        ["none", f"{prefix}gate*"],
    )
    assert found == [
        LedgerEntry(name, shape, status, role) for name, (shape, status, role) in expected.items()
    ]


def test_of_a_plain_layout_nothing_is_unexplained():
    shapes = {"a.kernel": (D, C, 6, 4), "a.gate": (D,), "pos_embed": (5, D)}
    found = ledger.ledger_of(Held(shapes), dialect_of(plain=True), "a.", {"kernel": "a.kernel"})
    assert [entry.status for entry in found] == ["used", "elsewhere", "outside"]


def test_without_a_kernel_nothing_has_its_width():
    found = ledger.ledger_of(Held({"pos_embed": (5, D)}), dialect_of(), "a.", {})
    assert [entry.status for entry in found] == ["outside"]


def test_modules_are_told_from_the_innermost_outwards():
    assert ledger._modules_of("a.bc/d.weight") == ["a.bc/d", "a.bc", "a"]
    assert ledger._modules_of("weight") == []


def test_a_module_is_elsewhere_where_a_tensor_of_its_own_is():
    dialect = dialect_of(elsewhere=(r"blocks\.\d\.(qkv|mlp\.fc)", "gate"))
    shapes = dict.fromkeys(
        ["a.blocks.0.qkv", "a.blocks.1.mlp.fc", "a.blocks.2.qkv", "a.gate", "b.blocks.3.qkv"], (D,)
    )
    found = ledger._modules_elsewhere(Held(shapes), dialect, "a.", ["a.blocks.2.kernel"])
    assert found == {"a.blocks.0", "a.blocks.1.mlp"}
    assert ledger._modules_elsewhere(Held(shapes), dialect, "a.", []) == found | {"a.blocks.2"}


def test_beside_a_stage_is_what_is_in_the_modules_that_it_is_in():
    for name, beside in (
        ("pos_embed", True),
        ("trunk.pos_embed", True),
        ("trunk/pos_embed", False),
        ("head.pos_embed", False),
        ("trunk.blocks.norm", False),
    ):
        assert ledger._is_beside(name, "trunk.patch_embed.") is beside


def test_the_first_four_of_many_are_named():
    entries = [LedgerEntry(f"t{at}", (at, 7), "unexplained") for at in range(5)]
    four = "t0 (0, 7), t1 (1, 7), t2 (2, 7), t3 (3, 7)"
    assert ledger.in_words(entries[:4]) == four
    assert ledger.in_words(entries) == f"{four}, ... (5 in all)"
    assert ledger.in_words(entries, 1) == "t0 (0, 7), ... (5 in all)"
    assert ledger.in_words([]) == ""
    used = LedgerEntry("u", (7,), "used", "bias")
    assert ledger.unexplained([used, *entries]) == entries


# Strides, paddings, windows, patches.

FLAT = {"Ph": 6, "Pw": 4}
TUBE = {"Pt": 2, **FLAT}
ASK = (
    "its kernel is {}, and no tensor tells the stride: --stride says it, and --padding ({} and 0 "
    "where patches tile)"
)


def told(**given):
    return Sizes(asked=True, **given)


@pytest.mark.parametrize(
    ("given", "sizes", "known", "stride", "padding", "asks"),
    [
        ({}, FLAT, Sizes(), (6, 4), (0, 0), []),
        ({}, TUBE, Sizes(), (2, 6, 4), (0, 0, 0), []),
        ({}, FLAT, told(stride=(3, 2), padding=(1, 2)), (3, 2), (1, 2), []),
        ({}, TUBE, told(stride=(3, 2), padding=(1, 2)), (2, 3, 2), (0, 1, 2), []),
        ({}, TUBE, told(stride=(1, 3, 2)), (1, 3, 2), (0, 0, 0), []),
        # of three axes, of a kernel of two
        ({}, FLAT, told(stride=(1, 3, 2)), (6, 4), (0, 0), []),
        # another checkpoint's are none that a user told
        ({}, FLAT, Sizes(stride=(3, 2), padding=(1, 2)), (6, 4), (0, 0), []),
        ({"stride": 3, "padding": "half"}, FLAT, Sizes(), (3, 3), (3, 2), []),
        ({"stride": 3, "padding": 1}, TUBE, Sizes(), (3, 3, 3), (1, 1, 1), []),
        ({"stride": 3}, FLAT, told(stride=(3, 3)), (3, 3), (0, 0), []),
        (
            {"stride": 3, "padding": "half"},
            FLAT,
            told(stride=(3, 2), padding=(1, 2)),
            (3, 2),
            (1, 2),
            [
                "mine has stride 3×3, and 3×2 was told",
                "mine has padding 3×2, and 1×2 was told",
            ],
        ),
        # an odd kernel whose stride is known
        ({"stride": 3}, {"Ph": 7, "Pw": 5}, Sizes(), (3, 3), (0, 0), []),
        (
            {},
            {"Ph": 7, "Pw": 5},
            Sizes(),
            (7, 5),
            (0, 0),
            [ASK.format("7×5", "7×5")],
        ),
        ({}, {"Ph": 7, "Pw": 5}, Sizes(stride=(3, 2)), (3, 2), (0, 0), []),
        (
            {"stride": "config", "padding": "config"},
            TUBE,
            Sizes(),
            (2, 6, 4),
            (0, 0, 0),
            [ASK.format("2×6×4", "2×6×4")],
        ),
        (
            {"stride": "config", "padding": "config"},
            TUBE,
            Sizes(stride=(3, 2), padding=(1, 2)),
            (2, 3, 2),
            (0, 1, 2),
            [],
        ),
    ],
)
def test_steps_are_those_told_or_always_had_or_asked(given, sizes, known, stride, padding, asks):
    assert strides.steps_of(dialect_of(**given), sizes, known) == (stride, padding, 0, asks)


KEYS = {"stride": ("strides.1",), "padding": ("pads",)}
TABLE = {"strides": [9, 3], "pads": [1, 2]}


@pytest.mark.parametrize(
    ("given", "sizes", "known", "stride", "padding", "asks"),
    [
        ({}, FLAT, Sizes(), (3, 3), (1, 2), []),
        ({}, FLAT, told(stride=(3, 3), padding=(1, 2)), (3, 3), (1, 2), []),
        (
            {},
            FLAT,
            told(stride=(3, 2), padding=(2, 1)),
            (3, 2),
            (2, 1),
            [
                "config.json tells stride 3×3, and 3×2 was told",
                "config.json tells padding 1×2, and 2×1 was told",
            ],
        ),
        # the configuration is asked before what a dialect always has
        ({"stride": 5, "padding": 5}, FLAT, Sizes(), (3, 3), (1, 2), []),
        ({"stride": 5}, FLAT, told(stride=(3, 3)), (3, 3), (1, 2), []),
        (
            {"padding": 2},
            TUBE,
            told(stride=(3, 3)),
            (2, 3, 3),
            (2, 2, 2),
            ["config.json tells stride 3×3×3, and 3×3 was told"],
        ),
    ],
)
def test_steps_of_the_configuration_are_held_against_those_told(
    given, sizes, known, stride, padding, asks
):
    known = Sizes(asked=known.asked, stride=known.stride, padding=known.padding, table=TABLE)
    found = strides.steps_of(dialect_of(config=KEYS, **given), sizes, known)
    assert found == (stride, padding, 0, asks)


AST = {"frequency_stride": 3, "time_stride": 2}


def test_a_layer_alone_has_the_stride_of_its_configuration():
    keras = Sizes(table={"keras_convolution": {"strides": [3, 2]}})
    model = Sizes("audio-spectrogram-transformer", table=AST)
    tiles = ((6, 4), (0, 0), 0, [])
    plain = dialect_of(plain=True)
    assert strides.steps_of(plain, FLAT, keras) == ((3, 2), (0, 0), 0, [])
    assert strides.steps_of(plain, FLAT, Sizes(table={"keras_convolution": {}})) == tiles
    assert strides.steps_of(plain, FLAT, Sizes()) == tiles
    ask = "config.json tells stride 3×2, and the kernel is 6×4: --stride says which one it has"
    assert strides.steps_of(plain, FLAT, model) == (*tiles[:3], [ask])
    assert strides.steps_of(dialect_of(plain=True, stride=5), FLAT, model)[::3] == ((5, 5), [ask])
    same = Sizes("audio-spectrogram-transformer", table={"frequency_stride": 6, "time_stride": 4})
    assert strides.steps_of(plain, FLAT, same) == tiles
    for known in (keras, model):
        assert strides.steps_of(dialect_of(), FLAT, known) == tiles


def test_the_stride_of_a_configuration_is_under_the_key_of_its_model(monkeypatch):
    def found(table, *given, **more):
        return strides._stride_of_config(Sizes(*given, table=table, **more), 2)

    model = "audio-spectrogram-transformer"
    assert found(AST, model) == (3, 2)
    assert found(AST, "vit") == found(AST) == found({}, model) == ()
    made_up = [
        dialect_of(architectures=("net_.*",)),
        dialect_of(architectures=("net_.*",), config={"stride": ("steps.1",)}),
        dialect_of(architectures=("other_.*",), config={"stride": ("down", "across")}),
    ]
    monkeypatch.setattr(strides, "list_dialects", lambda: dict(enumerate(made_up)))
    table = {"steps": [7, 5], "down": 3, "across": 2}
    assert found(table, architecture="net_s") == (5, 5)
    assert found(table, architecture="other_s") == (3, 2)
    assert found(table, architecture="third_s") == found(table) == ()


def test_a_matrix_of_patches_of_other_axes_asks_for_the_patch():
    asking, known = dialect_of(patch_asked=True), Sizes(patch_size=(6, 4))
    ask = (
        "its kernel is a matrix, and my own has the same names for patches of other axes: "
        "--patch-size says the patch"
    )
    assert strides.steps_of(asking, FLAT, Sizes())[3] == [ask]
    assert strides.steps_of(asking, FLAT, known)[3] == []
    assert strides.steps_of(dialect_of(), FLAT, Sizes())[3] == []


def test_a_window_is_the_tensors_or_the_dialect_s_or_the_configuration_s():
    def window(sizes, known, **given):
        *_, found, asks = strides.steps_of(dialect_of(**given), {**FLAT, **sizes}, known)
        assert type(found) is int
        return found, asks

    ask = (
        "mine orders its tokens by attention windows, and no tensor tells their size: a "
        "config.json beside it would"
    )
    table = Sizes(table={"window_size": 50, "side": [7]})
    assert window({}, table) == (0, [])
    assert window({"Sh": 3, "Sw": 5}, table, window=8) == (3, [])
    assert window({}, table, window=8) == (8, [])
    assert window({}, table, windowed=True) == (50, [])
    assert window({}, table, windowed=True, config={"window": ("side",)}) == (7, [])
    # of pixels: halves of 25, of 4 each, in twos
    assert window({}, table, windowed=True, token_order="merge-2x2") == (12, [])
    assert window({}, Sizes(window=9), windowed=True) == (9, [])
    assert window({}, Sizes(), windowed=True) == (0, [ask])
    assert window({}, Sizes(table={"window_size": [7, 9]}), windowed=True) == (0, [ask])


def test_what_a_dialect_always_has_is_a_number_or_half_the_patch():
    assert strides._always("half", (2, 7, 5)) == (1, 3, 2)
    assert strides._always(4, (2, 7, 5)) == (4, 4, 4)
    for setting in (0, None, "config"):
        assert strides._always(setting, (7, 5)) == ()


@pytest.mark.parametrize(
    ("patch", "layout", "known", "may"),
    [
        ((3, 3), "D C Ph Pw", (), True),
        ((1, 3), "D C Ph Pw", (), True),
        ((15, 15), "D C Ph Pw", (), True),
        ((17, 17), "D C Ph Pw", (), False),
        ((1, 1), "D C Ph Pw", (), False),
        ((2, 4), "D C Ph Pw", (), False),
        ((3, 4), "D C Ph Pw", (), False),
        ((4, 7, 5), "D C Pt Ph Pw", (), True),
        ((3, 6, 4), "D C Pt Ph Pw", (), False),
        ((7, 5), "D (C Ph Pw)", (), False),
        ((7, 5), "D C Ph Pw", (7, 5), False),
        ((7, 5), "D C Ph Pw", (5, 7), True),
        ((4, 7, 5), "D C Pt Ph Pw", (2, 7, 5), False),
    ],
)
def test_small_odd_kernels_may_overlap_unless_they_are_told_as_patches(patch, layout, known, may):
    assert strides._may_overlap(dialect_of(layout), patch, Sizes(patch_size=known)) is may


KNOWN = "the patch is known to be 6×4"


@pytest.mark.parametrize(
    ("layout", "known", "expected"),
    [
        ("D C Ph Pw", told(patch_size=(6, 4)), [({}, [])]),
        ("D (C Ph Pw)", told(patch_size=(6, 4)), [(FLAT, [KNOWN])]),
        ("D (C Ph Pw)", Sizes(patch_size=(2, 6, 4)), [(FLAT, [KNOWN])]),
        ("D (C Ph Pw)", told(patch_size=(2, 6, 4)), []),
        ("D (C Pt Ph Pw)", told(patch_size=(6, 4)), []),
        ("D (C Pt Ph Pw)", Sizes(patch_size=(6, 4)), []),
        ("D (C Pt Ph Pw)", told(patch_size=(2, 6, 4)), [(TUBE, [KNOWN])]),
        ("D (C Pt Ph Pw)", Sizes(patch_size=(2, 6, 4)), [(TUBE, [KNOWN])]),
        ("D (C Pt Ph Pw)", Sizes(), []),
    ],
)
def test_a_patch_in_a_matrix_is_the_one_that_is_told(layout, known, expected):
    entry = Entry("kernel", "kernel", layout)
    assert strides.known_patches(entry, (D, 144), known) == expected


@pytest.mark.parametrize(
    ("values", "channels", "expected"),
    [
        (48, None, [(4, 3)]),
        (12, None, [(2, 3)]),
        (3, None, []),
        (64, None, [(8, 1), (4, 4)]),
        (4, None, [(2, 1)]),
        (50, None, []),
        (80, 5, [(4, 5)]),
        (18, 2, [(3, 2)]),
        (16, 1, [(4, 1)]),
        (48, 1, []),
    ],
)
def test_a_patch_in_a_matrix_is_assumed_to_be_square(values, channels, expected):
    sentences = [
        (
            {"Ph": side, "Pw": side, "C": count},
            [
                f"the patch is assumed to be square, {side}×{side} of {count} "
                f"{'channel' if count == 1 else 'channels'}"
            ],
        )
        for side, count in expected
    ]
    for layout, shape in (("D (Ph Pw C)", (D + 3, values)), ("(Ph Pw C) D", (values, D + 3))):
        entry = Entry("kernel", "kernel", layout)
        assert strides.known_patches(entry, shape, Sizes(channels=channels)) == sentences


# Positions.


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
    frequencies = 10000.0 ** (-np.arange(6) / 5)
    plane = [
        [f(at * frequencies) for at in (column, row) for f in (np.sin, np.cos)]
        for row in range(2)
        for column in range(3)
    ]
    for kind, wanted in (("sinusoid-1d", sinusoid), ("sincos-2d", np.array(plane).reshape(6, D))):
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


# Evidence.


def test_a_user_is_asked_before_the_configuration_and_that_before_another_file(tmp_path):
    checkpoint = Held({}, path=tmp_path / "a.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "vit", "patch_size": 6, "image_size": 12})
    )
    config = evidence.known_of(checkpoint, None)
    assert (config.patch_size, config.source) == ((6, 6), "config.json")
    for asked, image, patch, source in (
        (True, (), (5, 5), "config.json"),
        (True, (10, 15), (5, 5), "mine"),
        (False, (10, 15), (6, 6), "config.json"),
        (False, (), (6, 6), "config.json"),
    ):
        sizes = Sizes(image_size=image, patch_size=(5, 5), asked=asked, source="mine")
        found = evidence.known_of(checkpoint, sizes)
        assert (found.model_type, found.patch_size, found.source) == ("vit", patch, source)
        assert found.image_size == (image if asked and image else (12, 12))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    for asked in (False, True):
        sizes = Sizes(image_size=(10, 15), asked=asked, source="mine")
        found = evidence.known_of(checkpoint, sizes)
        assert (found.image_size, found.source) == ((10, 15), "mine")


def test_the_reason_of_a_model_is_told_by_its_type_or_its_architecture():
    told_of = "and its patches are cut into pixels' patches, which have an embedding of their own"
    for given, said in (
        (
            Sizes(architecture="tnt_s_patch16_224"),
            f"calls the model 'tnt_s_patch16_224', {told_of}",
        ),
        (Sizes("mobilevit"), "calls the model 'mobilevit', and its tokens come out of several"),
        (Sizes("mobilevit", architecture="xyz"), "calls the model 'mobilevit', and its tokens"),
        (Sizes("xyz", architecture="tnt_s"), f"calls the model 'xyz', {told_of}"),
    ):
        assert evidence.known_reason(given).startswith(f"config.json {said}")
    for given in (
        Sizes(),
        Sizes("vit"),
        Sizes(architecture="my_tnt_s"),
        Sizes("vit", architecture="a"),
    ):
        assert evidence.known_reason(given) == ""


def test_an_architecture_is_one_of_a_dialect_by_its_name_or_its_arguments():
    dialect = dialect_of(
        architectures=(r"vit_\w+", "deit"),
        architectures_if={r"swin\d": ("a == 1", "b.1 == 2"), "beit": ("a == 3",)},
    )

    def found(name, **table):
        return evidence.is_architecture(dialect, Sizes(architecture=name, table=table))

    assert found("vit_small") is found("deit") is True
    assert found("vit_") is found("") is found("swin1") is False
    assert found("", a=1) is False
    assert evidence.is_architecture(dialect_of(architectures=(".*",)), Sizes()) is False
    assert found("swin1", a=1) is found("swin2", b=[7, 2]) is found("swin1", a=3, b=[0, 2]) is True
    assert found("swin1", a=3) is found("swinx", a=1) is found("beit", a=1) is False
    assert found("beit", a=3) is True


@pytest.mark.parametrize(
    ("requirement", "table", "unmet"),
    [
        ("a < b", {"a": 1, "b": 2}, ""),
        ("a < b", {"a": 2, "b": 2}, "a is 2"),
        ("a <= 2", {"a": 2}, ""),
        ("a <= 2", {"a": 3}, "a is 3"),
        ("a <= 2", {"a": 1}, ""),
        ("a > 2", {"a": 3}, ""),
        ("a > 2", {"a": 2}, "a is 2"),
        ("a >= 2", {"a": 2}, ""),
        ("a >= 2", {"a": 1}, "a is 1"),
        ("a == -2", {"a": -2}, ""),
        ("a == -2", {"a": 2}, "a is 2"),
        ("a != 2", {"a": 2}, "a is 2"),
        ("a != 2", {"a": 3}, ""),
        ("a == 2", {}, ""),
        ("a == 2", {"a": None}, "a is null"),
        ("a == b", {"a": "x", "b": "x"}, ""),
        ("a == b", {"a": "x", "b": "y"}, 'a is "x"'),
        ("a == b", {"a": "b"}, ""),
        ("a == true", {"a": True}, ""),
        ("a == true", {"a": False}, "a is false"),
        ("a == false", {"a": False}, ""),
        ("a == false", {"a": True}, "a is true"),
        ("a == [2, 3]", {"a": [2, 3]}, ""),
        ("a == [2, 3]", {"a": [3, 2]}, "a is [3, 2]"),
        ("a.1 == 3", {"a": [2, 3]}, ""),
        ("a.1 == 3", {"a": [3, 2]}, "a.1 is 2"),
        ("a.2 == 3", {"a": [2, 3]}, "a.2 is null"),
        ("a.0 == 3", {"a": 3}, "a.0 is null"),
        ("a.0 == 3", {"b": 3}, ""),
        ("len(a) == 2", {"a": [7, 8]}, ""),
        ("len(a) == 2", {"a": (7, 8)}, ""),
        ("len(a) == 2", {"a": [7]}, "len(a) is 1"),
        ("len(a) == 2", {"a": "ab"}, "len(a) is null"),
        ("a == x", {"a": ["y", "x"]}, ""),
        ("a == x", {"a": ["y"]}, r'a is "[\"y\"]"'),
        ("a != x", {"a": ["y", "x"]}, 'a is "x"'),
        ("a == X2", {"a": "X2"}, ""),
        ("a < 2", {"a": "x"}, 'a is "x"'),
        ("a >= 2", {"a": "x"}, ""),
    ],
)
def test_a_requirement_holds_where_the_configuration_does_not_deny_it(requirement, table, unmet):
    assert evidence._unmet(requirement, Sizes(table=table)) == unmet


def test_a_requirement_is_met_where_the_configuration_says_so():
    for requirement, table, met in (
        ("a == 1", {"a": 1}, True),
        ("a == 1", {"a": 2}, False),
        ("a == 1", {}, False),
        ("a.1 == 3", {"a": [2, 3]}, True),
        ("a.1 == 3", {"a": [3, 2]}, False),
    ):
        assert evidence._is_met(requirement, Sizes(table=table)) is met


def test_numbers_alone_are_less_than_others():
    assert evidence._less(1, 1.5) is evidence._less(-0.5, 2) is True
    assert evidence._less(2, 2) is evidence._less(3, 2) is False
    assert evidence._less("a", 2) is evidence._less(1, "b") is evidence._less("a", "b") is False


def test_a_kernel_of_torch_has_square_patches_of_few_channels():
    for shape, torch_s in (
        ((D, 3, 6, 6), True),
        ((D, 4, 6, 6), True),
        ((D, 5, 6, 6), False),
        ((D, 3, 6, 4), False),
        ((D, 3, 3, 3), False),
        ((D, 6, 3, 6), False),
        ((D, 3, 6, 6, 6), False),
        ((D, 3, 6), False),
    ):
        assert evidence._is_of_torch(shape) is torch_s


def test_what_is_told_in_parts_is_summed():
    table = {"a": 2, "b": 5, "c": "x", "d": [3, 4]}
    assert evidence._sum_of(table, "a+b") == 7
    assert evidence._sum_of(table, "b") == 5
    for keys in ("a+c", "a+none", "d"):
        assert evidence._sum_of(table, keys) is None


def test_the_first_word_of_an_architecture_ends_before_a_digit_or_a_line():
    for name, word in (
        ("vit_small", "vit"),
        ("xcit12", "xcit"),
        ("beitv2_base", "beitv"),
        ("", ""),
    ):
        assert evidence._first_word(name) == word


def test_the_patch_is_told_under_the_dialect_s_keys():
    table = {"a": 5, "b": [2, 6, 4], "f": 2, "h": 6, "w": 4}
    config = Sizes(patch_size=(9, 8), table=table)

    def found(*keys, layout="D C Ph Pw"):
        given = {"config": {"patch_size": keys}} if keys else {}
        return evidence.told_patch(dialect_of(layout, **given), config)

    assert found() == (9, 8)
    assert found("a") == found("a", layout="D C Pt Ph Pw") == (5, 5)
    assert found("h", "w") == found("h", "w", layout="D C Pt Ph Pw") == (6, 4)
    assert found("f", "h", "w", layout="D C Pt Ph Pw") == (2, 6, 4)
    assert found("f", "h", "w") == found("b") == ()


def test_positions_of_another_image_are_told_with_both_sides():
    checkpoint = Held({"pos": (1, 7, D)})
    for grid, words in (((2, 3), "2×3"), ((), "no")):
        assert evidence.misfit(
            checkpoint, {"positions": "pos"}, FLAT, Sizes(image_size=(12, 13)), grid
        ) == (
            f"folder/config.json tells images of 12×13, which are {words} patches of 6×4, and pos "
            "(1, 7, 24) has positions for another number (--image-size says of which images)"
        )


def test_another_model_s_name_is_a_contradiction():
    dialect = dialect_of(model_types=("vit", "deit"), architectures=("vit_.*", r"keras_hub>ViT\w+"))

    def found(given, of=dialect):
        return list(evidence._against_name("f/config.json", of, given))

    for fitting in (
        Sizes(),
        Sizes("deit"),
        Sizes("my-model"),
        Sizes(architecture="vit_small"),
        Sizes(architecture="mymodel_small"),
        Sizes(architecture="keras_hub>MyBackbone"),
        Sizes("vit", architecture="vit_small"),
    ):
        assert found(fitting) == []
    kind = "f/config.json calls the model 'swin', and mine is "
    assert found(Sizes("swin")) == [f"{kind}of vit, deit"]
    assert found(Sizes("swin"), dialect_of()) == [f"{kind}none of transformers'"]
    keras = min(evidence._keras_classes())
    for name in ("beit_base", keras):
        assert found(Sizes(architecture=name)) == [
            f"f/config.json calls the architecture {name!r}, which is none of mine"
        ]
    assert len(found(Sizes("swin", architecture="beit_base"))) == 2


def test_layers_of_keras_in_front_are_a_contradiction():
    dialect = dialect_of(framework="keras")
    config = Sizes(layers=("Rescaling", "Resizing", "Normalization", "Conv2D"))

    def found(of=dialect, given=config, alone=False):
        return list(evidence._against_layers("f/config.json", of, given, alone))

    assert found() == [
        "f/config.json has Resizing and Conv2D in front of the patch embedding, which no dialect "
        "reads (--from mine reads what stands behind)"
    ]
    assert found(dialect_of()) == found(alone=True) == []
    assert found(given=Sizes(layers=("Rescaling", "Normalization"))) == []


def test_metadata_of_another_layout_are_a_contradiction():
    def found(written_for, *layout, **given):
        return list(evidence._against_metadata(written_for, dialect_of(*layout, **given)))

    for kind in ("pt", "tf", "flax"):
        assert found(kind, mlx=True) == [
            f"the file's metadata say that its tensors are laid out as {kind!r} has them, not as "
            "MLX"
        ]
        assert found(kind) == []
    assert found("mlx") == [
        "the file's metadata say that its tensors are laid out as MLX has them, not as torch"
    ]
    assert found("mlx", "D (C Ph Pw)") == found("mlx", framework="jax") == []
    assert found("mlx", mlx=True, framework="numpy") == found("", mlx=True) == found("") == []


def against_sizes(given, dialect=None, sizes=None):
    checkpoint, names = Held({"k": (D, C, 6, 4)}), {"kernel": "k"}
    sizes = sizes or {**FLAT, "C": C}
    return list(evidence._against_sizes(checkpoint, dialect or dialect_of(), names, sizes, given))


def test_another_patch_and_other_channels_are_a_contradiction():
    def sentence(word, theirs, ours, layout="D C Ph Pw"):
        return (
            f"folder/config.json tells {word} {theirs}, and k (24, 3, 6, 4), read as {layout}, has "
            f"{ours}"
        )

    other, fitting = Sizes(patch_size=(4, 6), channels=5), Sizes(patch_size=(6, 4), channels=C)
    both = [sentence("patch", "4×6", "6×4"), sentence("channels", "5", "3")]
    assert against_sizes(Sizes()) == against_sizes(fitting) == []
    assert against_sizes(other) == both
    assert against_sizes(other, dialect_of(checked=("patch_size",))) == both[:1]
    assert against_sizes(other, dialect_of(checked=("channels",))) == both[1:]
    assert against_sizes(other, dialect_of(plain=True)) == both[1:]
    # as many axes as both have
    assert against_sizes(Sizes(patch_size=(2, 6, 4))) == []
    assert against_sizes(Sizes(patch_size=(2, 4, 4))) == [sentence("patch", "2×4×4", "6×4")]
    tube, layout = {**TUBE, "C": C}, "D C Pt Ph Pw"
    video = dialect_of(layout)
    assert against_sizes(Sizes(patch_size=(6, 4)), video, tube) == []
    assert against_sizes(Sizes(patch_size=(3, 6, 4)), video, tube) == [
        sentence("patch", "3×6×4", "2×6×4", layout)
    ]
    # in a list of stages, which is held against any dialect
    stages = Sizes(patch_size=(6, 4), table={"patch_sizes": [7, 3]})
    unchecked = dialect_of(checked=())
    assert against_sizes(stages, unchecked) == [sentence("patch", "7×7", "6×4")]
    assert against_sizes(stages, dialect_of(checked=(), plain=True)) == []
    assert (
        against_sizes(
            Sizes(channels=5, table={"patch_sizes": [6]}), unchecked, {"Ph": 6, "Pw": 6, "C": C}
        )
        == []
    )


def test_other_registers_are_a_contradiction():
    def found(given, count=2, more=("register_tokens",), **said):
        sizes = {} if count is None else {"R": count}
        dialect = dialect_of(more=more, **said)
        return list(evidence._against_registers("f/config.json", dialect, sizes, given))

    assert found(Sizes()) == found(Sizes(registers=2)) == found(Sizes(registers=0), None) == []
    assert found(Sizes(registers=5), more=()) == []
    assert found(Sizes(registers=5)) == [
        "f/config.json tells 5 register tokens, and the file holds 2"
    ]
    assert found(Sizes(registers=5), None) == [
        "f/config.json tells 5 register tokens, and the file holds 0"
    ]
    keys = {"config": {"registers": ("num_cls_tokens+num_registers",)}}
    table = {"num_cls_tokens": 3, "num_registers": 4}
    assert found(Sizes(registers=9, table=table), 7, **keys) == []
    assert found(Sizes(registers=2, table=table), **keys) == [
        "f/config.json tells 7 cls tokens and registers, and the file holds 2"
    ]


def test_a_class_token_that_should_not_be_is_a_contradiction():
    def found(given, names=("class_token",), **said):
        held = {name: f"a.{name}" for name in names}
        return list(evidence._against_class_token("f/config.json", dialect_of(**said), held, given))

    sentence = "f/config.json tells that there is no class token, and the file holds a.class_token"
    without = Sizes(class_token=False)
    keras = Sizes(class_token=False, architecture="keras_hub>ViT")
    assert found(without) == found(keras, plain=True) == [sentence]
    assert found(without, ()) == found(Sizes(class_token=True)) == found(Sizes()) == []
    assert found(keras) == []  # its arguments are held against the tensors elsewhere


def test_all_evidence_is_gathered_with_both_sides():
    shapes, names = {"k": (D, C, 6, 4), "c": (1, D)}, {"kernel": "k", "class_token": "c"}
    dialect = dialect_of(
        more=("register_tokens", "class_token"),
        framework="torch",
        model_types=("vit",),
        require=("depth == 4", "heads == 2"),
    )
    config = Sizes(
        "swin",
        channels=5,
        registers=1,
        class_token=False,
        table={"depth": 3, "heads": 2, "pos_embed": "none", "norm_eps": 1.0},
        architecture="",
    )
    sizes = {**FLAT, "C": C, "D": D}

    def found(
        kind="safetensors", alone=False, of=dialect, given=config, held=shapes, written="mlx"
    ):
        checkpoint = Held(held, kind, {"format": written} if written else {})
        return evidence.conflicts_of(checkpoint, of, names, sizes, given, alone)

    name = ["folder/config.json calls the model 'swin', and mine is of vit"]
    others = [
        "the file's metadata say that its tensors are laid out as MLX has them, not as torch",
        "folder/config.json tells channels 5, and k (24, 3, 6, 4), read as D C Ph Pw, has 3",
        "folder/config.json tells 1 register tokens, and the file holds 0",
        "folder/config.json says that depth is 3, and mine needs depth == 4",
        "folder/config.json tells that there is no class token, and the file holds c",
    ]
    assert found() == name + others
    assert found(alone=True) == others
    assert found("npz") == []
    assert found(written="") == name + others[1:]
    wide = Sizes("vit", table={"hidden_size": 48})
    assert found(given=wide, written="") == [
        "folder/config.json tells hidden_size 48, and k (24, 3, 6, 4) is 24 wide"
    ]
    plain = dialect_of(plain=True)
    assert found(of=plain, given=Sizes("swin"), written="") == []


def test_a_kernel_of_torch_is_none_of_mlx_unless_that_is_said():
    names, sizes = {"kernel": "k"}, {"Ph": 6, "Pw": 6, "C": C, "D": D}

    def found(shape, alone=False, **given):
        dialect = dialect_of("D Ph Pw C", **given)
        return evidence.conflicts_of(Held({"k": shape}), dialect, names, sizes, Sizes(), alone)

    assert found((D, 3, 6, 6), mlx=True) == [
        "k (24, 3, 6, 6) is laid out as torch has it, its channels in front, and mine as MLX has "
        "it (--from mine says that it is)"
    ]
    assert found((D, 3, 6, 6), True, mlx=True) == found((D, 3, 6, 6)) == []
    assert found((D, 6, 6, 3), mlx=True) == []


def test_a_layer_of_keras_is_held_against_how_it_is_called():
    names, sizes = {"kernel": "k", "class_token": "c"}, {**FLAT, "C": C, "D": D}
    checkpoint = Held({"k": (6, 4, C, D)}, "keras")
    dialect = dialect_of("Ph Pw C D", framework="keras", plain=True)
    call = {"kernel_size": [6, 4], "filters": D, "activation": "relu"}

    def found(alone=False, name="", **table):
        config = Sizes(
            layers=("Rescaling", "Resizing"),
            class_token=False if name else None,
            architecture=name,
            table=table,
        )
        return evidence.conflicts_of(checkpoint, dialect, names, sizes, config, alone)

    front = (
        "folder/config.json has Resizing in front of the patch embedding, which no dialect reads "
        "(--from mine reads what stands behind)"
    )
    assert found(keras_convolution=call) == [
        "folder/config.json gives the layer activation 'relu', and mine is read with 'linear'",
        front,
    ]
    assert found() == found(keras_convolution=None) == [front]
    assert found(alone=True) == []
    assert found(True, "keras_hub>ViT") == [
        "folder/config.json tells that there is no class token, and the file holds c"
    ]
