"""KerasHub: the patch embedding of its ViT, on PyTorch, TensorFlow and JAX, as its users call it:
peers, that our weights are put into."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.spec import PatchEmbedSpec
from ..base import Implementation
from ..computation import Operation
from ..jax.adapter import JaxBackend
from ..keras import Build, KerasBackend, KerasEmbedding, model_of
from ..layouts import HWIO
from ..tensorflow import TensorFlowBackend, import_tensorflow
from ..torch.adapter import TorchBackend


def _vit(class_token: bool) -> Build:
    """`ViTPatchingAndEmbedding`, which always adds positions."""

    def build(images: Any, spec: PatchEmbedSpec, bias: bool, dtype: str) -> Any:
        import_tensorflow()  # which KerasHub imports, and less quietly
        from keras_hub.src.models.vit.vit_layers import ViTPatchingAndEmbedding

        sizes = dict(
            image_size=spec.image_size, patch_size=spec.patch_size, hidden_dim=spec.embed_dim
        )
        sizes["num_channels"] = spec.in_channels
        options = dict(
            use_class_token=class_token, use_patch_bias=bias, data_format="channels_last"
        )
        return ViTPatchingAndEmbedding(**sizes, **options, dtype=dtype, name="projection")(images)

    return build


class _Embedding(KerasEmbedding):
    def projection(self, model: Any) -> Any:
        """The convolution inside; positions of zero leave tokens alone. In a train step they have a
        gradient, as they have for the layer's users."""
        layer = model.get_layer("projection")
        table = layer.position_embedding
        table.embeddings.assign(self._tensor(np.zeros(table.embeddings.shape)))
        return layer.patch_embedding

    def sequence(self, class_token: NDArray[Any], positions: NDArray[Any]) -> Operation:
        """The same layer with its class token, and with positions."""
        with self._scope():
            model = model_of(_vit(True), self.spec, self.weights.bias is not None, self.dtype.name)
            layer, whole = (
                model.get_layer("projection"),
                KerasBackend.engines[self.engine][1](model),
            )
            for variable, weight in zip(
                layer.patch_embedding.trainable_variables,
                self.layer.trainable_variables,
                strict=True,
            ):
                variable.assign(weight)
            layer.class_token.assign(self._tensor(class_token.reshape(1, 1, -1)))
            layer.position_embedding.embeddings.assign(self._tensor(positions))

        def function(images: Any) -> Any:
            with self._scope():
                return whole.forward(images)

        return Operation(self, function, lambda outputs: {"forward": self.fetch(outputs)})


class KerasHubBackend(KerasBackend):
    """KerasHub on one of Keras's frameworks."""

    formulations = {"vit": (_vit(False), HWIO)}
    embedding = _Embedding

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self.name = f"keras-hub-{engine.name}"
        self.packages = ("keras_hub", *self.packages)
        self.implementations = tuple(
            dataclasses.replace(implementation, backend=self.name, peer=True)
            for implementation in self.implementations
        )

    @property
    def extra(self) -> str:
        """KerasHub's own, and its framework's."""
        return f"keras-hub,{self.engine.name}"

    def usage(self, implementation: Implementation, spec: PatchEmbedSpec, batch: int) -> str:
        """KerasHub's own layer, with positions of zero."""
        sizes = f"{spec.image_size}, {spec.patch_size}, {spec.embed_dim}, {spec.in_channels}"
        return f"""\
import os

os.environ["KERAS_BACKEND"] = "{self.engine.name}"
import keras
import numpy as np
from keras_hub.src.models.vit.vit_layers import ViTPatchingAndEmbedding

layer = ViTPatchingAndEmbedding({sizes}, use_class_token=False, dtype=kernel.dtype.name)
model = keras.Sequential([keras.Input({(*spec.image_size, spec.in_channels)}, dtype=kernel.dtype.name), layer])
layer.set_weights([kernel, bias, np.zeros({(spec.num_patches, spec.embed_dim)})])


def embed(images):
    return model.predict_on_batch(images)
"""  # noqa: E501

    def refuses(self, implementation: Implementation, spec: PatchEmbedSpec) -> str | None:
        """The layer knows images without padding and patches that do not overlap."""
        if (
            spec.spatial_axes == 2
            and spec.stride == spec.patch_size
            and not any(map(any, spec.effective_padding))
        ):
            return None
        return f"{implementation.name} knows images without padding and patches that do not overlap"


BACKENDS = tuple(
    KerasHubBackend(engine) for engine in (TorchBackend(), TensorFlowBackend(), JaxBackend())
)
