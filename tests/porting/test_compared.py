"""What is copied out of ranges of files, compared with them, and looked through
for NaN."""

import os

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchparity import PatchParityError, port_whole
from patchparity.porting.encoders.load import list_encoders
from patchparity.porting.files.checkpoint import dtype_of
from patchparity.porting.files.compared import COMPARED_BYTES, LOOKED_AT, is_finite
from patchparity.porting.files.lazy import Stored
from patchparity.porting.files.opening import opened
from patchparity.porting.files.streamed import Lazy, write_streamed

from .test_streamed import ONE_FILE, drawn, lazies, need, same
from .test_whole_faults import saved, vit

TYPES = ("float32", "float64", "float16", "bfloat16")


@given(st.data(), st.sampled_from(["float16", "bfloat16"]))
@settings(deadline=None, max_examples=60)
def test_values_that_are_no_numbers_are_seen_by_their_bits(data, dtype):
    bits = data.draw(st.lists(st.integers(0, 2**16 - 1), max_size=40))
    values = np.array(bits, np.uint16).view(dtype_of(dtype))
    assert is_finite(values) == bool(np.isfinite(values.astype(np.float32)).all())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_one_bad_value_anywhere_is_seen(dtype, bad):
    values = np.ones(LOOKED_AT + 11, dtype_of(dtype)).reshape(-1, 1)
    assert is_finite(values)
    for place in (0, LOOKED_AT - 1, LOOKED_AT, len(values) - 1):
        other = values.copy()
        other[place] = bad
        assert not is_finite(other)
        assert not is_finite(np.repeat(other, 2, axis=1)[:, ::2])


def test_the_largest_values_and_empty_ones_are_finite():
    for dtype in TYPES:
        largest = ml_dtypes.finfo(dtype_of(dtype)).max
        assert is_finite(np.array([largest, -largest], dtype_of(dtype)))
        assert is_finite(np.ones((0, 3), dtype_of(dtype)))


def of_ranges(source):
    """Two tensors made of parts of others, in another order, whose `read` must not be called."""
    row = source.tensors["b"].nbytes // 30
    merged = (Stored(source, "b", 3 * row, 20 * row), Stored(source, "a", 0, 40 * row))
    fail = lambda: pytest.fail("read")  # noqa: E731
    return {
        "merged": Lazy((60, 7), "float32", fail, None, merged),
        "split": Lazy((2, 5, 7), "float32", fail, None, (Stored(source, "a", 30 * row, 10 * row),)),
    }


@pytest.mark.parametrize("name", ONE_FILE[:4])
def test_bytes_of_several_tensors_are_put_one_behind_the_other(tmp_path, name):
    held = {"a": drawn((40, 7)), "b": drawn((30, 7))}
    write_streamed(tmp_path / "source.safetensors", lazies(held))
    with opened(tmp_path / "source.safetensors") as source:
        write_streamed(tmp_path / name, of_ranges(source))
    with opened(tmp_path / name) as written:
        assert same(written.read("merged"), np.concatenate([held["b"][3:23], held["a"]]))
        assert same(written.read("split"), held["a"][30:].reshape(2, 5, 7))


def test_a_byte_that_changed_in_a_range_is_found(tmp_path, monkeypatch):
    write_streamed(tmp_path / "s.safetensors", lazies({"a": drawn((40, 7)), "b": drawn((30, 7))}))
    real = os.pwritev

    def damaging(file, buffers, at):
        count = real(file, buffers, at)
        if count == 40 * 7 * 4:  # the last byte of the second range of `merged`
            os.pwrite(file, bytes([buffers[0][-1] ^ 1]), at + count - 1)
        return count

    monkeypatch.setattr(os, "pwritev", damaging)
    with (
        opened(tmp_path / "s.safetensors") as source,
        pytest.raises(PatchParityError, match="merged reads back differently"),
    ):
        write_streamed(tmp_path / "copy.safetensors", of_ranges(source))
    assert not (tmp_path / "copy.safetensors").exists()


