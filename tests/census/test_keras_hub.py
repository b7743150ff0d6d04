"""Models of KerasHub: none is read silently wrong, and all are read."""

from . import keras_models
from .demands import needs, require_none_wrong


def test_keras_hub():
    needs("keras_hub")
    require_none_wrong({name: keras_models.outcome(name) for name in keras_models.MODELS}, 17)
