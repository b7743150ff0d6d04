"""Bad input to a port of a whole model: one sentence with names, and what was there stays."""

import json
import re
import resource
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from patchparity import PatchParityError
from patchparity.porting.whole.port import port_whole

WIDTH, HEADS, DEPTH, MLP, GRID, PATCH, CLASSES = 24, 3, 3, 40, 4, 8, 5
CONFIG = {
    "model_type": "vit",
    "architectures": ["ViTModel"],
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "intermediate_size": MLP,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": GRID * PATCH,
    "patch_size": PATCH,
    "num_channels": 3,
    "qkv_bias": True,
}
BLOCK = "encoder.layer.1."


def vit(seed=0):
    """A transformers ViT without its library, seeded."""
    numbers = np.random.default_rng(seed)
    shapes = {
        "embeddings.cls_token": (1, 1, WIDTH),
        "embeddings.position_embeddings": (1, GRID * GRID + 1, WIDTH),
        "embeddings.patch_embeddings.projection.weight": (WIDTH, 3, PATCH, PATCH),
        "embeddings.patch_embeddings.projection.bias": (WIDTH,),
        "layernorm.weight": (WIDTH,),
        "layernorm.bias": (WIDTH,),
    }
    for number in range(DEPTH):
        for name, rows, columns in (
            *((f"attention.attention.{each}", WIDTH, WIDTH) for each in ("query", "key", "value")),
            ("attention.output.dense", WIDTH, WIDTH),
            ("intermediate.dense", MLP, WIDTH),
            ("output.dense", WIDTH, MLP),
        ):
            shapes[f"encoder.layer.{number}.{name}.weight"] = (rows, columns)
            shapes[f"encoder.layer.{number}.{name}.bias"] = (rows,)
        for name in ("layernorm_before", "layernorm_after"):
            shapes[f"encoder.layer.{number}.{name}.weight"] = (WIDTH,)
            shapes[f"encoder.layer.{number}.{name}.bias"] = (WIDTH,)
    return {name: numbers.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


VIT = vit()


def saved(folder, tensors=None, config=None, text=None):
    """A folder as transformers writes it."""
    folder.mkdir()
    held = VIT if tensors is None else tensors
    save_file({name: np.ascontiguousarray(array) for name, array in held.items()}, _file(folder))
    written = json.dumps({**CONFIG, **(config or {})}) if text is None else text
    (folder / "config.json").write_text(written)
    return folder


def _file(folder):
    return folder / "model.safetensors"


def files_in(folder):
    """All that is in a folder, by name and bytes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(source, target, to="timm-vit", **options):
    """The sentence, where nothing changed."""
    there = files_in(source.parent)
    with pytest.raises(PatchParityError) as caught:
        port_whole(source, target, to, prove=False, **options)
    assert files_in(source.parent) == there
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def without(*starts):
    """The tensors without some."""
    return {name: array for name, array in VIT.items() if not name.startswith(starts)}


def test_an_adapter_beside_the_weights_is_named(tmp_path):
    source = saved(tmp_path / "vit")
    (source / "adapter_config.json").write_text("{}")
    assert "adapter_config.json, of an adapter (LoRA)" in refused(source, tmp_path / "new")


@pytest.mark.parametrize(
    ("config", "to", "said"),
    [
        ({}, "hf-dinov2", "takes an MLP that is a whole number of times as wide as it, and the "),
        ({"image_size": [32, 16]}, "nnx-vit", "takes a square image size alone, and the source"),
    ],
)
def test_a_size_that_a_class_cannot_take_is_told_as_it_is(tmp_path, config, to, said):
    tensors = dict(VIT)
    if "image_size" in config:
        tensors["embeddings.position_embeddings"] = VIT["embeddings.position_embeddings"][:, :9]
    source = saved(tmp_path / "vit", tensors, {**config, "hidden_act": "gelu_pytorch_tanh"})
    assert said in refused(source, tmp_path / "new", to)


def test_an_epsilon_that_is_the_same_in_float32_is_the_same(tmp_path):
    source = saved(tmp_path / "vit", config={"layer_norm_eps": float(np.float32(1e-6))})
    assert port_whole(source, tmp_path / "new", "timm-vit", prove=False).losses == []


def numbered(numbers):
    """The tensors with other numbers of blocks."""
    return {
        re.sub(r"layer\.(\d+)", lambda found: f"layer.{numbers[int(found[1])]}", name): array
        for name, array in VIT.items()
    }


def changed(**arrays):
    """The tensors with some others, `__` for a dot."""
    return {**VIT, **{name.replace("__", "."): array for name, array in arrays.items()}}


def ones(*shape, dtype=np.float32):
    """An array of ones."""
    return np.ones(shape, dtype)


def put(name, value):
    """The tensors with one number changed."""
    array = VIT[name].copy()
    array.flat[3] = value
    return {**VIT, name: array}


DOWN, UP = f"{BLOCK}output.dense.weight", f"{BLOCK}intermediate.dense.weight"
QUERY = f"{BLOCK}attention.attention.query.weight"

TENSORS = {
    "block missing": (without(BLOCK), "block 1 of 3 is missing"),
    "last block missing": (without("encoder.layer.2."), "says blocks: 3, and the tensors have 2"),
    "one too many": (
        VIT | {n.replace("r.2.", "r.3."): a for n, a in VIT.items() if ".2." in n},
        "says blocks: 3, and the tensors have 4",
    ),
    "numbers from 1": (numbered([1, 2, 3]), "block 0 of 4 is missing"),
    "a gap": (numbered([0, 1, 5]), "block 2 of 6 is missing, and 2 more"),
    "a number without end": (numbered([0, 1, 10**20]), "is no part of it, and 15 more"),
    "a large number": (numbered([0, 1, 10**8]), "block 2 of 100000001 is missing, and 99999997"),
    "a number twice": (
        VIT | {n.replace("r.1.", "r.01."): a for n, a in VIT.items() if ".1." in n},
        "encoder.layer.01.attention.attention.key.bias",
    ),
    "other digits": (numbered([0, "١", 2]), "block 1 of 3 is missing"),
    "norm of two blocks": (
        without(f"{BLOCK}layernorm_before"),
        "encoder.layer.1.layernorm_before.weight is missing: 2 of 3 blocks have it",
    ),
    "bias of two blocks": (
        without(f"{BLOCK}attention.attention.query.bias"),
        "query.bias is missing: 2 of 3 blocks have it",
    ),
    "no bias anywhere": (
        {name: array for name, array in VIT.items() if ".query.bias" not in name},
        "says biases of queries, keys and values: yes, and the tensors have no",
    ),
    "norm of another width": (
        {**VIT, f"{BLOCK}layernorm_before.weight": ones(20)},
        "layernorm_before.weight of shape (20,) is no (D) where D = 24",
    ),
    "MLP of another width": (
        {
            **VIT,
            UP: ones(32, WIDTH),
            f"{BLOCK}intermediate.dense.bias": ones(32),
            DOWN: ones(WIDTH, 32),
        },
        "of shape (32,) is no (M) where M = 40",
    ),
    "a matrix the other way": (
        {**VIT, UP: VIT[UP].T},
        "of shape (24, 40) is no (M D) where D = 24, M = 40",
    ),
    "no rows": ({**VIT, f"{BLOCK}output.dense.bias": ones(0)}, "of shape (0,) is no (D)"),
    "NaN that is copied": (put(DOWN, np.nan), f"{DOWN} holds NaN or infinite values"),
    "NaN that is merged": (put(QUERY, np.nan), f"{QUERY} holds NaN or infinite values"),
    "infinite norm": (put("layernorm.weight", np.inf), "layernorm.weight holds NaN or infinite"),
    "int8": ({**VIT, DOWN: VIT[DOWN].astype(np.int8)}, "dtype int8, quantized: dequantize it"),
    "int32": ({**VIT, DOWN: VIT[DOWN].astype(np.int32)}, "dtype int32, no type of weights"),
    "bool": ({**VIT, DOWN: VIT[DOWN] > 0}, "dtype bool, no type of weights"),
    "scales of quantized weights": (
        {**VIT, f"{DOWN}_scale": ones(WIDTH, 1)},
        "of quantized weights: dequantize them first",
    ),
    "LoRA": (
        {
            **VIT,
            f"{BLOCK}attention.attention.query.lora_A.weight": ones(4, WIDTH),
            f"{BLOCK}attention.attention.query.lora_B.weight": ones(WIDTH, 4),
        },
        "query.lora_A.weight (4, 24) is no part of it, and 1 more (an adapter: merge it",
    ),
    "mixed in one tensor": (
        {**VIT, QUERY: VIT[QUERY].astype(np.float16)},
        "attn.qkv.weight is made of tensors of float16 and float32: --dtype makes them one",
    ),
    "something more": (
        {**VIT, "encoder.layer.1.memory": ones(4, WIDTH)},
        "encoder.layer.1.memory (4, 24) is no part of it (--ignore leaves out",
    ),
    "two towers": (
        {f"{tower}.{name}": a for tower in ("image", "text") for name, a in VIT.items()},
        "--prefix would",
    ),
    "averaged weights beside": (
        VIT | {f"ema.{name}": array for name, array in VIT.items()},
        "holds the model twice, under 'ema.' and under '': --prefix says which is meant",
    ),
    "optimizer states beside": (
        VIT | {f"optimizer.state.{k}.exp_avg": a for k, a in enumerate(VIT.values())},
        "nothing of hf-vit explains optimizer.state.0.exp_avg",
    ),
    "a head without its bias": (
        {f"vit.{name}": array for name, array in VIT.items()}
        | {"classifier.weight": ones(CLASSES, WIDTH)},
        "classifier.bias is missing",
    ),
    "a head of another width": (
        {f"vit.{name}": array for name, array in VIT.items()}
        | {"classifier.weight": ones(CLASSES, 20), "classifier.bias": ones(CLASSES)},
        "classifier.weight of shape (5, 20) is no (C D) where D = 24, C = 5",
    ),
    "a bias of another head": (
        {f"vit.{name}": array for name, array in VIT.items()}
        | {"classifier.weight": ones(CLASSES, WIDTH), "classifier.bias": ones(6)},
        "classifier.weight of shape (5, 24) is no (C D) where D = 24, C = 6",
    ),
    "no blocks": (without("encoder."), "read as transformers ViT: it has no blocks"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(tmp_path, name):
    tensors, words = TENSORS[name]
    assert words in refused(saved(tmp_path / "source", tensors), tmp_path / "out")
    assert not (tmp_path / "out").exists()


CONFIGS = {
    "heads that do not divide": ({"num_attention_heads": 5}, "5 heads do not divide the width"),
    "heads in quotes": ({"num_attention_heads": "3"}, "'3' heads: expected a whole number"),
    "no heads": ({"num_attention_heads": 0}, "0 heads: expected a whole number"),
    "heads below none": ({"num_attention_heads": -3}, "-3 heads: expected a whole number"),
    "heads as truth": ({"num_attention_heads": True}, "True heads: expected a whole number"),
    "heads in a list": ({"num_attention_heads": [3]}, "[3] heads: expected a whole number"),
    "depth": ({"num_hidden_layers": 12}, "says blocks: 12, and the tensors have 3"),
    "depth in quotes": ({"num_hidden_layers": "3"}, "says blocks: '3', and the tensors have 3"),
    "width": ({"hidden_size": 48}, "hidden_size 48"),
    "width of the MLP": (
        {"intermediate_size": 96},
        "width of the MLP: 96, and the tensors have 40",
    ),
    "image size": ({"image_size": 48}, "17 positions are not of an image of 48×48"),
    "patch size": ({"patch_size": 16}, "tells patch 16×16"),
    "channels": ({"num_channels": 1}, "tells channels 1"),
    "biases": ({"qkv_bias": False}, "keys and values: no, and the tensors have yes"),
    "epsilon in words": ({"layer_norm_eps": "small"}, 'layer_norm_eps is "small"'),
    "no epsilon": ({"layer_norm_eps": float("nan")}, "layer_norm_eps is NaN"),
    "a large epsilon": ({"layer_norm_eps": 5}, "norm_epsilon=5: expected a number from 0 to 1"),
    "an unknown activation": ({"hidden_act": "mish"}, "hidden_act = 'mish': expected one of"),
    "an activation in a list": ({"hidden_act": ["gelu"]}, "hidden_act = ['gelu']: expected one"),
    "another model": ({"model_type": "bert"}, "calls the model 'bert'"),
    "another ViT": ({"model_type": "dinov2"}, "is no part of it"),
    "no type": ({"model_type": None}, "no tensor says, and nothing else tells, number of"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations(tmp_path, name):
    config, words = CONFIGS[name]
    assert words in refused(saved(tmp_path / "source", config=config), tmp_path / "out")


TEXTS = {
    "no JSON": ("{not json", "is no JSON"),
    "nothing": ("", "is no JSON"),
    "a list": ("[1, 2]", "holds a list, expected a JSON object"),
    "deep": (
        json.dumps(CONFIG)[:-1] + ', "a": ' + '{"a":' * 10**4 + "1" + "}" * 10**4 + "}",
        "is no",
    ),
    "huge": (json.dumps({**CONFIG, "x": "y" * 5 * 10**6}), "bytes, expected at most 4194304"),
    "a key twice": (json.dumps(CONFIG)[:-1] + ', "num_hidden_layers": 12}', "says blocks: 12"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_files_of_configurations(tmp_path, name):
    text, words = TEXTS[name]
    assert words in refused(saved(tmp_path / "source", text=text), tmp_path / "out")


def test_nothing_of_a_configuration_is_executed(tmp_path):
    mark = tmp_path / "mark"
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()")
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    source = saved(
        tmp_path / "source",
        config={"auto_map": {"AutoModel": "evil.Evil"}, "custom_pipelines": code},
    )
    (source / "evil.py").write_text((tmp_path / "evil.py").read_text())
    assert "names code of its own (auto_map)" in refused(source, tmp_path / "out")
    words = refused(saved(tmp_path / "other", config={"hidden_act": code}), tmp_path / "out2")
    assert words.startswith("the configuration says hidden_act = ")
    assert not mark.exists()


def test_what_cannot_be_told_is_ported_as_it_is(tmp_path):
    """Two blocks that only changed numbers, and a depth-pruned model that was numbered anew, are
    models like others."""
    swapped = saved(tmp_path / "swapped", numbered([0, 2, 1]))
    assert port_whole(swapped, tmp_path / "a", "timm-vit", prove=False).blocks == DEPTH
    tensors = {
        name.replace("layer.2.", "layer.1."): array
        for name, array in VIT.items()
        if "layer.1." not in name
    }
    pruned = saved(tmp_path / "pruned", tensors, {"num_hidden_layers": 2})
    report = port_whole(pruned, tmp_path / "b", "timm-vit", prove=False)
    assert report.blocks == 2
    assert json.loads((tmp_path / "b/config.json").read_text())["model_args"]["depth"] == 2


def test_a_pruned_model_with_its_old_numbers_is_refused(tmp_path):
    source = saved(tmp_path / "source", without(BLOCK), {"num_hidden_layers": 2})
    assert "block 1 of 3 is missing" in refused(source, tmp_path / "out")


def test_wrappers_are_taken_off(tmp_path):
    wrapped = {f"module.{name}": array for name, array in VIT.items()}
    report = port_whole(saved(tmp_path / "a", wrapped), tmp_path / "out", "timm-vit", prove=False)
    assert report.blocks == DEPTH
    two = {f"{tower}.{name}": a for tower in ("image", "text") for name, a in VIT.items()}
    source = saved(tmp_path / "b", two)
    report = port_whole(source, tmp_path / "one", "timm-vit", prefix="text.", prove=False)
    assert report.left == ["image: 54 tensors, image.embeddings.cls_token the first"]
    twice = VIT | {f"ema.{name}": array + 1 for name, array in VIT.items()}
    source = saved(tmp_path / "c", twice)
    port_whole(source, tmp_path / "two", "timm-vit", prefix="ema.", prove=False)
    written = load_file(tmp_path / "two" / "model.safetensors")
    assert np.array_equal(written["norm.weight"], VIT["layernorm.weight"] + 1)


TOLD = {
    "another name": ({"heads": 3}, "semantics 'heads' is unknown: did you mean num_heads?"),
    "heads": ({"num_heads": 5}, "number of attention heads 5 is told, and"),
    "activation": ({"activation": "mish"}, "activation 'mish' is unknown; expected one of gelu"),
    "pooling": ({"pooling": "max"}, "pooling 'max' is unknown; expected one of none, class"),
    "epsilon": ({"norm_epsilon": "x"}, "norm_epsilon='x': expected a number from 0 to 1"),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_a_user_tells(tmp_path, name):
    told, words = TOLD[name]
    source = saved(tmp_path / "source")
    assert words in refused(source, tmp_path / "out", semantics=told)


def test_types(tmp_path):
    source = saved(tmp_path / "source", put(DOWN, 1e6))
    words = refused(source, tmp_path / "out", dtype="float16")
    assert words == "blocks.1.mlp.fc2.weight has values up to 1e+06, beyond what float16 reaches to"
    assert "dtype 'float8' is unknown" in refused(source, tmp_path / "out", dtype="float8")
    report = port_whole(source, tmp_path / "out", "timm-vit", dtype="bfloat16", prove=False)
    assert "cast: tensors rounded to bfloat16, as --dtype says" in report.steps
    mixed = {**VIT, QUERY: VIT[QUERY].astype(np.float16)}
    source = saved(tmp_path / "mixed", mixed)
    report = port_whole(source, tmp_path / "one", "timm-vit", dtype="float32", prove=False)
    assert load_file(tmp_path / "one" / "model.safetensors")["blocks.1.attn.qkv.weight"].dtype == (
        np.float32
    )
    small = {**VIT, DOWN: VIT[DOWN].astype(ml_dtypes.bfloat16)}
    report = port_whole(saved(tmp_path / "kept", small), tmp_path / "two", "hf-vit", prove=False)
    assert report.steps == []


def test_float8_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    source = saved(tmp_path / "source")
    tensors = {name: torch.from_numpy(array) for name, array in VIT.items()}
    tensors[DOWN] = tensors[DOWN].to(torch.float8_e4m3fn)
    save_torch(tensors, _file(source))
    assert "float8_e4m3fn, quantized: dequantize it first" in refused(source, tmp_path / "out")


def test_targets_that_are_there(tmp_path):
    source, target = saved(tmp_path / "source"), tmp_path / "out"
    target.mkdir()
    (target / "config.json").write_text('{"model_type": "bert"}')
    assert "holds another model, as its config.json says" in refused(source, target)
    (target / "config.json").unlink()
    (target / "notes.txt").write_text("mine")
    port_whole(source, target, "timm-vit", prove=False)
    assert (target / "notes.txt").read_text() == "mine"


def test_a_source_is_never_replaced(tmp_path):
    source = saved(tmp_path / "source")
    for target in (source, _file(source), source / ".." / "source"):
        assert "which is read; name another folder" in refused(source, target)
    assert f"it is a file of {_file(source)}" in refused(_file(source), source, "hf-vit")
    link = tmp_path / "link"
    link.symlink_to(source)
    assert "which is read; name another folder" in refused(source, link)
    assert port_whole(source, source / "inside", "timm-vit", prove=False).blocks == DEPTH


def test_targets_that_cannot_be(tmp_path):
    source = saved(tmp_path / "source")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "nowhere").symlink_to(tmp_path / "not" / "there")
    for target, words in (
        (tmp_path / "file", "cannot make"),
        (tmp_path / "file" / "in it", "cannot make"),
        (tmp_path / "no" / "such" / "folder", "cannot make"),
        (tmp_path / "nowhere", "cannot make"),
        ("/proc/whole", "cannot make /proc/whole"),
        ("/proc/model.safetensors", "cannot write /proc/model.safetensors"),
        (tmp_path / "x.npz", "timm-vit is kept in safetensors, torch, and this name is of npz"),
        ("", "the target has no name"),
    ):
        assert words in refused(source, target), target
    assert "dialect 'nope' is unknown" in refused(source, tmp_path / "out", "nope")
    assert "whole models go to timm-vit" in refused(source, tmp_path / "out", "oihw")
    assert "from no shards" in refused(source, tmp_path / "out", shard_bytes=-1)


FULL = """
import resource, signal, sys
from patchparity import PatchParityError
from patchparity.porting.whole.port import port_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    port_whole(sys.argv[1], sys.argv[2], "timm-vit", prove=False)
except PatchParityError as error:
    print(error)
"""


def test_a_disk_without_room(tmp_path):
    """A file may have 20 kB here, as if there were no more room."""
    assert resource.RLIMIT_FSIZE
    source = saved(tmp_path / "source")
    there = files_in(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(source), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("cannot write "), done
    assert files_in(tmp_path) == there


def test_shards(tmp_path):
    source = saved(tmp_path / "source")
    names = list(VIT)
    first, second = (f"model-0000{k}-of-00002.safetensors" for k in (1, 2))
    _file(source).unlink()
    save_file({name: VIT[name] for name in names[:20]}, source / first)
    places = {name: first if k < 20 else second for k, name in enumerate(names)}
    index = {"metadata": {}, "weight_map": places}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"names a shard '{second}', which is not there" in refused(source, tmp_path / "out")
    save_file({name: VIT[name] for name in names[20:]}, source / second)
    assert "from no shards" in refused(source, tmp_path / "out", shard_bytes=20000)
    report = port_whole(source, tmp_path / "out", "hf-vit", shard_bytes=20000, prove=False)
    assert report.blocks == DEPTH
    there = files_in(tmp_path / "out")
    assert "holds" in refused(source, tmp_path / "out", "hf-vit", shard_bytes=20000)
    assert files_in(tmp_path / "out") == there


def test_a_proof_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    from patchparity.porting.proof.compare import Check
    from patchparity.porting.whole import prove

    source, target = saved(tmp_path / "source"), tmp_path / "out"
    port_whole(source, target, "timm-vit", prove=False)
    there = files_in(tmp_path)
    wrong = Check("blocks", "fail", 3.0, "block 1 differs")
    monkeypatch.setattr(prove, "prove_read_back", lambda *_: wrong)
    words = refused(saved(tmp_path / "other", vit(1)), target)
    assert words.endswith("was not written: blocks: block 1 differs")
    assert {path: held for path, held in files_in(tmp_path).items() if path in there} == there
