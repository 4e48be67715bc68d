"""The paper's data: for every subject one film, and one series that is associated with it by v."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import joblib
import numpy as np
import torch

from bench.simulating.image_longitudinal.association import noisy_copy
from bench.simulating.image_longitudinal.decoders import Recipe, load_decoder
from bench.simulating.image_longitudinal.nlme import Nlme
from bench.simulating.image_longitudinal.training import (
    N_CONDITIONS,
    Training,
    as_grey,
    conditions_of,
    trained_vae,
    training_films,
)
from bench.simulating.image_longitudinal.vae import (
    ACTIVE_NATS,
    ImageVAE,
    latent_nats,
    rank_latents,
)
from bench.simulating.painter import Sitter
from bench.simulating.parallel import in_parallel
from bench.simulating.populate import draw_subject
from bench.simulating.population import FILM_SEVERITIES
from bench.simulating.procedural import ProceduralPainter
from bench.simulating.streams import Tag, stream

N_EFFECTS: Final = 3
FILM_SIZE: Final = 64

SHOWN_AS: Final = ("edema", "effusion_right", "atelectasis_left")
"""What each of the three coordinates raises on a procedural film: they hide one another little."""


class Show(Protocol):
    """Makes films uint8 [N, S, S] that show z [N, 3] and otherwise differ as `seed` decides."""

    def __call__(self, z: np.ndarray, seed: int) -> np.ndarray:
        """The films of N subjects."""
        ...


@dataclass(frozen=True)
class Pairs:
    """N subjects.

    films: uint8 [N, S, S]; z: float64 [N, 3], what they show
    eta: float64 [N, 3], the noisy copy of z; series, again: float64 [N, T], two readings of the
    series of `eta`, which differ by residual noise alone
    """

    films: np.ndarray
    z: np.ndarray
    eta: np.ndarray
    series: np.ndarray
    again: np.ndarray


def draw_pairs(n: int, v: float, seed: int, show: Show, model: Nlme | None = None) -> Pairs:
    """Draw n subjects."""
    model = model or Nlme()
    rng = stream(seed, Tag.ASSOCIATION, n, 4)
    z = rng.standard_normal((n, N_EFFECTS))
    eta = noisy_copy(z, v, rng)
    effects = eta * np.sqrt(model.omega)
    series, again = (model.simulate(effects, rng) for _ in range(2))
    return Pairs(show(z, seed), z, eta, series, again)


@dataclass(frozen=True)
class ProceduralShow:
    """Each coordinate is how much of a finding the film of some patient shows."""

    jobs: int = 1

    def __call__(self, z: np.ndarray, seed: int) -> np.ndarray:
        """Films of patients who differ in anatomy and exposure too."""
        tasks = [joblib.delayed(_procedural_film)(row, seed, k) for k, row in enumerate(z)]
        return np.stack(list(in_parallel(tasks, self.jobs)))


def _procedural_film(z: np.ndarray, seed: int, subject: int) -> np.ndarray:
    severity = np.zeros((1, len(FILM_SEVERITIES)), dtype=np.float32)
    severity[0, [FILM_SEVERITIES.index(name) for name in SHOWN_AS]] = 0.5 * np.exp(0.6 * z)
    drawn = draw_subject(stream(seed, Tag.ASSOCIATION, subject, 5))
    person = dict[Hashable, Any](drawn.items())
    sitter = Sitter(seed, subject, person, severity, np.zeros(1, dtype=bool))
    return ProceduralPainter(FILM_SIZE).paint(sitter)[0].image


@dataclass(frozen=True)
class DecodedShow:
    """The paper's: film = decode(z); the coordinates that change films most are the three.

    Only active ones may be chosen: a collapsed one would show nothing, whatever v is.
    """

    recipe: Recipe
    root: Path

    def __call__(self, z: np.ndarray, seed: int) -> np.ndarray:
        """Films of healthy patients, all exposed alike."""
        training = self.recipe.training
        rng = stream(seed, Tag.ASSOCIATION, len(z), 6)
        latent = rng.standard_normal((len(z), training.config.latent))
        latent[:, important_latents(trained_vae(training, self.root), training)] = z
        seeds = rng.integers(2**62, size=len(z)).tolist()
        decode = load_decoder(self.recipe, self.root)
        films = decode(torch.from_numpy(latent).float(), healthy(len(z)), seeds)
        return (films[:, 0] * 255 + 0.5).to(torch.uint8).numpy()


def important_latents(model: ImageVAE, training: Training, n_subjects: int = 100) -> list[int]:
    """The three active coordinates that change decoded films most."""
    few = Training(training.config, n_subjects, 1, seed=training.seed)
    films, conditions = training_films(few)
    active = latent_nats(model, as_grey(films), conditions) > ACTIVE_NATS
    order, _ = rank_latents(model, "effect", healthy(64), n_batches=8)
    return [int(i) for i in order if active[i]][:N_EFFECTS]


def healthy(n: int) -> torch.Tensor:
    """Conditions [n, 13] of films without any finding."""
    return conditions_of(np.zeros((n, N_CONDITIONS - 1), dtype=np.float32), np.zeros(n))
