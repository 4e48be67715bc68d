"""Which backend works off a plan: processes of this machine, or a running Dask cluster."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from bench import arguments, cluster
from bench.backends import Outcome, default_jobs, run_all
from bench.environment import choose_device
from bench.errors import UserError
from bench.plan import PlannedRun
from bench.store import RunBusyError, Status

Execute = Callable[..., Iterator[Outcome]]
"""Executes runs on a cohort, `device` and `threads` given, yielding outcomes as they come."""


@contextmanager
def backend(arg: argparse.Namespace) -> Iterator[tuple[int, Execute]]:
    """How many runs are executed at once, and what executes them; arg: `arguments.add_backend`.

    Raises:
        UserError: the arguments do not go together, or the cluster is not there.
    """
    arguments.check_backend(arg.jobs, arg.backend, arg.scheduler, arg.runs_per_gpu)
    if arg.backend == "dask":
        with cluster.connect(arg.scheduler) as client:
            n_workers = len(client.nthreads())
            yield max(n_workers, 1), partial(cluster.run_on_cluster, client)
    else:
        if arg.runs_per_gpu and choose_device(arg.device).type != "cuda":
            raise UserError("--runs-per-gpu is for GPUs, these runs take a CPU: use --jobs N")
        jobs = arg.jobs or default_jobs(arg.device, arg.runs_per_gpu or 1, arg.threads)
        yield jobs, partial(run_all, jobs=jobs)


def clear(to_do: Sequence[PlannedRun], rerun: Sequence[Status]) -> None:
    """Forget what is to be made again."""
    for run in to_do:
        if run.status in rerun:
            # One that another process works on is reported as busy when its turn comes.
            with suppress(RunBusyError):
                run.files.clear()
