"""Intervals, tests, corrections and numbers of seeds: against simulation, references, and cases worked by hand."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from detrkit.ablation import statistics
from detrkit.ablation.conclusions import Verdict, compare
from detrkit.ablation.statistics import (
    Pairs,
    benjamini_hochberg,
    bootstrap_interval,
    effect_size,
    holm,
    noise_interval,
    power,
    seeds_needed,
    sign_flip_test,
    spread,
    t_interval,
    t_test,
)
from detrkit.errors import DetrkitError

pytestmark = pytest.mark.fast

INTERVALS = {
    "t": t_interval,
    "percentile": lambda d: bootstrap_interval(d, method="percentile", resamples=500),
    "bca": lambda d: bootstrap_interval(d, method="bca", resamples=500),
}
SCORES = [0.40, 0.42, 0.41, 0.43, 0.39]
SIGNS = [1, -1, 1, -1, 1]
differences = st.lists(st.floats(-1, 1).map(lambda x: round(x, 4)), min_size=1, max_size=9)
p_values = st.lists(st.floats(0, 1), max_size=12)


def of_seeds(values):
    return dict(enumerate(values))


def shifted(by, noise=0.003):
    """Scores that differ from `SCORES` by ``by`` and some noise."""
    return of_seeds(score + by + noise * sign for score, sign in zip(SCORES, SIGNS, strict=True))


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_runs_are_paired_by_seed_and_the_rest_is_named():
    base = {3: 0.3, 1: 0.1, 2: math.nan, 5: None}
    pairs = Pairs.of(base, {1: 0.2, 3: 0.5, 2: math.nan, 4: 0.4, 5: 0.1}, ("sdpa", "matrix"))
    assert pairs.seeds == (1, 3)
    assert pairs.differences == pytest.approx([0.1, 0.2])
    assert pairs.left_out == {
        "sdpa gave no number and matrix gave no number": (2,),
        "no run of sdpa": (4,),
        "sdpa gave no number": (5,),
    }


def test_infinite_score_is_no_number():
    assert Pairs.of({0: 1.0}, {0: math.inf}).left_out == {"other gave no number": (0,)}


def test_only_bitwise_equal_runs_are_identical():
    assert Pairs.of({0: 0.1, 1: 0.2}, {0: 0.1, 1: 0.2}).identical
    assert not Pairs.of({0: 0.1, 1: 0.2}, {0: 0.1, 1: 0.2 + 1e-16 + 2**-54}).identical
    assert not Pairs.of({0: 0.1}, {1: 0.1}).identical


# --- intervals --------------------------------------------------------------------------------------------------------


def coverage(interval, pairs, studies):
    """Share of simulated studies whose interval holds the true difference of zero."""
    drawn = np.random.default_rng(1).normal(size=(studies, pairs))
    return np.mean([0.0 in interval(d) for d in drawn])


def test_t_interval_covers_as_it_says():
    assert coverage(t_interval, pairs=5, studies=3000) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_undercovers_few_pairs_and_comes_near_for_many(method):
    assert coverage(INTERVALS[method], pairs=5, studies=1000) == pytest.approx(0.83, abs=0.04)
    assert coverage(INTERVALS[method], pairs=40, studies=1000) == pytest.approx(0.94, abs=0.02)


def test_t_interval_is_that_of_the_textbook():
    d = [0.1, 0.4, -0.2, 0.3]
    expected = stats.t.interval(0.9, 3, np.mean(d), stats.sem(d))
    assert t_interval(d, 0.9)[:2] == pytest.approx(expected)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_agrees_with_scipy(method):
    d = np.random.default_rng(2).exponential(size=12)
    name = {"percentile": "percentile", "bca": "BCa"}[method]
    drawn = stats.bootstrap((d,), np.mean, method=name, n_resamples=20_000, rng=np.random.default_rng(3))
    expected = drawn.confidence_interval
    assert bootstrap_interval(d, method=method, resamples=20_000)[:2] == pytest.approx(tuple(expected), abs=0.03)


def test_bca_leans_to_the_long_tail():
    d = np.random.default_rng(2).exponential(size=12)
    bca, percentile = (INTERVALS[method](d) for method in ("bca", "percentile"))
    assert bca.low > percentile.low
    assert bca.high > percentile.high


@given(differences)
@pytest.mark.parametrize("name", INTERVALS)
def test_intervals_hold_the_mean_and_turn_round_with_the_arms(name, d):
    forth, back = INTERVALS[name](d), INTERVALS[name]([-x for x in d])
    assert forth.low - 1e-12 <= np.mean(d) <= forth.high + 1e-12
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low), abs=1e-9)


@given(st.lists(st.tuples(*[st.integers(-1000, 1000)] * 3), min_size=1, max_size=8))
def test_what_a_seed_does_to_both_arms_cancels(triples):
    base, other, seed_effect = ([x / 1024 for x in column] for column in zip(*triples, strict=True))  # exact in floats
    plain = Pairs.of(of_seeds(base), of_seeds(other))
    moved = Pairs.of(
        *(of_seeds(x + effect for x, effect in zip(arm, seed_effect, strict=True)) for arm in (base, other))
    )
    assert (plain.differences == moved.differences).all()


@pytest.mark.parametrize("name", INTERVALS)
def test_one_pair_excludes_nothing(name):
    interval = INTERVALS[name]([0.3])
    assert (interval.low, interval.high) == (-math.inf, math.inf)


@pytest.mark.parametrize("value", [0.0, 0.25])
@pytest.mark.parametrize("name", INTERVALS)
def test_equal_differences_give_no_width(name, value):
    interval = INTERVALS[name]([value] * 4)
    assert (interval.low, interval.high, interval.width) == (value, value, 0)


def test_spread_ignores_rounding():
    d = np.array([0.1, 0.3, 0.7]) + 0.01 - np.array([0.1, 0.3, 0.7])
    assert len(set(d)) > 1
    assert spread(d) == 0
    assert spread([1.0, 1.000001]) > 0


@pytest.mark.parametrize("bad", [[], [math.nan], [[1.0]]])
@pytest.mark.parametrize("function", [t_interval, bootstrap_interval, t_test, sign_flip_test, noise_interval])
def test_what_are_no_differences_is_refused(function, bad):
    with pytest.raises(DetrkitError, match="not differences"):
        function(bad)


def test_level_out_of_range_is_refused():
    with pytest.raises(DetrkitError, match="level"):
        t_interval([1.0, 2.0], level=95)


# --- effects and tests ------------------------------------------------------------------------------------------------


def test_effect_size_is_unbiased_where_the_plain_ratio_is_not():
    drawn = np.random.default_rng(4).normal(0.8, 1, size=(20_000, 5))
    assert np.mean([effect_size(d) for d in drawn[:6000]]) == pytest.approx(0.8, abs=0.03)
    assert (drawn.mean(1) / drawn.std(1, ddof=1)).mean() > 0.95


@given(differences)
def test_effects_and_tests_turn_round(d):
    back = [-x for x in d]
    assert effect_size(back) == pytest.approx(-effect_size(d), nan_ok=True)
    assert t_test(back) == pytest.approx(t_test(d), nan_ok=True)
    assert sign_flip_test(back) == sign_flip_test(d)


def test_t_test_is_that_of_the_textbook():
    d = [0.1, 0.4, -0.2, 0.3, 0.2]
    assert t_test(d) == pytest.approx(stats.ttest_1samp(d, 0).pvalue)


def test_t_test_and_interval_agree():
    d = np.random.default_rng(5).normal(0.5, 1, size=(300, 6))
    assert [t_test(x) < 0.05 for x in d] == [0.0 not in t_interval(x) for x in d]


def test_sign_flips_by_hand():
    assert sign_flip_test([1.0, 2.0, 3.0]) == 2 / 8
    assert sign_flip_test([1.0, -2.0, 3.0]) == 6 / 8  # sums 2, -4, 6, 0 and their negatives
    assert sign_flip_test([0.0, 0.0]) == 1
    assert sign_flip_test([0.1] * 5) == 0.0625
    assert sign_flip_test([0.1] * 6) == 0.03125


def test_sign_flips_drawn_come_near_the_exact_ones(monkeypatch):
    d = np.random.default_rng(6).normal(0.4, 1, size=12)
    exact = sign_flip_test(d)
    monkeypatch.setattr(statistics, "MOST_SIGNS", 0)
    assert sign_flip_test(d) == pytest.approx(exact, abs=0.01)
    assert sign_flip_test(np.full(40, 1.0), draws=99) == 0.01  # never zero


def test_sign_flips_keep_their_level():
    drawn = np.random.default_rng(7).standard_t(2, size=(1500, 8))
    assert np.mean([sign_flip_test(d) <= 0.05 for d in drawn]) <= 0.065


def test_degenerate_effects():
    assert effect_size([0.0, 0.0]) == 0
    assert effect_size([-0.1, -0.1]) == -math.inf
    assert math.isnan(effect_size([0.1]))
    assert math.isnan(t_test([0.1]))
    assert t_test([0.0, 0.0]) == 1
    assert t_test([0.1] * 4) == 0.125  # as the sign flips: equal differences show no noise


# --- many comparisons -------------------------------------------------------------------------------------------------


def holm_by_its_definition(p):
    """Step down: the i-th smallest of m is refused at level a if all smaller ones are and (m - i) p <= a."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted = {i: max(min(1.0, (len(p) - rank) * p[j]) for rank, j in enumerate(order[: place + 1]))
                for place, i in enumerate(order)}  # fmt: skip
    return [adjusted[i] for i in range(len(p))]


