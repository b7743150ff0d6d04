#!/usr/bin/env bash
# transformers' HieraBackbone and HieraModel share every tensor and do not compute the same: the model unrolls its tokens before the first block, so that those
# of one mask unit lie together, the backbone leaves them in the order of the image, and its attention then takes other tokens for one mask unit.
#
# Guess beforehand: a backbone is the model with its stages given out, so that the stages of one checkpoint are the same in both, to rounding.
# Seen: of one state dict the input of the first block holds the same rows in another order, and what the first stage makes of each token differs by about a
# hundredth of the largest value, where rounding is a millionth.
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.23.0"
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PROGRAM'
import torch
import transformers

print("transformers", transformers.__version__, "torch", torch.__version__)


def first_input_and_stage(model, images):
    """What enters the first block, and what the first stage gives, (B, N, D)."""
    seen = []
    root = model if hasattr(model, "encoder") else next(each for each in model.children() if hasattr(each, "encoder"))
    stage = root.encoder.stages[0] if hasattr(root.encoder, "stages") else root.encoder.layers[0]
    block = stage.layers[0] if hasattr(stage, "layers") else stage.blocks[0]
    block.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    stage.register_forward_hook(lambda _, given, found: seen.append(found[0] if isinstance(found, tuple) else found))
    with torch.no_grad():
        model(images)
    return [each.reshape(1, -1, each.shape[-1]) for each in seen[:2]]


def pair(config, whole, backbone):
    torch.manual_seed(0)
    one = whole(config).eval()
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape))
    other = backbone(config).eval()
    other.load_state_dict(one.state_dict(), strict=False)
    images = torch.randn(1, 3, *([config.image_size] * 2 if isinstance(config.image_size, int) else config.image_size))
    return first_input_and_stage(one, images), first_input_and_stage(other, images)


def apart(one, other):
    return float((one - other).abs().max() / one.abs().max())


sizes = dict(embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8])
(model_in, model_out), (backbone_in, backbone_out) = pair(
    transformers.HieraConfig(image_size=[64, 64], **sizes), transformers.HieraModel, transformers.HieraBackbone
)
same_rows = torch.equal(model_in.sort(dim=1).values, backbone_in.sort(dim=1).values)
order = torch.cdist(model_in[0], backbone_in[0]).argmin(dim=1)  # of each of the model's tokens the place in the backbone
out = apart(model_out, backbone_out[:, order])
print(f"into the first block: {apart(model_in, backbone_in):.3g} apart, the same rows in another order: {same_rows}")
print(f"out of the first stage, token by token: {out:.3g} apart")
assert same_rows and len(set(order.tolist())) == len(order) and apart(model_in, backbone_in) > 0.1 and out > 1e-3
print("as found: one checkpoint, two orders of tokens, other features")
PROGRAM
