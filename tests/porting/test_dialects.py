"""Dialects as data: every ordered pair that can hold each other, there and back; ambiguity; what a
target cannot hold."""

import dataclasses
import importlib.util
import json
import re

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchparity import (
    PatchEmbedSpec,
    PatchEmbedWeights,
    PatchParityError,
    Sizes,
    inspect_checkpoint,
    port,
    verify,
)
from patchparity.porting.dialects.catalogue import get_dialect, list_dialects
from patchparity.porting.dialects.dialect import FIELDS, REQUIRED
from patchparity.porting.dialects.fit import fit, same_bits, tensors_of
from patchparity.porting.dialects.positions import computed_positions
from patchparity.porting.dialects.recognize import find_candidates
from patchparity.porting.dialects.stage import read_stage
from patchparity.porting.files.opening import opened
from patchparity.porting.files.writing import write_checkpoint
from patchparity.reference.sequence import embed_sequence
from patchparity.reference.weights import LayerNorm, SequenceLayout

DTYPE_BF16 = np.dtype(ml_dtypes.bfloat16)
DIALECTS = {
    name: each
    for name, each in list_dialects().items()
    if not (each.framework == "keras" and each.plain)
}
NAMED = {name: each for name, each in DIALECTS.items() if not each.plain}
PACKED = importlib.util.find_spec("msgpack") is not None
WRITTEN = {
    name: each
    for name, each in DIALECTS.items()
    if not each.read_only and (PACKED or each.formats != ("msgpack",))
}
HUBS = (
    "timm-vit",
    "hf-vit",
    "google-vit",
    "hf-siglip",
    "timm-swin",
    "oihw",
    "oidhw",
    "hf-clip-mlx",
    "timm-deit",
    "dinov2",
    "hf-qwen2-vl",
    "linear-ppc",
)
"""Dialects that every other one is tried against, there and back: all pairs are some forty
thousand."""


