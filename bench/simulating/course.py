"""The latent course: nonlinear mixed-effects recovery after insults, plus Ornstein-Uhlenbeck noise.

    dD/dt = -ka D + sum_j d_j delta(t - u_j)        depot
    dC/dt =  ka D - V C / (IC + C)                  saturable recovery
    x = max(0, C + OU) where C > .02                acute severity

Eleven acute processes, a heart size and four organ latents per stay, hourly from admission.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.signal import lfilter

from bench.simulating.population import ACUTE_PROCESSES, ORGANS, Course
from bench.simulating.streams import Tag, stream

N_HOURS: Final = 264
BURN_IN: Final = 24


@dataclass(frozen=True)
class Process:
    """Typical behaviour of one acute process; rates per hour, insults per day."""

    admission_probability: float
    insults_per_day: float
    log_dose: float
    ka: float
    recovery: float
    half_saturation: float
    chronic_probability: float
    chronic_scale: float


PROCESSES: Final = {
    "edema": Process(0.50, 0.22, -0.05, 0.22, 0.030, 0.35, 0.20, 0.30),
    "effusion": Process(0.22, 0.10, -0.10, 0.08, 0.012, 0.40, 0.30, 0.45),
    "atelectasis": Process(0.25, 0.15, -0.30, 0.25, 0.018, 0.40, 0.30, 0.45),
    "consolidation": Process(0.12, 0.07, -0.10, 0.12, 0.013, 0.45, 0.12, 0.40),
    "pneumonia": Process(0.10, 0.06, -0.05, 0.10, 0.010, 0.50, 0.03, 0.25),
    "opacity": Process(0.20, 0.11, -0.40, 0.20, 0.020, 0.40, 0.35, 0.50),
}

DOSE_SD: Final = 0.4
ETA_SD: Final = (0.30, 0.45, 0.30)
FRAILTY_ON_RECOVERY: Final = -0.6
"""Correlation of the recovery rate's random effect with frailty: frail means slow recovery."""

INSULTS_BY_FRAILTY: Final = 0.35
EFFUSION_FROM_EDEMA: Final = 0.004
OU_SD, OU_HOURS = 0.06, 18.0
HEART_SD, HEART_HOURS = 0.10, 60.0
ORGAN_SD, ORGAN_HOURS, ORGAN_BY_FRAILTY = 0.9, 36.0, 0.30
PRESENT = 0.02
"""Below this depot-free severity a process counts as absent."""

STEPS_PER_HOUR: Final = 4


def process_of(name: str) -> Process:
    """The process of an entry of `ACUTE_PROCESSES`."""
    return PROCESSES[name.partition("_")[0]]


def frailty(seed: int, stays: Sequence[int]) -> np.ndarray:
    """Frailty f ~ N(0, 1) of each stay, float64 [S]."""
    return np.array([stream(seed, Tag.TRAJECTORY, stay, 0).standard_normal() for stay in stays])


def simulate_course(
    seed: int,
    stays: Sequence[int],
    subjects: Sequence[int],
    ages: np.ndarray,
    dynamics: float = 1.0,
) -> Course:
    """Latents of the given stays from admission to hour `N_HOURS`.

    Args:
        seed: the cohort's
        stays, subjects: ids that select the random streams (chronic state and heart belong to a
            subject, everything acute to a stay)
        ages: years [S]
        dynamics: scales all insult doses
    """
    f = frailty(seed, stays)
    n, n_processes, total = len(stays), len(ACUTE_PROCESSES), BURN_IN + N_HOURS
    eta = np.empty((n, n_processes, 3))
    pulses = np.zeros((n, n_processes, total))
    noise = np.empty((n, n_processes + 1 + len(ORGANS), total))
    chronic = np.empty((n, n_processes))
    heart_0 = np.empty(n)
    for i, (stay, subject) in enumerate(zip(stays, subjects, strict=True)):
        rng = stream(seed, Tag.TRAJECTORY, stay, 1)
        eta[i] = rng.standard_normal((n_processes, 3))
        pulses[i] = _insults(rng, f[i]) * dynamics
        noise[i] = rng.standard_normal(noise.shape[1:])
        rng = stream(seed, Tag.CHRONIC, subject)
        chronic[i] = _chronic(rng)
        heart_0[i] = np.clip(0.1 + 0.25 * rng.standard_normal() + 0.004 * (ages[i] - 60), 0, 1)
    eta[..., 1] = (
        FRAILTY_ON_RECOVERY * f[:, None] + np.sqrt(1 - FRAILTY_ON_RECOVERY**2) * eta[..., 1]
    )
    central = _integrate(pulses, eta * ETA_SD)
    wander = ornstein_uhlenbeck(noise[:, :n_processes], OU_SD, OU_HOURS)
    acute = np.where(central > PRESENT, np.maximum(central + wander, 0), 0)
    heart = heart_0[:, None] + 0.30 * low_pass(acute[:, 0], 24.0)
    heart += ornstein_uhlenbeck(noise[:, n_processes], HEART_SD, HEART_HOURS)
    organs = ORGAN_BY_FRAILTY * f[:, None, None] + ornstein_uhlenbeck(
        noise[:, n_processes + 1 :], ORGAN_SD, ORGAN_HOURS
    )
    kept = slice(BURN_IN, None)
    return Course(
        acute=acute[..., kept].astype(np.float32),
        chronic=chronic.astype(np.float32),
        heart=heart[..., kept].astype(np.float32),
        organs=organs[..., kept].astype(np.float32),
        dose_pulses=pulses[..., kept].astype(np.float32),
    )


