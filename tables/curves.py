"""Curves of a table's rows: learning curves; ROC, precision-recall and calibration of mortality.

Every row has panels of its own; the reference row stands dashed behind the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from scipy.stats import rankdata

from bench import significance
from bench.data.vocabulary import SELECTION_METRIC, Task
from bench.errors import UserError
from bench.metrics import Classification
from tables.definitions import Row, Setting, Table, request
from tables.differences import characters_across, labels, named_table
from tables.grid import METRIC_TITLES, TASK_TITLES
from tables.pictures import BLUE, caption, heading, picture_files, write_under
from tables.runs import (
    FoundRun,
    Selection,
    find_runs,
    n_seeds,
    require_done,
    seeds_in_words,
)
from tables.scores import BOOTSTRAP_SEED, collect

N_RESAMPLES = 1_000
"""B of the bands of ROC, precision-recall and calibration curves."""

FALSE_POSITIVE_RATES = np.arange(101) / 100
RECALLS = np.arange(1, 101) / 100

MIN_SAMPLES_FOR_TENTHS = 200
"""Test samples from which calibration is drawn in tenths of the risk; below it, in fifths."""

STEPS = (1, 2, 2.5, 5, 10)
"""Distances between ticks, but for powers of ten."""

BEHIND = "0.45"
"""Colour of the reference row behind the others."""


@dataclass(frozen=True)
class Panel:
    """One kind of panel: its curve in the frame, and its axes.

    guide: heights at x = 0 and x = 1 of a thin line for comparison
    has_points: whether the curve is a few points, on axes that end where the points do
    """

    curve: str
    x: str
    y: str
    guide: tuple[float, float] | None = None
    has_points: bool = False


def learning(selection: Selection, table: str = "table2") -> dict[str, bytes]:
    """Training loss and validation score by epoch.

    Raises:
        UserError: no run that was trained is done.
    """
    defined = named_table(table, selection)
    runs = {setting: _runs(defined, setting, selection) for setting in defined.settings}
    every = [run for of_rows in runs.values() for of_row in of_rows.values() for run in of_row]
    trained = list(filter(_was_trained, every))
    require_done(trained, "learning", selection.sweep_command(table))
    frames = map(learning_curves, runs.keys(), runs.values())
    frame = pd.concat([f for f in frames if not f.empty], ignore_index=True)
    panels = [Panel(name, "epoch", name.replace(": ", "\n")) for name in frame["curve"].unique()]
    spread = (
        "Mean over the seeds that reached the epoch, dotted where some had stopped; bands: ± 1 sd "
        "over seeds. "
    )
    text = (
        f"{spread if n_seeds(trained) > 1 else ''}Training loss: the task's term, without a "
        "method's other terms; the epoch is chosen by the validation score. "
        f"{seeds_in_words(trained).capitalize()}."
    )
    figure = draw(frame, panels, defined, heading(f"{table}: learning curves", selection))
    write_under(figure, caption(text, every, selection), characters_across(figure))
    return picture_files(f"learning_{table}", figure, frame)


def _runs(table: Table, setting: Setting, selection: Selection) -> dict[Row, list[FoundRun]]:
    """Each row's runs in a setting, a run a seed."""
    wanted = [
        request(row, setting, seed, selection.preset, selection.recipe, selection.overrides)
        for row in table.rows
        for seed in selection.seeds
    ]
    found = iter(find_runs(selection, wanted))
    return {row: [next(found) for _ in selection.seeds] for row in table.rows}


def _was_trained(run: FoundRun) -> bool:
    """Whether a run is done and has epochs: one that only tests weights has none."""
    return run.is_done and bool(run.record.get("history"))


