"""Search hyperparameters on validation: the same number of random draws for every method.

python -m bench.search --table table2                       every method and setting of the table
python -m bench.search --table table2 --method medfuse --draws 8

A search run neither predicts nor stores the test set. What was chosen is written to
RESULTS/search/, and `--tuned` makes sweeps, tables and figures use it; ablations take what was
chosen for their method. Stopped at any moment, the same command goes on.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench import arguments
from bench.backends import default_jobs, run_all
from bench.config import PAPER_SEEDS, Request, resolve
from bench.contract import Preset
from bench.data.cohort import Cohort
from bench.data.vocabulary import Cxr, Task
from bench.demo import open_cohort
from bench.errors import Parser, UserError, nearest, run_command
from bench.plan import PlannedRun, make_plan
from bench.space import Grid, Overrides, default_grid, draw, space
from bench.store import Store, write_json

N_DRAWS = 24
DRAW_SEED = 0


@dataclass(frozen=True)
class Setting:
    """What is searched on its own: a method, what it sees, and a task."""

    method: str
    task: Task
    cxr: Cxr
    ehr: bool

    @classmethod
    def of(cls, request: Request) -> Setting:
        """The setting of a run; ablations and dropped EHR do not count."""
        return cls(request.method, request.task, request.cxr, request.ehr)

    @property
    def name(self) -> str:
        """Readable, e.g. 'medfuse-mortality-long'."""
        ehr = [] if self.ehr else ["no_ehr"]
        return "-".join([self.method.rpartition(":")[2], self.task, self.cxr, *ehr])


Chosen = dict[Setting, Overrides]
"""What searches chose, by setting."""


def chosen(store: Store, cohort: Cohort, preset: Preset) -> Chosen:
    """Read what was chosen on a cohort in a preset."""
    found = (record for record in store.searches() if record["preset"] == preset)
    return {
        Setting(record["method"], Task(record["task"]), Cxr(record["cxr"]), record["ehr"]): tuple(
            (name, text) for name, text in record["overrides"]
        )
        for record in found
        if record["cohort"] == cohort.content_hash
    }


def tuned(request: Request, of_setting: Chosen) -> Request:
    """The request with what was chosen for its setting, before its own overrides."""
    return replace(
        request, overrides=(*of_setting.get(Setting.of(request), ()), *request.overrides)
    )


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m bench.search", description=__doc__)
    p.add_argument("--table", required=True, nargs="+", metavar="NAME", help="e.g. table2")
    p.add_argument("--method", nargs="+", metavar="NAME", help="only these methods of the tables")
    p.add_argument("--draws", type=arguments.positive, default=N_DRAWS, metavar="N")
    p.add_argument("--grid", type=arguments.choice(Grid), metavar="NAME", help=", ".join(Grid))
    p.add_argument("--seed", type=int, default=PAPER_SEEDS[0], metavar="N", help="of every run")
    p.add_argument("--jobs", type=arguments.positive, metavar="N", help="runs at once (cores)")
    arguments.add_place(p)
    arguments.add_machine(p)
    p.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if every draw was trained, 1 if some failed."""
    arg = parser().parse_args(argv)
    settings = _settings(arg.table, arg.method, arg.preset)
    cohort, store = open_cohort(arg.cohort, arg.preset), Store(arg.results)
    if not arg.dry_run:
        store.check_writable()
    grid = arg.grid or default_grid(arg.preset)
    drawn = {
        setting: _requests(setting, arg.preset, grid, arg.draws, arg.seed) for setting in settings
    }
    everything = [request for requests in drawn.values() for request in requests]
    plan = make_plan("search", everything, cohort, store)
    jobs = arg.jobs or default_jobs(arg.device)
    print(plan.summary(plan.to_do(), store, jobs), flush=True)
    if arg.dry_run:
        return 0
    failed = 0
    for outcome in run_all(
        plan.to_do(), cohort.path, device=arg.device, threads=arg.threads, jobs=jobs
    ):
        failed += outcome.error is not None
        print(f"{outcome.run_id}: {outcome.error or 'done'}", flush=True)
    for setting, requests in drawn.items():
        done = [
            run for run in make_plan("setting", requests, cohort, store).runs
            if run.files.record.exists()
        ]  # fmt: skip
        if done:
            record = _choose(setting, done, arg.preset, grid, cohort)
            write_json(store.search(f"{setting.name}-{arg.preset}"), record)
            print(f"{setting.name}: {_line(record)}")
    return int(failed > 0)


def _settings(
    tables: Iterable[str], methods: Sequence[str] | None, preset: Preset
) -> list[Setting]:
    """Every setting of the tables, each once, that its method accepts."""
    definitions: Any = importlib.import_module("tables.definitions")
    found: dict[Setting, None] = {}
    for name in tables:
        if name not in definitions.TABLES:
            raise UserError(f"unknown table '{name}': {nearest(name, definitions.TABLES)}")
        for request in definitions.requests(definitions.TABLES[name], preset, [0]):
            found[Setting.of(request)] = None
    known = {setting.method for setting in found}
    for method in methods or ():
        if method not in known:
            raise UserError(
                f"--method {method} is in none of these tables: {nearest(method, known)}"
            )
    return [s for s in found if (methods is None or s.method in methods) and _is_accepted(s)]


def _is_accepted(setting: Setting) -> bool:
    try:
        resolve(Request(setting.method, setting.task, setting.cxr, 0, ehr=setting.ehr))
    except UserError:
        return False
    return True


def _requests(setting: Setting, preset: Preset, grid: Grid, n: int, seed: int) -> list[Request]:
    """The draws of a setting; a method's draws are the same for every task and cohort."""
    base = Request(
        setting.method, setting.task, setting.cxr, seed,
        ehr=setting.ehr, preset=preset, validation_only=True,
    )  # fmt: skip
    points = draw(space(resolve(base), grid), n, np.random.default_rng(DRAW_SEED))
    return [replace(base, overrides=overrides) for overrides in points]


def _choose(
    setting: Setting, runs: Sequence[PlannedRun], preset: Preset, grid: Grid, cohort: Cohort
) -> dict[str, Any]:
    """The best draw on validation; of equal ones the first drawn."""
    selections = [run.files.read_record()["selection"] for run in runs]
    best = max(range(len(runs)), key=lambda i: selections[i]["value"])
    return {
        "method": setting.method,
        "task": str(setting.task),
        "cxr": str(setting.cxr),
        "ehr": setting.ehr,
        "preset": str(preset),
        "grid": str(grid),
        "cohort": cohort.content_hash,
        "overrides": list(runs[best].config.request.overrides),
        "rule": selections[best]["rule"],
        "value": selections[best]["value"],
        "draws": [
            {
                "overrides": list(run.config.request.overrides),
                "value": selection["value"],
                "run_id": run.run_id,
            }
            for run, selection in zip(runs, selections, strict=True)
        ],
    }


def _line(record: dict[str, Any]) -> str:
    fields = " ".join(f"{name}={text}" for name, text in record["overrides"])
    values = [draw["value"] for draw in record["draws"]]
    return (
        f"{fields} ({record['rule']} {record['value']:.4f} on validation; "
        f"{len(values)} draws, worst {min(values):.4f})"
    )


if __name__ == "__main__":
    run_command(main)
