"""Predictions of a run: logits and attention maps, and the tables and arrays they are kept in."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.checkpoints import refusal_kept
from bench.data.loading import batches, release_images
from bench.data.vocabulary import Split, Task
from bench.memory import within_memory
from bench.store import RunFiles, replacing

if TYPE_CHECKING:
    from bench.runner import Run

Prediction = tuple[np.ndarray, dict[str, np.ndarray]]
"""Logits (float32, one row a sample, flattened) and attention maps."""


def predict(run: Run, positions: np.ndarray, with_attention: bool = False) -> Prediction:
    """Predict samples with the run's weights; labels are withheld."""
    prediction, run.evaluation_batch = within_memory(
        partial(_predict, run, positions, with_attention),
        run.evaluation_batch,
        partial(release_images, run.samples, run.device),
    )
    return prediction


def _predict(run: Run, positions: np.ndarray, with_attention: bool, size: int) -> Prediction:
    """Predict `size` samples at a time; what comes out is fetched from the device at the end."""
    run.model.eval()
    logits: list[Tensor] = []
    maps: list[dict[str, Tensor]] = []
    chunks = [positions[start : start + size] for start in range(0, len(positions), size)]
    with torch.inference_mode(), run.autocast():
        for batch in batches(run.samples, chunks, run.device):
            output = run.model(batch.without_targets(), with_attention=with_attention)
            logits.append(output.logits.float().flatten(1))
            if output.attention:
                maps.append({"pair_valid": batch.pair_valid, **output.attention})
    stacked = {
        name: _stack_padded([_fetched(part[name]) for part in maps]) for name in (maps or [{}])[0]
    }
    return _fetched(torch.cat(logits)), stacked


def _fetched(values: Tensor) -> np.ndarray:
    return (values.float() if values.is_floating_point() else values).cpu().numpy()


def write_predictions(run: Run, files: RunFiles) -> None:
    """Predict validation and, unless the run is of a search, test; keep what came out."""
    tables = []
    leave_test = run.config.request.validation_only
    for split in (Split.VALIDATION,) if leave_test else (Split.VALIDATION, Split.TEST):
        positions = run.samples.indices(split)
        if len(positions) == 0:
            continue
        logits, attention = predict(run, positions, with_attention=split is Split.TEST)
        tables.append(prediction_table(run, split, positions, logits))
        if attention:
            _save_arrays(files.attention, attention)
    if tables:
        with replacing(files.predictions) as partial:
            pd.concat(tables).to_parquet(partial, index=False)


def prediction_table(
    run: Run, split: Split, positions: np.ndarray, logits: np.ndarray
) -> pd.DataFrame:
    """Keyed sample and subject, labels and logits of a split's samples."""
    samples = run.samples
    labels = samples.labels()[task_label(run.task)][positions].reshape(len(positions), -1)
    gold = np.zeros(len(positions), dtype=bool)
    if run.task is Task.DISEASE_PROGRESSION:
        gold = run.cohort.pairs["from_gold"].to_numpy()[samples.rows[positions]]
    columns: dict[str, Any] = {
        "split": str(split),
        "sample": samples.keys[positions],
        "subject": samples.subject_keys[positions],
        "from_gold": gold,
    }
    columns |= {f"label_{k}": labels[:, k].astype(np.int64) for k in range(labels.shape[1])}
    columns |= {f"logit_{k}": logits[:, k].astype(np.float32) for k in range(logits.shape[1])}
    return pd.DataFrame(columns)


def task_label(task: Task) -> str:
    """Name of a task's label among `Samples.labels()`."""
    return "progression" if task is Task.DISEASE_PROGRESSION else str(task)


def _stack_padded(parts: list[np.ndarray]) -> np.ndarray:
    """Concatenate on the first axis, padding the others with zeros to the largest."""
    shape = np.max([part.shape[1:] for part in parts], axis=0)
    stacked = np.zeros((sum(map(len, parts)), *shape), dtype=parts[0].dtype)
    row = 0
    for part in parts:
        stacked[(slice(row, row + len(part)), *map(slice, part.shape[1:]))] = part
        row += len(part)
    return stacked


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with replacing(path) as partial, partial.open("wb") as handle, refusal_kept():
        np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]
