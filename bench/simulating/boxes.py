"""Boxes of the nineteen anatomical regions, for simulated films and for real ones without boxes."""

from __future__ import annotations

from typing import Final

import numpy as np

from bench.data.vocabulary import BOX_REGIONS
from bench.simulating.acquisition import View
from bench.simulating.geometry import ARCH_Y, CARINA_Y, HILUM, SIGN, Geometry, Side, heart
from bench.simulating.shapes import whole_grid

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2: left, top, right, bottom."""

JITTER_SD: Final = 0.015
"""Of each side of a box, as a share of the film's side: boxes come from an imperfect detector."""

P_MISSING: Final = 0.02

LUNG_ZONES: Final = {
    "lung": (0.0, 1.0),
    "apical zone": (0.0, 0.16),
    "upper lung zone": (0.0, 1 / 3),
    "mid lung zone": (1 / 3, 2 / 3),
    "lower lung zone": (2 / 3, 1.0),
}
"""Upper and lower end of each zone as shares of the lung's height."""

TYPICAL_HEART: Final = 0.15
"""Heart severity of the canonical boxes: about the median of a cohort."""


def canonical_boxes(width: int, height: int) -> dict[str, Box]:
    """Return the boxes of a typical patient, in pixels of a film of this width and height."""
    geometry = Geometry()
    silhouette = heart(whole_grid(256), geometry, TYPICAL_HEART) > 0.5
    boxes = region_boxes(geometry, silhouette)
    return {
        name: ((x1 + 1) / 2 * width, y1 * height, (x2 + 1) / 2 * width, y2 * height)
        for name, (x1, y1, x2, y2) in boxes.items()
    }


def region_boxes(geometry: Geometry, silhouette: np.ndarray) -> dict[str, Box]:
    """Return the boxes of a patient in canonical units, in the order of `BOX_REGIONS`.

    `silhouette` is the heart's mask, bool [size, size].
    """
    boxes = _midline_boxes(geometry) | {"cardiac silhouette": _extent(silhouette)}
    for side in SIGN:
        for name, box in _side_boxes(geometry, side).items():
            boxes[f"{side} {name}"] = box
    return {name: boxes[name] for name in BOX_REGIONS}


def film_boxes(
    boxes: dict[str, Box], view: View, size: int, rng: np.random.Generator, nuisance: float = 1.0
) -> dict[str, Box]:
    """Return canonical boxes as a film of size x size pixels shows them.

    Each is the frame around its moved corners, jittered and clipped to the film; 2 % are missing.
    """
    jitter = rng.normal(0, JITTER_SD * nuisance, (len(boxes), 4))
    missing = rng.random(len(boxes)) < P_MISSING
    found: dict[str, Box] = {}
    for (name, box), noise, is_missing in zip(boxes.items(), jitter, missing, strict=True):
        x1, y1, x2, y2 = box
        corners = view.to_film(np.array([(x1, y1), (x2, y1), (x1, y2), (x2, y2)]))
        frame = np.concatenate([corners.min(axis=0), corners.max(axis=0)]) + noise
        left, top, right, bottom = (np.clip(frame, 0, 1) * size).tolist()
        if not is_missing and right - left >= 1 and bottom - top >= 1:
            found[name] = (left, top, right, bottom)
    return found


def _extent(mask: np.ndarray) -> Box:
    """Return the canonical box around the true pixels of a mask [size, size]."""
    size = len(mask)
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return (
        float(2 * columns[0] / size - 1),
        float(rows[0] / size),
        float(2 * (columns[-1] + 1) / size - 1),
        float((rows[-1] + 1) / size),
    )


def _midline_boxes(geometry: Geometry) -> dict[str, Box]:
    half, knob = geometry.mediastinum, geometry.knob_radius
    arch_x = half + 0.7 * knob
    return {
        "mediastinum": (-1.6 * half, geometry.apex, 1.6 * half, geometry.diaphragm_right),
        "upper mediastinum": (-1.6 * half, geometry.apex, 1.6 * half, CARINA_Y + 0.02),
        "aortic arch": (
            arch_x - 3.2 * knob,
            ARCH_Y - 1.4 * knob,
            arch_x + 2.8 * knob,
            ARCH_Y + 1.4 * knob,
        ),
        "trachea": (-0.08, 0.03, 0.08, CARINA_Y + 0.02),
    }


def _side_boxes(geometry: Geometry, side: Side) -> dict[str, Box]:
    """Return the boxes of a side's lung, hilum and costophrenic angle."""
    medial, lateral = 0.8 * geometry.mediastinum, geometry.half_width
    sulcus = float(geometry.dome(np.array(lateral), side))
    height = sulcus - geometry.apex
    spans = {}
    for name, (start, end) in LUNG_ZONES.items():
        top, bottom = geometry.apex + start * height, geometry.apex + end * height
        # The chest widens downwards, so a zone is widest at its lower end.
        spans[name] = (medial, top, float(geometry.wall(np.array(bottom))), bottom)
    x, y = HILUM[side]
    spans["hilar structures"] = (x - 0.13, y - 0.10, x + 0.13, y + 0.10)
    spans["costophrenic angle"] = (lateral - 0.22, sulcus - 0.14, lateral, sulcus)
    return {name: _mirrored(box, side) for name, box in spans.items()}


def _mirrored(box: Box, side: Side) -> Box:
    """Return a box given by distances from the midline at its own side of the film."""
    near, top, far, bottom = box
    return (-far, top, -near, bottom) if side == "right" else (near, top, far, bottom)