def steps_of(dialect, patch):
    """Stride and padding that a stage of this dialect has where nothing tells others."""
    half = tuple(size // 2 for size in patch)
    tiles = {"stride": patch, "padding": (0,) * len(patch)}
    for role, told in (("stride", dialect.stride), ("padding", dialect.padding)):
        if told is not None and told != "config":
            tiles[role] = half if told == "half" else (told,) * len(patch)
    return tiles["stride"], tiles["padding"]


ARCHITECTURES = {"timm-convnext-rms": "convnext_atto_rms", "timm-hiera": "hiera_tiny_224"}
"""What timm calls models of dialects that only this tells."""


def config_of(dialect, spec, window=0, registers=2):
    """What a config.json beside a stage of this dialect tells."""
    if dialect.typed_only and dialect.architectures:
        size = [spec.in_channels, *spec.image_size]
        return {
            "architecture": ARCHITECTURES[dialect.id.removesuffix("-mlx")],
            "pretrained_cfg": {"input_size": size},
        }
    about = {
        "model_type": dialect.model_types[0] if dialect.model_types else "",
        "image_size": list(spec.image_size[-2:]),
        "patch_size": list(spec.patch_size[-2:]),
        "num_channels": spec.in_channels,
        "num_frames": spec.image_size[0],
    }
    if spec.spatial_axes == 3:
        about["tubelet_size"] = list(spec.patch_size)
    sizes = {
        "stride": spec.stride,
        "padding": [pad for pad, _ in spec.padding],
        "patch_size": spec.patch_size,
        "image_size": spec.image_size,
        "registers": [registers],
    }
    for role, keys in dialect.config.items():
        for key, value in zip(
            keys, list(sizes[role]) if len(keys) > 1 else [list(sizes[role])], strict=True
        ):
            name, _, place = key.partition(".")
            about[name] = [*([None] * int(place)), value] if place else value
    for each in dialect.require:
        left, operator, right = REQUIRED.fullmatch(each).groups()
        if operator == "==":
            value = (
                json.loads(right) if re.match(r"\d|\[", right) else {"true": True}.get(right, right)
            )
            about[re.sub(r"len\((\w+)\)", r"\1", left)] = (
                [1] * value if left.startswith("len(") else value
            )
    if window:
        about["window_size"] = window * spec.patch_size[-1]
    return about


def random_stage(dialect, seed=0, grid=None, registers=2, positioned=None):
    """Weights with everything that a dialect can hold, random, non-square but for what must be
    square, C ≠ P."""
    generator = np.random.default_rng(seed)
    merged = "(" in dialect.entries["kernel"].layout
    height, width = (4, 4) if merged else (5, 4)
    channels = dialect.channels or 3
    patch = (2, height, width) if dialect.video else (height, width)
    square = "positions" in dialect.entries and "Gh" not in dialect.entries["positions"].layout
    grid = grid or ((4, 4) if square else (2, 4))
    grid = (1, *grid) if dialect.video else grid
    if "position_rows" in dialect.entries:
        grid = (*grid[:-2], 4, 4)
    steps, pads = steps_of(dialect, patch)
    image = tuple(
        (count - 1) * by + size - 2 * pad
        for count, by, size, pad in zip(grid, steps, patch, pads, strict=True)
    )
    spec = PatchEmbedSpec(image, patch, channels, 24, steps, pads, dialect.remainder)

    def drawn(*shape):
        return generator.standard_normal(shape).astype(np.float32)

    arrays = {"kernel": drawn(*spec.kernel_shape)}
    shapes = {
        "bias": (24,),
        "class_token": (24,),
        "distillation_token": (24,),
        "register_tokens": (registers, 24),
        "mask_token": (24,),
    }
    arrays.update(
        {name: drawn(*shape) for name, shape in shapes.items() if name in dialect.entries}
    )
    norms = {
        norm: LayerNorm(
            1 + 0.1 * drawn(width),
            drawn(width) if f"{norm}.shift" in dialect.entries else None,
            norm not in dialect.rms,
        )
        for norm, width in (
            ("patch_norm", spec.patch_values),
            ("token_norm", 24),
            ("sequence_norm", 24),
        )
        if f"{norm}.scale" in dialect.entries
    }
    positioned = dialect.positioned[0] if positioned is None else positioned
    rows = sum(len(np.atleast_2d(arrays[name])) for name in positioned if name in arrays)
    if "positions" in dialect.entries:
        arrays["positions"] = drawn(rows + spec.num_patches, 24)
    elif dialect.computed:
        arrays["positions"] = computed_positions(dialect.computed, spec).astype(np.float32)
    window = 2 if dialect.windowed else dialect.window
    order = dialect.token_order, dialect.norm_epsilon, window, dialect.suffix
    layout = SequenceLayout(dialect.prefix, dialect.prefix_side, positioned, *order)
    return PatchEmbedWeights(**arrays, **norms, layout=layout), spec


def suffix_of(dialect):
    """Of a format that needs no other library, where a dialect is kept in one."""
    suffixes = {"safetensors": ".safetensors", "npz": ".npz", "msgpack": ".msgpack", "torch": ".pt"}
    suffixes["gguf"] = ".gguf"
    return next(suffix for kind, suffix in suffixes.items() if kind in dialect.formats)


def written(dialect, folder, name="source", seed=0, prefix="", config=True, **options):
    """A file of a dialect with random weights, and a config.json that tells what shapes cannot."""
    weights, spec = random_stage(dialect, seed, **options)
    held, plan = fit(weights, spec, dialect)
    assert not plan.losses
    path = folder / f"{name}{suffix_of(dialect)}"
    extra = {f"{prefix}{each}": np.zeros(3, np.float32) for each in dialect.beside}
    write_checkpoint(
        path,
        {
            **tensors_of(held, spec, dialect, prefix),
            **extra,
            "head.weight": np.zeros((7, 24), np.float32),
        },
    )
    if config:
        (folder / "config.json").write_text(
            json.dumps(config_of(dialect, spec, weights.layout.window))
        )
    return path, weights, spec


@pytest.mark.parametrize("name", [name for name in NAMED if name in WRITTEN])
def test_a_dialect_is_found_and_gives_back_every_bit(name, tmp_path):
    dialect = DIALECTS[name]
    if "h5" in dialect.formats:
        pytest.skip("Keras writes these: see the tests with KerasHub")
    positioned = max(dialect.positioned, key=len) if dialect.positioned_together else None
    path, weights, spec = written(dialect, tmp_path, positioned=positioned)
    with opened(path) as checkpoint:
        try:
            stage = read_stage(checkpoint)
        except PatchParityError as error:
            # A stage by itself, whose names are another dialect's too: it is asked, not assumed.
            told = str(error)
            stage = read_stage(checkpoint, name)
        else:
            told = ""
        asked = "is ambiguous, and shapes cannot tell" in told and f"{name} (" in told
        assert not told or asked or f"--from {name} says" in told
        assert (
            stage.candidate.reading
            == next(each for each in find_candidates(checkpoint) if each.dialect.id == name).reading
        )
    assert same_bits(
        stage.weights,
        weights
        if "mask_token" in dialect.entries
        else dataclasses.replace(weights, mask_token=None),
    ) in ([], ["mask_token"])
    sized = "image_size" in dialect.checked or "positions" in dialect.entries
    assert stage.spec == (spec if sized else spec.replace(image_size=stage.spec.image_size))
    told = inspect_checkpoint(path, from_=stage.dialect.id)
    assert not told["refused"]
    assert told["ledger"]["counts"]["used"] == len(told["tensors"])
    assert told["other_tensors"] == 1 + len(dialect.beside)
    assert told["spec"]["embed_dim"] == 24


@pytest.mark.parametrize(
    "prefix", ["vit.", "model.", "module.backbone.", "vision_model.", "visual.trunk."]
)
def test_any_prefix_is_found(prefix, tmp_path):
    path, weights, _ = written(DIALECTS["hf-vit"], tmp_path, prefix=prefix)
    with opened(path) as checkpoint:
        stage = read_stage(checkpoint)
    assert (stage.candidate.dialect.id, stage.candidate.prefix) == ("hf-vit", prefix)
    assert not same_bits(stage.weights, weights)


def test_two_stages_in_one_file_are_told_apart_by_their_prefix(tmp_path):
    first, spec = random_stage(DIALECTS["timm-vit"], 1)
    second, _ = random_stage(DIALECTS["timm-vit"], 2)
    tensors = {
        **tensors_of(first, spec, DIALECTS["timm-vit"], "student."),
        **tensors_of(second, spec, DIALECTS["timm-vit"], "teacher."),
    }
    path = tmp_path / "both.safetensors"
    write_checkpoint(path, tensors)
    with opened(path) as checkpoint:
        with pytest.raises(
            PatchParityError,
            match=r"is ambiguous, and shapes cannot tell: .*'student\.'.*'teacher\.'.*--prefix",
        ):
            read_stage(checkpoint)
        assert not same_bits(read_stage(checkpoint, prefix="teacher.").weights, second)
    assert inspect_checkpoint(path)["ambiguous"]
    assert inspect_checkpoint(path, prefix="student.")["dialect"] == "timm-vit"


def pairs():
    for source in WRITTEN.values():
        for target in WRITTEN.values():
            if (
                (source.id in HUBS or target.id in HUBS)
                and source.id != target.id
                and "h5" not in (*source.formats, *target.formats)
            ):
                yield source.id, target.id


def can_hold(source, target):
    try:
        weights, spec = random_stage(source)
        back = random_stage(target)[1]
        if (weights.kernel.ndim, source.stride, source.padding) != (
            back.spatial_axes + 2,
            target.stride,
            target.padding,
        ):
            return False
        if source.windowed != target.windowed or (
            source.config or (target.config and "stride" in target.config)
        ):
            return False
        return not fit(weights, spec, target)[1].losses
    except PatchParityError:
        return False


HOLDING = [
    (source, target) for source, target in pairs() if can_hold(DIALECTS[source], DIALECTS[target])
]


def test_many_pairs_can_hold_each_other():
    assert len(HOLDING) > 100
    for pair in [
        ("google-vit", "timm-vit"),
        ("big-vision-vit", "hf-vit"),
        ("hf-vit", "google-vit"),
        ("timm-vit", "dinov2"),
        ("hf-siglip2", "hf-siglip"),
    ]:
        assert pair in HOLDING


@pytest.mark.parametrize("pair", HOLDING, ids=["-to-".join(pair) for pair in HOLDING])
def test_every_pair_there_and_back_again(pair, tmp_path_factory):
    assert_there_and_back(pair, 0, tmp_path_factory)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(pair=st.sampled_from(HOLDING), seed=st.integers(0, 2**20))
def test_there_and_back_again(pair, seed, tmp_path_factory):
    assert_there_and_back(pair, seed, tmp_path_factory)


FOLDED = 1e-6
"""What a fold rounds: a sum of two float32 values below 16, 2⁻²⁴ of it."""


def assert_there_and_back(pair, seed, tmp_path_factory):
    """Bitwise where only axes move; on the sequence where a step is lossy."""
    source, target = (DIALECTS[name] for name in pair)
    weights, spec = random_stage(source, seed, grid=(4, 4) if target.square else None)
    held, plan = fit(weights, spec, target)
    folder = tmp_path_factory.mktemp("pair")
    path = folder / f"t{suffix_of(target)}"
    write_checkpoint(path, tensors_of(held, spec, target))
    (folder / "config.json").write_text(json.dumps(config_of(target, spec, weights.layout.window)))
    with opened(path) as checkpoint:
        middle = read_stage(checkpoint, target.id)
    lossy = "fold-position-rows" in plan.steps
    images = np.random.default_rng(seed).standard_normal(spec.images_shape(2))
    before, after = (
        embed_sequence(images, each.astype(np.float64), spec) for each in (weights, middle.weights)
    )
    assert np.abs(before - after).max() <= (FOLDED if lossy else 0) * max(1.0, np.abs(before).max())
    try:
        back, _ = fit(middle.weights, spec, source)
    except PatchParityError:
        return  # what the source must have and the target does not keep
    if not lossy:
        different = [
            name for name in same_bits(back, fit(weights, spec, source)[0]) if name != "mask_token"
        ]
        assert not different or set(plan.steps) & {"zero-bias", "zero-positions"}


@pytest.mark.parametrize(
    "pair",
    [
        ("google-vit", "timm-vit"),
        ("hf-vit", "google-vit"),
        ("hf-siglip2", "hf-siglip"),
        ("big-vision-vit", "hf-vit"),
    ],
)
def test_port_proves_itself_in_both_frameworks(pair, tmp_path):
    source, target = (DIALECTS[name] for name in pair)
    path, _, _ = written(source, tmp_path)
    done = port(path, tmp_path / f"target{suffix_of(target)}", target.id, from_=source.id)
    assert done.ok
    assert [
        check.name.split(" layout")[0] for check in done.checks if "library" not in check.name
    ] == [
        "source",
        "target",
        "steps",
        "file",
    ]
    assert verify(path, tmp_path / f"target{suffix_of(target)}", from_=(source.id, target.id)).same


def test_a_loss_is_refused_unless_it_is_allowed_and_then_it_is_listed(tmp_path):
    path, _, _ = written(DIALECTS["timm-deit"], tmp_path)
    target = tmp_path / "t.safetensors"
    with pytest.raises(
        PatchParityError,
        match=r"timm-vit cannot hold all of timm-deit: distillation_token: timm-vit has no "
        r"distillation token .--allow-loss",
    ):
        port(path, target, "timm-vit")
    assert not target.exists()
    done = port(path, target, "timm-vit", allow_loss=True)
    assert done.losses == ["distillation_token: timm-vit has no distillation token"]
    with pytest.raises(
        PatchParityError,
        match="hf-clip has sequence norm, the source has none, and none can be made up",
    ):
        port(written(DIALECTS["timm-vit"], tmp_path, "v")[0], tmp_path / "c.safetensors", "hf-clip")


def test_into_replaces_the_stage_and_leaves_all_else(tmp_path):
    source, _, _ = written(DIALECTS["google-vit"], tmp_path, seed=3, config=False)
    (tmp_path / "hf").mkdir()
    existing, _, _ = written(DIALECTS["hf-vit"], tmp_path, "hf/existing", seed=4, prefix="vit.")
    before = {}
    with opened(existing) as checkpoint:
        before = {name: checkpoint.read(name) for name in checkpoint.tensors}
    done = port(source, tmp_path / "new.safetensors", "hf-vit", into=existing)
    with opened(tmp_path / "new.safetensors") as checkpoint:
        after = {name: checkpoint.read(name) for name in checkpoint.tensors}
    assert set(after) == set(before)
    changed = {name for name in after if after[name].tobytes() != before[name].tobytes()}
    assert changed == set(done.tensors)
    assert all(name.startswith("vit.embeddings.") for name in changed)
    assert verify(source, tmp_path / "new.safetensors").same


def test_what_differs_is_said_in_the_words_of_diagnose(tmp_path):
    dialect = DIALECTS["timm-vit"]
    weights, spec = random_stage(dialect)
    square = dataclasses.replace(weights, kernel=weights.kernel[:, :4])
    spec = PatchEmbedSpec((16, 16), 4, 3, 24)
    square = dataclasses.replace(square, layout=weights.layout)
    write_checkpoint(tmp_path / "a.safetensors", tensors_of(square, spec, dialect))
    swapped = dataclasses.replace(
        square, kernel=np.ascontiguousarray(square.kernel.transpose(0, 2, 1, 3))
    )
    write_checkpoint(tmp_path / "b.safetensors", tensors_of(swapped, spec, dialect))
    found = verify(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert not found.same
    assert "rows and columns are exchanged" in found.explanation
    moved = dataclasses.replace(square, positions=square.positions[::-1].copy())
    write_checkpoint(tmp_path / "c.safetensors", tensors_of(moved, spec, dialect))
    told = verify(tmp_path / "a.safetensors", tmp_path / "c.safetensors").explanation
    assert told == "the kernels agree, and prefix tokens and positions do not (positions differ)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: {**t, "patch_embed.proj.bias": np.zeros(25, np.float32)},
            "is in no dialect that is known",
        ),
        (
            lambda t: {
                **t,
                "patch_embed.proj.weight": np.full_like(t["patch_embed.proj.weight"], np.nan),
            },
            "holds NaN or infinite values",
        ),
        (
            lambda t: {
                **t,
                "patch_embed.proj.weight": t["patch_embed.proj.weight"].astype(np.int64),
            },
            "is of dtype int64, no type of weights",
        ),
        (
            lambda t: {name: array for name, array in t.items() if "proj.weight" not in name},
            "is in no dialect that is known",
        ),
    ],
)
def test_wrong_weights_are_said(change, message, tmp_path):
    weights, spec = random_stage(DIALECTS["timm-vit"])
    write_checkpoint(
        tmp_path / "a.safetensors", change(tensors_of(weights, spec, DIALECTS["timm-vit"]))
    )
    with pytest.raises(PatchParityError, match=message):
        port(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "hf-vit")
    assert not (tmp_path / "b.safetensors").exists()


