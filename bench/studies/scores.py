"""What studies of trained runs share: a metric with its interval, and films exchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from bench.contract_checks import with_films_exchanged
from bench.data.cohort import Cohort
from bench.data.vocabulary import Split, Task
from bench.metrics import Scorer, stored_arrays
from bench.plan import PlannedRun
from bench.runner import Run
from bench.significance import bootstrap, percentile_interval, two_sided_p

N_RESAMPLES = 2000

METRIC = {Task.DISEASE_PROGRESSION: "auroc", Task.MORTALITY: "auroc", Task.LENGTH_OF_STAY: "kappa"}
"""What a study ranks by."""

CHANCE = {"auroc": 0.5, "kappa": 0.0}


@dataclass(frozen=True)
class Scores:
    """A metric of R runs on the same test samples: values [R], and [R, B] in resamples of subjects.

    The same subjects are drawn for every `Scores` of a task, so differences are paired.
    """

    metric: str
    values: np.ndarray
    resampled: np.ndarray

    @property
    def mean(self) -> float:
        """Mean over runs."""
        return float(self.values.mean())

    @property
    def sd(self) -> float:
        """Standard deviation over runs; 0 for one."""
        return float(self.values.std(ddof=1)) if len(self.values) > 1 else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean over runs."""
        return percentile_interval(self.resampled.mean(axis=0))

    def minus(self, other: Scores) -> tuple[float, float, float, float]:
        """Difference of the means to another's, its interval and its p."""
        drawn = self.resampled.mean(axis=0) - other.resampled.mean(axis=0)
        return (self.mean - other.mean, *percentile_interval(drawn), two_sided_p(drawn))


def scores_of(task: Task, metric: str, predictions: Sequence[pd.DataFrame]) -> Scores:
    """Score tables with columns sample, subject, label_* and logit_*, one a run, rows alike."""
    subjects, subject = np.unique(predictions[0]["subject"], return_inverse=True)
    scorers = [Scorer.of(task, *stored_arrays(p), subject) for p in predictions]

    def statistic(counts: np.ndarray) -> np.ndarray:
        return np.stack([scorer.values([metric], counts) for scorer in scorers], axis=1)

    whole = statistic(np.ones((len(subjects), 1)))[0, :, 0]
    drawn = bootstrap(statistic, len(subjects), N_RESAMPLES, np.random.default_rng(0))
    return Scores(metric, whole, drawn.values[0])


def with_logits(predictions: pd.DataFrame, logits: np.ndarray) -> pd.DataFrame:
    """The same table with other logits, [N, ...]."""
    columns = logits.reshape(len(logits), -1).T
    return predictions.assign(**{f"logit_{k}": column for k, column in enumerate(columns)})


def exchanged_logits(planned: PlannedRun, cohort: Cohort) -> np.ndarray:
    """Test logits [N, 21] of a finished progression run that sees the films of each pair exchanged.

    Rows follow the run's stored predictions.
    """
    run = Run(planned.config, cohort, torch.device("cpu"), threads=1)
    run.model.load_state_dict(torch.load(planned.files.best, weights_only=True))
    run.model.eval()
    positions = run.samples.indices(Split.TEST)
    logits = []
    with torch.inference_mode():
        for chunk in np.array_split(positions, max(len(positions) // 64, 1)):
            batch = with_films_exchanged(run.samples.batch(chunk).without_targets())
            logits.append(run.model(batch).logits.flatten(1).numpy())
    return np.concatenate(logits)
