#!/usr/bin/env bash
# A ViT's patch embedding whose image is split by rows over four devices is computed by each of them as a whole at 224 pixels, and split at 256.
#
# Guess beforehand: XLA gives each device the 14/4 rows of patches that it can, exchanges the few rows of pixels that cross, or tells that it does not divide.
# Seen: 224/4 = 56 rows of pixels divide, so that nothing is refused; the program gathers the whole image on every device and each computes all tokens. At 256 each computes a
# quarter and nothing is sent. A 7x7 kernel of stride 4 sends the halo alone. A split of columns is right too, but its tokens are gathered to be flattened to (B, N, D).
# Versions: jax 0.10.2, jaxlib 0.10.2 (CPU), NumPy 2.4.6, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "jax==0.10.2" "jaxlib==0.10.2" "numpy==2.4.6"
XLA_FLAGS=--xla_force_host_platform_device_count=4 "$folder/venv/bin/python" - <<'PROGRAM'
import re

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

print("jax", jax.__version__)
mesh = Mesh(np.array(jax.devices("cpu")), ("d",))


def found(size, patch, stride, padding, axis):
    """The share of one device's operations, and the collectives."""

    def embed(images, kernel):
        grid = lax.conv_general_dilated(images, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return grid.reshape(grid.shape[0], -1, grid.shape[-1])

    images, kernel = np.ones((2, size, size, 3), np.float32), np.ones((patch, patch, 3, 64), np.float32)
    split = NamedSharding(mesh, PartitionSpec(*("d" if each == axis else None for each in range(4))))
    alone = jax.jit(embed).lower(images, kernel).compile()
    placed = jax.device_put(images, split), jax.device_put(kernel, NamedSharding(mesh, PartitionSpec()))
    program = jax.jit(embed).lower(*placed).compile()
    sent = re.findall(r"= (\S+?)\{\S* (all-gather|collective-permute|all-reduce|all-to-all)(?:-start)?\(", program.as_text())
    share = program.cost_analysis()["flops"] / alone.cost_analysis()["flops"]
    print(f"{size} pixels, patch {patch}, stride {stride}, axis {axis} split: {100 * share:.0f}% of the work each; sent: {sent}")
    return round(share, 1), [name for _, name in sent]


assert found(224, 16, 16, 0, axis=1) == (1.0, ["all-gather"])
assert found(224, 16, 16, 0, axis=2) == (1.0, ["all-gather"])
share, sent = found(256, 16, 16, 0, axis=1)
assert share <= 0.3 and sent == []
share, sent = found(256, 7, 4, 3, axis=1)
assert share <= 0.3 and set(sent) == {"collective-permute"}
share, sent = found(256, 16, 16, 0, axis=2)
assert share <= 0.3 and sent == ["all-gather"]
print("as found: at 224 pixels the image is gathered and each device computes all")
PROGRAM
