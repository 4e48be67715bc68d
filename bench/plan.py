"""What is to be done: every run of a table or grid, its status, and how long the rest takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.config import Request, RunConfig, resolve
from bench.data.cohort import Cohort
from bench.environment import code_fingerprint
from bench.errors import UserError
from bench.store import SCHEMA, RunFiles, Status, Store

OPEN = (Status.NEW, Status.INTERRUPTED, Status.FAILED)
"""Statuses that a sweep works on unless told otherwise."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan."""

    config: RunConfig
    files: RunFiles
    status: Status

    @property
    def run_id(self) -> str:
        """Name of its folder."""
        return self.files.folder.name

    @property
    def title(self) -> str:
        """What tells it from the other runs, e.g. 'utde (long), mortality, seed 23'."""
        request = self.config.request
        return f"{request.label}, {request.task}, seed {request.seed}"


@dataclass(frozen=True)
class Plan:
    """The runs of a table or grid, in order, each once; and what was declined, with reasons."""

    name: str
    runs: tuple[PlannedRun, ...]
    declined: tuple[tuple[Request, str], ...] = ()

    def to_do(self, rerun: Sequence[Status] = ()) -> list[PlannedRun]:
        """Open runs, and those whose status is in `rerun`."""
        return [run for run in self.runs if run.status in (*OPEN, *rerun)]

    def summary(self, to_do: Sequence[PlannedRun], store: Store, jobs: int) -> str:
        """One line, e.g. 'table2: 24 runs = 20 done, 4 new; 4 to run, about 1 min on 2 jobs'."""
        counts = Counter(str(run.status) for run in self.runs)
        parts = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
        declined = f", {len(self.declined)} declined" if self.declined else ""
        line = f"{self.name}: {len(self.runs)} runs = {parts}; {len(to_do)} to run"
        if not to_do:
            return line + declined
        seconds = estimate_seconds(to_do, store)
        length = "duration unknown yet" if seconds is None else _about(seconds / jobs)
        return f"{line}, {length} on {jobs} job{'s' if jobs > 1 else ''}{declined}"


def make_plan(name: str, requests: Sequence[Request], cohort: Cohort, store: Store) -> Plan:
    """Resolve requests to runs with their statuses; what is declined is kept with its reason."""
    runs: dict[str, PlannedRun] = {}
    declined = []
    for request in requests:
        try:
            config = resolve(request)
        except UserError as error:
            if len(requests) == 1:
                raise
            declined.append((request, str(error)))
            continue
        run_id = config.run_id(cohort.content_hash, SCHEMA)
        files = store.run(run_id)
        status = files.status(code_fingerprint(request.method))
        runs[run_id] = PlannedRun(config, files, status)
    return Plan(name, tuple(runs.values()), tuple(declined))


def estimate_seconds(runs: Sequence[PlannedRun], store: Store) -> float | None:
    """Sum of the open runs' expected seconds, from finished runs of the same kind; None if none."""
    known: dict[tuple[str, str, str], list[float]] = {}
    for record in store.records():
        request = record["config"]["request"]
        key = (record["preset"], request["task"], request["method"])
        known.setdefault(key, []).append(record["seconds"])
    if not known:
        return None

    def expected(run: PlannedRun) -> float | None:
        request = run.config.request
        for n_fields in (3, 2, 1):
            wanted = (request.preset, request.task, request.method)[:n_fields]
            alike = [s for key, values in known.items() if key[:n_fields] == wanted for s in values]
            if alike:
                return median(alike)
        return None

    seconds = [expected(run) for run in runs]
    found = [s for s in seconds if s is not None]
    return sum(found) if len(found) == len(seconds) else None


def _about(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"
