"""One stay as DiPro sees it: a pair of films, the EHR between them, and what it predicts.

Nothing like it is in the paper. The films of a credentialed cohort are patient data: they are
drawn on demand only, and the picture says that it must not be passed on.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import ScalarFormatter

from bench.data.batch import Inputs, Samples
from bench.data.cohort import Cohort
from bench.data.vocabulary import (
    DISEASES,
    NOT_MENTIONED,
    REGIONS,
    Cxr,
    Progression,
    Task,
)
from bench.errors import UserError
from bench.metrics import probabilities, stored_arrays
from tables import attention
from tables.pictures import (
    BLUE,
    SKY,
    VERMILION,
    caption,
    heading,
    picture_files,
    runs_of_dipro,
    write_under,
)
from tables.runs import FoundRun, Selection, require_done, seeds_in_words

COLOURS: Final = {
    Progression.WORSENED: VERMILION,
    Progression.IMPROVED: BLUE,
    Progression.NO_CHANGE: "#BBBBBB",
}
COLOURMAP: Final = "plasma"
"""Even steps of lightness: readable in grey."""

WORDS: Final = {p: p.name.lower().replace("_", " ") for p in Progression}


@dataclass(frozen=True)
class Case:
    """A test pair and what the runs make of it, mean over seeds.

    film_1, film_2: rows in the cohort's films
    hours: float [L]; EHR hours; hour_weights: float [L]; attention to them
    region_weights: float [10]; mean over diseases, summing to 1
    labels: int [7]; probability: float [7, 3]
    """

    stay: str
    film_1: int
    film_2: int
    hours: np.ndarray
    hour_weights: np.ndarray
    region_weights: np.ndarray
    labels: np.ndarray
    probability: np.ndarray


def case(
    selection: Selection, source: str, stay: str | None = None, show_patients: bool = False
) -> dict[str, bytes]:
    """Draw a test stay's pair with the most labels; without `stay` that of all test stays.

    Args:
        selection: which runs
        source: which attention shades the regions
        stay: its key, or the beginning of it; the files then are named after it
        show_patients: draw films of a credentialed cohort

    Raises:
        UserError: no run is done, no such test stay with a labelled pair, or films that need
            `show_patients`.
    """
    cohort = selection.cohort
    if cohort.is_credentialed and not show_patients:
        raise UserError(
            f"{cohort.title} holds patients' films: add --show-patients to draw them, for your "
            "own eyes only"
        )
    runs = _runs(selection)
    done = [run for run in runs if run.is_done]
    found = _find(cohort, done, stay or "", source)
    figure = draw(found, cohort, heading(f"Stay {found.stay[:8]}", selection))
    text = (
        f"Boxes: share of attention '{source}' ({attention.SOURCES[source]}), mean over diseases "
        f"and {seeds_in_words(done)}. EHR: attention to hours within the interval between the "
        "films. Bars: predicted probabilities; dots: labels; a disease without a dot has none."
    )
    if cohort.is_credentialed:
        text = f"PATIENT DATA, DO NOT PASS ON. {text}"
    write_under(figure, caption(text, runs, selection), 175)
    return picture_files(f"case_{found.stay[:8]}" if stay else "case", figure, _numbers(found))


def _runs(selection: Selection) -> list[FoundRun]:
    """DiPro's progression runs.

    Raises:
        UserError: none is done; one is enough.
    """
    runs = runs_of_dipro(selection, [Task.DISEASE_PROGRESSION])
    command = runs[0].request.command(str(selection.cohort.path))
    require_done(runs, "case", f"{command} --results {selection.store.root}")
    return runs


def _find(cohort: Cohort, runs: Sequence[FoundRun], stay: str, source: str) -> Case:
    """The chosen pair's inputs from the cohort and outputs from the runs."""
    assert runs[0].files is not None
    predictions = runs[0].files.read_predictions()
    pairs = cohort.pairs.set_index("pair_key").loc[predictions["sample"]]
    stay_key = _stay_keys(cohort, predictions)
    wanted = np.flatnonzero([key.startswith(stay) for key in stay_key])
    if not len(wanted):
        some = ", ".join(sorted(set(stay_key))[:3])
        raise UserError(f"--stay {stay}: no test stay with a labelled pair, choose e.g. {some}")
    n_labels = (stored_arrays(predictions)[1][wanted] != NOT_MENTIONED).sum(axis=1)
    row = int(wanted[n_labels.argmax()])
    sample = predictions["sample"][row]
    samples = Samples(cohort, Task.DISEASE_PROGRESSION, Cxr.PAIR, Inputs(ehr=True))
    batch = samples.batch(np.flatnonzero(samples.keys == sample))
    outputs = [_output(run, sample, source) for run in runs]
    hours = batch.ehr_hours[0].numpy()
    region, hour, logits = (np.mean(part, axis=0) for part in zip(*outputs, strict=True))
    return Case(
        stay=str(stay_key[row]),
        film_1=int(pairs["film_1"].iloc[row]),
        film_2=int(pairs["film_2"].iloc[row]),
        hours=hours,
        hour_weights=hour[: len(hours)],
        region_weights=region,
        labels=stored_arrays(predictions)[1][row],
        probability=logits,
    )


def _stay_keys(cohort: Cohort, predictions: pd.DataFrame) -> np.ndarray:
    """Key of the stay of each predicted pair."""
    stay = cohort.pairs.set_index("pair_key")["stay"].loc[predictions["sample"]]
    return cohort.stays["stay_key"].to_numpy(str)[stay]


