"""Strides, paddings, windows and patches, of dialects made up for it."""

import pytest

from patchparity import Sizes
from patchparity.porting.dialects import strides
from patchparity.porting.dialects.dialect import Entry

from .made_up import FLAT, TUBE, D, dialect_of

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
        (64, None, []),
        (81, None, [(9, 1)]),
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
