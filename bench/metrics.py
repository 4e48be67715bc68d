"""Metrics of the paper, from stored logits: for the samples as they are and for resampled subjects.

Definitions are scikit-learn's; precision, recall and F1 are macro over all classes with
zero_division=0. Every metric is a function of sums over samples, so B resamples of S subjects cost
a product of per-subject sums with `counts`: float64 [S, B], how often each subject was drawn.
NaN marks an undefined value: a class has no sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.special import expit, softmax
from scipy.stats import rankdata

from bench.data.vocabulary import DISEASES, N_PROGRESSION_CLASSES, NOT_MENTIONED, Task

MIN_LABELS = 10
"""Labels of every class that a disease needs to enter AUROC and AUPRC."""

MIN_LABELS_DEMO = 5
"""The same in the demo, whose test set is small."""

TASK_METRICS = {
    Task.DISEASE_PROGRESSION: (
        "macro_precision",
        "macro_recall",
        "macro_f1",
        "auprc",
        "auroc",
        "accuracy",
        "auprc_trapezoid",
        *(f"macro_f1[{disease}]" for disease in DISEASES),
    ),
    Task.MORTALITY: ("auprc", "auroc", "accuracy", "auprc_trapezoid"),
    Task.LENGTH_OF_STAY: (
        "kappa",
        "accuracy",
        "macro_f1",
        "macro_precision",
        "macro_recall",
        "auprc",
        "auroc",
        "auprc_trapezoid",
    ),
}
"""Metrics of each task. `auprc` is average precision, `auprc_trapezoid` the trapezoid rule that the
official code applies to the multi-class tasks; `macro_f1[disease]` is one disease's."""


def probabilities(task: Task, logits: np.ndarray) -> np.ndarray:
    """Probabilities in float64: [N, 7, 3] (progression), [N] of death, or [N, 4] (length of stay).

    `logits` may be flat, [N, 21], as run records hold them (disease-major).
    """
    logits = np.asarray(logits, dtype=np.float64)
    if task is Task.MORTALITY:
        return expit(logits.reshape(len(logits)))
    if task is Task.DISEASE_PROGRESSION:
        logits = logits.reshape(len(logits), len(DISEASES), N_PROGRESSION_CLASSES)
    return softmax(logits, axis=-1)


def evaluate(
    task: Task, logits: np.ndarray, labels: np.ndarray, min_labels: int = MIN_LABELS
) -> dict[str, float]:
    """Every metric of a task; NaN where undefined.

    Args:
        task: decides the metrics (`TASK_METRICS`)
        logits: [N, 21] or [N, 7, 3], [N, 1] or [N, 4]
        labels: int [N, 7] with `NOT_MENTIONED`, or [N]
        min_labels: labels of every class that a disease needs to enter AUROC and AUPRC
    """
    one_subject = np.zeros(len(labels), dtype=np.int64)
    scorer = Scorer.of(task, logits, labels, one_subject, min_labels)
    values = scorer.values(TASK_METRICS[task], np.ones((1, 1)))[:, 0]
    return dict(zip(TASK_METRICS[task], values.tolist(), strict=True))


def evaluate_table(
    task: Task, predictions: pd.DataFrame, min_labels: int = MIN_LABELS
) -> dict[str, float]:
    """`evaluate` on the predictions that a run record holds."""
    logits, labels = stored_arrays(predictions)
    return evaluate(task, logits, labels, min_labels)