def learning_curves(setting: Setting, runs: dict[Row, list[FoundRun]]) -> pd.DataFrame:
    """Two curves of every row: row, curve, x (epoch, from 1), mean, low, high, n_seeds."""
    histories = {
        row: [pd.DataFrame(run.record["history"]) for run in filter(_was_trained, of_row)]
        for row, of_row in runs.items()
    }
    seen = {str(name) for of_row in histories.values() for history in of_row for name in history}
    hidden = f", {setting.drop_ehr:.0%} w/o EHR" if setting.drop_ehr else ""
    curves = [
        mean_curve([history[name] for history in of_row]).assign(
            row=row.name, curve=f"{TASK_TITLES[setting.task]}{hidden}: {title}"
        )
        for name, title in _quantities(setting.task, seen).items()
        for row, of_row in histories.items()
        if of_row
    ]
    columns = ["row", "curve", "x", "mean", "low", "high", "n_seeds"]
    return pd.concat(curves)[columns] if curves else pd.DataFrame(columns=columns)


def _quantities(task: Task, seen: set[str]) -> dict[str, str]:
    """What is drawn of a history, by its name there: what an epoch is chosen by depends on it."""
    metric = SELECTION_METRIC[task]
    scores = {metric: f"validation {METRIC_TITLES[metric]}", "validation_loss": "validation loss"}
    chosen_by = [name for name in scores if name in seen][:1]
    return {"train_task": "training loss", **{name: scores[name] for name in chosen_by}}


def mean_curve(histories: Sequence[pd.Series]) -> pd.DataFrame:
    """Mean over seeds by epoch with ± 1 sd: x, mean, low, high (NaN for one seed), n_seeds."""
    by_seed = pd.concat([history.reset_index(drop=True) for history in histories], axis=1)
    mean, sd = by_seed.mean(axis=1), by_seed.std(axis=1)
    return pd.DataFrame(
        {
            "x": by_seed.index + 1,
            "mean": mean,
            "low": mean - sd,
            "high": mean + sd,
            "n_seeds": by_seed.count(axis=1),
        }
    )


def mortality_curves(selection: Selection, table: str = "table2") -> dict[str, bytes]:
    """ROC, precision-recall and calibration curves of mortality.

    Raises:
        UserError: the table is not about mortality, no run is done, or all or none died.
    """
    defined = named_table(table, selection)
    if Setting(Task.MORTALITY) not in defined.settings:
        raise UserError(f"{table} is not about mortality: take table2, table12 or table19")
    runs = collect(defined, Setting(Task.MORTALITY), selection)
    found = list(runs.found.values())
    require_done(found, f"mortality_curves of {table}", selection.sweep_command(table))
    share = float(runs.labels.mean())
    if share in (0, 1):
        raise UserError(f"mortality has no curves: {share:.0%} of the test samples died")
    by_row: dict[Row, list[Classification]] = {}
    for (row, _), scorer in runs.scorers.items():
        by_row.setdefault(row, []).append(scorer.parts[Task.MORTALITY])
    frame = pd.concat(
        [row_curves(of_row).assign(row=row.name) for row, of_row in by_row.items()],
        ignore_index=True,
    )
    panels = [
        Panel("roc", "1 − specificity", "sensitivity", (0, 1)),
        Panel("precision_recall", "recall", "precision", (share, share)),
        Panel("calibration", "predicted risk", "died", (0, 1), has_points=True),
    ]
    mean = "Mean over seeds; bands" if n_seeds(found) > 1 else "Bands"
    text = (
        f"{mean}: 95 % pointwise (cluster bootstrap over test subjects, B = "
        f"{N_RESAMPLES}, seed {BOOTSTRAP_SEED}). Thin: chance, and equal risk and share. "
        f"Calibration in {_n_groups(len(runs.labels))} groups of equal size by predicted risk. "
        f"{len(runs.labels)} stays of {runs.n_subjects} subjects, {share:.1%} died. "
        f"{seeds_in_words(found).capitalize()}."
    )
    if frame["low"].isna().any():
        text += " No band: undefined in more than 5 % of the resamples."
    figure = draw(frame, panels, defined, heading(f"{table}: in-hospital mortality", selection))
    write_under(figure, caption(text, found, selection), characters_across(figure))
    return picture_files(f"mortality_curves_{table}", figure, frame)


