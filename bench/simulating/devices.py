"""Tubes, lines and leads of a simulated patient: static, and independent of every outcome.

Only the endotracheal tube means something: it shows exactly when the patient is ventilated.
"""

from __future__ import annotations

import numpy as np

from bench.simulating.geometry import CARINA_Y
from bench.simulating.shapes import Stroke, circle, curve, draw_strokes

P_ECG_LEADS = 0.80
P_CENTRAL_LINE = 0.45
P_GASTRIC_TUBE = 0.35
P_STERNAL_WIRES = 0.15
P_PACEMAKER = 0.08


def draw_devices(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return the attenuation of a random set of devices, float32 [size, size]."""
    makers = (
        (P_ECG_LEADS, _ecg_leads),
        (P_CENTRAL_LINE, _central_line),
        (P_GASTRIC_TUBE, _gastric_tube),
        (P_STERNAL_WIRES, _sternal_wires),
        (P_PACEMAKER, _pacemaker),
    )
    strokes = [s for p, make in makers if rng.random() < p for s in make(rng)]
    return draw_strokes(strokes, size)


def draw_endotracheal_tube(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return the attenuation of a patient's endotracheal tube, float32 [size, size]."""
    tip = CARINA_Y - 0.05 + float(rng.normal(0, 0.008))
    lean = float(rng.normal(0, 0.010))
    centre = curve((lean, -0.02), (0.6 * lean, 0.12), (0.0, tip))
    wall = Stroke(centre, 0.016, 0.16)
    lumen = Stroke(centre, 0.008, 0.03)
    marker = Stroke(centre + np.array([0.006, 0.0]), 0.003, 0.30)
    return draw_strokes([wall, lumen, marker], size)


def _ecg_leads(rng: np.random.Generator) -> list[Stroke]:
    places = ((-0.55, 0.20), (0.58, 0.22), (0.62, 0.70), (-0.60, 0.72))
    strokes = []
    for x, y in places[: int(rng.integers(2, 5))]:
        x, y = x + float(rng.normal(0, 0.08)), y + float(rng.normal(0, 0.04))
        away = float(np.copysign(rng.uniform(0.2, 0.5), x))
        side = 0.5 * float(rng.normal(0, 0.2))
        wire = curve((x, y), (x + side, y + 0.10), (x + away, y + 0.2), (x + away, 1.05))
        strokes += [Stroke(wire, 0.0035, 0.11), Stroke(circle((x, y), 0.007), 0.006, 0.28)]
        strokes.append(Stroke(circle((x, y), 0.002), 0.005, 0.40))
    return strokes


def _central_line(rng: np.random.Generator) -> list[Stroke]:
    tip = (-0.10 + float(rng.normal(0, 0.01)), 0.40 + float(rng.normal(0, 0.03)))
    jugular = ((-0.22, -0.02), (-0.20, 0.12), (-0.12, 0.16), tip)
    subclavian = ((-0.75, 0.05), (-0.45, 0.20), (-0.10, 0.12), tip)
    return [Stroke(curve(*(jugular if rng.random() < 0.6 else subclavian)), 0.0055, 0.17)]


def _gastric_tube(rng: np.random.Generator) -> list[Stroke]:
    x = 0.03 + float(rng.normal(0, 0.01))
    end = (0.30 + float(rng.normal(0, 0.05)), 0.90 + float(rng.normal(0, 0.03)))
    path = curve((x - 0.03, -0.02), (x, 0.35), (x, 0.70), (x + 0.05, 0.88), end)
    return [Stroke(path, 0.0055, 0.13)]


def _sternal_wires(rng: np.random.Generator) -> list[Stroke]:
    heights = 0.30 + 0.075 * np.arange(5) + rng.normal(0, 0.005, 5)
    return [
        Stroke(circle((0.005 * i, float(y)), 0.013), 0.003, 0.30) for i, y in enumerate(heights)
    ]


def _pacemaker(rng: np.random.Generator) -> list[Stroke]:
    x, y = 0.58 + float(rng.normal(0, 0.03)), 0.19 + float(rng.normal(0, 0.015))
    atrial = curve((x, y), (0.40, 0.10), (-0.10, 0.10), (-0.16, 0.35), (-0.12, 0.58))
    ventricular = curve((x, y), (0.35, 0.08), (-0.14, 0.10), (-0.16, 0.70), (0.22, 0.74))
    return [
        Stroke(atrial, 0.005, 0.22),
        Stroke(ventricular, 0.005, 0.22),
        Stroke(circle((x, y), 0.020), 0.040, 0.40),
        Stroke(circle((x, y + 0.006), 0.010), 0.020, 0.52),
    ]
