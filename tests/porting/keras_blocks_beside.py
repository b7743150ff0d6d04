"""KerasHub's models run block by block, on the backend that the process has: as many of them as are
asked for."""

import itertools
import sys

import numpy as np

B, D, HEADS, M, DEPTH = 2, 24, 3, 40, 3


def grown(model):
    numbers = np.random.default_rng(0)
    for variable in model.weights:
        shape = tuple(variable.shape)
        if variable.dtype not in ("float32", "bfloat16"):
            continue
        deviation = 0.2 if len(shape) < 2 else D**-0.5
        gamma = variable.path.rpartition("/")[2] in ("gamma", "lambda1")
        variable.assign(gamma + deviation * numbers.normal(size=shape))
    return model


def models():
    from keras_hub import models as kinds

    sizes = dict(num_layers=DEPTH, num_heads=HEADS, hidden_dim=D)
    vit = dict(image_shape=(24, 32, 3), patch_size=(8, 8), mlp_dim=M, **sizes)
    square = dict(image_shape=(32, 32, 3), patch_size=8, intermediate_dim=M, **sizes)
    backbone = kinds.ViTBackbone(**vit)
    yield "class", kinds.ViTImageClassifier(backbone=backbone, num_classes=5, preprocessor=None)
    yield None, kinds.ViTBackbone(**vit)
    yield None, kinds.DINOV2Backbone(position_embedding_shape=(32, 32, 3), **square)
    yield (
        None,
        kinds.DINOV2Backbone(
            position_embedding_shape=(32, 32, 3),
            num_register_tokens=2,
            use_swiglu_ffn=True,
            apply_layernorm=True,
            **square,
        ),
    )
    yield None, kinds.DINOV3Backbone(**square)
    yield None, kinds.CLIPVisionEncoder(**square)
    yield "attention", kinds.SigLIPVisionEncoder(**square)
    deit = {**square, "patch_size": (8, 8)}
    yield None, kinds.DeiTBackbone(**deit)
    words = kinds.CLIPTextEncoder(
        vocabulary_size=30,
        embedding_dim=16,
        hidden_dim=16,
        num_layers=DEPTH + 1,
        num_heads=2,
        intermediate_dim=20,
        max_sequence_length=5,
    )
    yield (
        None,
        kinds.CLIPBackbone(
            vision_encoder=kinds.CLIPVisionEncoder(**square), text_encoder=words, projection_dim=10
        ),
    )


ACTIVATION = {
    "CLIPVisionEncoder": "quick-gelu",
    "SigLIPVisionEncoder": "gelu-tanh",
}


def main() -> None:
    import keras

    from patchparity.porting.objects.blocks import find_blocks, read_semantics, run_blocks
    from patchparity.porting.objects.keras_blocks import numpy_array

    numbers = np.random.default_rng(5)
    count = 0
    for pooling, model in itertools.islice(models(), int(sys.argv[1])):
        kind = type(model).__name__
        grown(model)
        wide = 32
        height = 24 if kind.startswith("ViT") else 32
        images = numbers.normal(size=(B, 3, height, wide)).astype("f4")
        before = [sorted(vars(layer)) for layer in model._flatten_layers()]
        run = run_blocks(model, images)
        assert len(run.left) == DEPTH, kind
        if kind != "CLIPBackbone":
            wanted = numpy_array(model(np.moveaxis(images, 1, -1), training=False))
            seen = {"attention": run.pooled, "class": run.output}.get(pooling, run.tokens)
            np.testing.assert_array_equal(seen, wanted, err_msg=kind)
        again = run_blocks(model, images, given=run.given)
        for name in ("tokens", "pooled", "output"):
            np.testing.assert_array_equal(getattr(again, name), getattr(run, name), err_msg=kind)
        fed = [(each + numbers.normal(size=each.shape)).astype("f4") for each in run.given]
        seen = []

        def feed(number, own, seen=seen, fed=fed):
            seen.append(own)
            return fed[number]

        replaced = run_blocks(model, images, given=feed)
        np.testing.assert_array_equal(seen[0], run.entered)
        np.testing.assert_array_equal(seen[1], replaced.left[0])
        for number, (_, block) in enumerate(find_blocks(model)):
            np.testing.assert_array_equal(replaced.given[number], fed[number])
            if not kind.startswith("DINOV3"):
                alone = block(keras.ops.convert_to_tensor(fed[number]), training=False)
                alone = alone[0] if isinstance(alone, (tuple, list)) else alone
                np.testing.assert_allclose(
                    numpy_array(alone), replaced.left[number], rtol=1e-4, atol=1e-5, err_msg=kind
                )
        assert before == [sorted(vars(layer)) for layer in model._flatten_layers()], kind
        said = read_semantics(model)
        wanted = ACTIVATION.get(kind, "quick-gelu" if kind == "CLIPBackbone" else "gelu")
        # KerasHub's DINOV2SwiGLUFFN calls its activation by no attribute
        swish = getattr(model, "use_swiglu_ffn", False)
        assert said.get("activation") == (None if swish else wanted), (kind, said)
        assert said["num_heads"] == HEADS, (kind, said)
        assert said.get("pooling") == pooling, (kind, said)
        print(kind, run.names[0], said)
        count += 1
    print(count)


if __name__ == "__main__":
    main()
