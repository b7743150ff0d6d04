"""What an object's output alone shows: positions that no parameter holds, how many images it takes,
in which dtype it computes."""

import numpy as np
import pytest

from patchparity import (
    PatchParityError,
    check,
    diagnose_object,
    from_module,
    sincos_positions,
)

from .modules import torch_module

GRID = (6, 10)
ROUNDED = 1e-5
"""Of a float32 table of sines: angles below 16, each rounded a few times by 16 · 2⁻²⁴ = 1e-6."""

WIDTH = 12


def right(report):
    """The results that are no pass."""
    return [f"{each.probe}: {each.message}" for each in report.results if each.verdict != "pass"]


def tokens(self, x):
    return self.proj(x).flatten(2).transpose(1, 2)


def module(forward, **parts):
    torch = pytest.importorskip("torch")
    torch.manual_seed(5)
    return torch_module(forward, proj=torch.nn.Conv2d(3, WIDTH, 4, 4), **parts)


def test_positions_in_a_buffer_are_read_and_other_buffers_are_named():
    torch = pytest.importorskip("torch")
    module = torch_module(
        lambda self, x: self.proj(x).flatten(2).transpose(1, 2) + self.pos_embed,
        proj=torch.nn.Conv2d(3, 8, 4, 4),
    )
    module.register_buffer("pos_embed", torch.randn(1, 9, 8))
    module.register_buffer("pixel_mean", torch.zeros(3))
    report = check(module)
    assert report.ok, [result.message for result in report.results]
    assert report.notes == [
        "buffer pixel_mean (3,) was not read",
        "its positions are for images of 12×12: at other sizes its patches' products and "
        "prefix tokens alone were held against the reference",
    ]


def one_alone(self, x):
    assert len(x) == 1, "one at a time"
    return tokens(self, x)


def four_alone(self, x):
    return tokens(self, x.reshape(4, 3, *x.shape[2:]))


@pytest.mark.parametrize(
    ("forward", "told"), [(one_alone, "one image at a time"), (four_alone, "4 images at a time")]
)
def test_an_object_of_one_batch_alone_is_judged_at_that(forward, told):
    report = check(module(forward))
    assert right(report) == []
    assert report.notes[0] == f"it takes {told} and refuses others: more were given in parts"
    assert {"batch-1", "batch-3", "batch-8"}.isdisjoint(each.probe for each in report.results)


@pytest.mark.parametrize("forward", [one_alone, four_alone])
def test_a_mistake_of_an_object_of_one_batch_alone_is_seen(forward):
    assert not check(module(lambda self, x: forward(self, x.flip(1)))).ok
    assert diagnose_object(module(lambda self, x: forward(self, x.flip(1)))).mistakes == (
        "channels-reversed",
    )


def table_of(kind, rows, columns):
    """Tables that libraries compute, each by its own code."""
    torch = pytest.importorskip("torch")
    quarter = WIDTH // 4
    if kind == "vaswani":
        at = torch.arange(rows * columns)[:, None]
        angles = at * 10000.0 ** (-torch.arange(0, WIDTH, 2) / WIDTH)
        return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    last = quarter - 1 if kind == "lucidrains" else quarter
    omega = 10000.0 ** -(torch.arange(quarter) / last)
    y, x = y.flatten()[:, None] * omega, x.flatten()[:, None] * omega
    sides = (y, x) if kind == "rows first" else (x, y)
    return torch.cat([each for side in sides for each in (side.sin(), side.cos())], 1)


@pytest.mark.parametrize("prefix", [False, True], ids=["patches alone", "class token"])
@pytest.mark.parametrize("kind", ["lucidrains", "columns first", "rows first", "vaswani"])
def test_positions_that_are_computed_are_found(kind, prefix):
    torch = pytest.importorskip("torch")

    def forward(self, x):
        x = self.proj(x)
        rows, columns = x.shape[2:]
        x = x.flatten(2).transpose(1, 2) + table_of(kind, rows, columns)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) if prefix else x

    parts = {"cls_token": torch.nn.Parameter(torch.randn(1, 1, WIDTH))} if prefix else {}
    whole = module(forward, **parts)
    report = check(whole, image_size=(24, 40))
    assert right(report) == []
    assert "it adds positions that it computes" in report.notes[0]
    weights, _ = from_module(whole, image_size=(24, 40))
    np.testing.assert_allclose(weights.positions, table_of(kind, *GRID), atol=ROUNDED)


def test_positions_of_a_grid_that_is_turned_are_no_positions():
    def forward(self, x):
        rows, columns = x.shape[2] // 4, x.shape[3] // 4
        return tokens(self, x) + table_of("rows first", columns, rows)

    report = check(module(forward), image_size=(24, 40))
    assert not report.ok
    assert "the same for every image" in report.notes[0]


