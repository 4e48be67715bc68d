"""Where a finding may be edited: soft masks from the boxes of a film's regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from scipy.ndimage import gaussian_filter

from bench.simulating.boxes import Box, canonical_boxes
from bench.simulating.pie.findings import regions_of
from bench.simulating.population import FILM_SEVERITIES

FEATHER: Final = 1 / 32
"""Sd of a mask's soft border, as a share of the film's side (half a latent pixel of sixteen)."""

HEART_ROOM: Final = 1.35
"""A heart may grow by this much."""

TYPICAL_ROOM: Final = 1.3
"""Typical boxes that are so much wider and higher cover 98 % of the lungs' own boxes on drawn films
(as they are, 81 %: what they leave out holds the edit back, and its effect is half as large)."""


def mask_settings() -> dict[str, Any]:
    """All that decides where a finding may be edited, JSON-able."""
    regions = {finding: regions_of(finding) for finding in FILM_SEVERITIES}
    return {"regions": regions, "feather": FEATHER, "heart room": HEART_ROOM}


def roomy_boxes(size: int) -> dict[str, Box]:
    """Where regions are on a film of `size` px whose own boxes nobody knows."""
    typical = canonical_boxes(size, size)
    return {region: _grown(box, TYPICAL_ROOM) for region, box in typical.items()}


def finding_mask(finding: str, boxes: Mapping[str, Box], size: int, side: int) -> np.ndarray:
    """Where a finding shows on a film, float32 [side, side] in [0, 1].

    Args:
        finding: an entry of `FILM_SEVERITIES`
        boxes: of the film, in pixels; a missing one is taken from a typical patient
        size: pixels a side of the film that the boxes are of
        side: pixels a side of the mask
    """
    typical = canonical_boxes(size, size)
    mask = np.zeros((side, side), dtype=np.float32)
    for region in regions_of(finding):
        box = boxes.get(region, typical[region])
        grown = _grown(box, HEART_ROOM) if finding == "heart" else box
        mask = np.maximum(mask, _rectangle([c / size for c in grown], side))
    return np.clip(gaussian_filter(mask, FEATHER * side), 0, 1)


def union(masks: Sequence[np.ndarray]) -> np.ndarray:
    """The largest value of several masks at each pixel."""
    return np.maximum.reduce(list(masks))


def _grown(box: Box, by: float) -> Box:
    """The box about its centre, `by` times as wide and high."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    half_x, half_y = by * (box[2] - box[0]) / 2, by * (box[3] - box[1]) / 2
    return x - half_x, y - half_y, x + half_x, y + half_y


def _rectangle(shares: Sequence[float], side: int) -> np.ndarray:
    """1 inside a box given as shares of the side; its border pixels are covered in part."""
    x1, y1, x2, y2 = (c * side for c in shares)
    pixel = np.arange(side)
    across, down = (
        np.clip(np.minimum(pixel + 1, end) - np.maximum(pixel, start), 0, 1)
        for start, end in ((x1, x2), (y1, y2))
    )
    return (down[:, None] * across[None, :]).astype(np.float32)
