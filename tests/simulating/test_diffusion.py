"""The latent diffusion model: shapes, conditions, training that resumes, and the cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.errors import UserError
from bench.simulating.diffusion.cache import fingerprint
from bench.simulating.diffusion.generator import TinyGenerator, sample
from bench.simulating.diffusion.model import (
    DiffusionConfig,
    LatentDiffusion,
    to_bytes,
    to_unit,
)
from bench.simulating.diffusion.schedule import CLEAN, Schedule
from bench.simulating.diffusion.stages import Stage, run_stage, seeded
from bench.simulating.diffusion.training import Films, train

TINY = DiffusionConfig(
    32, 2, autoencoder_steps=30, unet_steps=30, batch_size=8, autoencoder_width=8, unet_width=16,
    checkpoint_every=10,
)  # fmt: skip
DATA = {"seed": 1}


def films() -> Films:
    """Films whose brightness is their first condition."""
    rng = np.random.default_rng(0)
    conditions = rng.standard_normal((64, 2)).astype(np.float32)
    grey = 128 + 40 * conditions[:, 0, None, None] + 10 * rng.standard_normal((64, 32, 32))
    return np.clip(grey, 0, 255).astype(np.uint8), conditions


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[LatentDiffusion, Path]:
    cache = tmp_path_factory.mktemp("engines")
    return train(TINY, films, DATA, cache), cache


def test_bytes_and_units_are_inverse():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert np.array_equal(to_bytes(to_unit(images)), images)


def test_ddim_up_and_down_with_the_same_noise_is_the_identity():
    z, noise = torch.randn(2, 1, 3, 3, dtype=torch.float64), torch.randn(2, 1, 3, 3).double()
    schedule = Schedule()
    up = schedule.ddim(z, noise, CLEAN, 481)
    torch.testing.assert_close(schedule.ddim(up, noise, 481, CLEAN), z)
    torch.testing.assert_close(up, schedule.noised(z, 481, noise))


def test_latents_are_four_times_smaller_and_unit_sized(trained):
    model, _ = trained
    images, _ = films()
    latents = model.encode(to_unit(images))
    assert latents.shape == (64, 4, 8, 8)
    assert abs(latents.std(dim=(0, 2, 3)) - 1).max() < 0.1
    assert model.decode(latents).shape == (64, 1, 32, 32)


def test_the_unconditional_branch_reads_no_condition(trained):
    model, _ = trained
    z, t = torch.randn(3, 4, 8, 8), torch.tensor([1, 300, 900])
    no, yes = torch.zeros(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)
    c = torch.randn(3, 2)
    assert torch.equal(model.noise(z, t, c, no), model.noise(z, t, -c, no))
    assert not torch.equal(model.noise(z, t, c, yes), model.noise(z, t, -c, yes))


def test_samples_follow_their_seed_and_condition(trained):
    model, _ = trained
    c = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])

    def drawn(seeds: list[int], c: Tensor = c) -> Tensor:
        return sample(
            TinyGenerator(model), c, latent_shape=model.latent_shape, seeds=seeds, steps=5
        )

    first = drawn([3, 4])
    assert first.shape == (2, 1, 32, 32) and first.abs().max() <= 1
    assert torch.equal(first, drawn([3, 4]))
    torch.testing.assert_close(first[1:], drawn([4], c[1:]))
    assert not torch.allclose(first, drawn([4, 3]))


class Gaussian:
    """Latents of prior N(condition, sd²), whose noise is known exactly; films are latents."""

    factor, schedule = 1, Schedule()

    def __init__(self, sd: float) -> None:
        self.sd = sd

    def encode(self, films: Tensor) -> Tensor:
        return films

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def noise(self, z: Tensor, t: int, condition: Tensor | None) -> Tensor:
        mean = torch.zeros(()) if condition is None else condition[:, :, None, None]
        alpha = self.schedule.alpha_bar(t)
        variance = alpha * self.sd**2 + 1 - alpha
        return (1 - alpha) ** 0.5 * (z - alpha**0.5 * mean) / variance


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_samples_of_a_known_prior_have_its_mean_and_spread(guidance: float):
    condition = torch.tensor([[0.1], [-0.05]])
    films = sample(
        Gaussian(0.2), condition, latent_shape=(1, 64, 64), seeds=[1, 2], steps=500,
        guidance=guidance,
    )  # fmt: skip
    # Of a Gaussian, guidance w moves the mean to w times the condition and keeps the spread.
    wanted = guidance * condition[:, 0]
    torch.testing.assert_close(films.mean(dim=(1, 2, 3)), wanted, atol=0.01, rtol=0)
    torch.testing.assert_close(films.std(dim=(1, 2, 3)), torch.full((2,), 0.2), atol=0.01, rtol=0)


def test_a_trained_model_comes_from_the_cache(trained):
    model, cache = trained

    def never() -> Films:
        raise AssertionError("films were drawn again")

    again = train(TINY, never, DATA, cache)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert {f.name for f in cache.glob("*/*")} == {"model.pt", "config.json"}


def test_the_key_is_of_what_decides_the_model():
    assert TINY.key(DATA) == replace(TINY, checkpoint_every=7).key(DATA)
    others = [replace(TINY, seed=1).key(DATA), replace(TINY, unet_steps=31).key(DATA)]
    assert len({TINY.key(DATA), TINY.key({"seed": 2}), *others}) == 4


def _stage(interrupt_at: int | None = None) -> Stage:
    with seeded(3):
        module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    samples = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    n_calls = 0

    def loss(rows: Tensor, generator: torch.Generator) -> Tensor:
        nonlocal n_calls
        n_calls += 1
        if n_calls == interrupt_at:
            raise KeyboardInterrupt
        x = samples[rows]
        noise = torch.randn(len(rows), 1, generator=generator)
        return (module(x) - x.sum(dim=1, keepdim=True) - 0.1 * noise).square().mean()

    return Stage("test", module, loss, 50, 40, 8, 1e-2, seed=1, ema=0.9, checkpoint_every=10)


def test_an_interrupted_stage_ends_with_the_same_bits(tmp_path: Path):
    whole, part = _stage(), _stage(interrupt_at=27)
    run_stage(whole, tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        run_stage(part, tmp_path / "part.pt")
    resumed = _stage()
    run_stage(resumed, tmp_path / "part.pt")
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name]), name


def test_a_resumed_stage_does_only_what_is_left(tmp_path: Path):
    run_stage(_stage(), tmp_path / "done.pt")
    # The next call of the loss would raise: nothing is left to be done.
    run_stage(_stage(interrupt_at=1), tmp_path / "done.pt")


def test_another_seed_draws_other_batches(tmp_path: Path):
    first, second = _stage(), replace(_stage(), seed=2)
    run_stage(first, tmp_path / "first.pt")
    run_stage(second, tmp_path / "second.pt")
    same = zip(first.module.parameters(), second.module.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in same)


def test_away_from_a_terminal_lines_tell_how_far_it_is(tmp_path: Path, capsys):
    module = nn.Linear(1, 1)

    def loss(rows: Tensor, draws: torch.Generator) -> Tensor:
        return module(torch.ones(1, 1)).square().mean()

    stage = Stage("toy", module, loss, 4, n_steps=4, batch_size=2, lr=0.1, seed=0)
    stage = replace(stage, checkpoint_every=2)
    run_stage(stage, tmp_path / "at")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "toy: training of 4 steps" and len(lines) == 3
    assert lines[1].startswith("toy: step 2 of 4, loss ") and lines[1].endswith("min left")
    run_stage(replace(stage, n_steps=6), tmp_path / "at")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "toy: training of 6 steps, from step 4" and "step 6 of 6" in lines[1]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x80\x02K\x01."])
def test_a_damaged_checkpoint_is_told_in_one_line(content: bytes, tmp_path: Path):
    module = nn.Linear(1, 1)
    stage = Stage("toy", module, lambda *_: module.weight.sum(), 4, 2, 2, 0.1, 0)
    (tmp_path / "at.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"at\.pt is damaged: remove it"):
        run_stage(stage, tmp_path / "at.pt")


def test_a_changed_source_is_another_fingerprint(tmp_path: Path):
    (tmp_path / "a.py").write_text("x = 1")
    before = fingerprint([tmp_path / "a.py"])
    (tmp_path / "a.py").write_text("x = 2")
    assert len(before) == 12 and fingerprint([tmp_path / "a.py"]) != before