def test_a_plain_kernel_that_fits_two_layouts_is_asked_about(tmp_path):
    """A matrix (768, 768), or a kernel whose channels are as many as its rows, shows no layout."""
    kernel = np.random.default_rng(0).standard_normal((48, 48)).astype(np.float32)
    write_checkpoint(tmp_path / "a.safetensors", {"weight": kernel})
    told = inspect_checkpoint(tmp_path / "a.safetensors")
    assert told["ambiguous"]
    assert {"linear-cpp", "linear-ppc"} <= {each["dialect"] for each in told["candidates"]}
    with pytest.raises(
        PatchParityError, match=r"is ambiguous, and shapes cannot tell: linear-cpp .*linear-ppc"
    ):
        port(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "oihw")
    port(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "oihw", from_="linear-ppc")
    with opened(tmp_path / "b.safetensors") as checkpoint:
        assert (
            checkpoint.read("weight") == kernel.reshape(48, 4, 4, 3).transpose(0, 3, 1, 2)
        ).all()


def test_a_dialect_of_ones_own_needs_no_code(tmp_path):
    (tmp_path / "mine.toml").write_text(
        '[mine]\ntitle = "my own"\nframework = "numpy"\nformats = ["npz"]\n[mine.tensors]\nkernel '
        '= ["stem/w", "(C Ph Pw) D"]\nbias = ["stem/b", "D"]\n'
    )
    weights, spec = random_stage(DIALECTS["hf-siglip"])
    write_checkpoint(tmp_path / "a.safetensors", tensors_of(weights, spec, DIALECTS["hf-siglip"]))
    done = port(
        tmp_path / "a.safetensors",
        tmp_path / "b.npz",
        "mine",
        dialects=[tmp_path / "mine.toml"],
        allow_loss=True,
    )
    assert done.losses == ["positions: mine adds no positions"]
    for wrong, message in [
        ('[x]\ntitle = "t"\n', "expected a table 'tensors' with a kernel"),
        ('[x]\nname = "t"\n', "unknown name"),
        (
            '[x]\ntitle="t"\nframework="torch"\nformats=["npz"]\n[x.tensors]\nkernel=["k","D Q"]\n',
            "kernel has the axis 'Q'",
        ),
        (
            '[x]\ntitle="t"\nframework="torch"\nformats=["zip"]\n[x.tensors]\nkernel=["k","D C Ph '
            'Pw"]\n',
            "format 'zip' is unknown",
        ),
        ("[x", "cannot read dialects from"),
    ]:
        (tmp_path / "wrong.toml").write_text(wrong)
        with pytest.raises(PatchParityError, match=message):
            list_dialects([tmp_path / "wrong.toml"])


