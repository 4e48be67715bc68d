"""Where runs are executed: worker processes of this machine, through joblib's loky."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import joblib
import torch
from joblib.externals.loky import ProcessPoolExecutor, process_executor

from bench import stopping
from bench.config import RunConfig
from bench.data.cohort import Cohort
from bench.environment import choose_device
from bench.errors import first_line
from bench.plan import PlannedRun
from bench.runner import execute
from bench.store import RunBusyError, RunFiles

WATCH_SECONDS = 1.0
"""How often a worker looks whether the command that started it still lives."""


@dataclass(frozen=True)
class Outcome:
    """How one run ended.

    error: None if it is done, else one line
    busy: another process works on it
    spoilt: it left a process in which no further run can use its GPU
    """

    run_id: str
    error: str | None
    busy: bool = False
    spoilt: bool = False


def default_jobs(device: str, runs_per_gpu: int = 1, threads: int = 1) -> int:
    """As many runs at once as the cores that we may use hold, else `runs_per_gpu` on each GPU."""
    if choose_device(device).type != "cuda":
        return max(joblib.cpu_count() // threads, 1)
    return runs_per_gpu * len(spread(device))


def spread(device: str) -> list[str]:
    """The devices that runs take in turn: every GPU, if none is named, or else the one device."""
    chosen = choose_device(device)
    if chosen.type != "cuda" or chosen.index is not None:
        return [device]
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())]


def run_all(
    runs: Sequence[PlannedRun], cohort: Path, *, device: str, threads: int, jobs: int
) -> Iterator[Outcome]:
    """Execute runs, yielding outcomes as they come; a failing run or worker stops no other.

    Raises:
        StoppedError: SIGTERM came; every run finished its step and can be resumed.
    """
    place = (cohort, device, threads)
    # A process that a CUDA error has spoilt must be another one than this.
    is_here = jobs == 1 and choose_device(device).type != "cuda"
    with stopping.listening(_terminate_workers):
        outcomes = _here(runs, place) if is_here else _in_workers(runs, place, jobs)
        for outcome in outcomes:
            # What did not get done because of the signal has not failed.
            if not (stopping.asked() and outcome.error):
                yield outcome
        if stopping.asked():
            print(stopping.StoppedError(), file=sys.stderr)
        stopping.leave_if_asked()


Place = tuple[Path, str, int]
"""Cohort, device and threads of a run."""


@dataclass(frozen=True)
class _Worker:
    """A pool of one process, which starts with its first run, and where its runs take place."""

    place: Place
    pool: ProcessPoolExecutor

    @classmethod
    def at(cls, place: Place) -> _Worker:
        return cls(
            place,
            ProcessPoolExecutor(max_workers=1, initializer=_begin, initargs=(os.getpid(),)),
        )


def _here(runs: Sequence[PlannedRun], place: Place) -> Iterator[Outcome]:
    """One run after the other in this process."""
    for run in runs:
        if stopping.asked():
            return
        yield run_one(run.config, run.files.folder, *place)


def _in_workers(runs: Sequence[PlannedRun], place: Place, jobs: int) -> Iterator[Outcome]:
    """Each worker has a pool of its own, so that its death is the end of one run only."""
    waiting = list(reversed(runs))
    cohort, device, threads = place
    devices = itertools.cycle(spread(device))
    idle = [_Worker.at((cohort, next(devices), threads)) for _ in range(min(jobs, len(runs)))]
    busy: dict[Future[Outcome], tuple[PlannedRun, _Worker]] = {}
    try:
        while busy or (waiting and not stopping.asked()):
            while waiting and idle and not stopping.asked():
                run, worker = waiting.pop(), idle.pop()
                future, worker = _submit(run, worker)
                busy[future] = run, worker
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                run, worker = busy.pop(future)
                outcome = _outcome(run, future)
                if outcome and outcome.spoilt:
                    # Waited for, so that its GPU memory is free for the next run.
                    worker.pool.shutdown(wait=True, kill_workers=True)
                is_fit = outcome and not outcome.spoilt
                idle.append(worker if is_fit else _Worker.at(worker.place))
                yield outcome or Outcome(
                    run.run_id, "its worker process died: killed, or out of memory?"
                )
    finally:
        for worker in [*idle, *(worker for _, worker in busy.values())]:
            worker.pool.shutdown(wait=False, kill_workers=True)


def _submit(run: PlannedRun, worker: _Worker) -> tuple[Future[Outcome], _Worker]:
    """Hand a run to a worker, or to a new one if it died while it had nothing to do."""
    task = (run_one, run.config, run.files.folder, *worker.place)
    try:
        return worker.pool.submit(*task), worker
    except BrokenProcessPool:
        worker = _Worker.at(worker.place)
        return worker.pool.submit(*task), worker


def _outcome(run: PlannedRun, future: Future[Outcome]) -> Outcome | None:
    """What a worker says of its run; None if it died."""
    try:
        return future.result()
    except BrokenProcessPool:
        return None
    except Exception as error:
        return Outcome(run.run_id, first_line(error))


def _terminate_workers() -> None:
    """Pass SIGTERM on."""
    for process in multiprocessing.active_children():
        process.terminate()


def _begin(parent: int) -> None:
    """Let a worker whose parent was killed stop as on SIGTERM, so that its run can be resumed."""
    # loky takes 300 MB more than after the first run for a leak, and would start another worker.
    process_executor._MAX_MEMORY_LEAK_SIZE = sys.maxsize

    def watch() -> None:
        while True:
            time.sleep(WATCH_SECONDS)
            if os.getppid() != parent:
                # A run takes the first signal for itself; the next one ends the worker.
                os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def run_one(config: RunConfig, folder: Path, cohort: Path, device: str, threads: int) -> Outcome:
    """Execute one run in a worker: the message of a failure comes back, not its exception."""
    try:
        execute(
            config,
            Cohort.open(cohort),
            RunFiles(folder),
            device=choose_device(device),
            threads=threads,
            say=_quiet,
        )
    except RunBusyError as owner:
        return Outcome(folder.name, f"{owner} works on it", busy=True)
    except stopping.StoppedError as stopped:
        return Outcome(folder.name, str(stopped))
    except Exception as error:
        return Outcome(folder.name, first_line(error), spoilt=_spoils(error))
    return Outcome(folder.name, None)


def _spoils(error: Exception) -> bool:
    """Whether CUDA answers every later call of this process with an error, too.

    So it does after a device-side assert, an illegal access or a memory fault (ECC).
    """
    # torch has this kind from 2.8 on.
    kind = getattr(torch, "AcceleratorError", ())
    return isinstance(error, kind) or (
        isinstance(error, RuntimeError) and "CUDA error" in str(error)
    )


def _quiet(line: str) -> None:
    """Workers write to their run's log only."""