def stored_arrays(predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, K] and labels [N, 7] or [N] of a table with columns logit_* and label_*."""

    def columns(prefix: str) -> np.ndarray:
        n = sum(str(name).startswith(prefix) for name in predictions.columns)
        return predictions[[f"{prefix}{k}" for k in range(n)]].to_numpy()

    labels = columns("label_")
    return columns("logit_"), labels[:, 0] if labels.shape[1] == 1 else labels


@dataclass(frozen=True)
class Classification:
    """Predictions of one classification: a task's, or one disease's over its mentioned labels.

    labels, predicted: int [n]; class indices
    scores: float [n, K]; what ranks the samples for each class; K = 1 is the score of class 1
    subject: int [n]; row in `counts`
    n_subjects: S
    ranked: whether AUROC and AUPRC are taken of it (`min_labels`)
    """

    labels: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray
    subject: np.ndarray
    n_subjects: int
    ranked: bool = True

    @cached_property
    def confusion(self) -> csr_array:
        """Samples by (label, predicted class) and subject, sparse [C * C, S]."""
        cell = self.labels * self.n_classes + self.predicted
        return _sums(cell, self.subject, (self.n_classes**2, self.n_subjects))

    @cached_property
    def rankings(self) -> list[Ranking]:
        """One ranking per class, against the rest; none where AUROC is not to be taken."""
        if not self.ranked:
            return []
        binary = self.scores.shape[1] == 1
        return [
            Ranking.of(score, self.labels == (1 if binary else k), self.subject, self.n_subjects)
            for k, score in enumerate(self.scores.T)
        ]

    @property
    def n_classes(self) -> int:
        """Classes, two where there is one score."""
        return max(self.scores.shape[1], 2)

    def metrics(self, names: set[str], counts: np.ndarray) -> dict[str, np.ndarray]:
        """Values [B] of the metrics in `names`."""
        values = {}
        if names & CONFUSION_METRICS.keys():
            matrix = (self.confusion @ counts).reshape(self.n_classes, self.n_classes, -1)
            for name in names & CONFUSION_METRICS.keys():
                values[name] = CONFUSION_METRICS[name](matrix)
        if names & CURVE_METRICS.keys() and self.rankings:
            curves = [ranking.curve(counts) for ranking in self.rankings]
            for name in names & CURVE_METRICS.keys():
                values[name] = np.mean([CURVE_METRICS[name](curve) for curve in curves], axis=0)
        return values

    def pooled(self, other: Classification) -> Classification:
        """Both methods' predictions as one, the other's as subjects S, S+1, ...; scores as ranks.

        Raw scores of two methods have no common scale; their ranks have.
        """
        return Classification(
            np.concatenate([self.labels, other.labels]),
            np.concatenate([self.predicted, other.predicted]),
            np.concatenate([rankdata(self.scores, axis=0), rankdata(other.scores, axis=0)]),
            np.concatenate([self.subject, other.subject + self.n_subjects]),
            self.n_subjects + other.n_subjects,
            self.ranked,
        )


def classifications(
    task: Task,
    logits: np.ndarray,
    labels: np.ndarray,
    subject: np.ndarray,
    n_subjects: int,
    min_labels: int,
) -> dict[str, Classification]:
    """The task's one classification, or one for each disease with a label (paper, section 3.1)."""
    p = probabilities(task, logits)
    if task is Task.MORTALITY:
        # Death is predicted above 0.5, where the logit is above 0.
        predicted = (np.ravel(logits) > 0).astype(np.int64)
        labels = labels.astype(np.int64)
        return {task: Classification(labels, predicted, p[:, None], subject, n_subjects)}
    if task is Task.LENGTH_OF_STAY:
        return {task: Classification(labels, p.argmax(-1), p, subject, n_subjects)}
    found = {}
    ranked = ranked_diseases(labels, min_labels)
    for k, disease in enumerate(DISEASES):
        seen = labels[:, k] != NOT_MENTIONED
        if seen.any():
            p_k = p[seen, k]
            found[disease] = Classification(
                labels[seen, k], p_k.argmax(-1), p_k, subject[seen], n_subjects, disease in ranked
            )
    return found


def ranked_diseases(labels: np.ndarray, min_labels: int) -> list[str]:
    """Diseases with at least `min_labels` labels of every class in int [N, 7]."""
    fewest = np.min([(labels == c).sum(axis=0) for c in range(N_PROGRESSION_CLASSES)], axis=0)
    return [d for d, n in zip(DISEASES, fewest, strict=True) if n >= min_labels]


