"""What PIE edits with: any latent diffusion model, here a tiny one and Stable Diffusion folders."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from bench.simulating.diffusion.autoencoder import FACTOR
from bench.simulating.diffusion.model import LatentDiffusion
from bench.simulating.diffusion.schedule import Schedule


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
