"""torchvision's `interpolate_embeddings` beside ours: the largest difference."""

import numpy as np

import patchparity as pp

from .torchvision_beside import load


def main() -> None:
    """Print it."""
    load()
    import torch
    from torchvision.models.vision_transformer import interpolate_embeddings

    table = np.random.default_rng(0).standard_normal((1 + 49, 16)).astype(np.float32)
    state = {"encoder.pos_embedding": torch.from_numpy(table)[None]}
    theirs = interpolate_embeddings(384, 32, state)["encoder.pos_embedding"][0].numpy()
    ours = pp.resize_positions(table, (7, 7), (12, 12), prefix_rows=1, recipe="torchvision")
    print(float(np.abs(ours - theirs).max()))


if __name__ == "__main__":
    main()
