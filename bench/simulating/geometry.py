"""Where the organs of one simulated patient lie: numbers and outlines on the canonical grid.

Right and left are the patient's; lengths are canonical units (see `shapes`). `Geometry()` is the
typical patient, whose outlines also give the canonical boxes of real films.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from bench.simulating.shapes import Grid, edge, smooth_maximum

Side = Literal["right", "left"]

SIGN: Final[dict[Side, int]] = {"right": -1, "left": 1}
"""Sign of x of each side: the patient's right is at the left of the image."""

HILUM: Final[dict[Side, tuple[float, float]]] = {"right": (0.19, 0.43), "left": (0.19, 0.405)}
"""Distance from the midline and height of each hilum."""

CARINA_Y: Final = 0.335
ARCH_Y: Final = 0.315
"""Heights of the carina and of the aortic arch."""


@dataclass(frozen=True)
class Geometry:
    """Measures of a patient's chest; the defaults are the means over patients.

    half_width: inner chest wall to midline at the widest row, in x
    apex: y of the lungs' upper end
    diaphragm_right, diaphragm_left: y of the top of each dome
    mediastinum: half-width of the mediastinum, in x
    heart_half_width: scale of the heart at severity 0, in x
    knob_radius: of the aortic knob, in y
    fat: (BMI - 28) / 12
    """

    half_width: float = 0.80
    apex: float = 0.095
    diaphragm_right: float = 0.735
    diaphragm_left: float = 0.757
    mediastinum: float = 0.115
    heart_half_width: float = 0.40
    knob_radius: float = 0.044
    fat: float = 0.0

    def diaphragm(self, side: Side) -> float:
        """Return the y of the top of a side's dome."""
        return self.diaphragm_right if side == "right" else self.diaphragm_left

    def wall(self, y: np.ndarray) -> np.ndarray:
        """Return the distance of the inner chest wall from the midline at each row."""
        height = np.clip((y - self.apex) / (self.diaphragm_right - self.apex), 0, 1)
        bulge = (1 - (1 - height) ** 2.2) ** 0.62
        return (self.half_width * (0.34 + 0.66 * bulge)).astype(np.float32)

    def dome(self, x: np.ndarray, side: Side) -> np.ndarray:
        """Return the y of a side's diaphragm at each distance x from the midline."""
        u = np.abs(x) / self.half_width
        u = np.maximum(u, 0.15)
        sulcus = 0.65 * np.maximum(u - 0.78, 0) ** 1.5
        return (self.diaphragm(side) + 0.26 * (u - 0.46) ** 2 + sulcus).astype(np.float32)

    def medial(self, y: np.ndarray) -> np.ndarray:
        """Return the half-width of the mediastinum at each row; it narrows above y .22."""
        return (self.mediastinum * (0.78 + 0.22 * edge((y - 0.22) / 0.03))).astype(np.float32)

    def lung(self, grid: Grid, side: Side) -> np.ndarray:
        """Return the soft mask of a lung on its half grid, float32 [size, size / 2]."""
        medial, wall = self.medial(grid.y), self.wall(grid.y)
        top = self.apex + 0.9 * (grid.x - 0.24) ** 2
        inside = edge((wall - grid.x) / 0.012) * edge((grid.x - medial) / 0.016)
        return (
            inside * edge((grid.y - top) / 0.010) * edge((self.dome(grid.x, side) - grid.y) / 0.006)
        )

    def abdomen(self, grid: Grid) -> np.ndarray:
        """Return the soft mask of all that lies below the diaphragm, float32 [size, size]."""
        right, left = (edge((grid.y - self.dome(grid.x, side)) / 0.006) for side in SIGN)
        return right + edge(grid.x / 0.04) * (left - right)


def draw_geometry(rng: np.random.Generator, *, sex: str, age: float, bmi: float) -> Geometry:
    """Draw a patient's measures around the typical ones."""
    noise = rng.standard_normal(7)
    fat = (bmi - 28) / 12
    right = 0.735 + 0.02 * noise[2] - 0.012 * max(fat, 0)
    return Geometry(
        half_width=float(np.clip(0.80 + 0.03 * noise[0] - 0.015 * (sex == "F"), 0.70, 0.87)),
        apex=float(np.clip(0.095 + 0.012 * noise[1], 0.06, 0.13)),
        diaphragm_right=float(np.clip(right, 0.68, 0.79)),
        diaphragm_left=float(np.clip(right + 0.022 + 0.008 * noise[3], 0.68, 0.81)),
        mediastinum=float(np.clip(0.115 + 0.012 * noise[4], 0.085, 0.15)),
        heart_half_width=float(np.clip(0.40 + 0.05 * noise[5] + 0.03 * fat, 0.28, 0.52)),
        knob_radius=float(np.clip(0.044 + 0.0004 * (age - 64) + 0.005 * noise[6], 0.028, 0.065)),
        fat=float(np.clip(fat, -0.9, 1.6)),
    )


def heart(grid: Grid, geometry: Geometry, severity: float) -> np.ndarray:
    """Return the soft silhouette of the heart, float32 [size, size].

    A soft maximum of the left ventricle (an oblique ellipse), the right atrium and the outflow
    tract. It rests on the diaphragm and grows by 36 % per unit of severity, up to the chest wall.
    """
    scale = geometry.heart_half_width / 0.40 * (1 + 0.36 * max(severity, 0.0))
    scale = min(scale, geometry.half_width / 0.50)
    tall = scale**0.6
    floor = geometry.diaphragm_left + 0.025
    ventricle = _depth(grid, (0.15 * scale, floor - 0.115 * tall), 0.180 * scale, 0.118 * tall, 0.5)
    atrium = _depth(grid, (-0.055 * scale, floor - 0.110 * tall), 0.084 * scale, 0.118 * tall, 0.0)
    outflow = _depth(grid, (0.045, floor - 0.250 * tall), 0.066 * tall, 0.14 * tall, -0.12)
    body = smooth_maximum(ventricle, smooth_maximum(atrium, outflow, 0.05), 0.05)
    return edge(body / 0.005)


def _depth(
    grid: Grid, centre: tuple[float, float], radius_x: float, radius_y: float, tilt: float
) -> np.ndarray:
    """Return about how deep each pixel lies inside an ellipse turned by `tilt`, in y."""
    across, down = (grid.x - centre[0]) * 0.5, grid.y - centre[1]
    cos, sin = float(np.cos(tilt)), float(np.sin(tilt))
    along = (across * cos + down * sin) / radius_x
    aside = (down * cos - across * sin) / radius_y
    return (1 - np.sqrt(along * along + aside * aside)) * min(radius_x, radius_y)
