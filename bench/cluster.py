"""Where runs are executed: on the workers of a running Dask cluster (docs/cluster.md).

The runs go through joblib's Dask backend. Client and workers see the same folders, by the same
paths, and have the same code.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib

from bench import stopping
from bench.backends import Outcome, Place, run_one
from bench.config import RunConfig
from bench.environment import code_fingerprint
from bench.errors import UserError
from bench.plan import PlannedRun

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 10
LOCK_SECONDS = 120
"""How long a run may stay locked by a worker that is lost: an NFS 4 server frees locks after 90."""

_turn = threading.Lock()
_spoilt = threading.Event()
"""Whether an earlier run has left this process's GPU unusable."""


def connect(scheduler: str) -> Client:
    """A client of the cluster at `scheduler`, e.g. 'tcp://node1:8786'.

    Raises:
        UserError: Dask is not installed, or nothing answers there.
    """
    try:
        from distributed import Client
    except ImportError:
        raise UserError("--backend dask needs Dask: pip install 'dipro-bench[dask]'")
    try:
        return Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError):
        raise UserError(
            f"--scheduler {scheduler}: no Dask scheduler answers there; start one with "
            "'dask scheduler' and give the address that it prints"
        )


def run_on_cluster(
    client: Client, runs: Sequence[PlannedRun], cohort: Path, *, device: str, threads: int
) -> Iterator[Outcome]:
    """Execute runs, yielding outcomes as they come; a failing run or worker stops no other.

    Raises:
        StoppedError: SIGTERM came; workers finish the runs they are at and take up no other.
    """
    if not runs:
        return
    if not client.nthreads():
        print("waiting for the cluster's first worker", file=sys.stderr)
        client.wait_for_workers(1)
    place = (cohort.absolute(), device, threads)
    # What is not there for a worker is not shared with it.
    runs[0].files.folder.parent.mkdir(parents=True, exist_ok=True)
    tasks = (
        joblib.delayed(_run_there)(
            run.config,
            run.files.folder.absolute(),
            place,
            code_fingerprint(run.config.request.method),
        )
        for run in runs
    )
    with stopping.listening(stopping.leave_if_asked), joblib.parallel_config(_backend(client)):
        yield from joblib.Parallel(
            return_as="generator_unordered", batch_size=1, pre_dispatch="all"
        )(tasks)


def _backend(client: Client) -> Any:
    """joblib's Dask backend; unlike that one it also reports a task whose workers all died."""
    from joblib._dask import DaskDistributedBackend

    class Reporting(DaskDistributedBackend):
        def submit(self, func: Any, callback: Callable[[list[Outcome]], None]) -> Future[Any]:
            future = super().submit(func, callback)
            ((_, (_, folder, *_), _),) = func.items
            future.add_done_callback(partial(_report_lost, folder.name, callback))
            return future

    return Reporting(client=client)


def _report_lost(
    run_id: str, callback: Callable[[list[Outcome]], None], future: Future[Any]
) -> None:
    """Without this call joblib would wait for the run for ever."""
    error = future.exception()
    if error:
        callback([Outcome(run_id, f"lost by the cluster: {type(error).__name__}: {error}")])


def _run_there(config: RunConfig, folder: Path, place: Place, fingerprint: str) -> Outcome:
    """Run on a worker: one at a time, for the runs of a process share their random numbers.

    A run comes again if its worker was lost, maybe before that one's lock is free.
    """
    if not folder.parent.is_dir():
        return Outcome(folder.name, f"its worker sees no {folder.parent}: share the results folder")
    if code_fingerprint(config.request.method) != fingerprint:
        return Outcome(folder.name, "its worker has other code: update it and start it again")
    with _turn:
        if _spoilt.is_set():
            _leave()
            return Outcome(folder.name, "left to another process")
        deadline = time.monotonic() + LOCK_SECONDS
        while (outcome := run_one(config, folder, *place)).busy and time.monotonic() < deadline:
            time.sleep(1)
        if outcome.spoilt:
            _spoilt.set()
        return outcome


def _leave() -> None:
    """Have this worker's process replaced; when this returns, the scheduler hears it no more.

    Its runs go to others, without blame. What it has to say of the run that spoilt it is out.
    """
    from distributed import get_worker

    worker = get_worker()
    worker.loop.add_callback(partial(worker.close_gracefully, restart=True))
    while worker.status.name not in ("closing", "closed"):
        time.sleep(0.1)
