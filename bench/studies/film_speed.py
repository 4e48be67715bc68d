"""How fast simulated films are drawn on one core, and how large they are as JPEG.

python -m bench.studies.film_speed

Severities are drawn so that about a third of the processes are active, as in a simulated cohort.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits

from bench.arguments import positive
from bench.errors import Parser, run_command
from bench.simulating.anatomy import Anatomy, draw_anatomy
from bench.simulating.film import render_film
from bench.simulating.population import FILM_SEVERITIES

SIZES = (128, 256)
FILMS_PER_PATIENT = 3
P_ACTIVE = 0.35
JPEG_QUALITY = 90

T = TypeVar("T")


@dataclass(frozen=True)
class Speed:
    """Mean cost of a film of `size` pixels a side."""

    size: int
    anatomy_ms: float
    film_ms: float
    jpeg_ms: float
    jpeg_kb: float

    @property
    def films_per_second(self) -> float:
        """Films drawn in a second, anatomy and JPEG included."""
        return 1e3 / (self.anatomy_ms / FILMS_PER_PATIENT + self.film_ms + self.jpeg_ms)


def measure(size: int, n_patients: int, rng: np.random.Generator) -> Speed:
    """Draw patients and their films; return mean times after one untimed patient."""
    _draw_film(_draw_patient(size, rng), rng)
    patients, anatomy_ms = _timed(lambda: _draw_patient(size, rng), n_patients)
    turns = iter(patients * FILMS_PER_PATIENT)
    films, film_ms = _timed(lambda: _draw_film(next(turns), rng), n_patients * FILMS_PER_PATIENT)
    waiting = iter(films)
    files, jpeg_ms = _timed(lambda: _encode(next(waiting)), len(films))
    kb = float(np.mean([len(file) for file in files])) / 1e3
    return Speed(size, anatomy_ms, film_ms, jpeg_ms, kb)


def _timed(make: Callable[[], T], n: int) -> tuple[list[T], float]:
    """Return n results of `make` and the mean milliseconds of one."""
    start = time.perf_counter()
    made = [make() for _ in range(n)]
    return made, (time.perf_counter() - start) / n * 1e3


def _draw_patient(size: int, rng: np.random.Generator) -> Anatomy:
    sex = "F" if rng.random() < 0.44 else "M"
    age, bmi = float(rng.normal(64, 16)), float(rng.normal(28, 6))
    return draw_anatomy(rng, sex=sex, age=age, bmi=bmi, size=size)


def _draw_film(anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    n = len(FILM_SEVERITIES)
    severity = np.where(rng.random(n) < P_ACTIVE, rng.gamma(2.0, 0.4, n), 0.0)
    return render_film(anatomy, severity, bool(rng.random() < 0.4), rng).image


def _encode(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def main() -> None:
    """Print one line per film size."""
    parser = Parser(prog="python -m bench.studies.film_speed", description=__doc__)
    parser.add_argument("--patients", type=positive, default=30, help="patients drawn per size")
    n_patients = parser.parse_args().patients
    print("size_px  anatomy_ms  film_ms  jpeg_ms  jpeg_kB  films_per_s")
    for size in SIZES:
        with threadpool_limits(limits=1):
            speed = measure(size, n_patients, np.random.default_rng(0))
        print(
            f"{size:7d}  {speed.anatomy_ms:10.1f}  {speed.film_ms:7.1f}  {speed.jpeg_ms:7.2f}"
            f"  {speed.jpeg_kb:7.1f}  {speed.films_per_second:11.0f}"
        )


if __name__ == "__main__":
    run_command(main)