def test_every_dialect_is_sound():
    for dialect in list_dialects().values():
        dialect.is_elsewhere("")  # its patterns are some
        assert set(dialect.optional) <= set(dialect.entries), dialect.id
        assert {name for name in dialect.entries if not name.startswith("stem.")} <= set(FIELDS)
        assert {name for each in dialect.positioned for name in each} <= set(dialect.prefix)
        assert set(dialect.prefix) <= set(dialect.entries), (
            f"{dialect.id}: a prefix token without a tensor"
        )
        assert len({entry.name for entry in dialect.entries.values()}) == len(dialect.entries)
    with pytest.raises(
        PatchParityError, match=r"dialect 'resnet' is unknown.*port --list tells all"
    ):
        get_dialect("resnet")


def test_what_lies_beside_a_stage_is_not_left_out_unseen(tmp_path):
    """A kernel under a library's name, with tokens and positions that fit none of its readings, is
    refused and not read as a bare kernel."""
    weights, spec = random_stage(DIALECTS["timm-vit"], grid=(2, 3), positioned=("class_token",))
    path = tmp_path / "a.safetensors"
    write_checkpoint(
        path,
        tensors_of(dataclasses.replace(weights, register_tokens=None), spec, DIALECTS["timm-vit"]),
    )
    with pytest.raises(
        PatchParityError,
        match="holds the tensors of timm-vit, but its 7 positions are of no square grid",
    ):
        port(path, tmp_path / "b.safetensors", "hf-vit")
    (tmp_path / "config.json").write_text(json.dumps({"image_size": list(spec.image_size)}))
    assert port(path, tmp_path / "b.safetensors", "timm-vit").ok