@dataclass(frozen=True)
class Scorer:
    """Metrics of one run's predictions as functions of how often each subject is drawn."""

    parts: dict[str, Classification]
    n_subjects: int
    finite: bool = True

    @classmethod
    def of(
        cls,
        task: Task,
        logits: np.ndarray,
        labels: np.ndarray,
        subject: np.ndarray,
        min_labels: int = MIN_LABELS,
    ) -> Scorer:
        """Arguments as of `evaluate`; subject: int [N], row in `counts`, 0..S-1."""
        n_subjects = int(subject.max(initial=-1)) + 1
        parts = classifications(task, logits, labels, subject, n_subjects, min_labels)
        return cls(parts, n_subjects, finite=bool(np.isfinite(logits).all()))

    def values(self, names: Sequence[str], counts: np.ndarray) -> np.ndarray:
        """Metrics [len(names), B] for `counts` [S, B]; macro metrics are means over diseases.

        A disease without any label, and for AUROC and AUPRC one below `min_labels`, is left out:
        the set depends on all samples, not on the resample.
        """
        if not self.finite:
            return np.full((len(names), counts.shape[1]), np.nan)
        bases = {name.partition("[")[0] for name in names}
        of_part = {key: part.metrics(bases, counts) for key, part in self.parts.items()}

        def value(name: str) -> np.ndarray:
            base, _, disease = name.rstrip("]").partition("[")
            keys = [disease] if disease else list(of_part)
            found = [of_part[key][base] for key in keys if base in of_part.get(key, {})]
            return np.mean(found, axis=0) if found else np.full(counts.shape[1], np.nan)

        return np.stack([value(name) for name in names])

    def pooled(self, other: Scorer) -> Scorer:
        """Both runs' predictions of the same samples as one, for a permutation test."""
        parts = {key: part.pooled(other.parts[key]) for key, part in self.parts.items()}
        n_subjects = self.n_subjects + other.n_subjects
        return Scorer(parts, n_subjects, self.finite and other.finite)


@dataclass(frozen=True)
class Curve:
    """Counts at T thresholds, highest first, in B resamples.

    hits, true_positives, false_positives, ties: [T, B]; positives at the threshold, positives and
    negatives at or above it, negatives at it
    n_positives, n_negatives: [B]
    """

    hits: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    ties: np.ndarray
    n_positives: np.ndarray
    n_negatives: np.ndarray

    def mean_over_positives(self, values: np.ndarray) -> np.ndarray:
        """Mean of [T, B] over the positives; NaN in a resample without either class."""
        total = np.einsum("tb,tb->b", self.hits, values)
        return _ratio(total, np.where(self.n_negatives > 0, self.n_positives, 0), np.nan)


@dataclass(frozen=True)
class Ranking:
    """One class against the rest, as sums by threshold and subject, sparse [T, S].

    Thresholds are the distinct scores of positives, highest first; between two of them a curve
    moves only sideways, so the negatives there are summed up.
    """

    positives: csr_array
    negatives: csr_array
    ties: csr_array
    n_positives: np.ndarray
    n_negatives: np.ndarray

    @classmethod
    def of(
        cls, score: np.ndarray, positive: np.ndarray, subject: np.ndarray, n_subjects: int
    ) -> Ranking:
        """Sort samples (score [n], positive bool [n], subject int [n]) into thresholds."""
        thresholds = -np.unique(score[positive])[::-1]
        place = np.searchsorted(thresholds, -score)
        above = ~positive & (place < len(thresholds))
        tied = above.copy()
        tied[above] = thresholds[place[above]] == -score[above]
        shape = (len(thresholds), n_subjects)
        return cls(
            positives=_sums(place[positive], subject[positive], shape),
            negatives=_sums(place[above], subject[above], shape),
            ties=_sums(place[tied], subject[tied], shape),
            n_positives=np.bincount(subject[positive], minlength=n_subjects).astype(float),
            n_negatives=np.bincount(subject[~positive], minlength=n_subjects).astype(float),
        )

    def curve(self, counts: np.ndarray) -> Curve:
        """Counts at every threshold for `counts` [S, B]."""
        hits = self.positives @ counts
        return Curve(
            hits,
            np.cumsum(hits, axis=0),
            np.cumsum(self.negatives @ counts, axis=0),
            self.ties @ counts,
            self.n_positives @ counts,
            self.n_negatives @ counts,
        )


