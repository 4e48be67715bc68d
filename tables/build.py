"""Runs to one long frame with a row for every cell of a table.

Every number comes from stored test predictions; nothing is trained here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd

from bench import significance
from bench.contract import Preset
from bench.data.vocabulary import Task
from bench.errors import UserError, nearest
from bench.registry import load_method
from bench.store import Status
from tables.definitions import Row, Table
from tables.published import contradiction, published
from tables.runs import FoundRun, Selection, require_done
from tables.scores import BOOTSTRAP_SEED, MetricScores, TaskRuns, collect, score

FAMILY = ["task", "drop_ehr", "metric"]
"""What the comparisons that are corrected together have in common."""

N_RESAMPLES = 10_000
N_RESAMPLES_DEMO = 2_000


class State(StrEnum):
    """What a cell can show."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"  # runs are missing
    UNDEFINED = "undefined"  # the metric has no value on this test set
    DECLINED = "declined"  # the method cannot do the setting


@dataclass(frozen=True)
class Built:
    """A table's numbers and where they come from.

    reference: the row that the others are compared with
    n_resamples: B
    frame: one row a cell; the columns are those of `_cell`, with p_adjusted and stars after p
    scores: the metric values behind every column
    """

    table: Table
    selection: Selection
    reference: Row
    n_resamples: int
    frame: pd.DataFrame
    scores: list[MetricScores]

    @property
    def runs(self) -> list[FoundRun]:
        """Every wanted run, setting by setting."""
        return [run for task_runs in self.task_runs for run in task_runs.found.values()]

    @property
    def task_runs(self) -> list[TaskRuns]:
        """The runs of each setting."""
        return list({scores.runs.setting: scores.runs for scores in self.scores}.values())

    @property
    def family_size(self) -> int:
        """Most comparisons in one family (`FAMILY`)."""
        families = _compared(self.frame, self.reference).groupby(FAMILY)
        return max(families.size(), default=0)

    @property
    def shows_paper(self) -> bool:
        """Whether the paper's numbers stand beside ours: never beside simulated ones."""
        return self.table.paper_table is not None and not self.selection.cohort.is_simulated


def build(
    table: Table,
    selection: Selection,
    n_resamples: int | None = None,
    reference: str | None = None,
) -> Built:
    """Compute a table from the runs that are done.

    Args:
        table: its definition
        selection: which runs
        n_resamples: B of the bootstrap; None takes the preset's
        reference: name of the row that the others are compared with; None takes the table's

    Raises:
        UserError: no run is done, the reference is no row, or two runs do not fit together.
    """
    demo = selection.preset is Preset.DEMO
    n_resamples = n_resamples or (N_RESAMPLES_DEMO if demo else N_RESAMPLES)
    reference_row = _reference(table, reference)
    collected = [collect(table, setting, selection) for setting in table.settings]
    found = [run for runs in collected for run in runs.found.values()]
    require_done(found, table.name, selection.sweep_command(table.name))
    scores = [
        of_metric
        for runs in collected
        for of_metric in score(runs, table.metrics(runs.setting), n_resamples)
    ]
    with_paper = not selection.cohort.is_simulated
    cells = [
        _cell(table, row, reference_row, of_metric, with_paper)
        for of_metric in scores
        for row in table.rows
    ]
    frame = _with_stars(pd.DataFrame(cells), reference_row)
    return Built(table, selection, reference_row, n_resamples, frame, scores)


def _reference(table: Table, name: str | None) -> Row:
    if name is None:
        return table.reference
    rows = {row.name: row for row in table.rows}
    if name not in rows:
        raise UserError(f"--reference {name} is no row of {table.name}: {nearest(name, rows)}")
    return rows[name]


def _cell(
    table: Table, row: Row, reference: Row, scores: MetricScores, with_paper: bool
) -> dict[str, Any]:
    """One row of the long frame, before the correction for many comparisons."""
    task, drop_ehr = scores.runs.task, scores.runs.setting.drop_ehr
    state, note = _state(row, scores)
    comparison, why_no_p = _comparison(row, reference, scores)
    summary = _summary(row, scores)
    done = [run for run in scores.runs.of_row(row).values() if run.is_done]
    number = table.paper_table if with_paper else None
    return {
        "table": table.name,
        "row": row.name,
        "method": row.method,
        "title": _title(row),
        "ablate": "+".join(row.ablate),
        "cxr": str(row.films(task)),
        "ehr": int(row.ehr),
        "drop_ehr": drop_ehr,
        "task": str(task),
        "metric": scores.metric,
        "state": str(state),
        "n_stale": sum(run.status is Status.STALE for run in done),
        **summary,
        **comparison,
        "note": "; ".join(filter(None, [note, why_no_p, *_memory_notes(row, scores.runs)])),
        "run_ids": ";".join(run.folder for run in done),
        **_beside_paper(number, row, scores, summary),
    }


def _beside_paper(
    number: int | None, row: Row, scores: MetricScores, summary: dict[str, Any]
) -> dict[str, Any]:
    """What the paper's table prints, ours minus it, and whether our interval holds its mean."""
    task, metric = scores.runs.task, scores.metric
    mean, sd = published(number, row, task, metric, scores.runs.setting.drop_ehr)
    difference = summary["mean"] - mean
    is_inside = summary["ci_low"] <= mean <= summary["ci_high"]
    return {
        "paper_mean": mean,
        "paper_sd": sd,
        "paper_difference": difference,
        "paper_in_interval": "" if np.isnan(difference) else "yes" if is_inside else "no",
        "paper_note": contradiction(number, row, task, metric),
    }


