"""Search hyperparameters on validation: the same number of random draws for every method.

python -m bench.search --table table2                       every method and setting of the table
python -m bench.search --table table2 --method medfuse --draws 8
python -m bench.search --table table2 --backend dask --scheduler tcp://node1:8786

A search run neither predicts nor stores the test set. What was chosen is written to
RESULTS/search/, and `--tuned` makes sweeps, tables and figures use it; ablations take what was
chosen for their method. Stopped at any moment, the same command goes on.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench import arguments
from bench.config import PAPER_SEEDS, Request, resolve
from bench.contract import Preset
from bench.data.cohort import Cohort
from bench.data.vocabulary import Cxr, Task
from bench.demo import open_cohort
from bench.errors import Parser, UserError, nearest, run_command
from bench.execution import backend, clear
from bench.plan import Plan, PlannedRun, make_plan
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


@dataclass(frozen=True)
class Choice:
    """What a search chose, and how it searched: '24 draws of the extended grid'."""

    overrides: Overrides
    how: str


Chosen = dict[Setting, Choice]
"""What searches chose, by setting."""


def chosen(store: Store, cohort: Cohort, preset: Preset, recipe: str = "shared") -> Chosen:
    """Read what was chosen on a cohort in a preset with a recipe."""
    wanted = {"preset": preset, "recipe": recipe, "cohort": cohort.content_hash}
    found = (record for record in store.searches() if wanted.items() <= record.items())
    return {
        Setting(record["method"], Task(record["task"]), Cxr(record["cxr"]), record["ehr"]): Choice(
            tuple((name, text) for name, text in record["overrides"]), _how(record)
        )
        for record in found
    }


def _how(record: Mapping[str, Any]) -> str:
    fixed = "".join(f", {name}={text}" for name, text in record["fixed"])
    return f"{len(record['draws'])} draws of the {record['grid']} grid{fixed}"


def tuned(request: Request, of_setting: Chosen) -> Request:
    """The request with what was chosen for its setting, before its own overrides."""
    choice = of_setting.get(Setting.of(request))
    return replace(request, overrides=(*(choice.overrides if choice else ()), *request.overrides))


@dataclass(frozen=True)
class Search:
    """How settings are searched: the same for every method.

    grid: which values are drawn from; None: the preset's
    seed: of every run
    fixed: overrides of every run, e.g. fewer steps; not part of what is chosen
    """

    preset: Preset
    n_draws: int = N_DRAWS
    grid: Grid | None = None
    seed: int = PAPER_SEEDS[0]
    fixed: Overrides = ()
    recipe: str = "shared"

    def name_of(self, setting: Setting, cohort: Cohort) -> str:
        """Under which the choice for a setting is stored."""
        reference = ["reference"] if self.recipe == "reference" else []
        return "-".join([setting.name, self.preset, *reference, cohort.content_hash[:8]])

    def draws(self, setting: Setting) -> dict[Overrides, Request]:
        """What is drawn for a setting; a method's draws are the same for every task and cohort."""
        base = Request(
            setting.method, setting.task, setting.cxr, self.seed,
            ehr=setting.ehr, preset=self.preset, recipe=self.recipe, validation_only=True,
            overrides=self.fixed,
        )  # fmt: skip
        values = space(resolve(base), self.grid or default_grid(self.preset))
        points = draw(values, self.n_draws, np.random.default_rng(DRAW_SEED))
        return {point: replace(base, overrides=(*self.fixed, *point)) for point in points}


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m bench.search", description=__doc__)
    p.add_argument("--table", required=True, nargs="+", metavar="NAME", help="e.g. table2")
    p.add_argument("--method", nargs="+", metavar="NAME", help="only these methods of the tables")
    p.add_argument("--draws", type=arguments.positive, default=N_DRAWS, metavar="N")
    p.add_argument("--grid", type=arguments.choice(Grid), metavar="NAME", help=", ".join(Grid))
    p.add_argument("--seed", type=int, default=PAPER_SEEDS[0], metavar="N", help="of every run")
    arguments.add_backend(p)
    arguments.add_overrides(p)
    arguments.add_place(p)
    arguments.add_machine(p)
    arguments.add_actions(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if every draw was trained, 1 if some failed."""
    arg = parser().parse_args(argv)
    arguments.check_backend(arg.jobs, arg.backend, arg.scheduler)
    settings = _settings(arg.table, arg.method, arg.preset)
    cohort, store = open_cohort(arg.cohort, arg.preset), Store(arg.results)
    search = Search(arg.preset, arg.draws, arg.grid, arg.seed, tuple(arg.set), arg.recipe)
    return work_off(search, settings, arg, cohort, store)


def work_off(
    search: Search,
    settings: Sequence[Setting],
    arg: argparse.Namespace,
    cohort: Cohort,
    store: Store,
) -> int:
    """Train every draw that is open and write down the best of each setting.

    arg: backend, actions and machine, as commands that train take them (`arguments`)

    Returns:
        0 if every draw was trained, 1 if some failed.
    """
    plan = _plan(search, settings, cohort, store)
    to_do = plan.to_do(arg.rerun)
    with backend(arg) as (jobs, execute):
        print(plan.summary(to_do, store, jobs), flush=True)
        if arg.dry_run:
            return 0
        store.check_writable()
        clear(to_do, arg.rerun)
        failed = 0
        for outcome in execute(to_do, cohort.path, device=arg.device, threads=arg.threads):
            failed += bool(outcome.error and not outcome.busy)
            print(f"{outcome.run_id}: {outcome.error or 'done'}", flush=True)
    for setting in settings:
        done = _done(search, setting, cohort, store)
        if done:
            record = _choose(search, setting, done, cohort)
            write_json(store.search(search.name_of(setting, cohort)), record)
            print(f"{setting.name}: {_line(record)}")
    return int(failed > 0)


def _plan(search: Search, settings: Iterable[Setting], cohort: Cohort, store: Store) -> Plan:
    requests = [request for setting in settings for request in search.draws(setting).values()]
    return make_plan("search", requests, cohort, store)


def _done(
    search: Search, setting: Setting, cohort: Cohort, store: Store
) -> dict[Overrides, PlannedRun]:
    """A setting's finished runs, by what was drawn."""
    draws = search.draws(setting)
    runs = make_plan("setting", list(draws.values()), cohort, store).runs
    drawn = zip(draws, runs, strict=True)
    return {point: run for point, run in drawn if run.files.record.exists()}


def _settings(
    tables: Iterable[str], methods: Sequence[str] | None, preset: Preset
) -> list[Setting]:
    """Every setting of the tables, each once, that its method accepts."""
    definitions: Any = importlib.import_module("tables.definitions")
    found: dict[Setting, None] = {}
    for name in tables:
        for request in definitions.requests(definitions.named(name), preset, [0]):
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


def _choose(
    search: Search, setting: Setting, done: Mapping[Overrides, PlannedRun], cohort: Cohort
) -> dict[str, Any]:
    """The best draw on validation; of equal ones the first drawn."""
    selections = {point: run.files.read_record()["selection"] for point, run in done.items()}
    best = max(selections, key=lambda point: selections[point]["value"])
    return {
        "method": setting.method,
        "task": str(setting.task),
        "cxr": str(setting.cxr),
        "ehr": setting.ehr,
        "preset": str(search.preset),
        "recipe": search.recipe,
        "grid": str(search.grid or default_grid(search.preset)),
        "fixed": list(search.fixed),
        "cohort": cohort.content_hash,
        "overrides": list(best),
        "rule": selections[best]["rule"],
        "value": selections[best]["value"],
        "draws": [
            {
                "overrides": list(point),
                "value": selections[point]["value"],
                "run_id": run.run_id,
            }
            for point, run in done.items()
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
