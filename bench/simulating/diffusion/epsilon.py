"""The loss that trains a latent diffusion model to predict the noise in a latent."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def epsilon_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    z: Tensor,
    alphas: Tensor,
    draws: torch.Generator,
    *,
    noise_offset: float = 0.0,
    min_snr: float = math.inf,
) -> Tensor:
    """Mean squared error of the noise at random steps, a scalar.

    Args:
        predict: latents with noise and their steps int64 [B] to the noise in them
        z: latents float32 [B, channels, h, w], on any device
        alphas: abar_t of every step, float32 [n_steps]
        draws: source of steps and noise, on the CPU: the same draws on any device
        noise_offset: sd of the noise that a whole channel shares
        min_snr: gamma of the weights min(SNR, gamma) / SNR (arXiv 2303.09556); inf for none
    """
    t = torch.randint(len(alphas), (len(z),), generator=draws)
    noise = torch.randn(z.shape, generator=draws)
    noise = noise + noise_offset * torch.randn(*z.shape[:2], 1, 1, generator=draws)
    noise, alpha = noise.to(z.device), alphas[t].to(z.device)
    left = alpha[:, None, None, None]
    noised = left.sqrt() * z + (1 - left).sqrt() * noise
    error = predict(noised, t.to(z.device)).float() - noise
    snr = alpha / (1 - alpha)
    return (snr.clamp(max=min_snr) / snr * error.square().mean(dim=(1, 2, 3))).mean()
