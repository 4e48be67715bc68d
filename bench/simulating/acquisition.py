"""How one exposure turns attenuation into a film: position, breath, scatter, window, noise.

Nothing here depends on the findings; poor inspiration is meant to look a little like edema.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.ndimage import correlate1d

from bench.simulating.shapes import interpolation, whole_grid

HILA_Y: Final = 0.42
DOME_DEPTH: Final = 0.33
"""Breathing in by d moves rows this far below the hila down by d, others in proportion."""

ZOOM: Final = 1.03
"""Mean magnification, so that the film's border rarely shows the end of the drawing."""

N_TONES: Final = 1024
SHOULDER: Final = 0.72
PERCENTILES: Final = (4.0, 98.5)
WINDOW: Final = (0.13, 0.93)
"""Grey levels that the percentiles of the film's centre are set to."""


@dataclass(frozen=True)
class View:
    """One exposure's position and technique.

    inspiration: depth of breath, in y; rotation: radians; shift_x, shift_y: share of the side;
    scale: magnification; scatter: veil over the lungs; gradient_x, gradient_y: uneven exposure;
    gamma: tone curve; noise_sd: of grey levels 0..1; blur_px: sd
    """

    inspiration: float
    rotation: float
    shift_x: float
    shift_y: float
    scale: float
    scatter: float
    gradient_x: float
    gradient_y: float
    gamma: float
    noise_sd: float
    blur_px: float

    def to_film(self, points: np.ndarray) -> np.ndarray:
        """Move canonical points [n, 2] (x, y) to the film, as shares of its side [n, 2]."""
        x, y = points[:, 0] / 2, points[:, 1]
        below = np.maximum(y - HILA_Y, 0)
        y = y + below * (self.inspiration / DOME_DEPTH) - 0.5
        cos, sin = self.scale * np.cos(self.rotation), self.scale * np.sin(self.rotation)
        moved = np.stack([cos * x - sin * y + self.shift_x, sin * x + cos * y + self.shift_y], 1)
        return moved + 0.5

    def resample(self, image: np.ndarray) -> np.ndarray:
        """Return a canonical map [size, size] as this film shows it, float32 [size, size].

        One bilinear gather undoes scale, rotation, shift and breath at once.
        """
        size = len(image)
        grid = whole_grid(size)
        x, y = grid.x * 0.5 - self.shift_x, grid.y - 0.5 - self.shift_y
        cos, sin = (float(f(self.rotation)) / self.scale for f in (np.cos, np.sin))
        column = (cos * x + sin * y + 0.5) * size - 0.5
        row = cos * y - sin * x + 0.5
        stretch = 1 / (1 + self.inspiration / DOME_DEPTH)
        row += np.maximum(row - HILA_Y, 0) * (stretch - 1)
        row = row * size - 0.5
        return _bilinear(image, row, column)


def draw_view(rng: np.random.Generator, nuisance: float = 1.0) -> View:
    """Draw one exposure; `nuisance` scales how much exposures differ (0 = all the same)."""

    def normal(sd: float) -> float:
        return float(rng.normal(0, sd)) * nuisance

    return View(
        inspiration=float(np.clip(normal(0.028), -0.09, 0.09)),
        rotation=float(np.deg2rad(normal(3.0))),
        shift_x=normal(0.035),
        shift_y=normal(0.030),
        scale=ZOOM * float(np.clip(1 + normal(0.045), 0.8, 1.25)),
        scatter=abs(normal(0.22)),
        gradient_x=normal(0.12),
        gradient_y=normal(0.10),
        gamma=float(np.exp(normal(0.20))),
        noise_sd=float(np.clip(0.022 + normal(0.007), 0.004, 0.05)),
        blur_px=0.525 + float(rng.uniform(-0.175, 0.175)) * min(nuisance, 2.0),
    )


def expose(
    attenuation: np.ndarray, air: np.ndarray, view: View, rng: np.random.Generator
) -> np.ndarray:
    """Return the film, uint8 [size, size], of an attenuation and air map [size, size]."""
    image = view.resample(attenuation - (2.2 * view.inspiration) * air)
    grid = whole_grid(len(image))
    image += (0.45 * view.scatter) * np.maximum(1 - image, 0)
    image += view.gradient_x * grid.x + view.gradient_y * (grid.y - 0.5)
    image -= 0.42 * (_large_scale(image) - 1)
    grey = _tone(image, view.gamma)
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    grey += view.noise_sd * noise * (0.45 + 0.9 * grey)
    grey = _blur(grey, view.blur_px * len(grey) / 256)
    return (np.clip(grey, 0, 1) * 255 + 0.5).astype(np.uint8)


def _bilinear(image: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return the image at fractional rows and columns.

    Borders are repeated, but the abdomen goes on below the image as its mirror image.
    """
    size = len(image)
    last = size - 1.001
    row, column = np.clip(last - np.abs(last - row), 0, last), np.clip(column, 0, last)
    top, left = row.astype(np.int32), column.astype(np.int32)
    down, across = row - top, column - left
    start = top * size + left
    flat = image.ravel()
    above = flat[start]
    above += across * (flat[start + 1] - above)
    start += size
    below = flat[start]
    below += across * (flat[start + 1] - below)
    return above + down * (below - above)


def _large_scale(image: np.ndarray) -> np.ndarray:
    """Return the image blurred over about an eighth of its side."""
    size = len(image)
    n_blocks = 8
    basis = interpolation(size, n_blocks)
    weights = basis / basis.sum(axis=0)
    return basis @ (weights.T @ image @ weights) @ basis.T


def _tone(image: np.ndarray, gamma: float) -> np.ndarray:
    """Return grey levels 0..1: a window on percentiles of the centre, gamma and a soft shoulder."""
    size = len(image)
    centre = image[size // 8 : -size // 8 : 3, size // 8 : -size // 8 : 3]
    low, high = (float(v) for v in np.percentile(centre, PERCENTILES))
    gain = (WINDOW[1] - WINDOW[0]) / max(high - low, 1e-3)
    level = np.linspace(0, 1.3, N_TONES) ** gamma
    bright = SHOULDER + (1 - SHOULDER) * (1 - np.exp((SHOULDER - level) / (1 - SHOULDER)))
    curve = np.where(level > SHOULDER, bright, level).astype(np.float32)
    position = (image * gain + (WINDOW[0] - low * gain)) * ((N_TONES - 1) / 1.3)
    return curve[np.clip(position, 0, N_TONES - 1).astype(np.int32)]


def _blur(image: np.ndarray, sd: float) -> np.ndarray:
    """Return the image after a five-point Gaussian along both axes."""
    kernel = np.exp(-0.5 * (np.arange(-2, 3) / max(sd, 1e-3)) ** 2)
    kernel /= kernel.sum()
    return correlate1d(correlate1d(image, kernel, axis=0), kernel, axis=1)
