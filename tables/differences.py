"""Differences of a table's rows to its reference row: their numbers, and a forest plot of them."""

from __future__ import annotations

import math
from collections import Counter

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench import significance
from bench.registry import load_method
from tables.build import FAMILY, Built, State, build
from tables.definitions import Column, Row, Table, named, with_published
from tables.grid import FrameRow, grid
from tables.pictures import BLACK, BLUE, caption, heading, picture_files, write_under
from tables.runs import Selection
from tables.scores import BOOTSTRAP_SEED, MetricScores

MAX_PANELS_ACROSS = 4
STAR_LEVEL = significance.STAR_LEVELS[-1][0]


def resampled_difference(row: Row, reference: Row, scores: MetricScores) -> np.ndarray:
    """Row minus reference in each resample of the subjects, [B]; seed matched with seed.

    Empty where the metric, a seed of both, or more than 5 % of the resamples is undefined: the
    cells that have no p either.
    """
    own, other = scores.places(row), scores.places(reference)
    seeds = [seed for seed in own if seed in other]
    reliable = scores.redrawn_share <= significance.MAX_REDRAWN
    if not (seeds and scores.is_defined and reliable):
        return np.zeros(0)
    a, b = [own[seed] for seed in seeds], [other[seed] for seed in seeds]
    return (scores.resampled[a] - scores.resampled[b]).mean(axis=0)


def differences(built: Built) -> pd.DataFrame:
    """A row for every cell that is, or will be, compared with the reference.

    Columns are those of `Built.frame` that matter here, and: reference; difference, its 95 %
    interval ci_low to ci_high and standard_error over resamples (NaN where there is no p);
    n_comparisons, those of its family.
    """
    rows = {row.name: row for row in built.table.rows}
    cells = {(s.runs.task, s.runs.setting.drop_ehr, s.metric): s for s in built.scores}
    frame = built.frame
    frame = frame[(frame["row"] != built.reference.name) & (frame["state"] != State.DECLINED)]
    kept = ["table", "row", "title", *FAMILY, "state", "n_seeds", "difference"]
    found = []
    for cell in frame.to_dict("records"):
        scores = cells[cell["task"], cell["drop_ehr"], cell["metric"]]
        drawn = resampled_difference(rows[cell["row"]], built.reference, scores)
        tested = {name: cell[name] for name in ("p", "p_adjusted", "stars", "note")}
        found.append({**{name: cell[name] for name in kept}, **_spread(drawn), **tested})
    table = pd.DataFrame(found)
    table.insert(2, "reference", built.reference.name)
    table["n_comparisons"] = table.groupby(FAMILY)["row"].transform("size")
    return table


def _spread(drawn: np.ndarray) -> dict[str, float]:
    """Percentile interval and standard error of resampled differences [B]."""
    if not len(drawn):
        return dict.fromkeys(["ci_low", "ci_high", "standard_error"], math.nan)
    low, high = significance.percentile_interval(drawn)
    return {"ci_low": low, "ci_high": high, "standard_error": float(drawn.std(ddof=1))}


def forest(selection: Selection, table: str = "table2") -> dict[str, bytes]:
    """Forest plot: a panel per column of a table, a line per row."""
    return forest_of(build(named_table(table, selection), selection))


def forest_of(built: Built) -> dict[str, bytes]:
    """Forest plot of a table's numbers."""
    table, selection = built.table.name, built.selection
    numbers = differences(built)
    reference = labels(built.table)[built.reference.name]
    text = (
        f"Row minus {reference}, mean over seeds, seed matched with seed; right of 0 "
        "the row is better. Lines: 95 % interval of each difference on its own (paired cluster "
        f"bootstrap over test subjects, percentile, B = {built.n_resamples}, seed "
        f"{BOOTSTRAP_SEED}); conditional on the trained models. Filled: p < {STAR_LEVEL} after "
        f"Holm over the {built.family_size} comparisons of a panel."
    )
    if (numbers["ci_low"].isna() & numbers["difference"].notna()).any():
        text += " Cross: no interval, the reason is in the CSV."
    title = heading(f"{table}: differences to {reference}", selection)
    figure = draw_forest(built, numbers, title)
    write_under(figure, caption(text, built.runs, selection), characters_across(figure))
    return picture_files(f"forest_{table}", figure, numbers)