@pytest.mark.parametrize("name", ONE_FILE)
@pytest.mark.parametrize("copied", [False, True], ids=["made", "copied"])
def test_what_is_no_number_is_refused_where_it_is_asked_for(tmp_path, name, copied):
    need(name)
    held = {"v.patch_embd.weight": drawn((COMPARED_BYTES // 4 + 9,)), "v.other": drawn((5, 3))}
    held["v.patch_embd.weight"][-1] = -np.inf
    tensors = lazies(held)
    write_streamed(tmp_path / "source.safetensors", tensors)
    with opened(tmp_path / "source.safetensors") as source:
        if copied:
            tensors = {
                called: Lazy(lazy.shape, lazy.dtype, lazy.read, (source, called))
                for called, lazy in tensors.items()
            }
        with pytest.raises(PatchParityError, match=r"v\.patch_embd\.weight holds NaN or inf"):
            write_streamed(tmp_path / name, tensors, finite=True)
        assert not (tmp_path / name).exists()
        write_streamed(tmp_path / name, tensors)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["m.safetensors", "m.npz", "packed.npz"])
def test_one_row_of_a_stack_is_seen_alone(tmp_path, name, dtype):
    held = {"stack": drawn((4, 3, 5)).astype(dtype_of(dtype))}
    if name == "packed.npz":
        kept = {
            called: array.view("V2" if dtype == "bfloat16" else dtype)
            for called, array in held.items()
        }
        np.savez_compressed(tmp_path / name, **kept)
    else:
        write_streamed(tmp_path / name, lazies(held))
    with opened(tmp_path / name) as file:
        for row in range(4):
            assert same(file.view("stack", row), held["stack"][row : row + 1])


def test_a_row_of_an_archive_that_is_damaged_is_refused(tmp_path):
    held = {"stack": drawn((4, 300, 50))}
    write_streamed(tmp_path / "m.npz", lazies(held))
    content = (tmp_path / "m.npz").read_bytes()
    at = content.index(held["stack"].tobytes()) + 7
    (tmp_path / "m.npz").write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
    with pytest.raises(PatchParityError, match="damaged"), opened(tmp_path / "m.npz") as file:
        file.view("stack", 3)  # which the damage is not in


def test_entries_in_order_are_their_parts_one_behind_the_other():
    """Of every layout, by values."""
    sizes = {"D": 6, "E": 6, "F": 6, "h": 2, "d": 3, "M": 5, "N": 4, "P": 7, "C": 3, "n": 2}
    seen = set()
    for layout in list_encoders().values():
        for entry in layout.entries:
            if entry.fields[0].startswith("head"):
                continue
            shape = entry.shape(sizes)
            array = np.arange(np.prod(shape)).reshape(shape)
            parts = entry.parts(array, sizes)
            if entry.stacked:
                parts = [part[block] for block in range(sizes["n"]) for part in parts]
            behind = np.concatenate([part.reshape(-1) for part in parts])
            assert (behind == array.reshape(-1)).all() == entry.in_order, (layout.id, entry)
            seen.add((entry.in_order, len(entry.fields) > 1, entry.stacked))
    assert {(True, True, False), (False, False, True)} <= seen


def test_queries_keys_and_values_are_merged_without_being_made(tmp_path, monkeypatch):
    """And NaN in one of them is told by its name in the source."""
    from patchparity.porting.encoders.layout import Entry

    source = saved(tmp_path / "source")
    whole = Entry.whole

    def watched(self, parts, sizes):
        assert "query.weight" not in self.fields
        return whole(self, parts, sizes)

    monkeypatch.setattr(Entry, "whole", watched)
    given = {"semantics": {}, "allow_loss": True, "prove": False}
    port_whole(source, tmp_path / "timm", "timm-vit", **given)
    with opened(source) as before, opened(tmp_path / "timm") as behind:
        names = [
            f"encoder.layer.1.attention.attention.{w}.weight" for w in ("query", "key", "value")
        ]
        merged = np.concatenate([before.read(name) for name in names])
        assert same(behind.read("blocks.1.attn.qkv.weight"), merged)
    held = vit()
    held[names[1]][0, 3] = np.nan
    poisoned = saved(tmp_path / "poisoned", held)
    with pytest.raises(PatchParityError, match=rf"model.safetensors: {names[1]} holds NaN"):
        port_whole(poisoned, tmp_path / "other", "timm-vit", **given)
    assert not (tmp_path / "other").exists()
