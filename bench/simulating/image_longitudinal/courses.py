"""Two courses a stay, as like as the dial says: films show one, everything else follows the other.

Whatever chance decides in a course (random effects, when and how large insults are, wandering,
chronic findings, the heart, frailty, organs) comes from standard normals z. What the films show is
made of z; EHR, reports and outcomes are made of eta_v, the noisy copy of every one of them. So no
function of what films show explains more than 1/(1+v) of the variance of any function of the other
course (Gebelein's inequality), and at v = 0 the two are one. Known to both are a subject's age,
sex and build and the hours of films.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
from scipy.special import gammaincinv
from scipy.stats import norm

from bench.simulating.course import (
    BURN_IN,
    DOSE_SD,
    EFFUSION_FROM_EDEMA,
    ETA_SD,
    FRAILTY_ON_RECOVERY,
    HEART_HOURS,
    HEART_SD,
    INSULTS_BY_FRAILTY,
    N_HOURS,
    ORGAN_BY_FRAILTY,
    ORGAN_HOURS,
    ORGAN_SD,
    OU_HOURS,
    OU_SD,
    PRESENT,
    STEPS_PER_HOUR,
    low_pass,
    ornstein_uhlenbeck,
    process_of,
)
from bench.simulating.image_longitudinal.association import (
    EBE_RETEST,
    ceiling,
    noise_variance,
    noisy_copy,
)
from bench.simulating.image_longitudinal.stable_step import extrapolated_step
from bench.simulating.physiology import EARLY_SHARE
from bench.simulating.population import ACUTE_PROCESSES, ORGANS, Course, Courses
from bench.simulating.streams import Tag, stream

N_PROCESSES: Final = len(ACUTE_PROCESSES)
MAX_INSULTS: Final = 32
"""Of a process in a stay after admission; three times what the frailest have."""

STAY_NORMALS: Final = {
    "frailty": (),
    "eta": (N_PROCESSES, 3),
    "admission": (N_PROCESSES, 3),
    "gaps": (N_PROCESSES, MAX_INSULTS),
    "sizes": (N_PROCESSES, MAX_INSULTS),
    "noise": (N_PROCESSES + 1 + len(ORGANS), BURN_IN + N_HOURS),
}
"""What is drawn for a stay. admission: whether an insult comes then, when, and how large it is."""

SUBJECT_NORMALS: Final = {"chronic": (N_PROCESSES, 2), "heart": ()}
"""What is drawn for a subject. chronic: whether a process has a chronic part, and how large."""

Normals = dict[str, np.ndarray]
"""Standard normals [S, ...] by the names above."""


@dataclass(frozen=True)
class AssociatedCourses:
    """Makes the courses of stays whose films explain at most `r2` of everything else."""

    r2: float

    def __call__(
        self, seed: int, stays: list[int], subjects: list[int], ages: np.ndarray, dynamics: float
    ) -> Courses:
        """Courses of the stays; films show z, the rest follows its noisy copy."""
        v = noise_variance(self.r2)
        z, eta_v = draw_normals(seed, stays, subjects, v)
        is_early = np.array([stream(seed, Tag.EHR, stay, 0).random() for stay in stays])
        rng = [stream(seed, Tag.ASSOCIATION, stay, 2) for stay in stays]
        early = [noisy_copy(norm.ppf(u), v, r) for u, r in zip(is_early, rng, strict=True)]
        return Courses(
            told=course_of(eta_v, ages, dynamics),
            shown=course_of(z, ages, dynamics),
            frailty=eta_v["frailty"],
            early=norm.cdf(early) < EARLY_SHARE,
            truth={
                f"{kind}_{name}": normals[name].astype(np.float32)
                for kind, normals in (("z", z), ("eta", eta_v))
                for name in ("frailty", "eta", "chronic", "heart")
            },
            parameters={
                "association": {
                    "v": v,
                    "r2": ceiling(v),
                    "r2_ebe": [share * ceiling(v) for share in EBE_RETEST],
                }
            },
        )


def draw_normals(
    seed: int, stays: Sequence[int], subjects: Sequence[int], v: float
) -> tuple[Normals, Normals]:
    """z and eta_v of the stays; a subject's own are the same in all its stays."""
    z: Normals = {}
    eta_v: Normals = {}
    for ids, shapes, part in ((stays, STAY_NORMALS, 0), (subjects, SUBJECT_NORMALS, 1)):
        n = sum(prod(shape) for shape in shapes.values())
        rngs = [stream(seed, Tag.ASSOCIATION, i, part) for i in ids]
        flat = np.stack([rng.standard_normal(n) for rng in rngs])
        copy = np.stack([noisy_copy(row, v, rng) for row, rng in zip(flat, rngs, strict=True)])
        z |= _split(flat, shapes)
        eta_v |= _split(copy, shapes)
    return z, eta_v


