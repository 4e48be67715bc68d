"""Rank the rows of a table over several cohorts, and test it where there are enough of them.

python -m tables.ranks table2 --cohorts data/first data/second data/third

A block is a cohort and a task, scored by the metric that chooses epochs: further metrics of the
same predictions would not be independent. From five blocks on a critical-difference diagram is
drawn (Friedman and Nemenyi; Demsar 2006, sections 3.2.2 to 3.2.4); with fewer the ranks carry no
test.
"""

from __future__ import annotations

import argparse
import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import rankdata
from tabulate import tabulate

from bench import arguments, significance
from bench.contract import Preset
from bench.data.vocabulary import SELECTION_METRIC
from bench.errors import Parser, UserError, run_command
from bench.search import add_tuned
from tables import command
from tables.build import Built, State, build
from tables.definitions import TABLES, Column, Table, named
from tables.differences import labels
from tables.footer import code_and_machine, provenance, stale
from tables.grid import TASK_TITLES
from tables.pictures import BLACK, BLUE, VERMILION, heading, picture_files, write_under
from tables.runs import Selection

LEVEL = 0.05


@dataclass(frozen=True)
class Ranks:
    """Rows ranked in every block.

    builts: the table of each cohort, one column a task
    frame: one row a block and table row: block, cohort, task, metric, row, title, mean, rank
    left_out: rows and blocks that are not ranked, with the reason
    """

    builts: list[Built]
    frame: pd.DataFrame
    left_out: list[str]

    @property
    def values(self) -> pd.DataFrame:
        """Mean of the seeds, blocks by titles of rows."""
        return self.frame.pivot_table(index="block", columns="title", values="mean", sort=False)

    @property
    def mean_ranks(self) -> pd.Series:
        """Mean rank by title, best first."""
        return self.frame.groupby("title", sort=False)["rank"].mean().sort_values(kind="stable")


@dataclass(frozen=True)
class Comparison:
    """Mean ranks by title, best first; Friedman's p; the difference that Nemenyi asks for."""

    mean_ranks: pd.Series
    p: float
    critical_difference: float

    @property
    def alike(self) -> list[tuple[int, int]]:
        """First and last place of each largest group of rows that the test does not part.

        All of them where Friedman's test finds no difference: Nemenyi's then is not to be read.
        """
        ranks = self.mean_ranks.to_numpy()
        if self.p >= LEVEL:
            return [(0, len(ranks) - 1)]
        reach = ranks + self.critical_difference
        lasts = np.searchsorted(ranks, reach, side="right") - 1
        spans = [(first, int(last)) for first, last in enumerate(lasts) if last > first]
        return [span for i, span in enumerate(spans) if i == 0 or span[1] > spans[i - 1][1]]


def one_column_a_task(table: Table) -> Table:
    """The table with the metric that chooses epochs as each task's only column."""
    return replace(
        table, columns=tuple(Column(task, SELECTION_METRIC[task]) for task in table.tasks)
    )


def rank(table: Table, selections: Sequence[Selection]) -> Ranks:
    """Rank a table's rows in every cohort and task; 1 is best, ties share their mean rank.

    A row is ranked if all its runs are done in every block, a block if any row is done there.

    Raises:
        UserError: two cohorts are not independent, a cohort has no run, or no row is left.
    """
    check_independent(selections)
    # Ranks are of means: the intervals of a table are not needed.
    builts = [build(one_column_a_task(table), selection, n_resamples=1) for selection in selections]
    frame = pd.concat(map(_cells, builts, itertools.count(1)), ignore_index=True)
    is_complete = frame["state"] == State.COMPLETE
    is_empty = ~is_complete.groupby(frame["block"]).transform("any")
    reasons = [f"{block}: no complete row" for block in frame["block"][is_empty].unique()]
    lacking = frame[~is_complete & ~is_empty].drop_duplicates("row")
    reasons += [
        f"{cell['title']} ({cell['block']}: {cell['note']})" for cell in lacking.to_dict("records")
    ]
    kept = frame[~is_empty & ~frame["row"].isin(lacking["row"])].copy()
    if kept.empty:
        raise UserError(f"{table.name}: no row has all its runs in every block: {reasons[0]}")
    kept["rank"] = kept.groupby("block")["mean"].transform(lambda means: rankdata(-means))
    return Ranks(builts, kept.drop(columns=["state", "note"]), reasons)


