"""A store of made-up runs: records and predictions from a fixed generator, no training."""

from __future__ import annotations

import contextlib
import itertools
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.config import Request, resolve
from bench.contract import Preset
from bench.data.cohort import Cohort
from bench.data.vocabulary import DISEASES, REGIONS, SELECTION_METRIC, Cxr, Task
from bench.environment import code_fingerprint
from bench.store import SCHEMA, RunFiles, Store, write_json
from tables import formats
from tables.build import Built, build
from tables.definitions import (
    DIPRO,
    ICU_COLUMNS,
    TABLES,
    WITHOUT_FILMS,
    Setting,
    Table,
    last_and_long,
    request,
    requests,
)
from tables.runs import Selection

GOLDEN = Path(__file__).parent.parent / "golden"

N_SAMPLES, N_SUBJECTS = 90, 70
SEEDS = (23, 29, 66)

MINI = Table(
    "table2",
    TABLES["table2"].title,
    (*last_and_long("medfuse"), WITHOUT_FILMS, DIPRO),
    ICU_COLUMNS,
    DIPRO,
    2,
)
"""Table 2 with a few of its rows."""

MINI_PAIRS = replace(
    TABLES["table1"], rows=(*last_and_long("medfuse")[-1:], DIPRO), reference=DIPRO
)
"""Table 1 with two of its rows; a third of its test pairs have gold labels."""

SKILL = {
    "dipro": 1.3,
    "medfuse": 0.9,
    "ehr_transformer": 0.5,
    "utde": 0.8,
    "umse": 0.7,
    "drfuse": 0.6,
    "chexrelnet": 0.3,
    "chexrelformer": 0.4,
    "sdpl": 0.35,
}
"""How far a method's logits lie towards the label."""


def mini_cohort(simulated: bool = True) -> Cohort:
    """A cohort that is no more than its manifest: all that a table reads of it."""
    manifest = {
        "content_hash": "0123456789abcdef",
        "simulated": simulated,
        "credentialed": not simulated,
        "title": "simulated cohort, mini" if simulated else "MIMIC-IV",
    }
    nothing = pd.DataFrame()
    return Cohort(Path("data/mini"), manifest, *[nothing] * 4, normalisation=None, arrays={})


def mini_selection(root: Path, simulated: bool = True, preset: Preset = Preset.DEMO) -> Selection:
    """A selection with an empty store."""
    return Selection(mini_cohort(simulated), Store(root), preset, SEEDS)


def fill(selection: Selection, table: Table = MINI) -> None:
    """Write every run of a table."""
    for wanted in requests(table, selection.preset, selection.seeds):
        write_run(selection, wanted)


def fill_all(selection: Selection) -> None:
    """Write every run of every table."""
    of_tables = [requests(t, selection.preset, selection.seeds) for t in TABLES.values()]
    for wanted in dict.fromkeys(itertools.chain(*of_tables)):
        write_run(selection, wanted)


def files_of(selection: Selection, wanted: Request) -> RunFiles:
    run_id = resolve(wanted).run_id(selection.cohort.content_hash, SCHEMA)
    return selection.store.run(run_id)


def write_run(
    selection: Selection,
    wanted: Request,
    labels: np.ndarray | None = None,
    **changes: Any,
) -> RunFiles:
    """Write one finished run; `changes` replace fields of its record."""
    files = files_of(selection, wanted)
    files.folder.mkdir(parents=True)
    place = [list(SKILL).index(wanted.method), list(Cxr).index(wanted.cxr)]
    rng = np.random.default_rng([wanted.seed, *place, list(Task).index(wanted.task)])
    labels = mini_labels(wanted.task) if labels is None else labels
    logits = mini_logits(wanted.task, labels, SKILL[wanted.method], rng)
    prediction_table(labels, logits).to_parquet(files.predictions, index=False)
    if wanted.method == "dipro":
        n_tokens = 1 if wanted.task.is_icu else len(DISEASES)
        np.savez_compressed(files.attention, **mini_attention(rng, n_tokens))
    cohort = selection.cohort
    record = {
        "schema": SCHEMA,
        "run_id": files.folder.name,
        "config": resolve(wanted).to_json(),
        "preset": wanted.preset,
        "cohort": {"hash": cohort.content_hash, "title": cohort.title},
        "fingerprint": code_fingerprint(wanted.method),
        "commit": "0a1b2c3d4e",
        "device": "cpu, x86_64",
        "threads": 1,
        "versions": {"python": "3.11.9", "torch": "2.11.0"},
        "selection": {"rule": SELECTION_METRIC[wanted.task]},
        "notes": [],
        "seconds": float(rng.uniform(1, 9)),
        **changes,
    }
    write_json(files.record, record)
    return files


