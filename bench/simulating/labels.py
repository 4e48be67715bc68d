"""What the report of a pair says: which diseases it compares, and in which word, region by region.

    q(S) = log(1 + S / .25)        (heart: 4 h)
    u_k  = q(S_k(t2)) - q(S_k(t1)) + e,  e ~ N(0, r_k)                perceived change
    m_k  = max(q1, q2) + .6 |u| + N(0, .35)                           how likely it is mentioned
           (heart: .8 |u| + 1.2 h0 + N(0, .5))

A finding is mentioned if m is above a cut; u above one threshold means worsened, below another
improved. Cuts and thresholds give the paper's counts (Table 5) at `paper` size and are frozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.data.vocabulary import DISEASES, NOT_MENTIONED, Progression
from bench.simulating.population import ACUTE_PROCESSES

READER_NOISE: Final = np.array([0.30, 0.30, 0.30, 0.25, 0.30, 0.25, 0.30])
MENTION_NOISE, HEART_MENTION_NOISE = 0.35, 0.5
MENTION_SLOPE, HEART_MENTION_SLOPE = 0.6, 0.8
HEART: Final = DISEASES.index("enlarged cardiac silhouette")
N_LABELLED: Final = 5679
"""Pairs with a label in the paper's cohort."""

COUNTS: Final = np.array(
    [
        (674, 328, 1143),
        (141, 83, 1575),
        (285, 124, 463),
        (597, 572, 624),
        (1273, 784, 2025),
        (702, 317, 1407),
        (387, 98, 287),
    ]
)
"""Labels by disease and class (worsened, improved, no change): paper, Table 5."""


def severities(acute: np.ndarray, heart: np.ndarray) -> np.ndarray:
    """Severity of the seven findings, [..., 7], from acute processes [..., 11] and heart [...].

    Sides are summed; what a report calls one finding is partly due to others.
    """

    def total(name: str) -> np.ndarray:
        return acute[..., [p.startswith(name) for p in ACUTE_PROCESSES]].sum(axis=-1)

    E, F, A = total("edema"), total("effusion"), total("atelectasis")
    C, N, O = total("consolidation"), total("pneumonia"), total("opacity")  # noqa: E741
    opacity = np.sqrt(O**2 + 0.5 * E**2 + 0.6 * C**2 + 0.6 * N**2 + 0.2 * A**2)
    return np.stack([A + 0.25 * F, heart, C + 0.6 * N, E, opacity, F, N], axis=-1)


def perceived(S: np.ndarray) -> np.ndarray:
    """q(S), [..., 7]."""
    q = np.log1p(np.maximum(S, 0) / 0.25)
    q[..., HEART] = 4 * S[..., HEART]
    return q


@dataclass(frozen=True)
class Thresholds:
    """Share of pairs that are compared; mention cuts and word thresholds of the seven diseases."""

    compared: float
    mention: tuple[float, ...]
    worsened: tuple[float, ...]
    improved: tuple[float, ...]


@dataclass(frozen=True)
class Reading:
    """What a reader perceives of P pairs.

    u: float64 [P, 7], perceived change; m: float64 [P, 7], mention score;
    dq: float64 [P, 7], the true change; m0: float64 [P, 7], max(q1, q2)
    """

    u: np.ndarray
    m: np.ndarray
    dq: np.ndarray
    m0: np.ndarray


FROZEN: Final = Thresholds(
    compared=0.877495,
    mention=(1.896058, 0.968876, 2.307833, 1.821377, 1.580322, 1.666293, 2.152270),
    worsened=(0.825518, 1.471835, 1.254929, 0.780843, 0.483172, 0.789744, 0.701342),
    improved=(-0.357645, -0.940983, -0.123173, -0.253489, -0.289701, -0.218414, -0.241217),
)
"""What `calibrate` gives on the paper-sized cohort of seed 7."""


