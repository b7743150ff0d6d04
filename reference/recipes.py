"""Resizing by name: what an operation of a framework, or a function of a library, does to a grid.

As torch 2.13, JAX 0.10.2, TensorFlow 2.21, Keras 3.15, SciPy 1.17, Pillow 13, OpenCV 5, ONNX
Runtime 1.32, OpenVINO 2026.4, MLX 0.32, transformers 5.23, timm 1.0.31 and KerasHub 0.32 compute
it; the tests run them.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import PatchParityError, nearest
from .resample import Rule


@dataclass(frozen=True)
class Recipe:
    """A named way of resizing a grid.

    Args:
        name: in kebab case.
        rule: of each axis.
        call: whose it is, as its users write it.
        enlarging: the rule of both axes where one of them grows; None for the same.
        square: whether it knows square grids alone.
        note: what a user would not guess of it.
    """

    name: str
    rule: Rule
    call: str
    enlarging: Rule | None = None
    square: bool = False
    note: str = ""

    def rules(self, grid: Sequence[int], new_grid: Sequence[int]) -> tuple[Rule, Rule]:
        """The rules of rows and columns.

        Raises:
            PatchParityError: a grid that is not square, of a function that knows no others.
        """
        for which in (grid, new_grid):
            if self.square and len(set(which)) > 1:
                raise PatchParityError(
                    f"{self.name} knows square grids alone, as {self.call} does, and this one is "
                    f"{'×'.join(map(str, which))}"
                )
        grows = any(new > old for old, new in zip(grid, new_grid, strict=True))
        rule = self.enlarging if grows and self.enlarging else self.rule
        return rule, rule


_ANTIALIAS = Rule("linear", antialias=True, edge="drop")
_CUBIC_ANTIALIAS = Rule("cubic", -0.5, antialias=True, edge="drop")
_KEYS = Rule("cubic", -0.5, edge="drop")
_SWITCHED = "its a is −0.5 with antialias and −0.75 without, also where the grid grows"


def _named(recipes: dict[str, tuple[Rule, str]], note: str = "") -> dict[str, Recipe]:
    return {name: Recipe(name, rule, call, note=note) for name, (rule, call) in recipes.items()}


def _with(rule: Rule, **changed: object) -> Rule:
    return dataclasses.replace(rule, **changed)  # type: ignore[arg-type]


def _torch() -> dict[str, Recipe]:
    recipes: dict[str, Recipe] = {}
    for mode, kernel in (("bilinear", "linear"), ("bicubic", "cubic")):
        plain, stretched = Rule(kernel), Rule(kernel, -0.5, antialias=True, edge="drop")  # type: ignore[arg-type]
        call = f"torch.nn.functional.interpolate(mode={mode!r}"
        note = _SWITCHED if mode == "bicubic" else ""
        both = "aligns no corners: the grid is shifted by (1 − step)/2"
        for end, rule, arguments, told in (
            ("", plain, "", note),
            ("-align-corners", _with(plain, coordinates="align-corners"), ", align_corners", ""),
            ("-antialias", stretched, ", antialias", note),
            (
                "-antialias-align-corners",
                _with(stretched, coordinates="shifted-corners"),
                ", antialias, align_corners",
                both,
            ),
        ):
            name = f"torch-{mode}{end}"
            recipes[name] = Recipe(name, rule, f"{call}{arguments})", note=told)
    more = {
        "torch-area": (Rule("bins"), "torch.nn.functional.interpolate(mode='area')"),
        "torch-lanczos-antialias": (
            Rule("lanczos3", antialias=True, edge="drop"),
            "torch.nn.functional.interpolate(mode='lanczos', antialias)",
        ),
        "torch-nearest": (
            Rule("nearest", coordinates="asymmetric", rounding="float32"),
            "torch.nn.functional.interpolate(mode='nearest')",
        ),
        "torch-nearest-exact": (
            Rule("nearest", rounding="float32"),
            "torch.nn.functional.interpolate(mode='nearest-exact')",
        ),
        "torch-bilinear-zeros": (Rule(edge="zero"), "torch.nn.functional.grid_sample"),
        "torch-bicubic-zeros": (
            Rule("cubic", edge="zero"),
            "torch.nn.functional.grid_sample(mode='bicubic')",
        ),
    }
    return recipes | _named(more)


def _jax() -> dict[str, Recipe]:
    rules = {
        "linear": Rule(edge="drop"),
        "cubic": _KEYS,
        "lanczos3": Rule("lanczos3", edge="drop"),
        "lanczos5": Rule("lanczos5", edge="drop"),
    }
    recipes = {
        f"jax-{method}": (rule, f"jax.image.resize(method={method!r}, antialias=False)")
        for method, rule in rules.items()
    }
    recipes |= {
        f"jax-{method}-antialias": (
            _with(rule, antialias=True),
            f"jax.image.resize(method={method!r})",
        )
        for method, rule in rules.items()
    }
    recipes["jax-cubic-pytorch"] = (
        Rule("cubic"),
        "jax.image.resize(method='cubic-pytorch', antialias=False)",
    )
    recipes["jax-cubic-pytorch-antialias"] = (
        _CUBIC_ANTIALIAS,
        "jax.image.resize(method='cubic-pytorch')",
    )
    recipes["jax-nearest"] = (
        Rule("nearest", rounding="reciprocal"),
        "jax.image.resize(method='nearest')",
    )
    return _named(recipes)


_TABLE = Rule("cubic", -0.5, edge="drop", table=1024, rounding="float32")


def _tensorflow() -> dict[str, Recipe]:
    rules = {
        "bilinear": (Rule(), _ANTIALIAS),
        "bicubic": (_TABLE, _CUBIC_ANTIALIAS),
        "lanczos3": (Rule("lanczos3", edge="drop"), Rule("lanczos3", antialias=True, edge="drop")),
        "lanczos5": (Rule("lanczos5", edge="drop"), Rule("lanczos5", antialias=True, edge="drop")),
        "mitchellcubic": (
            Rule("mitchell", edge="drop"),
            Rule("mitchell", antialias=True, edge="drop"),
        ),
    }
    recipes = {}
    for method, (plain, stretched) in rules.items():
        note = "its weights come out of a table of 1024" if method == "bicubic" else ""
        call = f"tf.image.resize(method={method!r}"
        name = f"tf-{method}"
        recipes[name] = Recipe(name, plain, f"{call})", note=note)
        recipes[f"{name}-antialias"] = Recipe(f"{name}-antialias", stretched, f"{call}, antialias)")
    more = {
        "tf-area": (Rule("area"), "tf.image.resize(method='area')"),
        "tf-nearest": (
            Rule("nearest", rounding="float32"),
            "tf.image.resize(method='nearest')",
        ),
        "tf1-bilinear": (
            Rule(coordinates="asymmetric"),
            "tf.compat.v1.image.resize_bilinear",
        ),
        "tf1-bilinear-align-corners": (
            Rule(coordinates="align-corners"),
            "tf.compat.v1.image.resize_bilinear(align_corners)",
        ),
        "tf1-bicubic": (
            _with(_TABLE, a=-0.75, edge="clamp", coordinates="asymmetric"),
            "tf.compat.v1.image.resize_bicubic",
        ),
        "tf1-bicubic-align-corners": (
            _with(_TABLE, a=-0.75, edge="clamp", coordinates="align-corners"),
            "tf.compat.v1.image.resize_bicubic(align_corners)",
        ),
    }
    return recipes | _named(more)


def _keras(known: dict[str, Recipe]) -> dict[str, Recipe]:
    """Keras calls its backend's function, under one name."""
    same = {
        "torch": {"bilinear": "torch-bilinear", "bicubic": "torch-bicubic"},
        "jax": {
            "bilinear": "jax-linear",
            "bicubic": "jax-cubic",
            "lanczos3": "jax-lanczos3",
            "lanczos5": "jax-lanczos5",
        },
        "tensorflow": {
            method: f"tf-{method}" for method in ("bilinear", "bicubic", "lanczos3", "lanczos5")
        },
    }
    recipes = {}
    for backend, methods in same.items():
        for method, like in methods.items():
            for end, argument in (("", ""), ("-antialias", ", antialias=True")):
                name = f"keras-{backend}-{method}{end}"
                call = f"keras.ops.image.resize(interpolation={method!r}{argument}) on {backend}"
                recipes[name] = Recipe(name, known[like + end].rule, call)
    return recipes


