"""PIE's routine on a world whose noise is known exactly: films N(mu_y, s^2) per pixel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.errors import UserError
from bench.simulating.diffusion.schedule import CLEAN, Schedule
from bench.simulating.pie.edit import Anchor, Inversion, Options, pie_latents

PIE = Options()
EXACT = replace(PIE, inversion=Inversion.DDIM, guidance=1.0)


class Gaussian:
    """The exact generator; a condition is mu_y, and without one mu is 0. Latents are the films.

    eps(z, t, y) = sqrt(1 - abar) (z - sqrt(abar) mu_y) / (abar s^2 + 1 - abar)
    """

    def __init__(self, s: float, factor: int = 1) -> None:
        self.s, self.factor, self.schedule = s, factor, Schedule()

    def encode(self, films: Tensor) -> Tensor:
        return films

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def noise(self, z: Tensor, t: int, condition: Tensor | None) -> Tensor:
        alpha = self.schedule.alpha_bar(t)
        mean = 0.0 if condition is None else condition
        variance = alpha * self.s**2 + 1 - alpha
        return (1 - alpha) ** 0.5 * (z - alpha**0.5 * mean) / variance


def films(n: int = 1, size: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, size, size, generator=generator, dtype=torch.float64)


def half_mask(size: int = 8) -> Tensor:
    mask = torch.zeros(1, 1, size, size, dtype=torch.float64)
    mask[..., size // 2 :] = 1
    return mask


def edit(
    x0: Tensor,
    condition: Tensor,
    options: Options,
    mask: Tensor | None = None,
    s: float = 0.5,
    seeds: list[int] | None = None,
) -> Tensor:
    """Stages [N + 1, B, 1, H, W]."""
    seeds = seeds or list(range(len(x0)))
    stages = pie_latents(x0, condition, Gaussian(s), seeds=seeds, mask=mask, options=options)
    return torch.stack(stages)


def stage_as_a_line(s: float, options: Options) -> tuple[float, float]:
    """a and b of z_end = a z + b mu for one unmasked DDIM stage, worked out on numbers."""
    schedule = Schedule()
    k = int(options.strength * options.inference_steps)
    down = schedule.timesteps(options.inference_steps)[-k:]

    def run(z: float, mu: float) -> float:
        def eps(z: float, t: int, mu: float) -> float:
            alpha = schedule.alpha_bar(t)
            return (1 - alpha) ** 0.5 * (z - alpha**0.5 * mu) / (alpha * s**2 + 1 - alpha)

        def move(z: float, e: float, t: int, to: int) -> float:
            at, after = schedule.alpha_bar(t), schedule.alpha_bar(to)
            clean = (z - (1 - at) ** 0.5 * e) / at**0.5
            return after**0.5 * clean + (1 - after) ** 0.5 * e

        at = CLEAN
        for to in reversed(down):
            z, at = move(z, eps(z, to if at == CLEAN else at, 0.0), at, to), to
        for t, to in zip(down, [*down[1:], CLEAN], strict=True):
            z = move(z, eps(z, t, mu), t, to)
        return z

    return run(1.0, 0.0) - run(0.0, 0.0), run(0.0, 1.0) - run(0.0, 0.0)


def test_the_defaults_are_pies():
    assert (PIE.steps, PIE.strength, PIE.guidance, PIE.inference_steps) == (10, 0.5, 7.5, 50)
    assert (PIE.beta1, PIE.beta2) == (0.01, 0.75)
    assert PIE.inversion is Inversion.NOISE and PIE.anchor is Anchor.START


def test_no_strength_returns_the_start():
    x0 = films(2)
    stages = edit(x0, torch.ones_like(x0), replace(PIE, strength=0.0), half_mask())
    for stage in stages:
        assert torch.equal(stage, x0)


def test_outside_the_mask_one_percent_of_the_change_is_kept():
    x0, nothing = films(), torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    one = replace(EXACT, steps=1)
    kept = edit(x0, torch.full_like(x0, 3.0), replace(one, beta1=1.0), nothing)[1] - x0
    part = edit(x0, torch.full_like(x0, 3.0), one, nothing)[1] - x0
    assert kept.abs().min() > 0
    torch.testing.assert_close(part, 0.01 * kept)


def test_a_full_mask_only_scales_the_unmasked_edit():
    x0, mu = films(), torch.full((1, 1, 8, 8), 2.0, dtype=torch.float64)
    one = replace(PIE, steps=1)
    free = edit(x0, mu, one)[1] - x0
    masked = edit(x0, mu, one, torch.ones_like(mu))[1] - x0
    torch.testing.assert_close(masked, 0.75 * free)


def test_unmasked_stages_approach_the_closed_form_fixed_point():
    x0, mu = films(), torch.full((1, 1, 8, 8), 1.5, dtype=torch.float64)
    options = replace(EXACT, steps=400, strength=0.6)
    a, b = stage_as_a_line(0.5, options)
    stages = edit(x0, mu, options)
    torch.testing.assert_close(stages[1], a * x0 + b * mu)
    assert abs(a) < 0.99
    torch.testing.assert_close(stages[-1], b / (1 - a) * mu, atol=1e-4, rtol=0)


def test_anchored_stages_reach_the_closed_form_fixed_point():
    x0, mu = films(), torch.full((1, 1, 8, 8), 1.5, dtype=torch.float64)
    options = replace(EXACT, steps=200, strength=0.6)
    a, b = stage_as_a_line(0.5, options)
    last = edit(x0, mu, options, torch.ones_like(mu))[-1]
    fixed = ((1 - options.beta2) * x0 + options.beta2 * b * mu) / (1 - options.beta2 * a)
    torch.testing.assert_close(last, fixed)


def test_displacement_grows_as_the_geometric_sum_of_beta2():
    # With s and mu both large the noise of the posterior is the same wherever the film is.
    s = 1e6
    x0, mu = films(), torch.full((1, 1, 8, 8), 0.1 * s**2, dtype=torch.float64)
    stages = edit(x0, mu, EXACT, torch.ones_like(mu), s=s)
    moved = (stages - x0).abs().mean(dim=(1, 2, 3, 4))
    sums = torch.tensor([sum(0.75**j for j in range(n)) for n in range(11)], dtype=torch.float64)
    torch.testing.assert_close(moved / moved[1], sums, atol=1e-4, rtol=0)


def test_anchored_to_the_stage_before_the_change_does_not_saturate():
    s = 1e6
    x0, mu = films(), torch.full((1, 1, 8, 8), 0.1 * s**2, dtype=torch.float64)
    options = replace(EXACT, anchor=Anchor.PREVIOUS)
    moved = (edit(x0, mu, options, torch.ones_like(mu), s=s) - x0).mean(dim=(1, 2, 3, 4))
    torch.testing.assert_close(moved / moved[1], torch.arange(11.0).double(), atol=1e-4, rtol=0)


def test_without_guidance_the_condition_is_not_read():
    x0, mu = films(), torch.full((1, 1, 8, 8), 2.0, dtype=torch.float64)
    free = replace(PIE, guidance=0.0)
    assert torch.equal(edit(x0, mu, free), edit(x0, -mu, free))


def test_guidance_of_one_is_the_conditional_noise_alone():
    x0, mu = films(), torch.full((1, 1, 8, 8), 2.0, dtype=torch.float64)
    near = replace(PIE, guidance=1.0 + 1e-9)
    torch.testing.assert_close(edit(x0, mu, replace(PIE, guidance=1.0)), edit(x0, mu, near))


def test_same_seed_same_bytes_and_another_differs():
    x0, mu = films(), torch.full((1, 1, 8, 8), 2.0, dtype=torch.float64)
    assert torch.equal(edit(x0, mu, PIE, seeds=[5]), edit(x0, mu, PIE, seeds=[5]))
    assert not torch.equal(edit(x0, mu, PIE, seeds=[5])[1], edit(x0, mu, PIE, seeds=[6])[1])


@pytest.mark.parametrize("inversion", list(Inversion))
def test_a_film_does_not_depend_on_its_batch(inversion: Inversion):
    x0, mu = films(3), films(3, seed=1)
    options = replace(PIE, inversion=inversion)
    together = edit(x0, mu, options, half_mask(), seeds=[3, 4, 5])
    for k in range(3):
        alone = edit(x0[k : k + 1], mu[k : k + 1], options, half_mask(), seeds=[3 + k])
        torch.testing.assert_close(together[:, k : k + 1], alone)


def test_ddim_inversion_needs_no_noise():
    x0, mu = films(), torch.full((1, 1, 8, 8), 2.0, dtype=torch.float64)
    assert torch.equal(edit(x0, mu, EXACT, seeds=[1]), edit(x0, mu, EXACT, seeds=[2]))


def test_a_soft_mask_changes_in_proportion():
    x0, mu = films(), torch.full((1, 1, 8, 8), 2.0, dtype=torch.float64)
    half = torch.full_like(mu, 0.5)
    one = replace(EXACT, steps=1, strength=0.02)
    free = edit(x0, mu, one)[1] - x0
    soft = edit(x0, mu, one, half)[1] - x0
    torch.testing.assert_close(soft, (0.5 * 0.01 + 0.5 * 0.75) * free)


@pytest.mark.parametrize(
    ("x0", "mask", "says"),
    [
        (films(size=12), None, "multiples of 8"),
        (films(), half_mask(16), "mask"),
        (films(), 2 * half_mask(), "0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused(x0: Tensor, mask: Tensor | None, says: str):
    with pytest.raises(UserError, match=says):
        pie_latents(x0, x0, Gaussian(1.0, factor=8), seeds=[0], mask=mask, options=PIE)


IMPOSSIBLE = [
    {"strength": 1.5}, {"steps": 0}, {"inference_steps": 0}, {"guidance": float("nan")},
    {"guidance": float("inf")}, {"beta1": -0.1}, {"beta2": float("nan")},
]  # fmt: skip


@pytest.mark.parametrize("wrong", IMPOSSIBLE)
def test_impossible_options_are_refused(wrong: dict[str, float]):
    with pytest.raises(UserError):
        replace(PIE, **wrong)  # type: ignore[arg-type]


def test_timesteps_are_even_and_end_next_to_the_clean_film():
    steps = Schedule().timesteps(50)
    assert len(steps) == 50 and steps[0] == 981 and steps[-1] == 1
    assert np.all(np.diff(steps) == -20)
