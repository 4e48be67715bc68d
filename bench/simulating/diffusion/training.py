"""Training of the latent diffusion model: once per configuration and films, then from the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.simulating.diffusion.autoencoder import autoencoder_loss
from bench.simulating.diffusion.cache import trained
from bench.simulating.diffusion.epsilon import epsilon_loss
from bench.simulating.diffusion.model import DiffusionConfig, LatentDiffusion, to_unit
from bench.simulating.diffusion.stages import Stage, run_stage, seeded

Films = tuple[np.ndarray, np.ndarray]
"""uint8 [N, S, S] and their conditions, float32 [N, C]."""


def train(
    config: DiffusionConfig, films: Callable[[], Films], data: Mapping[str, Any], cache: Path
) -> LatentDiffusion:
    """Return the model of a configuration and its films, from the cache or trained into it.

    Args:
        config: the model and its training
        films: makes the training films; not called if the model is there
        data: JSON-able, what identifies the films (their seed, number, ...)
        cache: folder of all engines; this one becomes cache/diffusion-KEY/model.pt
    """
    with seeded(config.seed):
        model = LatentDiffusion(config)
    return trained(
        model,
        cache / f"diffusion-{config.key(data)}",
        {"config": asdict(config), "data": dict(data)},
        lambda folder: _fit(model, *films(), folder),
    )


def _fit(model: LatentDiffusion, images: np.ndarray, vectors: np.ndarray, folder: Path) -> None:
    """Train the autoencoder, then the U-Net on its latents."""
    films, conditions = to_unit(images), torch.from_numpy(vectors.astype(np.float32))
    model.condition_mean.copy_(conditions.mean(dim=0))
    model.condition_sd.copy_(conditions.std(dim=0).clamp(min=1e-6))
    run_stage(_autoencoder_stage(model, films), folder / "autoencoder.checkpoint.pt")
    with torch.no_grad():
        latents = torch.cat([model.autoencoder.encode(part)[0] for part in films.split(256)])
    model.latent_mean.copy_(latents.mean(dim=(0, 2, 3), keepdim=True))
    model.latent_sd.copy_(latents.std(dim=(0, 2, 3), keepdim=True))
    latents = (latents - model.latent_mean) / model.latent_sd
    run_stage(_unet_stage(model, latents, conditions), folder / "unet.checkpoint.pt")


def _autoencoder_stage(model: LatentDiffusion, films: Tensor) -> Stage:
    config = model.config

    def loss(rows: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(len(rows), *model.latent_shape, generator=generator)
        return autoencoder_loss(model.autoencoder, films[rows], noise, config.kl_weight)

    return Stage(
        "autoencoder", model.autoencoder, loss, len(films), config.autoencoder_steps,
        config.batch_size, config.autoencoder_lr, config.seed,
        checkpoint_every=config.checkpoint_every,
    )  # fmt: skip


def _unet_stage(model: LatentDiffusion, latents: Tensor, conditions: Tensor) -> Stage:
    config = model.config
    alphas = model.schedule.alphas_bar().float()

    def loss(rows: Tensor, generator: torch.Generator) -> Tensor:
        def predict(noised: Tensor, t: Tensor) -> Tensor:
            conditioned = torch.rand(len(rows), generator=generator) >= config.drop_condition
            return model.noise(noised, t, conditions[rows], conditioned)

        return epsilon_loss(
            predict, latents[rows], alphas, generator,
            noise_offset=config.noise_offset, min_snr=config.min_snr,
        )  # fmt: skip

    return Stage(
        "diffusion", model.unet, loss, len(latents), config.unet_steps, config.batch_size,
        config.unet_lr, config.seed, config.ema, config.checkpoint_every,
    )  # fmt: skip