def test_an_existing_checkpoint_s_fields_are_filled_or_the_port_is_refused(tmp_path):
    both = ("class_token", "register_tokens")
    weights, spec = random_stage(DIALECTS["timm-vit"], 1, positioned=both)
    bare = dataclasses.replace(weights, bias=None)
    write_checkpoint(tmp_path / "bare.safetensors", tensors_of(bare, spec, DIALECTS["timm-vit"]))
    old = random_stage(DIALECTS["timm-vit"], 2, positioned=both)[0]
    write_checkpoint(tmp_path / "old.safetensors", tensors_of(old, spec, DIALECTS["timm-vit"]))
    done = port(
        tmp_path / "bare.safetensors",
        tmp_path / "new.safetensors",
        "timm-vit",
        into=tmp_path / "old.safetensors",
        sizes=Sizes.of(spec),
    )
    assert done.ok
    assert any(step.startswith("zero-bias") for step in done.steps)
    with opened(tmp_path / "new.safetensors") as checkpoint:
        assert not checkpoint.read("patch_embed.proj.bias").any()
    fewer, _ = random_stage(DIALECTS["timm-vit"], 1)
    fewer = dataclasses.replace(fewer, register_tokens=None)
    write_checkpoint(tmp_path / "fewer.safetensors", tensors_of(fewer, spec, DIALECTS["timm-vit"]))
    with pytest.raises(
        PatchParityError, match="the existing checkpoint has register tokens, the source has none"
    ):
        port(
            tmp_path / "fewer.safetensors",
            tmp_path / "n.safetensors",
            "timm-vit",
            into=tmp_path / "old.safetensors",
            sizes=Sizes.of(spec),
        )
    assert not (tmp_path / "n.safetensors").exists()
    other, larger = random_stage(DIALECTS["timm-vit"], 3, grid=(5, 5))
    write_checkpoint(
        tmp_path / "larger.safetensors", tensors_of(other, larger, DIALECTS["timm-vit"])
    )
    with pytest.raises(PatchParityError, match="--image-size and --resample change it"):
        port(
            tmp_path / "larger.safetensors",
            tmp_path / "n.safetensors",
            "timm-vit",
            into=tmp_path / "old.safetensors",
            sizes=Sizes.of(larger),
        )


