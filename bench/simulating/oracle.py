"""The best any method could do on a simulated cohort: probabilities given the planted latents.

Progression: with the true change dq, the perceived change u of a mentioned disease has density

    p(u | mentioned)  ~  phi((u - dq) / r)  Phi((m0 + slope |u| - cut) / sd)

integrated above the 'worsened' threshold, below the 'improved' one, and between. Outcomes: their
probabilities are part of the truth.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from scipy.stats import norm

from bench.data.cohort import IDENTIFIERS, Cohort
from bench.data.vocabulary import DISEASES, Progression, Task
from bench.errors import UserError
from bench.metrics import evaluate
from bench.simulating.labels import (
    HEART,
    HEART_MENTION_NOISE,
    HEART_MENTION_SLOPE,
    MENTION_NOISE,
    MENTION_SLOPE,
    READER_NOISE,
    Thresholds,
)

GRID: Final = np.linspace(-6, 6, 601)
TINY: Final = 1e-12


def progression_probabilities(
    dq: np.ndarray, m0: np.ndarray, thresholds: Thresholds, reader_noise: float = 1.0
) -> np.ndarray:
    """P(worsened, improved, no change | mentioned, latents), float64 [P, 7, 3], of [P, 7] each."""
    p = np.empty((*dq.shape, len(Progression)))
    for k in range(len(DISEASES)):
        is_heart = k == HEART
        slope = HEART_MENTION_SLOPE if is_heart else MENTION_SLOPE
        sd = HEART_MENTION_NOISE if is_heart else MENTION_NOISE
        u = dq[:, k, None] + READER_NOISE[k] * reader_noise * GRID
        mentioned = norm.cdf((m0[:, k, None] + slope * np.abs(u) - thresholds.mention[k]) / sd)
        density = norm.pdf(GRID) * mentioned
        worsened, improved = u >= thresholds.worsened[k], u <= thresholds.improved[k]
        p[:, k, Progression.WORSENED] = (density * worsened).sum(axis=1)
        p[:, k, Progression.IMPROVED] = (density * improved).sum(axis=1)
        p[:, k, Progression.NO_CHANGE] = (density * ~(worsened | improved)).sum(axis=1)
    return (p + TINY) / (p + TINY).sum(axis=-1, keepdims=True)


def oracle_logits(raw: Path, cohort: Cohort, task: Task, keys: pd.Series) -> np.ndarray:
    """The oracle's logits for samples of a cohort made from a simulated folder.

    Args:
        raw: the folder that bench.simulate wrote
        cohort: what was prepared from it
        task: decides what a sample is
        keys: `stay_key` or `pair_key` of the samples

    Returns:
        float64 [N, 21], [N, 1] or [N, 4].

    Raises:
        UserError: the truth of a sample is not in `raw`.
    """
    identifiers = json.loads((cohort.path / IDENTIFIERS).read_text())
    if task.is_icu:
        row = pd.Series(cohort.stays.index, index=cohort.stays["stay_key"])[keys]
        truth = pd.read_csv(raw / "truth" / "stays.csv").set_index("stay_id")
        wanted = [identifiers["stays"][k] for k in row]
        _check_known(wanted, truth.index, raw)
        return _outcome_logits(task, truth.loc[wanted])
    row = pd.Series(cohort.pairs.index, index=cohort.pairs["pair_key"])[keys]
    pairs = cohort.pairs.loc[row]
    dicom = np.array(identifiers["films"], dtype=object)
    wanted = list(zip(dicom[pairs["film_1"]], dicom[pairs["film_2"]], strict=True))
    truth = pd.read_csv(raw / "truth" / "pairs.csv").set_index(["previous", "current"])
    _check_known(wanted, truth.index, raw)
    return np.log(_pair_probabilities(raw, truth.loc[wanted])).reshape(len(wanted), -1)


def _check_known(wanted: list, known: pd.Index, raw: Path) -> None:  # type: ignore[type-arg]
    missing = [name for name in wanted if name not in known]
    if missing:
        raise UserError(f"{raw}/truth knows nothing of {len(missing)} samples: another simulation?")


def _outcome_logits(task: Task, truth: pd.DataFrame) -> np.ndarray:
    if task is Task.MORTALITY:
        p = truth["p_death"].to_numpy().clip(TINY, 1 - TINY)
        return np.log(p / (1 - p))[:, None]
    return np.log(truth[[f"p_los_{k}" for k in range(4)]].to_numpy() + TINY)


def _pair_probabilities(raw: Path, pairs: pd.DataFrame) -> np.ndarray:
    fixed = json.loads((raw / "truth" / "params.json").read_text())
    dq = pairs[[f"dq_{disease}" for disease in DISEASES]].to_numpy()
    m0 = pairs[[f"m0_{disease}" for disease in DISEASES]].to_numpy()
    thresholds = Thresholds(**fixed["thresholds"])
    return progression_probabilities(dq, m0, thresholds, fixed["knobs"]["reader_noise"])


def report(raw: Path) -> str:
    """The oracle's metrics on every clean stay and pair of a simulated folder, as a table.

    Raises:
        UserError: the folder holds no truth.
    """
    if not (raw / "truth" / "stays.csv").is_file():
        raise UserError(f"{raw} holds no truth/stays.csv: name a folder that bench.simulate wrote")
    stays = pd.read_csv(raw / "truth" / "stays.csv")
    stays = stays[stays["icu_sample"]]
    pairs = pd.read_csv(raw / "truth" / "pairs.csv")
    days = stays["los_days"].to_numpy()
    cases = {
        Task.DISEASE_PROGRESSION: (
            np.log(_pair_probabilities(raw, pairs)), pairs[list(DISEASES)].to_numpy(),
        ),
        Task.MORTALITY: (
            _outcome_logits(Task.MORTALITY, stays), stays["died"].to_numpy().astype(np.int64),
        ),
        Task.LENGTH_OF_STAY: (
            _outcome_logits(Task.LENGTH_OF_STAY, stays), np.digitize(days, (3.0, 4.0, 6.0)),
        ),
    }  # fmt: skip
    lines = ["oracle (SIMULATED cohort; all stays, no split)"]
    for task, (logits, labels) in cases.items():
        values = evaluate(task, logits, labels)
        scores = "  ".join(f"{name} {v:.3f}" for name, v in values.items() if "[" not in name)
        lines.append(f"{task}: {scores}")
    association = json.loads((raw / "truth" / "params.json").read_text()).get("association")
    if association is not None:
        lines.append(_ceilings(**association))
    return "\n".join(lines)


def _ceilings(v: float, r2: float, r2_ebe: list[float]) -> str:
    """What the engine image-longitudinal planted, in words."""
    shares = ", ".join(f"{share:.3f}" for share in r2_ebe)
    return (
        f"association: films explain at most {r2:.3f} of the variance of anything the series hold "
        f"(v = {v:g}); at most {shares} of random effects estimated from a series"
    )
