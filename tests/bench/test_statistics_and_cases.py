"""Paired ratios, their intervals, comparisons, and the named cases."""

import numpy as np
import pytest

from patchparity import PatchParityError
from patchparity.bench import intervals
from patchparity.bench.cases import VIT_PATCHES, VIT_WIDTHS, named_case
from patchparity.bench.check.shapes import CHECK_CASES
from patchparity.bench.intervals import (
    RESAMPLES,
    Ratio,
    _drawn,
    _medians,
    by_generation,
    compare_ratios,
    interval_of,
    median_of,
    noise_floor,
    paired_chance,
    paired_ratio,
    resampled_medians,
    unpaired_chance,
)
from patchparity.bench.timing.presets import PRESETS, preset


def test_pairing_takes_drift_out():
    """A machine that halves its speed in the middle hides a 10% difference from medians, not from
    paired ratios."""
    generator = np.random.default_rng(0)
    drift = np.where(np.arange(40) < 20, 1.0, 2.0) * generator.lognormal(0, 0.2, 40)
    ratio, (low, high) = paired_ratio([1.1 * drift * generator.lognormal(0, 0.01, 40)], [drift])
    assert ratio == pytest.approx(1.1, rel=0.01)
    assert 1.08 < low <= ratio <= high < 1.12


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    covered = 0
    for number in range(400):
        ratio = generator.lognormal(0, 0.1, 24)
        low, high = paired_ratio([ratio], [np.ones(24)], seed=number)[1]
        covered += low <= 1 <= high
    # 95% of 400 is 380, its standard deviation 4.4; the percentile bootstrap of a median of 24 is
    # known to cover 93 to 96%.
    assert 360 <= covered <= 397


def test_generations_widen_the_interval_to_what_processes_differ_by():
    """Processes that differ by 5%, rounds by 0.5%: the plain bootstrap is sure of a wrong ratio,
    the hierarchical one is not."""
    generator = np.random.default_rng(2)
    covered = {"plain": 0, "hierarchical": 0}
    for number in range(100):
        shifts = generator.lognormal(0, 0.05, 8)
        groups = [shift * generator.lognormal(0, 0.005, 8) for shift in shifts]
        for name, found in (("hierarchical", groups), ("plain", [np.concatenate(groups)])):
            low, high = paired_ratio(found, [np.ones(len(group)) for group in found], seed=number)[
                1
            ]
            covered[name] += low <= 1 <= high
    assert covered["hierarchical"] >= 85, (
        "of 100; eight generations are few, and the bootstrap knows it a little too well"
    )
    assert covered["hierarchical"] > covered["plain"] + 10


def test_ratio_is_seeded_and_refuses_unpaired_rows():
    assert paired_ratio([[1, 2, 4]], [[1, 1, 1]]) == paired_ratio([[1, 2, 4]], [[1, 1, 1]])
    assert paired_ratio([[1, 2], [4]], [[1, 1], [1]])[0] == 2
    with pytest.raises(ValueError, match="2 and 1 samples"):
        paired_ratio([[1, 2]], [[1]])
    with pytest.raises(ValueError, match=r"1\+2 and 2\+1 samples"):
        paired_ratio([[1], [1, 2]], [[1, 2], [1]])
    with pytest.raises(ValueError, match="0 and 0"):
        paired_ratio([], [])
    assert by_generation([1, 2, 3, 4, 5], [2, 3]) == [[1, 2], [3, 4, 5]]


def ratio(median: float, spread: float = 0.003, noise: float = 0.02) -> Ratio:
    return Ratio(median, np.random.default_rng(3).normal(median, spread, RESAMPLES), noise)


@pytest.mark.parametrize(
    ("judged", "word", "reason"),
    [
        (ratio(0.85), "FASTER", "beyond the noise of ±2.0%"),
        (ratio(1.15), "SLOWER", "beyond the noise of ±2.0%"),
        (ratio(1.001), "SAME", "within the noise of ±2.0%"),
        (ratio(1.03, 0.02), "UNSURE", "lies neither inside nor beyond the noise of ±2.0%"),
        (
            ratio(1.05, 0.02, 0.30),
            "UNSURE",
            "within the noise of ±30.0%, which could hide a difference that matters",
        ),
        (ratio(1.033, 0.001, 0.036), "SAME", "within the noise of ±3.6%"),
        (Ratio(2.0, None), "UNSURE", "fewer than 6 rounds"),
        (Ratio(2.0, None, unknown="no A/A row"), "UNSURE", "no A/A row"),
    ],
)
def test_comparison(judged, word, reason):
    (found,) = compare_ratios([judged])
    assert found.word == word
    assert reason in found.reason
    assert found.ratio == judged.median


def test_many_comparisons_need_clearer_differences_each():
    """2.4 standard errors beyond the noise are enough for one comparison and not for fifty; what is
    clearer than that stays decided."""
    marginal = ratio(1.02 + 2.4 * 0.003)
    assert compare_ratios([marginal])[0].word == "SLOWER"
    family = [ratio(1.2), *[ratio(1.0)] * 48, marginal]
    words = [found.word for found in compare_ratios(family)]
    assert words == ["SLOWER", *["SAME"] * 48, "UNSURE"]
    assert compare_ratios([]) == []


