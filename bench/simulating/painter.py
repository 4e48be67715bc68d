"""Who draws the films of a simulated cohort: one subject at a time, by the engine's own means."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bench.simulating.film import Film


@dataclass(frozen=True)
class Sitter:
    """A subject whose films are to be drawn.

    seed: the cohort's
    subject: row of `Population.subjects`
    person: that row; sex, age and bmi shape the anatomy
    severity: float32 [F, 12] of its films in order of time, as `FILM_SEVERITIES`
    ventilated: bool [F]; an endotracheal tube is visible
    """

    seed: int
    subject: int
    person: dict[Hashable, Any]
    severity: np.ndarray
    ventilated: np.ndarray


class Painter(Protocol):
    """Draws all films of a subject; travels to worker processes, so it must be picklable."""

    def paint(self, sitter: Sitter) -> list[Film]:
        """One film per row of `sitter.severity`, the same ones for the same sitter."""
        ...
