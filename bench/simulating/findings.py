"""What acute processes and the heart add to a simulated film, in attenuation.

A finding's opacity is exactly 0 outside its own region, so a film's attenuation changes nowhere
else when its severity moves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from bench.simulating.anatomy import Anatomy, Lung, join
from bench.simulating.geometry import HILUM, Side, heart
from bench.simulating.population import FILM_SEVERITIES
from bench.simulating.shapes import Grid, blob, edge, half_grid, whole_grid

FLOOR: Final = 0.02
"""Opacity that is too faint to see; it is taken off, so a finding ends where it fades out."""

BEHIND_HEART: Final = 0.15
"""Share of a finding that still shows behind the heart."""

AIR_REPLACED: Final = 0.97
FULL_EXTRA: Final = 0.22
"""An opacity saturates at the air that it can replace, and a little more."""

VESSELS_HIDDEN: Final = 0.7
"""Share of a vessel's contrast that a full opacity around it takes away."""


def heart_silhouette(anatomy: Anatomy, severity: np.ndarray) -> np.ndarray:
    """Return the heart's soft mask, float32 [size, size], for severities [12]."""
    level = float(severity[FILM_SEVERITIES.index("heart")])
    return heart(whole_grid(anatomy.size), anatomy.geometry, level)


def lung_opacities(anatomy: Anatomy, severity: np.ndarray, side: Side) -> dict[str, np.ndarray]:
    """Return the opacity of every active process of one lung, on its half grid.

    Keys are names of `FILM_SEVERITIES`; arrays are float32 [size, size / 2], 0 outside the finding.
    """
    lung = anatomy.right if side == "right" else anatomy.left
    grid = half_grid(anatomy.size)
    opacities = {}
    for name, level in zip(FILM_SEVERITIES, severity.tolist(), strict=True):
        kind, _, own_side = name.partition("_")
        if level > 0 and kind in DRAWERS and own_side in ("", side):
            shape = DRAWERS[kind](grid, anatomy, lung, level)
            opacities[name] = np.maximum(shape * lung.mask - FLOOR, 0)
    return opacities


def add_findings(
    attenuation: np.ndarray, anatomy: Anatomy, severity: np.ndarray, silhouette: np.ndarray
) -> np.ndarray:
    """Return the attenuation with all lung findings, float32 [size, size].

    Opacities P add up and saturate: s (1 - exp(-P / s)) with s = .97 air + .22.
    """
    right, left = (_total(anatomy, severity, side) for side in ("right", "left"))
    if right is None and left is None:
        return attenuation
    nothing = np.zeros_like(anatomy.right.air)
    total = join(nothing if right is None else right, nothing if left is None else left)
    total *= 1 - (1 - BEHIND_HEART) * silhouette
    ceiling = AIR_REPLACED * anatomy.air + FULL_EXTRA
    filled = 1 - np.exp(-total / ceiling)
    return attenuation + filled * (ceiling - VESSELS_HIDDEN * anatomy.vessels)


def _total(anatomy: Anatomy, severity: np.ndarray, side: Side) -> np.ndarray | None:
    opacities = list(lung_opacities(anatomy, severity, side).values())
    return sum(opacities[1:], opacities[0]) if opacities else None


def _edema(grid: Grid, anatomy: Anatomy, lung: Lung, level: float) -> np.ndarray:
    """Perihilar, basal, uniform and patchy haze, fuller vessels and Kerley lines."""
    perihilar, basal, uniform, patchy = anatomy.edema_weights
    base = anatomy.geometry.diaphragm(lung.side)
    wing = blob(grid, HILUM[lung.side], anatomy.edema_radius)
    haze = 0.60 * perihilar * wing * (1 + 0.3 * lung.grain)
    haze += 0.41 * basal * edge((grid.y - base + 0.20) / 0.06)
    haze += 0.40 * uniform
    haze += 0.75 * patchy * edge((lung.patches - 0.2) / 0.25)
    lines = np.maximum(np.cos(grid.y * (2 * np.pi / 0.022)).astype(np.float32) - 0.6, 0) * 2.5
    near_wall = edge((grid.x - anatomy.geometry.wall(grid.y) + 0.10) / 0.015)
    haze += 0.07 * lines * near_wall * edge((grid.y - 0.5) / 0.02)
    haze += 0.45 * lung.vessels
    return (lung.edema_gain * level) * haze