def check_independent(selections: Sequence[Selection]) -> None:
    """Raise `UserError` if two cohorts are made of the same subjects, as far as titles tell."""
    seen: dict[str, Path] = {}
    for cohort in (selection.cohort for selection in selections):
        if cohort.title in seen:
            raise UserError(
                f"{seen[cohort.title]} and {cohort.path} are both '{cohort.title}': ranks need "
                "independent cohorts, so name each once"
            )
        seen[cohort.title] = cohort.path


def _cells(built: Built, place: int) -> pd.DataFrame:
    frame = built.frame.assign(
        block=[f"cohort {place}, {TASK_TITLES[task]}" for task in built.frame["task"]],
        cohort=built.selection.cohort.title,
        title=built.frame["row"].map(labels(built.table)),
    )
    return frame[["block", "cohort", "task", "metric", "row", "title", "mean", "state", "note"]]


def compare(ranks: Ranks) -> Comparison:
    """Friedman's and Nemenyi's tests.

    Raises:
        UserError: too few blocks or rows for them.
    """
    values = ranks.values
    try:
        _, p = significance.friedman(values.to_numpy())
    except ValueError as error:
        raise UserError(str(error))
    n_blocks, n_rows = values.shape
    difference = significance.nemenyi_difference(n_rows, n_blocks, LEVEL)
    return Comparison(ranks.mean_ranks, p, difference)


def contents(ranks: Ranks, tested: Comparison | None, why_not: str) -> dict[str, bytes]:
    """The rank table as text and CSV."""
    name = ranks.builts[0].table.name
    shown = ranks.frame.assign(
        cell=ranks.frame["mean"].map("{:.3f}".format) + ranks.frame["rank"].map(" ({:g})".format)
    ).pivot_table(index="title", columns="block", values="cell", aggfunc="first", sort=False)
    shown = shown.loc[ranks.mean_ranks.index]
    shown.insert(0, "mean rank", [f"{value:.2f}" for value in ranks.mean_ranks])
    headings = ["", *(str(column).replace(", ", "\n") for column in shown.columns)]
    grid = tabulate(shown.reset_index().to_numpy().tolist(), headings, disable_numparse=True)
    mark = "" if tested else " (NO TEST)"
    title = heading(f"{name}: ranks over {len(ranks.values)} blocks{mark}", _first(ranks))
    under = [textwrap.fill(note, 100) for note in notes(ranks, tested, why_not)]
    text = "\n".join([title, "", grid, "", *under]) + "\n"
    csv = ranks.frame.to_csv(index=False, float_format="%.6f", lineterminator="\n")
    return {f"{name}_ranks.txt": text.encode(), f"{name}_ranks.csv": csv.encode()}


def _first(ranks: Ranks) -> Selection:
    """The selection that says whether data is simulated: a simulated one if there is any."""
    selections = [built.selection for built in ranks.builts]
    return next((s for s in selections if s.cohort.is_simulated), selections[0])


def notes(ranks: Ranks, tested: Comparison | None, why_not: str) -> list[str]:
    """What the ranks are, what the test found or why there is none, which data, which code."""
    missing = f"No test and no critical-difference diagram: {why_not}."
    metrics = ranks.frame.drop_duplicates("task")[["task", "metric"]].to_numpy()
    selections = [built.selection for built in ranks.builts]
    cohorts = [
        f"Cohort {place}: {s.cohort.title} ({s.cohort.content_hash})."
        for place, s in enumerate(selections, 1)
    ]
    warnings = [note for s in selections for note in provenance(s.cohort, s.preset)[1:]]
    done = [run for built in ranks.builts for run in built.runs if run.is_done]
    n_seeds = len(selections[0].seeds)
    mean = f"Mean over {n_seeds} seeds" if n_seeds > 1 else "One seed"
    return [
        f"{mean} (rank; 1 is best, ties share); "
        f"{', '.join(f'{task} by {metric}' for task, metric in metrics)}. Tasks of one cohort "
        "count as blocks of their own.",
        missing if tested is None else _found(tested, len(ranks.values)),
        *([f"Not ranked: {'; '.join(ranks.left_out)}."] if ranks.left_out else []),
        f"{' '.join(cohorts)} Preset {selections[0].preset}.",
        *dict.fromkeys(warnings),
        *filter(None, [code_and_machine(done), stale(done)]),
    ]


