"""The paper's mixed-effects model: a dose moves from a depot to a centre that clears saturably.

Ka = tvKa e^eta1,  Imax = tvImax e^eta2,  IC50 = tvIC50 e^eta3,   eta ~ N(0, Omega) diagonal
dDepot/dt   = -Ka Depot                                   one unit in the depot at t = 0
dCentral/dt =  Ka Depot - Imax Central / (IC50 + Central)
y_ij ~ N(Central_i(t_j), sigma²)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from bench.simulating.image_longitudinal.stable_step import extrapolated_step

PARAMETERS: Final = ("Ka", "Imax", "IC50")
OBSERVED_HOURS: Final = np.arange(21) * 0.5
STEP_HOURS: Final = 0.05
DIFFERENCE: Final = 1e-4
"""Of eta, for derivatives."""

ANNEALED_SIGMA: Final = (0.2, 0.05, 0.02)
"""Residual sds of a first, smoother search for the mode, down to the model's own."""


@dataclass(frozen=True)
class Nlme:
    """The model with its population parameters.

    tv: typical Ka, Imax and IC50; omega: variances of eta; sigma: residual sd
    hours: observation times, on a grid of `STEP_HOURS`
    """

    tv: tuple[float, ...] = (1.0, 2.1, 0.4)
    omega: tuple[float, ...] = (1.0, 1.0, 1.0)
    sigma: float = 0.01
    hours: tuple[float, ...] = tuple(OBSERVED_HOURS)

    def predict(self, eta: np.ndarray) -> np.ndarray:
        """Central at `hours`, float64 [..., T], of random effects [..., 3]."""
        ka, imax, ic50 = np.moveaxis(np.array(self.tv) * np.exp(eta), -1, 0)
        return integrate(ka, imax, ic50, self.hours)

    def simulate(self, eta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Observed series [..., T]."""
        central = self.predict(eta)
        return central + self.sigma * rng.standard_normal(central.shape)

    def conditional_nll(self, y: np.ndarray, eta: np.ndarray) -> np.ndarray:
        """-log p(y | eta) of each subject, [N]."""
        scaled = (y - self.predict(eta)) / self.sigma
        constant = np.log(2 * np.pi * self.sigma**2)
        return 0.5 * (scaled**2 + constant).sum(axis=-1)

    def joint(self, y: np.ndarray, eta: np.ndarray, sigma: float | None = None) -> np.ndarray:
        """|y - f(eta)|² / sigma² + eta' Omega^-1 eta, [N], which a subject's mode minimises."""
        residual = (y - self.predict(eta)) / (sigma or self.sigma)
        return (residual**2).sum(axis=-1) + (eta**2 / np.array(self.omega)).sum(axis=-1)

    def jacobian(self, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """f [N, T] and its derivatives by eta [N, T, 3] (central differences)."""
        shift = DIFFERENCE * np.eye(3)
        moves = np.concatenate([np.zeros((1, 3)), shift, -shift])
        f = self.predict(eta + moves[:, None])
        return f[0], np.moveaxis(f[1:4] - f[4:], 0, -1) / (2 * DIFFERENCE)

    def ebe(self, y: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
        """Empirical Bayes estimates: the mode of each subject's posterior, float64 [N, 3].

        Levenberg-Marquardt on all subjects at once, from `start`, else from 0 with residual sds
        that fall to the model's own, which keeps it out of poor local minima.
        """
        if start is not None:
            return self._descend(y, start, self.sigma)
        eta = np.zeros((len(y), 3))
        for sigma in (*(s for s in ANNEALED_SIGMA if s > self.sigma), self.sigma):
            eta = self._descend(y, eta, sigma)
        return eta

    def _descend(
        self, y: np.ndarray, eta: np.ndarray, sigma: float, n_steps: int = 60
    ) -> np.ndarray:
        """Levenberg-Marquardt; every subject has its own damping and stops on its own."""
        eta, precision = eta.copy(), np.diag(1 / np.array(self.omega))
        value, damping = self.joint(y, eta, sigma), np.full(len(y), 1e-2)
        open_ = np.arange(len(y))
        for _ in range(n_steps):
            f, J = self.jacobian(eta[open_])
            gradient = _times(J, (y[open_] - f) / sigma**2) - eta[open_] @ precision
            hessian = np.einsum("nta,ntb->nab", J, J) / sigma**2 + precision
            scale = damping[open_, None] * np.diagonal(hessian, axis1=1, axis2=2)
            damped = hessian + scale[:, :, None] * np.eye(3)
            step = np.linalg.solve(damped, gradient[..., None])[..., 0]
            tried = eta[open_] + np.clip(step, -1, 1)
            new = self.joint(y[open_], tried, sigma)
            better = new < value[open_]
            gain = value[open_] - new
            eta[open_[better]], value[open_[better]] = tried[better], new[better]
            damping[open_] *= np.where(better, 0.2, 5.0)
            done = (better & (gain < 1e-6)) | (damping[open_] > 1e8)
            open_ = open_[~done]
            if not len(open_):
                break
        return eta


def _times(J: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """J' r, [N, 3]."""
    return np.einsum("nta,nt->na", J, residual)


def integrate(
    ka: np.ndarray, imax: np.ndarray, ic50: np.ndarray, hours: tuple[float, ...]
) -> np.ndarray:
    """Central [..., T] after one unit in the depot at t = 0."""
    at = np.rint(np.array(hours) / STEP_HOURS).astype(int)
    wanted: dict[int, list[int]] = {}
    for column, step in enumerate(at):
        wanted.setdefault(int(step), []).append(column)
    out = np.empty((*ka.shape, len(at)))
    depot, central = np.ones(ka.shape), np.zeros(ka.shape)
    kept = np.exp(-ka * STEP_HOURS / 2)
    for step in range(int(at.max()) + 1):
        out[..., wanted.get(step, [])] = central[..., None]
        halfway = depot * kept
        inflow = (depot - halfway, halfway * (1 - kept))
        central = extrapolated_step(central, inflow, imax, ic50, STEP_HOURS)
        depot = halfway * kept
    return out
