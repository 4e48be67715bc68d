"""What the figures share: their runs, their caption, and files that are the same every time."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from bench.data.vocabulary import DISEASES, Task
from tables.definitions import DIPRO, Setting, request
from tables.footer import code_and_machine, provenance, stale
from tables.runs import FoundRun, Selection, find_runs

ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE, BLACK = "#0072B2", "#D55E00", "#CC79A7", "#000000"
"""Okabe and Ito's colours: apart for the colour-blind."""

TASK_COLOURS = {Task.MORTALITY: VERMILION, Task.LENGTH_OF_STAY: SKY}
"""Apart in grey, too."""

DISEASE_COLOURS = dict(
    zip(DISEASES, (BLUE, BLACK, ORANGE, SKY, GREEN, VERMILION, PURPLE), strict=True)
)


def runs_of_dipro(selection: Selection, tasks: Sequence[Task]) -> list[FoundRun]:
    """DiPro's runs of some tasks, done or not."""
    wanted = [
        request(DIPRO, Setting(task), seed, selection.preset, selection.recipe, selection.overrides)
        for task in tasks
        for seed in selection.seeds
    ]
    return find_runs(selection, wanted)


def heading(text: str, selection: Selection) -> str:
    """A title that says when the data is simulated."""
    return f"{text} (SIMULATED DATA)" if selection.cohort.is_simulated else text


def caption(text: str, runs: Sequence[FoundRun], selection: Selection) -> str:
    """What is drawn, of which data, by which code."""
    done = [run for run in runs if run.is_done]
    notes = [
        text,
        *provenance(selection.cohort, selection.preset),
        code_and_machine(done),
        stale(done),
    ]
    if len(done) < len(runs):
        notes.append(f"INCOMPLETE: {len(done)} of {len(runs)} runs.")
    return " ".join(filter(None, notes))


def write_under(figure: Figure, text: str, width: int = 140) -> None:
    """Put a caption in small print under a figure."""
    figure.supxlabel(textwrap.fill(text, width), fontsize=6.5, x=0.01, ha="left")


def picture_files(name: str, figure: Figure, numbers: pd.DataFrame) -> dict[str, bytes]:
    """PNG and PDF without dates, and the numbers as CSV: the same numbers give the same bytes."""
    files = {}
    dateless = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None}}
    for kind, metadata in dateless.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
        files[f"{name}.{kind}"] = buffer.getvalue()
    csv = numbers.to_csv(index=False, float_format="%.6f", lineterminator="\n")
    return {**files, f"{name}.csv": csv.encode()}
