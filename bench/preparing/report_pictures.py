"""The pictures of a cohort's report, each a PNG that is the same every time."""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bench.data.cohort import Cohort
from bench.data.vocabulary import EHR_VARIABLES, ICU_HORIZON_HOURS, REGIONS
from bench.preparing.describing import histogram
from bench.preparing.ehr_rows import hours_once
from bench.preparing.items import INR_UNIT, PROTHROMBIN_TIME, ItemMap

BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#777777"
REGION_COLOURS: Final = {
    region: mpl.colors.to_hex(mpl.colormaps["tab10"](i)) for i, region in enumerate(REGIONS)
}

VITALS: Final = (
    ("Heart Rate", "bpm"),
    ("Mean blood pressure", "mmHg"),
    ("Respiratory rate", "per min"),
    ("Oxygen saturation", "%"),
    ("Temperature", "°C"),
)
N_BINS: Final = 24
FENCE_IQR: Final = 3.0


@dataclass(frozen=True)
class Limits:
    """What a variable's values were clipped to; those of a score are its lowest and highest."""

    low: float
    high: float
    unit: str = ""
    of_score: bool = False

    @property
    def in_words(self) -> str:
        """For the line below a picture."""
        span = f"{self.low:g} to {self.high:g}"
        return f"scores {span}" if self.of_score else f"clipped to {span} {self.unit}"


def limits_of(cohort: Cohort) -> dict[str, Limits]:
    """Clipping limits of each variable, in physical units."""
    table = pd.read_csv(str(files("bench.data") / "ehr_ranges.csv"))
    # The published table has the range of the one and the unit of both.
    is_inr = cohort.manifest.get("ehr_items") == ItemMap.OFFICIAL
    table.loc[table["variable"] == PROTHROMBIN_TIME, "unit"] = INR_UNIT if is_inr else "s"
    of_score = table["categories"].notna()
    columns = (table[name] for name in ("variable", "outlier_low", "outlier_high", "unit"))
    return {
        name: Limits(low, high, unit, score)
        for name, low, high, unit, score in zip(*columns, of_score, strict=True)
    }


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The bytes of a picture; no date, no version."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def edges_of(values: np.ndarray) -> np.ndarray:
    """Bin edges over the values within 3 IQR of the quartiles; the outermost bins take the rest."""
    first, third = np.quantile(values, [0.25, 0.75])
    reach = FENCE_IQR * (third - first)
    within = values[(values >= first - reach) & (values <= third + reach)] if reach else values
    low, high = float(within.min()), float(within.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, N_BINS + 1)


def draw_distribution(
    values: np.ndarray, subject: np.ndarray, limits: Limits | None, min_patients: int = 0
) -> bytes:
    """A small histogram; a clipping limit is a dashed line where in view, else an arrow to it."""
    with mpl.rc_context({"font.size": 7}):
        figure = Figure(figsize=(2.2, 1.15))
        axes = figure.add_axes((0.04, 0.2, 0.92, 0.66))
        if len(values):
            edges = edges_of(values)
            counts = histogram(values, subject, edges, min_patients)
            axes.stairs(counts, edges, fill=True, color=BLUE)
            axes.margins(x=0.04)
            if limits is not None:
                _mark_limits(axes, limits, edges)
        else:
            axes.text(0.5, 0.5, "nothing to show", ha="center", transform=axes.transAxes)
        _plain(axes)
    return png(figure)


def _mark_limits(axes: Axes, limits: Limits, edges: np.ndarray) -> None:
    width = edges[1] - edges[0]
    for limit, side in ((limits.low, 0), (limits.high, 1)):
        if edges[0] - width <= limit <= edges[-1] + width:
            axes.axvline(limit, color=VERMILION, linestyle="--", linewidth=1)
        else:
            text = f"{limit:g} ▶" if side else f"◀ {limit:g}"
            axes.text(
                side, 1.0, text, color=VERMILION, fontsize=6, va="bottom",
                ha="right" if side else "left", transform=axes.transAxes,
            )  # fmt: skip


def _plain(axes: Axes) -> None:
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.locator_params(axis="x", nbins=4)


def draw_film(cohort: Cohort, film: int, with_boxes: bool) -> bytes:
    """A film, with the boxes of its ten regions if asked for."""
    figure = Figure(figsize=(2.4, 2.4))
    axes = figure.add_axes((0, 0, 1, 1))
    image = cohort.arrays["films"][film]
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    if with_boxes:
        boxes = cohort.arrays["boxes"][film][: len(REGIONS)] * len(image)
        for (x1, y1, x2, y2), colour in zip(boxes, REGION_COLOURS.values(), strict=True):
            if np.isfinite(x1):
                size = x2 - x1, y2 - y1
                axes.add_patch(Rectangle((x1, y1), *size, fill=False, ec=colour, linewidth=1.3))
    axes.set_axis_off()
    return png(figure)


def draw_timeline(cohort: Cohort, stay: int) -> bytes:
    """A stay's vital signs; dots are observed hours, numbered dashed lines the films."""
    films = cohort.films["hours"][cohort.films["stay"] == stay].to_numpy()
    lines = hours_once(cohort)
    lines = lines[lines["stay"] == stay]
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(7.2, 6), layout="constrained")
        panels = figure.subplots(len(VITALS), 1, sharex=True)
        for (name, unit), axes in zip(VITALS, panels, strict=True):
            _draw_vital(axes, cohort, EHR_VARIABLES.index(name), lines)
            shown_in = "sd" if "normalised_by" in cohort.manifest else unit
            axes.set_ylabel(f"{name}\n({shown_in})", fontsize=7)
            axes.axvline(ICU_HORIZON_HOURS, color=VERMILION, linewidth=1)
            for hour in films:
                axes.axvline(hour, color=GREY, linestyle="--", linewidth=0.8)
        for number, hour in enumerate(films, start=1):
            panels[0].text(
                hour, 1.02, number, ha="center", transform=panels[0].get_xaxis_transform()
            )
        panels[-1].set_xlabel("hours since ICU admission")
    return png(figure)


def _draw_vital(axes: Axes, cohort: Cohort, variable: int, lines: pd.DataFrame) -> None:
    hour, row = lines["hour"].to_numpy() + 0.5, lines["row"].to_numpy()
    values = cohort.arrays["ehr_values"][row, variable]
    observed = cohort.arrays["ehr_observed"][row, variable]
    axes.plot(hour, values, drawstyle="steps-mid", color=BLUE, linewidth=0.7, alpha=0.6)
    axes.plot(hour[observed], values[observed], ".", color=BLUE, markersize=4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.locator_params(axis="y", nbins=4)
