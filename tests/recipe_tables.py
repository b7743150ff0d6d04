"""`python -m tests.recipe_tables`: docs/recipes.md made anew from the recipes. A test holds the
page to them."""

from pathlib import Path

from patchparity.reference.pixels import METHODS
from patchparity.reference.recipes import LIBRARIES, RECIPES, in_words
from patchparity.reference.resize import KERNEL_RECIPES

PAGE = Path(__file__).parent.parent / "docs" / "recipes.md"


def table(names: list[str]) -> list[str]:
    """A Markdown table of recipes."""
    lines = ["| recipe | whose | rule | what nobody would guess |", "|---|---|---|---|"]
    for name in names:
        recipe = RECIPES[name]
        square = "square grids alone" if recipe.square else ""
        note = "; ".join(part for part in (recipe.note, square) if part)
        call = recipe.call if name in LIBRARIES or name == "dinov2" else f"`{recipe.call}`"
        lines.append(f"| `{name}` | {call} | {in_words(recipe.rule)} | {note} |")
    return lines


def page() -> str:
    """The whole page."""
    libraries = [*LIBRARIES, "dinov2"]
    operations = [name for name in RECIPES if name not in libraries]
    kernels = [name for name in KERNEL_RECIPES if name.startswith("pi-")]
    lines = [
        "# Recipes",
        "",
        "Made by `python -m tests.recipe_tables` from `reference/recipes.py`; the tests run each "
        "beside the library that it names. How they are used: [resizing.md](resizing.md).",
        "",
        "## What libraries do to their tables of positions",
        "",
        *table(libraries),
        "",
        "## Operations",
        "",
        *table(operations),
        "",
        "## Kernels",
        "",
        "By the pseudo-inverse of resizing an image (FlexiViT): "
        + ", ".join(f"`{name}`" for name in kernels)
        + ". As though the kernel were an image: `plain-` and the name of an operation of torch, "
        "JAX or TensorFlow, `plain-torch-bicubic` say.",
        "",
        "## Pictures",
        "",
        "Filters of `resize_pixels`, by library: "
        + ", ".join(f"`{name}`" for name in METHODS)
        + ". A name that ends in `-12` is Pillow's up to version 12, which resizes columns first.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
