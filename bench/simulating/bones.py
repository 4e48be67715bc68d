"""Ribs, clavicles, spine, scapulae and humeral heads of a simulated patient.

Ribs are periodic functions of a phase that bends like ribs do, which is much cheaper than drawing
twenty-four of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.simulating.geometry import Geometry
from bench.simulating.shapes import Stroke, blob, curve, draw_strokes, edge, whole_grid

N_PROFILE = 512
N_RIBS = 16


@dataclass(frozen=True)
class RibCage:
    """Where the ribs of one kind lie.

    spacing: of neighbours, in y
    half_thickness: of a rib, as a share of the spacing
    amplitude: attenuation
    """

    spacing: float
    half_thickness: float
    amplitude: float


POSTERIOR = RibCage(spacing=0.069, half_thickness=0.26, amplitude=0.115)
ANTERIOR = RibCage(spacing=0.088, half_thickness=0.30, amplitude=0.070)


def draw_bones(rng: np.random.Generator, geometry: Geometry, size: int) -> np.ndarray:
    """Return the attenuation of the bones, float32 [size, size]."""
    return _ribs(rng, geometry, size) + _spine(size) + _shoulder_girdle(rng, geometry, size)


def _profile(half_thickness: float) -> np.ndarray:
    """Return the cross-section of a rib over one spacing: a soft bar with bright cortices."""
    offset = np.abs(np.linspace(-0.5, 0.5, N_PROFILE)) / half_thickness
    bar = np.clip(1 - offset**4, 0, 1)
    cortex = np.exp(-(((offset - 0.86) / 0.14) ** 2))
    return (0.75 * bar + 0.55 * cortex).astype(np.float32)


def _bars(rng: np.random.Generator, phase: np.ndarray, cage: RibCage) -> np.ndarray:
    """Return ribs of slightly different brightness where `phase` (in spacings) is an integer."""
    profile = _profile(cage.half_thickness)
    gains = rng.normal(1, 0.12, N_RIBS).astype(np.float32)
    table = (gains[:, None] * profile).ravel() * np.float32(cage.amplitude)
    index = ((phase + 2.5) * N_PROFILE).astype(np.int32)
    return np.take(table, np.clip(index, 0, len(table) - 1))


def _ribs(rng: np.random.Generator, geometry: Geometry, size: int) -> np.ndarray:
    grid = whole_grid(size)
    tilt = float(rng.normal(0, 0.03))
    v = np.abs(grid.x) / geometry.half_width
    squared = v * v
    y = grid.y
    bend = (0.45 + 0.25 * (y - 0.2)) * (1 + tilt)
    posterior = (y - 0.10 + 0.05 * v - 0.62 * squared * bend) / POSTERIOR.spacing
    anterior = (y - 0.30 + 0.34 * v - 0.10 * squared) / ANTERIOR.spacing
    wall = geometry.wall(y)
    cage = edge((wall + 0.035 - np.abs(grid.x)) / 0.010) * edge((y - 0.06) / 0.02)
    below = 1 - 0.75 * edge((y - geometry.dome(grid.x, "right")) / 0.02)
    # Near the wall a beam runs along the rib's curve and meets more bone.
    tangent = 1 + 0.8 * edge((np.abs(grid.x) - wall + 0.05) / 0.02)
    shown_posterior = edge((v - 0.10) / 0.02) * tangent
    # Anterior ribs end in cartilage, which hardly shows.
    shown_anterior = edge((v - 0.42) / 0.05) * edge((y - 0.16) / 0.03)
    bars = _bars(rng, posterior, POSTERIOR) * shown_posterior
    bars += _bars(rng, anterior, ANTERIOR) * shown_anterior
    return bars * cage * below


def _spine(size: int) -> np.ndarray:
    grid = whole_grid(size)
    vertebrae = 0.07 + 0.035 * np.cos(34 * np.float32(np.pi) * grid.y)
    column = edge((0.085 - np.abs(grid.x)) / 0.010)
    processes = np.maximum(np.cos(34 * np.float32(np.pi) * grid.y + 1), 0)
    ridge = 0.04 * edge((0.018 - np.abs(grid.x)) / 0.006)
    return column * vertebrae + ridge * processes


def _shoulder_girdle(rng: np.random.Generator, geometry: Geometry, size: int) -> np.ndarray:
    """Return clavicles, scapulae and humeral heads."""
    lift = float(rng.normal(0, 0.012))
    strokes = []
    for sign in (-1, 1):
        inner, outer = 0.165 + lift, 0.095 + lift + float(rng.normal(0, 0.008))
        clavicle = curve(
            (sign * 0.09, inner),
            (sign * 0.32, inner - 0.01),
            (sign * 0.42, outer - 0.03),
            (sign * 0.88, outer),
        )
        strokes += [Stroke(clavicle, 0.028, 0.19), Stroke(clavicle, 0.018, 0.155)]
        wall = geometry.half_width
        scapula = curve(
            (sign * (wall + 0.02), 0.13),
            (sign * (wall - 0.08), 0.22),
            (sign * (wall + 0.10), 0.44),
            (sign * (wall + 0.16), 0.40),
        )
        strokes.append(Stroke(scapula, 0.010, 0.11))
    bones = draw_strokes(strokes, size)
    grid = whole_grid(size)
    for sign in (-1, 1):
        bones += 0.22 * blob(grid, (sign * 0.99, 0.15 + lift), 0.085)
    return bones
