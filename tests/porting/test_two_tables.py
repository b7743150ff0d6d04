"""KerasHub's DINOv2 alive: the table of positions that it computes with, and the one that its file
holds."""

import warnings

import numpy as np
import pytest

from patchparity import from_module, transfer

PATCH, WIDTH = 14, 32
NEAR = 1e-5


def embeddings(side=56, of=56, registers=0, seed=0):
    """A layer whose positions are what its library makes when it loads a file."""
    pytest.importorskip("keras_hub")
    from keras_hub.src.models.dinov2.dinov2_layers import DINOV2Embedding

    layer = DINOV2Embedding(
        WIDTH,
        PATCH,
        (side, side),
        num_register_tokens=registers,
        position_embedding_shape=(of, of),
    )
    layer(np.zeros((1, side, side, 3), np.float32))
    generator = np.random.default_rng(seed)
    own = [*layer._trainable_variables, *layer._non_trainable_variables]
    layer.load_own_variables({str(n): rows(generator, each) for n, each in enumerate(own)})
    for variable in layer.patch_embeddings.weights:
        variable.assign(rows(generator, variable))
    return layer


def rows(generator, variable):
    return 0.3 * generator.standard_normal(variable.shape).astype(np.float32)


def as_array(values):
    import keras

    return np.array(keras.ops.convert_to_numpy(values))


def raise_positions(layer, by):
    table = layer.interpolated_position_embeddings
    table.assign(as_array(table) + np.float32(by))


def saved_and_loaded(layer, **given):
    """What the library's own layer computes with when it has loaded what this one saved."""
    store: dict[str, np.ndarray] = {}
    layer.save_own_variables(store)
    other = embeddings(seed=9, **given)
    other.load_own_variables({name: as_array(values) for name, values in store.items()})
    return as_array(other.interpolated_position_embeddings)[0]


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize(("side", "of"), [(56, 56), (84, 56), (42, 56)])
def test_positions_are_those_that_are_computed_with(side, of, registers):
    layer = embeddings(side, of, registers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights, spec = from_module(layer)
    assert spec.image_size == (side, side)
    used = as_array(layer.interpolated_position_embeddings)[0]
    assert np.array_equal(weights.positions, used)


@pytest.mark.parametrize("by", [0.5, -0.5])
def test_what_its_file_will_not_hold_is_told(by):
    """Its library saves positions that fell and loses those that rose."""
    layer = embeddings()
    raise_positions(layer, by)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        weights, _ = from_module(layer)
    used = as_array(layer.interpolated_position_embeddings)[0]
    assert np.array_equal(weights.positions, used)
    lost = not np.allclose(saved_and_loaded(layer), used, atol=NEAR)
    assert lost == (by > 0)
    words = [str(one.message) for one in caught if "position_embeddings" in str(one.message)]
    assert bool(words) == lost
    if lost:
        assert "up to 0.5 from the position_embeddings that its file holds" in words[0]


def test_positions_of_another_size_are_told_to_be_lost_in_its_file():
    layer = embeddings(84, 56)
    raise_positions(layer, 0.5)
    with pytest.warns(UserWarning, match=r"its file holds position_embeddings \(1, 17, 32\), of"):
        weights, _ = from_module(layer)
    used = as_array(layer.interpolated_position_embeddings)[0]
    assert np.array_equal(weights.positions, used)
    assert not np.allclose(saved_and_loaded(layer, side=84, of=56), used, atol=NEAR)


def test_what_is_moved_into_one_is_in_its_file():
    source, target = embeddings(seed=1), embeddings(seed=2)
    raise_positions(target, 0.25)
    raise_positions(source, 7.0)
    with pytest.warns(UserWarning, match="DINOV2Embedding") as caught:
        done = transfer(source, target)
    assert len([one for one in caught if "computes" in str(one.message)]) == 1  # of the source
    assert "positions" in done.moved
    used = as_array(source.interpolated_position_embeddings)[0]
    assert np.array_equal(as_array(target.interpolated_position_embeddings)[0], used)
    assert np.array_equal(saved_and_loaded(target), used)


def test_what_cannot_move_leaves_both_tables_as_they_were():
    source, target = embeddings(registers=2, seed=1), embeddings(seed=2)
    before = [as_array(variable) for variable in target.weights]
    with pytest.raises(Exception, match="register_tokens"):
        transfer(source, target)
    after = [as_array(variable) for variable in target.weights]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
