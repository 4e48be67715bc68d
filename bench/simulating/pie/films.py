"""Films of simulated patients who belong to no cohort, for training and measuring an engine."""

from __future__ import annotations

from functools import cache
from itertools import chain
from pathlib import Path
from typing import Final

import joblib
import numpy as np

from bench import errors
from bench.registry import source_files
from bench.simulating.anatomy import draw_anatomy
from bench.simulating.boxes import Box
from bench.simulating.diffusion.cache import fingerprint
from bench.simulating.film import Film, render_film
from bench.simulating.parallel import with_progress
from bench.simulating.pie import findings
from bench.simulating.pie.findings import MOST
from bench.simulating.population import FILM_SEVERITIES
from bench.simulating.streams import Tag, stream

FILMS_EACH: Final = 6
"""Films of a training patient: an anatomy costs as much as six films."""

Drawn = tuple[np.ndarray, np.ndarray, list[dict[str, Box]]]
"""Films uint8 [N, S, S], severities float32 [N, 12], boxes."""


@cache
def renderer_fingerprint() -> str:
    """Hash of the code that draws films of an engine, and their severities."""
    renderer = source_files(f"{Film.__module__}:{Film.__name__}")
    # What errors say draws nothing.
    files = {*renderer, Path(__file__), Path(findings.__file__)} - {Path(errors.__file__)}
    return fingerprint(sorted(files))


def training_films(
    seed: int, n_patients: int, size: int, jobs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Films uint8 [N, S, S] and severities float32 [N, 12], `FILMS_EACH` of every patient."""
    images, severities, _ = draw_films(seed, range(n_patients), FILMS_EACH, size, jobs)
    return images, severities


def draw_films(
    seed: int, patients: range, n_each: int, size: int, jobs: int, shown: np.ndarray | None = None
) -> Drawn:
    """Draw films of patients that show `shown`, severities [12], or each others at random.

    A patient is the same in every call, so ranges that do not overlap share nobody.
    """
    tasks = [joblib.delayed(_draw_patient)(seed, p, n_each, size, shown) for p in patients]
    drawn = with_progress(tasks, jobs, "patients")
    images, severities, boxes = zip(*drawn, strict=True)
    return np.concatenate(images), np.concatenate(severities), list(chain.from_iterable(boxes))


def _draw_patient(seed: int, patient: int, n: int, size: int, shown: np.ndarray | None) -> Drawn:
    rng = stream(seed, Tag.ENGINE, patient)
    anatomy = draw_anatomy(
        rng,
        sex="F" if rng.random() < 0.44 else "M",
        age=float(np.clip(rng.normal(64, 16), 18, 91)),
        bmi=float(np.clip(rng.normal(28, 5), 17, 48)),
        size=size,
    )
    severities = np.stack([draw_severities(rng) if shown is None else shown for _ in range(n)])
    films = [render_film(anatomy, s, bool(rng.random() < 0.25), rng) for s in severities]
    return np.stack([f.image for f in films]), severities, [f.boxes for f in films]


def draw_severities(rng: np.random.Generator) -> np.ndarray:
    """Severities float32 [12] that cover far more than a cohort's: from nothing to everything."""
    present = rng.random(len(FILM_SEVERITIES)) < rng.uniform(0, 0.7)
    severity = present * rng.uniform(0, MOST["edema"], len(FILM_SEVERITIES))
    severity[-1] = rng.uniform(0, MOST["heart"])
    return severity.astype(np.float32)