def _auroc(curve: Curve) -> np.ndarray:
    beaten = curve.n_negatives - curve.false_positives + curve.ties / 2
    return curve.mean_over_positives(_ratio(beaten, curve.n_negatives, 0.0))


def _average_precision(curve: Curve) -> np.ndarray:
    return curve.mean_over_positives(_precision(curve.true_positives, curve.false_positives))


def _trapezoid_area(curve: Curve) -> np.ndarray:
    """Area under the precision-recall curve with straight lines between its points."""
    here = _precision(curve.true_positives, curve.false_positives)
    before = _precision(curve.true_positives - curve.hits, curve.false_positives - curve.ties)
    return curve.mean_over_positives((here + before) / 2)


def _precision(true_positives: np.ndarray, false_positives: np.ndarray) -> np.ndarray:
    """Precision; 1 where nothing is above the threshold, where a curve begins."""
    return _ratio(true_positives, true_positives + false_positives, 1.0)


def _accuracy(matrix: np.ndarray) -> np.ndarray:
    return _ratio(_correct(matrix).sum(0), matrix.sum((0, 1)), np.nan)


def _kappa(matrix: np.ndarray) -> np.ndarray:
    """Cohen's kappa; NaN where labels and predictions are all of one class."""
    n, correct = matrix.sum((0, 1)), _correct(matrix).sum(0)
    by_chance = (matrix.sum(0) * matrix.sum(1)).sum(0)
    return _ratio(n * correct - by_chance, n**2 - by_chance, np.nan)


def _macro_precision(matrix: np.ndarray) -> np.ndarray:
    return _macro(matrix, matrix.sum(0))


def _macro_recall(matrix: np.ndarray) -> np.ndarray:
    return _macro(matrix, matrix.sum(1))


def _macro_f1(matrix: np.ndarray) -> np.ndarray:
    return _macro(matrix, (matrix.sum(0) + matrix.sum(1)) / 2)


def _macro(matrix: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Mean over classes of correct / total; 0 for a class without any, NaN without samples."""
    by_class = _ratio(_correct(matrix), total, 0.0)
    return np.where(matrix.sum((0, 1)) > 0, by_class.mean(0), np.nan)


def _correct(matrix: np.ndarray) -> np.ndarray:
    """Diagonal of [C, C, B], as [C, B]."""
    return np.einsum("kkb->kb", matrix)


def _sums(row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> csr_array:
    """How often each (row, column) occurs, as a sparse matrix."""
    return csr_array((np.ones(len(row)), (row, column)), shape=shape)


def _ratio(numerator: np.ndarray, denominator: np.ndarray, otherwise: float) -> np.ndarray:
    """Elementwise quotient; `otherwise` where the denominator is 0."""
    out = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), otherwise)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


CONFUSION_METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "accuracy": _accuracy,
    "kappa": _kappa,
    "macro_precision": _macro_precision,
    "macro_recall": _macro_recall,
    "macro_f1": _macro_f1,
}
"""Metrics of a confusion matrix [C, C, B] (label, predicted)."""

CURVE_METRICS: dict[str, Callable[[Curve], np.ndarray]] = {
    "auroc": _auroc,
    "auprc": _average_precision,
    "auprc_trapezoid": _trapezoid_area,
}
"""Metrics of one class's ranking against the rest; of several classes, the mean is taken."""
