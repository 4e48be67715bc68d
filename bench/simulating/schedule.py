"""When films are taken: two or more in the first 48 hours, then fewer (paper, Table 7)."""

from __future__ import annotations

from typing import Final

import numpy as np

MIN_GAP_HOURS: Final = 8.05
MAX_GAP_HOURS: Final = 95.0
EARLY_HOURS: Final = 47.6
FILMS_BY_48_HOURS: Final = {2: 1975, 3: 661, 4: 82, 5: 2, 1: 1043}
"""Stays of the paper's cohort by films before 48 h; those with one have others after."""


def early_films(n: int, rng: np.random.Generator) -> list[float]:
    """Hours of `n` films before 48 h, at least `MIN_GAP_HOURS` apart."""
    slack = EARLY_HOURS - MIN_GAP_HOURS * (n - 1)
    shares = rng.dirichlet([0.6, *[1.6] * (n - 1), 1.0]) * slack
    return [0.3 + float(shares[: k + 1].sum()) + MIN_GAP_HOURS * k for k in range(n)]


def later_films(
    last: float, until: float, at_least_one: bool, rng: np.random.Generator
) -> list[float]:
    """Hours of films after 48 h, none later than `until`."""
    hours: list[float] = []
    while not hours or rng.random() > 0.7:
        nearest = last + MIN_GAP_HOURS + rng.gamma(2.0, 9.0)
        after_horizon = 48.2 + rng.gamma(1.2, 6.0)
        last = min(max(nearest, after_horizon), last + MAX_GAP_HOURS)
        if last > until:
            if at_least_one and not hours:
                hours.append(until)
            break
        hours.append(last)
    return hours
