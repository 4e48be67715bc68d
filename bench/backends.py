"""Where runs are executed: worker processes of this machine, through joblib."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib

from bench.config import RunConfig
from bench.data.cohort import Cohort
from bench.environment import choose_device
from bench.plan import PlannedRun
from bench.runner import execute
from bench.store import RunBusyError, RunFiles


@dataclass(frozen=True)
class Outcome:
    """How one run ended: `error` is None if it is done, else one line."""

    run_id: str
    error: str | None
    busy: bool = False


def default_jobs(device: str) -> int:
    """As many runs at once as cores on a CPU, one on a GPU."""
    return 1 if choose_device(device).type == "cuda" else (os.cpu_count() or 1)


def run_all(
    runs: Sequence[PlannedRun], cohort: Path, *, device: str, threads: int, jobs: int
) -> Iterator[Outcome]:
    """Execute runs, yielding outcomes as they come; a failing run stops no other."""
    tasks = (
        joblib.delayed(_run_one)(run.config, run.files.folder, cohort, device, threads)
        for run in runs
    )
    yield from joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(tasks)


def _run_one(config: RunConfig, folder: Path, cohort: Path, device: str, threads: int) -> Outcome:
    """Run in a worker; the message of a failure crosses the process border, not the exception."""
    try:
        execute(
            config,
            Cohort.open(cohort),
            RunFiles(folder),
            device=choose_device(device),
            threads=threads,
            say=_quiet,
        )
    except RunBusyError:
        return Outcome(folder.name, "another process works on it", busy=True)
    except Exception as error:
        return Outcome(folder.name, f"{type(error).__name__}: {error}")
    return Outcome(folder.name, None)


def _quiet(line: str) -> None:
    """Workers write to their run's log only."""