def _insults(rng: np.random.Generator, f: float) -> np.ndarray:
    """Doses by process and hour of burn-in and stay, float64 [11, BURN_IN + N_HOURS]."""
    pulses = np.zeros((len(ACUTE_PROCESSES), BURN_IN + N_HOURS))
    for p, name in enumerate(ACUTE_PROCESSES):
        process = process_of(name)
        hours = []
        if rng.random() < process.admission_probability:
            hours.append(rng.uniform(0, BURN_IN + 4))
        rate = process.insults_per_day * np.exp(INSULTS_BY_FRAILTY * f)
        n_later = rng.poisson(rate * N_HOURS / 24)
        hours += list(BURN_IN + rng.uniform(0, N_HOURS, n_later))
        doses = rng.lognormal(process.log_dose, DOSE_SD, len(hours))
        np.add.at(pulses[p], np.array(hours, dtype=np.int64), doses)
    return pulses


def _chronic(rng: np.random.Generator) -> np.ndarray:
    """Chronic severities of a subject, float64 [11]."""
    processes = [process_of(name) for name in ACUTE_PROCESSES]
    present = rng.random(len(processes)) < [p.chronic_probability for p in processes]
    size = rng.gamma(2.0, 0.5, len(processes)) * [p.chronic_scale for p in processes]
    return present * size


def _integrate(pulses: np.ndarray, eta: np.ndarray) -> np.ndarray:
    """Central compartment C [S, 11, hours]; the depot decays exactly, recovery by Euler steps."""
    processes = [process_of(name) for name in ACUTE_PROCESSES]
    typical = np.array([(p.ka, p.recovery, p.half_saturation) for p in processes])
    ka, recovery, half = np.moveaxis(typical * np.exp(eta), -1, 0)
    effusion = np.array([name.startswith("effusion") for name in ACUTE_PROCESSES])
    step = 1 / STEPS_PER_HOUR
    decay = np.exp(-ka * step)
    depot, central = np.zeros(pulses.shape[:2]), np.zeros(pulses.shape[:2])
    out = np.empty(pulses.shape)
    for hour in range(pulses.shape[-1]):
        depot = depot + pulses[..., hour]
        for _ in range(STEPS_PER_HOUR):
            absorbed = depot * (1 - decay)
            depot = depot * decay
            leak = EFFUSION_FROM_EDEMA * central[:, :1] * effusion
            change = absorbed + step * (leak - recovery * central / (half + central))
            central = np.maximum(central + change, 0)
        out[..., hour] = central
    return out


def ornstein_uhlenbeck(noise: np.ndarray, sd: float, hours: float) -> np.ndarray:
    """Stationary AR(1) over the last axis (hourly) from standard normal noise."""
    a = np.exp(-1 / hours)
    scaled = noise * np.sqrt(1 - a**2)
    scaled[..., 0] = noise[..., 0]
    return sd * lfilter([1.0], [1.0, -a], scaled, axis=-1)


def low_pass(x: np.ndarray, hours: float) -> np.ndarray:
    """First-order low-pass over the last axis (hourly), starting from its first value."""
    a = np.exp(-1 / hours)
    start = x[..., :1] * a
    return lfilter([1 - a], [1.0, -a], x, axis=-1, zi=start)[0]