@given(p_values)
def test_holm(p):
    assert holm(p) == pytest.approx(holm_by_its_definition(p))


@given(p_values.filter(len))
def test_benjamini_hochberg(p):
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p, method="bh"))


@pytest.mark.parametrize("correct", [holm, benjamini_hochberg])
def test_what_could_not_be_tested_is_no_comparison(correct):
    given, corrected = [0.01, math.nan, 0.04], correct([0.01, math.nan, 0.04])
    assert corrected[[0, 2]] == pytest.approx(correct([p for p in given if p == p]))
    assert math.isnan(corrected[1])


# --- numbers of seeds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difference", "seeds", "alpha"),
    [
        (0.5, 5, 0.05),
        (1.0, 5, 0.05),
        (1.0, 10, 0.05),
        (0.0, 4, 0.05),
        (2.0, 5, 0.05),
        (3.0, 2, 0.05),
        (3.0, 5, 0.008),
        (8.0, 3, 0.001),
    ],
)
def test_power_is_what_simulation_gives(difference, seeds, alpha):
    drawn = np.random.default_rng(8).normal(difference, 1, size=(20_000, seeds))
    t = np.abs(drawn.mean(1)) / drawn.std(1, ddof=1) * math.sqrt(seeds)
    seen = (t > stats.t.isf(alpha / 2, seeds - 1)).mean()
    assert power(difference, 1.0, seeds, alpha=alpha) == pytest.approx(seen, abs=0.012)


