"""Compare predictions of the same samples, ours or anybody's: estimates, difference, interval, p.

python -m bench.compare --a mine.csv --b theirs.csv --metric auroc
python -m bench.compare --a mine.csv --b theirs.csv --metric accuracy --test mcnemar --json

A file has columns sample, subject, y and score (two classes) or p0, p1, ... (one a class). A score
is a probability if all of a file's lie in 0..1, with threshold 0.5, else a logit, with threshold 0.
Resampling draws subjects and takes all their samples along. Differences are A minus the other.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench import arguments, significance
from bench.errors import Parser, UserError, nearest, run_command
from bench.metrics import CONFUSION_METRICS, CURVE_METRICS, Classification, Scorer

METRICS = (*CURVE_METRICS, *CONFUSION_METRICS)
N_RESAMPLES = 10_000
SEED = 2025


class Test(StrEnum):
    """How a p is computed."""

    BOOTSTRAP = "bootstrap"
    PERMUTATION = "permutation"
    DELONG = "delong"
    MCNEMAR = "mcnemar"


OF_METRIC = {Test.DELONG: "auroc", Test.MCNEMAR: "accuracy"}
"""The one metric that a test is about; such a test takes samples for independent."""


@dataclass(frozen=True)
class Predictions:
    """One file, samples in the order of their names.

    sample, subject: str [n]
    labels, predicted: int [n]
    scores: float [n, 1] of class 1, or [n, K] of every class
    """

    path: Path
    sample: np.ndarray
    subject: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray

    def scorer(self) -> Scorer:
        """Metrics as functions of how often each subject is drawn."""
        subjects, subject = np.unique(self.subject, return_inverse=True)
        part = Classification(self.labels, self.predicted, self.scores, subject, len(subjects))
        return Scorer({"all": part}, len(subjects))


def read(path: Path, threshold: float | None = None) -> Predictions:
    """Read a file of predictions.

    Raises:
        UserError: it is missing, empty, lacks a column, or holds a value that cannot be.
    """
    try:
        table = pd.read_csv(path, dtype={"sample": str, "subject": str})
    except FileNotFoundError:
        raise UserError(f"{path} is not there")
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as CSV: {' '.join(str(error).split())}")
    columns = _score_columns(path, table)
    if table.empty:
        raise UserError(f"{path} has no row")
    for column in ("sample", "subject"):
        _refuse(path, column, table[column].isna(), "empty")
    _refuse(path, "sample", table["sample"].duplicated(), "twice in the file")
    for column in ("y", *columns):
        numbers = pd.to_numeric(table[column], errors="coerce")
        _refuse(path, column, ~np.isfinite(numbers), "not a finite number")
        table[column] = numbers
    n_classes = max(len(columns), 2)
    known = table["y"].isin(range(n_classes))
    _refuse(path, "y", ~known, f"not a class 0..{n_classes - 1}")
    table = table.sort_values("sample", ignore_index=True)
    scores = table[columns].to_numpy(np.float64)
    return Predictions(
        path,
        table["sample"].to_numpy(str),
        table["subject"].to_numpy(str),
        table["y"].to_numpy(np.int64),
        _predicted(path, scores, threshold),
        scores,
    )


def _score_columns(path: Path, table: pd.DataFrame) -> list[str]:
    for column in ("sample", "subject", "y"):
        if column not in table:
            raise UserError(
                f"{path} has no column {column}: {nearest(column, map(str, table.columns))}"
            )
    if "score" in table:
        return ["score"]
    columns = [f"p{k}" for k in range(len(table.columns)) if f"p{k}" in table]
    if len(columns) < 2 or columns != [f"p{k}" for k in range(len(columns))]:
        raise UserError(f"{path} has neither a column score nor columns p0, p1, ...")
    return columns


def _refuse(path: Path, column: str, wrong: pd.Series | np.ndarray, what: str) -> None:
    places = np.flatnonzero(wrong)
    if len(places):
        raise UserError(f"{path}, row {places[0] + 2}, column {column}: {what}")


def _predicted(path: Path, scores: np.ndarray, threshold: float | None) -> np.ndarray:
    """The class of each sample: the highest of several, or whether a score is above threshold."""
    if scores.shape[1] > 1:
        if threshold is not None:
            raise UserError(f"--threshold is for a column score; {path} has p0, p1, ...")
        return scores.argmax(axis=1)
    if threshold is None:
        threshold = 0.5 if ((scores >= 0) & (scores <= 1)).all() else 0.0
    return (scores[:, 0] > threshold).astype(np.int64)


def check_same_samples(first: Predictions, other: Predictions) -> None:
    """Raise `UserError` unless both files hold the same samples, subjects and labels."""
    for one, two in ((first, other), (other, first)):
        missing = np.setdiff1d(one.sample, two.sample)
        if len(missing):
            raise UserError(
                f"{two.path} lacks sample {missing[0]} of {one.path} ({len(missing)} in all)"
            )
    for name in ("subject", "labels"):
        differ = np.flatnonzero(getattr(first, name) != getattr(other, name))
        if len(differ):
            column = {"subject": "subject", "labels": "y"}[name]
            raise UserError(
                f"{other.path}, sample {other.sample[differ[0]]}, column {column}: not as in "
                f"{first.path}"
            )
    if first.scores.shape[1] != other.scores.shape[1]:
        raise UserError(f"{first.path} and {other.path} have different numbers of classes")


@dataclass(frozen=True)
class Comparison:
    """A against another: both estimates, the difference A - B, its 95 % interval and p."""

    a: str
    b: str
    estimate_a: float
    estimate_b: float
    difference: float
    ci_low: float
    ci_high: float
    p: float
    test: str
    n_subjects: int
    n_samples: int


def compare(
    first: Predictions,
    other: Predictions,
    metric: str,
    test: Test,
    n_resamples: int = N_RESAMPLES,
    seed: int = SEED,
) -> Comparison:
    """Compare two files on one metric.

    The interval is DeLong's with `delong`, else the cluster bootstrap's.

    Raises:
        UserError: other samples, a test of another metric, or a metric without a value.
    """
    check_same_samples(first, other)
    if OF_METRIC.get(test, metric) != metric:
        raise UserError(
            f"--test {test} is about {OF_METRIC[test]}: give --metric {OF_METRIC[test]}"
        )
    scorers = [predictions.scorer() for predictions in (first, other)]
    everyone = np.ones((scorers[0].n_subjects, 1))
    a, b = (float(scorer.values([metric], everyone)[0, 0]) for scorer in scorers)
    if np.isnan([a, b]).any():
        classes = ", ".join(map(str, np.unique(first.labels)))
        raise UserError(f"{metric} has no value: y of {first.path} holds class {classes} only")
    if test is Test.DELONG:
        p, low, high = _delong(first, other)
    else:
        if scorers[0].n_subjects < 2:
            raise UserError(f"{first.path} has one subject: resampling needs two or more")
        p, low, high = _resampled(scorers, metric, n_resamples, seed)
        if test is Test.PERMUTATION:
            generator = np.random.default_rng(seed)
            pairs = [(scorers[0], scorers[1])]
            p = significance.permutation_p(pairs, metric, n_resamples, generator)
        elif test is Test.MCNEMAR:
            correct = [q.predicted == q.labels for q in (first, other)]
            p = significance.mcnemar(*correct)
    names = str(first.path), str(other.path)
    sizes = scorers[0].n_subjects, len(first.sample)
    return Comparison(*names, a, b, a - b, low, high, p, str(test), *sizes)


def _delong(first: Predictions, other: Predictions) -> tuple[float, float, float]:
    if first.scores.shape[1] > 1:
        raise UserError("--test delong compares two classes: give files with a column score")
    try:
        found = significance.delong(first.labels, first.scores[:, 0], other.scores[:, 0])
    except ValueError as error:
        raise UserError(f"{first.path}: {error}")
    difference, reach = found.first - found.second, 1.959963984540054 * found.standard_error
    return found.p, difference - reach, difference + reach


def _resampled(
    scorers: Sequence[Scorer], metric: str, n_resamples: int, seed: int
) -> tuple[float, float, float]:
    """p and interval of the cluster bootstrap; p is NaN where too many resamples are undefined."""

    def statistic(counts: np.ndarray) -> np.ndarray:
        return np.stack([scorer.values([metric], counts) for scorer in scorers], axis=1)

    drawn = significance.bootstrap(
        statistic, scorers[0].n_subjects, n_resamples, np.random.default_rng(seed)
    )
    differences = drawn.values[0, 0] - drawn.values[0, 1]
    low, high = significance.percentile_interval(differences)
    defined = drawn.redrawn_share[0] <= significance.MAX_REDRAWN
    return significance.two_sided_p(differences) if defined else float("nan"), low, high


def remarks(first: Predictions, others: Sequence[Predictions], test: Test) -> list[str]:
    """What a reader should know before believing a p."""
    found = []
    if test in OF_METRIC and len(np.unique(first.subject)) < len(first.subject):
        found.append(
            f"subjects repeat, and {test} takes samples for independent: its p is too small; "
            "use --test bootstrap"
        )
    for predictions in (first, *others):
        if np.ptp(predictions.scores, axis=0).max() == 0:
            found.append(f"every score of {predictions.path} is the same")
    return found


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m bench.compare", description=__doc__)
    p.add_argument("--a", type=Path, required=True, metavar="FILE")
    p.add_argument("--b", type=Path, required=True, metavar="FILE")
    p.add_argument("--more", type=Path, nargs="+", default=[], metavar="FILE", help="further ones")
    p.add_argument("--metric", default="auroc", metavar="NAME", help=", ".join(METRICS))
    p.add_argument(
        "--test",
        type=arguments.choice(Test),
        default=Test.BOOTSTRAP,
        metavar="NAME",
        help=", ".join(Test),
    )
    p.add_argument("--threshold", type=float, metavar="X", help="a score above it means class 1")
    p.add_argument("--resamples", type=arguments.positive, default=N_RESAMPLES, metavar="B")
    p.add_argument("--seed", type=int, default=SEED, metavar="S")
    p.add_argument("--json", action="store_true", help="print JSON instead of text")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arg = parser().parse_args(argv)
    if arg.metric not in METRICS:
        raise UserError(f"unknown metric '{arg.metric}': {nearest(arg.metric, METRICS)}")
    first, *others = (read(path, arg.threshold) for path in (arg.a, arg.b, *arg.more))
    comparisons = [
        compare(first, other, arg.metric, arg.test, arg.resamples, arg.seed) for other in others
    ]
    adjusted = significance.holm(np.array([c.p for c in comparisons]))
    said = remarks(first, others, arg.test)
    for remark in said:
        print(f"warning: {remark}", file=sys.stderr)
    if arg.json:
        print(json.dumps(_as_json(comparisons, adjusted, arg.metric, said), indent=1))
    else:
        print(_as_text(comparisons, adjusted, arg.metric))
    return 0


def _as_json(
    comparisons: Sequence[Comparison], adjusted: np.ndarray, metric: str, said: list[str]
) -> dict[str, Any]:
    """The first comparison at the top; all of them in a list if there are more. No NaN: null."""
    rows = [
        {
            name: None if isinstance(value, float) and np.isnan(value) else value
            for name, value in {**vars(c), "p_adjusted": float(p), "metric": metric}.items()
        }
        for c, p in zip(comparisons, adjusted, strict=True)
    ]
    more = {"comparisons": rows} if len(rows) > 1 else {}
    return {**rows[0], "warnings": said, **more}


def _as_text(comparisons: Sequence[Comparison], adjusted: np.ndarray, metric: str) -> str:
    first = comparisons[0]
    lines = [
        f"{metric}, {first.n_samples} samples of {first.n_subjects} subjects; {first.test}",
        f"A {first.a}: {first.estimate_a:.4f}",
    ]
    for c, p in zip(comparisons, adjusted, strict=True):
        lines += [
            f"  {c.b}: {c.estimate_b:.4f}",
            f"    A minus it {c.difference:+.4f} (95 % {c.ci_low:+.4f} to {c.ci_high:+.4f}), "
            f"p {c.p:.4g}" + (f", Holm-adjusted {p:.4g}" if len(comparisons) > 1 else ""),
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
