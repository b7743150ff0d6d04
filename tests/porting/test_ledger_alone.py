"""The ledger of a stage, of dialects made up for it."""

import pytest

from patchparity.porting.dialects import ledger
from patchparity.porting.dialects.ledger import LedgerEntry

from .made_up import C, D, Held, dialect_of


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
    assert ledger._modules_of("a.bc/d.weight") == ("a.bc/d", "a.bc", "a")
    assert ledger._modules_of("weight") == ()


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