def test_a_family_without_differences_is_called_different_in_one_of_twenty_at_most():
    generator = np.random.default_rng(4)
    alarms = 0
    for _ in range(200):
        family = [
            Ratio(
                m := 1.02 + generator.normal(0, 0.003), generator.normal(m, 0.003, RESAMPLES), 0.02
            )
            for _ in range(10)
        ]
        alarms += any(found.word == "SLOWER" for found in compare_ratios(family))
    # All ten lie at the very edge of the noise, the hardest case: 2.5% a side are allowed, 5 of
    # 200, standard deviation 2.2.
    assert alarms <= 12


def test_noise_floor_is_the_farther_end():
    assert noise_floor((0.9, 1.02)) == pytest.approx(0.1)
    assert noise_floor((0.999, 1.001)) == 0.01


def test_named_cases():
    case = named_case("vit-b16-224-b8")
    assert (case.name, case.batch, case.spec.num_patches, case.spec.embed_dim) == (
        "vit-b16-224-b8",
        8,
        196,
        768,
    )
    assert named_case("vit-b16-224").name == "vit-b16-224-b1"
    assert named_case("vit-l14-518").spec.grid == (37, 37)
    assert named_case("vit-so400m14-384").spec.num_patches == 729, (
        "SigLIP So400m/14 at 384 has 27×27 tokens"
    )
    assert named_case("sam-b16-1024").spec.num_patches == 4096
    assert named_case("swin-t4-224").spec.num_patches == 3136
    assert named_case("segformer-k7s4p3-224").spec.grid == (56, 56)
    assert named_case("overlap-k5s2-225").spec.grid == (111, 111)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "vit",
        "vit-x16-224",
        "vit-b16",
        "vit-b16-224-b0",
        "vit-b16-224-b00",
        "vit-b15-224",
        "resnet50",
        "vit\nx",
    ],
)
def test_unknown_cases(name):
    with pytest.raises(PatchParityError, match=r"is unknown.*expected for instance vit-b16-224"):
        named_case(name)


def test_a_case_that_does_not_divide():
    with pytest.raises(PatchParityError, match="does not divide"):
        named_case("vit-b16-225")


def test_presets_name_cases_that_exist_and_cover_what_they_promise():
    for chosen in PRESETS.values():
        names = [name for part in chosen.parts for name in part.cases]
        assert [named_case(name).name for name in names] == names, "names are canonical"
    listed = [name for part in PRESETS["full"].parts for name in part.cases]
    full = " ".join(listed)
    assert all(f"vit-{size}" in full for size in VIT_WIDTHS)
    assert all(any(f"{patch}-" in name for name in listed) for patch in VIT_PATCHES)
    assert all(
        name in full
        for name in (
            "b16-1024",
            "swin-t4-224",
            "-518-",
            "overlap-k5s2",
            "segformer-k7s4p3",
            "2x448",
            "16x224",
        )
    )
    assert {f"vit-b16-224-b{batch}" for batch in (1, 2, 4, 8, 16, 32, 64, 128)} <= set(listed), (
        "the sweep over batch"
    )
    assert {f"vit-b16-{size}-b1" for size in (112, 224, 384, 512, 768, 1024)} <= set(listed), (
        "the sweep over image size"
    )
    with pytest.raises(
        PatchParityError, match=r"preset 'fast' is unknown.*; expected one of smoke, quick, full"
    ):
        preset("fast")


def test_check_shapes_are_what_a_layout_mistake_cannot_hide_in():
    assert {case.spec.in_channels for case in CHECK_CASES} >= {1, 3, 4}
    assert {case.batch for case in CHECK_CASES} >= {1, 2, 3}
    for case in CHECK_CASES:
        if case.name == "vit-b16-224":
            continue  # the model as it is
        assert case.spec.in_channels not in case.spec.patch_size, (
            "C = P would make OIHW and OHWI alike"
        )
        assert case.spec.grid[0] != case.spec.grid[1]
        assert case.spec.image_size[0] != case.spec.image_size[1]
        assert case.spec.embed_dim >= case.spec.patch_values or case.name.startswith("long-"), (
            "the identity reads every value"
        )


def test_a_winner_chosen_from_many_must_win_more_clearly():
    """Of twenty rows that are the same as the peer, the fastest looks faster in one report of two:
    it was chosen for that."""
    generator = np.random.default_rng(0)

    def found(chosen_from):
        best = min(1 + 0.02 * generator.standard_normal((20, 32)), key=np.median)
        return compare_ratios(
            [
                Ratio(
                    float(np.median(best)),
                    resampled_medians([list(best)]),
                    0.0,
                    chosen_from=chosen_from,
                )
            ]
        )[0].word

    assert sum(found(1) == "FASTER" for _ in range(30)) > 10
    assert sum(found(20) == "FASTER" for _ in range(30)) <= 4, (
        "5% of 30 is 1.5, its standard deviation 1.2"
    )


