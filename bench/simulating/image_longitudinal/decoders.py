"""What turns z and severities into a film: the autoencoder, or a diffusion model told the same.

The paper's second stage conditions Stable Diffusion on the autoencoder's z. Here the condition is z
and the severities of the film's hour; all films of a subject start from the same noise, and DDIM
adds none, so that they show the same person.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor

from bench.errors import UserError
from bench.simulating.diffusion.finetune_place import as_json, settings_of
from bench.simulating.diffusion.generator import Generator, TinyGenerator, sample
from bench.simulating.diffusion.model import DiffusionConfig, LatentDiffusion
from bench.simulating.diffusion.stable_diffusion import StableDiffusion, vector_tokens
from bench.simulating.diffusion.training import Films, train
from bench.simulating.image_longitudinal.training import (
    N_CONDITIONS,
    Training,
    as_grey,
    trained_vae,
    training_films,
)
from bench.simulating.image_longitudinal.vae import ImageVAE
from bench.simulating.sizes import Decoder

SAMPLING_STEPS: Final = 25
STABLE_DIFFUSION_SIZE: Final = 512
AT_ONCE: Final = 64
"""Films that are decoded in one batch."""


class FilmDecoder(Protocol):
    """Films float32 [N, 1, S, S] in [0, 1] of z [N, L] and conditions [N, 13] of `conditions_of`.

    The N seeds decide what z leaves open: a subject has one.
    """

    def __call__(self, z: Tensor, conditions: Tensor, seeds: Sequence[int]) -> Tensor:
        """Decode."""
        ...


@dataclass(frozen=True)
class Recipe:
    """Which trained decoder.

    training: of the autoencoder, whose z a diffusion model is conditioned on
    diffusion: of the diffusion model; `n_conditions` is z and the conditions
    checkpoint: a Stable Diffusion folder that was fine-tuned on such vectors, in its place
    """

    decoder: Decoder
    training: Training = field(default_factory=Training)
    diffusion: DiffusionConfig | None = None
    checkpoint: Path | None = None

    @classmethod
    def of(cls, options: dict[str, Any]) -> Recipe:
        """As the options of `bench.simulate` say."""
        perceptual, checkpoint = options.get("perceptual"), options.get("checkpoint")
        return cls(
            Decoder(options["decoder"]),
            Training(perceptual=None if perceptual is None else Path(perceptual)),
            checkpoint=None if checkpoint is None else Path(checkpoint),
        )


def load_decoder(recipe: Recipe, root: Path, jobs: int = 1) -> FilmDecoder:
    """The decoder, from the cache `root` or trained into it.

    Raises:
        UserError: the checkpoint is no Stable Diffusion folder.
    """
    vae = trained_vae(recipe.training, root, jobs)
    if recipe.decoder is Decoder.VAE:
        return VaeDecoder(vae)
    if recipe.checkpoint is not None:
        generator = StableDiffusion(recipe.checkpoint)
        side = _resolution(recipe.checkpoint, recipe.training) // generator.factor
        embed = partial(vector_tokens, width=generator.width)
        return DiffusionDecoder(vae, generator, (generator.channels, side, side), embed)
    model = trained_diffusion(recipe, vae, root, jobs)
    return DiffusionDecoder(vae, TinyGenerator(model), model.latent_shape)


def _resolution(checkpoint: Path, training: Training) -> int:
    """Side of the films that a Stable Diffusion folder was fine-tuned on.

    Raises:
        UserError: it was fine-tuned on something else than vectors of this autoencoder.
    """
    settings = settings_of(checkpoint)
    if settings is None:
        return STABLE_DIFFUSION_SIZE
    if settings["condition"] != "vector" or settings["films"] != as_json(training.settings()):
        raise UserError(
            f"{checkpoint} was fine-tuned on other films or conditions: use one of "
            "bench.simulate finetune --condition vector, with the same --perceptual"
        )
    return int(settings["recipe"]["resolution"])


@dataclass(frozen=True)
class VaeDecoder:
    """The autoencoder's own; z decides everything."""

    vae: ImageVAE

    @torch.no_grad()
    def __call__(self, z: Tensor, conditions: Tensor, seeds: Sequence[int]) -> Tensor:
        """As `FilmDecoder`."""
        return torch.cat([self.vae.decode(z[rows], conditions[rows]) for rows in _parts(len(z))])


@dataclass(frozen=True)
class DiffusionDecoder:
    """A latent diffusion model; `embed` makes its condition of vectors [N, L + 13]."""

    vae: ImageVAE
    generator: Generator
    latent_shape: tuple[int, int, int]
    embed: Callable[[Tensor], Tensor] = lambda vectors: vectors

    def __call__(self, z: Tensor, conditions: Tensor, seeds: Sequence[int]) -> Tensor:
        """As `FilmDecoder`."""
        condition = self.embed(vectors_of(self.vae, z, conditions))
        films = [
            sample(
                self.generator, condition[rows], latent_shape=self.latent_shape,
                seeds=seeds[rows], steps=SAMPLING_STEPS,
            )
            for rows in _parts(len(z))
        ]  # fmt: skip
        return (torch.cat(films) + 1) / 2


def _parts(n: int) -> Iterator[slice]:
    return (slice(start, start + AT_ONCE) for start in range(0, n, AT_ONCE))


def vectors_of(vae: ImageVAE, z: Tensor, conditions: Tensor) -> Tensor:
    """What a diffusion model is conditioned on, [N, L + 13]: z, and conditions of unit sd."""
    return torch.cat([z, vae.scaled(conditions)], dim=1)


def diffusion_config(training: Training) -> DiffusionConfig:
    """The tiny model after the paper's training: min-SNR, noise offset, average, no dropping."""
    return DiffusionConfig(
        training.config.size, training.config.latent + N_CONDITIONS, unet_steps=1500,
        drop_condition=0.0, noise_offset=0.1, ema=0.995, seed=training.seed,
    )  # fmt: skip


def trained_diffusion(recipe: Recipe, vae: ImageVAE, root: Path, jobs: int = 1) -> LatentDiffusion:
    """The tiny model, trained on the autoencoder's films."""

    def films() -> Films:
        images, vectors = films_and_vectors(vae, recipe.training, jobs)
        return images.numpy(), vectors.numpy()

    config = recipe.diffusion or diffusion_config(recipe.training)
    return train(config, films, {"vae": recipe.training.settings()}, root)


def films_and_vectors(vae: ImageVAE, training: Training, jobs: int) -> tuple[Tensor, Tensor]:
    """The autoencoder's training films, uint8 [N, S, S], and what is told of them, [N, L + 13]."""
    images, conditions = training_films(training, jobs)
    z = drawn_latents(vae, images, conditions, training.seed)
    return images, vectors_of(vae, z, conditions)


@torch.no_grad()
def drawn_latents(vae: ImageVAE, films: Tensor, conditions: Tensor, seed: int) -> Tensor:
    """One z per film uint8 [N, S, S], drawn from what the encoder says of it, [N, L].

    The paper takes the mean. Collapsed coordinates of a mean are all but 0, and a z ~ N(0, 1) that
    is decoded later would be unlike any seen in training; drawn ones are N(0, 1) over films.
    """
    parts = zip(films.split(256), conditions.split(256), strict=True)
    encoded = [vae.encode(as_grey(part), told) for part, told in parts]
    mu, logvar = (torch.cat(part) for part in zip(*encoded, strict=True))
    noise = np.random.default_rng(seed).standard_normal(mu.shape, dtype=np.float32)
    return mu + torch.exp(0.5 * logvar) * torch.from_numpy(noise)
