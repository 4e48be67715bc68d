"""The soft tissue of a simulated chest without a heart: body, lungs, abdomen and mediastinum."""

from __future__ import annotations

import numpy as np

from bench.simulating.geometry import ARCH_Y, CARINA_Y, HILUM, SIGN, Geometry, Side
from bench.simulating.shapes import (
    Grid,
    Stroke,
    blob,
    curve,
    draw_strokes,
    edge,
    smooth_noise,
    whole_grid,
)

AIR_CONTRAST = 0.78
"""Attenuation that a lung of full depth takes away."""


def air_depth(lung: np.ndarray, grid: Grid, geometry: Geometry) -> np.ndarray:
    """Return how much air a beam meets, 0..1, from a lung's mask on its half grid.

    A lung is thinner towards the chest wall and towards its apex.
    """
    across = np.minimum(grid.x / (1.02 * geometry.wall(grid.y)), 1)
    squared = across * across
    thickness = np.sqrt(1 - squared * squared)
    return lung * thickness * (0.82 + 0.18 * edge((grid.y - geometry.apex - 0.12) / 0.04))


def draw_tissue(
    rng: np.random.Generator, geometry: Geometry, sex: str, air: np.ndarray
) -> np.ndarray:
    """Return the attenuation of the soft tissue, float32 [size, size]; `air` is the air depth."""
    size = len(air)
    grid = whole_grid(size)
    tissue = _torso(grid, geometry) + _abdomen(rng, grid, geometry)
    tissue += _mediastinum(rng, grid, geometry, air)
    tissue -= AIR_CONTRAST * air
    tissue += _hila(grid) * (air > 0)
    tissue += 0.022 * air * smooth_noise(rng, size, (size // 4, size // 2))
    tissue += 0.030 * smooth_noise(rng, size, (5, 10, 20))
    if sex == "F":
        tissue += _breasts(rng, grid, geometry)
    tissue += _scars(rng, grid, geometry) * (air > 0)
    tissue += _fissure(rng, size) * air
    return tissue * _outline(grid)


def _torso(grid: Grid, geometry: Geometry) -> np.ndarray:
    """Return the body wall, thicker outside the lungs and towards the abdomen."""
    half_width = geometry.half_width + 0.22 + 0.05 * geometry.fat
    depth = np.sqrt(np.clip(1 - (grid.x / half_width) ** 2, 0.03, 1))
    body = (1 + 0.22 * geometry.fat) * depth * (0.74 + 0.26 * grid.y)
    wall = geometry.wall(grid.y)
    return body + 0.20 * edge((np.abs(grid.x) - wall) / 0.015)


def _outline(grid: Grid) -> np.ndarray:
    """Return the body's mask: beside the neck the shoulders slope down."""
    beyond = np.maximum(np.abs(grid.x) - 0.25, 0)
    shoulder = 0.035 * edge((beyond - 0.03) / 0.015) + 0.04 * beyond + 0.20 * beyond**3
    return edge((grid.y - shoulder + 0.02) / 0.006)


def _abdomen(rng: np.random.Generator, grid: Grid, geometry: Geometry) -> np.ndarray:
    """Return the organs below the diaphragm, with the liver and a gastric bubble."""
    below = geometry.abdomen(grid)
    liver = edge((0.1 - grid.x) / 0.06)
    y = geometry.diaphragm_left + 0.085 + float(rng.normal(0, 0.01))
    x = 0.36 + float(rng.normal(0, 0.04))
    bubble = blob(grid, (x, y), 0.085, 0.022) + blob(grid, (x + 0.08, y + 0.012), 0.06, 0.018)
    gas = float(rng.uniform(0.10, 0.45))
    return 0.34 * below + 0.06 * below * liver - gas * np.minimum(1.2 * bubble, 1)


def _mediastinum(
    rng: np.random.Generator, grid: Grid, geometry: Geometry, air: np.ndarray
) -> np.ndarray:
    """Return the great vessels and the airways between the lungs."""
    size = grid.x.shape[1]
    vessels = edge((geometry.medial(grid.y) - np.abs(grid.x)) / 0.016)
    knob = 2 * geometry.knob_radius
    arch = (geometry.mediastinum + 0.25 * knob, ARCH_Y)
    distance = np.sqrt((grid.x - arch[0]) ** 2 + 4 * (grid.y - arch[1]) ** 2)
    knob_shape = edge((knob - distance) / 0.012)
    # Below the hila the heart takes the place of the great vessels.
    shadow = 0.30 * vessels * (1 - 0.8 * edge((grid.y - 0.46) / 0.03))
    shadow += knob_shape * (0.04 + 0.55 * air)
    aorta = edge((geometry.mediastinum + 0.02 - grid.x) / 0.010) * edge((grid.x - 0.02) / 0.02)
    shadow += 0.10 * aorta * edge((grid.y - arch[1]) / 0.02)
    # The arch pushes the trachea a little to the patient's right.
    shift = -0.012 + float(rng.normal(0, 0.006))
    trachea = curve((0, -0.03), (shift / 2, 0.15), (shift, CARINA_Y - 0.10), (shift, CARINA_Y))
    airways = [Stroke(trachea, 0.034, -0.28)]
    for side, sign in SIGN.items():
        hilum = (sign * (HILUM[side][0] - 0.03), HILUM[side][1])
        airways.append(Stroke(curve((shift, CARINA_Y - 0.01), hilum), 0.018, -0.12))
    return shadow + _softened(draw_strokes(airways, size))


def _softened(image: np.ndarray) -> np.ndarray:
    """Return the image averaged over a few neighbours: thick organs have no crisp edge."""
    for axis in (0, 1):
        image = (image + np.roll(image, 1, axis) + np.roll(image, -1, axis)) * (1 / 3)
    return image.astype(np.float32)


def _hila(grid: Grid) -> np.ndarray:
    hila = np.zeros((grid.y.size, grid.x.size), np.float32)
    for side, sign in SIGN.items():
        centre = (sign * (HILUM[side][0] - 0.03), HILUM[side][1])
        hila += 0.20 * blob(grid, centre, 0.06, 0.045) + 0.12 * blob(grid, centre, 0.16, 0.09)
    return hila


def _breasts(rng: np.random.Generator, grid: Grid, geometry: Geometry) -> np.ndarray:
    """Return two soft shadows with a clear lower edge."""
    y = 0.60 + float(rng.normal(0, 0.03))
    breasts = np.zeros((grid.y.size, grid.x.size), np.float32)
    for sign in (-1, 1):
        x = 0.50 + float(rng.normal(0, 0.02))
        squared = ((grid.x - sign * x) / 0.36) ** 2 + ((grid.y - y) / 0.19) ** 2
        breasts += edge((1 - squared) / 0.12) * np.clip(0.6 + 2 * (grid.y - y), 0.15, 1)
    return float(0.11 * np.clip(1 + 0.5 * geometry.fat, 0.5, 1.8)) * breasts


def _scars(rng: np.random.Generator, grid: Grid, geometry: Geometry) -> np.ndarray:
    """Return a few old scars, which never change."""
    scars = np.zeros((grid.y.size, grid.x.size), np.float32)
    for _ in range(int(rng.poisson(0.8))):
        side: Side = "right" if rng.random() < 0.5 else "left"
        x = SIGN[side] * rng.uniform(0.25, 0.85 * geometry.half_width)
        y = rng.uniform(geometry.apex + 0.06, geometry.diaphragm(side) - 0.05)
        radius = float(rng.uniform(0.01, 0.03))
        scars += float(rng.uniform(0.05, 0.20)) * blob(grid, (float(x), float(y)), radius)
    return scars


def _fissure(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return the minor fissure of the right lung, seen in half of the patients."""
    if rng.random() < 0.5:
        return np.zeros((size, size), np.float32)
    y = 0.46 + float(rng.normal(0, 0.015))
    line = curve((-0.20, y), (-0.5, y - 0.02), (-0.80, y + 0.01))
    return draw_strokes([Stroke(line, 0.004, 0.05)], size)