def row_curves(seeds: Sequence[Classification]) -> pd.DataFrame:
    """The three curves of a row: curve, x, mean over seeds, low, high (95 %), n_seeds.

    A point that is undefined in more than 5 % of the resamples has no band.
    """

    def heights(counts: np.ndarray) -> np.ndarray:
        of_seeds = [
            np.concatenate([roc(part, counts), precision_recall(part, counts), died(part, counts)])
            for part in seeds
        ]
        return np.stack(of_seeds, axis=1)

    n_subjects, generator = seeds[0].n_subjects, np.random.default_rng(BOOTSTRAP_SEED)
    drawn = significance.bootstrap(heights, n_subjects, N_RESAMPLES, generator)
    band = np.quantile(drawn.values.mean(axis=1), [0.025, 0.975], axis=1)
    band[:, drawn.redrawn_share > significance.MAX_REDRAWN] = np.nan
    x = {
        "roc": FALSE_POSITIVE_RATES,
        "precision_recall": RECALLS,
        "calibration": np.mean([predicted_risk(part) for part in seeds], axis=0),
    }
    return pd.DataFrame(
        {
            "curve": np.repeat(list(x), [len(places) for places in x.values()]),
            "x": np.concatenate(list(x.values())),
            "mean": heights(np.ones((n_subjects, 1)))[..., 0].mean(axis=1),
            "low": band[0],
            "high": band[1],
            "n_seeds": len(seeds),
        }
    )


def roc(part: Classification, counts: np.ndarray) -> np.ndarray:
    """Sensitivity at `FALSE_POSITIVE_RATES`, [101, B]; straight lines through tied scores.

    Args:
        part: two classes, one score
        counts: [S, B]; how often each subject is drawn. NaN without both classes
    """
    curve = part.rankings[0].curve(counts)
    # A threshold has two points: before and after its samples.
    shape = (-1, counts.shape[1])
    false = np.stack([curve.false_positives - curve.ties, curve.false_positives], 1).reshape(shape)
    true = np.stack([curve.true_positives - curve.hits, curve.true_positives], 1).reshape(shape)
    heights = np.full((len(FALSE_POSITIVE_RATES), counts.shape[1]), np.nan)
    for b in np.flatnonzero((curve.n_positives > 0) & (curve.n_negatives > 0)):
        x = np.append(false[:, b] / curve.n_negatives[b], 1)
        y = np.append(true[:, b] / curve.n_positives[b], 1)
        heights[:, b] = np.interp(FALSE_POSITIVE_RATES, x, y)
    return heights


def precision_recall(part: Classification, counts: np.ndarray) -> np.ndarray:
    """Precision at the highest threshold that reaches each of `RECALLS`, [100, B]; args as `roc`.

    Steps, as average precision takes them: a straight line would promise too much (Davis and
    Goadrich 2006).
    """
    curve = part.rankings[0].curve(counts)
    heights = np.full((len(RECALLS), counts.shape[1]), np.nan)
    for b in np.flatnonzero((curve.n_positives > 0) & (curve.n_negatives > 0)):
        true, false = curve.true_positives[:, b], curve.false_positives[:, b]
        # Less than half a positive short is a rounding error.
        place = np.searchsorted(true, RECALLS * curve.n_positives[b] - 1e-9)
        heights[:, b] = true[place] / (true[place] + false[place])
    return heights


def risk_groups(part: Classification) -> np.ndarray:
    """Group of each sample by its score, int [n], lowest first; equal in size but for ties."""
    n = len(part.labels)
    return ((rankdata(part.scores[:, 0]) - 0.5) / n * _n_groups(n)).astype(np.int64)


def _n_groups(n_samples: int) -> int:
    return 10 if n_samples >= MIN_SAMPLES_FOR_TENTHS else 5


def predicted_risk(part: Classification) -> np.ndarray:
    """Mean score in each risk group; NaN in one that ties leave empty."""
    groups = range(_n_groups(len(part.labels)))
    means = pd.Series(part.scores[:, 0]).groupby(risk_groups(part)).mean()
    return means.reindex(groups).to_numpy()


def died(part: Classification, counts: np.ndarray) -> np.ndarray:
    """Share of each risk group that died, [G, B]; NaN in an empty one. Arguments as `roc`."""
    sums = np.zeros((2, _n_groups(len(part.labels)), part.n_subjects))
    np.add.at(sums, (part.labels, risk_groups(part), part.subject), 1)
    survived, dead = sums @ counts
    return np.divide(
        dead, dead + survived, out=np.full_like(dead, np.nan), where=dead + survived > 0
    )


