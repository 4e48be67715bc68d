"""A latent diffusion model of grey films, conditioned on a vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from bench.simulating.diffusion import cache
from bench.simulating.diffusion.autoencoder import FACTOR, Autoencoder
from bench.simulating.diffusion.schedule import Schedule
from bench.simulating.diffusion.unet import UNet

FORMAT: Final = 1
"""Part of every key: raised when the same settings no longer give the same model."""


@dataclass(frozen=True)
class DiffusionConfig:
    """Everything that decides a model besides its films.

    size: pixels a side, a multiple of 16; n_conditions: C
    *_steps, *_lr: of the autoencoder and of the U-Net, `batch_size` films a step
    channels: of a latent; kl_weight: of the autoencoder's loss
    drop_condition: share of samples that train the unconditional branch
    min_snr: gamma of the loss weight min(SNR, gamma) / SNR (arXiv 2303.09556)
    noise_offset: sd of the noise that a whole channel shares
    ema: decay of the averaged U-Net, which is the one that is kept
    checkpoint_every: steps; decides nothing
    """

    size: int
    n_conditions: int
    autoencoder_steps: int = 300
    unet_steps: int = 1200
    batch_size: int = 32
    autoencoder_width: int = 24
    channels: int = 4
    unet_width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2)
    kl_weight: float = 1e-4
    autoencoder_lr: float = 2e-3
    unet_lr: float = 4e-4
    drop_condition: float = 0.12
    min_snr: float = 5.0
    noise_offset: float = 0.0
    ema: float = 0.998
    checkpoint_every: int = 100
    seed: int = 0

    def key(self, data: Mapping[str, Any]) -> str:
        """Sixteen hexadecimal digits of the configuration and of what identifies the films."""
        settings = {k: v for k, v in asdict(self).items() if k != "checkpoint_every"}
        return cache.key({"format": FORMAT, "config": settings, "data": dict(data)})


class LatentDiffusion(nn.Module):
    """Autoencoder and U-Net, with the scales that make latents and conditions unit-sized.

    Films are float [B, 1, S, S] in [-1, 1], latents [B, channels, S / 4, S / 4] of sd about 1,
    conditions float [B, C] in the units that training was given.
    """

    latent_mean: Tensor
    latent_sd: Tensor
    condition_mean: Tensor
    condition_sd: Tensor

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config, self.schedule = config, Schedule()
        self.autoencoder = Autoencoder(config.autoencoder_width, config.channels)
        self.unet = UNet(
            config.channels, config.n_conditions, config.unet_width, config.multipliers
        )
        self.register_buffer("latent_mean", torch.zeros(1, config.channels, 1, 1))
        self.register_buffer("latent_sd", torch.ones(1, config.channels, 1, 1))
        self.register_buffer("condition_mean", torch.zeros(config.n_conditions))
        self.register_buffer("condition_sd", torch.ones(config.n_conditions))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of a latent."""
        side = self.config.size // FACTOR
        return self.config.channels, side, side

    def encode(self, films: Tensor) -> Tensor:
        """Mean latents."""
        return (self.autoencoder.encode(films)[0] - self.latent_mean) / self.latent_sd

    def decode(self, latents: Tensor) -> Tensor:
        """Films, not clipped."""
        return self.autoencoder.decode(latents * self.latent_sd + self.latent_mean)

    def noise(self, z: Tensor, t: Tensor, conditions: Tensor, conditioned: Tensor) -> Tensor:
        """Predicted noise in z at steps t (int64 [B]); `conditioned` bool [B] as in `UNet`."""
        scaled = (conditions - self.condition_mean) / self.condition_sd
        return self.unet(z, t, scaled, conditioned)


def to_unit(films: np.ndarray) -> Tensor:
    """uint8 [N, S, S] to float32 [N, 1, S, S] in [-1, 1]."""
    return torch.from_numpy(films.astype(np.float32) / 127.5 - 1)[:, None]


def to_bytes(films: Tensor) -> np.ndarray:
    """The inverse of `to_unit`; clips."""
    grey = (films[:, 0].clamp(-1, 1) + 1) * 127.5
    return (grey + 0.5).to(torch.uint8).cpu().numpy()