@pytest.mark.parametrize(("ratio", "expected"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_needed_are_those_of_the_tables(ratio, expected):
    # G*Power and Cohen 1988, table 2.4.1 for one sample: 80 % power, two-sided 0.05
    assert seeds_needed(ratio, 1.0) == expected
    assert seeds_needed(-ratio, 1.0) == expected


@given(st.floats(0.05, 20), st.sampled_from([0.5, 0.8, 0.95]), st.sampled_from([0.05, 0.01]))
def test_seeds_needed_are_enough_and_one_less_is_not(ratio, chance, alpha):
    n = seeds_needed(ratio, 1.0, chance=chance, alpha=alpha)
    assert power(ratio, 1.0, n, alpha=alpha) >= chance
    assert n == 2 or power(ratio, 1.0, n - 1, alpha=alpha) < chance


@pytest.mark.parametrize("ratio", [1.0, 30.0, 1e3, 1e8])
def test_power_stays_a_probability_far_out(ratio):
    values = [power(ratio, 1.0, n) for n in (1, 2, 3, 10, 1000)]
    assert values == sorted(values)
    assert all(0 <= value <= 1 + 1e-12 for value in values)


def test_no_noise_needs_two_seeds_and_too_much_a_million():
    assert seeds_needed(0.01, 0.0) == 2
    assert seeds_needed(1e-9, 1.0) == 1_000_000


@pytest.mark.parametrize(("difference", "noise"), [(0.0, 1.0), (math.nan, 1.0), (1.0, math.nan), (1.0, -1.0)])
def test_differences_that_no_number_of_seeds_shows(difference, noise):
    with pytest.raises(DetrkitError, match="seeds"):
        seeds_needed(difference, noise)


def test_noise_interval_covers_as_it_says():
    drawn = np.random.default_rng(9).normal(0, 2, size=(3000, 5))
    assert np.mean([2.0 in noise_interval(d) for d in drawn]) == pytest.approx(0.8, abs=0.02)
    assert noise_interval([1.0])[:2] == (0, math.inf)


# --- conclusions ------------------------------------------------------------------------------------------------------

SENTENCES = {
    "same": "sdpa -> same: AP50 identical in every run (5 seeds)",
    "near": (
        "sdpa -> near: AP50 +0.0026, 95 % interval -0.0015 to +0.0067 over 5 seeds: "
        "no difference was shown, and none larger than 0.0067 is compatible with these runs"
    ),
    "good": (
        "sdpa -> good: AP50 +0.051, 95 % interval +0.047 to +0.055 over 5 seeds: "
        "higher (p < 0.001 after Holm for 6 comparisons)"
    ),
    "edge": (
        "sdpa -> edge: AP50 -0.009, 95 % interval -0.017 to -0.001 over 5 seeds: not shown to differ "
        "(p = 0.039 alone, p = 0.2 after Holm for 6 comparisons); none larger than 0.017 is compatible with these runs"
    ),
    "even": (
        "sdpa -> even: AP50 +0.010, 95 % interval +0.010 to +0.010 over 5 seeds: "
        "the same amount in every run, yet these are too few to exclude chance (p = 0.25 after Holm for 6 comparisons)"
    ),
    "one": (
        "sdpa -> one: AP50 +0.020 in 1 seed: too few seeds to tell it from noise "
        "(left out: seeds 0, 1, 3: no run of one; seed 4: one gave no number)"
    ),
    "none": (
        "sdpa -> none: no seed has a score of both; nothing can be said about AP50 "
        "(left out: seeds 0, 1, 2, 3, 4: no run of none; seed 7: no run of sdpa)"
    ),
    "two": (
        "sdpa -> two: AP50 +0.006, 95 % interval -0.045 to +0.057 over 2 seeds: "
        "no difference was shown, and none larger than 0.057 is compatible with these runs "
        "(left out: seeds 0, 3, 4: no run of two)"
    ),
}


@pytest.fixture(scope="module")
def study():
    base = of_seeds(SCORES)
    others = {
        "same": base,
        "near": shifted(0.002),
        "good": shifted(0.05),
        "edge": of_seeds(x - y for x, y in zip(SCORES, [0.01, 0.005, 0, 0.017, 0.012], strict=True)),
        "even": of_seeds(score + 0.01 for score in SCORES),
        "one": {2: 0.43, 4: None},
        "none": {7: 0.3},
        "two": {1: 0.43, 2: 0.412},
    }
    return {found.other: found for found in compare(base, others, name="sdpa", metric="AP50")}


@pytest.mark.parametrize("name", SENTENCES)
def test_sentences(study, name):
    assert str(study[name]) == SENTENCES[name]


def test_claims_are_made_after_correction(study):
    verdicts = {name: found.verdict for name, found in study.items()}
    assert verdicts == {
        "same": Verdict.IDENTICAL,
        "near": Verdict.OPEN,
        "good": Verdict.DIFFERENT,
        "edge": Verdict.UNCORRECTED,
        "even": Verdict.OPEN,
        "one": Verdict.TOO_FEW,
        "none": Verdict.NO_RUNS,
        "two": Verdict.OPEN,
    }


def test_comparisons_are_plain_numbers(study):
    rows = {name: found.to_dict() for name, found in study.items()}
    assert json.loads(json.dumps(rows, allow_nan=False)).keys() == study.keys()
    assert (rows["one"]["interval"], rows["none"]["difference"]) == ([None, None, 0.95], None)
    assert rows["near"]["noise"] == pytest.approx(np.std(SCORES, ddof=1))
    assert rows["near"]["paired_noise"] == pytest.approx(np.std(SIGNS, ddof=1) * 0.003)


@pytest.mark.parametrize(
    ("by", "margin", "claim"),
    [
        (0.002, 0.01, "the same to within the margin of 0.01"),
        (0.002, 0.005, "no difference was shown, and none larger than 0.0067"),
        (0.05, 0.06, "higher (p < 0.001), but by less than the margin of 0.06"),
        (-0.05, 0.05, "lower (p < 0.001)"),
    ],
)
def test_sameness_needs_the_whole_interval_within_the_margin(by, margin, claim):
    (found,) = compare(of_seeds(SCORES), {"other": shifted(by)}, margin=margin)
    assert str(found).split("seeds: ")[1].startswith(claim)


def test_advice(study):
    assert study["near"].advice(0.01) == (
        "to see a difference of 0.01 with 80 % power takes about 5 seeds, 4 to 9 as the noise is known from 5 only"
    )
    assert "two seeds at least" in study["one"].advice(0.01)
    assert "no noise" in study["same"].advice(0.01)


def simulated(rng, effects, seeds=5, noise=0.01):
    """Verdicts of a study whose variants differ from the base by these true effects."""
    base = of_seeds(rng.normal(0.4, noise, seeds))
    others = {str(i): of_seeds(rng.normal(0.4 + effect, noise, seeds)) for i, effect in enumerate(effects)}
    return [found.verdict for found in compare(base, others)]


def test_noise_is_not_found_and_a_planted_effect_is():
    rng = np.random.default_rng(10)
    noise = [Verdict.DIFFERENT in simulated(rng, [0.0] * 4) for _ in range(400)]
    effect = [simulated(rng, [-0.06, 0.0])[0] is Verdict.DIFFERENT for _ in range(400)]
    assert np.mean(noise) <= 0.06
    assert np.mean(effect) >= 0.95