def _effusion(grid: Grid, anatomy: Anatomy, lung: Lung, level: float) -> np.ndarray:
    """Fluid that rises from the costophrenic angle with a meniscus, and a faint veil above it."""
    u = grid.x / anatomy.geometry.half_width
    meniscus = 0.10 * (1 - (u / 0.95) ** 2.2)
    top = anatomy.geometry.diaphragm(lung.side) + 0.165 - 0.50 * level**0.8
    depth = grid.y - top - meniscus
    veil = edge((depth + 0.12) / 0.04)
    return (0.50 + 0.25 * level) * edge(depth / (0.012 + 0.02 * level)) + 0.10 * level * veil


def _atelectasis(grid: Grid, anatomy: Anatomy, lung: Lung, level: float) -> np.ndarray:
    """Oblique plates, a triangle beside the heart and a raised, dense base."""
    strength = level**0.7
    dome = anatomy.geometry.dome(grid.x, lung.side)
    shape = np.zeros_like(lung.air)
    for x, above, slope in ((0.42, 0.10, 0.10), (0.50, 0.17, -0.06)):
        offset = grid.y - (anatomy.geometry.diaphragm(lung.side) - above) - slope * (grid.x - x)
        plate = np.maximum(1 - (offset / 0.020) ** 2, 0)
        reach = np.maximum(1 - ((grid.x - x) / 0.30) ** 4, 0)
        shape += 0.42 * plate * plate * reach
    triangle = edge((grid.y - 0.50 - 0.45 * (grid.x - 0.12)) / 0.02) * edge((0.45 - grid.x) / 0.04)
    shape += 0.38 * triangle * edge((grid.y - 0.52) / 0.02)
    shape += 0.62 * edge((grid.y - dome + 0.10 * level) / 0.012)
    return strength * shape


def _consolidation(grid: Grid, anatomy: Anatomy, lung: Lung, level: float) -> np.ndarray:
    """A rough ellipse with dark branching air bronchograms."""
    x, y = lung.consolidation
    squared = ((grid.x - x) / 0.19) ** 2 + ((grid.y - y) / 0.100) ** 2
    rough = 1 - squared + 0.55 * lung.patches + 0.25 * lung.grain
    shape = edge(rough / 0.35) * edge((2.6 - squared) / 0.2)
    return (0.62 * level) * shape * np.maximum(1 - 2.5 * lung.vessels, 0.3)


def _pneumonia(grid: Grid, anatomy: Anatomy, lung: Lung, level: float) -> np.ndarray:
    """Patchy, grainy shadows."""
    patches = edge((0.6 * lung.patches + 0.8 * lung.grain + 0.1) / 0.40)
    return (0.62 * level) * patches * blob(grid, lung.pneumonia, 0.24, 0.15)


def _opacity(grid: Grid, anatomy: Anatomy, lung: Lung, level: float) -> np.ndarray:
    """A smooth shadow of no particular kind."""
    return (0.46 * level) * blob(grid, lung.opacity, 0.22, 0.12)


DRAWERS: Final[dict[str, Callable[[Grid, Anatomy, Lung, float], np.ndarray]]] = {
    "edema": _edema,
    "effusion": _effusion,
    "atelectasis": _atelectasis,
    "consolidation": _consolidation,
    "pneumonia": _pneumonia,
    "opacity": _opacity,
}
"""Process name without its side -> what draws it in one lung."""
