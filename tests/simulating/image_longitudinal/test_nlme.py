"""The mixed-effects model: its step against a stiff solver, its modes, its likelihood."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.stats import norm

from bench.simulating.image_longitudinal.association import EBE_RETEST
from bench.simulating.image_longitudinal.fitting import (
    as_logs,
    curvature,
    fit,
    minus_2_log_likelihood,
    with_logs,
)
from bench.simulating.image_longitudinal.nlme import Nlme
from bench.simulating.image_longitudinal.stable_step import extrapolated_step, implicit_step

MODEL = Nlme()


def subjects(n: int, model: Nlme, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    eta = rng.standard_normal((n, 3)) * np.sqrt(model.omega)
    return eta, model.simulate(eta, rng)


@pytest.mark.parametrize("eta", [(0, 0, 0), (1, -1, 0.5), (-2, 2, -2), (2, 2, 1)])
def test_predictions_agree_with_a_stiff_solver(eta):
    ka, imax, ic50 = np.array(MODEL.tv) * np.exp(eta)

    def slope(_, x):
        return [-ka * x[0], ka * x[0] - imax * x[1] / (ic50 + x[1])]

    solved = solve_ivp(
        slope, (0, 10), [1, 0], method="LSODA", rtol=1e-8, atol=1e-10, t_eval=MODEL.hours
    )
    np.testing.assert_allclose(MODEL.predict(np.array(eta)), solved.y[1], atol=1e-3)


def test_predictions_stay_between_nothing_and_the_dose_for_extreme_subjects():
    eta = np.random.default_rng(1).uniform(-4, 4, (500, 3))
    central = MODEL.predict(eta)
    assert np.isfinite(central).all()
    assert central.min() >= 0 and central.max() <= 1


def test_without_recovery_nothing_is_lost():
    model = dataclasses.replace(MODEL, tv=(1.0, 0.0, 0.4))
    expected = 1 - np.exp(-np.array(model.hours))
    np.testing.assert_allclose(model.predict(np.zeros(3)), expected, atol=1e-12)


def test_a_step_solves_its_own_equation_whatever_its_length():
    rng = np.random.default_rng(2)
    C, inflow, imax, ic50 = np.exp(rng.normal(0, 4, (4, 1000)))
    for h in (1e-3, 1.0, 1e3):
        new = implicit_step(C, inflow, imax, ic50, h)
        assert (new >= 0).all()
        np.testing.assert_allclose(new + h * imax * new / (ic50 + new), C + inflow, rtol=1e-9)


def test_extrapolation_makes_the_step_second_order():
    def error(h: float) -> float:
        C = np.array(1.0)
        for _ in range(round(1 / h)):
            nothing = np.zeros(())
            C = extrapolated_step(C, (nothing, nothing), np.array(0.8), np.array(0.5), h)
        # C + IC50 log C falls by Imax an hour.
        solved = solve_ivp(lambda _, x: -0.8 * x / (0.5 + x), (0, 1), [1.0], rtol=1e-11, atol=1e-12)
        return abs(float(C) - solved.y[0, -1])

    assert 3.0 < error(0.1) / error(0.05) < 5.0


def test_modes_are_at_least_as_good_as_the_truth():
    eta, y = subjects(60, MODEL)
    assert (MODEL.joint(y, MODEL.ebe(y)) <= MODEL.joint(y, eta)).all()


def test_a_quiet_series_gives_its_effects_away():
    model = Nlme(omega=(0.04,) * 3, sigma=1e-4)
    eta, y = subjects(60, model)
    missed = ((model.ebe(y) - eta) ** 2).sum(axis=0)
    explained = 1 - missed / ((eta - eta.mean(axis=0)) ** 2).sum(axis=0)
    assert (explained[:2] > 0.95).all()


def test_estimates_shrink_and_repeat_as_much_as_it_is_said():
    eta, y = subjects(300, MODEL, seed=4)
    found, again = MODEL.ebe(y), MODEL.ebe(MODEL.simulate(eta, np.random.default_rng(5)))
    shares = [np.corrcoef(found[:, k], eta[:, k])[0, 1] ** 2 for k in range(3)]
    retest = [np.corrcoef(found[:, k], again[:, k])[0, 1] for k in range(3)]
    np.testing.assert_allclose(shares, (0.83, 0.72, 0.60), atol=0.12)
    np.testing.assert_allclose(retest, EBE_RETEST, atol=0.06)


def test_the_conditional_likelihood_is_a_normal_one():
    eta, y = subjects(4, MODEL)
    expected = -norm.logpdf(y, MODEL.predict(eta), MODEL.sigma).sum(axis=1)
    np.testing.assert_allclose(MODEL.conditional_nll(y, eta), expected)


def test_parameters_survive_their_logs():
    model = Nlme(tv=(1.0, 2.0, 3.0), omega=(0.1, 0.2, 0.3), sigma=0.5)
    assert as_logs(with_logs(MODEL, as_logs(model))) == pytest.approx(as_logs(model))


def test_the_whole_curvature_is_that_of_the_posterior():
    model = Nlme(omega=(0.2,) * 3, sigma=0.05)
    _, y = subjects(3, model)
    eta, h = model.ebe(y), 1e-3
    found = curvature(y, model, eta, "laplace")
    unit = np.eye(3)
    for a in range(3):
        moves = [eta + s * h * unit[a] for s in (1, 0, -1)]
        up, here, down = (0.5 * model.joint(y, moved) for moved in moves)
        np.testing.assert_allclose((up - 2 * here + down) / h**2, found[:, a, a], rtol=0.02)


@pytest.mark.parametrize("method", ["foce", "laplace"])
def test_the_likelihood_agrees_with_importance_sampling(method):
    model = Nlme(omega=(0.2,) * 3, sigma=0.05)
    _, y = subjects(3, model)
    value, eta = minus_2_log_likelihood(y, model, method=method)
    rng, H = np.random.default_rng(0), curvature(y, model, eta, "foce")
    for i in range(3):
        # Proposals a little wider than the posterior, so that no weight is large.
        root = np.linalg.cholesky(np.linalg.inv(H[i])) * 1.3
        step = rng.standard_normal((4000, 3))
        drawn = eta[i] + step @ root.T
        log_q = norm.logpdf(step).sum(axis=1) - np.log(np.diagonal(root)).sum()
        prior = norm.logpdf(drawn, scale=np.sqrt(model.omega)).sum(axis=1)
        log_w = prior - model.conditional_nll(y[i], drawn) - log_q
        sampled = -2 * (np.log(np.exp(log_w - log_w.max()).mean()) + log_w.max())
        assert value[i] == pytest.approx(sampled, abs=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["foce", "laplace"])
def test_a_fit_recovers_the_parameters(method):
    model = Nlme(omega=(0.2,) * 3)
    _, y = subjects(60, model, seed=3)
    found = fit(y, method=method)
    error = (found.log_estimate - as_logs(model)) / found.se
    assert (np.abs(error) < 3).all()
    assert (found.se[:3] < 0.25).all() and found.se[6] < 0.1
