"""The numbers that the paper prints."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

from bench.data.vocabulary import Task
from tables.definitions import Row

WITH_MISSING_EHR = (18, 19)
"""Tables whose columns differ in the share of training stays without EHR."""

FOLDER = Path(__file__).parent / "paper"


@cache
def _results() -> pd.DataFrame:
    table = pd.read_csv(FOLDER / "results.csv", dtype={"ablate": str}, keep_default_na=False)
    table[["mean", "sd"]] = table[["mean", "sd"]].apply(pd.to_numeric)
    return table


def published(
    number: int | None, row: Row, task: Task, metric: str, drop_ehr: float = 0.0
) -> tuple[float, float]:
    """Mean and sd that the paper's table prints for a row and metric; NaN where it prints none."""
    t = _results()
    if number in WITH_MISSING_EHR:
        metric = f"{metric}@missing={drop_ehr:.0%}"
    found = t[
        (t["table"] == number)
        & (t["method"] == row.method)
        & (t["ablate"] == "+".join(row.ablate))
        & (t["cxr"] == row.films(task))
        & (t["ehr"] == int(row.ehr))
        & (t["task"] == task)
        & (t["metric"] == metric)
    ]
    if found.empty:
        return float("nan"), float("nan")
    return float(found["mean"].iloc[0]), float(found["sd"].iloc[0])


@cache
def _contradictions() -> pd.DataFrame:
    return pd.read_csv(FOLDER / "contradictions.csv", keep_default_na=False)


def contradiction(number: int | None, row: Row, task: Task, metric: str) -> str:
    """Where the paper prints another number for the same cell; empty if it does not."""
    t = _contradictions()
    found = t[
        (t["table"] == number)
        & (t["row"] == row.name)
        & (t["task"] == task)
        & (t["metric"] == metric)
    ]
    return "" if found.empty else str(found["note"].iloc[0])


def contradictions_of_text(number: int | None) -> list[str]:
    """Where the paper's text and one of its tables do not fit together, beside single cells."""
    t = _contradictions()
    return list(t["note"][(t["table"] == number) & (t["row"] == "")])


def published_efficiency() -> pd.DataFrame:
    """The paper's Table 9: method, parameters in millions, and multiply-adds in billions."""
    table = pd.read_csv(FOLDER / "efficiency.csv")
    # The column called FLOPs holds multiply-adds.
    names = {"params_m": "paper_parameters", "flops_g": "paper_macs"}
    return table.rename(columns=names)[["method", *names.values()]]


def published_attention() -> pd.DataFrame:
    """Bars of the paper's Figure 2b: columns task, region, value."""
    table = pd.read_csv(FOLDER / "figure2.csv")
    bars = table[table["panel"] == "b"].rename(columns={"task_or_disease": "task"})
    return bars[["task", "region", "value"]].reset_index(drop=True)
