"""Fit the population parameters of the mixed-effects model, with standard errors.

    -2 log L_i = -2 log p(y_i, eta^_i) + log det(H_i / 2 pi)

eta^ is the mode; H the curvature of -log p(y, eta) there: `laplace` takes all of it, `foce` leaves
out the second derivatives of the model (first-order conditional estimation without interaction).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final, Literal

import numpy as np
from scipy.optimize import minimize

from bench.simulating.image_longitudinal.nlme import Nlme

Method = Literal["laplace", "foce"]

START: Final = Nlme(tv=(1.0, 1.1, 0.6), omega=(0.2, 0.2, 0.2), sigma=0.1)
"""Where the paper's fits start."""

SHIFT: Final = 1e-3
"""Of log parameters and of eta, for derivatives of the likelihood."""

LOWER: Final = np.log(1e-4)
UPPER: Final = np.log(1e2)

MAX_RESTARTS: Final = 6
ENOUGH: Final = 0.01
"""A new start that lowers -2 log L by less is the last."""


@dataclass(frozen=True)
class Fit:
    """A fitted model.

    log_estimate, se: float64 [7]; log tv (3), log omega (3) and log sigma, with standard errors
    minus_2_log_likelihood: at the estimate; n_evaluations: of the likelihood
    """

    model: Nlme
    log_estimate: np.ndarray
    se: np.ndarray
    minus_2_log_likelihood: float
    n_evaluations: int


def as_logs(model: Nlme) -> np.ndarray:
    """Log tv, log omega and log sigma, float64 [7]."""
    return np.log([*model.tv, *model.omega, model.sigma])


def with_logs(model: Nlme, logs: np.ndarray) -> Nlme:
    """The model with other parameters; the inverse of `as_logs`."""
    tv, omega, sigma = np.split(np.exp(logs), (3, 6))
    return replace(model, tv=tuple(tv.tolist()), omega=tuple(omega.tolist()), sigma=float(sigma[0]))


def fit(
    y: np.ndarray,
    start: Nlme = START,
    method: Method = "foce",
    progress: Callable[[float], None] = lambda _: None,
) -> Fit:
    """Maximise the approximate likelihood of series [N, T] by L-BFGS-B.

    Standard errors come from the outer products of the subjects' scores. `progress` is told the
    value after every step.
    """
    modes, n_evaluations, lowest = start.ebe(y), 0, np.inf

    def value(logs: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal modes, n_evaluations, lowest
        values, found, gradients = _with_scores(y, with_logs(start, logs), modes, method)
        n_evaluations += 1
        progress(float(values.sum()))
        # Modes of a step that went too far are poor starts for the next one.
        if values.sum() < lowest:
            modes, lowest = found, values.sum()
        return values.sum(), gradients.sum(axis=0)

    logs, best = as_logs(start), np.inf
    for _ in range(MAX_RESTARTS):
        found = minimize(
            *(value, logs), jac=True, method="L-BFGS-B", bounds=[(LOWER, UPPER)] * 7,
            options={"maxiter": 100, "ftol": 1e-7},
        )  # fmt: skip
        logs, gain, best = found.x, best - found.fun, found.fun
        if gain < ENOUGH:
            break
        # Modes that were followed from step to step may have become poor ones.
        modes, lowest = _better(y, with_logs(start, logs), modes), np.inf
    fitted = with_logs(start, logs)
    values, _, gradients = _with_scores(y, fitted, modes, method)
    scores = -0.5 * gradients
    se = np.sqrt(np.diagonal(np.linalg.pinv(scores.T @ scores)))
    return Fit(fitted, logs, se, float(values.sum()), n_evaluations)


def _better(y: np.ndarray, model: Nlme, modes: np.ndarray) -> np.ndarray:
    """The given modes, or those found afresh where they are better, [N, 3]."""
    afresh = model.ebe(y)
    is_better = model.joint(y, afresh) < model.joint(y, modes)
    return np.where(is_better[:, None], afresh, modes)


def minus_2_log_likelihood(
    y: np.ndarray, model: Nlme, start: np.ndarray | None = None, method: Method = "foce"
) -> tuple[np.ndarray, np.ndarray]:
    """-2 log L_i of each subject [N], and the modes [N, 3], searched from `start`."""
    eta = model.ebe(y, start)
    H = curvature(y, model, eta, method)
    log_det = np.linalg.slogdet(H)[1] - 3 * np.log(2 * np.pi)
    prior = (eta**2 / model.omega + np.log(2 * np.pi * np.array(model.omega))).sum(axis=-1)
    return 2 * model.conditional_nll(y, eta) + prior + log_det, eta


def curvature(y: np.ndarray, model: Nlme, eta: np.ndarray, method: Method) -> np.ndarray:
    """Second derivatives of -log p(y, eta) by eta, [N, 3, 3], positive definite."""
    f, J = model.jacobian(eta)
    linearised = np.einsum("nta,ntb->nab", J, J) / model.sigma**2 + np.diag(
        1 / np.array(model.omega)
    )
    if method == "foce":
        return linearised
    whole = linearised - _second_order(model, eta, f, (y - f) / model.sigma**2)
    is_mode = np.linalg.eigvalsh(whole)[:, 0] > 0
    return np.where(is_mode[:, None, None], whole, linearised)


def _second_order(model: Nlme, eta: np.ndarray, f: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Sum over times of `weight` [N, T] times the model's second derivatives, [N, 3, 3]."""
    h = 10 * SHIFT

    def at(move: np.ndarray) -> np.ndarray:
        return (weight * model.predict(eta + h * move)).sum(axis=-1)

    here, unit = (weight * f).sum(axis=-1), np.eye(3)
    along = [at(unit[a]) + at(-unit[a]) - 2 * here for a in range(3)]
    out = np.empty((len(eta), 3, 3))
    for a in range(3):
        out[:, a, a] = along[a] / h**2
    for a, b in combinations(range(3), 2):
        both = at(unit[a] + unit[b]) + at(-unit[a] - unit[b]) - 2 * here
        out[:, a, b] = out[:, b, a] = (both - along[a] - along[b]) / (2 * h**2)
    return out


def _with_scores(
    y: np.ndarray, model: Nlme, start: np.ndarray, method: Method
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """-2 log L_i [N], modes, and derivatives by the logs [N, 7] (central differences)."""
    values, modes = minus_2_log_likelihood(y, model, start, method)
    gradients = np.empty((len(y), 7))
    for k, (up, down) in enumerate(_neighbours(model)):
        above, below = (minus_2_log_likelihood(y, m, modes, method)[0] for m in (up, down))
        gradients[:, k] = (above - below) / (2 * SHIFT)
    return values, modes, gradients


def _neighbours(model: Nlme) -> Iterator[tuple[Nlme, Nlme]]:
    """The model with each log parameter a little larger, and a little smaller."""
    logs = as_logs(model)
    for shift in SHIFT * np.eye(7):
        yield with_logs(model, logs + shift), with_logs(model, logs - shift)
