"""The lines of code that `recommend` shows for torch's formulations."""

from ...reference.spec import PatchEmbedSpec
from ..base import Implementation
from .formulations import CHANNELS_LAST, WIDEST_WORD, patches_last


def usage(implementation: Implementation, spec: PatchEmbedSpec, batch: int) -> str:
    """What each formulation is in plain torch."""
    axes, channels, width, count, values = (
        spec.spatial_axes,
        spec.in_channels,
        spec.embed_dim,
        spec.num_patches,
        spec.patch_values,
    )
    amounts = [amount for pair in reversed(spec.effective_padding) for amount in pair]
    pad = (
        f"    images = torch.nn.functional.pad(images, {tuple(amounts)})\n" if any(amounts) else ""
    )
    unfold = "".join(
        f".unfold({2 + axis}, {size}, {step})"
        for axis, (size, step) in enumerate(zip(spec.patch_size, spec.stride, strict=True))
    )
    patches = f"    patches = images{unfold}.permute{patches_last(spec)}.reshape(-1, {values})\n"
    imports = ""
    formulation, tokens = implementation.formulation, f"  # (B, {count}, {width})"
    layer, extra, code = (
        f"torch.nn.Linear({values}, {width}, dtype=kernel.dtype)",
        "",
        f"projection(patches).reshape(len(images), {count}, {width}){tokens}",
    )
    memory_format = f"torch.channels_last{'' if axes == 2 else '_3d'}"
    if formulation in ("conv2d", CHANNELS_LAST, "einsum"):
        layer = (
            f"torch.nn.Conv{axes}d({channels}, {width}, {spec.patch_size}, "
            f"stride={spec.stride}, dtype=kernel.dtype)"
        )
        code = f"projection(images).flatten(2).transpose(1, 2){tokens}"
    if formulation == CHANNELS_LAST:
        extra = (
            f"projection.to(memory_format={memory_format})\n# Keep images so too: "
            f"images.contiguous(memory_format={memory_format})\n"
        )
    if formulation == "einsum":
        grid, patch = "thw"[3 - axes :], "xyz"[3 - axes :]
        patches = f"    patches = images{unfold}\n"
        product = f'torch.einsum("bc{grid}{patch},dc{patch}->b{grid}d", patches, projection.weight)'
        code = f"{product}.reshape(len(images), {count}, {width}) + projection.bias{tokens}"
    if formulation == "unfold":
        columns = (
            f"torch.nn.functional.unfold(images, {spec.patch_size[-2:]}, stride={spec.stride[-2:]})"
        )
        code = f"projection({columns}.transpose(1, 2)){tokens}"
    if formulation in ("linear_words", "linear_prepacked"):
        imports, patches = "import math\n\n", _word_patches_code(spec)
    if formulation == "linear_prepacked":
        rows = batch * count
        extra = (
            "packed = torch.ops.mkldnn._reorder_linear_weight(projection.weight.detach(), "
            f"{rows})  # for a batch of {batch}\n"
        )
        product = (
            'torch.ops.mkldnn._linear_pointwise(patches, packed, projection.bias, "none", [], "")'
        )
        code = f"{product}.reshape(len(images), {count}, {width}){tokens}"
    compiled = (
        "forward = torch.compile(forward, fullgraph=True, dynamic=False)\n\n\n"
        if implementation.mode == "compile"
        else ""
    )
    return f"""\
{imports}import torch

projection = {layer}
with torch.no_grad():
    projection.weight.copy_(kernel)
    projection.bias.copy_(bias)
{extra}

def forward(images):
{pad}{patches if "patches" in code else ""}    return {code}


{compiled}@torch.inference_mode()
def embed(images):
    return forward(images)
"""


def _word_patches_code(spec: PatchEmbedSpec) -> str:
    """Lines that do as `_word_patches` does."""
    *sizes, (width, step) = zip(spec.patch_size, spec.stride, strict=True)
    unfold = "".join(
        f".unfold({2 + axis}, {size}, {stride})" for axis, (size, stride) in enumerate(sizes)
    )
    unfold += f".unfold({1 + spec.spatial_axes}, {width} // pixels, {step} // pixels)"
    return f"""\
    pixels = math.gcd({width}, {step}, images.shape[-1], {WIDEST_WORD} // images.element_size())  # that are copied at once
    word = {{2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}}[pixels * images.element_size()]
    windows = images.contiguous().view(word){unfold}
    patches = windows.permute{patches_last(spec)}.reshape(-1, {spec.patch_values} // pixels).contiguous().view(images.dtype)
"""  # noqa: E501
