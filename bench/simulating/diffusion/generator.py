"""Any conditioned latent diffusion model, and how films are drawn from one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from bench.simulating.diffusion.autoencoder import FACTOR
from bench.simulating.diffusion.model import LatentDiffusion
from bench.simulating.diffusion.schedule import CLEAN, Schedule


class Generator(Protocol):
    """A conditioned latent diffusion model.

    factor: pixels a side that become one latent pixel; schedule: the noise levels of its steps
    """

    factor: int
    schedule: Schedule

    def encode(self, films: Tensor) -> Tensor:
        """Latents of films [B, channels, H, W] in [-1, 1]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Films of latents."""
        ...

    def noise(self, z: Tensor, t: int, condition: Tensor | None) -> Tensor:
        """Predicted noise in latents at training step t; None: the unconditional branch."""
        ...


class TinyGenerator:
    """The engine that trains on a CPU; its condition is float [B, C]."""

    factor = FACTOR

    def __init__(self, model: LatentDiffusion) -> None:
        self.model, self.schedule = model, model.schedule

    def encode(self, films: Tensor) -> Tensor:
        """Mean latents of grey films [B, 1, S, S]."""
        return self.model.encode(films)

    def decode(self, latents: Tensor) -> Tensor:
        """Grey films."""
        return self.model.decode(latents)

    def noise(self, z: Tensor, t: int, condition: Tensor | None) -> Tensor:
        """As `Generator.noise`."""
        n = len(z)
        conditioned = torch.full((n,), condition is not None)
        if condition is None:
            condition = self.model.condition_mean.expand(n, -1)
        return self.model.noise(z, torch.full((n,), t), condition, conditioned)


def sample(
    generator: Generator,
    condition: Tensor,
    *,
    latent_shape: Sequence[int],
    seeds: Sequence[int],
    steps: int = 50,
    guidance: float = 1.0,
) -> Tensor:
    """Draw a film per condition [B, ...] by DDIM, from noise that its own seed alone decides.

    Args:
        latent_shape: channels, rows and columns
        guidance: 1 asks for the condition alone, and spares the unconditional branch

    Returns:
        Films [B, channels, H, W] in [-1, 1]; alike seeds and conditions give alike films.
    """
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    z = torch.stack([torch.randn(*latent_shape, generator=own) for own in draws])
    z = z.to(condition.device)
    timesteps = generator.schedule.timesteps(steps)
    with torch.inference_mode():
        for t, to in zip(timesteps, [*timesteps[1:], CLEAN], strict=True):
            noise = generator.noise(z, t, condition)
            if guidance != 1:
                free = generator.noise(z, t, None)
                noise = free + guidance * (noise - free)
            z = generator.schedule.ddim(z, noise, t, to)
        return generator.decode(z).clamp(-1, 1)
