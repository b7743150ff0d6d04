"""`python -m tests.gallery`: docs/mistakes.md and its pictures made anew. Each mistake is made on
purpose, `diagnose` names it, and its tokens are drawn as the patches that the right kernel would
have made them of. A test holds the page to it."""

import dataclasses
import functools
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchparity.reference.diagnosis.diagnose import Diagnosis, diagnose
from patchparity.reference.mistakes import CATALOGUE
from patchparity.reference.pipeline import Pipeline
from patchparity.reference.sequence import sincos_positions
from patchparity.reference.spec import PatchEmbedSpec
from patchparity.reference.weights import PatchEmbedWeights, PrefixToken, SequenceLayout

Array = NDArray[Any]
FOLDER = Path(__file__).parent.parent / "docs"
PAGE, PICTURES = FOLDER / "mistakes.md", FOLDER / "mistakes"
HEIGHT, WIDTH, PATCH = 64, 96, 8
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, as torchvision has them."""
HALF = 0.5
SECTIONS = {
    "images": "Pixels",
    "kernel": "The kernel's axes",
    "bias": "The bias",
    "sizes": "Stride, padding, remainders",
    "arithmetic": "Arithmetic",
    "tokens": "The order and shape of tokens",
    "behind": "What stands behind the projection",
    "sequence": "Prefix tokens and positions",
}


@dataclass(frozen=True)
class Example:
    """A mistake that is made on purpose.

    Args:
        id: stable name, of the picture's file too.
        section: a key of `SECTIONS`.
        make: the wrong output of the right program.
        right: the program, of what the mistake needs: a sequence, a padding, a remainder.
    """

    id: str
    section: str
    make: Callable[[Pipeline], Pipeline | Array]
    right: Pipeline


def scene(height: int, width: int, seed: int) -> Array:
    """A house on a hill by day, shape `(3, H, W)` from 0 to 1: no two corners alike, with grain."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    sky = np.stack([0.45 + 0.35 * rows, 0.65 + 0.2 * rows, 0.95 - 0.1 * rows])
    sun = (rows - 0.22) ** 2 * (height / width) ** 2 + (columns - 0.8 + 0.5 * seed) ** 2 < 0.006
    hill = rows > 0.66 + 0.1 * np.sin(5 * columns + seed)
    house = (abs(columns - 0.3 - 0.2 * seed) < 0.13) & (rows > 0.45) & (rows < 0.8)
    roof = (rows <= 0.45) & (rows > 0.22 + 1.3 * abs(columns - 0.3 - 0.2 * seed))
    door = (abs(columns - 0.35 - 0.2 * seed) < 0.03) & (rows > 0.62) & (rows < 0.8)
    drawn = sky
    for where, color in (
        (sun, (1.0, 0.9, 0.2)),
        (hill, (0.25, 0.6, 0.2)),
        (house, (0.95, 0.9, 0.8)),
        (roof, (0.8, 0.15, 0.1)),
        (door, (0.3, 0.15, 0.05)),
    ):
        drawn = np.where(where, np.array(color)[:, None, None], drawn)
    return (drawn + 0.01 * rng.standard_normal(drawn.shape)).clip(0, 1)


