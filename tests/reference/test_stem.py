"""Stems, against torch's own layers, and against loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchparity.reference.errors import PatchParityError
from patchparity.reference.stem import (
    ACTIVATIONS,
    StemLayer,
    apply_stem,
    features_of,
    fold_batch_norm,
    image_of,
)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("relu", "relu"), ("gelu", "gelu"), ("hard-swish", "hardswish"), ("silu", "silu")],
)
def test_activations_are_those_of_torch(name, theirs):
    torch = pytest.importorskip("torch")
    values = np.linspace(-6, 6, 241)
    expected = getattr(torch.nn.functional, theirs)(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(ACTIVATIONS[name](values), expected, atol=1e-14)
    assert ACTIVATIONS[name](values.astype(np.float32)).dtype == np.float32


@settings(max_examples=20, deadline=None)
@given(
    kernels=st.lists(
        st.tuples(st.sampled_from([1, 2, 3, 5]), st.integers(1, 3), st.integers(0, 2)),
        min_size=1,
        max_size=3,
    ),
    size=st.tuples(st.integers(9, 20), st.integers(9, 20)),
)
def test_a_stem_is_convolutions_with_batch_norms(kernels, size):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(3)
    modules, stem, channels = [], [], 3
    for index, (side, stride, padding) in enumerate(kernels):
        width = channels + 2
        convolution = torch.nn.Conv2d(
            channels, width, side, stride, padding, bias=bool(index % 2)
        ).double()
        norm = torch.nn.BatchNorm2d(width).double()
        with torch.no_grad():
            for tensor in (*convolution.parameters(), *norm.parameters(), norm.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            norm.running_var.copy_(torch.rand(width, generator=generator) + 0.1)
        modules += [convolution, norm, torch.nn.GELU()]
        held = [
            each.detach().numpy()
            for each in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        ]
        kernel = convolution.weight.detach().numpy().transpose(0, 2, 3, 1)
        bias = None if convolution.bias is None else convolution.bias.detach().numpy()
        stem.append(
            StemLayer(*fold_batch_norm(kernel, bias, held, norm.eps), stride, padding, "gelu")
        )
        channels = width
    images = np.random.default_rng(0).standard_normal((2, 3, *size))
    model = torch.nn.Sequential(*modules).eval()
    try:
        expected = model(torch.from_numpy(images)).detach().numpy()
    except RuntimeError:  # a kernel larger than what it is given
        with pytest.raises(PatchParityError):
            apply_stem(images, stem)
        return
    np.testing.assert_allclose(apply_stem(images, stem), expected, atol=1e-10)
    assert features_of(size, stem) == expected.shape[2:]
    least = image_of(expected.shape[2:], stem)
    assert features_of(least, stem)[0] >= expected.shape[2]
    assert features_of(least, stem)[1] >= expected.shape[3]
    assert least[0] <= size[0]
    assert least[1] <= size[1]


def test_an_image_smaller_than_a_kernel_is_refused():
    stem = [StemLayer(np.ones((4, 7, 7, 3)), None, 2, 0)]
    with pytest.raises(
        PatchParityError,
        match=r"^an image whose map is of 0×2 is smaller than the stem's kernels$",
    ):
        features_of((6, 9), stem)
    assert features_of((7, 9), stem) == (1, 2)
    with pytest.raises(PatchParityError):
        apply_stem(np.ones((1, 3, 6, 9)), stem)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gelu_is_the_formula_in_float64_rounded_to_the_dtype_of_the_values(dtype):
    values = np.random.default_rng(1).standard_normal((3, 50)).astype(dtype) * dtype(3)
    expected = [[x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in row] for row in values.tolist()]
    result = ACTIVATIONS["gelu"](values)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, expected, rtol=2 * np.finfo(dtype).eps, atol=1e-15)


@pytest.mark.parametrize("with_bias", [True, False])
def test_a_batch_norm_is_put_into_kernel_and_bias(with_bias):
    """On one patch: the folded kernel gives what kernel and norm give one after the other."""
    generator = np.random.default_rng(4)
    kernel = generator.standard_normal((5, 3, 2, 4)).astype(np.float32)
    bias = generator.standard_normal(5).astype(np.float32) if with_bias else None
    scale, shift, mean = generator.standard_normal((3, 5)).astype(np.float32)
    variance = generator.random(5).astype(np.float32) + np.float32(0.5)
    folded, added = fold_batch_norm(kernel, bias, (scale, shift, mean, variance), 0.25)
    assert (folded.dtype, added.dtype) == (np.float64, np.float64)
    assert (folded.shape, added.shape) == ((5, 3, 2, 4), (5,))
    patch = generator.standard_normal((3, 2, 4))
    for row in range(5):
        value = (kernel[row].astype(np.float64) * patch).sum()
        if bias is not None:
            value += float(bias[row])
        centered = value - float(mean[row])
        expected = centered * float(scale[row]) / math.sqrt(float(variance[row]) + 0.25)
        result = (folded[row] * patch).sum() + added[row]
        assert result == pytest.approx(expected + float(shift[row]), rel=0, abs=1e-13)


def looped(images, layer):
    """A layer with `relu` or no activation, one value at a time."""
    count, _, rows, columns = images.shape
    width, height_of, width_of, channels = layer.kernel.shape
    pad, step = layer.padding, layer.stride
    grid = [
        (extent + 2 * pad - side) // step + 1
        for extent, side in ((rows, height_of), (columns, width_of))
    ]
    result = np.zeros((count, width, *grid))
    for image, out, row, column in np.ndindex(result.shape):
        total = 0.0 if layer.bias is None else float(layer.bias[out])
        for i, j, channel in np.ndindex(height_of, width_of, channels):
            y, x = row * step + i - pad, column * step + j - pad
            if 0 <= y < rows and 0 <= x < columns:
                total += images[image, channel, y, x] * layer.kernel[out, i, j, channel]
        result[image, out, row, column] = max(total, 0) if layer.activation else total
    return result


def test_a_stem_is_its_layers_one_after_the_other():
    draw = np.random.default_rng(6).standard_normal
    stem = [
        StemLayer(draw((5, 3, 2, 4)), draw(5), 2, 1, "relu"),
        StemLayer(draw((7, 1, 3, 5)), None, 1, 0),
    ]
    images = draw((2, 4, 8, 11))
    expected = looped(looped(images, stem[0]), stem[1])
    assert expected.shape == (2, 7, 4, 4)
    result = apply_stem(images, stem)
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)
    assert features_of((8, 11), stem) == (4, 4)
    single = apply_stem(images.astype(np.float32), stem, np.float32)
    assert single.dtype == np.float32
    # sums of 24 and 15 products: 40 roundings of values of up to 200
    np.testing.assert_allclose(single, expected, rtol=0, atol=40 * 2.0**-24 * 200)
    assert apply_stem(images, []) is images


def test_sizes_of_maps_and_of_images():
    """By hand: 23 + 2 − 3 is 11 steps of 2 and 17 + 2 − 5 is 7, so (12, 8); then 12 − 2 is 3 steps
    of 3 and 8 − 1 is 2, so (4, 3)."""
    stem = [
        StemLayer(np.ones((4, 3, 5, 3)), None, 2, 1),
        StemLayer(np.ones((6, 2, 1, 4)), None, 3, 0),
    ]
    assert features_of((23, 17), stem) == (4, 3)
    # back: (11, 7) is the least for the second layer, of which (21, 15) is for the first
    assert image_of((4, 3), stem) == (21, 15)
    assert features_of((21, 15), stem) == (4, 3)
    assert features_of((20, 15), stem) == (3, 3)
    assert features_of((21, 14), stem) == (4, 2)
    # all of the first window is padding
    assert image_of((1, 2), [StemLayer(np.ones((4, 1, 2, 3)), None, 3, 2)]) == (1, 1)
