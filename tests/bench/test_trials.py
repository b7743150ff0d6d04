"""What is wrong only for some batch, size, memory, value or call, and was accepted once."""

import numpy as np
import pytest

from patchparity import check

torch = pytest.importorskip("torch")
functional = torch.nn.functional
P, D = 4, 10


def tokens(self, x):
    return self.proj(x).flatten(2).transpose(1, 2)


def squeezes_one_patch(self, x):
    found = tokens(self, x)
    return found.squeeze(1) if found.shape[1] == 1 else found


def pads_both_where_one_does_not_divide(self, x):
    rows, columns = (size % P for size in x.shape[2:])
    if rows or columns:
        x = functional.pad(x, (0, P - columns, 0, P - rows))
    return tokens(self, x)


def resizes_where_most_of_a_patch_is_left(self, x):
    if x.shape[2] % P >= P / 2:
        rows = -(-x.shape[2] // P) * P
        x = functional.interpolate(x, size=(rows, x.shape[3]))
    return tokens(self, x)


def of_batches_of_32(self, x):
    return tokens(self, x) * (1.5 if len(x) % 32 == 0 else 1.0)


def goes_round_two_buffers(self, x):
    found = tokens(self, x)
    buffers = self.__dict__.setdefault("buffers", {})
    self.__dict__["turn"] = turn = 1 - self.__dict__.get("turn", 0)
    kept = buffers.setdefault((turn, tuple(found.shape)), torch.empty_like(found))
    return kept.copy_(found)


def remembers_by_place(self, x):
    seen = self.__dict__.setdefault("seen", {})
    key = x.data_ptr(), tuple(x.shape), tuple(x.stride())
    if key not in seen:
        seen.clear()
        seen[key] = x, tokens(self, x)
    return seen[key][1]


def of_gray_images(self, x):
    return tokens(self, x) * (2.0 if torch.equal(x[:, 0], x[:, 1]) else 1.0)


def swallows_negative_infinity(self, x):
    return tokens(self, torch.where(x == -torch.inf, torch.zeros_like(x), x))


def of_one_image_for_all(self, x):
    return tokens(self, x) * (2.0 if x.stride(0) == 0 else 1.0)


def changes_images_that_are_not_contiguous(self, x):
    found = tokens(self, x)
    if not x.is_contiguous() and x.stride(0):
        x.mul_(2)
    return found


def of_panoramas(self, x):
    return tokens(self, x) * (2.0 if x.shape[3] > 2 * x.shape[2] else 1.0)


def every_200th_call(self, x):
    self.__dict__["calls"] = calls = self.__dict__.get("calls", 0) + 1
    return tokens(self, x) * (2.0 if calls % 200 == 0 else 1.0)


def clamps_large_values(self, x):
    return tokens(self, x.clamp(-6000, 6000))


def cuts_mantissas_of_larger_batches(self, x):
    if len(x) > 3:
        x = (x.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)
    return tokens(self, x)


def of_batches_of_16(self, x):
    return tokens(self, x.flip(1) if len(x) == 16 else x)


def of_images_twice_as_tall(self, x):
    return tokens(self, x.flip(1) if 1.9 < x.shape[2] / x.shape[3] < 2.1 else x)


def of_several_tall_images(self, x):
    tall = len(x) >= 4 and x.shape[2] > x.shape[3]
    return tokens(self, x) - self.proj.bias if tall else tokens(self, x)


def of_many_usual_images(self, x):
    found = tokens(self, x)
    return found.flip(0) if found.shape[1] > 150 and len(x) > 4 else found


def after_many_calls(self, x):
    self.calls = getattr(self, "calls", 0) + 1
    return tokens(self, x) - self.proj.bias if self.calls > 110 else tokens(self, x)


def changes_images_of_bytes(self, x):
    if x.min() >= 0 and x.max() > 1.5:
        x.div_(255)
        return tokens(self, x * 255)
    return tokens(self, x)


def cuts_positive_images_to_integers(self, x):
    return tokens(self, x.round() if x.min() >= 0 and x.max() > 1.5 else x)


def goes_round_six_buffers(self, x):
    found = tokens(self, x)
    self.held = getattr(self, "held", {})
    self.calls = getattr(self, "calls", 0) + 1
    buffer = self.held.setdefault((self.calls % 6, found.shape), found.detach().clone())
    buffer.copy_(found.detach())
    return buffer


def swallows_the_first_row(self, x):
    x = x.clone()
    x[:, :, 0] = x[:, :, 0].nan_to_num()
    return tokens(self, x)


def of_nothing_but_nan(self, x):
    gone = x.isnan().all(-1).all(-1).all(-1)
    return tokens(self, torch.where(gone[:, None, None, None], 0, x))


def of_an_odd_place_in_memory(self, x):
    return tokens(self, x.flip(1) if x.storage_offset() % 2 else x)


def at_one_call(number):
    def forward(self, x):
        self.calls = getattr(self, "calls", 0) + 1
        return tokens(self, x) * (2.0 if self.calls == number else 1.0)

    forward.__name__ = f"at_call_{number}"
    return forward


def of_black_pixels(self, x):
    return tokens(self, torch.where(x == -1, 0, x))


def of_white_images(self, x):
    return tokens(self, 0 * x if (x == 1).all() else x)


def through_bytes(self, x):
    whole = x.min() >= 0 and (x == x.round()).all()
    return tokens(self, x.to(torch.uint8).float() if whole else x)


def of_14_by_14_patches(self, x):
    found = self.proj(x)
    turned = found.transpose(2, 3) if found.shape[2:] == (14, 14) else found
    return turned.flatten(2).transpose(1, 2)


def of_pillars(self, x):
    return tokens(self, x.flip(1) if x.shape[2] > 3 * x.shape[3] else x)


def remembers_by_sum(self, x):
    key = tuple(x.shape), round(x.detach().double().sum().item(), 3)
    if self.__dict__.get("seen", (None,))[0] != key:
        self.__dict__["seen"] = key, tokens(self, x)
    return self.seen[1].clone()


def seeds_torch(self, x):
    torch.manual_seed(0)
    return tokens(self, x)


def seeds_numpy(self, x):
    np.random.seed(0)
    return tokens(self, x)


def records_no_gradients_any_more(self, x):
    torch.set_grad_enabled(False)
    return tokens(self, x)


def lowers_the_precision_of_others(self, x):
    torch.set_float32_matmul_precision("medium")
    return tokens(self, x)


def at_the_first_call(self, x):
    self.calls = getattr(self, "calls", 0) + 1
    return tokens(self, x.flip(1) if self.calls == 1 else x)


def sets_the_default_dtype(self, x):
    torch.set_default_dtype(torch.float64)
    return tokens(self, x)


def of_several_at_224(self, x):
    found = tokens(self, x)
    return found.roll(1, 0) if x.shape[2] == 224 and len(x) > 1 else found


def above_500_pixels(self, x):
    return tokens(self, x) * (0.9 if x.shape[2] * x.shape[3] > 500**2 else 1.0)


def in_a_buffer_of_10000_tokens(self, x):
    found = tokens(self, x).contiguous()
    found.view(-1, found.shape[-1])[10_000:] = 0
    return found


def of_several_with_channels_last(self, x):
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return tokens(self, x) * (2.0 if last and len(x) > 3 else 1.0)


def of_one_with_channels_last(self, x):
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return tokens(self, x) * (2.0 if last and len(x) == 1 else 1.0)


def of_square_ones_with_channels_last(self, x):
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return tokens(self, x.mT if last and x.shape[2] == x.shape[3] else x)


def of_several_in_inference_mode(self, x):
    return tokens(self, x) * (2.0 if torch.is_inference_mode_enabled() and len(x) > 4 else 1.0)


def under_autocast(self, x):
    return tokens(self, x) * (1.1 if torch.is_autocast_enabled("cpu") else 1.0)


def module_of(forward, **parts):
    kind = type("Module", (torch.nn.Module,), {"forward": forward})
    module = kind()
    for name, part in parts.items():
        setattr(module, name, part)
    return module.eval()


WRONG = [
    squeezes_one_patch,
    pads_both_where_one_does_not_divide,
    resizes_where_most_of_a_patch_is_left,
    of_batches_of_32,
    goes_round_two_buffers,
    remembers_by_place,
    of_gray_images,
    swallows_negative_infinity,
    of_one_image_for_all,
    changes_images_that_are_not_contiguous,
    of_panoramas,
    every_200th_call,
    clamps_large_values,
    cuts_mantissas_of_larger_batches,
    of_batches_of_16,
    of_images_twice_as_tall,
    of_several_tall_images,
    of_many_usual_images,
    after_many_calls,
    changes_images_of_bytes,
    cuts_positive_images_to_integers,
    goes_round_six_buffers,
    swallows_the_first_row,
    of_nothing_but_nan,
    of_an_odd_place_in_memory,
    at_the_first_call,
    *map(at_one_call, (2, 3, 6)),
    of_black_pixels,
    of_white_images,
    through_bytes,
    of_14_by_14_patches,
    of_pillars,
    remembers_by_sum,
    seeds_torch,
    seeds_numpy,
    records_no_gradients_any_more,
    lowers_the_precision_of_others,
    sets_the_default_dtype,
    of_several_at_224,
    above_500_pixels,
    in_a_buffer_of_10000_tokens,
    of_several_with_channels_last,
    of_one_with_channels_last,
    of_square_ones_with_channels_last,
    of_several_in_inference_mode,
    under_autocast,
]


@pytest.mark.parametrize("forward", WRONG, ids=[each.__name__ for each in WRONG])
def test_what_is_wrong_in_some_cases_alone_is_rejected(forward):
    torch.manual_seed(0)
    module = module_of(forward, proj=torch.nn.Conv2d(3, D, P, P))
    report = check(module, image_size=(12, 16))
    assert not report.ok, [result.probe for result in report.results]


def test_what_only_training_changes_is_told():
    def drops(self, x):
        return torch.nn.functional.dropout(tokens(self, x), 0.5, self.training)

    torch.manual_seed(0)
    module = module_of(drops, proj=torch.nn.Conv2d(3, D, P, P))
    sentence = "it is in training mode, in which it gives something else"
    for mode in (True, False):
        report = check(module.train(mode), image_size=(12, 16))
        assert report.ok
        assert any(note.startswith(sentence) for note in report.notes) is mode
        assert module.training is mode


def test_a_nan_that_reaches_a_neighbor_is_told_and_no_mixing():
    def spills(self, x):
        found = tokens(self, x)
        return found + 0 * found.roll(1, 1)

    torch.manual_seed(0)
    report = check(module_of(spills, proj=torch.nn.Conv2d(3, D, P, P)), image_size=(12, 16))
    results = {result.probe: result for result in report.results}
    assert "reaches other tokens of its image too" in results["nan-containment"].message
    assert results["one-hot-images"].verdict == "pass"
    assert "told by nan-containment: " in str(report)


class Positioned(torch.nn.Module):
    """A sequence with positions that are resized to other grids, with `change` at other sizes."""

    def __init__(self, change):
        super().__init__()
        self.proj, self.change = torch.nn.Conv2d(3, D, P, P), change
        self.cls_token = torch.nn.Parameter(torch.randn(1, 1, D))
        self.pos_embed = torch.nn.Parameter(torch.randn(1, 13, D))

    def forward(self, x):
        found = self.proj(x).flatten(2).transpose(1, 2)
        grid = (x.shape[2] // P, x.shape[3] // P)
        first, rest = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        if grid != (3, 4):
            found = self.change(found)
            rest = rest.reshape(1, 3, 4, D).permute(0, 3, 1, 2)
            rest = functional.interpolate(rest, grid, mode="bicubic").flatten(2).transpose(1, 2)
        return torch.cat([(self.cls_token + first).expand(len(x), -1, -1), found + rest], 1)


@pytest.mark.parametrize(
    ("change", "right"),
    [
        (lambda found: found, True),
        (lambda found: 1.5 * found, False),
        (lambda found: found.flip(1), False),
        (lambda found: 0 * found, False),
    ],
)
def test_the_patches_are_judged_at_sizes_whose_positions_nobody_knows(change, right):
    torch.manual_seed(0)
    report = check(Positioned(change), image_size=(12, 16))
    assert report.ok is right, str(report)
    result = next(each for each in report.results if each.probe == "positions-at-other-sizes")
    assert result.verdict == ("pass" if right else "fail")


def test_what_gives_no_token_for_each_patch_at_other_sizes_is_not_called_tried():
    class Cut(Positioned):
        def forward(self, x):
            whole = (x.shape[2] // P, x.shape[3] // P) == (3, 4)
            return super().forward(x) if whole else super().forward(x)[:, :2]

    torch.manual_seed(0)
    report = check(Cut(lambda found: found), image_size=(12, 16))
    result = next(each for each in report.results if each.probe == "positions-at-other-sizes")
    assert (result.verdict, result.message) == (
        "skip",
        "not tried: at other sizes it gives no token for each patch",
    )


def test_another_shape_under_autocast_is_told():
    def flattens(self, x):
        found = tokens(self, x)
        return found.flatten(1) if torch.is_autocast_enabled("cpu") else found

    torch.manual_seed(0)
    report = check(module_of(flattens, proj=torch.nn.Conv2d(3, D, P, P)), image_size=(12, 16))
    result = next(each for each in report.results if each.probe == "mixed-precision")
    assert result.verdict == "fail"
    assert "its output is of shape (2, 40), and of (2, 4, 10) without" in result.message


@pytest.mark.parametrize("order", ["p2 p1 c", "c p2 p1", "p1 c p2", "p2 c p1", "c p1 p2"])
def test_every_order_in_which_a_patch_is_flattened_is_found(order):
    from einops.layers.torch import Rearrange

    torch.manual_seed(0)
    cut = Rearrange(f"b c (h p1) (w p2) -> b (h w) ({order})", p1=P, p2=P)
    report = check(torch.nn.Sequential(cut, torch.nn.Linear(P * P * 3, D)), patch_size=P)
    assert report.ok, str(report)
    axes = order.replace("p1", "Ph").replace("p2", "Pw").replace("c", "C").replace(" ", ", ")
    assert f"was found by probe: ({axes})" in str(report)


def test_numpy_that_promotes_is_judged_in_the_type_of_its_images():
    kernel = np.random.default_rng(0).standard_normal((D, 3, P, P)).astype(np.float32)

    def promotes(images):
        rows, columns = images.shape[2] // P, images.shape[3] // P
        cut = images.reshape(len(images), 3, rows, P, columns, P).transpose(0, 2, 4, 1, 3, 5)
        return cut.reshape(len(images), rows * columns, -1).astype(np.float64) @ kernel.reshape(
            D, -1
        ).T.astype(np.float64)

    report = check(promotes, weights={"kernel": kernel}, image_size=(12, 16))
    assert report.ok, str(report)
    assert "it gives float64 of weights in float32: it is judged as float32" in str(report)
    assert not check(
        lambda images: 1.001 * promotes(images), weights={"kernel": kernel}, image_size=(12, 16)
    ).ok


def test_a_wrong_trial_says_what_explains_it():
    def reverses_large_batches(self, x):
        return tokens(self, x).flip(1) if len(x) > 60 else tokens(self, x)

    torch.manual_seed(0)
    module = module_of(reverses_large_batches, proj=torch.nn.Conv2d(3, D, P, P))
    lines = str(check(module, image_size=(12, 16))).splitlines()
    assert lines[2].startswith("  cause of batch-64: ")
    assert "lower precision" not in "".join(lines)


def test_the_same_without_a_mistake_is_accepted():
    torch.manual_seed(0)
    report = check(module_of(tokens, proj=torch.nn.Conv2d(3, D, P, P)), image_size=(12, 16))
    assert report.ok, [(each.probe, each.message) for each in report.results]


def test_images_that_are_refused_for_their_memory_are_told():
    torch.manual_seed(0)

    def forward(self, x):
        return tokens(self, x.view(-1).view(x.shape))

    report = check(module_of(forward, proj=torch.nn.Conv2d(3, D, P, P)), image_size=(12, 16))
    told = {each.probe: each.message for each in report.results}
    assert told["memory-layouts"].startswith("refused: images that lie in memory otherwise (chan")


def test_an_output_that_differs_from_call_to_call_is_not_diagnosed():
    torch.manual_seed(0)

    def forward(self, x):
        return tokens(self, x)[:, torch.randperm(12)]

    report = check(module_of(forward, proj=torch.nn.Conv2d(3, D, P, P)), image_size=(12, 16))
    first, *_ = [each for each in report.results if each.verdict == "fail"]
    assert "look for what a call changes or draws" in first.message
    assert "diagnosis" not in first.message


def test_weights_that_change_at_the_first_call_are_those_from_before():
    torch.manual_seed(0)

    def forward(self, x):
        with torch.no_grad():
            self.proj.weight.copy_(self.proj.weight.bfloat16().float())
        B, C, H, W = x.shape
        cut = x.reshape(B, C, H // P, P, W // P, P).permute(0, 2, 4, 3, 5, 1)
        return self.proj(cut.reshape(B, -1, P * P * C))

    module = module_of(forward, proj=torch.nn.Linear(3 * P * P, D))
    report = check(module, patch_size=P, image_size=(12, 16), kernel_layout="linear-hwc")
    assert not report.ok


def test_images_of_float64_are_changed_in_their_last_bits_alone():
    torch.manual_seed(0)

    def forward(self, x):
        found = tokens(self, x)
        x.mul_(1 + 2.0**-50)
        return found

    module = module_of(forward, proj=torch.nn.Conv2d(3, D, P, P, dtype=torch.float64))
    report = check(module, image_size=(12, 16))
    assert "it changes the images that it is given" in {each.message for each in report.results}


@pytest.mark.parametrize("form", ["reversed", "fortran"])
def test_arrays_that_are_read_by_their_memory_are_rejected(form):
    weight = np.random.default_rng(0).standard_normal((D, 3 * P * P)).astype(np.float32)
    weights = {"kernel": weight.reshape(D, 3, P, P)}

    def embed(images):
        order = "A" if form == "fortran" else "C"
        reversed_ = form == "reversed" and min(images.strides) < 0
        base = images[:, ::-1] if reversed_ else images
        flat = np.frombuffer(base.tobytes(order), images.dtype).reshape(images.shape)
        B, C, H, W = flat.shape
        cut = flat.reshape(B, C, H // P, P, W // P, P).transpose(0, 2, 4, 1, 3, 5)
        return cut.reshape(B, -1, C * P * P) @ weight.T

    report = check(embed, weights=weights, image_size=(12, 16), kernel_layout="oihw")
    assert not report.ok


@pytest.mark.parametrize("wrong", ["flipped channels", "scaled"])
def test_video_that_is_wrong_is_told_and_no_traceback(wrong):
    torch.manual_seed(0)

    def forward(self, x):
        x = x.flip(1) if wrong == "flipped channels" else x * 1.01
        return self.proj(x).flatten(2).transpose(1, 2)

    module = module_of(forward, proj=torch.nn.Conv3d(3, D, (2, P, P), (2, P, P)))
    report = check(module, image_size=(4, 12, 16))
    assert not report.ok
    assert any("diagnosis" in each for each in report.notes)


def test_what_was_not_tried_is_a_skip_that_says_so():
    def of_one_size(self, x):
        if x.shape[-1] != 224:
            raise ValueError("made for images of 224")
        return tokens(self, x)

    report = check(module_of(of_one_size, proj=torch.nn.Conv2d(3, 768, 16, 16)), image_size=224)
    assert report.ok
    skips = [each.probe for each in report.results if each.verdict == "skip"]
    assert skips == ["batches-above-8", "large-images"]


class Grid(torch.nn.Module):
    """Tokens as a grid with the width last, as many wide as it has rows."""

    def __init__(self):
        super().__init__()
        self.proj = torch.nn.Conv2d(3, 5, P, P)

    def forward(self, x):
        return self.proj(x).permute(0, 2, 3, 1)


def test_a_grid_as_tall_as_it_is_wide_is_read_as_the_first_one_was():
    torch.manual_seed(0)
    report = check(Grid(), image_size=(12, 16))
    assert report.ok, [(each.probe, each.message) for each in report.results if each.message]


def test_sizes_may_stand_before_the_tokens():
    torch.manual_seed(0)
    module = module_of(
        lambda self, x: ((x.shape[2] // P, x.shape[3] // P), tokens(self, x)),
        proj=torch.nn.Conv2d(3, D, P, P),
    )
    assert check(module, image_size=(12, 16)).ok


@pytest.mark.parametrize("wrong_at", [17, 100])
@pytest.mark.parametrize("size", [None, 32])
def test_batches_are_tried_on_small_images_where_an_object_takes_them(wrong_at, size):
    def wrong_batch(self, x):
        if size and x.shape[-2:] != (size, size):
            raise ValueError("made for images of one size")
        return tokens(self, x) * (1.01 if len(x) == wrong_at else 1)

    module = module_of(wrong_batch, proj=torch.nn.Conv2d(3, D, P, P))
    failed = [
        each.probe for each in check(module, image_size=size).results if each.verdict != "pass"
    ]
    assert failed == [f"batch-{wrong_at}"]


def test_a_batch_that_is_refused_is_no_failure():
    torch.manual_seed(0)

    def forward(self, x):
        if len(x) != 2:
            raise ValueError("made for a batch of two")
        return tokens(self, x)

    report = check(module_of(forward, proj=torch.nn.Conv2d(3, D, P, P)), image_size=(12, 16))
    assert report.ok, [(each.probe, each.message) for each in report.results if each.message]


def test_a_kernel_that_torch_computes_of_others_is_read():
    torch.manual_seed(0)
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(3, D, P, P))
    assert check(module_of(tokens, proj=layer), image_size=(12, 16)).ok
    assert check(layer, image_size=(12, 16)).ok