def _scipy() -> dict[str, Recipe]:
    zeros = "a last row or column is zero for some sizes, by a rounding error"
    recipes = {}
    for order, rule in (
        (1, Rule(coordinates="align-corners")),
        (3, Rule("spline3", coordinates="align-corners", edge="mirror")),
    ):
        name, call = f"scipy-zoom-{order}", f"scipy.ndimage.zoom(order={order})"
        recipes[name] = Recipe(name, _with(rule, outside_is_zero=True), call, note=zeros)
        recipes[f"{name}-filled"] = Recipe(
            f"{name}-filled", rule, call, note="without its zeros in a last row or column"
        )
    return recipes


def _pillow() -> dict[str, Recipe]:
    stretched = {"antialias": True, "edge": "drop"}
    return _named(
        {
            "pillow-nearest": (Rule("nearest", rounding="summed"), "Image.resize(NEAREST)"),
            "pillow-box": (_with(Rule("box"), **stretched), "Image.resize(BOX)"),
            "pillow-bilinear": (_ANTIALIAS, "Image.resize(BILINEAR)"),
            "pillow-hamming": (_with(Rule("hamming"), **stretched), "Image.resize(HAMMING)"),
            "pillow-bicubic": (_CUBIC_ANTIALIAS, "Image.resize(BICUBIC)"),
            "pillow-lanczos": (_with(Rule("lanczos3"), **stretched), "Image.resize(LANCZOS)"),
        },
        "always antialiases",
    )