@pytest.mark.parametrize("kept", ["buffer", "attribute"])
@pytest.mark.parametrize("more", [0, 30])
def test_positions_of_the_patches_alone_beside_a_class_token(kept, more):
    torch = pytest.importorskip("torch")

    def forward(self, x):
        x = tokens(self, x)
        x = x + self.places[:, : x.shape[1]]
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)

    table = torch.randn(1, 60 + more, WIDTH)
    whole = module(forward, cls_token=torch.nn.Parameter(torch.randn(1, 1, WIDTH)))
    if kept == "buffer":
        whole.register_buffer("places", table)
    else:
        whole.places = table
    report = check(whole, image_size=(24, 40))
    assert right(report) == []
    weights, _ = from_module(whole, image_size=(24, 40))
    assert weights.layout.positioned == ()
    np.testing.assert_array_equal(weights.positions, table[0, :60])


def test_positions_that_are_off_by_the_class_tokens_row_are_a_mistake():
    torch = pytest.importorskip("torch")

    def forward(self, x):
        x = tokens(self, x) + self.places[:, :60]
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)

    whole = module(forward, cls_token=torch.nn.Parameter(torch.randn(1, 1, WIDTH)))
    whole.register_buffer("places", torch.randn(1, 61, WIDTH))
    assert not check(whole, image_size=(24, 40)).ok


def test_a_layer_that_says_that_it_computes_in_sixteen_bits_is_judged_so():
    nnx = pytest.importorskip("flax.nnx")
    import jax.numpy as jnp

    layer = nnx.Conv(
        3, WIDTH, (4, 4), strides=4, padding="VALID", dtype=jnp.bfloat16, rngs=nnx.Rngs(0)
    )
    report = check(layer)
    assert right(report) == []
    assert {each.dtype for each in report.results} == {"bfloat16"}
    assert "its layer computes in bfloat16, of weights in float32" in report.notes[0]
    weights, _ = from_module(layer)
    assert weights.kernel.dtype == np.float32


def test_the_tables_are_those_of_the_reference():
    np.testing.assert_allclose(
        table_of("columns first", *GRID), sincos_positions(GRID, WIDTH), atol=ROUNDED
    )


def beside(columns, rows):
    """Positions of the grid: a table of its columns and one of its rows, one beside the other."""
    import torch

    along = columns[None, : GRID[1]].expand(*GRID, -1)
    down = rows[: GRID[0], None].expand(*GRID, -1)
    return torch.cat([along, down], -1).reshape(-1, WIDTH)


