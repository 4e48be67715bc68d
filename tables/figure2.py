"""Figure 2 of the paper: which regions DiPro attends to, (a) by disease and (b) in the ICU."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import cycle
from typing import cast

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes

from bench.data.vocabulary import DISEASES, REGIONS, Task
from tables import attention
from tables.grid import TASK_TITLES
from tables.pictures import (
    DISEASE_COLOURS,
    TASK_COLOURS,
    caption,
    heading,
    picture_files,
    runs_of_dipro,
    write_under,
)
from tables.runs import FoundRun, Selection, n_seeds, require_done, seeds_in_words

ICU_TASKS = (Task.MORTALITY, Task.LENGTH_OF_STAY)
RADIUS_TICKS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def figure2a(selection: Selection, source: str) -> dict[str, bytes]:
    """Radar with a logarithmic radius: attention over the ten regions, a polygon per disease."""
    runs = runs_of_dipro(selection, [Task.DISEASE_PROGRESSION])
    require_done(runs, "figure2a", selection.sweep_command("table13"))
    summary = attention.summarise(attention.of_runs(runs, source))
    figure = draw_radar(summary, heading("Attention of DiPro by disease", selection))
    spread = "Corners: mean over seeds; lines through them: ± 1 sd over seeds."
    text = _explained(spread, "Radius: logarithmic.", runs, source)
    write_under(figure, caption(text, runs, selection), 118)
    return picture_files("figure2a", figure, summary)


def figure2b(selection: Selection, source: str) -> dict[str, bytes]:
    """Bars: attention over the ten regions, mortality beside length of stay."""
    runs = runs_of_dipro(selection, ICU_TASKS)
    require_done(runs, "figure2b", selection.sweep_command("table2"))
    shares = attention.of_runs(runs, source)
    summary = attention.summarise(shares, with_paper=not selection.cohort.is_simulated)
    figure = draw_bars(shares, summary, heading("Attention of DiPro over the regions", selection))
    spread = "Bars: mean over seeds; lines: ± 1 sd over seeds."
    text = _explained(spread, "Dashed: equal attention.", runs, source)
    write_under(figure, caption(text, runs, selection))
    return picture_files("figure2b", figure, summary)


def _explained(spread: str, scale: str, runs: Sequence[FoundRun], source: str) -> str:
    """What is drawn, of which seeds, and which attention it is; `spread` is for several seeds."""
    shown = f"{spread} {scale}" if n_seeds(runs) > 1 else scale
    return (
        f"{shown} {seeds_in_words(runs).capitalize()}. Attention '{source}': "
        f"{attention.SOURCES[source]}, normalised over regions, mean over film pairs, heads and "
        "test samples."
    )


def draw_radar(summary: pd.DataFrame, title: str) -> Figure:
    """One closed line per disease, regions clockwise from the top in the paper's order."""
    angles = np.linspace(0, 2 * np.pi, len(REGIONS), endpoint=False)
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(6.2, 7.0))
        axes = cast("PolarAxes", figure.add_axes((0.14, 0.24, 0.72, 0.64), projection="polar"))
        axes.set(theta_direction=-1, rscale="log")
        axes.set_theta_zero_location("N")
        markers = cycle(MARKERS)
        for place, disease in enumerate(DISEASES):
            # Error lines of one region stand side by side.
            beside = (place - len(DISEASES) // 2) * 0.02
            of_disease = summary[summary["output"] == disease].set_index("region")
            mean = of_disease["mean"][list(REGIONS)].to_numpy()
            spread = of_disease["sd"][list(REGIONS)].fillna(0).to_numpy()
            colour, marker = DISEASE_COLOURS[disease], next(markers)
            axes.plot(
                _closed(angles), _closed(mean), color=colour, linewidth=1.1, marker=marker,
                markersize=3.5, label=disease,
            )  # fmt: skip
            # On a logarithmic radius a line may not reach zero.
            below = np.minimum(spread, 0.95 * mean)
            axes.errorbar(
                angles + beside, mean, yerr=[below, spread], fmt="none", ecolor=colour,
                elinewidth=0.8,
            )  # fmt: skip
        inner = (summary["mean"] - summary["sd"].fillna(0)).clip(lower=0.05 * summary["mean"])
        outer = summary["mean"] + summary["sd"].fillna(0)
        limits = inner.min() / 1.3, outer.max() * 1.05
        ticks = [tick for tick in RADIUS_TICKS if limits[0] < tick < limits[1]]
        axes.set_rlim(*limits)
        axes.set_rticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=6.5)
        axes.set_rlabel_position(18)
        axes.minorticks_off()
        axes.set_xticks(angles, [textwrap.fill(region, 14) for region in REGIONS])
        for angle, label in zip(angles, axes.get_xticklabels(), strict=True):
            # Labels beside the circle grow away from it.
            label.set(
                horizontalalignment=_outwards(np.sin(angle), "left", "right"),
                verticalalignment=_outwards(np.cos(angle), "bottom", "top"),
            )
        axes.tick_params(axis="x", pad=0)
        figure.legend(loc="center", bbox_to_anchor=(0.5, 0.135), ncols=4, frameon=False, fontsize=7)
        figure.suptitle(title, fontsize=9, weight="bold")
    return figure


