"""The canonical weights, one object that every backend loads, and their seeded initialization."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .errors import PatchParityError, require_array, require_choice
from .spec import PatchEmbedSpec

PrefixToken = Literal["class_token", "distillation_token", "register_tokens"]
TokenOrder = Literal["raster", "merge-2x2", "windows", "unrolled-2x2"]


@dataclass(frozen=True)
class SequenceLayout:
    """How a library builds the encoder's input from patch tokens; the arrays themselves are fields
    of `PatchEmbedWeights`.

    Args:
        prefix: order of the prefix tokens in the sequence; those whose array is None are left out.
        prefix_side: `first` (before the patches; nearly everyone) or `last` (Llama 4 vision).
        suffix: those of the prefix tokens that stand behind the patches although the others stand
            before them (YOLOS's detection tokens).
        positioned: the prefix tokens that have a row in `positions`. ViT and DeiT: class and
            distillation token (positions added after the concatenation); DINOv2: not the registers
            (inserted after the addition); big_vision and DeiT-III: none, `()` (positions added
            before the concatenation).
        token_order: `raster`, `merge-2x2` (Qwen2-VL: the four tokens of each 2×2 block follow one
            another), `windows` (NesT: the tokens of each window follow one another) or
            `unrolled-2x2` (Hiera: of each 2×2 block first all first tokens, then all second ones,
            ..., and each of the four in the same way again).
        window: patches along a side of the windows: of `windows`; of `merge-2x2`, those that then
            follow one another (Qwen2.5-VL), 0 for none; of `unrolled-2x2`, those whose tokens are
            all apart, a power of two.
        norm_epsilon: epsilon of the norms (1e-6 in ViT and its descendants; torch's own default is
            1e-5).

    Raises:
        PatchParityError: an option that is none of the above.
    """

    prefix: tuple[PrefixToken, ...] = ("class_token", "distillation_token", "register_tokens")
    prefix_side: Literal["first", "last"] = "first"
    positioned: tuple[PrefixToken, ...] = ("class_token", "distillation_token")
    token_order: TokenOrder = "raster"
    norm_epsilon: float = 1e-6
    window: int = 0
    suffix: tuple[PrefixToken, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefix", tuple(self.prefix))
        object.__setattr__(self, "positioned", tuple(self.positioned))
        object.__setattr__(self, "suffix", tuple(self.suffix))
        if not isinstance(self.norm_epsilon, float | int):
            raise PatchParityError(f"norm_epsilon={self.norm_epsilon!r}: expected a number")
        for name, options in {
            "prefix_side": ("first", "last"),
            "token_order": get_args(TokenOrder),
        }.items():
            require_choice(name, getattr(self, name), options)
        side = self.window if isinstance(self.window, int) else -1
        fits = {
            "raster": side == 0,
            "merge-2x2": side >= 0 and side % 2 == 0,
            "windows": side > 0,
            "unrolled-2x2": side > 1 and side & (side - 1) == 0,
        }
        if not fits[self.token_order]:
            wanted = {
                "raster": "0",
                "merge-2x2": "an even number of patches",
                "windows": "a number of patches",
            }
            raise PatchParityError(
                f"window={self.window!r}: expected "
                f"{wanted.get(self.token_order, 'a power of two')} for {self.token_order} order"
            )
        for name in ("prefix", "positioned", "suffix"):
            tokens = getattr(self, name)
            if len(set(tokens)) != len(tokens) or not set(tokens) <= set(get_args(PrefixToken)):
                raise PatchParityError(
                    f"{name}={tokens!r}: expected distinct names out of "
                    f"{', '.join(get_args(PrefixToken))}"
                )

    @property
    def ahead(self) -> tuple[PrefixToken, ...]:
        """The prefix tokens that stand before the patches, in order."""
        return tuple(
            name for name in self.prefix if self.prefix_side == "first" and name not in self.suffix
        )

    @property
    def behind(self) -> tuple[PrefixToken, ...]:
        """The prefix tokens that stand behind the patches, in order."""
        return tuple(name for name in self.prefix if name not in self.ahead)


@dataclass(frozen=True)
class LayerNorm:
    """A norm over the last axis.

    Args:
        scale: shape `(width,)`.
        shift: shape `(width,)`, or None where nothing is added.
        centered: whether the mean is taken out first, as a layer norm does; False for RMSNorm.
    """

    scale: NDArray[Any]
    shift: NDArray[Any] | None = None
    centered: bool = True


@dataclass(frozen=True, repr=False)
class PatchEmbedWeights:
    """The weights of a patch embedding in canonical layout. Only `kernel` is required.

    Args:
        kernel: shape `(D, P_h, P_w, C)`; `kernel.reshape(D, P_h·P_w·C)` is the matrix W of z =
            W·flatten(p) + b.
        bias: shape `(D,)`, or None.
        class_token, distillation_token: shape `(D,)`, or None.
        register_tokens: shape `(R, D)`, or None.
        mask_token: shape `(D,)`, or None; replaces the tokens that a mask selects.
        positions: shape `(rows, D)`, or None; a row for each prefix token in `layout.positioned`
            and one for each patch (raster order), rows of prefix tokens where these stand.
        patch_norm: norm over the flattened patch (width K), before the projection (vit-pytorch), or
            None.
        token_norm: norm over each patch token (width D), after the projection (Swin, SegFormer), or
            None.
        sequence_norm: norm over the finished sequence (width D; CLIP's `ln_pre`), or None.
        layout: how the sequence is put together.

    Raises:
        PatchParityError: shapes that cannot belong together.

    Examples:
        >>> import numpy as np
        >>> import patchparity
        >>> oihw = np.zeros((10, 3, 4, 4))
        >>> weights = patchparity.PatchEmbedWeights(oihw.transpose(0, 2, 3, 1), bias=np.zeros(10))
        >>> weights.matrix.shape  # (D, P·P·C)
        (10, 48)
    """

    kernel: NDArray[Any]
    bias: NDArray[Any] | None = None
    class_token: NDArray[Any] | None = None
    distillation_token: NDArray[Any] | None = None
    register_tokens: NDArray[Any] | None = None
    mask_token: NDArray[Any] | None = None
    positions: NDArray[Any] | None = None
    patch_norm: LayerNorm | None = None
    token_norm: LayerNorm | None = None
    sequence_norm: LayerNorm | None = None
    layout: SequenceLayout = field(default_factory=SequenceLayout)

    def __post_init__(self) -> None:
        require_array("kernel", self.kernel)
        for entry in fields(self):
            array = getattr(self, entry.name)
            if array is not None and not isinstance(array, LayerNorm | SequenceLayout):
                require_array(entry.name, array)
        if self.kernel.ndim not in (4, 5):
            raise PatchParityError(
                f"kernel of shape {self.kernel.shape}: expected (D, P_h, P_w, C), or (D, T, P_h, "
                "P_w, C)"
            )
        D = self.kernel.shape[0]
        for name in ("bias", "class_token", "distillation_token", "mask_token"):
            array = getattr(self, name)
            if array is not None and array.shape != (D,):
                raise PatchParityError(
                    f"{name} of shape {array.shape}: expected ({D},), one value for each row of "
                    f"the kernel {self.kernel.shape}"
                )
        for name in ("register_tokens", "positions"):
            array = getattr(self, name)
            if array is not None and (array.ndim != 2 or array.shape[1] != D):
                raise PatchParityError(f"{name} of shape {array.shape}: expected (rows, {D})")
        for name, width in (
            ("patch_norm", self.kernel[0].size),
            ("token_norm", D),
            ("sequence_norm", D),
        ):
            norm = getattr(self, name)
            for part in ("scale", "shift"):
                array = None if norm is None else getattr(norm, part)
                if array is not None and array.shape != (width,):
                    raise PatchParityError(
                        f"{name}.{part} of shape {array.shape}: expected ({width},)"
                    )

    def __repr__(self) -> str:
        """Shapes and dtypes, not values."""
        shown = []
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, np.ndarray):
                shown.append(f"{entry.name}={value.dtype.name}{list(value.shape)}")
            elif value is not None and entry.name != "layout":
                kind = "LayerNorm" if value.centered else "RMSNorm"
                shown.append(f"{entry.name}={kind}[{value.scale.shape[0]}]")
        return f"PatchEmbedWeights({', '.join(shown)})"

    @property
    def matrix(self) -> NDArray[Any]:
        """W, shape `(D, K)`, the kernel flattened in the order (row, column, channel)."""
        return self.kernel.reshape(self.kernel.shape[0], -1)

    def check_spec(self, spec: PatchEmbedSpec) -> None:
        """Raise PatchParityError unless the kernel has the spec's shape and the positions fit its
        `num_patches`."""
        if self.kernel.shape != spec.kernel_shape:
            raise PatchParityError(
                f"kernel of shape {self.kernel.shape}: expected {spec.kernel_shape}, (D, *patch, "
                "C) of the spec"
            )
        if self.positions is not None:
            expected = spec.num_patches + self.num_positioned_prefix_tokens
            if self.positions.shape[0] != expected:
                raise PatchParityError(
                    f"positions of shape {self.positions.shape}: expected {expected} rows, "
                    f"{self.num_positioned_prefix_tokens} for "
                    f"prefix tokens and num_patches = {spec.num_patches} for the grid {spec.grid}"
                )

    def prefix_rows(self, name: PrefixToken) -> int:
        """Number of rows that one kind of prefix token adds to the sequence (0 where its array is
        None)."""
        array = getattr(self, name)
        return 0 if array is None else int(np.atleast_2d(array).shape[0])

    @property
    def num_prefix_tokens(self) -> int:
        """Number of class, distillation and register tokens in the sequence."""
        return sum(self.prefix_rows(name) for name in self.layout.prefix)

    @property
    def num_tokens_ahead(self) -> int:
        """Number of tokens in the sequence before the first patch."""
        return sum(self.prefix_rows(name) for name in self.layout.ahead)

    @property
    def num_positions_ahead(self) -> int:
        """Number of rows in `positions` before that of the first patch."""
        return sum(
            self.prefix_rows(name) for name in self.layout.ahead if name in self.layout.positioned
        )

    @property
    def num_positioned_prefix_tokens(self) -> int:
        """Number of prefix tokens that have a row in `positions`."""
        return sum(
            self.prefix_rows(name) for name in self.layout.prefix if name in self.layout.positioned
        )

    def astype(self, dtype: Any) -> "PatchEmbedWeights":
        """Return the same weights with every array in `dtype`."""
        return self.map(lambda array: array.astype(dtype))

    def map(
        self, change: Callable[[NDArray[Any]], NDArray[Any]], unchanged: tuple[str, ...] = ()
    ) -> "PatchEmbedWeights":
        """Return the same weights with `change` applied to every array but those of the fields
        `unchanged`; shapes must stay."""
        changed: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, LayerNorm):
                shift = None if value.shift is None else change(value.shift)
                value = LayerNorm(change(value.scale), shift, value.centered)
            elif isinstance(value, np.ndarray) and entry.name not in unchanged:
                value = change(value)
            changed[entry.name] = value
        return PatchEmbedWeights(**changed)