def _opencv() -> dict[str, Recipe]:
    recipes = _named(
        {
            "opencv-nearest": (
                Rule("nearest", coordinates="asymmetric", rounding="inverse"),
                "cv2.resize(INTER_NEAREST)",
            ),
            "opencv-linear": (Rule(), "cv2.resize(INTER_LINEAR)"),
            "opencv-cubic": (Rule("cubic"), "cv2.resize(INTER_CUBIC)"),
            "opencv-lanczos4": (Rule("lanczos4"), "cv2.resize(INTER_LANCZOS4)"),
        },
        "never antialiases",
    )
    recipes["opencv-area"] = Recipe(
        "opencv-area",
        Rule("area"),
        "cv2.resize(INTER_AREA)",
        Rule("area-linear"),
        note="where one axis grows it is a linear interpolation of another kind, on both",
    )
    return recipes


def _onnx() -> dict[str, Recipe]:
    recipes = {}
    places = {
        "": "half-pixel",
        "-pytorch-half-pixel": "half-pixel-or-first",
        "-align-corners": "align-corners",
        "-asymmetric": "asymmetric",
    }
    for mode in ("linear", "cubic"):
        for end, coordinates in places.items():
            rule = Rule(mode, coordinates=coordinates)  # type: ignore[arg-type]
            written = {"": "half_pixel"}.get(end, end[1:].replace("-", "_"))
            call = f"Resize of ONNX (mode={mode!r}, {written}"
            # a second a, that of torch's antialias, which torch's exporter writes
            values = (("", -0.75), ("-a-0.5", -0.5)) if mode == "cubic" else (("", -0.75),)
            for value, a in values:
                of_a = _with(rule, a=a)
                said = f", cubic_coeff_a={a}" if value else ""
                stretched = _with(of_a, antialias=True, stretch="sizes")
                for more, changed, arguments, note in (
                    ("", of_a, "", ""),
                    ("-excluded", _with(of_a, edge="drop"), ", exclude_outside", ""),
                    (
                        "-antialias",
                        stretched,
                        ", antialias",
                        "taps outside are the sample at the edge, unlike in torch",
                    ),
                    (
                        "-antialias-excluded",
                        _with(stretched, edge="drop"),
                        ", antialias, exclude_outside",
                        "",
                    ),
                ):
                    if mode == "linear" and more == "-excluded":
                        continue  # the same as without
                    name = f"onnx-{mode}{more}{value}{end}"
                    recipes[name] = Recipe(name, changed, f"{call}{said}{arguments})", note=note)
    return recipes


