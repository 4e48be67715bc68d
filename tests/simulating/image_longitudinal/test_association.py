"""The dial: what films show and what everything else follows are as alike as it says."""

from __future__ import annotations

import numpy as np
import pytest

from bench.simulating.course import _integrate
from bench.simulating.image_longitudinal.association import (
    PAPER_VARIANCES,
    ceiling,
    noise_variance,
    noisy_copy,
)
from bench.simulating.image_longitudinal.courses import AssociatedCourses, integrate
from bench.simulating.populate import simulate_population
from bench.simulating.population import ACUTE_PROCESSES, Courses, Population

SEED = 7


def courses(r2: float, n: int = 200) -> Courses:
    ids = list(range(n))
    return AssociatedCourses(r2)(SEED, ids, ids, np.full(n, 64.0), 1.0)


@pytest.mark.parametrize("v", PAPER_VARIANCES)
def test_the_copy_has_unit_variance_slope_and_r2_of_the_dial(v: float):
    n, rng = 100_000, np.random.default_rng(v)
    z = rng.standard_normal(n)
    eta_v = noisy_copy(z, v, rng)
    assert eta_v.var() == pytest.approx(1, abs=0.02)
    slope = np.cov(z, eta_v)[0, 1] / z.var()
    assert slope == pytest.approx(1 / np.sqrt(1 + v), abs=0.012)
    r2 = np.corrcoef(z, eta_v)[0, 1] ** 2
    rho2 = ceiling(v)
    se = 2 * np.sqrt(rho2) * (1 - rho2) / np.sqrt(n) + 1e-9
    assert abs(r2 - rho2) < 3 * se


def test_without_noise_the_copy_is_the_original():
    z = np.random.default_rng(0).standard_normal(10)
    assert np.array_equal(noisy_copy(z, 0, np.random.default_rng(1)), z)
    assert noise_variance(ceiling(18)) == pytest.approx(18)


def test_at_full_association_films_show_the_told_course():
    made = courses(1.0, 30)
    for name, told in vars(made.told).items():
        np.testing.assert_array_equal(told, vars(made.shown)[name])


def test_films_are_the_same_at_every_association():
    shown = [courses(r2, 30).shown for r2 in (1.0, 0.02)]
    for name, values in vars(shown[0]).items():
        np.testing.assert_array_equal(values, vars(shown[1])[name])


def burdens(course) -> dict[str, np.ndarray]:
    """Some functions of a course, far from linear in the normals that it is made of."""
    early = course.acute[..., :48]
    return {
        "edema": early[:, 0].mean(axis=-1),
        "worst": early.max(axis=(1, 2)),
        "trend": early[..., 36:].mean(axis=(1, 2)) - early[..., :12].mean(axis=(1, 2)),
        "doses": course.dose_pulses[..., :48].sum(axis=(1, 2)),
        "shock": course.organs[:, 0, 40],
        "heart": course.heart[:, 20],
        "chronic": course.chronic.sum(axis=1),
    }


@pytest.mark.parametrize("r2", [0.5, 0.1])
def test_no_function_of_one_course_explains_more_of_the_other_than_the_ceiling(r2: float):
    n = 600
    made = courses(r2, n)
    told, shown = burdens(made.told), burdens(made.shown)
    for name, values in told.items():
        explained = np.corrcoef(values, shown[name])[0, 1] ** 2
        assert explained < r2 + 3 * 2 * np.sqrt(r2 / n), name
    # Linear in a normal: not less than the ceiling either.
    shock = np.corrcoef(told["shock"], shown["shock"])[0, 1] ** 2
    assert shock > r2 - 3 * 2 * np.sqrt(r2 / n)


def test_a_stay_has_the_same_courses_whoever_else_there_is():
    whole, alone = courses(0.5, 6), AssociatedCourses(0.5)(SEED, [4], [4], np.array([64.0]), 1.0)
    np.testing.assert_array_equal(whole.told.acute[4], alone.told.acute[0])
    np.testing.assert_array_equal(whole.shown.acute[4], alone.shown.acute[0])


def test_the_stable_step_agrees_with_the_procedural_courses():
    rng = np.random.default_rng(5)
    pulses = np.zeros((20, len(ACUTE_PROCESSES), 100))
    pulses[..., ::30] = rng.lognormal(0, 0.4, (20, len(ACUTE_PROCESSES), 4))
    eta = 0.3 * rng.standard_normal((20, len(ACUTE_PROCESSES), 3))
    np.testing.assert_allclose(integrate(pulses, eta), _integrate(pulses, eta), atol=0.01)


def test_told_and_shown_courses_are_like_the_procedural_ones(small: Population):
    made = simulate_population("small", make_courses=AssociatedCourses(0.1))
    for name in ("acute", "heart", "chronic", "organs", "dose_pulses"):
        ours, theirs = getattr(made.course, name), getattr(small.course, name)
        assert ours.mean() == pytest.approx(theirs.mean(), abs=0.06), name
        assert ours.std() == pytest.approx(theirs.std(), rel=0.15), name
    labelled = [(p.pairs.iloc[:, 4:11] != 3).to_numpy().mean() for p in (small, made)]
    assert labelled[0] == pytest.approx(labelled[1], abs=0.04)
    assert made.film_ventilated.mean() == pytest.approx(small.film_ventilated.mean(), abs=0.08)


def test_the_truth_keeps_both_courses_and_both_ceilings():
    made = simulate_population("tiny", make_courses=AssociatedCourses(0.5))
    n = len(made.stays)
    assert made.engine_truth["z_eta"].shape == made.engine_truth["eta_eta"].shape == (n, 11, 3)
    assert made.parameters["association"]["v"] == pytest.approx(1)
    assert made.parameters["association"]["r2"] == pytest.approx(0.5)
    assert all(0 < share < 0.5 for share in made.parameters["association"]["r2_ebe"])
