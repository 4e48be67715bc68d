"""The dial: how much of the series' variance an image can explain at best (paper, section 2).

eta_v = (z + r) / sqrt(1 + v),  r ~ N(0, v)         corr(z, eta_v)² = 1 / (1 + v)
"""

from __future__ import annotations

from typing import Final

import numpy as np

PAPER_VARIANCES: Final = (0, 1, 9, 18, 49)
"""v of the paper: at best 100, 50, 10, 5.3 and 2 % can be explained."""

EBE_RETEST: Final = (0.89, 0.94, 0.88)
"""Correlation of estimates from two series of the same eta, which differ by residual noise alone.

No function of eta explains more of such an estimate, so an image that is judged by estimates meets
a lower ceiling: this share of 1 / (1 + v). It is more than the share of eta that estimates explain
(.83, .72, .60), since an estimate depends on all of eta and an image that shows all of it can
follow. The paper's model, 3 000 subjects.
"""


def ceiling(v: float) -> float:
    """The share of variance that an image explains at best: R² = 1 / (1 + v)."""
    return 1 / (1 + v)


def noise_variance(r2: float) -> float:
    """v of a ceiling R², 0 < R² <= 1; the inverse of `ceiling`."""
    return 1 / r2 - 1


def noisy_copy(z: np.ndarray, v: float, rng: np.random.Generator) -> np.ndarray:
    """eta_v, standard normal as `z` is; at v = 0 it is `z` itself.

    The paper divides by the sample's sd; its expectation, sqrt(1 + v), leaves every subject's
    value independent of who else was drawn.
    """
    r = np.sqrt(v) * rng.standard_normal(z.shape)
    return (z + r) / np.sqrt(1 + v)