def of(torch, name, **more):
    """Modules whose parameters lie where no name tells it."""
    from torch.nn.utils import prune
    from torch.nn.utils.parametrizations import weight_norm

    def vector(*shape):
        return torch.nn.Parameter(torch.randn(*shape))

    made = {
        "a map of the grid": lambda: module(
            lambda self, x: (self.proj(x) + self.pos_embed).flatten(2).transpose(1, 2),
            pos_embed=vector(1, WIDTH, *GRID),
        ),
        "a long table": lambda: module(
            lambda self, x: (t := tokens(self, x)) + self.pos_embed[:, : t.shape[1]],
            pos_embed=vector(1, 100, WIDTH),
        ),
        "an embedding": lambda: module(
            lambda self, x: tokens(self, x) + self.places.weight,
            places=torch.nn.Embedding(60, WIDTH),
        ),
        "rows and columns added up": lambda: module(
            lambda self, x: tokens(self, x) + (self.down + self.along).reshape(-1, WIDTH),
            down=vector(GRID[0], 1, WIDTH),
            along=vector(GRID[1], WIDTH),
        ),
        "columns before rows": lambda: module(
            lambda self, x: tokens(self, x) + beside(self.along.weight, self.down.weight),
            down=torch.nn.Embedding(50, WIDTH // 2),
            along=torch.nn.Embedding(50, WIDTH // 2),
        ),
        "two tables": lambda: module(
            lambda self, x: tokens(self, x) + self.one + self.other,
            one=vector(GRID[0] * GRID[1], WIDTH),
            other=vector(1, GRID[0] * GRID[1], WIDTH),
        ),
        "two vectors and a table": lambda: module(
            lambda self, x: torch.cat(
                [
                    *(each.expand(len(x), 1, WIDTH) for each in (self.first, self.second)),
                    tokens(self, x) + self.table,
                ],
                1,
            ),
            first=vector(WIDTH),
            table=vector(GRID[0] * GRID[1], WIDTH),
            second=vector(1, 1, WIDTH),
        ),
        "a bias of its own": lambda: module(
            lambda self, x: (
                torch.nn.functional.conv2d(x, self.proj.weight, self.shift, 4)
                .flatten(2)
                .transpose(1, 2)
            ),
            shift=vector(WIDTH),
        ),
        "pruned": lambda: module(
            lambda self, x: self.layer(x).flatten(2).transpose(1, 2),
            layer=prune.l1_unstructured(torch.nn.Conv2d(3, WIDTH, 4, 4), "weight", 0.3),
        ),
        "weight norm": lambda: module(
            lambda self, x: self.layer(x).flatten(2).transpose(1, 2),
            layer=weight_norm(torch.nn.Conv2d(3, WIDTH, 4, 4)),
        ),
    }
    whole = made[name]()
    if name in ("pruned", "weight norm"):
        del whole.proj
    if name == "a bias of its own":
        whole.proj = torch.nn.Conv2d(3, WIDTH, 4, 4, bias=False)
    return whole


PLACES = (
    "rows and columns added up",
    "columns before rows",
    "two tables",
    "two vectors and a table",
    "a map of the grid",
    "a long table",
    "an embedding",
    "a bias of its own",
    "pruned",
    "weight norm",
)


@pytest.mark.parametrize("name", PLACES)
def test_parameters_are_found_where_no_name_tells_them(name):
    torch = pytest.importorskip("torch")
    report = check(of(torch, name), image_size=(24, 40))
    assert right(report) == []


@pytest.mark.parametrize("name", PLACES)
def test_and_their_mistakes_are_seen(name):
    torch = pytest.importorskip("torch")
    whole = of(torch, name)

    class Turned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = whole

        def forward(self, x):
            return self.inner(x.flip(1))

    told = ""
    try:
        wrong = not check(Turned(), image_size=(24, 40)).ok
    except PatchParityError as error:
        wrong, told = True, str(error)
    assert wrong
    assert not told or "name the projection alone" in told or "positions of shape" in told


def test_a_map_of_the_grid_that_is_read_as_rows_is_a_mistake():
    torch = pytest.importorskip("torch")
    whole = module(
        lambda self, x: tokens(self, x) + self.pos_embed.reshape(1, 60, WIDTH),
        pos_embed=torch.nn.Parameter(torch.randn(1, WIDTH, *GRID)),
    )
    assert not check(whole, image_size=(24, 40)).ok


def test_a_table_that_is_added_to_nothing_is_told():
    torch = pytest.importorskip("torch")
    whole = module(tokens)
    whole.places = torch.randn(1, 60, WIDTH)
    report = check(whole, image_size=(24, 40))
    assert report.ok
    assert "its places (1, 60, 12), as large as positions, is added to nothing" in report.notes


def test_videos_may_have_their_frames_before_the_channels():
    torch = pytest.importorskip("torch")
    whole = torch_module(
        lambda self, x: self.proj(x.permute(0, 2, 1, 3, 4)).flatten(2).transpose(1, 2),
        proj=torch.nn.Conv3d(3, WIDTH, (2, 4, 4), (2, 4, 4)),
    )
    report = check(whole)
    assert right(report) == []
    assert report.notes[0].startswith("it takes videos as (B, T, C, H, W)")


def test_a_matrix_of_a_module_that_takes_images_is_no_linear_layer_alone():
    torch = pytest.importorskip("torch")
    for turned in (False, True):

        def forward(self, x, turned=turned):
            cut = torch.nn.functional.unfold(x, 4, stride=4).transpose(1, 2)
            return cut @ (self.weight if turned else self.weight.T)

        shape = (48, WIDTH) if turned else (WIDTH, 48)
        whole = torch_module(forward, weight=torch.nn.Parameter(torch.randn(*shape)))
        assert right(check(whole, patch_size=4)) == []


def test_sixteen_bit_weights_may_give_a_wide_result():
    whole = module(lambda self, x: tokens(self, x).float()).bfloat16()
    report = check(whole)
    assert right(report) == []
    assert "it gives float32 of weights in bfloat16" in report.notes[0]


FORGOTTEN = {
    "a bias": (WIDTH,),
    "a table": (1, 60, WIDTH),
    "a map of the grid": (1, WIDTH, *GRID),
    "a token": (1, 1, WIDTH),
    "tokens": (1, 4, WIDTH),
    "a number": (),
}


@pytest.mark.parametrize("what", FORGOTTEN)
def test_parameters_that_are_in_nothing_that_it_gives_are_no_pass(what):
    torch = pytest.importorskip("torch")
    whole = module(tokens, something=torch.nn.Parameter(torch.randn(FORGOTTEN[what])))
    with pytest.raises(
        PatchParityError, match=r"holds .*something .* beside its kernel|one kernel"
    ):
        check(whole, image_size=(24, 40))


@pytest.mark.parametrize("spare", [1, 2, 3])
@pytest.mark.parametrize("kept", ["parameter", "embedding", "buffer"])
def test_of_a_table_with_spare_rows_those_behind_are_the_patches(spare, kept):
    torch = pytest.importorskip("torch")
    table = torch.randn(60 + spare, WIDTH)

    def whole(start):
        def forward(self, x):
            held = self.places.weight if kept == "embedding" else self.places
            return tokens(self, x) + held[start : start + 60]

        made = module(forward)
        if kept == "embedding":
            made.places = torch.nn.Embedding(60 + spare, WIDTH)
        elif kept == "parameter":
            made.places = torch.nn.Parameter(table)
        else:
            made.register_buffer("places", table)
        return made

    assert right(check(whole(spare), image_size=(24, 40))) == []
    try:
        wrong = not check(whole(0), image_size=(24, 40)).ok
    except PatchParityError:
        wrong = True
    assert wrong


@pytest.mark.parametrize("size", [0.1, 0.02, 1e-3])
@pytest.mark.parametrize("kept", ["pos_emb", "buffer"])
def test_small_positions_are_found_too(size, kept):
    torch = pytest.importorskip("torch")
    table = size * torch.randn(1, 60, WIDTH)
    whole = module(lambda self, x: tokens(self, x) + self.pos_emb)
    if kept == "buffer":
        whole.register_buffer("pos_emb", table)
    else:
        whole.pos_emb = torch.nn.Parameter(table)
    report = check(whole, image_size=(24, 40))
    assert right(report) == []
    assert not any("added to nothing" in note for note in report.notes)
    weights, _ = from_module(whole, image_size=(24, 40))
    np.testing.assert_array_equal(weights.positions, table[0].detach().numpy())


def test_small_positions_that_nothing_shows_are_not_left_out_in_silence():
    torch = pytest.importorskip("torch")
    table = [0.01 * torch.randn(1, 60, WIDTH)]
    whole = module(lambda self, x: tokens(self, x) + table[0])
    with pytest.raises(PatchParityError, match="adds something else than its weights do"):
        from_module(whole, image_size=(24, 40))
    assert not check(whole, image_size=(24, 40)).ok


def test_tensors_that_are_no_numbers_are_passed_over():
    torch = pytest.importorskip("torch")
    whole = module(tokens)
    whole.sparse = torch.eye(WIDTH).to_sparse()
    whole.empty = torch.empty(1, 60, WIDTH, device="meta")
    whole.complex = torch.ones(1, 60, WIDTH) * 1j
    assert right(check(whole, image_size=(24, 40))) == []


def in_patches(x, order):
    B, C, H, W = x.shape
    cut = x.reshape(B, C, H // 4, 4, W // 4, 4)
    axes = (0, 2, 4, 1, 3, 5) if order == "chw" else (0, 2, 4, 3, 5, 1)
    return cut.permute(*axes).reshape(B, -1, 16 * C)


def multiplied(torch, what, order):
    """A matrix product with parameters of names that say nothing, or whose shape says little."""
    torch.manual_seed(3)
    parameter = torch.nn.Parameter
    if what == "a linear layer and a table":
        return torch_module(
            lambda self, x: (
                torch.cat([self.first.expand(len(x), 1, WIDTH), self.proj(in_patches(x, order))], 1)
                + self.table
            ),
            proj=torch.nn.Linear(48, WIDTH),
            first=parameter(torch.randn(WIDTH)),
            table=parameter(torch.randn(1, 61, WIDTH)),
        )
    width = 48 if what == "a square matrix" else 16
    return torch_module(
        lambda self, x: in_patches(x, order) @ self.W + self.b,
        W=parameter(torch.randn(48, width)),
        b=parameter(torch.randn(width)),
    )


@pytest.mark.parametrize("order", ["chw", "hwc"])
@pytest.mark.parametrize(
    "what", ["a linear layer and a table", "a square matrix", "a matrix that is turned"]
)
def test_a_matrix_and_what_is_added_are_found(what, order):
    torch = pytest.importorskip("torch")
    report = check(multiplied(torch, what, order), image_size=(24, 40), patch_size=4)
    assert right(report) == []
    assert not any("explains" in note for note in report.notes)


def test_a_layer_that_is_derived_of_a_linear_one_may_take_images():
    torch = pytest.importorskip("torch")

    class Cuts(torch.nn.Linear):
        def forward(self, x):
            return super().forward(in_patches(x, "hwc"))

    assert right(check(Cuts(48, WIDTH), image_size=(24, 40), patch_size=4)) == []


@pytest.mark.parametrize("last", [False, True])
def test_a_grid_that_is_left_to_its_caller_is_told(last):
    pytest.importorskip("torch")
    whole = module(lambda self, x: self.proj(x).permute(0, 2, 3, 1) if last else self.proj(x))
    report = check(whole, image_size=(24, 40))
    assert right(report) == []
    shape = (2, *GRID, WIDTH) if last else (2, WIDTH, *GRID)
    assert f"it gives a grid {shape}, not tokens (B, N, D)" in " ".join(report.notes)