def _title(row: Row) -> str:
    return row.title or " w/o ".join([load_method(row.method).title, *row.ablate])


def _summary(row: Row, scores: MetricScores) -> dict[str, Any]:
    """Values of the seeds, their mean and sd, and the interval of the mean over test subjects."""
    places = list(scores.places(row).values())
    summary: dict[str, Any] = dict.fromkeys(["mean", "sd", "ci_low", "ci_high"], np.nan)
    values = scores.values[places] if scores.is_defined else np.zeros(0)
    if len(values):
        low, high = significance.percentile_interval(scores.resampled[places].mean(axis=0))
        sd = values.std(ddof=1) if len(values) > 1 else np.nan
        summary = {"mean": values.mean(), "sd": sd, "ci_low": low, "ci_high": high}
    return {
        "n_seeds": len(places),
        "values": ";".join(f"{value:.6f}" for value in values),
        **summary,
    }


def _state(row: Row, scores: MetricScores) -> tuple[State, str]:
    """What a cell can show, and why it is not more."""
    runs = scores.runs.of_row(row)
    if all(run.is_declined for run in runs.values()):
        return State.DECLINED, next(iter(runs.values())).reason
    missing = [f"seed {seed} {run.reason}" for seed, run in runs.items() if not run.is_done]
    note = (
        f"{len(runs) - len(missing)} of {len(runs)} runs: {', '.join(missing)}" if missing else ""
    )
    if len(missing) < len(runs) and not scores.is_defined:
        return State.UNDEFINED, "; ".join(filter(None, [_why_undefined(scores.runs), note]))
    return (State.INCOMPLETE if missing else State.COMPLETE), note


def _memory_notes(row: Row, runs: TaskRuns) -> list[str]:
    """Which seeds of a row were computed in smaller parts than configured."""
    return [
        f"seed {seed} {note}" for seed, run in runs.of_row(row).items() for note in run.memory_notes
    ]


def _why_undefined(runs: TaskRuns) -> str:
    if runs.task is Task.DISEASE_PROGRESSION:
        return f"undefined: no disease has {runs.min_labels} test labels of every class"
    labels, counts = np.unique(runs.labels, return_counts=True)
    held = ", ".join(f"{n} of class {label}" for label, n in zip(labels, counts, strict=True))
    return f"undefined: the test samples are {held}"


def _comparison(row: Row, reference: Row, scores: MetricScores) -> tuple[dict[str, float], str]:
    """Difference row minus reference, its p and nested interval; or why there is none.

    Seed is matched with seed, but for the nested interval, which resamples seeds as well.
    """
    nothing = dict.fromkeys(["difference", "p", "nested_low", "nested_high"], np.nan)
    own, other = scores.places(row), scores.places(reference)
    if row == reference or not own or not scores.is_defined:
        return nothing, ""
    seeds = [seed for seed in own if seed in other]
    if not seeds:
        return nothing, "no p: the reference has no run with these seeds"
    a, b = [own[seed] for seed in seeds], [other[seed] for seed in seeds]
    nothing["difference"] = float((scores.values[a] - scores.values[b]).mean())
    if scores.redrawn_share > significance.MAX_REDRAWN:
        return nothing, f"no p: undefined in {scores.redrawn_share:.1%} of the resamples"
    first, second = scores.resampled[a], scores.resampled[b]
    p = significance.two_sided_p((first - second).mean(axis=0))
    return nothing | {"p": p, **_nested(first, second)}, ""


def _nested(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Interval of the difference of two rows' [R, B] over subjects and seeds; none of one seed."""
    if len(first) < 2:
        return {}
    # A stream apart from that of the subjects, the same for every cell.
    generator = np.random.default_rng([BOOTSTRAP_SEED, 1])
    drawn = significance.nested_differences(first, second, generator)
    low, high = significance.percentile_interval(drawn)
    return {"nested_low": low, "nested_high": high}


def _compared(frame: pd.DataFrame, reference: Row) -> pd.DataFrame:
    """Cells that are, or once they have runs will be, compared with the reference."""
    return frame[(frame["row"] != reference.name) & (frame["state"] != State.DECLINED)]


def _with_stars(frame: pd.DataFrame, reference: Row) -> pd.DataFrame:
    """Add Holm-adjusted p and stars; a family is one column, all rows but the reference.

    Stars are in brackets unless the nested interval, too, lies on one side of 0.
    A cell that waits for its runs counts as a comparison: when it gets its p, no other one rises.
    """
    adjusted = pd.Series(np.nan, index=frame.index)
    for _, family in _compared(frame, reference).groupby(FAMILY):
        adjusted[family.index] = significance.holm(family["p"].to_numpy())
    after_p = list(frame.columns).index("p") + 1
    frame.insert(after_p, "p_adjusted", adjusted)
    survives = (frame["nested_low"] > 0) | (frame["nested_high"] < 0)
    marks = adjusted.map(significance.stars)
    in_brackets = marks.where(survives | (marks == ""), "(" + marks + ")")
    frame.insert(after_p + 1, "stars", in_brackets)
    return frame
