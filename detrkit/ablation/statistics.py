"""What runs of two variants say about their difference: pairs by seed, intervals, tests, numbers of seeds.

Everything is computed from the differences ``d`` of runs that share a seed, so that what a seed does to both variants
(order of the data, easy or hard split) cancels. ``n`` is the number of pairs. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from detrkit.errors import DetrkitError

Scores = Mapping[int, float | None]
"""Score of each run by its seed; None or NaN where the run gave none."""

Floats = NDArray[np.float64]

ROUNDING = 1e-9  # differences that vary by less than this share of their size do so by floating-point rounding alone
MOST_SIGNS = 16  # pairs up to which every pattern of signs is tried
MOST_SEEDS = 1_000_000


@dataclass(frozen=True)
class Pairs:
    """Two variants run by run, paired by seed.

    Attributes:
        seeds: seeds that gave a score in both, ascending.
        base, other: those scores, [n].
        left_out: seeds without a score in one of them, by the reason.
    """

    seeds: tuple[int, ...]
    base: Floats
    other: Floats
    left_out: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, base: Scores, other: Scores, names: tuple[str, str] = ("base", "other")) -> Pairs:
        """Pair the runs; a seed without a score in one of them is left out of both, and named."""
        arms = (base, other)
        reasons = {
            seed: " and ".join(
                filter(None, (_lack(scores, seed, name) for scores, name in zip(arms, names, strict=True)))
            )
            for seed in sorted({*base, *other})
        }
        left_out: dict[str, tuple[int, ...]] = {}
        for seed, reason in reasons.items():
            if reason:
                left_out[reason] = (*left_out.get(reason, ()), seed)
        both = tuple(seed for seed, reason in reasons.items() if not reason)
        a, b = (np.array([scores[seed] for seed in both], dtype=np.float64) for scores in arms)
        return cls(both, a, b, left_out)

    @property
    def differences(self) -> Floats:
        """Other minus base, [n]."""
        return self.other - self.base

    @property
    def identical(self) -> bool:
        """Whether every pair of runs gave the same score to the bit; False without any."""
        return len(self.seeds) > 0 and bool((self.base == self.other).all())


def _lack(scores: Scores, seed: int, name: str) -> str | None:
    """Why a variant has no score for a seed; None where it has one."""
    if seed not in scores:
        return f"no run of {name}"
    score = scores[seed]
    return None if score is not None and math.isfinite(score) else f"{name} gave no number"


class Interval(NamedTuple):
    """Values that are compatible with the runs at a level of confidence; both ends belong to it."""

    low: float
    high: float
    level: float = 0.95

    @property
    def width(self) -> float:
        """Distance of the ends."""
        return self.high - self.low

    @property
    def farthest(self) -> float:
        """Largest absolute value in it."""
        return max(abs(self.low), abs(self.high))

    def __contains__(self, value: object) -> bool:
        return isinstance(value, float | int) and self.low <= value <= self.high

    def within(self, margin: float) -> bool:
        """Whether it lies inside (-margin, margin)."""
        return -margin < self.low and self.high < margin


def spread(values: ArrayLike) -> float:
    """Sample standard deviation, divisor n - 1; NaN for fewer than two values, 0 where only rounding varies."""
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return math.nan
    return 0.0 if np.ptp(x) <= ROUNDING * np.abs(x).max() else float(x.std(ddof=1))


def t_interval(differences: ArrayLike, level: float = 0.95) -> Interval:
    """Student's interval of the mean: d-bar +- t(n - 1) * s / sqrt(n) (Student 1908).

    Exact for normal differences at every n >= 2. One pair excludes nothing: the whole line. Equal differences give an
    interval of no width.

    Raises:
        DetrkitError: no differences, or a level outside (0, 1).
    """
    d = _checked(differences, level)
    if len(d) == 1:
        return Interval(-math.inf, math.inf, level)
    half = stats.t.isf((1 - level) / 2, len(d) - 1) * spread(d) / math.sqrt(len(d))
    return Interval(float(d.mean() - half), float(d.mean() + half), level)


def bootstrap_interval(
    differences: ArrayLike,
    level: float = 0.95,
    *,
    method: Literal["percentile", "bca"] = "bca",
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of the mean difference: pairs are drawn with replacement (Efron and Tibshirani 1993).

    It assumes no distribution, and pays for it when pairs are few: resampling five values knows nothing beyond the
    smallest and largest, and nominal 95 % intervals (either method) then cover about 83 %, at 20 pairs about 92 %.
    With fewer, read it beside `t_interval`, not instead of it.

    Args:
        differences: of paired runs.
        level: of confidence.
        method: ``percentile`` (chapter 13) or ``bca``, corrected for bias and skewness (chapter 14.3).
        resamples: how many are drawn.
        seed: of the draws; the same gives the same interval.
    """
    d = _checked(differences, level)
    if len(d) == 1:
        return Interval(-math.inf, math.inf, level)
    mean = float(d.mean())
    if spread(d) == 0:
        return Interval(mean, mean, level)
    drawn = np.random.default_rng(seed).integers(len(d), size=(resamples, len(d)))
    means = d[drawn].mean(axis=1)
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        tails = _bca_tails(d, means, tails)
    low, high = np.quantile(means, tails)
    return Interval(float(low), float(high), level)


