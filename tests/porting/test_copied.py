"""What lies in files and is copied by `write_streamed`: to its place, whatever part of it the
system reads or writes at a time; a byte that changes on its way is found."""

import errno
import os

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchparity import PatchParityError
from patchparity.porting.files import copied, streamed
from patchparity.porting.files.compared import COMPARED_BYTES
from patchparity.porting.files.lazy import Stored
from patchparity.porting.files.opening import opened
from patchparity.porting.files.streamed import Lazy, write_streamed

from .test_streamed import drawn, lazies, same


def unread():
    pytest.fail("a tensor that is copied is not read")


def copies_of(source):
    """All tensors of a file, to be copied."""
    return {
        name: Lazy(info.shape, info.dtype, unread, (source, name))
        for name, info in source.tensors.items()
    }


@pytest.fixture
def source(tmp_path):
    """One tensor of several pieces and a part of one, one of a few bytes, and an empty one."""
    held = {"a": drawn((3, COMPARED_BYTES // 4 - 7)), "b": drawn((7, 3)), "c": drawn((0, 3))}
    write_streamed(tmp_path / "source.safetensors", lazies(held))
    with opened(tmp_path / "source.safetensors") as file:
        yield file


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_ranges_come_to_their_places(tmp_path_factory, data):
    """In any order, of files of any header, with tensors that are made between them."""
    folder = tmp_path_factory.mktemp("ranges")
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    held = {
        f"t{number}" * data.draw(st.integers(1, 9)): drawn((n, 3)) for number, n in enumerate(sizes)
    }
    write_streamed(folder / "source.safetensors", lazies(held))
    with opened(folder / "source.safetensors") as file:
        tensors, wanted = {}, {}
        for number in range(data.draw(st.integers(1, 5))):
            names = data.draw(st.lists(st.sampled_from(sorted(held)), min_size=1, max_size=3))
            rows = np.concatenate([held[name] for name in names])
            ranges = tuple(Stored(file, name, 0, held[name].nbytes) for name in names)
            made = data.draw(st.booleans())
            read = (lambda rows=rows: rows) if made else unread
            tensors[f"m{number}"] = Lazy(rows.shape, "float32", read, None, () if made else ranges)
            wanted[f"m{number}"] = rows
        write_streamed(folder / "copy.safetensors", tensors)
    with opened(folder / "copy.safetensors") as copy:
        assert all(same(copy.read(name), rows) for name, rows in wanted.items())


@pytest.mark.parametrize("share", [copied.SHARE_BYTES, 4096])
@pytest.mark.parametrize("most", [12345, 10**9])
def test_the_system_may_read_and_write_less_than_it_was_asked_for(
    tmp_path, monkeypatch, source, most, share
):
    for name in ("preadv", "pwritev"):
        real = getattr(os, name)

        def less(file, buffers, at, real=real):
            return real(file, [buffers[0][:most]], at)

        monkeypatch.setattr(os, name, less)
    monkeypatch.setattr(copied, "SHARE_BYTES", share)
    write_streamed(tmp_path / "copy.safetensors", copies_of(source))
    written = [tmp_path / f"{name}.safetensors" for name in ("source", "copy")]
    assert written[0].read_bytes() == written[1].read_bytes()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, None])
def test_room_is_not_taken_where_the_system_cannot(tmp_path, monkeypatch, source, number):
    def refused(*given):
        copied.ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(copied, "_fallocate", lambda: None if number is None else refused)
    write_streamed(tmp_path / "copy.safetensors", copies_of(source))
    assert (tmp_path / "copy.safetensors").exists()


def test_a_disk_that_is_full_is_told_of_before_anything_is_written(tmp_path, monkeypatch, source):
    def full(*given):
        copied.ctypes.set_errno(errno.ENOSPC)
        return -1

    monkeypatch.setattr(copied, "_fallocate", lambda: full)
    monkeypatch.setattr(os, "pwrite", lambda *given: pytest.fail("written"))
    with pytest.raises(PatchParityError, match=r"cannot write .*copy\.safetensors: No space left"):
        write_streamed(tmp_path / "copy.safetensors", copies_of(source))
    assert [path.name for path in tmp_path.iterdir()] == ["source.safetensors"]


def test_a_source_that_ends_before_is_told_of(tmp_path, source):
    size = (tmp_path / "source.safetensors").stat().st_size
    os.truncate(tmp_path / "source.safetensors", size - 400)
    with pytest.raises(PatchParityError, match=r"source\.safetensors ends before it should"):
        write_streamed(tmp_path / "copy.safetensors", copies_of(source))
    assert not (tmp_path / "copy.safetensors").exists()


@pytest.mark.parametrize("place", [0, COMPARED_BYTES - 1, COMPARED_BYTES, 3 * COMPARED_BYTES - 85])
def test_a_byte_that_changes_on_its_way_is_found(tmp_path, monkeypatch, source, place):
    """One bit of what was copied, between writing and reading back."""
    real, begin = os.pwritev, source.place_of("a")[1]

    def damaging(file, buffers, at):
        count = real(file, buffers, at)
        if at <= begin + place < at + count:
            byte = os.pread(file, 1, begin + place)[0]
            os.pwrite(file, bytes([byte ^ 16]), begin + place)
        return count

    monkeypatch.setattr(os, "pwritev", damaging)
    with pytest.raises(PatchParityError, match="a reads back differently"):
        write_streamed(tmp_path / "copy.safetensors", copies_of(source))
    assert not (tmp_path / "copy.safetensors").exists()


def test_a_byte_of_a_tensor_that_was_made_is_found(tmp_path, monkeypatch, source):
    """One bit, before the new file is opened."""
    real = streamed.open_checkpoint

    def damaging(draft):
        with real(draft) as checkpoint:
            path, begin = checkpoint.place_of("turned")
        content = bytearray(path.read_bytes())
        content[begin + 41] ^= 16
        path.write_bytes(content)
        return real(draft)

    monkeypatch.setattr(streamed, "open_checkpoint", damaging)
    tensors = {"turned": Lazy((3, 7), "float32", lambda: source.view("b").T)}
    with pytest.raises(PatchParityError, match="turned reads back differently"):
        write_streamed(tmp_path / "copy.safetensors", tensors | copies_of(source))


def test_a_tensor_that_the_header_puts_elsewhere_is_compared_again(tmp_path, monkeypatch, source):
    """What was compared was the place that was meant, and not the one that is read."""
    real = streamed.open_checkpoint

    def moving(draft):
        content = draft.read_bytes()
        for name, other in ((b'"a"', b'"x"'), (b'"d"', b'"a"'), (b'"x"', b'"d"')):
            content = content.replace(name, other, 1)
        draft.write_bytes(content)
        return real(draft)

    monkeypatch.setattr(streamed, "open_checkpoint", moving)
    shape = source.tensors["a"].shape
    tensors = copies_of(source)
    zeros = np.zeros(shape, np.float32)
    with pytest.raises(PatchParityError, match=r"[ad] reads back differently"):
        write_streamed(
            tmp_path / "copy.safetensors",
            {**tensors, "d": Lazy(shape, "float32", lambda: zeros)},
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_what_is_no_number_is_told_by_the_name_that_it_has_in_the_source(tmp_path, dtype, value):
    held = {"a": drawn((5, 3), dtype), "b": drawn((COMPARED_BYTES // 4, 5), dtype)}
    held["b"][-1, -1] = value
    write_streamed(tmp_path / "source.safetensors", lazies(held))
    with opened(tmp_path / "source.safetensors") as file:
        tensors = {f"new.{name}": lazy for name, lazy in copies_of(file).items()}
        with pytest.raises(PatchParityError, match=r"source\.safetensors: b holds NaN or infinite"):
            write_streamed(tmp_path / "copy.safetensors", tensors, finite=True)
        write_streamed(tmp_path / "copy.safetensors", tensors)
