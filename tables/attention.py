"""Stored attention maps to a share of attention per region (paper, Figure 2b)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bench.data.vocabulary import REGIONS, Task
from bench.errors import UserError
from tables.published import published_attention
from tables.runs import FoundRun

TASKS = (Task.MORTALITY, Task.LENGTH_OF_STAY)
"""Tasks of Figure 2b, in printed order."""

SOURCES = {
    "dynamic": "class token over the regions' change features (fusion layer)",
    "static": "class token over the regions' static features (last cross-attention)",
}
"""Which attention a figure shows: the paper does not say which one it plots."""


def by_region(attention: np.ndarray, pair_valid: np.ndarray) -> np.ndarray:
    """Mean attention over the regions, [10], summing to 1.

    Args:
        attention: [N, C, P, 10]; weights of C class tokens, which other keys may share
        pair_valid: bool [N, P]

    Each valid pair's weights are normalised over the regions, then averaged over pairs and class
    tokens, then over samples, so that a stay with many films counts once. A pair that attends to no
    region at all and a sample without a valid pair are left out.
    """
    weights = attention.astype(np.float64) * pair_valid[:, None, :, None]
    total = weights.sum(-1, keepdims=True)
    attends = total > 0
    share = np.divide(weights, total, out=np.zeros_like(weights), where=attends)
    n_pairs = attends.sum(axis=(1, 2))
    seen = n_pairs[:, 0] > 0
    per_sample = share.sum(axis=(1, 2))[seen] / n_pairs[seen]
    return per_sample.mean(axis=0)


def of_runs(runs: Sequence[FoundRun], source: str) -> pd.DataFrame:
    """Long table task, seed, region, attention of the done runs.

    Raises:
        UserError: a run stored no such attention.
    """
    parts = []
    for run in runs:
        if not run.is_done:
            continue
        assert run.files is not None
        maps = run.files.read_attention()
        if source not in maps:
            raise UserError(f"run {run.folder} has no '{source}' attention: {_stored(maps)}")
        values = by_region(maps[source], maps["pair_valid"])
        row = {"task": str(run.request.task), "seed": run.request.seed}
        parts.append(pd.DataFrame({**row, "region": REGIONS, "attention": values}))
    return pd.concat(parts, ignore_index=True)


def _stored(maps: dict[str, np.ndarray]) -> str:
    return f"it has {', '.join(sorted(set(maps) - {'pair_valid'})) or 'none'}"


def summarise(attention: pd.DataFrame, with_paper: bool) -> pd.DataFrame:
    """Mean and sd over seeds by task and region, and the paper's bar beside on request."""
    grouped = attention.groupby(["task", "region"], sort=False)["attention"]
    summary = grouped.agg(mean="mean", sd="std", n_seeds="count").reset_index()
    if with_paper:
        paper = published_attention().rename(columns={"value": "paper"})
        summary = summary.merge(paper, on=["task", "region"], how="left")
    return summary
