"""From the runs of a table to metric values: on the test set and in resamples of its subjects."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from bench import significance
from bench.contract import Preset
from bench.data.vocabulary import Task
from bench.errors import UserError
from bench.metrics import MIN_LABELS, MIN_LABELS_DEMO, Scorer, stored_arrays
from bench.store import Status
from tables.definitions import Labels, Row, Setting, Table, request
from tables.runs import FoundRun, Selection, find_runs

BOOTSTRAP_SEED = 2025
"""Seed of every table's resamples, printed in its footer."""

Key = tuple[Row, int]
"""A run of a table's setting: its row and its seed."""


@dataclass(frozen=True)
class TaskRuns:
    """All runs of one setting of a table, and the test predictions of those that are done.

    found: every wanted run
    scorers: test predictions of the done ones, the same samples in the same order
    labels: int [N, 7] or [N], in that order
    subject: int [N]; 0..S-1 in the order of the subjects' keys
    min_labels: labels of every class that a disease needs to enter AUROC and AUPRC
    """

    setting: Setting
    found: dict[Key, FoundRun]
    scorers: dict[Key, Scorer]
    labels: np.ndarray
    subject: np.ndarray
    min_labels: int

    @property
    def task(self) -> Task:
        """The task of all runs."""
        return self.setting.task

    @property
    def n_subjects(self) -> int:
        """Subjects in the test set."""
        return int(self.subject.max(initial=-1)) + 1

    def of_row(self, row: Row) -> dict[int, FoundRun]:
        """A row's runs by seed."""
        return {seed: run for (of_row, seed), run in self.found.items() if of_row == row}


def collect(table: Table, setting: Setting, selection: Selection) -> TaskRuns:
    """Find a setting's runs and read the test predictions of those that are done.

    Raises:
        UserError: two runs predict different test samples.
    """
    keys = [(row, seed) for row in table.rows for seed in selection.seeds]
    wanted = [
        request(row, setting, seed, selection.preset, selection.recipe, selection.overrides)
        for row, seed in keys
    ]
    found = dict(zip(keys, find_runs(selection, wanted), strict=True))
    min_labels = MIN_LABELS_DEMO if selection.preset is Preset.DEMO else MIN_LABELS
    predictions = {
        key: _predictions(run, table.labels) for key, run in found.items() if run.is_done
    }
    if not predictions:
        nothing = np.zeros(0, dtype=np.int64)
        return TaskRuns(setting, found, {}, nothing, nothing, min_labels)
    first = next(iter(predictions.values()))
    if first.empty:
        raise UserError(f"{table.name}: the test set has no pair with {table.labels} labels")
    labels = stored_arrays(first)[1]
    # By key: neither the order of records nor that of the cohort's rows moves a resample.
    subject = np.unique(first["subject"].to_numpy(str), return_inverse=True)[1]
    scorers = {}
    for key, predicted in predictions.items():
        if not predicted["sample"].equals(first["sample"]):
            raise UserError(f"{found[key].folder} has other test samples: delete it, run it again")
        logits = stored_arrays(predicted)[0]
        if np.isfinite(logits).all():
            scorers[key] = Scorer.of(setting.task, logits, labels, subject, min_labels)
        else:
            reason = "its predictions are not finite; redo it with --rerun done"
            found[key] = replace(found[key], status=Status.FAILED, reason=reason)
    return TaskRuns(setting, found, scorers, labels, subject, min_labels)


def _predictions(run: FoundRun, labels: Labels) -> pd.DataFrame:
    assert run.files is not None
    predictions = run.files.read_predictions()
    if labels is not Labels.ALL:
        predictions = predictions[predictions["from_gold"] == (labels is Labels.GOLD)]
    return predictions.sort_values("sample", ignore_index=True)


@dataclass(frozen=True)
class MetricScores:
    """One metric of a task for its R done runs.

    place: run to its place among the R
    values: [R]
    resampled: [R, B]; empty if the metric is undefined on the test set itself
    redrawn_share: share of resamples in which it was undefined and that were drawn again
    """

    runs: TaskRuns
    metric: str
    place: dict[Key, int]
    values: np.ndarray
    resampled: np.ndarray
    redrawn_share: float = 0.0

    @property
    def is_defined(self) -> bool:
        """Whether the metric has a value for every run."""
        return not np.isnan(self.values).any()

    def places(self, row: Row) -> dict[int, int]:
        """Seeds of a row's done runs, with their places."""
        return {seed: place for (of_row, seed), place in self.place.items() if of_row == row}


def score(runs: TaskRuns, names: list[str], n_resamples: int) -> list[MetricScores]:
    """Compute metrics of all done runs, and in `n_resamples` resamples, the same for all runs."""
    scorers = list(runs.scorers.values())
    place = {key: i for i, key in enumerate(runs.scorers)}
    if not scorers:
        nothing = np.zeros((0, n_resamples))
        return [MetricScores(runs, name, place, nothing[:, 0], nothing) for name in names]

    def values_of(metrics: list[str], counts: np.ndarray) -> np.ndarray:
        return np.stack([scorer.values(metrics, counts) for scorer in scorers], axis=1)

    values = values_of(names, np.ones((runs.n_subjects, 1)))[..., 0]
    defined = [
        name for name, of_runs in zip(names, values, strict=True) if np.isfinite(of_runs).all()
    ]
    resampled, shares = {}, {}
    if defined:
        resamples = significance.bootstrap(
            lambda counts: values_of(defined, counts),
            runs.n_subjects,
            n_resamples,
            np.random.default_rng(BOOTSTRAP_SEED),
        )
        resampled = dict(zip(defined, resamples.values, strict=True))
        shares = dict(zip(defined, resamples.redrawn_share.tolist(), strict=True))
    nothing = np.zeros((len(scorers), 0))
    return [
        MetricScores(
            runs, name, place, values[m], resampled.get(name, nothing), shares.get(name, 0.0)
        )
        for m, name in enumerate(names)
    ]
