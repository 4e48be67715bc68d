"""The runs behind a table or figure: which ones are wanted, which are there, why others are not."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench.config import PAPER_SEEDS, Request
from bench.contract import Preset
from bench.data.cohort import Cohort
from bench.data.vocabulary import Task
from bench.errors import UserError
from bench.plan import make_plan
from bench.search import Chosen, tuned
from bench.store import RunFiles, Status, Store

OUT_OF_MEMORY = "GPU memory ran out"
"""How a record's notes begin that say that fewer samples were computed at once than configured."""


@dataclass(frozen=True)
class Selection:
    """Which runs a table is made of, as the command line gives it.

    `chosen` holds searched hyperparameters; None leaves the preset's. `grid` is the one they were
    drawn from, if `--tuned` names it.
    """

    cohort: Cohort
    store: Store
    preset: Preset
    seeds: tuple[int, ...] = PAPER_SEEDS
    recipe: str = "shared"
    overrides: tuple[tuple[str, str], ...] = ()
    chosen: Chosen | None = None
    grid: str = ""

    def sweep_command(self, table: str) -> str:
        """The command that makes every run of a table that is not there."""
        return f"python -m bench.sweep --table {table} {self.arguments}"

    @property
    def arguments(self) -> str:
        """What to type after a command to select the same runs."""
        seeds = " ".join(map(str, self.seeds))
        words = [f"--preset {self.preset} --seeds {seeds}"]
        words += [f"--cohort {self.cohort.path} --results {self.store.root}"]
        words += ["--recipe reference"] if self.recipe == "reference" else []
        words += [f"--set {name}={text}" for name, text in self.overrides]
        words += [f"--tuned {self.grid}".rstrip()] if self.chosen is not None else []
        return " ".join(words)


@dataclass(frozen=True)
class FoundRun:
    """One wanted run: its files, or the reason why it gives no number."""

    request: Request
    files: RunFiles | None
    status: Status
    reason: str = ""

    @property
    def is_done(self) -> bool:
        """Whether it has a record."""
        return self.status in (Status.DONE, Status.STALE)

    @property
    def is_declined(self) -> bool:
        """Whether the method cannot do it at all."""
        return self.files is None

    @property
    def folder(self) -> str:
        """Name of its folder in the store; empty if it is declined."""
        return self.files.folder.name if self.files else ""

    @cached_property
    def record(self) -> dict[str, Any]:
        """Its record; only a done run has one."""
        assert self.files is not None
        return self.files.read_record()

    @property
    def memory_notes(self) -> list[str]:
        """What its record says of GPU memory that ran out: batch normalisation saw other batches.

        Empty for a run that is not done.
        """
        notes = self.record["notes"] if self.is_done else []
        return [note for note in notes if note.startswith(OUT_OF_MEMORY)]


def find_runs(selection: Selection, requests: Sequence[Request]) -> list[FoundRun]:
    """Look every request up in the store, in order."""
    if selection.chosen is not None:
        requests = [tuned(request, selection.chosen) for request in requests]
    plan = make_plan("table", requests, selection.cohort, selection.store)
    planned = {run.config.request: run for run in plan.runs}
    declined = dict(plan.declined)
    found = []
    for request in requests:
        if request in declined:
            reason = f"declined ({declined[request]})"
            found.append(FoundRun(request, None, Status.NEW, reason))
        else:
            files, status = planned[request].files, planned[request].status
            found.append(FoundRun(request, files, status, _reason(files, status)))
    return found


def _reason(files: RunFiles, status: Status) -> str:
    if status is Status.FAILED:
        return f"failed ({textwrap.shorten(files.read_failure()['error'], 160)})"
    return {Status.NEW: "not run", Status.INTERRUPTED: "interrupted"}.get(status, "")


def require_done(found: Iterable[FoundRun], name: str, command: str) -> None:
    """Raise `UserError` with the command to type if no run is done."""
    if not any(run.is_done for run in found):
        raise UserError(f"{name} has no finished run here: make them with {command}")


def n_seeds(found: Iterable[FoundRun]) -> int:
    """Most seeds with which runs of one task are done."""
    return max(map(len, _seeds_by_task(found).values()), default=0)


def seeds_in_words(found: Iterable[FoundRun]) -> str:
    """Number and names of the seeds of the done runs, task by task where these differ."""
    by_task = {
        task: f"{len(seeds)} seed{'s' * (len(seeds) > 1)} ({', '.join(map(str, seeds))})"
        for task, seeds in _seeds_by_task(found).items()
    }
    if len(set(by_task.values())) == 1:
        return next(iter(by_task.values()))
    return ", ".join(f"{task} {seeds}" for task, seeds in by_task.items())


def _seeds_by_task(found: Iterable[FoundRun]) -> dict[Task, list[int]]:
    """Seeds of the done runs of each task, in the order of the runs."""
    seeds: dict[Task, dict[int, None]] = {}
    for run in found:
        if run.is_done:
            seeds.setdefault(run.request.task, {})[run.request.seed] = None
    return {task: list(of_task) for task, of_task in seeds.items()}