def labelled_stays(selection: Selection, n: int) -> list[str]:
    """Keys of the n test stays with the most labels on one of their pairs, most first.

    Raises:
        UserError: no progression run of DiPro is done.
    """
    runs = _runs(selection)
    files = next(run.files for run in runs if run.is_done)
    assert files is not None
    predictions = files.read_predictions()
    n_labels = (stored_arrays(predictions)[1] != NOT_MENTIONED).sum(axis=1)
    of_stays = pd.Series(n_labels).groupby(_stay_keys(selection.cohort, predictions)).max()
    return list(of_stays.sort_values(ascending=False, kind="stable").index[:n])


def _output(run: FoundRun, sample: str, source: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attention to regions [10] and hours [L], and probabilities [7, 3], of one run."""
    assert run.files is not None
    maps, predictions = attention.stored_maps(run, source), run.files.read_predictions()
    row = int(np.flatnonzero(predictions["sample"] == sample)[0])
    weights = maps[source][row, :, 0]
    shares = (weights / weights.sum(-1, keepdims=True)).mean(axis=0)
    logits = stored_arrays(predictions)[0][row : row + 1]
    return shares, maps["interval"][row, 0], probabilities(Task.DISEASE_PROGRESSION, logits)[0]


def _numbers(found: Case) -> pd.DataFrame:
    """Everything that is drawn, long: part, name, value."""
    rows: list[tuple[str, str, float]] = [
        ("region attention", region, weight)
        for region, weight in zip(REGIONS, found.region_weights, strict=True)
    ]
    rows += [
        ("hour attention", f"{hour:g}", weight)
        for hour, weight in zip(found.hours, found.hour_weights, strict=True)
    ]
    for disease, label, row in zip(DISEASES, found.labels, found.probability, strict=True):
        rows.append(("label", disease, float(label)))
        rows += [(f"p {WORDS[p]}", disease, float(row[p])) for p in Progression]
    return pd.DataFrame(rows, columns=["part", "name", "value"])


def draw(found: Case, cohort: Cohort, title: str) -> Figure:
    """Two films with shaded regions, the predictions beside, the EHR's hours under them."""
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(10.2, 5.7))
        names = {"first": found.film_1, "second": found.film_2}
        for left, (name, film) in zip((0.01, 0.315), names.items(), strict=True):
            axes = figure.add_axes((left, 0.38, 0.295, 0.528))
            _draw_film(axes, cohort, film, found.region_weights, name)
        colours = mpl.cm.ScalarMappable(_scale(found.region_weights), colormaps[COLOURMAP])
        place = figure.add_axes((0.622, 0.38, 0.01, 0.528))
        figure.colorbar(colours, cax=place, format=ScalarFormatter(useOffset=False))
        place.set_title("share of\nattention", fontsize=7)
        _draw_predictions(figure.add_axes((0.805, 0.41, 0.18, 0.47)), found)
        _draw_hours(figure.add_axes((0.055, 0.19, 0.935, 0.12)), found, cohort)
        figure.suptitle(title, fontsize=9, weight="bold", x=0.01, ha="left")
    return figure


def _scale(weights: np.ndarray) -> Normalize:
    return Normalize(float(weights.min()), float(weights.max()))


def _draw_film(axes: Axes, cohort: Cohort, film: int, weights: np.ndarray, name: str) -> None:
    image = cohort.arrays["films"][film]
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    scale, boxes = _scale(weights), cohort.arrays["boxes"][film][: len(REGIONS)] * len(image)
    for weight, (x1, y1, x2, y2) in zip(weights, boxes, strict=True):
        if np.isfinite(x1):
            share = float(scale(weight))
            colour = colormaps[COLOURMAP](share)
            corner, size = (x1, y1), (x2 - x1, y2 - y1)
            axes.add_patch(Rectangle(corner, *size, color=colour, alpha=0.4 * share, linewidth=0))
            width = 0.6 + 1.4 * share
            axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=width))
    hours = cohort.films["hours"].iloc[film]
    axes.set_title(f"{name} film, hour {hours:.1f}", fontsize=8)
    axes.set_axis_off()


def _draw_predictions(axes: Axes, found: Case) -> None:
    places = np.arange(len(DISEASES))
    left = np.zeros(len(DISEASES))
    for progression, colour in COLOURS.items():
        share = found.probability[:, progression]
        axes.barh(places, share, left=left, color=colour, label=WORDS[progression],
                  edgecolor="white", linewidth=0.5)  # fmt: skip
        seen = found.labels == progression
        axes.plot(
            (left + share / 2)[seen], places[seen], "o", color="black", markersize=5,
            markeredgecolor="white",
        )  # fmt: skip
        left = left + share
    axes.set_yticks(places, [textwrap.fill(disease, 18) for disease in DISEASES], fontsize=7)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="predicted probability")
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.08, 1), ncols=3, frameon=False, fontsize=7,
        columnspacing=1, handlelength=1,
    )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)


def _draw_hours(axes: Axes, found: Case, cohort: Cohort) -> None:
    axes.bar(found.hours + 0.5, found.hour_weights, width=0.9, color=SKY, edgecolor="black",
             linewidth=0.4)  # fmt: skip
    for film in (found.film_1, found.film_2):
        axes.axvline(cohort.films["hours"].iloc[film], color="black", linestyle="--", linewidth=1)
    axes.set(xlabel="hours since ICU admission", ylabel="attention")
    axes.set_title("EHR of the interval; dashed: the films", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
