"""Death in hospital and length of stay: from burden, trend, timing, organs, age and chance.

    eta = .45 BR + .10 BW + 1.35 dW + .45 rec + .75 zS + .55 zK + .35 zG + .45 age + .35 f
    P(death) = logistic(a + 1.15 eta)
    g = std(.35 BR + .20 BW + .75 dW + .35 zK + .25 f + .30 rec),  y = g + .95 N(0, 1)

Every term is a z-score. Deaths are drawn by systematic sampling, so each P(death) stays exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm

from bench.simulating.population import ACUTE_PROCESSES, ORGANS, Course

DEATH_SHARE: Final = 465 / 2720
LOS_COUNTS: Final = (793, 641, 687, 599)
LOS_NOISE: Final = 0.95
LOS_BINS_DAYS: Final = ((2.02, 3.0), (3.0, 4.0), (4.0, 6.0), (6.0, 9.9))
DEATH_WEIGHTS: Final = {
    "BR": 0.45, "BW": 0.10, "dW": 1.35, "rec": 0.45,
    "shock": 0.75, "renal": 0.55, "neuro": 0.35, "age": 0.45, "frailty": 0.35,
}  # fmt: skip
LOS_WEIGHTS: Final = {
    "BR": 0.35, "BW": 0.20, "dW": 0.75, "renal": 0.35, "frailty": 0.25, "rec": 0.30,
}  # fmt: skip
DEATH_SLOPE: Final = 1.15


@dataclass(frozen=True)
class Calibration:
    """Constants fixed on the paper-sized cohort and frozen for smaller ones.

    mean, sd: of every predictor; g_mean, g_sd: of the length-of-stay score; intercept: a;
    cuts: of y between the four length-of-stay classes
    """

    mean: dict[str, float]
    sd: dict[str, float]
    g_mean: float
    g_sd: float
    intercept: float
    cuts: tuple[float, ...]


FROZEN: Final = Calibration(
    mean={
        "BR": 0.67030, "BW": 1.36999, "dW": 0.49812, "rec": 0.45400, "shock": 0.00782,
        "renal": 0.00684, "neuro": 0.01379, "liver": 0.01853, "age": 63.45374, "frailty": 0.00858,
    },
    sd={
        "BR": 0.61308, "BW": 0.92337, "dW": 0.84259, "rec": 0.51752, "shock": 0.90492,
        "renal": 0.90760, "neuro": 0.89217, "liver": 0.89593, "age": 15.99712, "frailty": 0.98594,
    },
    g_mean=0.0,
    g_sd=1.39720,
    intercept=-3.12916,
    cuts=(-0.81440, 0.02296, 0.97794),
)  # fmt: skip
"""What `calibrate` gives on the paper-sized cohort of seed 7."""


def by_name(course: Course, *names: str) -> np.ndarray:
    """Sum of acute severities [S, H] of processes whose name begins with one of `names`."""
    chosen = [name.startswith(names) for name in ACUTE_PROCESSES]
    return course.acute[:, chosen].sum(axis=1)


def predictors(course: Course, age: np.ndarray, frailty: np.ndarray) -> dict[str, np.ndarray]:
    """The terms of eta and g before scaling, each [S]; nothing after hour 48 enters."""
    early = slice(0, 48)
    respiratory = by_name(course, "edema") + 0.8 * by_name(course, "pneumonia")
    respiratory = respiratory + 0.4 * by_name(course, "consolidation")
    on_film = by_name(course, "effusion", "atelectasis", "consolidation", "opacity")
    recency = np.exp(-(48 - np.arange(48)) / 10)
    organs = dict(
        zip(ORGANS, np.moveaxis(course.organs[..., 36:48].mean(axis=-1), 1, 0), strict=True)
    )
    return {
        "BR": respiratory[:, early].mean(axis=1),
        "BW": on_film[:, early].mean(axis=1),
        "dW": on_film[:, 36:48].mean(axis=1) - on_film[:, 6:18].mean(axis=1),
        "rec": course.dose_pulses[..., early].sum(axis=1) @ recency,
        **organs,
        "age": age,
        "frailty": frailty,
    }


def scaled_recency(
    terms: dict[str, np.ndarray], mean: float, timing: float
) -> dict[str, np.ndarray]:
    """The terms with recency's deviation from its mean times `timing`."""
    return {**terms, "rec": mean + timing * (terms["rec"] - mean)}


