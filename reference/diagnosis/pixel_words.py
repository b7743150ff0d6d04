"""What is said of images that were made of a picture: filters, crops, mean and std, and where they
part from what was expected."""

import dataclasses
from typing import Any

import numpy as np

from ..fold import CLIP, IMAGENET
from ..pixel_steps import AspectCrop, Crop, Divide, Normalize, PixelRecipe, Rescale, Resize, Step
from .pixel_ways import Fit

KNOWN = {
    "ImageNet's": IMAGENET,
    "OpenAI CLIP's": CLIP,
    "one half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Means and standard deviations, of pixels from 0 to 1, that image processors have."""


def way_in_words(fit: Fit) -> str:
    """A way in few words, to be held against others."""
    resizes = [step for step in fit.steps if isinstance(step, Resize)]
    method = resizes[0].method if resizes else "no resizing"
    shape = ", ".join(
        step.words().replace(f" by {method}", "") for step in fit.steps if step not in resizes
    )
    place = f"{resizes[0].to} {resizes[0].size[0]}" if resizes and resizes[0].to != "exact" else ""
    on = " on floats" if fit.on_floats else ""
    return " ".join(part for part in (method + on, place, shape) if part)


def library_of(fit: Fit) -> str:
    """Whose filter it is."""
    resizes = [step for step in fit.steps if isinstance(step, Resize)]
    return resizes[0].method.partition("-")[0] if resizes else "crop"


def normalization_of(fit: Fit) -> dict[str, Any]:
    """Factor and offset of each channel as people write them: mean, std, rescaling."""
    factor, offset = np.array(fit.factor), np.array(fit.offset)
    if np.allclose(factor, 1, rtol=1e-4) and np.allclose(offset, 0, atol=1e-2):
        return {"words": ["not rescaled, 0 to 255"], "kind": "bytes"}
    if np.allclose(factor, 1 / 255, rtol=1e-4) and np.allclose(offset, 0, atol=1e-4):
        return {"words": ["divided by 255"], "kind": "rescaled"}
    if np.allclose(factor, 1 / 255**2, rtol=1e-3) and np.allclose(offset, 0, atol=1e-5):
        return {"words": ["divided by 255 twice"], "kind": "rescaled twice"}
    safe = np.where(factor == 0, np.nan, factor)
    for kind, by in (("", 255.0), ("without division by 255", 1.0), ("twice", 255.0**2)):
        std = 1 / (by * safe)
        mean = -offset * std
        for name, (means, stds) in KNOWN.items():
            if np.allclose(mean, means, atol=2e-4) and np.allclose(std, stds, rtol=1e-3):
                words = {
                    "": f"normalized by {name} mean and std",
                    "without division by 255": f"normalized by {name} mean and std without "
                    "division by 255",
                    "twice": f"divided by 255 twice, normalized by {name} mean and std",
                }[kind]
                return {
                    "words": [words], "kind": kind or "normalized", "name": name,
                    "mean": list(means), "std": list(stds),
                }  # fmt: skip
    std, shares = 1 / (255 * safe), {}
    mean = -offset * std
    for name, (means, stds) in KNOWN.items():
        shares[name] = (
            np.allclose(mean, means, atol=2e-4), np.allclose(std, stds, rtol=1e-3),
            np.allclose(mean, means[::-1], atol=2e-4) and np.allclose(std, stds[::-1], rtol=1e-3),
        )  # fmt: skip
    words = (
        f"normalized by mean {' '.join(f'{value:.4g}' for value in mean)} and std "
        f"{' '.join(f'{value:.4g}' for value in std)}"
    )
    for name, (of_mean, of_std, turned) in shares.items():
        if turned:
            words += f" ({name}, in reverse)"
        elif of_mean or of_std:
            words += f" (the {'mean' if of_mean else 'std'} is {name})"
    if np.allclose(factor, 1, rtol=1e-4):
        words = f"not rescaled, less {' '.join(f'{value:.4g}' for value in -offset)}"
    return {
        "words": [words], "kind": "other", "mean": mean.tolist(), "std": std.tolist()
    }  # fmt: skip


def parted(near: list[Fit], normalization: dict[str, Any], expected: PixelRecipe) -> list[str]:
    """The steps where images and what was expected part, in words."""
    told = []
    first = near[0]
    wanted = [step for step in expected.steps if isinstance(step, Resize)]
    resized = [[step for step in fit.steps if isinstance(step, Resize)] for fit in near]
    if wanted and not any(resized):
        told.append("the picture was not resized")
    elif wanted and not any(
        steps and _alike(steps[0].method, wanted[0].method) for steps in resized
    ):
        told.append(_methods_differ(wanted[0].method, resized[0][0].method))
    orders = [
        [type(step).__name__ for step in steps if isinstance(step, Resize | Crop | AspectCrop)]
        for steps in (expected.steps, first.steps)
    ]
    if orders[0] != orders[1] and not any(
        [type(step).__name__ for step in fit.steps] == orders[0] for fit in near
    ):
        told.append(
            "cropped before it was resized"
            if orders[1][:1] == ["Crop"] and "Resize" in orders[1]
            else f"resized, and {expected.name} does not"
            if "Resize" in orders[1] and "Resize" not in orders[0]
            else "not cropped"
            if "Crop" in orders[0] and "Crop" not in orders[1]
            else "cropped"
            if "Crop" in orders[1] and "Crop" not in orders[0]
            else "cropped otherwise"
        )
    elif wanted and not any(
        steps and (steps[0].size, steps[0].to) == (wanted[0].size, wanted[0].to)
        for steps in resized
    ):
        told += [
            f"resized to {'×'.join(map(str, steps[0].size))} ({steps[0].to}) for "
            f"{'×'.join(map(str, wanted[0].size))} ({wanted[0].to})"
            for steps in resized[:1]
            if steps
        ]
    floats = bool(expected.steps) and computes(expected.steps[0])
    if wanted and resized[0] and all(fit.on_floats != floats for fit in near):
        told.append(f"resized as {'floats' if first.on_floats else 'bytes'}")
    if first.order == "bgr":
        told.append("channels were read as BGR")
    if first.layout != "NCHW":
        told.append("the axes stand in another order")
    return told + _normalizations_differ(first, expected)


def _alike(one: str, other: str) -> bool:
    """Whether two methods are one but for Pillow's version."""
    return one.removesuffix("-12") == other.removesuffix("-12")


def _methods_differ(wanted: str, found: str) -> str:
    """How two methods differ, in words."""
    libraries = [each.partition("-")[0] for each in (wanted, found)]
    filters = [
        each.partition("-")[2].removesuffix("-12").removesuffix("-antialias")
        for each in (wanted, found)
    ]
    stretched = [
        each.endswith("-antialias") or each.startswith("pillow-") for each in (wanted, found)
    ]
    told = []
    if filters[0] != filters[1] and {*filters} not in (
        {"linear", "bilinear"},
        {"cubic", "bicubic"},
    ):
        told.append(f"{filters[1]} for {filters[0]}")
    if stretched[0] != stretched[1] and "nearest" not in "".join(filters):
        told.append(f"antialias was {'on' if stretched[1] else 'off'}")
    if libraries[0] != libraries[1]:
        told.append(f"{libraries[1]} for {libraries[0]}")
    return f"resized by {found} for {wanted}" + (f" ({', '.join(told)})" if told else "")


def _normalizations_differ(fit: Fit, expected: PixelRecipe) -> list[str]:
    """How mean, std or rescaling differ from those that were expected."""
    probe = np.array([[[0.0] * 3, [255.0] * 3]])
    for step in expected.steps:
        if not isinstance(step, Resize | Crop | AspectCrop):
            probe = np.asarray(step.apply(probe), np.float64)
    offset, factor = probe[0, 0], (probe[0, 1] - probe[0, 0]) / 255
    near_factor = np.allclose(factor, fit.factor, rtol=1e-3)
    # a tenth of a step of 8 bits
    if near_factor and np.allclose(offset, fit.offset, atol=0.1 * float(np.abs(factor).max())):
        return []
    found = normalization_of(fit)["words"][0]
    wanted = normalization_of(
        dataclasses.replace(fit, factor=tuple(factor.tolist()), offset=tuple(offset.tolist()))
    )["words"][0]
    return [f"{found} for {wanted}"]


def computes(step: Step) -> bool:
    """Whether a step makes floats."""
    return isinstance(step, Rescale | Normalize | Divide)
