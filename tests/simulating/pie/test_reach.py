"""How far an edit of one film goes, by what is seen of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.simulating.pie.findings import level, most_levels
from bench.simulating.pie.reach import extremes, stage_map, stage_of, up_to
from bench.simulating.population import FILM_SEVERITIES

N = len(FILM_SEVERITIES)
EDEMA, RIGHT, LEFT = map(FILM_SEVERITIES.index, ("edema", "effusion_right", "effusion_left"))
WORST = float(most_levels()[EDEMA])


def test_the_generator_is_asked_for_the_worst_nothing_or_what_is_seen():
    levels = np.full((1, N), 0.5, dtype=np.float32)
    wanted = levels.copy()
    wanted[0, EDEMA], wanted[0, LEFT] = 0.6, 0.4
    goal = extremes(levels, wanted)
    assert goal[0, EDEMA] == most_levels()[EDEMA] and goal[0, LEFT] == 0
    assert (np.delete(goal[0], [EDEMA, LEFT]) == 0.5).all()


@pytest.mark.parametrize(
    ("wanted", "extreme", "stage"),
    [(0.5, WORST, 1.0), (0.75, WORST, 1.5), (1.25, WORST, 3.0), (9.0, WORST, 4.0)],
)
def test_the_stage_is_where_the_wanted_level_is_seen_or_the_last(
    wanted: float, extreme: float, stage: float
):
    assert stage_of(np.array([0, 0.5, 1.0, 1.25, 1.3]), wanted, extreme) == pytest.approx(stage)


def test_what_goes_beyond_the_worst_stops_at_it():
    assert stage_of(np.array([0, 2.0, 3.0, 4.0]), 2.4, 2.4) == pytest.approx(1.4)


def test_a_falling_finding_has_a_stage_too():
    assert stage_of(np.array([1.0, 0.8, 0.6, 0.6]), 0.7, 0.0) == pytest.approx(1.5)


def test_a_finding_that_is_not_seen_to_rise_goes_to_the_last_stage():
    assert stage_of(np.array([0.1, 0.0, 0.05]), 1.0, WORST) == 2


def test_each_side_takes_its_own_stage():
    curves = np.zeros((5, N))
    curves[:, RIGHT], curves[:, LEFT] = [0, 1, 2, 2, 2], [0, 0.25, 0.5, 0.75, 1]
    wanted = np.zeros(N)
    wanted[[RIGHT, LEFT]] = 1.0
    last = stage_map(curves, wanted, extremes(curves[:1], wanted[None])[0])[0, 0]
    assert last[8, 3] == pytest.approx(1, abs=0.05) and last[8, 12] == pytest.approx(4, abs=0.05)


def test_where_nothing_is_asked_every_stage_is_the_start():
    stages = torch.arange(5.0).reshape(5, 1, 1, 1, 1).expand(5, 1, 4, 16, 16)
    nothing = np.zeros(N)
    assert up_to(stages, stage_map(np.zeros((5, N)), nothing, nothing)).abs().max() == 0


def test_the_films_are_even_steps_to_the_last_stage():
    stages = torch.arange(5.0).reshape(5, 1, 1, 1, 1).expand(5, 1, 4, 16, 16)
    steps = up_to(stages, torch.full((1, 1, 16, 16), 2.0))[:, 0, 0, 0, 0]
    torch.testing.assert_close(steps, torch.tensor([0, 0.5, 1, 1.5, 2]))
    whole = up_to(stages, torch.full((1, 1, 16, 16), 4.0))
    assert torch.equal(whole, stages)


def test_a_severity_is_a_level():
    assert pytest.approx(float(level(np.array(2.5)))) == WORST
