"""Courses for real stays: findings that follow a stay's own EHR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from bench.data.vocabulary import EHR_VARIABLES
from bench.simulating.course import N_HOURS, simulate_course
from bench.simulating.population import ACUTE_PROCESSES, Course
from bench.simulating.streams import Tag, stream

TYPICAL: Final = {
    "Respiratory rate": (20, 5),
    "Oxygen saturation": (97, 3),
    "Fraction inspired oxygen": (0.45, 0.15),
    "Positive end-expiratory pressure": (6, 3),
    "Heart Rate": (88, 18),
    "Temperature": (37, 0.6),
    "White blood cell count": (11, 6),
    "Mean blood pressure": (77, 14),
    "Creatinine": (1.3, 1.0),
    "Glascow coma scale motor response": (5.5, 1.0),
    "Platelets": (190, 90),
}
"""Mean and spread by which a stay's values are judged high or low."""

RESPIRATORY: Final = {
    "Respiratory rate": 0.4,
    "Oxygen saturation": -0.4,
    "Fraction inspired oxygen": 0.5,
    "Positive end-expiratory pressure": 0.4,
    "Heart Rate": 0.2,
}
INFECTION: Final = {"Temperature": 0.6, "White blood cell count": 0.5}
SHARE: Final = {
    "edema": (0.5, 0.1),
    "effusion": (0.3, 0.05),
    "atelectasis": (0.3, 0.1),
    "consolidation": (0.25, 0.3),
    "pneumonia": (0.2, 0.4),
    "opacity": (0.3, 0.2),
}
"""How much respiratory load and infection raise a process."""

ORGAN_VARIABLE: Final = {
    "shock": ("Mean blood pressure", -1.0),
    "renal": ("Creatinine", 1.0),
    "neuro": ("Glascow coma scale motor response", -1.0),
    "liver": ("Platelets", -1.0),
}


def course_from_ehr(
    seed: int,
    stays: Sequence[int],
    subjects: Sequence[int],
    ages: np.ndarray,
    ehr: list[np.ndarray],
) -> Course:
    """Latents whose rises and falls are those of each stay's own charted values.

    Args:
        seed: the cohort's
        stays, subjects: ids of the random streams
        ages: years [S]
        ehr: per stay float [L, 38], hourly cleaned values, NaN where never charted yet
    """
    base = simulate_course(seed, stays, subjects, ages)
    loads = np.stack([_score(values, RESPIRATORY) for values in ehr])
    infections = np.stack([_score(values, INFECTION) for values in ehr])
    acute = np.empty_like(base.acute)
    for p, name in enumerate(ACUTE_PROCESSES):
        by_load, by_infection = SHARE[name.partition("_")[0]]
        side = np.array([0.3 + 1.4 * stream(seed, Tag.TRAJECTORY, s, 2, p).random() for s in stays])
        driven = side[:, None] * (by_load * loads + by_infection * infections)
        acute[:, p] = np.maximum(driven + 0.5 * base.acute[:, p], 0)
    organs = np.stack(
        [np.stack([_score(v, {name: sign}) for name, sign in ORGAN_VARIABLE.values()]) for v in ehr]
    )
    return Course(acute, base.chronic, base.heart, organs.astype(np.float32), base.dose_pulses)


def _score(values: np.ndarray, weights: dict[str, float]) -> np.ndarray:
    """Weighted sum of z-scores, float [N_HOURS]; what is not charted counts as typical."""
    total = np.zeros(len(values))
    for name, weight in weights.items():
        mean, spread = TYPICAL[name]
        z = (values[:, EHR_VARIABLES.index(name)] - mean) / spread
        total += weight * np.clip(np.nan_to_num(z), -3, 3)
    return np.pad(total, (0, max(N_HOURS - len(total), 0)), mode="edge")[:N_HOURS]