def calibrate(
    terms: dict[str, np.ndarray], icu: np.ndarray, noise: np.ndarray, timing: float = 1.0
) -> Calibration:
    """Fit scales, intercept and cuts so that the ICU stays have the paper's shares (Table 6).

    Args:
        terms: of `predictors`
        icu: bool [S]; stays that count for the shares
        noise: standard normal [S] of the length-of-stay score
        timing: multiplies recency once its scale is fixed
    """
    mean = {name: float(values.mean()) for name, values in terms.items()}
    sd = {name: float(values.std()) for name, values in terms.items()}
    raw = Calibration(mean, sd, 0.0, 1.0, 0.0, ())
    terms = scaled_recency(terms, mean["rec"], timing)
    eta = DEATH_SLOPE * weighted(terms, DEATH_WEIGHTS, raw)[icu]
    intercept = brentq(lambda a: expit(a + eta).mean() - DEATH_SHARE, -20, 20)
    g = weighted(terms, LOS_WEIGHTS, raw)
    y = ((g - g.mean()) / g.std() + LOS_NOISE * noise)[icu]
    shares = np.cumsum(LOS_COUNTS)[:-1] / sum(LOS_COUNTS)
    cuts = tuple(float(cut) for cut in np.quantile(y, shares))
    return Calibration(mean, sd, float(g.mean()), float(g.std()), float(intercept), cuts)


def weighted(
    terms: dict[str, np.ndarray], weights: dict[str, float], scale: Calibration
) -> np.ndarray:
    """Weighted sum of z-scored terms, [S]."""
    return sum(
        (w * (terms[name] - scale.mean[name]) / scale.sd[name] for name, w in weights.items()),
        start=np.zeros(len(terms["BR"])),
    )


def death_probability(terms: dict[str, np.ndarray], scale: Calibration) -> np.ndarray:
    """P(death) [S]."""
    return expit(scale.intercept + DEATH_SLOPE * weighted(terms, DEATH_WEIGHTS, scale))


def los_location(terms: dict[str, np.ndarray], scale: Calibration) -> np.ndarray:
    """g [S], the predictable part of the length-of-stay score."""
    return (weighted(terms, LOS_WEIGHTS, scale) - scale.g_mean) / scale.g_sd


def los_probabilities(g: np.ndarray, scale: Calibration) -> np.ndarray:
    """P(class) [S, 4] from the normal distribution of the noise."""
    edges = np.array([-np.inf, *scale.cuts, np.inf])
    return np.diff(norm.cdf((edges - g[:, None]) / LOS_NOISE), axis=1)


def draw_deaths(p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Systematic (Madow) sampling: stay i dies with probability p_i, the total is round(sum p)."""
    order = rng.permutation(len(p))
    total = max(round(float(p.sum())), 0)
    scaled = p[order] * (total / p.sum()) if p.sum() else p
    ends = np.cumsum(scaled)
    died = np.zeros(len(p), dtype=bool)
    marks = rng.random() + np.arange(total)
    died[order[np.searchsorted(ends, marks).clip(max=len(p) - 1)]] = True
    return died


def draw_los_days(y: np.ndarray, scale: Calibration, rng: np.random.Generator) -> np.ndarray:
    """Days [S]: the class of y, then its rank within the class spread over the class's bin."""
    classes = np.searchsorted(scale.cuts, y)
    days = np.empty(len(y))
    for k, (low, high) in enumerate(LOS_BINS_DAYS):
        chosen = np.flatnonzero(classes == k)
        rank = np.argsort(np.argsort(y[chosen]))
        days[chosen] = low + (high - low) * (rank + rng.random(len(chosen))) / max(len(chosen), 1)
    return days
