"""Stems, against torch's own layers."""

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
    with pytest.raises(PatchParityError, match="smaller than the stem's kernels"):
        features_of((6, 9), stem)
    with pytest.raises(PatchParityError):
        apply_stem(np.ones((1, 3, 6, 9)), stem)