def test_values_that_would_vanish_in_a_narrow_type_are_told(tmp_path):
    weights, spec = random_stage(DIALECTS["hf-siglip"])
    tiny = dataclasses.replace(weights, kernel=weights.kernel * np.float32(1e-9))
    write_checkpoint(tmp_path / "a.safetensors", tensors_of(tiny, spec, DIALECTS["hf-siglip"]))
    with pytest.raises(
        PatchParityError, match=r"\d+ values that are not zero become zero in float16"
    ):
        port(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "hf-siglip2", dtype="float16")


def test_what_a_cast_rounds_is_told(tmp_path):
    weights, spec = random_stage(DIALECTS["hf-siglip"])
    source = tmp_path / "a.safetensors"
    write_checkpoint(source, tensors_of(weights, spec, DIALECTS["hf-siglip"]))
    done = port(source, tmp_path / "b.safetensors", "hf-siglip", dtype="float16")
    assert "cast: kernel, bias, positions rounded to float16, as --dtype says" in done.steps
    wide = port(
        tmp_path / "b.safetensors", tmp_path / "c.safetensors", "hf-siglip", dtype="float32"
    )
    assert not any(step.startswith("cast") for step in wide.steps)


def test_verify_tells_small_differences_in_narrow_types(tmp_path):
    weights, spec = random_stage(DIALECTS["hf-siglip"])
    narrow = weights.astype(DTYPE_BF16)
    write_checkpoint(tmp_path / "a.safetensors", tensors_of(narrow, spec, DIALECTS["hf-siglip"]))
    other = dataclasses.replace(
        narrow, bias=(narrow.bias.astype(np.float32) * 1.05).astype(DTYPE_BF16)
    )
    write_checkpoint(tmp_path / "b.safetensors", tensors_of(other, spec, DIALECTS["hf-siglip"]))
    write_checkpoint(
        tmp_path / "wide.safetensors", tensors_of(weights, spec, DIALECTS["hf-siglip"])
    )
    assert not verify(tmp_path / "a.safetensors", tmp_path / "b.safetensors").same
    found = verify(tmp_path / "a.safetensors", tmp_path / "wide.safetensors")
    assert found.same
    assert found.explanation.endswith("within the rounding of their types")
