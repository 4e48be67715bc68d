"""The default painter: films drawn by formulas from a subject's anatomy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.simulating.anatomy import Anatomy, draw_anatomy
from bench.simulating.film import Film, finding_masks, render_film
from bench.simulating.painter import Sitter
from bench.simulating.streams import Tag, stream


@dataclass(frozen=True)
class ProceduralPainter:
    """Draws a subject's anatomy once and all its films on it.

    size: pixels a side; nuisance: how much exposures differ, 1 = as usual
    """

    size: int
    nuisance: float = 1.0

    def paint(self, sitter: Sitter) -> list[Film]:
        """One film per row of `sitter.severity`."""
        anatomy = anatomy_of(sitter, self.size)
        return [
            render_film(
                anatomy,
                severity,
                bool(sitter.ventilated[k]),
                stream(sitter.seed, Tag.FILM, sitter.subject, k),
                nuisance=self.nuisance,
            )
            for k, severity in enumerate(sitter.severity)
        ]


def anatomy_of(sitter: Sitter, size: int) -> Anatomy:
    """The anatomy that all films of a subject share."""
    rng, person = stream(sitter.seed, Tag.ANATOMY, sitter.subject), sitter.person
    return draw_anatomy(rng, sex=person["sex"], age=person["age"], bmi=person["bmi"], size=size)


def packed_masks(
    painter: ProceduralPainter, sitter: Sitter, films: list[Film]
) -> list[dict[str, np.ndarray]]:
    """Where each process shows on each film: packed bits by process."""
    anatomy = anatomy_of(sitter, painter.size)
    return [
        {
            name: np.packbits(film.view.resample(mask.astype(np.float32)) > 0.5)
            for name, mask in finding_masks(anatomy, severity).items()
        }
        for film, severity in zip(films, sitter.severity, strict=True)
    ]
