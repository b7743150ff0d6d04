"""Which mistake anyone's implementation makes."""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...porting.objects.live import LiveEmbedding
from ...porting.objects.read import read_live
from ...reference.diagnosis.diagnose import Diagnosis, diagnose
from ...reference.errors import PatchParityError
from ...reference.probes import random_images
from ...reference.weights import PatchEmbedWeights
from .containment import bitwise
from .objects import BATCH, check_object

MOST_IMAGES = 96
"""Images that a diagnosis of a live object takes at most: enough for K = 768, 770 unknowns and a
tenth more, at twelve patches an image."""


def diagnose_object(
    implementation: Any,
    *,
    seed: int = 0,
    weights: PatchEmbedWeights | str | os.PathLike[str] | Mapping[str, Any] | None = None,
    kernel_layout: str | None = None,
    image_layout: str | None = None,
    patch_size: int | tuple[int, ...] | None = None,
    in_channels: int | None = None,
    image_size: int | tuple[int, ...] | None = None,
    stride: int | tuple[int, ...] | None = None,
    padding: Any = None,
    framework: str | None = None,
    module: str | None = None,
    init: Mapping[str, Any] | None = None,
) -> Diagnosis:
    """Say which mistake a live object makes, from its output on random images; see `diagnose`.

    An output that is right there is not called correct before the object passes `check_object` too:
    a clamp, a wrong type or a batch that is written into the code shows on other images alone.

    Args:
        implementation: what `check` takes, or what `read_live` returned.
        seed: of the images; as many as show whether an output is an affine map of the patches, more
            than K + 1 patches, if 64 do.
        weights, kernel_layout, image_layout, patch_size, in_channels, image_size, stride, padding,
            framework, module, init: for what cannot be read out of it, as in `check`.

    Raises:
        PatchParityError: whatever `read_live` refuses; an object that fails on images that it
            should take.

    Examples:
        >>> import torch, patchparity
        >>> layer = torch.nn.Conv2d(3, 10, kernel_size=4, stride=4)
        >>> class Wrong(torch.nn.Module):
        ...     def forward(self, images):
        ...         return layer(images).flatten(2)
        >>> wrong = Wrong()
        >>> wrong.layer = layer
        >>> patchparity.diagnose_object(wrong).mistakes
        ('tokens-not-transposed',)
    """
    live = (
        implementation
        if isinstance(implementation, LiveEmbedding)
        else read_live(
            implementation,
            weights=weights,
            kernel_layout=kernel_layout,
            image_layout=image_layout,
            patch_size=patch_size,
            in_channels=in_channels,
            image_size=image_size,
            stride=stride,
            padding=padding,
            framework=framework,
            module=module,
            init=init,
        )
    )
    enough = math.ceil(1.1 * (live.spec.patch_values + 2) / live.spec.num_patches)
    images = random_images(live.spec, min(max(BATCH, enough), MOST_IMAGES), live.dtype, seed)
    try:
        first, second = (live.call(np.array(images)) for _ in range(2))
    except PatchParityError:  # so many images at a time are refused
        images = images[:BATCH]
        first, second = (live.call(np.array(images)) for _ in range(2))
    # A float32 object that gives 16 bits is judged as what it should give.
    judged = first.astype(images.dtype) if first.dtype.itemsize < images.dtype.itemsize else first
    diagnosis = diagnose(images, live.weights_used, judged, live.spec)
    evidence = {
        **diagnosis.evidence,
        "notes": list(live.notes),
        "repeatable": bitwise(first, second),
    }
    if diagnosis.correct:
        failed = [result for result in check_object(live, seed).results if result.verdict == "fail"]
        if failed:
            explanation = (
                f"the values on random images are right, but check fails on {failed[0].probe}: "
                f"{failed[0].message}"
            )
            return Diagnosis(False, "unknown", explanation=explanation, evidence=evidence)
    if not evidence["repeatable"] and not diagnosis.correct:
        explanation = (
            "two calls on the same images differ (is dropout or noise on?); "
            f"{diagnosis.explanation}"
        )
        return dataclasses.replace(diagnosis, explanation=explanation, evidence=evidence)
    return dataclasses.replace(diagnosis, evidence=evidence)