def mini_labels(task: Task) -> np.ndarray:
    rng = np.random.default_rng(5)
    if task is Task.MORTALITY:
        return (rng.random(N_SAMPLES) < 0.3).astype(int)
    if task is Task.LENGTH_OF_STAY:
        return rng.integers(0, 4, N_SAMPLES)
    return rng.integers(0, 4, (N_SAMPLES, len(DISEASES)))


def mini_logits(
    task: Task, labels: np.ndarray, skill: float, rng: np.random.Generator
) -> np.ndarray:
    if task is Task.MORTALITY:
        return (skill * labels + rng.normal(size=len(labels)))[:, None]
    n_classes = 4 if task is Task.LENGTH_OF_STAY else 3
    towards = skill * (labels[..., None] == np.arange(n_classes))
    return (towards + rng.normal(size=towards.shape)).reshape(len(labels), -1)


def prediction_table(labels: np.ndarray, logits: np.ndarray) -> pd.DataFrame:
    """Predictions as the runner writes them; a validation row must not reach any table."""
    rows = np.arange(len(labels))
    by_label = labels.reshape(len(labels), -1)
    test = pd.DataFrame(
        {
            "split": "test",
            "sample": [f"sample{row:03d}" for row in rows],
            "subject": [f"subject{row % N_SUBJECTS:03d}" for row in rows],
            "from_gold": labels.ndim > 1 and rows % 3 == 0,
            **{f"label_{k}": values for k, values in enumerate(by_label.T)},
            **{f"logit_{k}": values for k, values in enumerate(logits.T.astype(np.float32))},
        }
    )
    return pd.concat([test.head(3).assign(split="validation"), test], ignore_index=True)


def mini_attention(rng: np.random.Generator, n_tokens: int = 1) -> dict[str, np.ndarray]:
    """Attention of class tokens over up to two pairs; the second pair of even samples is pad."""
    valid = np.ones((N_SAMPLES, 2), dtype=bool)
    valid[::2, 1] = False
    weights = np.exp(rng.normal(size=(2, N_SAMPLES, n_tokens, 2, len(REGIONS))))
    weights *= valid[:, None, :, None]
    dynamic, static = weights / weights.sum(-1, keepdims=True).clip(1e-9) * 0.8
    return {"pair_valid": valid, "dynamic": dynamic, "static": static}


def golden_built() -> Built:
    """A short Table 2 of a store in `results/` with one failed and one missing run."""
    selection = mini_selection(Path("results"))
    fill(selection)
    for key, error in {
        ("medfuse-last", Task.LENGTH_OF_STAY, 66): "DivergedError: loss term 'task' is nan",
        ("medfuse-long", Task.MORTALITY, 29): None,
    }.items():
        files = files_of(selection, table2_request(selection, *key))
        files.record.unlink()
        if error:
            write_json(files.failure, {"error": error})
    return build(MINI, selection)


def table2_request(selection: Selection, row_name: str, task: Task, seed: int) -> Request:
    row = next(row for row in MINI.rows if row.name == row_name)
    return request(row, Setting(task), seed, selection.preset)


def golden_files() -> dict[str, str]:
    """The files of `golden_built`, with the hash of each run id blanked.

    The hash moves with every default of the presets; that it is right is tested with run ids.
    """
    texts = {name: content.decode() for name, content in formats.files(golden_built()).items()}
    return {name: re.sub(r"(seed\d+-)[0-9a-f]{12}", r"\1HASH", t) for name, t in texts.items()}


def write_golden() -> None:
    """Write the golden files anew: `python -m tests.tables.mini_store`."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        texts = golden_files()
    for name, text in texts.items():
        (GOLDEN / name).write_text(text)


if __name__ == "__main__":
    write_golden()
