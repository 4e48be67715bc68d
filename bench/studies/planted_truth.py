"""Is the planted truth learned? Cohort `medium`, three seeds: methods, oracle, exchanged films.

    python -m bench.studies.planted_truth        (about half an hour on two cores)

For each task: DiPro with everything, EHR alone and films alone, each with a 95 % interval (cluster
bootstrap over test subjects), beside chance and the oracle on the same test samples. Then the two
films of every test pair are exchanged before a trained DiPro sees them: its confusion matrix should
turn over. Prints Markdown for RESULTS.md and writes figures beside this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from bench.config import PAPER_SEEDS, Request
from bench.contract import Preset
from bench.data.cohort import Cohort
from bench.data.vocabulary import DISEASES, NOT_MENTIONED, Cxr, Task
from bench.demo import open_cohort, raw_folder
from bench.errors import Parser, run_command
from bench.metrics import evaluate, stored_arrays
from bench.plan import PlannedRun
from bench.simulating.oracle import oracle_logits
from bench.store import Store
from bench.studies.grid import done, study_parser, work_off
from bench.studies.scores import CHANCE, METRIC, exchanged_logits, scores_of, with_logits

FIGURES = Path(__file__).parent / "figures"


@dataclass(frozen=True)
class Arm:
    """What is compared: a method and what it is allowed to see."""

    title: str
    method: str
    ehr: bool
    films: bool

    def request(self, task: Task, seed: int, preset: Preset) -> Request:
        """The run of this arm."""
        shown = Cxr.LONG if task.is_icu else Cxr.PAIR
        cxr = shown if self.films else Cxr.NONE
        return Request(self.method, task, cxr, seed, ehr=self.ehr, preset=preset)


ARMS = (
    Arm("DiPro", "dipro", ehr=True, films=True),
    Arm("films alone (DiPro)", "dipro", ehr=False, films=True),
    Arm("EHR alone (EHR Transformer)", "ehr_transformer", ehr=True, films=False),
)


def parser() -> Parser:
    """The command's arguments."""
    return study_parser("planted_truth", __doc__, PAPER_SEEDS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    arg = parser().parse_args(argv)
    cohort = open_cohort(arg.cohort, arg.preset)
    store = Store(arg.results)
    grid = {
        (task, arm): [arm.request(task, seed, arg.preset) for seed in arg.seeds]
        for task in Task
        for arm in ARMS
    }
    work_off("planted truth", [r for cell in grid.values() for r in cell], arg, cohort, store)
    runs = {cell: list(done(requests, cohort, store).values()) for cell, requests in grid.items()}
    table = pd.DataFrame(_rows(runs, cohort))
    print(f"\nSIMULATED: {cohort.title}; preset {arg.preset}; seeds {arg.seeds}\n")
    print(table.to_markdown(index=False, floatfmt=".3f"))
    _draw_scores(table, cohort)
    swapped = _swap(runs[Task.DISEASE_PROGRESSION, ARMS[0]], cohort)
    print("\n" + swapped.to_markdown(index=False, floatfmt=".3f"))
    return 0


def _rows(runs: dict[tuple[Task, Arm], list[PlannedRun]], cohort: Cohort) -> list[dict]:
    """One row per task and arm, the oracle's first."""
    rows = []
    for task in Task:
        first = runs[task, ARMS[0]][0].files.read_predictions()
        oracle = oracle_logits(raw_folder(cohort.path), cohort, task, first["sample"])
        rows.append(_row(task, "oracle", [with_logits(first, oracle)]))
        for arm in ARMS:
            predictions = [run.files.read_predictions() for run in runs[task, arm]]
            rows.append(_row(task, arm.title, predictions))
    return rows


def _row(task: Task, title: str, predictions: list[pd.DataFrame]) -> dict:
    """Mean over seeds of the task's metric, its sd and its interval over test subjects."""
    scores = scores_of(task, METRIC[task], predictions)
    low, high = scores.interval
    chance = CHANCE[scores.metric]
    return {
        "task": str(task),
        "arm": title,
        "metric": scores.metric,
        "chance": chance,
        "mean": scores.mean,
        "sd": scores.sd,
        "ci_low": low,
        "ci_high": high,
        "above chance": "yes" if low > chance else "no",
        "n_test": len(predictions[0]),
    }


def _draw_scores(table: pd.DataFrame, cohort: Cohort) -> None:
    """Intervals of every arm, chance dotted, a panel per task."""
    figure, axes = plt.subplots(1, len(Task), figsize=(11, 2.8), layout="constrained")
    for axis, task in zip(axes, Task, strict=True):
        part = table[table["task"] == task].iloc[::-1]
        error = np.stack([part["mean"] - part["ci_low"], part["ci_high"] - part["mean"]])
        axis.errorbar(part["mean"], part["arm"], xerr=np.abs(error), fmt="o", capsize=3, color="k")
        axis.axvline(part["chance"].iloc[0], linestyle=":", color="grey")
        axis.set(title=str(task).replace("_", " "), xlabel=f"{METRIC[task]} (95 % interval)")
    for axis in axes[1:]:
        axis.set_yticklabels([])
    figure.suptitle(f"SIMULATED: {cohort.title}")
    FIGURES.mkdir(exist_ok=True)
    figure.savefig(FIGURES / "planted_truth.png", dpi=150)
    plt.close(figure)


def _swap(runs: list[PlannedRun], cohort: Cohort) -> pd.DataFrame:
    """Progression metrics with films in order and exchanged; draws both confusion matrices."""
    rows, matrices = [], {}
    for kind in ("in order", "exchanged"):
        values, matrix = [], np.zeros((3, 3))
        for planned in runs:
            logits, labels = stored_arrays(planned.files.read_predictions())
            if kind == "exchanged":
                logits = exchanged_logits(planned, cohort)
            values.append(evaluate(Task.DISEASE_PROGRESSION, logits, labels))
            matrix += _confusion(logits, labels)
        matrices[kind] = matrix / matrix.sum(axis=1, keepdims=True)
        means = {m: np.mean([v[m] for v in values]) for m in ("macro_f1", "auroc", "accuracy")}
        rows.append({"films": kind, **means})
    _draw_matrices(matrices, cohort)
    return pd.DataFrame(rows)


def _confusion(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts [true, predicted] over all diseases and mentioned labels."""
    predicted = logits.reshape(-1, len(DISEASES), 3).argmax(-1)
    seen = labels != NOT_MENTIONED
    cell = labels[seen] * 3 + predicted[seen]
    return np.bincount(cell, minlength=9).reshape(3, 3).astype(float)


def _draw_matrices(matrices: dict[str, np.ndarray], cohort: Cohort) -> None:
    names = ["worsened", "improved", "no change"]
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
    for axis, (kind, matrix) in zip(axes, matrices.items(), strict=True):
        axis.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
        for (i, j), share in np.ndenumerate(matrix):
            color = "white" if share > 0.5 else "black"
            axis.text(j, i, f"{share:.2f}", ha="center", va="center", color=color)
        axis.set_xticks(range(3), names)
        axis.set_yticks(range(3), names)
        axis.set(title=f"films {kind}", xlabel="predicted", ylabel="label")
    figure.suptitle(f"DiPro, disease progression. SIMULATED: {cohort.title}")
    figure.savefig(FIGURES / "exchanged_films.png", dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    run_command(main, resumes=True)
