"""A variational autoencoder of grey films: four times smaller a side, a few channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FACTOR = 4
"""Pixels a side of a film that become one latent pixel."""


class Autoencoder(nn.Module):
    """Films float [B, 1, S, S] in [-1, 1] to latents [B, channels, S / 4, S / 4] and back."""

    def __init__(self, width: int = 24, channels: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 2 * width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(4 * width, 2 * channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, 4 * width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(4 * width, 4 * width, 3, padding=1),
            nn.SiLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(4 * width, 2 * width, 3, padding=1),
            nn.SiLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 1, 3, padding=1),
        )

    def encode(self, films: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents."""
        mean, log_variance = self.encoder(films).chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 5)

    def decode(self, latents: Tensor) -> Tensor:
        """Films of latents, not clipped."""
        return self.decoder(latents)


def autoencoder_loss(model: Autoencoder, films: Tensor, noise: Tensor, kl_weight: float) -> Tensor:
    """L1 + MSE of the reconstruction, plus the KL divergence to N(0, I) per latent number."""
    mean, log_variance = model.encode(films)
    decoded = model.decode(mean + torch.exp(0.5 * log_variance) * noise)
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    return F.l1_loss(decoded, films) + F.mse_loss(decoded, films) + kl_weight * kl