def _openvino(known: dict[str, Recipe]) -> dict[str, Recipe]:
    recipes = {
        name: known[name]
        for name in known
        if name.startswith("onnx-") and not ("antialias" in name or "excluded" in name)
    }
    ignored = "antialias and exclude_outside are read from an ONNX file, and ignored"
    renamed = {
        f"openvino-{name.removeprefix('onnx-')}": Recipe(
            f"openvino-{name.removeprefix('onnx-')}",
            recipe.rule,
            recipe.call.replace("Resize of ONNX", "Interpolate of OpenVINO"),
            note=ignored,
        )
        for name, recipe in recipes.items()
    }
    return renamed | _named(
        {
            "openvino-bilinear-pillow": (_ANTIALIAS, "Interpolate of OpenVINO (bilinear_pillow)"),
            "openvino-bicubic-pillow": (
                _CUBIC_ANTIALIAS,
                "Interpolate of OpenVINO (bicubic_pillow)",
            ),
        }
    )


def _mlx() -> dict[str, Recipe]:
    recipes = {}
    for mode in ("linear", "cubic"):
        for end, coordinates in (("", "half-pixel"), ("-align-corners", "align-corners")):
            name = f"mlx-{mode}{end}"
            rule = Rule(mode, coordinates=coordinates)  # type: ignore[arg-type]
            argument = ", align_corners" if end else ""
            recipes[name] = Recipe(name, rule, f"mlx.nn.Upsample(mode={mode!r}{argument})")
    return recipes


LIBRARIES: dict[str, tuple[str, str, bool, str]] = {
    **{
        f"transformers-{name}": (
            "torch-bicubic",
            f"interpolate_pos_encoding of transformers' {title}",
            False,
            "no antialias, also where the grid shrinks",
        )
        for name, title in {
            "vit": "ViT",
            "deit": "DeiT",
            "beit": "BEiT",
            "dinov2": "DINOv2",
            "clip": "CLIP",
            "siglip": "SigLIP",
        }.items()
    },
    "transformers-dinov2-registers": (
        "torch-bicubic-antialias",
        "interpolate_pos_encoding of transformers' DINOv2 with registers",
        False,
        "antialiases, unlike that of DINOv2 without registers",
    ),
    "transformers-siglip2": (
        "torch-bilinear-antialias",
        "resize_positional_embeddings of transformers' SigLIP 2",
        False,
        "bilinear, unlike SigLIP's",
    ),
    "transformers-qwen3-vl": (
        "torch-bilinear-align-corners",
        "the positions of transformers' Qwen3-VL",
        False,
        "corners are aligned",
    ),
    "timm": ("torch-bicubic-antialias", "timm's resample_abs_pos_embed", False, ""),
    "timm-nhwc": ("torch-bicubic-antialias", "timm's resample_abs_pos_embed_nhwc", False, ""),
    "timm-npz": (
        "torch-bilinear",
        "timm's load_pretrained of an .npz",
        False,
        "neither bicubic nor antialiased, as timm is elsewhere, nor as Google's own code is",
    ),
    "open-clip": ("torch-bicubic-antialias", "open_clip's resize_pos_embed", False, ""),
    "torchvision": (
        "torch-bicubic-align-corners",
        "torchvision's interpolate_embeddings",
        True,
        "corners are aligned",
    ),
    "google-vit": (
        "scipy-zoom-1",
        "vision_transformer's resample_posemb",
        True,
        "linear, corners aligned; a last row or column is zero for some sizes",
    ),
    "google-vit-filled": (
        "scipy-zoom-1-filled",
        "vision_transformer's resample_posemb",
        True,
        "without its zeros in a last row or column",
    ),
    "big-vision": (
        "scipy-zoom-1",
        "big_vision's resample_posemb",
        True,
        "linear, corners aligned; a last row or column is zero for some sizes",
    ),
    "big-vision-filled": (
        "scipy-zoom-1-filled",
        "big_vision's resample_posemb",
        True,
        "without its zeros in a last row or column",
    ),
    "big-vision-flexi": (
        "jax-linear-antialias",
        "big_vision's FlexiViT and NaFlex models",
        False,
        "not the rule by which big_vision loads a file",
    ),
    "dinov2-antialias": (
        "torch-bicubic-antialias",
        "DINOv2's own code, of models with registers",
        False,
        "no offset of 0.1",
    ),
    "mae": ("torch-bicubic", "interpolate_pos_embed of MAE's own code", True, ""),
    "keras-hub-dinov2-torch": ("keras-torch-bicubic", "KerasHub's DINOv2 on torch", False, ""),
    "keras-hub-dinov2-jax": ("keras-jax-bicubic", "KerasHub's DINOv2 on JAX", False, ""),
    "keras-hub-dinov2-tensorflow": (
        "keras-tensorflow-bicubic",
        "KerasHub's DINOv2 on TensorFlow",
        False,
        "another table on each backend",
    ),
    "keras-hub-dinov2-registers": (
        "torch-bicubic-antialias",
        "KerasHub's DINOv2 with registers, on any backend",
        False,
        "antialiases, unlike that without registers",
    ),
}
"""What a library does to its table, by the recipe of the operation that it calls: that operation,
whose it is, whether it knows square grids alone, and what nobody would guess."""