def _outwards(offset: float, after: str, before: str) -> str:
    """Alignment of a label that lies `offset` radii from the circle's centre along an axis."""
    return after if offset > 0.2 else before if offset < -0.2 else "center"


def _closed(values: np.ndarray) -> np.ndarray:
    return np.append(values, values[0])


def draw_bars(shares: pd.DataFrame, summary: pd.DataFrame, title: str) -> Figure:
    """Bars per region and task with sd over seeds; the paper's bars as diamonds where given."""
    tasks = [task for task in ICU_TASKS if task in set(shares["task"])]
    with sns.axes_style("whitegrid"), mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(7.4, 4.0), layout="constrained")
        axes = figure.subplots()
        sns.barplot(
            shares,
            x="region",
            y="attention",
            hue="task",
            order=REGIONS,
            hue_order=tasks,
            palette=[TASK_COLOURS[task] for task in tasks],
            width=0.76,
            errorbar="sd",
            err_kws={"linewidth": 0.9, "color": "black"},
            capsize=0.2,
            saturation=1,
            edgecolor="black",
            linewidth=0.5,
            ax=axes,
        )
        axes.axhline(1 / len(REGIONS), color="black", linewidth=0.8, linestyle="--", zorder=3)
        handles = [*axes.get_legend_handles_labels()[0], *_paper_markers(axes, summary, tasks)]
        names = [*(TASK_TITLES[task] for task in tasks), "paper"]
        _legend_above(axes, handles, names)
        axes.set(xlabel="", ylabel="share of attention")
        labels = [textwrap.fill(name, 12) for name in REGIONS]
        axes.set_xticks(range(len(REGIONS)), labels, fontsize=6.5)
        figure.suptitle(title, fontsize=9, weight="bold")
    return figure


def _paper_markers(axes: Axes, summary: pd.DataFrame, tasks: Sequence[Task]) -> list[Artist]:
    """Diamonds at the heights of the paper's bars, in the middle of ours; none if not given."""
    if "paper" not in summary:
        return []
    for bars, task in zip(axes.containers, tasks, strict=False):
        heights = summary[summary["task"] == task].set_index("region")["paper"]
        middles = [bar.get_x() + bar.get_width() / 2 for bar in bars]
        drawn = axes.scatter(
            middles,
            heights[list(REGIONS)],
            marker="D",
            s=14,
            color="white",
            edgecolor="black",
            zorder=4,
        )
    return [drawn]


def _legend_above(axes: Axes, handles: list[Artist], names: list[str]) -> None:
    axes.legend(
        handles,
        names[: len(handles)],
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(handles),
        frameon=False,
        borderaxespad=0.2,
    )