@pytest.mark.parametrize("lengths", [(16, 1), (2, 2, 2, 1), (16, 16, 32, 64)])
def test_generations_of_different_lengths_count_with_all_their_rounds(lengths):
    """An interval of some rounds beside a median of all would leave its own median out in half of
    the cases."""
    generator, missed = np.random.default_rng(1), 0
    for _ in range(40):
        groups = [list(1 + 0.03 * generator.standard_normal(length)) for length in lengths]
        ratio, (low, high) = paired_ratio(groups, [[1.0] * length for length in lengths])
        assert low <= ratio <= high
        missed += not low <= 1 <= high
    assert missed <= 6, "5% of 40 is 2, its standard deviation 1.4"


def test_a_thousand_clear_differences_are_all_decided_and_as_many_equal_pairs_are_not():
    """Holm's adjustment must not ask for a smaller probability than the resamples can show: a full
    record would then decide nothing."""
    generator = np.random.default_rng(3)

    def ratios(truth):
        pairs = [
            [generator.normal(truth, 0.01, 16), generator.normal(truth, 0.01, 16)]
            for _ in range(300)
        ]
        return [
            Ratio(
                float(np.median(np.concatenate(pair))),
                resampled_medians(pair),
                least_chance=paired_chance(pair),
                chosen_from=14,
            )
            for pair in pairs
        ]

    clear, equal = ratios(1.10), ratios(1.0)
    words = [judged.word for judged in compare_ratios(clear + equal)]
    assert set(words[:300]) == {"SLOWER"}
    assert set(words[300:]) <= {"SAME", "UNSURE"}


def test_few_rounds_are_not_believed_however_far_apart_they_lie():
    pair = [np.array([1.5, 1.5001, 1.5002, 1.5001, 1.5, 1.5])]
    alone = Ratio(1.5, resampled_medians(pair), least_chance=paired_chance(pair))
    assert compare_ratios([alone])[0].word == "SLOWER", "six of six: 1.6%, and 2.5% are allowed"
    assert {judged.word for judged in compare_ratios([alone, alone])} == {"UNSURE"}, (
        "1.25% are allowed"
    )
    assert unpaired_chance(pair, pair) == 1 / 924


@pytest.mark.parametrize("count", [6, 7, 24, 31])
def test_medians_of_resamples_are_numpy_s_to_the_last_bit(count):
    rows = np.random.default_rng(count).lognormal(size=(50, count))
    assert (_medians(rows) == np.median(rows, axis=1)).all()


@pytest.mark.parametrize("count", [1, 2, 7, 400, 10_000])
def test_medians_and_intervals_are_numpy_s_to_the_last_bit(count):
    values = np.random.default_rng(count).lognormal(size=count)
    kept = values.copy()
    assert median_of(values) == np.median(values)
    for tail in (0.025, 0.0001, 0.013, 0.5):
        assert interval_of(values, tail) == tuple(np.quantile(values, (tail, 1 - tail)))
    assert (values == kept).all(), "what was measured keeps its order"


@pytest.mark.parametrize("lengths", [(24,), (6, 6, 6), (16, 7, 1)])
def test_resamples_do_not_depend_on_how_many_are_laid_out_at_once(lengths, monkeypatch):
    whole = _drawn.__wrapped__(lengths, 3)
    monkeypatch.setattr(intervals, "AT_ONCE", 999)
    assert (_drawn.__wrapped__(lengths, 3) == whole).all()
    samples = np.split(np.random.default_rng(0).random(sum(lengths)), np.cumsum(lengths)[:-1])
    medians = np.median(np.concatenate(samples)[whole], axis=1)
    assert (resampled_medians(samples, 3) == medians).all()


def test_every_case_has_one_name_everywhere_and_so_has_any_shape():
    from patchparity.bench.answers.shape_names import case_of_text
    from patchparity.bench.cases import NAMED, name_of_sizes, named_case

    for name in NAMED:
        assert case_of_text(f"{name}-b3") == named_case(f"{name}-b3")
    name = name_of_sizes((8, 4), (96, 128), 192, 4, (8, 2))
    assert name == "p8x4-96x128-d192-c4-s8x2"
    case = case_of_text(f"{name}-b5")
    assert (case.name, case.batch) == (f"{name}-b5", 5)
    assert case.spec.images_shape(5) == (5, 4, 96, 128)
    assert (case.spec.patch_size, case.spec.stride, case.spec.embed_dim) == ((8, 4), (8, 2), 192)
    assert case_of_text(name, 7).batch == 7
    plain = named_case(name_of_sizes((16,), (100,), 32))
    assert (plain.name, plain.spec.grid) == ("p16-100-d32-b1", (6, 6))
    assert named_case("p2x16x16-4x32x48-d24").spec.grid == (2, 2, 3)
