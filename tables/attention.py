"""Stored attention maps to a share of attention per region (paper, Figure 2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bench.data.vocabulary import DISEASES, REGIONS, Task
from bench.errors import UserError
from tables.published import published_attention
from tables.runs import FoundRun

SOURCES = {
    "dynamic": "class token over the regions' change features (fusion layer)",
    "static": "class token over the regions' static features (last cross-attention)",
}
"""Which attention a figure shows: the paper does not say which one it plots."""


def by_region(attention: np.ndarray, pair_valid: np.ndarray) -> np.ndarray:
    """Mean attention of each class token over the regions, [C, 10]; a row sums to 1.

    Args:
        attention: [N, C, P, 10]; weights of C class tokens, which other keys may share
        pair_valid: bool [N, P]

    Each valid pair's weights are normalised over the regions, then averaged over pairs, then over
    samples, so that a stay with many films counts once. A pair that attends to no region at all
    and a sample without a valid pair are left out.
    """
    weights = attention.astype(np.float64) * pair_valid[:, None, :, None]
    total = weights.sum(-1, keepdims=True)
    attends = total > 0
    share = np.divide(weights, total, out=np.zeros_like(weights), where=attends)
    n_pairs = attends.sum(axis=2)  # [N, C, 1]
    seen = n_pairs[:, 0, 0] > 0
    per_sample = share.sum(axis=2)[seen] / n_pairs[seen]
    return per_sample.mean(axis=0)


def of_runs(runs: Sequence[FoundRun], source: str) -> pd.DataFrame:
    """Long table task, output, seed, region, attention of the done runs.

    `output` is what a class token stands for: a disease, or the task itself.

    Raises:
        UserError: a run stored no such attention.
    """
    parts = []
    for run in runs:
        if not run.is_done:
            continue
        maps = stored_maps(run, source)
        values = by_region(maps[source], maps["pair_valid"])
        task = run.request.task
        outputs = DISEASES if task is Task.DISEASE_PROGRESSION else [str(task)]
        for output, share in zip(outputs, values, strict=True):
            row = {"task": str(task), "output": output, "seed": run.request.seed}
            parts.append(pd.DataFrame({**row, "region": REGIONS, "attention": share}))
    return pd.concat(parts, ignore_index=True)


def stored_maps(run: FoundRun, source: str) -> dict[str, np.ndarray]:
    """The attention maps of a done run.

    Raises:
        UserError: it stored none of this name.
    """
    assert run.files is not None
    maps = run.files.read_attention()
    if source not in maps:
        stored = ", ".join(sorted(set(maps) - {"pair_valid"})) or "none"
        raise UserError(f"run {run.folder} has no '{source}' attention: it has {stored}")
    return maps


def summarise(attention: pd.DataFrame, with_paper: bool = False) -> pd.DataFrame:
    """Mean and sd over seeds by output and region, and the paper's bar beside on request."""
    grouped = attention.groupby(["task", "output", "region"], sort=False)["attention"]
    summary = grouped.agg(mean="mean", sd="std", n_seeds="count").reset_index()
    if with_paper:
        paper = published_attention().rename(columns={"value": "paper"})
        summary = summary.merge(paper, on=["task", "region"], how="left")
    return summary