def _split(flat: np.ndarray, shapes: dict[str, tuple[int, ...]]) -> Normals:
    ends = np.cumsum([prod(shape) for shape in shapes.values()])[:-1]
    parts = np.split(flat, ends, axis=1)
    return {
        name: part.reshape(len(flat), *shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def course_of(normals: Normals, ages: np.ndarray, dynamics: float = 1.0) -> Course:
    """The course that standard normals decide: as `simulate_course`, by quantiles."""
    f = normals["frailty"]
    eta = normals["eta"].copy()
    own = np.sqrt(1 - FRAILTY_ON_RECOVERY**2)
    eta[..., 1] = FRAILTY_ON_RECOVERY * f[:, None] + own * eta[..., 1]
    pulses = dynamics * _insults(normals)
    noise = normals["noise"]
    wander = ornstein_uhlenbeck(noise[:, :N_PROCESSES], OU_SD, OU_HOURS)
    central = integrate(pulses, eta * ETA_SD)
    acute = np.where(central > PRESENT, np.maximum(central + wander, 0), 0)
    at_rest = np.clip(0.1 + 0.25 * normals["heart"] + 0.004 * (ages - 60), 0, 1)
    heart = at_rest[:, None] + 0.30 * low_pass(acute[:, 0], 24.0)
    heart += ornstein_uhlenbeck(noise[:, N_PROCESSES], HEART_SD, HEART_HOURS)
    organs = ORGAN_BY_FRAILTY * f[:, None, None] + ornstein_uhlenbeck(
        noise[:, N_PROCESSES + 1 :], ORGAN_SD, ORGAN_HOURS
    )
    kept = slice(BURN_IN, None)
    return Course(
        acute=acute[..., kept].astype(np.float32),
        chronic=_chronic(normals["chronic"]).astype(np.float32),
        heart=heart[..., kept].astype(np.float32),
        organs=organs[..., kept].astype(np.float32),
        dose_pulses=pulses[..., kept].astype(np.float32),
    )


def _insults(normals: Normals) -> np.ndarray:
    """Doses by process and hour of burn-in and stay, float64 [S, 11, BURN_IN + N_HOURS]."""
    processes = [process_of(name) for name in ACUTE_PROCESSES]
    probability = np.array([p.admission_probability for p in processes])
    log_dose = np.array([p.log_dose for p in processes])[:, None]
    per_hour = np.array([p.insults_per_day for p in processes]) / 24
    rate = per_hour * np.exp(INSULTS_BY_FRAILTY * normals["frailty"])[:, None]
    comes, when, size = np.moveaxis(normals["admission"], -1, 0)
    # Exponential gaps between insults make their number Poisson.
    later = np.cumsum(-norm.logsf(normals["gaps"]) / rate[..., None], axis=-1)
    hours = np.concatenate([norm.cdf(when)[..., None] * (BURN_IN + 4), BURN_IN + later], axis=-1)
    happens = np.concatenate([(norm.cdf(comes) < probability)[..., None], later < N_HOURS], axis=-1)
    sizes = np.concatenate([size[..., None], normals["sizes"]], axis=-1)
    stay, process, _ = where = np.nonzero(happens)
    pulses = np.zeros((*rate.shape, BURN_IN + N_HOURS))
    doses = np.exp(log_dose + DOSE_SD * sizes)
    np.add.at(pulses, (stay, process, hours[where].astype(np.int64)), doses[where])
    return pulses


def _chronic(normals: np.ndarray) -> np.ndarray:
    """Chronic severities [S, 11]: present or not, and then a gamma variable."""
    processes = [process_of(name) for name in ACUTE_PROCESSES]
    present = norm.cdf(normals[..., 0]) < [p.chronic_probability for p in processes]
    size = 0.5 * gammaincinv(2.0, norm.cdf(normals[..., 1]))
    return present * size * [p.chronic_scale for p in processes]


def integrate(pulses: np.ndarray, eta: np.ndarray) -> np.ndarray:
    """Central compartment C [S, 11, hours] of doses by the hour, by the stable step."""
    processes = [process_of(name) for name in ACUTE_PROCESSES]
    typical = np.array([(p.ka, p.recovery, p.half_saturation) for p in processes])
    ka, recovery, half = np.moveaxis(typical * np.exp(eta), -1, 0)
    is_effusion = np.array([name.startswith("effusion") for name in ACUTE_PROCESSES])
    h = 1 / STEPS_PER_HOUR
    kept = np.exp(-ka * h / 2)
    depot, central = np.zeros(pulses.shape[:2]), np.zeros(pulses.shape[:2])
    out = np.empty(pulses.shape)
    for hour in range(pulses.shape[-1]):
        depot = depot + pulses[..., hour]
        for _ in range(STEPS_PER_HOUR):
            leak = EFFUSION_FROM_EDEMA * central[:, :1] * is_effusion * h / 2
            halfway = depot * kept
            inflow = (depot - halfway + leak, halfway * (1 - kept) + leak)
            central = extrapolated_step(central, inflow, recovery, half, h)
            depot = halfway * kept
        out[..., hour] = central
    return out