def program(
    height: int = HEIGHT,
    width: int = WIDTH,
    sequence: bool = False,
    norm: bool = False,
    **sizes: Any,
) -> Pipeline:
    """The right program: two scenes, a kernel whose rows are orthonormal, so that its transpose
    makes pixels of tokens again, and where asked a class token, a register and positions."""
    spec = PatchEmbedSpec(
        image_size=(height, width),
        patch_size=PATCH,
        in_channels=3,
        embed_dim=3 * PATCH * PATCH,
        **sizes,
    )
    rng = np.random.default_rng(0)
    square = rng.standard_normal((spec.embed_dim, spec.embed_dim))
    kernel = np.linalg.qr(square)[0].reshape(spec.embed_dim, PATCH, PATCH, 3)
    weights = PatchEmbedWeights(kernel, 0.3 * rng.standard_normal(spec.embed_dim))
    if sequence:
        faces = rng.uniform(-1, 1, (2, spec.patch_values)) * [[1.0], [0.4]] @ weights.matrix.T
        positions = 0.3 * rng.standard_normal((spec.num_patches + 2, spec.embed_dim))
        positions[2:] = 0.6 * sincos_positions(spec.grid, spec.embed_dim)
        both: tuple[PrefixToken, ...] = ("class_token", "register_tokens")
        weights = dataclasses.replace(
            weights,
            class_token=faces[0],
            register_tokens=faces[1:],
            positions=positions,
            layout=SequenceLayout(prefix=both, positioned=both),
        )
    images = np.stack([scene(height, width, seed) for seed in (0, 1)])
    images = ((images - HALF) / HALF).astype(np.float32)
    return Pipeline(images, weights.astype(np.float32), spec, to_sequence=sequence)


PLAIN = program()
SEQUENCE = program(sequence=True)
OF_ITS_OWN = {
    "padding-same": program(stride=7, padding=4, remainder="floor"),
    "pad-end-for-floor": program(HEIGHT - 3, WIDTH - 3, remainder="floor"),
}
"""The right program of mistakes that need padding, or a remainder."""


def of_images(change: Callable[[Array], Array]) -> Callable[[Pipeline], Pipeline]:
    """The mistake of giving other images."""
    return lambda p: dataclasses.replace(p, images=change(p.images).astype(np.float32))


def of_tokens(change: Callable[[Array], Array]) -> Callable[[Pipeline], Array]:
    """The mistake of doing something to the output."""
    return lambda p: change(p.run(np.float32).astype(np.float64)).astype(np.float32)


def channel(values: tuple[float, ...]) -> Array:
    """One number a channel, beside images."""
    return np.array(values)[:, None, None]


def raw(images: Array) -> Array:
    """Normalized pixels as they were, 0 to 1."""
    return images.astype(np.float64) * HALF + HALF


def grid(tokens: Array, change: Callable[[Array], Array]) -> Array:
    """Tokens after a change of their grid `(B, rows, columns, D)`."""
    shape = len(tokens), *PLAIN.spec.grid, tokens.shape[-1]
    return change(tokens.reshape(shape)).reshape(tokens.shape)


def viewed(images: Array) -> Array:
    """Images whose patches are their memory, K values at a time, channels first."""
    patches = images.reshape(len(images), *PLAIN.spec.grid, 3, PATCH, PATCH)
    return patches.transpose(0, 3, 1, 4, 2, 5).reshape(images.shape)


SHUFFLED = np.random.default_rng(5).permutation(PLAIN.spec.num_patches)
MORE: dict[str, dict[str, Callable[[Pipeline], Pipeline | Array]]] = {
    "images": {
        "imagenet-for-half": of_images(
            lambda images: (raw(images) - channel(MEAN)) / channel(DEVIATION)
        ),
        "divided-by-255-twice": of_images(lambda images: (raw(images) / 255 - HALF) / HALF),
        "normalized-twice": of_images(lambda images: (images - HALF) / HALF),
        "images-gray": of_images(
            lambda images: np.broadcast_to(images.mean(1, keepdims=True), images.shape)
        ),
        "images-flipped-across": of_images(lambda images: images[..., ::-1]),
        "images-flipped-down": of_images(lambda images: images[..., ::-1, :]),
        "images-shifted": of_images(lambda images: np.roll(images, 1, axis=-1)),
        "images-viewed": of_images(viewed),
        "images-permuted": of_images(lambda images: images[::-1]),
    },
    "tokens": {
        "tokens-flipped-across": of_tokens(lambda tokens: grid(tokens, lambda g: g[:, :, ::-1])),
        "tokens-flipped-down": of_tokens(lambda tokens: grid(tokens, lambda g: g[:, ::-1])),
        "tokens-permuted": of_tokens(lambda tokens: tokens[:, SHUFFLED]),
        "grid-unflattened": of_tokens(
            lambda tokens: tokens.reshape(len(tokens), *PLAIN.spec.grid, -1)
        ),
        "last-token-missing": of_tokens(lambda tokens: tokens[:, :-1]),
    },
    "behind": {
        "activation-behind": of_tokens(lambda tokens: tokens.clip(0)),
        "norm-behind": of_tokens(
            lambda tokens: (
                (tokens - tokens.mean(-1, keepdims=True))
                / np.sqrt(tokens.var(-1, keepdims=True) + 1e-6)
            )
        ),
        "output-clamped": of_tokens(lambda tokens: tokens.clip(-1, 1)),
        "output-scaled": of_tokens(lambda tokens: tokens * PLAIN.spec.embed_dim**-0.5),
        "dropout": of_tokens(
            lambda tokens: tokens * (np.random.default_rng(1).random(tokens.shape) > 0.1) / 0.9
        ),
    },
    "sequence": {
        "positions-missing": lambda p: p.with_weights(positions=None),
        "prefix-last": of_tokens(lambda tokens: np.roll(tokens, -2, axis=1)),
        "prefix-missing": of_tokens(lambda tokens: tokens[:, 2:]),
    },
}
"""Mistakes beside the catalogue's: those with numbers in them, which `diagnose` fits."""


