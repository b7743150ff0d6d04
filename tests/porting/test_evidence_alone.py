"""Evidence for and against a reading, of dialects made up for it."""

import dataclasses
import json

import pytest

from patchparity import Sizes
from patchparity.porting.dialects import evidence

from .made_up import FLAT, TUBE, C, D, Held, dialect_of


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
    counted = dialect_of(architectures_if={"swin": ("len(sizes) == 2",)})
    for sizes, wanted in (([7, 8], True), ([7], False)):
        config = Sizes(architecture="swin", table={"sizes": sizes})
        assert evidence.is_architecture(counted, config) is wanted


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
        "f/config.json tells 5 register tokens, and the file holds 0 (no register_tokens)"
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
        "folder/config.json tells 1 register tokens, and the file holds 0 (no register_tokens)",
        "folder/config.json says that depth is 3, and mine needs depth == 4",
        "folder/config.json tells that there is no class token, and the file holds c",
    ]
    assert found() == name + others
    assert found(alone=True) == others
    assert found("npz") == name + others  # numpy.savez of a state dict
    of_jax = dataclasses.replace(dialect, framework="jax")
    assert found("npz", of=of_jax) == []
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


def test_tensors_tell_a_reason_too_where_the_configuration_tells_none():
    shifted = ["vit.to_patch_tokens.1.weight", "vit.to_patch_tokens.2.weight"]
    told = evidence.known_reason(Sizes(), shifted)
    assert told.startswith(
        "it holds vit.to_patch_tokens.2.weight, and its patches are of the image"
    )
    assert evidence.known_reason(Sizes("mobilevit"), shifted).startswith("config.json calls")
    assert evidence.known_reason(Sizes(), shifted[:1]) == evidence.known_reason(Sizes()) == ""


def test_what_speaks_against_a_dialect_whatever_its_tensors_are():
    torch_s, mlx_s = (D, C, 8, 8), (D, 8, 8, C)

    def found(dialect, shape=(), written_for="", **table):
        held = Held({})
        held.metadata = {"format": written_for} if written_for else {}
        return evidence.speaks_against(held, dialect, shape, Sizes(table=table))

    mlx = dialect_of("D Ph Pw C", framework="numpy", mlx=True)
    other = dialect_of(require=("a == 1", "b == 2"))
    assert found(mlx, torch_s) is True
    assert found(mlx, mlx_s) is found(mlx) is found(dialect_of(), torch_s) is False
    assert found(mlx, written_for="pt") is True
    assert found(mlx, written_for="mlx") is False
    assert found(other) is found(other, a=1) is found(other, a=1, b=2) is False
    assert found(other, a=2) is found(other, a=1, b=3) is True


def test_a_part_that_all_models_of_a_type_have_and_one_that_none_has():
    dialect = dialect_of(
        more=("bias", "positions", "class_token", "register_tokens"),
        model_types=("one", "two"),
        always={"*": ("bias",), "two": ("positions", "class_token")},
        lacks={"one": ("register_tokens", "class_token")},
    )
    fields = ("bias", "positions", "class_token", "register_tokens")

    def found(called, *names):
        held = {name: f"a.{name}" for name in names}
        return list(evidence._against_parts("f.json", dialect, held, Sizes(called)))

    assert found("other") == found("") == found("one", "bias") == found("two", *fields) == []
    assert found("one") == [
        "f.json calls the model 'one', which has a bias, and "
        f"{dialect.entries['bias'].name} is not there"
    ]
    assert found("two", "bias") == [
        f"f.json calls the model 'two', which has positions, and "
        f"{dialect.entries['positions'].name} is not there",
        f"f.json calls the model 'two', which has a class token, and "
        f"{dialect.entries['class_token'].name} is not there",
    ]
    assert found("one", *fields) == [
        "f.json calls the model 'one', which has no register tokens, and the file holds "
        "a.register_tokens",
        "f.json calls the model 'one', which has no class token, and the file holds a.class_token",
    ]


def test_a_part_that_is_missing_is_no_evidence_where_the_dialect_was_named():
    dialect = dialect_of(more=("bias",), model_types=("vit",), always={"*": ("bias",)})
    sizes, held = {**FLAT, "C": C, "D": D}, Held({"k": (D, C, 6, 4)})

    def found(alone):
        names = {"kernel": "k"}
        return evidence.conflicts_of(held, dialect, names, sizes, Sizes("vit"), alone)

    assert found(True) == []
    assert found(False) == [
        "folder/config.json calls the model 'vit', which has a bias, and bias is not there"
    ]
