"""What a study allows one to say: each variant against its base, in numbers and in one plain sentence.

A difference is claimed by Student's paired test after Holm's correction for all comparisons of the study; sameness is
claimed where the whole interval lies within a margin that was stated beforehand. Neither is "nothing was shown".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from detrkit.ablation import statistics
from detrkit.ablation.statistics import Interval, Pairs, Scores


class Verdict(Enum):
    """What can be said about a difference."""

    NO_RUNS = "no seed has both"
    IDENTICAL = "identical in every run"
    TOO_FEW = "too few seeds"
    DIFFERENT = "different"
    EQUIVALENT = "the same within the margin"
    UNCORRECTED = "different only before correction"
    OPEN = "not shown to differ"


@dataclass(frozen=True)
class Comparison:
    """A variant against its base.

    Attributes:
        base, other: names of the two.
        metric: name of the score.
        pairs: the runs.
        p_value: of Student's paired test; NaN where there are too few seeds.
        p_holm: the same, corrected for every comparison of the study; decides.
        p_bh: the same, corrected as Benjamini and Hochberg do; for information.
        comparisons: how many of the study were corrected for.
        level: of confidence of intervals; claims are made at one minus this.
        margin: largest difference that is of no interest, if one was stated.
    """

    base: str
    other: str
    metric: str
    pairs: Pairs
    p_value: float
    p_holm: float
    p_bh: float
    comparisons: int
    level: float = 0.95
    margin: float | None = None

    @property
    def seeds(self) -> int:
        """Number of pairs."""
        return len(self.pairs.seeds)

    @property
    def difference(self) -> float:
        """Mean of other minus base; NaN without pairs."""
        return float(self.pairs.differences.mean()) if self.seeds else math.nan

    @property
    def noise(self) -> float:
        """Run-to-run standard deviation of the base over these seeds."""
        return statistics.spread(self.pairs.base)

    @property
    def paired_noise(self) -> float:
        """Standard deviation of the paired differences: what a difference is held against."""
        return statistics.spread(self.pairs.differences)

    @property
    def effect_size(self) -> float:
        """Mean difference in units of the paired noise, see `statistics.effect_size`."""
        return statistics.effect_size(self.pairs.differences)

    @cached_property
    def interval(self) -> Interval:
        """Student's interval of the difference; the whole line for fewer than two pairs."""
        if not self.seeds:
            return Interval(-math.inf, math.inf, self.level)
        return statistics.t_interval(self.pairs.differences, self.level)

    @cached_property
    def bootstrap(self) -> Interval:
        """Bootstrap interval (BCa) of the difference; too narrow below some 15 pairs."""
        if not self.seeds:
            return Interval(-math.inf, math.inf, self.level)
        return statistics.bootstrap_interval(self.pairs.differences, self.level)

    @property
    def p_sign_flip(self) -> float:
        """p-value of the randomisation test, which assumes no distribution; NaN without pairs."""
        return statistics.sign_flip_test(self.pairs.differences) if self.seeds else math.nan

    @property
    def verdict(self) -> Verdict:
        """What can be said."""
        alpha = 1 - self.level
        if not self.seeds:
            return Verdict.NO_RUNS
        if self.pairs.identical:
            return Verdict.IDENTICAL
        if self.seeds == 1:
            return Verdict.TOO_FEW
        if self.p_holm < alpha:
            return Verdict.DIFFERENT
        if self.margin is not None and self.interval.within(self.margin):
            return Verdict.EQUIVALENT
        return Verdict.UNCORRECTED if self.p_value < alpha else Verdict.OPEN

    def advice(self, difference: float, *, chance: float = 0.8) -> str:
        """How many seeds would show a difference of this size, by the noise measured here."""
        if self.seeds < 2:
            return "two seeds at least are needed to measure the noise, and with it the number of seeds"
        if self.paired_noise == 0:
            return "no noise was measured from run to run, so that it does not limit what can be seen"
        alpha = (1 - self.level) / self.comparisons
        known = statistics.noise_interval(self.pairs.differences)
        least, about, most = (
            statistics.seeds_needed(difference, noise, chance=chance, alpha=alpha)
            for noise in (known.low, self.paired_noise, known.high)
        )
        range_ = f", {least} to {most} as the noise is known from {self.seeds} only" if least < most else ""
        return f"to see a difference of {difference:g} with {_percent(chance)} power takes about {about} seeds{range_}"

    def to_dict(self) -> dict[str, Any]:
        """Every number by name, for tables and JSON; None for what is infinite or unknown."""
        names = ("difference", "noise", "paired_noise", "effect_size", "p_value", "p_sign_flip", "p_holm", "p_bh")
        return {
            **{name: getattr(self, name) for name in ("base", "other", "metric", "seeds", "comparisons", "margin")},
            **{name: _finite(getattr(self, name)) for name in names},
            "interval": [_finite(value) for value in self.interval],
            "bootstrap": [_finite(value) for value in self.bootstrap],
            "verdict": self.verdict.value,
            "left_out": dict(self.pairs.left_out),
            "sentence": str(self),
        }

    def __str__(self) -> str:
        parts = [f"{_seeds(seeds)}: {reason}" for reason, seeds in self.pairs.left_out.items()]
        left_out = f" (left out: {'; '.join(parts)})" if parts else ""
        return f"{self.base} -> {self.other}: {self._finding()}{left_out}"

    def _finding(self) -> str:
        verdict, runs = self.verdict, "1 seed" if self.seeds == 1 else f"{self.seeds} seeds"
        if verdict is Verdict.NO_RUNS:
            return f"no seed has a score of both; nothing can be said about {self.metric}"
        if verdict is Verdict.IDENTICAL:
            return f"{self.metric} identical in every run ({runs})"
        if verdict is Verdict.TOO_FEW:
            return f"{self.metric} {self._text(self.difference)} in 1 seed: too few seeds to tell it from noise"
        low, high = self._text(self.interval.low), self._text(self.interval.high)
        measured = (
            f"{self.metric} {self._text(self.difference)}, {_percent(self.level)} interval {low} to {high} over {runs}"
        )
        return f"{measured}: {self._claim(verdict)}"

    def _claim(self, verdict: Verdict) -> str:
        several = f" after Holm for {self.comparisons} comparisons" if self.comparisons > 1 else ""
        corrected = _p(self.p_holm) + several
        if verdict is Verdict.DIFFERENT:
            small = self.margin is not None and self.interval.within(self.margin)
            return f"{'higher' if self.difference > 0 else 'lower'} ({corrected})" + (
                f", but by less than the margin of {self.margin:g}" if small else ""
            )
        if verdict is Verdict.EQUIVALENT:
            return f"the same to within the margin of {self.margin:g}"
        if self.paired_noise == 0:
            return f"the same amount in every run, yet these are too few to exclude chance ({corrected})"
        limit = f"none larger than {self._text(self.interval.farthest, sign='')} is compatible with these runs"
        if verdict is Verdict.UNCORRECTED:
            return f"not shown to differ ({_p(self.p_value)} alone, {corrected}); {limit}"
        return f"no difference was shown, and {limit}"

    def _text(self, value: float, *, sign: str = "+") -> str:
        """A number with two digits of the interval's farthest end."""
        scale = self.interval.farthest if math.isfinite(self.interval.farthest) else abs(self.difference)
        decimals = min(max(1 - math.floor(math.log10(scale)), 0), 9) if scale else 3
        return f"{value:{sign}.{decimals}f}"


def compare(
    base: Scores,
    others: Mapping[str, Scores],
    *,
    name: str = "base",
    metric: str = "AP",
    level: float = 0.95,
    margin: float | None = None,
) -> list[Comparison]:
    """Compare each variant with the base; p-values are corrected for all that have enough seeds.

    Args:
        base: scores of the base by seed.
        others: scores of each variant by its name.
        name: of the base.
        metric: what the scores are.
        level: of confidence.
        margin: largest difference of no interest; state it before looking. Equivalence by an interval at this level is
            stricter than two one-sided tests at one minus it (Schuirmann 1987), and is not corrected for comparisons.
    """
    pairs = {other: Pairs.of(base, scores, (name, other)) for other, scores in others.items()}
    p = [statistics.t_test(x.differences) if x.seeds else math.nan for x in pairs.values()]
    corrected = zip(pairs.items(), p, statistics.holm(p), statistics.benjamini_hochberg(p), strict=True)
    comparisons = sum(not math.isnan(x) for x in p)
    return [
        Comparison(name, other, metric, x, p_value, float(p_holm), float(p_bh), comparisons, level, margin)
        for (other, x), p_value, p_holm, p_bh in corrected
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"