def made_of(wrong: Pipeline) -> Callable[[Pipeline], Pipeline]:
    """What makes a program that was made already."""
    return lambda _: wrong


def examples() -> Iterator[Example]:
    """Every mistake of the catalogue that this program can make, and those that are fitted."""
    for section in SECTIONS:
        default = SEQUENCE if section == "sequence" else PLAIN
        for mistake in CATALOGUE.values():
            right = OF_ITS_OWN.get(mistake.id, default)
            if mistake.stage == section and (wrong := mistake.apply(right)) is not None:
                yield Example(mistake.id, section, made_of(wrong), right)
        for name, make in MORE.get(section, {}).items():
            yield Example(name, section, make, default)


@dataclass(frozen=True)
class Shown:
    """An example, what `diagnose` says of it, and its picture as PNG."""

    example: Example
    said: Diagnosis
    picture: bytes


@functools.cache
def gallery() -> tuple[Shown, ...]:
    """All examples, made, named and drawn."""
    return tuple(map(shown, examples()))


def shown(example: Example) -> Shown:
    """Make, name and draw one example."""
    right, made = example.right, example.make(example.right)
    observed = made.run(np.float32) if isinstance(made, Pipeline) else made
    spec = made.spec if isinstance(made, Pipeline) else right.spec
    said = diagnose(right.images, right.weights, observed, right.spec)
    expected = right.run(np.float64)
    if observed.ndim != 3 or observed.shape[-1] != right.spec.embed_dim or len(observed) != 2:
        panels = [heat(expected[0]), heat(observed[0])]
    else:
        panels = [drawn(expected[0], right, right.spec), drawn(observed[0], right, spec)]
        if example.section == "arithmetic":  # which no eye sees
            apart = drawn(observed[0] - expected[0] + added(right), right, spec, stretch=True)
            panels = [panels[0], apart]
    return Shown(example, said, png(beside(panels)))


def added(right: Pipeline) -> Array:
    """What is added to the products of each row, which is no pixel's."""
    black = dataclasses.replace(right, images=np.zeros_like(right.images[:1]))
    ahead = right.weights.num_prefix_tokens if right.to_sequence else 0
    rows = black.run(np.float64)[0].copy()
    if ahead:
        rows[:ahead] = 0
    return rows


