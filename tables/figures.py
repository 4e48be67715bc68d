"""Draw a figure from stored runs, as PNG and PDF, and write its numbers as CSV.

python -m tables.figures figure2b
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.data.vocabulary import REGIONS, Task
from bench.errors import Parser, UserError, nearest, run_command
from tables import attention, command
from tables.definitions import DIPRO, request
from tables.footer import code_and_machine, provenance, stale
from tables.grid import TASK_TITLES
from tables.runs import FoundRun, Selection, find_runs, require_done

COLOURS = {Task.MORTALITY: "#D55E00", Task.LENGTH_OF_STAY: "#56B4E9"}
"""Okabe-Ito vermilion and sky blue: apart for the colour-blind, and in grey."""

TABLE_OF_RUNS = "table2"
"""The table whose sweep makes the figure's runs."""


def figure2b(selection: Selection, source: str) -> dict[str, bytes]:
    """Figure 2b: mean attention over the ten regions, mortality beside length of stay."""
    wanted = [
        request(DIPRO, task, seed, selection.preset, selection.recipe, selection.overrides)
        for task in attention.TASKS
        for seed in selection.seeds
    ]
    runs = find_runs(selection, wanted)
    require_done(runs, "figure2b", selection.sweep_command(TABLE_OF_RUNS))
    shares = attention.of_runs(runs, source)
    summary = attention.summarise(shares, with_paper=not selection.cohort.is_simulated)
    kind = " (SIMULATED DATA)" if selection.cohort.is_simulated else ""
    title = f"Attention of DiPro over the ten regions{kind}"
    figure = draw_attention(shares, summary, title, _caption(runs, selection, source))
    csv = summary.to_csv(index=False, float_format="%.6f", lineterminator="\n")
    return {**_pictures("figure2b", figure), "figure2b.csv": csv.encode()}


def _caption(runs: Sequence[FoundRun], selection: Selection, source: str) -> str:
    done = [run for run in runs if run.is_done]
    notes = [
        f"Bars: mean over {len(selection.seeds)} seeds; lines: ± 1 sd over seeds. Dashed: equal "
        f"attention. Attention '{source}': {attention.SOURCES[source]}, normalised over regions, "
        "mean over film pairs, heads and test samples.",
        *provenance(selection.cohort, selection.preset),
        code_and_machine(done),
        stale(done),
    ]
    if len(done) < len(runs):
        notes.append(f"INCOMPLETE: {len(done)} of {len(runs)} runs.")
    return " ".join(filter(None, notes))


def draw_attention(shares: pd.DataFrame, summary: pd.DataFrame, title: str, caption: str) -> Figure:
    """Bars per region and task with sd over seeds; the paper's bars as diamonds where given."""
    tasks = [task for task in attention.TASKS if task in set(shares["task"])]
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
            palette=[COLOURS[task] for task in tasks],
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
        figure.supxlabel(textwrap.fill(caption, 140), fontsize=6.5, x=0.01, ha="left")
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


def _pictures(name: str, figure: Figure) -> dict[str, bytes]:
    """PNG and PDF without dates, so that the same numbers give the same bytes."""
    pictures = {}
    dateless = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None}}
    for kind, metadata in dateless.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
        pictures[f"{name}.{kind}"] = buffer.getvalue()
    return pictures


FIGURES: dict[str, Callable[[Selection, str], dict[str, bytes]]] = {"figure2b": figure2b}


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m tables.figures", description=__doc__)
    p.add_argument("figure", metavar="FIGURE", help=", ".join(FIGURES))
    command.add_selection(p)
    p.add_argument(
        "--attention", choices=sorted(attention.SOURCES), default="dynamic", help="which is shown"
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arg = parser().parse_args(argv)
    if arg.figure not in FIGURES:
        raise UserError(f"unknown figure '{arg.figure}': {nearest(arg.figure, FIGURES)}")
    selection = command.selection(arg, TABLE_OF_RUNS)
    contents = FIGURES[arg.figure](selection, arg.attention)
    for path in command.write_files(selection.store.figures, contents):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    run_command(main)
