"""Train the films' autoencoder once: on rendered films of subjects who belong to no cohort."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import joblib
import numpy as np
import torch
from torch import Tensor

from bench.simulating.anatomy import draw_anatomy
from bench.simulating.diffusion import cache
from bench.simulating.diffusion.stages import Stage, run_stage, seeded
from bench.simulating.film import render_film
from bench.simulating.image_longitudinal.likeness import Gradients, Perceptual
from bench.simulating.image_longitudinal.vae import ImageVAE, VaeConfig, vae_loss
from bench.simulating.parallel import with_progress
from bench.simulating.populate import draw_subject
from bench.simulating.population import FILM_SEVERITIES
from bench.simulating.streams import Tag, stream

FORMAT: Final = 1
"""Part of every key: raised when the same settings no longer give the same model."""

N_CONDITIONS: Final = len(FILM_SEVERITIES) + 1


@dataclass(frozen=True)
class Training:
    """Everything that decides a trained model.

    n_subjects, films_each: what it is trained on, drawn with `seed`
    perceptual: VGG-16 weights; without them gradients are compared
    """

    config: VaeConfig = field(default_factory=lambda: VaeConfig(n_conditions=N_CONDITIONS))
    n_subjects: int = 1600
    films_each: int = 4
    n_steps: int = 1000
    batch_size: int = 64
    lr: float = 1e-3
    seed: int = 0
    perceptual: Path | None = None
    checkpoint_every: int = 50

    def settings(self) -> dict[str, Any]:
        """What identifies the model, JSON-able."""
        decides = asdict(self) | {"format": FORMAT}
        del decides["checkpoint_every"]
        if self.perceptual is not None:
            decides["perceptual"] = hashlib.sha256(self.perceptual.read_bytes()).hexdigest()
        return decides

    def folder(self, root: Path) -> Path:
        """Where the model lies among trained engines."""
        return root / f"vae-{cache.key(self.settings())}"


def trained_vae(training: Training, root: Path, jobs: int = 1) -> ImageVAE:
    """The model of `training`, from the cache `root` or trained into it.

    A training that is stopped goes on from its last checkpoint and ends with the same bits.
    """
    with seeded(training.seed):
        model = ImageVAE(training.config)
    return cache.trained(
        model,
        training.folder(root),
        training.settings(),
        lambda at: _fit(model, training, at, jobs),
    )


def _fit(model: ImageVAE, training: Training, folder: Path, jobs: int) -> None:
    likeness = Gradients() if training.perceptual is None else Perceptual(training.perceptual)
    how = (
        "gradients, for want of --perceptual" if training.perceptual is None else "VGG-16 features"
    )
    print(f"training the films' autoencoder in {folder}; likeness by {how}", flush=True)
    films, conditions = training_films(training, jobs)
    model.condition_mean.copy_(conditions.mean(dim=0))
    model.condition_sd.copy_(conditions.std(dim=0).clamp(min=1e-6))

    def loss(rows: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(len(rows), training.config.latent, generator=generator)
        beta = training.config.beta_at(model.n_seen.item() / len(films))
        model.n_seen += len(rows)
        return vae_loss(model, as_grey(films[rows]), conditions[rows], noise, beta, likeness)

    stage = Stage(
        "vae", model, loss, len(films), training.n_steps, training.batch_size, training.lr,
        training.seed, checkpoint_every=training.checkpoint_every,
    )  # fmt: skip
    run_stage(stage, folder / "vae.checkpoint.pt")


def as_grey(films: Tensor) -> Tensor:
    """uint8 [N, S, S] to float32 [N, 1, S, S] in [0, 1]."""
    return films[:, None].float() / 255


def training_films(training: Training, jobs: int = 1) -> tuple[Tensor, Tensor]:
    """Films uint8 [N, S, S], all exposed alike, and their conditions [N, 13]."""
    tasks = [
        joblib.delayed(_draw)(training.seed, subject, training.films_each, training.config.size)
        for subject in range(training.n_subjects)
    ]
    films, conditions = zip(*with_progress(tasks, jobs, "training films"), strict=True)
    return torch.from_numpy(np.concatenate(films)), torch.cat(conditions)


def _draw(seed: int, subject: int, n_films: int, size: int) -> tuple[np.ndarray, Tensor]:
    rng = stream(seed, Tag.ASSOCIATION, subject, 3)
    severity, ventilated = draw_severities(rng, n_films), rng.random(n_films) < 0.3
    person = draw_subject(rng)
    anatomy = draw_anatomy(rng, sex=person["sex"], age=person["age"], bmi=person["bmi"], size=size)
    shown = zip(severity, ventilated, strict=True)
    films = [render_film(anatomy, s, bool(v), rng, nuisance=0).image for s, v in shown]
    return np.stack(films), conditions_of(severity, ventilated)


def draw_severities(rng: np.random.Generator, n: int) -> np.ndarray:
    """Severities float32 [n, 12], wider than a cohort's and independent of one another."""
    shape = (n, len(FILM_SEVERITIES))
    present = rng.random(shape) < 0.45
    severity = present * rng.gamma(2.0, 0.45, shape)
    severity[:, -1] = np.clip(0.3 + 0.3 * rng.standard_normal(n), 0, None)
    return severity.astype(np.float32)


def conditions_of(severity: np.ndarray, ventilated: np.ndarray) -> Tensor:
    """What the decoder is told of films, float32 [F, 13], of severities [F, 12] and tubes [F]."""
    perceived = np.log1p(np.maximum(severity, 0) / 0.25)
    told = np.concatenate([perceived, np.asarray(ventilated)[:, None]], axis=1)
    return torch.from_numpy(told.astype(np.float32))
