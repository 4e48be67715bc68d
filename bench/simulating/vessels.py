"""The pulmonary vessels of a simulated patient: two random trees that leave the hila."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bench.simulating.geometry import HILUM, SIGN, Geometry, Side
from bench.simulating.shapes import Stroke, draw_strokes

N_GENERATIONS = 6
STEPS_PER_BRANCH = 4

ROOT_HEADINGS = (-1.45, -1.15, -0.70, -0.25, 0.20, 0.60, 0.95, 1.25)
"""Angles of the first branches from the lateral direction, downwards positive (radians)."""

ROOT_WIDTHS = (0.012, 0.012, 0.010, 0.009, 0.011, 0.014, 0.018, 0.016)
"""Widths of the first branches in y: the arteries of the lower lobe are the widest."""

VALUE_PER_WIDTH = 13.0
"""Attenuation of a vessel per unit of width: a wide one lets less through."""


def draw_vessels(rng: np.random.Generator, geometry: Geometry, size: int) -> np.ndarray:
    """Return the attenuation of the vessels of both lungs, float32 [size, size]."""
    strokes = [s for side in ("right", "left") for s in _tree(rng, side, geometry)]
    strokes.sort(key=lambda stroke: stroke.width)
    return draw_strokes(strokes, size)


def _tree(rng: np.random.Generator, side: Side, geometry: Geometry) -> Iterator[Stroke]:
    """Yield the branches of one lung, generation by generation."""
    n_roots = len(ROOT_HEADINGS)
    x, y = HILUM[side]
    spread = np.linspace(-0.03, 0.04, n_roots)
    tips = np.tile([x / 2 - 0.025, y], (n_roots, 1)) + rng.normal(0, 0.010, (n_roots, 2))
    tips[:, 1] += spread
    headings = np.array(ROOT_HEADINGS) + rng.normal(0, 0.12, n_roots)
    widths = np.array(ROOT_WIDTHS) * np.exp(rng.normal(0, 0.12, n_roots))
    reach = 0.075
    for _ in range(N_GENERATIONS):
        paths, headings = _grow(rng, tips, headings, reach)
        for path, width in zip(paths, widths, strict=True):
            points = path * (2 * SIGN[side], 1)
            yield Stroke(points, width=float(width), value=float(VALUE_PER_WIDTH * width))
        inside = _inside_lung(paths[:, -1], geometry, side)
        tips, headings, widths = _fork(rng, paths[inside, -1], headings[inside], widths[inside])
        reach *= 0.87


def _grow(
    rng: np.random.Generator, tips: np.ndarray, headings: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return wandering paths [n, steps + 1, 2] from the tips, and the headings at their ends."""
    n = len(tips)
    turns = np.cumsum(rng.normal(0, 0.10, (n, STEPS_PER_BRANCH)), axis=1)
    angles = headings[:, None] + turns
    lengths = reach * rng.uniform(0.6, 1.4, (n, 1)) / STEPS_PER_BRANCH
    steps = np.stack([lengths * np.cos(angles), lengths * np.sin(angles)], axis=2)
    paths = tips[:, None] + np.concatenate([np.zeros((n, 1, 2)), np.cumsum(steps, axis=1)], axis=1)
    return paths, angles[:, -1]


def _fork(
    rng: np.random.Generator, tips: np.ndarray, headings: np.ndarray, widths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the starts of two daughters per branch: one goes on, the other turns away."""
    n = len(tips)
    bend = rng.normal(0, 0.10, n)
    turn = rng.choice([-1, 1], n) * rng.uniform(0.35, 0.75, n)
    daughters = np.concatenate([headings + bend - 0.2 * turn, headings + turn])
    return (
        np.concatenate([tips, tips]),
        daughters,
        np.concatenate([widths * 0.84, widths * 0.66]),
    )


def _inside_lung(points: np.ndarray, geometry: Geometry, side: Side) -> np.ndarray:
    """Return which points [n, 2] (isotropic, side's own direction) still lie in the lung."""
    x, y = 2 * points[:, 0], points[:, 1]
    return (x > 0) & (x < geometry.wall(y)) & (y > geometry.apex) & (y < geometry.dome(x, side))
