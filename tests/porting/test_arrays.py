"""Arrays that a user brings: layouts, names, and one sentence for what cannot be."""

import numpy as np
import pytest
import safetensors.numpy

from patchparity import PatchEmbedSpec, PatchEmbedWeights, PatchParityError, save_weights
from patchparity.backends.layouts import KERNEL_LAYOUTS, kernel_to_layout
from patchparity.porting.files.arrays import read_array, read_arrays, read_problem

SPEC = PatchEmbedSpec((30, 28), (6, 4), 3, 20)
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.standard_normal((2, 3, 30, 28)).astype(np.float32)
KERNEL = GENERATOR.standard_normal(SPEC.kernel_shape).astype(np.float32)
BIAS = GENERATOR.standard_normal(20).astype(np.float32)


@pytest.mark.parametrize("layout", KERNEL_LAYOUTS)
@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_every_layout_comes_back_canonical(tmp_path, layout, kind):
    kept = {
        "kernel": np.ascontiguousarray(kernel_to_layout(KERNEL, KERNEL_LAYOUTS[layout])),
        "bias": BIAS,
    }
    path = tmp_path / f"w.{kind}"
    np.savez(path, **kept) if kind == "npz" else safetensors.numpy.save_file(kept, path)
    np.save(tmp_path / "i.npy", IMAGES.transpose(0, 2, 3, 1))
    images, weights, spec = read_problem(
        tmp_path / "i.npy", path, kernel_layout=layout, image_layout="nhwc", patch_size=(6, 4)
    )
    assert (images == IMAGES).all()
    assert (weights.kernel == KERNEL).all()
    assert (weights.bias == BIAS).all()
    assert spec == SPEC.replace(remainder="floor")


def test_our_own_weights_know_their_layout_and_sizes(tmp_path):
    save_weights(tmp_path / "w.safetensors", PatchEmbedWeights(KERNEL, BIAS), SPEC)
    np.savez(tmp_path / "i.npz", images=IMAGES[:, :, :24], other=BIAS)
    _, weights, spec = read_problem(tmp_path / "i.npz", tmp_path / "w.safetensors")
    assert (weights.kernel == KERNEL).all()
    assert spec.image_size == (24, 28)


def test_what_cannot_be_read(tmp_path):
    np.save(tmp_path / "i.npy", IMAGES)
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object))
    np.savez(tmp_path / "two.npz", a=IMAGES, b=IMAGES)
    np.savez(tmp_path / "m.npz", kernel=KERNEL.reshape(20, -1))
    (tmp_path / "t.safetensors").write_text("no")
    (tmp_path / "t.npy").write_text("no")
    np.save(tmp_path / "text.npy", np.array(["a"]))
    for name in ("absent.npy", "t.npy", "t.safetensors", "object.npy"):
        with pytest.raises(PatchParityError, match="cannot read arrays from"):
            read_arrays(tmp_path / name)
    with pytest.raises(
        PatchParityError, match=r"expected a file named \.npy, \.npz or \.safetensors"
    ):
        read_arrays(tmp_path / "w.pt")
    with pytest.raises(
        PatchParityError, match="holds a, b: expected one array, or one called 'images'"
    ):
        read_array(tmp_path / "two.npz", "images")
    with pytest.raises(PatchParityError, match="of dtype <U1: expected real numbers"):
        read_array(tmp_path / "text.npy", "images")
    with pytest.raises(
        PatchParityError, match=r"holds a, b: expected (one array, or one|an array) called 'kernel'"
    ):
        read_problem(tmp_path / "i.npy", tmp_path / "two.npz")
    with pytest.raises(
        PatchParityError,
        match=r"kernel of shape \(20, 72\): a matrix does not show the patch size; give it with "
        r"--patch-size",
    ):
        read_problem(tmp_path / "i.npy", tmp_path / "m.npz", kernel_layout="linear-chw")
    with pytest.raises(
        PatchParityError, match=r"kernel of shape \(20, 72\): expected 4 axes, D C Ph Pw"
    ):
        read_problem(tmp_path / "i.npy", tmp_path / "m.npz")
    with pytest.raises(
        PatchParityError, match=r"kernel of shape \(20, 72\) is not 'D \(C Ph Pw\)'"
    ):
        read_problem(
            tmp_path / "i.npy", tmp_path / "m.npz", kernel_layout="linear-chw", patch_size=5
        )
    with pytest.raises(
        PatchParityError,
        match=r"kernel layout 'iohw' is unknown.*; expected one of canonical",
    ):
        read_problem(tmp_path / "i.npy", tmp_path / "m.npz", kernel_layout="iohw")
    np.save(tmp_path / "one.npy", IMAGES[0])
    with pytest.raises(PatchParityError, match=r"images of shape \(3, 30, 28\): expected 4 axes"):
        read_problem(tmp_path / "one.npy", tmp_path / "m.npz")
