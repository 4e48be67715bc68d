"""One step of saturable recovery that never goes below 0 and never blows up.

    dC/dt = inflow - Imax C / (IC50 + C)

Explicit steps of any usual size fail where Imax / IC50 is large. Taking the recovery at the end of
the step and the inflow exactly gives a quadratic in the new C with one root that is not negative:

    C'² + b C' - B IC50 = 0,   B = C + inflow,   b = IC50 + h Imax - B
"""

from __future__ import annotations

import numpy as np


def implicit_step(
    C: np.ndarray, inflow: np.ndarray, imax: np.ndarray, ic50: np.ndarray, h: float
) -> np.ndarray:
    """C after h hours in which `inflow` arrived; arrays broadcast, values >= 0, `ic50` above 0."""
    B = C + inflow
    b = ic50 + h * imax - B
    # The root as a sum of positive terms, so that no digits are lost whatever the sign of b.
    q = 0.5 * (np.abs(b) + np.sqrt(b * b + 4 * B * ic50))
    return np.where(b > 0, B * ic50 / q, q)


def extrapolated_step(
    C: np.ndarray,
    inflow: tuple[np.ndarray, np.ndarray],
    imax: np.ndarray,
    ic50: np.ndarray,
    h: float,
) -> np.ndarray:
    """Second order (Richardson): a step of h against two of h / 2.

    `inflow`: what arrives in the first and in the second half of the step.
    """
    whole = implicit_step(C, inflow[0] + inflow[1], imax, ic50, h)
    half = implicit_step(C, inflow[0], imax, ic50, h / 2)
    halves = implicit_step(half, inflow[1], imax, ic50, h / 2)
    return np.maximum(2 * halves - whole, 0)