def draw(frame: pd.DataFrame, panels: Sequence[Panel], table: Table, title: str) -> Figure:
    """A line of panels per row of the table, in two halves side by side if they are few."""
    rows = {name: text for name, text in labels(table).items() if name in set(frame["row"])}
    halves = 2 if len(panels) <= 4 and len(rows) > 4 else 1
    down, across = math.ceil(len(rows) / halves), halves * len(panels)
    size = (max(1.45 * across + 0.4, 6.0), 1.25 * down + 1.5)
    with mpl.rc_context({"font.size": 6.5, "axes.linewidth": 0.6}):
        figure = Figure(figsize=size, layout="constrained")
        # Panels by row of the table: the second half stands beside the first.
        places = np.concatenate(np.hsplit(figure.subplots(down, across, squeeze=False), halves))
        for place, (name, text) in enumerate(rows.items()):
            of_row = places[place]
            of_row[0].set_title(text, fontsize=7.5, weight="bold", loc="left")
            for axes, panel in zip(of_row, panels, strict=True):
                of_panel = frame[frame["curve"] == panel.curve]
                _draw_panel(axes, panel, of_panel, name, table.reference.name)
            if place % down == down - 1 or place == len(rows) - 1:
                for axes, panel in zip(of_row, panels, strict=True):
                    axes.set_xlabel(panel.x, labelpad=1)
        for axes in places[len(rows) :].ravel():
            axes.remove()
        handles = _legend(table, has_bands=bool(frame["low"].notna().any()))
        figure.legend(
            handles=handles, loc="outside upper right", ncols=3, frameon=False, fontsize=8
        )
        figure.suptitle(title, fontsize=9, weight="bold", x=0.01, ha="left")
    return figure


def _draw_panel(axes: Axes, panel: Panel, curves: pd.DataFrame, row: str, behind: str) -> None:
    """One row's curve with its band over the curve of the row `behind`."""
    own, reference = curves[curves["row"] == row], curves[curves["row"] == behind]
    if panel.guide:
        axes.axline((0, panel.guide[0]), (1, panel.guide[1]), color="0.7", linewidth=0.7)
    if row != behind:
        axes.plot(reference["x"], reference["mean"], "--", color=BEHIND, linewidth=0.9)
    axes.fill_between(own["x"], own["low"], own["high"], color=BLUE, alpha=0.25, linewidth=0)
    whole = own.where(own["n_seeds"] == own["n_seeds"].max())
    axes.plot(own["x"], own["mean"], ":", color=BLUE, linewidth=1)
    marker = "o" if panel.has_points or len(own) == 1 else ""
    axes.plot(whole["x"], whole["mean"], color=BLUE, linewidth=1.2, marker=marker, markersize=2.5)
    axes.set_ylabel(panel.y, labelpad=1)
    axes.set(**_limits(panel, curves))
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=STEPS, integer=panel.guide is None))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=STEPS))
    axes.tick_params(labelsize=6, length=2)
    axes.spines[["top", "right"]].set_visible(False)


def _limits(panel: Panel, curves: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Limits that the rows share."""
    if panel.guide and not panel.has_points:
        return {"xlim": (0, 1), "ylim": (0, 1.02)}
    heights = curves[["mean", "low", "high"]].to_numpy(float)
    low, high = np.nanmin(heights), np.nanmax(heights)
    if panel.has_points:
        edge = 1.05 * max(high, curves["x"].max())
        return {"xlim": (0, edge), "ylim": (0, edge)}
    margin = 0.05 * (high - low) or 0.01
    return {"xlim": (0.5, curves["x"].max() + 0.5), "ylim": (low - margin, high + margin)}


def _legend(table: Table, has_bands: bool) -> list[Artist]:
    band = Patch(color=BLUE, alpha=0.25, linewidth=0, label="band")
    return [
        Line2D([], [], color=BLUE, linewidth=1.2, label="this row"),
        *([band] if has_bands else []),
        Line2D([], [], color=BEHIND, linestyle="--", label=labels(table)[table.reference.name]),
    ]