def read_pairs(
    S_1: np.ndarray, S_2: np.ndarray, h0: np.ndarray, noise: np.ndarray, reader_noise: float = 1.0
) -> Reading:
    """Perceive pairs with severities S_1 and S_2 [P, 7]; noise: standard normal [P, 2, 7]."""
    q_1, q_2 = perceived(S_1), perceived(S_2)
    m0 = np.maximum(q_1, q_2)
    u = q_2 - q_1 + noise[:, 0] * READER_NOISE * reader_noise
    m = m0 + MENTION_SLOPE * np.abs(u) + noise[:, 1] * MENTION_NOISE
    m0[:, HEART] = 1.2 * h0
    m[:, HEART] = (
        m0[:, HEART]
        + HEART_MENTION_SLOPE * np.abs(u[:, HEART])
        + noise[:, 1, HEART] * HEART_MENTION_NOISE
    )
    return Reading(u, m, q_2 - q_1, m0)


def calibrate(reading: Reading, lot: np.ndarray) -> Thresholds:
    """Thresholds by which `N_LABELLED` pairs carry a label and diseases have their `COUNTS`.

    The counts fix cuts and thresholds once it is known which pairs are compared: those with the
    lowest `lot` (uniform [P]). Some have no mention, so more are compared than carry a label.
    """
    lots = np.sort(lot)

    def at(n: int) -> Thresholds:
        return _thresholds(reading, lot, _between(lots, n))

    def excess(n: int) -> int:
        thresholds = at(n)
        labels = words(reading, lot < thresholds.compared, thresholds)
        return int((labels != NOT_MENTIONED).any(axis=1).sum()) - N_LABELLED

    low, high = N_LABELLED, len(lots)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    # The number wavers as n grows: look around for the exact one.
    near = range(high - 50, min(high + 50, len(lots)) + 1)
    return at(min(near, key=lambda n: (abs(excess(n)), abs(n - high))))


def _thresholds(reading: Reading, lot: np.ndarray, compared: float) -> Thresholds:
    rows = []
    for k, (n_worsened, n_improved, n_same) in enumerate(COUNTS):
        m, u = reading.m[lot < compared, k], reading.u[lot < compared, k]
        n = n_worsened + n_improved + n_same
        cut = _between(np.sort(m)[::-1], n)
        ordered = np.sort(u[m >= cut])
        rows.append((cut, _between(ordered, n - n_worsened), _between(ordered, n_improved)))
    return Thresholds(compared, *(tuple(column) for column in zip(*rows, strict=True)))


def _between(ordered: np.ndarray, n: int) -> float:
    """A value that separates the first n of sorted values from the others."""
    return float(ordered[n - 1 : n + 1].mean())


def words(reading: Reading, compared: np.ndarray, thresholds: Thresholds) -> np.ndarray:
    """Labels int8 [P, 7]: `Progression`, or `NOT_MENTIONED`."""
    labels = np.full(reading.u.shape, Progression.NO_CHANGE, dtype=np.int8)
    labels[reading.u >= thresholds.worsened] = Progression.WORSENED
    labels[reading.u <= thresholds.improved] = Progression.IMPROVED
    mentioned = (reading.m >= thresholds.mention) & compared[:, None]
    labels[~mentioned] = NOT_MENTIONED
    return labels


AFFECTED: Final = 0.15
"""Severity above which a region counts as affected."""

DISEASE_PROCESS: Final = (
    "atelectasis", "heart", "consolidation", "edema", "opacity", "effusion", "pneumonia",
)  # fmt: skip


def regions_of(process: str, low: bool) -> list[str]:
    """Regions that a process shows in; `low` says whether a focal one lies low or at the hilum."""
    kind, _, side = process.partition("_")
    if kind == "heart":
        return ["cardiac silhouette"]
    if kind == "edema":
        parts = ("hilar structures", "lung", "lower lung zone")
        return [f"{side} {part}" for part in parts for side in ("left", "right")]
    shown: dict[str, tuple[str, ...]] = {
        "effusion": ("costophrenic angle", "lower lung zone", "lung"),
        "atelectasis": ("lower lung zone", "lung"),
    }
    focal = ("lung", "lower lung zone" if low else "hilar structures")
    return [f"{side} {part}" for part in shown.get(kind, focal)]
