"""The tiny engine: generator, severity net and calibration, trained once and then cached."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache as once
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from bench.simulating.diffusion.cache import key, one_line_if_damaged
from bench.simulating.diffusion.generator import TinyGenerator
from bench.simulating.diffusion.model import DiffusionConfig
from bench.simulating.diffusion.training import Films, train
from bench.simulating.flags import check_writable
from bench.simulating.pie.calibration import Calibration, calibrate
from bench.simulating.pie.compose import SIZE
from bench.simulating.pie.edit import Options
from bench.simulating.pie.films import FILMS_EACH, draw_films, renderer_fingerprint, training_films
from bench.simulating.pie.findings import level
from bench.simulating.pie.masks import mask_settings
from bench.simulating.pie.severity import SeverityConfig, SeverityNet, train_severity
from bench.simulating.population import FILM_SEVERITIES
from bench.store import write_json

FORMAT: Final = 1

FAST: Final = Options(steps=6, inference_steps=25)
"""How cohorts are edited: 72 noise predictions a film and branch instead of PIE's 250."""


@dataclass(frozen=True)
class EngineConfig:
    """How the engine is trained; the defaults take some quarter of an hour of one core.

    n_patients: who train it, `FILMS_EACH` films each; the n_calibration after them calibrate it
    """

    seed: int = 7
    n_patients: int = 900
    n_calibration: int = 96
    autoencoder_steps: int = 300
    unet_steps: int = 1200
    severity_steps: int = 1000
    autoencoder_width: int = 24
    unet_width: int = 64
    options: Options = field(default_factory=lambda: FAST)

    def data(self) -> dict[str, Any]:
        """What identifies the training films."""
        return {
            "films": "procedural",
            "renderer": renderer_fingerprint(),
            "size": SIZE,
            "seed": self.seed,
            "patients": self.n_patients,
            "films a patient": FILMS_EACH,
            "conditions": "log(1 + s / 0.25)",
        }

    def diffusion(self) -> DiffusionConfig:
        """The generator and its training."""
        return DiffusionConfig(
            SIZE,
            len(FILM_SEVERITIES),
            autoencoder_steps=self.autoencoder_steps,
            unet_steps=self.unet_steps,
            autoencoder_width=self.autoencoder_width,
            unet_width=self.unet_width,
            # So few steps leave an average far behind the weights: its edits were weaker.
            ema=0.0,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Engine:
    """All that PIE needs to edit films of known severity."""

    config: EngineConfig
    generator: TinyGenerator
    net: SeverityNet
    calibration: Calibration


def load_severity(config: EngineConfig, jobs: int, cache: Path) -> SeverityNet:
    """The severity net alone, from the cache or trained."""
    return _severity(config, _films(config, jobs), cache)


@lru_cache(maxsize=1)
def load_engine(config: EngineConfig, jobs: int, cache: Path) -> Engine:
    """The engine, each part from the cache or trained with `jobs` processes drawing films."""
    films = _films(config, jobs)
    generator = TinyGenerator(train(config.diffusion(), films, config.data(), cache))
    net = _severity(config, films, cache)
    return Engine(config, generator, net, _calibration(config, generator, net, jobs, cache))


def _films(config: EngineConfig, jobs: int) -> Callable[[], Films]:
    """A function that draws the training films and their levels when it is first called."""

    @once
    def draw() -> Films:
        images, severities = training_films(config.seed, config.n_patients, SIZE, jobs)
        return images, level(severities)

    return draw


def _severity(config: EngineConfig, films: Callable[[], Films], cache: Path) -> SeverityNet:
    settings = SeverityConfig(steps=config.severity_steps, seed=config.seed)
    return train_severity(settings, films, config.data(), cache)


def _calibration(
    config: EngineConfig, generator: TinyGenerator, net: SeverityNet, jobs: int, cache: Path
) -> Calibration:
    drawn = {"renderer": renderer_fingerprint(), "masks": mask_settings()}
    decides = {"format": FORMAT, **drawn, **asdict(config)}
    file = cache / f"calibration-{key(decides)}.json"
    if not file.exists():
        check_writable(cache)
        patients = range(config.n_patients, config.n_patients + config.n_calibration)
        images, severities, boxes = draw_films(config.seed, patients, 1, SIZE, jobs)
        found = calibrate(images, severities, boxes, generator, net, config.options, config.seed)
        write_json(file, {"config": asdict(config), **found.to_json()})
    with one_line_if_damaged(file):
        return Calibration.from_json(json.loads(file.read_text()))
