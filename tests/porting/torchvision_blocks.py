"""torchvision's own VisionTransformer run block by block."""

import numpy as np

from .torchvision_beside import load


def main() -> None:
    load()
    import torch
    from torchvision.models.vision_transformer import VisionTransformer

    from patchparity.porting.objects.blocks import read_semantics

    from .test_blocks import (
        DEPTH,
        HEADS,
        D,
        M,
        Names,
        grown,
        pixels,
        require_replaced,
        require_run,
        same,
        spec_said,
    )

    model = grown(VisionTransformer(32, 8, DEPTH, HEADS, D, M, num_classes=5))
    images = pixels(32)
    run, replaced, result = require_run(model, images, lambda: model(torch.from_numpy(images)))
    same(run.output, result)
    same(run.pooled, run.tokens[:, 0])
    assert run.names[1] == "encoder.layers.encoder_layer_1"
    names = Names(model)
    for name in run.names:
        for end in ("weight", "bias"):
            held = names.held[f"{name}.self_attention.in_proj_{end}"]
            names.held[f"{name}.self_attention.in_proj.{end}"] = held
    require_replaced(
        replaced,
        lambda at: names.fused(
            at,
            ("ln_1", "ln_2"),
            "self_attention.in_proj",
            "self_attention.out_proj",
            ("mlp.0", "mlp.3"),
        ),
        spec_said(model),
    )
    said = read_semantics(model)
    assert np.isclose(said["norm_epsilon"], 1e-6)
    print("ok", said["pooling"], said["prefix_tokens"])


if __name__ == "__main__":
    main()
