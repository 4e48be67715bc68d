"""What stays the same in all films of a simulated patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.errors import UserError
from bench.simulating.bones import draw_bones
from bench.simulating.devices import draw_devices, draw_endotracheal_tube
from bench.simulating.geometry import Geometry, Side, draw_geometry
from bench.simulating.shapes import edge, half_grid, smooth_noise, whole_grid
from bench.simulating.tissue import air_depth, draw_tissue
from bench.simulating.vessels import draw_vessels

Point = tuple[float, float]


@dataclass(frozen=True)
class Lung:
    """One lung in its own half of the film, midline first: maps are float32 [size, size / 2].

    mask: 0..1, where the lung is; air: 0..1, its depth; vessels: their attenuation
    patches, grain: coarse and fine noise, mean 0 and sd 1: the texture of findings, fixed
    edema_gain: how strongly edema shows on this side (mean 1)
    consolidation, pneumonia, opacity: centres of the focal findings; x from the midline
    """

    side: Side
    mask: np.ndarray
    air: np.ndarray
    vessels: np.ndarray
    patches: np.ndarray
    grain: np.ndarray
    edema_gain: float
    consolidation: Point
    pneumonia: Point
    opacity: Point


@dataclass(frozen=True)
class Anatomy:
    """A patient: outlines, the attenuation that never changes, and how findings would look.

    static: float32 [size, size]; all but the heart, findings and the endotracheal tube
    air: float32 [size, size]; air depth of both lungs, 0..1
    vessels: float32 [size, size]; attenuation of the vessels, also part of `static`
    abdomen: float32 [size, size]; mask of what lies below the diaphragm
    tube: float32 [size, size]; the endotracheal tube
    edema_weights: float [4]; perihilar, basal, uniform and patchy share of edema; sum 1
    edema_radius: of its perihilar part, in x
    """

    geometry: Geometry
    static: np.ndarray
    air: np.ndarray
    vessels: np.ndarray
    abdomen: np.ndarray
    tube: np.ndarray
    right: Lung
    left: Lung
    edema_weights: tuple[float, ...]
    edema_radius: float

    @property
    def size(self) -> int:
        """Pixels a side."""
        return len(self.static)


def draw_anatomy(
    rng: np.random.Generator, *, sex: str, age: float, bmi: float, size: int = 256
) -> Anatomy:
    """Draw a patient (`sex` 'F' or 'M', age in years, BMI in kg/m²) on size x size pixels.

    Raises `UserError` if `size` is odd or below 32.
    """
    if size < 32 or size % 2:
        raise UserError(f"films of {size} px: choose an even number of pixels, 32 or more")
    geometry = draw_geometry(rng, sex=sex, age=age, bmi=bmi)
    vessels = draw_vessels(rng, geometry, size)
    patches = smooth_noise(rng, size, (7, 14, 28, 56))
    grain = smooth_noise(rng, size, (16, 32, 64))
    tilt = float(rng.uniform(-0.6, 0.6))
    right = _draw_lung(rng, "right", geometry, 1 + tilt, vessels, patches, grain)
    left = _draw_lung(rng, "left", geometry, 1 - tilt, vessels, patches, grain)
    air = join(right.air, left.air)
    static = draw_tissue(rng, geometry, sex, air)
    static += draw_bones(rng, geometry, size) * edge(static / 0.05)
    shown_vessels = join(right.vessels, left.vessels)
    static += shown_vessels
    static += draw_devices(rng, size)
    return Anatomy(
        geometry=geometry,
        static=static,
        air=air,
        vessels=shown_vessels,
        abdomen=geometry.abdomen(whole_grid(size)),
        tube=draw_endotracheal_tube(rng, size),
        right=right,
        left=left,
        edema_weights=tuple(rng.dirichlet((1.2, 1.2, 0.8, 0.8)).tolist()),
        edema_radius=float(rng.uniform(0.26, 0.36)),
    )


def join(right: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Return a whole map [size, size] from the maps of the two lungs, midline first."""
    return np.concatenate([right[:, ::-1], left], axis=1)


def split(whole: np.ndarray, side: Side) -> np.ndarray:
    """Return a side's half of a whole map, midline first: the inverse of `join`."""
    middle = whole.shape[1] // 2
    half = whole[:, middle:] if side == "left" else whole[:, :middle][:, ::-1]
    return np.ascontiguousarray(half)


def _draw_lung(
    rng: np.random.Generator,
    side: Side,
    geometry: Geometry,
    edema_gain: float,
    vessels: np.ndarray,
    patches: np.ndarray,
    grain: np.ndarray,
) -> Lung:
    grid = half_grid(len(vessels))
    mask = geometry.lung(grid, side)

    def near(x: float, y: float) -> Point:
        return float(rng.normal(x, 0.05)), float(rng.normal(y, 0.04))

    return Lung(
        side=side,
        mask=mask,
        air=air_depth(mask, grid, geometry),
        vessels=split(vessels, side) * mask,
        patches=split(patches, side),
        grain=split(grain, side),
        edema_gain=edema_gain,
        consolidation=near(0.43, 0.56),
        pneumonia=near(0.42, 0.50),
        opacity=near(0.44, 0.42),
    )