def _recipes() -> dict[str, Recipe]:
    known = _torch() | _jax() | _tensorflow()
    known |= _keras(known) | _scipy() | _pillow() | _opencv() | _onnx() | _mlx()
    known |= _openvino(known)
    for name, (like, call, square, note) in LIBRARIES.items():
        known[name] = Recipe(name, known[like].rule, call, square=square, note=note)
    known["dinov2"] = Recipe(
        "dinov2",
        Rule("cubic", offset=0.1),
        "DINOv2's own code, of models without registers",
        note="the step is old/(new + 0.1)",
    )
    return known


RECIPES: dict[str, Recipe] = _recipes()
"""Every recipe, by name."""


COORDINATES = {
    "half-pixel": "half-pixel coordinates",
    "half-pixel-or-first": "half-pixel coordinates",
    "align-corners": "corners aligned",
    "shifted-corners": "corners aligned and half a pixel added",
    "asymmetric": "asymmetric coordinates",
}
"""Where new samples lie, in words."""


def in_words(rule: Rule) -> str:
    """A rule as people say it."""
    kernel = f"cubic with a = {number_in_words(rule.a)}" if rule.kernel == "cubic" else rule.kernel
    parts = [kernel, COORDINATES[rule.coordinates]]
    parts.append("antialiased" if rule.antialias else "no antialias")
    if rule.offset:
        parts.append(f"step old/(new + {rule.offset:g})")
    if rule.table:
        parts.append(f"weights of a table of {rule.table}")
    if rule.outside_is_zero:
        parts.append("zero where a coordinate leaves the grid")
    return ", ".join(parts)


def number_in_words(value: float) -> str:
    """A number with a minus sign that is one."""
    return f"{value:g}".replace("-", "−")


def get_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        PatchParityError: an unknown one.
    """
    if name in RECIPES:
        return RECIPES[name]
    operations = {
        known.partition("-")[0]: known
        for known in reversed(RECIPES)
        if known not in LIBRARIES and known != "dinov2"
    }
    raise PatchParityError(
        f"recipe {name!r} is unknown{nearest(name, RECIPES)}; expected a library's, "
        f"{', '.join((*LIBRARIES, 'dinov2'))}, or an operation's, such as "
        f"{', '.join(reversed(operations.values()))}"
    )
