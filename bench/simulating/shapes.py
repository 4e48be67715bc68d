"""Soft-edged shapes, strokes and smooth noise on the canonical grid of a simulated film.

The canonical grid has x in [-1, 1] (image left, the patient's right, is negative) and y in [0, 1]
downwards, so one unit of y is two units of x. Every map is float32: one stray float64 would double
the time of a film.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLING = 2
"""Strokes are drawn on a canvas this many times finer, then averaged: cheap smooth lines."""

WIDE_PIXELS = 12


@dataclass(frozen=True)
class Grid:
    """Pixel centres in canonical units: x float32 [1, size], y float32 [size, 1]."""

    x: np.ndarray
    y: np.ndarray


@lru_cache(maxsize=8)
def whole_grid(size: int) -> Grid:
    """Return the grid of a whole film."""
    steps = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    return Grid(x=(2 * steps - 1)[None, :], y=steps[:, None])


@lru_cache(maxsize=8)
def half_grid(size: int) -> Grid:
    """Return the grid of one lung's half of a film: x > 0 is the distance from the midline."""
    grid = whole_grid(size)
    return Grid(x=grid.x[:, size // 2 :], y=grid.y)


def edge(z: np.ndarray) -> np.ndarray:
    """Return a step from 0 (z <= -3) to 1 (z >= 3) with the slope of a logistic at 0.

    Unlike the logistic it has a bounded support, so a shape changes nothing far from itself.
    """
    t = np.clip(z * (1 / 6) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def blob(
    grid: Grid, centre: tuple[float, float], radius_x: float, radius_y: float | None = None
) -> np.ndarray:
    """Return a bump of height 1 that is close to a Gaussian and 0 beyond 2.8 radii.

    `radius_y` defaults to half of `radius_x`, which is round on a square film.
    """
    radius_y = radius_x / 2 if radius_y is None else radius_y
    squared = ((grid.x - centre[0]) / radius_x) ** 2 + ((grid.y - centre[1]) / radius_y) ** 2
    rest = np.maximum(1 - squared / 8, 0)
    rest *= rest
    return rest * rest


def smooth_maximum(a: np.ndarray, b: np.ndarray, softness: float) -> np.ndarray:
    """Return max(a, b) with the crease rounded where they differ by less than `softness`."""
    gap = np.maximum(softness - np.abs(a - b), 0)
    return np.maximum(a, b) + gap * gap / (4 * softness)


@lru_cache(maxsize=32)
def interpolation(size: int, n_nodes: int) -> np.ndarray:
    """Return U, float32 [size, n_nodes]: smooth-step interpolation of nodes on [0, 1]."""
    position = np.linspace(0, n_nodes - 1, size)
    left = np.minimum(position.astype(int), n_nodes - 2)
    t = position - left
    weight = t * t * (3 - 2 * t)
    matrix = np.zeros((size, n_nodes))
    matrix[np.arange(size), left] = 1 - weight
    matrix[np.arange(size), left + 1] = weight
    return matrix.astype(np.float32)


def smooth_noise(rng: np.random.Generator, size: int, nodes: tuple[int, ...]) -> np.ndarray:
    """Return a random field U A U', float32 [size, size], mean 0 and sd 1.

    Each entry of `nodes` is an octave with that many random nodes a side; every octave has .6 of
    the amplitude of the one before it.
    """
    field = np.zeros((size, size), np.float32)
    for octave, n_nodes in enumerate(nodes):
        values = rng.standard_normal((n_nodes, n_nodes), dtype=np.float32) * np.float32(0.6**octave)
        basis = interpolation(size, n_nodes)
        field += basis @ values @ basis.T
    field -= field.mean()
    return field / field.std()


@dataclass(frozen=True)
class Stroke:
    """A polyline of constant width.

    points: float [n, 2]; x, y in canonical units
    width: in units of y
    value: what the stroke sets a pixel to
    """

    points: np.ndarray
    width: float
    value: float


def draw_strokes(strokes: Iterable[Stroke], size: int) -> np.ndarray:
    """Return a map, float32 [size, size]: strokes in their order, a later one covers earlier ones.

    A stroke thinner than a canvas pixel is drawn one pixel wide and proportionally fainter.
    """
    side = size * SUPERSAMPLING
    image = Image.new("F", (side, side))
    canvas = ImageDraw.Draw(image)
    origin, to_pixels = np.array([-1.0, 0.0]), np.array([side / 2, side])
    for stroke in strokes:
        width = stroke.width * side
        pixels = (stroke.points - origin) * to_pixels
        value = stroke.value * min(1.0, width)
        # Only thick strokes show their corners, and rounding these is slow.
        joint = "curve" if width > WIDE_PIXELS else None
        canvas.line(pixels.ravel().tolist(), fill=value, width=max(1, round(width)), joint=joint)
    return np.array(image.reduce(SUPERSAMPLING), dtype=np.float32)


def curve(*controls: tuple[float, float], n_points: int = 24) -> np.ndarray:
    """Return points [n_points, 2] of the Bezier curve with these control points."""
    points = np.repeat(np.array(controls, dtype=float)[:, None], n_points, axis=1)
    t = np.linspace(0, 1, n_points)[:, None]
    while len(points) > 1:
        points = (1 - t) * points[:-1] + t * points[1:]
    return points[0]


def circle(centre: tuple[float, float], radius: float, n_points: int = 16) -> np.ndarray:
    """Return points [n_points, 2] of a closed circle; `radius` in units of y."""
    angle = np.linspace(0, 2 * np.pi, n_points)
    offset = np.stack([2 * radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return np.asarray(centre) + offset
