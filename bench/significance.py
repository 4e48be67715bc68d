"""Intervals and tests over test subjects: pure functions of arrays, generators passed in.

The unit is the subject: a resample draws subjects and takes all their samples along, the same
subjects for every method. What comes out is conditional on the trained models (seeds are averaged
over, not resampled).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import (
    binomtest,
    friedmanchisquare,
    norm,
    rankdata,
    studentized_range,
)

from bench.metrics import Scorer

Statistic = Callable[[np.ndarray], np.ndarray]
"""Maps counts [S, B] of subjects to values [M, R, B] of M metrics of R runs."""

STAR_LEVELS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
"""Adjusted p below the level: the stars."""

MAX_REDRAWN = 0.05
"""Above this share of undefined resamples a cell gets no p."""

_BLOCK = 500
"""Resamples computed at once: keeps the arrays of a block in the processor's cache."""

_ATTEMPTS = 20
"""How often an undefined resample is drawn again at most."""


@dataclass(frozen=True)
class Resamples:
    """Metric values in resamples of the subjects.

    values: [M, R, B]; NaN only where even the last attempt was undefined
    n_redrawn: int [M]; undefined draws that were replaced, over all attempts
    """

    values: np.ndarray
    n_redrawn: np.ndarray

    @property
    def redrawn_share(self) -> np.ndarray:
        """Share of all draws that were undefined, [M]."""
        return self.n_redrawn / (self.values.shape[-1] + self.n_redrawn)


def draw_counts(generator: np.random.Generator, n_subjects: int, n_resamples: int) -> np.ndarray:
    """How often each subject is in each resample of S out of S with replacement: float64 [S, B]."""
    drawn = generator.integers(0, n_subjects, (n_subjects, n_resamples))
    cell = drawn * n_resamples + np.arange(n_resamples)
    counts = np.bincount(cell.ravel(), minlength=n_subjects * n_resamples)
    return counts.reshape(n_subjects, n_resamples).astype(np.float64)


def bootstrap(
    statistic: Statistic, n_subjects: int, n_resamples: int, generator: np.random.Generator
) -> Resamples:
    """Cluster bootstrap: values of the statistic in resamples of the subjects.

    A resample in which a metric is undefined for any run is drawn again for that metric and all
    runs. Attempt k of resample b depends on the generator, k and b alone, so a metric's values do
    not depend on which others are computed beside it.
    """
    first, *again = generator.spawn(_ATTEMPTS)
    values = _in_blocks(statistic, draw_counts(first, n_subjects, n_resamples))
    n_redrawn = np.zeros(len(values), dtype=np.int64)
    for child in again:
        undefined = np.isnan(values).any(axis=1)
        if not undefined.any():
            break
        n_redrawn += undefined.sum(axis=1)
        drawn = np.flatnonzero(undefined.any(axis=0))
        fresh = _in_blocks(statistic, draw_counts(child, n_subjects, n_resamples)[:, drawn])
        replace = undefined[:, None, drawn]
        values[:, :, drawn] = np.where(replace, fresh, values[:, :, drawn])
    return Resamples(values, n_redrawn)


def _in_blocks(statistic: Statistic, counts: np.ndarray) -> np.ndarray:
    blocks = range(0, counts.shape[1], _BLOCK)
    return np.concatenate(
        [statistic(np.ascontiguousarray(counts[:, b : b + _BLOCK])) for b in blocks], axis=-1
    )


def two_sided_p(differences: np.ndarray) -> float:
    """Two-sided p of resampled differences [B]: 2 (1 + min(#{d <= 0}, #{d >= 0})) / (B + 1)."""
    fewer = min((differences <= 0).sum(), (differences >= 0).sum())
    return min(1.0, 2 * (1 + int(fewer)) / (len(differences) + 1))


def percentile_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of resampled values [B]."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def permutation_p(
    pairs: Sequence[tuple[Scorer, Scorer]],
    metric: str,
    n_permutations: int,
    generator: np.random.Generator,
) -> float:
    """Cluster permutation test: two-sided p of swapping two methods' predictions per subject.

    Args:
        pairs: the two methods' scorers of the same samples, one pair per seed
        metric: compared on its mean over the pairs
        n_permutations: B; p is at least 1 / (B + 1)
        generator: decides which subjects swap

    The scores of each method are replaced by their ranks first (`Classification.pooled`).
    """
    pooled = [first.pooled(second) for first, second in pairs]
    n_subjects = pairs[0][0].n_subjects

    def difference(swap: np.ndarray) -> np.ndarray:
        first, second = np.concatenate([1 - swap, swap]), np.concatenate([swap, 1 - swap])
        values = [p.values([metric], first) - p.values([metric], second) for p in pooled]
        return np.mean(values, axis=0)

    observed = abs(difference(np.zeros((n_subjects, 1)))).item()
    swaps = generator.integers(0, 2, (n_subjects, n_permutations)).astype(np.float64)
    permuted = np.abs(_in_blocks(difference, swaps))
    # Equal up to rounding counts as equal: a permutation that swaps nothing must.
    return float((1 + (permuted >= observed - 1e-12).sum()) / (n_permutations + 1))