def _found(tested: Comparison, n_blocks: int) -> str:
    apart = f"rows differ where their mean ranks lie {tested.critical_difference:.2f} apart or more"
    outcome = "so no two rows are told apart" if tested.p >= LEVEL else apart
    return (
        f"Friedman over {n_blocks} blocks: p = {tested.p:.3g}, {outcome} (Nemenyi, level {LEVEL}, "
        "all pairs). Conditional on the trained models."
    )


def draw(tested: Comparison, title: str) -> Figure:
    """Critical-difference diagram: rows on a scale of mean ranks; bars join what is not apart."""
    ranks = tested.mean_ranks
    n_left = (len(ranks) + 1) // 2
    bars = tested.alike
    top = 0.5 + 0.35 * len(bars)
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(7.4, 1.9 + 0.16 * len(bars) + 0.24 * n_left), layout="constrained")
        axes = figure.subplots()
        _draw_scale(axes, len(ranks), tested.critical_difference)
        for place, (name, value) in enumerate(ranks.items()):
            is_left = place < n_left
            level = -top - (place if is_left else len(ranks) - 1 - place)
            end = 0.7 if is_left else len(ranks) + 0.3
            axes.plot([value, value, end], [0, level, level], color=BLACK, linewidth=0.8)
            side = "right" if is_left else "left"
            axes.annotate(
                f"{name}  {value:.2f}" if is_left else f"{value:.2f}  {name}",
                (end, level),
                (-3 if is_left else 3, 0),
                textcoords="offset points",
                ha=side,
                va="center",
            )
        for place, (first, last) in enumerate(bars):
            ends = [ranks.iloc[first] - 0.04, ranks.iloc[last] + 0.04]
            axes.plot(ends, [-0.4 - 0.35 * place] * 2, color=BLUE, linewidth=3.5)
        axes.set_ylim(-top - n_left + 0.5, 2.3)
        figure.suptitle(title, fontsize=9, weight="bold")
    return figure


def _draw_scale(axes: Axes, n_rows: int, critical_difference: float) -> None:
    """Ranks 1 to k from left to right, and above them the critical difference as a length."""
    axes.set_axis_off()
    axes.plot([1, n_rows], [0, 0], color=BLACK, linewidth=1)
    for value in range(1, n_rows + 1):
        axes.plot([value, value], [0, 0.2], color=BLACK, linewidth=1)
        axes.text(value, 0.3, str(value), ha="center", va="bottom")
    end = 1 + critical_difference
    axes.plot([1, end], [1.5, 1.5], color=VERMILION, linewidth=1.5, marker="|", markersize=6)
    text = f"critical difference {critical_difference:.2f}"
    axes.text(1, 1.7, text, ha="left", va="bottom", color=VERMILION)


def diagram(ranks: Ranks, tested: Comparison) -> dict[str, bytes]:
    """The critical-difference diagram as PNG and PDF, and its mean ranks as CSV."""
    name = ranks.builts[0].table.name
    figure = draw(tested, heading(f"{name}: mean ranks over blocks", _first(ranks)))
    under = "Bars join rows whose mean ranks are not significantly apart. "
    write_under(figure, under + " ".join(notes(ranks, tested, "")))
    numbers = tested.mean_ranks.rename("mean_rank").reset_index()
    numbers = numbers.assign(critical_difference=tested.critical_difference, friedman_p=tested.p)
    return picture_files(f"{name}_ranks", figure, numbers)


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m tables.ranks", description=__doc__)
    p.add_argument("table", metavar="TABLE", help=", ".join(TABLES))
    p.add_argument("--cohorts", type=Path, nargs="+", required=True, metavar="DIR")
    p.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="store")
    p.add_argument("--preset", type=arguments.choice(Preset), default=Preset.DEMO, metavar="NAME")
    arguments.add_seeds(p)
    arguments.add_overrides(p)
    add_tuned(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; too few blocks for a test are no error."""
    arg = parser().parse_args(argv)
    table = named(arg.table)
    selections = [
        command.selection(argparse.Namespace(**vars(arg), cohort=path), arg.table)
        for path in arg.cohorts
    ]
    ranks = rank(table, selections)
    tested, why_not = None, ""
    try:
        tested = compare(ranks)
    except UserError as refusal:
        why_not = str(refusal)
    store = selections[0].store
    files = contents(ranks, tested, why_not)
    print(files[f"{arg.table}_ranks.txt"].decode())
    written = command.write_files(store.tables, files)
    if tested is not None:
        written += command.write_files(store.figures, diagram(ranks, tested))
    for path in written:
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    run_command(main)
