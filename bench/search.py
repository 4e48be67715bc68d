"""Search hyperparameters on validation: the same number of random draws for every method.

python -m bench.search --table table2                       every method and setting of the table
python -m bench.search --table table2 --method medfuse --draws 8
python -m bench.search --method their_module:TheirMethod --task mortality
python -m bench.search --table table2 --backend dask --scheduler tcp://node1:8786

A search run neither predicts nor stores the test set. What was chosen is written to
RESULTS/search/, a file for each setting and grid, and `--tuned` makes sweeps, tables and figures
use it; ablations take what was chosen for their method. A field that changes nothing in a setting,
and one that --set gives, is not drawn. A setting whose grid has fewer points than --draws tries all
of them, and a line says so. Stopped at any moment, the same command goes on; what it chooses from
fewer draws never takes the place of what was chosen from more.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench import arguments
from bench.config import PAPER_SEEDS, Request, default_cxr, resolve
from bench.contract import Preset
from bench.data.cohort import Cohort
from bench.data.vocabulary import Cxr, Task
from bench.demo import open_cohort
from bench.environment import code_fingerprint
from bench.errors import Parser, UserError, nearest, run_command
from bench.execution import backend, clear
from bench.plan import Plan, PlannedRun, make_plan
from bench.space import Grid, Overrides, default_grid, draw, space
from bench.store import Status, Store, write_json
from tables.definitions import named, requests

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
        return "-".join([self.method.replace(":", "."), self.task, self.cxr, *ehr])


@dataclass(frozen=True)
class Choice:
    """What a search chose, and how it searched: '24 draws of the extended grid'.

    fingerprints: of the code that made each draw
    """

    overrides: Overrides
    how: str
    fingerprints: tuple[str, ...] = ()

    def n_stale(self, method: str) -> int:
        """How many of its draws were made by older code."""
        return sum(made_by != code_fingerprint(method) for made_by in self.fingerprints)


Chosen = dict[Setting, Choice]
"""What searches chose, by setting."""


def add_tuned(parser: Parser) -> None:
    """Whether searched hyperparameters are used, and of which grid; `chosen` takes the value."""
    parser.add_argument(
        "--tuned",
        nargs="?",
        const=True,
        default=False,
        type=arguments.choice(Grid),
        metavar="GRID",
        help="use the hyperparameters that bench.search chose, from the preset's own grid or from "
        f"the one named: {', '.join(Grid)}",
    )


def chosen(
    store: Store,
    cohort: Cohort,
    preset: Preset,
    recipe: str = "shared",
    grid: Grid | Literal[True] = True,
) -> Chosen:
    """Read what was chosen on a cohort in a preset with a recipe, from a grid.

    grid: True for the preset's own, as `--tuned` without a name gives it
    """
    wanted = {
        "preset": preset,
        "recipe": recipe,
        "cohort": cohort.content_hash,
        "grid": default_grid(preset) if grid is True else grid,
    }
    found = (record for record in store.searches() if wanted.items() <= record.items())
    return {
        Setting(record["method"], Task(record["task"]), Cxr(record["cxr"]), record["ehr"]): Choice(
            tuple((name, text) for name, text in record["overrides"]),
            _how(record),
            tuple(draw.get("fingerprint", "") for draw in record["draws"]),
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

    n_draws: of every setting; all points where there are fewer
    grid: which values are drawn from; None: the preset's
    seed: of every run
    fixed: overrides of every run, e.g. fewer steps; their fields are not drawn
    """

    preset: Preset
    n_draws: int = N_DRAWS
    grid: Grid | None = None
    seed: int = PAPER_SEEDS[0]
    fixed: Overrides = ()
    recipe: str = "shared"

    @property
    def drawn_from(self) -> Grid:
        """The grid, whether it was named or not."""
        return self.grid or default_grid(self.preset)

    def name_of(self, setting: Setting, cohort: Cohort) -> str:
        """Under which the choice for a setting is stored."""
        reference = ["reference"] if self.recipe == "reference" else []
        parts = [setting.name, self.preset, self.drawn_from, *reference, cohort.content_hash[:8]]
        return "-".join(parts)

    def draws(self, setting: Setting) -> dict[Overrides, Request]:
        """What is drawn for a setting; the same on every cohort."""
        base = Request(
            setting.method, setting.task, setting.cxr, self.seed,
            ehr=setting.ehr, preset=self.preset, recipe=self.recipe, validation_only=True,
            overrides=self.fixed,
        )  # fmt: skip
        values = space(resolve(base), self.drawn_from)
        free = {name: texts for name, texts in values.items() if name not in dict(self.fixed)}
        points = draw(free, self.n_draws, np.random.default_rng(DRAW_SEED))
        return {point: replace(base, overrides=(*self.fixed, *point)) for point in points}


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m bench.search", description=__doc__)
    p.add_argument("--table", nargs="+", metavar="NAME", help="e.g. table2: all its settings")
    p.add_argument(
        "--method",
        nargs="+",
        metavar="NAME",
        help="only these methods of the tables; with --task any, module:Class too",
    )
    p.add_argument(
        "--task",
        type=arguments.choice(Task),
        metavar="NAME",
        help=f"instead of --table: search the methods on it ({', '.join(Task)})",
    )
    p.add_argument(
        "--cxr",
        type=arguments.choice(Cxr),
        metavar="NAME",
        help="films, with --task; without it the fullest the method takes",
    )
    p.add_argument("--no-ehr", action="store_true", help="with --task: withhold EHR, demographics")
    p.add_argument(
        "--draws",
        type=arguments.positive,
        default=N_DRAWS,
        metavar="N",
        help="of every setting; all points of its grid where there are fewer",
    )
    p.add_argument(
        "--grid",
        type=arguments.choice(Grid),
        metavar="NAME",
        help=f"{', '.join(Grid)}; without it extended in the preset paper, small in the others",
    )
    p.add_argument(
        "--seed", type=arguments.whole, default=PAPER_SEEDS[0], metavar="N", help="of every run"
    )
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
    settings = _settings(arg)
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
        0 if every draw was trained, 1 if some failed or are busy.
    """
    plan = _plan(search, settings, cohort, store)
    to_do = plan.to_do(arg.rerun)
    with backend(arg) as (jobs, execute):
        print(plan.summary(to_do, store, jobs), flush=True)
        _say_fewer(search, settings)
        if arg.dry_run:
            return 0
        store.check_writable()
        clear(to_do, arg.rerun)
        failed = 0
        for outcome in execute(to_do, cohort.path, device=arg.device, threads=arg.threads):
            failed += bool(outcome.error)
            print(f"{outcome.run_id}: {outcome.error or 'done'}", flush=True)
    for setting in settings:
        done = _done(search, setting, cohort, store)
        if done:
            record = _choose(search, setting, done, cohort)
            _keep_the_fuller(store.search(search.name_of(setting, cohort)), setting, record)
            if ":" in setting.method:
                # It is in no table, so --tuned does not reach it.
                print(f"  {_command(search, setting, record, cohort)}")
    return int(failed > 0)


def _say_fewer(search: Search, settings: Iterable[Setting]) -> None:
    """Name the settings that have fewer points than draws were asked for."""
    for setting in settings:
        n = len(search.draws(setting))
        if n < search.n_draws:
            print(
                f"{setting.name}: {n} instead of {search.n_draws} draws, all points that the "
                f"{search.drawn_from} grid has for it"
            )


def _keep_the_fuller(file: Path, setting: Setting, record: dict[str, Any]) -> None:
    """Write a choice down, unless an earlier one was made from more draws; say which it is."""
    if file.exists():
        earlier = _read(file)
        if len(earlier["draws"]) > len(record["draws"]):
            print(
                f"{setting.name}: kept what {_how(earlier)} chose, this search has "
                f"{len(record['draws'])}; to have the new choice, delete {file}"
            )
            return
        if _how(earlier) != _how(record):
            print(f"{setting.name}: takes the place of what {_how(earlier)} chose")
    write_json(file, record)
    print(f"{setting.name}: {_line(record)}")


def _command(search: Search, setting: Setting, record: dict[str, Any], cohort: Cohort) -> str:
    """The command that trains with what was chosen."""
    chosen_run = Request(
        setting.method, setting.task, setting.cxr, search.seed,
        ehr=setting.ehr, preset=search.preset, recipe=search.recipe,
        overrides=tuple(record["overrides"]),
    )  # fmt: skip
    return chosen_run.command(str(cohort.path))


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}): delete it and type the same command again")


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


def _settings(arg: argparse.Namespace) -> list[Setting]:
    """What is to be searched: a task's settings of some methods, or all of some tables.

    Raises:
        UserError: the arguments do not go together, or name a method that is not there.
    """
    if arg.task is None:
        if not arg.table:
            raise UserError("nothing to search: give --table NAME, or --method NAME --task NAME")
        if arg.cxr or arg.no_ehr:
            raise UserError("--cxr and --no-ehr go with --task: a table has its own settings")
        return _settings_of_tables(arg.table, arg.method)
    if arg.table or not arg.method:
        raise UserError("--task goes with --method NAME and without --table")
    return [
        Setting(method, arg.task, arg.cxr or default_cxr(method, arg.task), not arg.no_ehr)
        for method in arg.method
    ]


def _settings_of_tables(tables: Iterable[str], methods: Sequence[str] | None) -> list[Setting]:
    """Every setting of the tables, each once, that its method accepts."""
    found: dict[Setting, None] = {}
    for name in tables:
        for request in requests(named(name), Preset.DEMO, [0]):
            found[Setting.of(request)] = None
    known = {setting.method for setting in found}
    for method in methods or ():
        if ":" in method:
            raise UserError(
                f"--method {method} is in no table: search it with --task NAME instead of --table"
            )
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
    records = {point: run.files.read_record() for point, run in done.items()}
    selections = {point: record["selection"] for point, record in records.items()}
    best = max(selections, key=lambda point: selections[point]["value"])
    return {
        "method": setting.method,
        "task": str(setting.task),
        "cxr": str(setting.cxr),
        "ehr": setting.ehr,
        "preset": str(search.preset),
        "recipe": search.recipe,
        "grid": str(search.drawn_from),
        "fixed": list(search.fixed),
        "cohort": cohort.content_hash,
        "overrides": list(best),
        "rule": selections[best]["rule"],
        "value": selections[best]["value"],
        "n_stale": sum(run.status is Status.STALE for run in done.values()),
        "draws": [
            {
                "overrides": list(point),
                "value": selections[point]["value"],
                "run_id": run.run_id,
                "fingerprint": records[point]["fingerprint"],
            }
            for point, run in done.items()
        ],
    }


def _line(record: dict[str, Any]) -> str:
    fields = " ".join(f"{name}={text}" for name, text in record["overrides"])
    values = [draw["value"] for draw in record["draws"]]
    n_stale = record["n_stale"]
    stale = f"; {n_stale} made by older code, --rerun stale redoes them" if n_stale else ""
    return (
        f"{fields} ({record['rule']} {record['value']:.4f} on validation; "
        f"{len(values)} draws, worst {min(values):.4f}{stale})"
    )


if __name__ == "__main__":
    run_command(main, resumes=True)