def nested_differences(
    first: np.ndarray, second: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Differences [B] of two methods' means when seeds are resampled as well as subjects.

    Args:
        first, second: [R, B]; a metric in the same resamples of the subjects, one row a seed
        generator: draws R seeds out of R for each resample and method separately
    """
    drawn = [
        np.take_along_axis(values, generator.integers(0, len(values), values.shape), axis=0)
        for values in (first, second)
    ]
    return drawn[0].mean(axis=0) - drawn[1].mean(axis=0)


@dataclass(frozen=True)
class DeLong:
    """DeLong's test of two correlated AUROCs: both, their difference's se and two-sided p."""

    first: float
    second: float
    standard_error: float
    p: float


def delong(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> DeLong:
    """Compare the AUROCs of two scores of the same samples, which must be independent.

    DeLong, DeLong and Clarke-Pearson 1988, by midranks (Sun and Xu 2014). Two scores that rank
    alike have p = 1.

    Args:
        labels: [n]; 1 for positives
        first, second: [n]; any scale

    Raises:
        ValueError: a class has fewer than two samples.
    """
    positive = np.asarray(labels) == 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if min(n_positive, n_negative) < 2:
        raise ValueError("DeLong's test needs two samples of each class or more")
    areas, of_positives, of_negatives = [], [], []
    for score in (np.asarray(first), np.asarray(second)):
        overall = rankdata(score)
        within = np.empty(len(score))
        within[positive], within[~positive] = (
            rankdata(score[positive]),
            rankdata(score[~positive]),
        )
        beaten = (overall - within)[positive] / n_negative
        unbeaten = 1 - (overall - within)[~positive] / n_positive
        areas.append(beaten.mean())
        of_positives.append(beaten)
        of_negatives.append(unbeaten)
    covariance = np.cov(of_positives) / n_positive + np.cov(of_negatives) / n_negative
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    difference = areas[0] - areas[1]
    # Rounding may leave a tiny variance where the two rank alike.
    error = math.sqrt(max(variance, 0.0))
    z = difference / error if abs(difference) > 1e-15 and error > 1e-12 else 0.0
    return DeLong(float(areas[0]), float(areas[1]), error, float(2 * norm.sf(abs(z))))


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Exact McNemar test: two-sided p of two methods' correct answers, bool [n], independent n."""
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


MIN_BLOCKS = 5
"""Independent cohorts x tasks from which methods are ranked with a test."""


def friedman(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean ranks [k] of k methods (1 is best) and the p that they are all alike.

    Args:
        values: [N, k]; a metric, higher is better, on N independent blocks

    Raises:
        ValueError: fewer than 5 blocks, or fewer than 3 methods.
    """
    n_blocks, n_methods = values.shape
    if n_blocks < MIN_BLOCKS:
        raise ValueError(f"{n_blocks} blocks: ranks are tested from {MIN_BLOCKS} independent ones")
    if n_methods < 3:
        raise ValueError("two methods are compared by a paired test, not by their ranks")
    ranks = rankdata(-values, axis=1)
    if np.all(ranks == ranks[:, :1]):
        return ranks.mean(axis=0), 1.0
    return ranks.mean(axis=0), float(friedmanchisquare(*values.T).pvalue)


def nemenyi_difference(n_methods: int, n_blocks: int, level: float = 0.05) -> float:
    """Critical difference of mean ranks (Nemenyi; Demsar 2006): q sqrt(k (k + 1) / (6 N))."""
    q = studentized_range.ppf(1 - level, n_methods, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(n_methods * (n_methods + 1) / (6 * n_blocks)))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm-adjusted p of a family [m]; NaN stays NaN and counts as a comparison (as a p of 1)."""
    filled = np.where(np.isnan(p), 1.0, p)
    order = np.argsort(filled, kind="stable")
    steps = np.maximum.accumulate(filled[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(steps, 1.0)
    return np.where(np.isnan(p), np.nan, adjusted)


def smallest_adjusted_p(n_resamples: int, family_size: int) -> float:
    """The smallest Holm-adjusted p that a bootstrap of B resamples can give in a family of m."""
    return min(1.0, 2 * family_size / (n_resamples + 1))


def stars(p: float) -> str:
    """Stars of an adjusted p; none for NaN."""
    return next((mark for level, mark in STAR_LEVELS if p < level), "")