def named_table(name: str, selection: Selection) -> Table:
    """A table with all rows that the store has, published weights included.

    Raises:
        UserError: there is no table of that name.
    """
    table = named(name)
    of_cohort = selection.store.records_of(selection.cohort.content_hash)
    return with_published(table, of_cohort)


def characters_across(figure: Figure) -> int:
    """Characters of small print that fit on a line under a figure."""
    return int(19.5 * figure.get_figwidth())


def draw_forest(built: Built, numbers: pd.DataFrame, title: str) -> Figure:
    """Panels in the order of the columns; rows are named where a line of panels begins."""
    columns = built.table.columns
    names = {
        name: text for name, text in labels(built.table).items() if name in set(numbers["row"])
    }
    across = min(MAX_PANELS_ACROSS, len(columns))
    down = math.ceil(len(columns) / across)
    size = (1.7 + 1.75 * across, 1.4 + down * (0.7 + 0.2 * len(names)))
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
        for axes, column, above in zip(panels, columns, _panel_titles(built), strict=False):
            _draw_panel(axes, _of_column(numbers, column), list(names))
            axes.set_title(above, fontsize=8)
        for axes in panels[len(columns) :]:
            axes.remove()
        panels[0].set_yticks(range(len(names)), list(names.values()))
        panels[0].set_ylim(len(names) - 0.4, -0.6)
        figure.legend(handles=_legend(), loc="outside upper right", ncols=2, frameon=False)
        figure.suptitle(title, fontsize=9, weight="bold", x=0.01, ha="left")
    return figure


def labels(table: Table) -> dict[str, str]:
    """What pictures call each row, by its name: its title, and its inputs where these tell apart.

    Rows with and without the EHR are told apart by that, others of one title by their films.
    """
    titles = {
        row: row.title or " w/o ".join([load_method(row.method).title, *row.ablate])
        for row in table.rows
    }
    with_inputs = {row: title if row.ehr else f"{title}, no EHR" for row, title in titles.items()}
    n_alike = Counter(with_inputs.values())
    return {
        row.name: f"{text}, {row.cxr}" if n_alike[text] > 1 else text
        for row, text in with_inputs.items()
    }


def _panel_titles(built: Built) -> list[str]:
    """Task and metric of each column, as the table heads them."""
    return [
        f"{task}\n{metric}" for task, metric in grid(built).headings if task and metric != "paper"
    ]


def _of_column(numbers: pd.DataFrame, column: Column) -> dict[str, FrameRow]:
    """The cells of one column, by the names of their rows."""
    is_here = (numbers[FAMILY] == [column.task, column.drop_ehr, column.metric]).all(axis=1)
    return {cell["row"]: cell for cell in numbers[is_here].to_dict("records")}


def _draw_panel(axes: Axes, cells: dict[str, FrameRow], rows: list[str]) -> None:
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    for place, name in enumerate(rows):
        if name in cells and not pd.isna(cells[name]["difference"]):
            _draw_difference(axes, place, cells[name])
            continue
        text = "no number" if name in cells else "cannot do it"
        middle = axes.get_yaxis_transform()
        axes.text(0.5, place, text, transform=middle, ha="center", va="center", color="0.4")
    axes.tick_params(axis="x", labelsize=7)
    axes.locator_params(axis="x", nbins=5)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_difference(axes: Axes, place: int, cell: FrameRow) -> None:
    """A point on its interval; a cross where there is no interval."""
    if pd.isna(cell["ci_low"]):
        axes.plot(cell["difference"], place, "x", color="0.4", markersize=4.5)
        return
    face = BLUE if cell["p_adjusted"] < STAR_LEVEL else "white"
    axes.plot([cell["ci_low"], cell["ci_high"]], [place, place], color=BLUE, linewidth=1.3)
    axes.plot(cell["difference"], place, "o", color=BLUE, markersize=4.5, markerfacecolor=face)


def _legend() -> list[Line2D]:
    """Handles of the two kinds of points."""
    kinds = {f"Holm-adjusted p < {STAR_LEVEL}": BLUE, f"p ≥ {STAR_LEVEL}": "white"}
    return [
        Line2D([], [], color=BLUE, marker="o", markersize=4.5, markerfacecolor=face, label=name)
        for name, face in kinds.items()
    ]