def _bca_tails(d: Floats, means: Floats, tails: Floats) -> Floats:
    """Quantiles to read instead of ``tails`` (Efron and Tibshirani 1993, equations 14.9 to 14.15, for a mean)."""
    mean, count = d.mean(), len(means)
    ties = np.isclose(means, mean, rtol=0, atol=ROUNDING * np.abs(d).max())
    below = ((means < mean) & ~ties).sum() + 0.5 * ties.sum()
    bias = stats.norm.ppf(np.clip(below / count, 0.5 / count, 1 - 0.5 / count))
    left_out = (d.sum() - d) / (len(d) - 1)  # the jackknife's means
    deviations = left_out.mean() - left_out
    skew = (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    z = bias + stats.norm.ppf(tails)
    return stats.norm.cdf(bias + z / (1 - skew * z))


def effect_size(differences: ArrayLike) -> float:
    """Mean difference in units of its own run-to-run spread, freed of small-sample bias (Hedges 1981, equation 6).

    g = J(n - 1) * d-bar / s with J(m) = gamma(m / 2) / (sqrt(m / 2) gamma((m - 1) / 2)). NaN for one pair; 0 for equal
    runs; infinite where every pair differs by the same amount.
    """
    d = np.asarray(differences, dtype=np.float64)
    s = spread(d)
    if math.isnan(s):
        return math.nan
    if s == 0:
        return math.copysign(math.inf, d.mean()) if d.mean() else 0.0
    m = len(d) - 1
    unbiased = 0.0 if m == 1 else math.exp(special.gammaln(m / 2) - special.gammaln((m - 1) / 2)) / math.sqrt(m / 2)
    return float(unbiased * d.mean() / s)


def t_test(differences: ArrayLike) -> float:
    """Two-sided p-value of Student's paired test against no difference; NaN for one pair.

    Differences that are all equal show no noise to hold them against, as happens where scores are coarse: the p-value
    is then that of `sign_flip_test`, not zero.
    """
    d = _checked(differences, 0.95)
    s = spread(d)
    if math.isnan(s):
        return math.nan
    if s == 0:
        return sign_flip_test(d)
    return float(2 * stats.t.sf(abs(d.mean()) * math.sqrt(len(d)) / s, len(d) - 1))


def sign_flip_test(differences: ArrayLike, *, draws: int = 99_999, seed: int = 0) -> float:
    """Two-sided p-value of the randomisation test that gives each difference either sign (Fisher 1935, section 21).

    Needs no normality, only that exchanging the two variants of a pair changes nothing if they are worth the same.
    All 2^n patterns are tried up to 16 pairs; beyond, drawn ones, with the observed among them (Phipson and Smyth
    2010). It cannot fall below 2 / 2^n: five seeds never reach 0.05 (they stop at 0.0625), six do.
    """
    d = _checked(differences, 0.95)
    if len(d) <= MOST_SIGNS:
        signs = np.array(list(product((1.0, -1.0), repeat=len(d))))
    else:
        signs = 1 - 2.0 * np.random.default_rng(seed).integers(2, size=(draws + 1, len(d)))
        signs[0] = 1
    sums = np.abs(signs @ d)
    return float((sums >= sums[0] - ROUNDING * np.abs(d).sum()).mean())


def holm(p_values: ArrayLike) -> Floats:
    """p-values adjusted for their number so that the chance of any false finding stays below the level (Holm 1979).

    Holds whatever the dependence between comparisons; those of one base share its runs. NaN is no comparison.
    """

    def adjusted(p: Floats) -> Floats:
        return np.maximum.accumulate(p * np.arange(len(p), 0, -1))

    return _adjust(p_values, adjusted)


def benjamini_hochberg(p_values: ArrayLike) -> Floats:
    """p-values adjusted to bound the expected share of false findings (Benjamini and Hochberg 1995).

    Assumes independent or positively dependent comparisons. For information beside `holm`. NaN is no comparison.
    """

    def adjusted(p: Floats) -> Floats:
        return np.minimum.accumulate((p * len(p) / np.arange(1, len(p) + 1))[::-1])[::-1]

    return _adjust(p_values, adjusted)


def power(difference: float, noise: float, seeds: int, *, alpha: float = 0.05) -> float:
    """Chance that Student's two-sided paired test sees a true difference (Cohen 1988, chapter 2).

    Its squared statistic follows the noncentral F distribution of (1, n - 1) degrees of freedom and noncentrality
    n (difference / noise)^2.

    Args:
        difference: the true mean difference.
        noise: standard deviation of the paired differences.
        seeds: number of pairs.
        alpha: level of the test; divide it by the number of comparisons where there are several.
    """
    if seeds < 2:
        return 0.0
    if noise == 0:
        return 1.0 if difference else alpha
    critical = stats.t.isf(alpha / 2, seeds - 1)
    shift = abs(difference) / noise * math.sqrt(seeds)
    if shift > 6 * critical:  # seen but for a chance below 1e-8, and beyond what SciPy can compute
        return 1.0
    return float(1 - special.ncfdtr(1, seeds - 1, shift**2, critical**2))


def seeds_needed(difference: float, noise: float, *, chance: float = 0.8, alpha: float = 0.05) -> int:
    """Fewest seeds with which a true difference is seen with this chance, by exact iteration of `power`.

    A million stands for that and more.

    Raises:
        DetrkitError: a difference of zero, noise that is no number, a chance or level out of range.
    """
    if not (difference and math.isfinite(difference) and 0 <= noise < math.inf and 0 < alpha < chance < 1):
        value = f"(difference={difference}, noise={noise}, chance={chance}, alpha={alpha})"
        raise DetrkitError(
            "no number of seeds", value=value, expected="a difference, noise >= 0, 0 < alpha < chance < 1"
        )
    enough = 2
    while power(difference, noise, enough, alpha=alpha) < chance:
        enough *= 2
        if enough > MOST_SEEDS:
            return MOST_SEEDS
    low = enough // 2  # too few, or 1
    while enough - low > 1:
        middle = (low + enough) // 2
        low, enough = (low, middle) if power(difference, noise, middle, alpha=alpha) >= chance else (middle, enough)
    return enough


def noise_interval(differences: ArrayLike, level: float = 0.8) -> Interval:
    """Interval of the standard deviation by chi squared, for normal differences; nothing is excluded by one pair.

    Few runs know their noise badly: five put it, at 80 %, between 0.7 and 1.9 times what they show.
    """
    d = _checked(differences, level)
    m, s = len(d) - 1, spread(d)
    if not m:
        return Interval(0.0, math.inf, level)
    tail = (1 - level) / 2
    low, high = (float(s * math.sqrt(m / stats.chi2.isf(p, m))) for p in (tail, 1 - tail))
    return Interval(low, high, level)


def _checked(differences: ArrayLike, level: float) -> Floats:
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or not len(d) or not np.isfinite(d).all():
        raise DetrkitError("not differences of runs", value=d, expected="one finite number a pair, at least one")
    if not 0 < level < 1:
        raise DetrkitError("level out of range", field="level", value=level, expected="between 0 and 1")
    return d


def _adjust(p_values: ArrayLike, rule: Callable[[Floats], Floats]) -> Floats:
    """Apply a rule for ascending p-values to those that are numbers, and put the results back in their places."""
    p = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    result = np.full_like(p, np.nan)
    result[order] = np.minimum(rule(p[order]), 1.0)
    return result
