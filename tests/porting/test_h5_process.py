"""HDF5's own library runs in a process that may be lost: the file is refused, and the next is
read."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from patchparity import PatchParityError
from patchparity.porting.files import h5_client, native_client
from patchparity.porting.files.opening import opened

h5py = pytest.importorskip("h5py")


@pytest.fixture
def file(tmp_path):
    """A file of one array."""
    with h5py.File(tmp_path / "a.weights.h5", "w") as held:
        held["layers/a/vars/0"] = np.arange(6, dtype=">f4").reshape(2, 3)
    return tmp_path / "a.weights.h5"


def test_a_process_that_is_lost_costs_one_file(file, monkeypatch, tmp_path):
    stand_in = tmp_path / "stand_in.py"
    stand_in.write_text("import sys\nsys.stdin.readline()\n")
    with monkeypatch.context() as changed:
        changed.setattr(native_client, "SERVER", stand_in)
        h5_client.SERVER.end()
        with pytest.raises(
            PatchParityError,
            match=r"a\.weights\.h5 is damaged or hostile: HDF5's own library hung, crashed",
        ):
            opened(file).__enter__()
    with opened(file) as checkpoint:
        assert checkpoint.read("layers/a/vars/0").tolist() == [[0, 1, 2], [3, 4, 5]]
        assert checkpoint.read("layers/a/vars/0").flags.writeable


def test_a_process_that_ended_in_between_is_started_again(file):
    with opened(file) as checkpoint:
        h5_client.SERVER.process.kill()
        h5_client.SERVER.process.wait()
        assert checkpoint.read("layers/a/vars/0").sum() == 15


def test_one_process_reads_all_files_and_nothing_of_hdf5_is_loaded_here(file):
    code = (
        "import sys, patchparity\nfrom patchparity.porting.files import h5_client\nfrom "
        "patchparity.porting.files.opening import opened\n"
        "for i in range(2):\n    with opened(sys.argv[1]) as c: c.read('layers/a/vars/0')\n"
        "    pid = h5_client.SERVER.process.pid if i == 0 else pid\n"
        "print('h5py' in sys.modules, pid == h5_client.SERVER.process.pid, pid)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[:2] == ["False", "True"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout.split()[2]), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process as Linux has them")
@pytest.mark.parametrize(
    ("work", "end"), [("while True: pass", -signal.SIGXCPU), ("bytearray(2**30)", 1)]
)
def test_a_request_is_held_to_time_and_memory(work, end):
    code = (
        "from patchparity.porting.files import native_server as s\ns.PATIENCE = 1\ns.limit(10, "
        f"10)\n{work}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == end, done.stderr
    assert end < 0 or "MemoryError" in done.stderr


def test_what_a_user_may_not_read_is_told_as_that(file):
    Path(file).chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("this user reads everything")
    with pytest.raises(PatchParityError, match="Permission denied"):
        opened(file).__enter__()
