"""Run records on disk: one class knows every file name of a run; a record means it is done.

results/runs/<run id>/
    config.json           the resolved configuration
    log.txt               what the run printed
    checkpoint.pt         the last finished epoch (after SIGTERM: step), to go on; removed when done
    best.pt               weights of the selected epoch
    predictions.parquet   validation and test logits with keyed sample and subject
    attention.npz         attention maps of the test samples, if the method has any
    record.json           written last, by atomic replace
    failure.json          why it failed, if it did
    lock                  held by the process that works on it
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.errors import UserError

SCHEMA = 1
"""Version of what a record holds; part of every run id."""


class Status(StrEnum):
    """Where a run stands."""

    DONE = "done"
    STALE = "stale"  # done, by older code
    INTERRUPTED = "interrupted"  # a checkpoint, no record
    FAILED = "failed"
    NEW = "new"


class RunBusyError(Exception):
    """Another process works on this run; the message names it."""


@dataclass(frozen=True)
class RunFiles:
    """The files of one run."""

    folder: Path

    @property
    def config(self) -> Path:
        """Resolved configuration."""
        return self.folder / "config.json"

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self.folder / "log.txt"

    @property
    def checkpoint(self) -> Path:
        """State after the last finished epoch or, after SIGTERM, the last finished step."""
        return self.folder / "checkpoint.pt"

    @property
    def best(self) -> Path:
        """Weights of the selected epoch."""
        return self.folder / "best.pt"

    @property
    def predictions(self) -> Path:
        """Logits of validation and test samples."""
        return self.folder / "predictions.parquet"

    @property
    def attention(self) -> Path:
        """Attention maps of test samples."""
        return self.folder / "attention.npz"

    @property
    def record(self) -> Path:
        """The mark of a finished run."""
        return self.folder / "record.json"

    @property
    def failure(self) -> Path:
        """Why the run failed."""
        return self.folder / "failure.json"

    def status(self, fingerprint: str | None = None) -> Status:
        """Where the run stands; with the current code's fingerprint also whether it is stale."""
        if self.record.exists():
            stale = fingerprint is not None and self.read_record()["fingerprint"] != fingerprint
            return Status.STALE if stale else Status.DONE
        if self.failure.exists():
            return Status.FAILED
        return Status.INTERRUPTED if self.checkpoint.exists() else Status.NEW

    def clear(self) -> None:
        """Forget what the run has, so that it is made again from the start.

        Raises:
            RunBusyError: another process works on it.
        """
        with self.locked():
            for path in (self.record, self.checkpoint, self.best, self.predictions, self.attention):
                path.unlink(missing_ok=True)

    def clear_remains(self) -> None:
        """Forget an earlier failure, and files that a killed process was in the middle of."""
        self.failure.unlink(missing_ok=True)
        for path in self.folder.glob(".*.*"):
            path.unlink()

    def append_log(self, line: str) -> None:
        """Add a line to what the run printed."""
        with one_line_if_refused(self.log), self.log.open("a") as log:
            print(line, file=log)

    def read_record(self) -> dict[str, Any]:
        """The record of a finished run."""
        return _read_json(self.record)

    def read_failure(self) -> dict[str, Any]:
        """The reason of a failed run."""
        return _read_json(self.failure)

    def read_predictions(self, split: str = "test") -> pd.DataFrame:
        """Predictions of one split: sample, subject, from_gold, label_*, logit_* columns."""
        table = pd.read_parquet(self.predictions)
        return table[table["split"] == split].reset_index(drop=True)

    def read_attention(self) -> dict[str, np.ndarray]:
        """Attention maps in the order of the test predictions; empty if the method has none."""
        if not self.attention.exists():
            return {}
        with np.load(self.attention, allow_pickle=False) as maps:
            return dict(maps)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; the lock dies with it (other machines: docs/cluster.md).

        Raises:
            RunBusyError: another process holds it.
            UserError: the file system refuses.
        """
        with one_line_if_refused(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = (self.folder / "lock").open("a+")
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                raise RunBusyError(handle.read().strip() or "another process")
            except OSError as error:
                raise UserError(
                    f"{self.folder}: its file system locks no files ({error.strerror}): mount it "
                    "with flock or name another --results"
                )
            _sign(handle.fileno())
            yield


@dataclass(frozen=True)
class Store:
    """A results folder."""

    root: Path

    def check_writable(self) -> None:
        """Look whether runs could be stored here, creating nothing.

        Raises:
            UserError: they could not.
        """
        root = self.root.absolute()
        place = next(path for path in (root, *root.parents) if path.exists())
        if not place.is_dir():
            raise UserError(f"--results {self.root}: {place} is a file, name a folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise UserError(f"--results {self.root}: {place} is read-only, name another folder")

    def run(self, run_id: str) -> RunFiles:
        """The files of a run, whether or not they exist."""
        return RunFiles(self.root / "runs" / run_id)

    def records(self) -> Iterator[dict[str, Any]]:
        """Records of all finished runs, by name."""
        for path in sorted(self.root.glob("runs/*/record.json")):
            yield _read_json(path)

    def records_of(self, cohort_hash: str) -> Iterator[dict[str, Any]]:
        """Records of the finished runs on one cohort."""
        return (record for record in self.records() if record["cohort"]["hash"] == cohort_hash)

    def search(self, name: str) -> Path:
        """What a hyperparameter search chose."""
        return self.root / "search" / f"{name}.json"

    def searches(self) -> Iterator[dict[str, Any]]:
        """What every search chose, by name."""
        for path in sorted(self.root.glob("search/*.json")):
            yield _read_json(path)

    @property
    def efficiency(self) -> Path:
        """What predictions of methods cost."""
        return self.root / "efficiency.json"

    @property
    def tables(self) -> Path:
        """Where tables go."""
        return self.root / "tables"

    @property
    def figures(self) -> Path:
        """Where figures go."""
        return self.root / "figures"


def _sign(lock: int) -> None:
    """Write into a lock who holds it, for those who find it held; it also holds unsigned."""
    with suppress(OSError):
        os.ftruncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


@contextmanager
def one_line_if_refused(path: Path) -> Iterator[None]:
    """Turn what the system refuses on writing (disk full, read-only) into a `UserError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {path}: {reason}; mend that and type the same command again")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary sibling to write to: it takes the place of `path` at the end, or disappears.

    Raises:
        UserError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with one_line_if_refused(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON by atomic replace."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): delete that run's folder and run it again")