def drawn(rows: Array, right: Pipeline, spec: PatchEmbedSpec, stretch: bool = False) -> Array:
    """Tokens as the patches that the right kernel makes of them, side by side, shape `(H, W, 3)`
    from 0 to 1; prefix tokens stand in a row above."""
    known = added(right)
    rows = rows - (known if len(rows) == len(known) else right.weights.bias)
    patches = (rows @ right.weights.matrix.astype(np.float64)).reshape(-1, PATCH, PATCH, 3)
    low, high = (patches.min(), patches.max()) if stretch else (-1.0, 1.0)
    patches = ((patches - low) / (high - low)).clip(0, 1)
    ahead = max(0, len(rows) - spec.num_patches)
    columns = spec.grid[1]
    bands = [patches[:ahead]] if ahead else []
    body = patches[ahead:]
    bands += [body[start : start + columns] for start in range(0, len(body), columns)]
    lines = np.ones((len(bands), PATCH, columns * PATCH, 3))
    for line, band in zip(lines, bands, strict=True):
        line[:, : len(band) * PATCH] = np.concatenate(list(band), axis=1)
    return np.concatenate(list(lines))


def heat(values: Array) -> Array:
    """An array of any shape as gray values, its first axis down, at most a picture's size."""
    flat = values.reshape(len(values), -1)[:HEIGHT, :WIDTH]
    scaled = ((flat - flat.min()) / np.ptp(flat))[..., None]
    return np.repeat(scaled, 3, axis=-1)


def beside(panels: list[Array]) -> Array:
    """Panels side by side on white, with a gap of a patch."""
    height = max(len(panel) for panel in panels)
    width = sum(panel.shape[1] for panel in panels) + PATCH * (len(panels) - 1)
    page, left = np.ones((height, width, 3)), 0
    for panel in panels:
        page[: len(panel), left : left + panel.shape[1]] = panel
        left += panel.shape[1] + PATCH
    return page


def png(pixels: Array) -> bytes:
    """Pixels from 0 to 1 as a PNG of 32 colors, each pixel four of a screen's."""
    from PIL import Image

    out = io.BytesIO()
    large = pixels.repeat(2, axis=0).repeat(2, axis=1)
    image = Image.fromarray((large * 255).round().astype(np.uint8))
    image.quantize(32).save(out, "PNG", optimize=True)
    return out.getvalue()


HEAD = """# A gallery of mistakes

Each mistake is made on purpose, and `patchparity diagnose` is given two images, the weights and the
wrong tokens; what it says stands below each picture. The kernel's rows are orthonormal, so that a
token can be drawn as the patch that the right kernel would have made it of: on the left the first
image as the right tokens hold it, on the right as the wrong ones do; prefix tokens stand in a row
above. Pairs of mistakes are named too. What is decided by bounds, and what no output can tell
apart, stands in [check.md](check.md).

Made by `python -m tests.gallery`; a test holds the page to it.
"""


def page() -> str:
    """docs/mistakes.md."""
    lines = [HEAD]
    for section, title in SECTIONS.items():
        lines.append(f"## {title}\n")
        for each in gallery():
            if each.example.section == section:
                lines += entry(each)
    return "\n".join(lines)


def entry(each: Shown) -> list[str]:
    """The lines of one mistake."""
    name, said = each.example.id, each.said
    evidence = said.evidence
    shapes = [tuple(evidence[key]) for key in ("shape", "expected_shape")]
    wrong = (
        f"The output has the shape {shapes[0]}, for {shapes[1]}." if len(set(shapes)) > 1 else ""
    )
    if each.example.section == "arithmetic":
        wrong = "No eye sees it: on the right is the error alone, drawn as strong as it can be."
    sentence = said.explanation[0].upper() + said.explanation[1:]
    named = (said.mistakes, *said.also)
    others = [f"`{' + '.join(ids)}`" for ids in named if ids != (name,)] if said.also else []
    tied = f" No output tells it from {' or '.join(others)}." if others else ""
    return [
        f"### {name}\n",
        f"![{sentence}](mistakes/{name}.png)\n",
        " ".join(filter(None, (f"{sentence}.{tied}", wrong))) + "\n",
        f"Mend: {said.mend}.\n",
    ]


def main() -> None:
    """Write the page and its pictures, and remove those of mistakes that are gone."""
    PICTURES.mkdir(exist_ok=True)
    for path in PICTURES.glob("*.png"):
        path.unlink()
    for each in gallery():
        (PICTURES / f"{each.example.id}.png").write_bytes(each.picture)
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
