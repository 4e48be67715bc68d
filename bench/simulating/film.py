"""One simulated film: a patient's anatomy, the severities of its findings, and an exposure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from bench.simulating.acquisition import View, draw_view, expose
from bench.simulating.anatomy import Anatomy, join
from bench.simulating.boxes import Box, film_boxes, region_boxes
from bench.simulating.findings import (
    add_findings,
    heart_silhouette,
    lung_opacities,
)
from bench.simulating.population import FILM_SEVERITIES

HEART_TISSUE: Final = 0.30
HEART_AIR: Final = 0.70
HEART_VESSELS: Final = 0.65
"""The heart adds its tissue, takes the place of air, and hides a share of the vessels behind it."""


@dataclass(frozen=True)
class Film:
    """A simulated radiograph; the patient's right is at the left of the image.

    image: uint8 [size, size]
    boxes: name of `vocabulary.BOX_REGIONS` -> x1, y1, x2, y2 in pixels; about 2 % are missing
    view: the exposure; `view.resample` moves a canonical map, such as a finding's mask, to the film
    truth: what else the engine knows of it, for `truth/films.csv`
    """

    image: np.ndarray
    boxes: dict[str, Box]
    view: View
    truth: dict[str, float] = field(default_factory=dict)


def render_film(
    anatomy: Anatomy,
    severity: np.ndarray,
    ventilated: bool,
    rng: np.random.Generator,
    *,
    nuisance: float = 1.0,
) -> Film:
    """Render one film.

    severity: float [12] >= 0, in the order of `FILM_SEVERITIES`; .3 is mild, 1 clear, 2 severe
    ventilated: an endotracheal tube is visible
    nuisance: scales how much exposures (and box jitter) differ; 0 = a standard exposure
    """
    severity = np.asarray(severity, dtype=np.float32)
    view = draw_view(rng, nuisance)
    silhouette = heart_silhouette(anatomy, severity)
    total = _compose(anatomy, severity, ventilated, silhouette)
    boxes = region_boxes(anatomy.geometry, silhouette > 0.5)
    return Film(
        image=expose(total, anatomy.air, view, rng),
        boxes=film_boxes(boxes, view, anatomy.size, rng, nuisance),
        view=view,
    )


def attenuation(anatomy: Anatomy, severity: np.ndarray, ventilated: bool) -> np.ndarray:
    """Return what the beam meets before any exposure, float32 [size, size], canonical grid."""
    severity = np.asarray(severity, dtype=np.float32)
    return _compose(anatomy, severity, ventilated, heart_silhouette(anatomy, severity))


def finding_masks(anatomy: Anatomy, severity: np.ndarray) -> dict[str, np.ndarray]:
    """Return where each process shows, bool [size, size] on the canonical grid.

    One mask per name of `FILM_SEVERITIES`; a process of severity 0 has an empty one.
    """
    severity = np.asarray(severity, dtype=np.float32)
    nothing = np.zeros_like(anatomy.right.air)
    right, left = (lung_opacities(anatomy, severity, side) for side in ("right", "left"))
    masks = {
        name: join(right.get(name, nothing), left.get(name, nothing)) > 0
        for name in FILM_SEVERITIES[:-1]
    }
    return masks | {"heart": heart_silhouette(anatomy, severity) > 0.5}


def _compose(
    anatomy: Anatomy, severity: np.ndarray, ventilated: bool, silhouette: np.ndarray
) -> np.ndarray:
    """Return static anatomy, heart, findings and endotracheal tube together."""
    heart = HEART_TISSUE * (1 - anatomy.abdomen) + HEART_AIR * anatomy.air
    heart -= HEART_VESSELS * anatomy.vessels
    total = anatomy.static + silhouette * heart
    total = add_findings(total, anatomy, severity, silhouette)
    return total + anatomy.tube if ventilated else total
