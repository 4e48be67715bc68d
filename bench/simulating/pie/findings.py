"""What PIE can be asked for: the findings of a film, their scale, and the regions they change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from bench.errors import UserError, nearest
from bench.simulating.population import FILM_SEVERITIES

UNIT: Final = 0.25
"""Severity at which the scale of levels turns from linear to logarithmic."""

MOST: Final = {name: 1.5 if name == "heart" else 2.5 for name in FILM_SEVERITIES}
"""The worst that the generator has seen, and that PIE is asked for on the way up."""

ZONES: Final = {
    "edema": ("lung",),
    "effusion": ("lung",),
    "atelectasis": ("lower lung zone",),
    "consolidation": ("mid lung zone", "lower lung zone"),
    "pneumonia": ("mid lung zone", "lower lung zone"),
    "opacity": ("upper lung zone", "mid lung zone"),
}
"""Regions of a side in which a finding shows; a large effusion fills a whole lung."""


def level(severity: np.ndarray) -> np.ndarray:
    """Severities as the generator and the severity net see them: log(1 + s / 0.25)."""
    return np.log1p(np.asarray(severity, dtype=np.float32) / UNIT)


def most_levels() -> np.ndarray:
    """Levels of `MOST`, float32 [12]."""
    return level(np.array(list(MOST.values())))


def severity_of(levels: np.ndarray) -> np.ndarray:
    """The inverse of `level`; never below 0."""
    return np.maximum(UNIT * np.expm1(levels), 0.0)


def regions_of(finding: str) -> tuple[str, ...]:
    """Box regions in which an entry of `FILM_SEVERITIES` shows."""
    kind, _, side = finding.partition("_")
    if kind == "heart":
        return ("cardiac silhouette",)
    sides = (side,) if side else ("right", "left")
    return tuple(f"{s} {zone}" for s in sides for zone in ZONES[kind])


def named(severities: Mapping[str, float], flag: str = "--condition") -> dict[str, float]:
    """Severities by entry of `FILM_SEVERITIES`; a finding without a side stands for both.

    `flag` is what the user said them with.

    Raises:
        UserError: there is no such finding, or a severity is above `MOST`.
    """
    found: dict[str, float] = {}
    for name, severity in severities.items():
        own = [f for f in FILM_SEVERITIES if name in (f, f.partition("_")[0])]
        if not own:
            raise UserError(f"{flag} {name}: no such finding, {nearest(name, names())}")
        if not 0 <= severity <= MOST[own[0]]:
            raise UserError(f"{flag} {name}={severity:g}: choose 0 to {MOST[own[0]]:g}")
        found |= dict.fromkeys(own, severity)
    return found


def names() -> Sequence[str]:
    """All findings, with and without their side."""
    return sorted({*FILM_SEVERITIES, *(f.partition("_")[0] for f in FILM_SEVERITIES)})
