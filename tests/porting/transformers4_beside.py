"""transformers 4 in a process of its own, beside the one that is installed: its models in Flax and
TensorFlow write files, and beside each what enters their first block.

Run as a script with a folder; `FOLDER` tells where transformers 4.57, tf-keras, huggingface-hub 0.x
and a tokenizers that goes with them were installed, without what they depend on.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = "PATCHPARITY_TRANSFORMERS4"
"""The variable that tells where it is installed."""

GENERATOR = np.random.default_rng(4)
TOWER = dict(
    hidden_size=36,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=20,
    image_size=24,
    patch_size=6,
    num_channels=3,
)
TEXT = dict(
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=20,
    vocab_size=99,
)
SWIN = dict(
    image_size=28, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=7
)
CONVNEXT = dict(hidden_sizes=[12, 16], depths=[1, 1], num_stages=2, image_size=32)
SEGFORMER = dict(
    num_encoder_blocks=2,
    depths=[1, 1],
    sr_ratios=[4, 2],
    hidden_sizes=[12, 16],
    patch_sizes=[7, 3],
    strides=[4, 2],
    num_attention_heads=[1, 2],
    mlp_ratios=[2, 2],
    decoder_hidden_size=8,
)
GROUPVIT = dict(
    hidden_size=16,
    depths=[1, 1, 1],
    num_hidden_layers=3,
    num_group_tokens=[4, 2, 0],
    num_output_groups=[4, 2, 2],
    image_size=24,
    patch_size=6,
    num_attention_heads=2,
    intermediate_size=16,
)
MAE = dict(
    decoder_hidden_size=16,
    decoder_num_hidden_layers=1,
    decoder_num_attention_heads=2,
    decoder_intermediate_size=8,
)
WAYS: dict[str, dict[str, Any]] = {
    "one": {},
    "safetensors": {"safe_serialization": True},
    "shards": {"max_shard_size": "4KB"},
}


def written_beside(folder: Path) -> list[Path]:
    """Folders that its models wrote, each with `truth.npz` of images and tokens."""
    installed = os.environ.get(FOLDER, "")
    if not installed:
        pytest.skip(f"{FOLDER} names no folder with transformers 4 in it")
    paths = os.pathsep.join([installed, *(path for path in sys.path if path)])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, str(folder)],
        env={**os.environ, "PYTHONPATH": paths, "TF_USE_LEGACY_KERAS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return sorted(file.parent for file in folder.glob("*/truth.npz"))


def _flax_models(library: Any) -> Iterator[tuple[str, Any, Callable[[Any, Any], Any]]]:
    """Name, model, and what of it images NCHW become."""
    import importlib

    import flax.linen
    import jax.numpy as jnp

    def of(family: str) -> Any:
        return importlib.import_module(f"transformers.models.{family}.modeling_flax_{family}")

    def embeds(layer: Any, *path: str) -> Callable[[Any, Any], Any]:
        def run(model: Any, images: Any) -> Any:
            held = model.params
            for part in path:
                held = held[part]
            given = jnp.asarray(images.transpose(0, 2, 3, 1))
            config = getattr(model.config, "vision_config", model.config)
            tokens = layer(config).apply({"params": held["embeddings"]}, given)
            if "pre_layrnorm" not in held:
                return tokens
            norm = flax.linen.LayerNorm(epsilon=config.layer_norm_eps)
            return norm.apply({"params": held["pre_layrnorm"]}, tokens)

        return run

    shape: Any = (1, 24, 24, 3)
    vit, beit = of("vit").FlaxViTEmbeddings, of("beit").FlaxBeitEmbeddings
    for name, kind, config, layer, path in (
        ("vit", "FlaxViTModel", library.ViTConfig(**TOWER), vit, ()),
        ("vit-head", "FlaxViTForImageClassification", library.ViTConfig(**TOWER), vit, ("vit",)),
        ("beit", "FlaxBeitModel", library.BeitConfig(**TOWER), beit, ()),
        (
            "beit-absolute",
            "FlaxBeitForMaskedImageModeling",
            library.BeitConfig(**TOWER, use_absolute_position_embeddings=True, use_mask_token=True),
            beit,
            ("beit",),
        ),
        (
            "dinov2",
            "FlaxDinov2Model",
            library.Dinov2Config(**TOWER),
            of("dinov2").FlaxDinov2Embeddings,
            (),
        ),
        (
            "clip",
            "FlaxCLIPVisionModel",
            library.CLIPVisionConfig(**TOWER),
            of("clip").FlaxCLIPVisionEmbeddings,
            ("vision_model",),
        ),
    ):
        yield (
            f"flax-{name}",
            lambda kind=kind, config=config: getattr(library, kind)(config, input_shape=shape),
            embeds(layer, *path),
        )


def _tf_models(library: Any) -> Iterator[tuple[str, Any, Callable[[Any, Any], Any], int]]:
    """Name, model, what of it images NCHW become, and their side."""
    import tensorflow as tf

    def last(images: Any) -> Any:
        return tf.transpose(images, (0, 2, 3, 1))

    def clip(model: Any, images: Any) -> Any:
        tower = model.clip.vision_model
        return tower.pre_layernorm(tower.embeddings(images))

    def mae(model: Any, images: Any) -> Any:  # which leaves tokens out at random
        part = model.vit.embeddings
        first = np.broadcast_to(part.cls_token + part.position_embeddings[:, :1], (2, 1, 36))
        return np.concatenate(
            [first, part.patch_embeddings(images) + part.position_embeddings[:, 1:]], 1
        )

    def sam(model: Any, images: Any) -> Any:
        return model.vision_encoder.patch_embed(images) + model.vision_encoder.pos_embed

    def group(model: Any, images: Any) -> Any:
        return model.groupvit.vision_model.embeddings(images)

    vit = library.ViTConfig(**TOWER)
    absolute = dict(use_absolute_position_embeddings=True, use_mask_token=True)
    sam_config = library.SamConfig(
        vision_config=dict(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            output_channels=8,
            mlp_dim=16,
            window_size=2,
            global_attn_indexes=[0],
        ),
        prompt_encoder_config=dict(hidden_size=8, image_size=32, patch_size=8),
        mask_decoder_config=dict(
            hidden_size=8,
            mlp_dim=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            iou_head_hidden_dim=8,
        ),
    )
    yield from (
        ("vit", lambda: library.TFViTModel(vit), lambda m, x: m.vit.embeddings(x), 24),
        (
            "vit-head",
            lambda: library.TFViTForImageClassification(vit),
            lambda m, x: m.vit.embeddings(x),
            24,
        ),
        (
            "deit",
            lambda: library.TFDeiTForMaskedImageModeling(library.DeiTConfig(**TOWER)),
            lambda m, x: m.deit.embeddings(last(x)),
            24,
        ),
        ("clip", lambda: library.TFCLIPVisionModel(library.CLIPVisionConfig(**TOWER)), clip, 24),
        (
            "clip-both",
            lambda: library.TFCLIPModel(library.CLIPConfig(text_config=TEXT, vision_config=TOWER)),
            clip,
            24,
        ),
        (
            "mae",
            lambda: library.TFViTMAEForPreTraining(library.ViTMAEConfig(**TOWER, **MAE)),
            mae,
            24,
        ),
        (
            "blip",
            lambda: library.TFBlipVisionModel(library.BlipVisionConfig(**TOWER)),
            lambda m, x: m.embeddings(x),
            24,
        ),
        (
            "swin",
            lambda: library.TFSwinForMaskedImageModeling(
                library.SwinConfig(**SWIN, encoder_stride=8)
            ),
            lambda m, x: m.swin.embeddings(x)[0],
            27,
        ),
        (
            "convnext",
            lambda: library.TFConvNextForImageClassification(library.ConvNextConfig(**CONVNEXT)),
            lambda m, x: m.convnext.embeddings(x),
            32,
        ),
        (
            "segformer",
            lambda: library.TFSegformerForSemanticSegmentation(
                library.SegformerConfig(**SEGFORMER)
            ),
            lambda m, x: m.segformer.encoder.embeddings[0](last(x))[0],
            32,
        ),
        (
            "data2vec",
            lambda: library.TFData2VecVisionModel(
                library.Data2VecVisionConfig(**TOWER, **absolute)
            ),
            lambda m, x: m.data2vec_vision.embeddings(x, bool_masked_pos=None),
            24,
        ),
        (
            "groupvit",
            lambda: library.TFGroupViTVisionModel(library.GroupViTVisionConfig(**GROUPVIT)),
            group,
            24,
        ),
        ("sam", lambda: library.TFSamModel(sam_config), sam, 32),
    )


def _write(folder: Path, model: Any, run: Callable[[Any, Any], Any], side: int, way: str) -> None:
    model.save_pretrained(folder, **WAYS[way])
    images = GENERATOR.standard_normal((2, 3, side, side)).astype(np.float32)
    tokens = np.asarray(run(model, images))
    np.savez(folder / "truth.npz", images=images, tokens=tokens.reshape(2, -1, tokens.shape[-1]))


def main(folder: Path) -> None:
    """Write all of them, each in every way that its library has."""
    from transformers.utils import import_utils

    import_utils._sklearn_available = False  # which needs more than is installed here, for nothing
    import jax
    import tensorflow as tf
    import transformers

    for way in WAYS:
        for name, make, run in _flax_models(transformers):
            model = make()
            model.params = jax.tree.map(
                lambda held: 0.3 * GENERATOR.standard_normal(held.shape).astype(np.float32),
                model.params,
            )
            _write(folder / f"{name}-{way}", model, run, 24, way)
        for name, make, run, side in _tf_models(transformers):
            tf.keras.backend.clear_session()
            model = make()
            model.build_in_name_scope()  # as from_pretrained does
            for weight in model.weights:
                if weight.dtype.is_floating:
                    values = 0.3 * GENERATOR.standard_normal(weight.shape)
                    weight.assign(values.astype(np.float32))
            _write(
                folder / f"tf-{name}-{way}",
                model,
                lambda m, x, run=run: run(m, tf.constant(x)),
                side,
                way,
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
