"""Make all runs of tables: plan, print, work off what is open, in parallel, resumable.

python -m bench.sweep --table table2
python -m bench.sweep --table table3 table13 table14 table15
python -m bench.sweep --table table2 --dry-run
python -m bench.sweep --table table2 --backend dask --scheduler tcp://node1:8786
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType

from tqdm import tqdm

from bench import arguments
from bench.backends import Outcome
from bench.demo import open_cohort
from bench.errors import Parser, run_command
from bench.execution import backend, clear
from bench.plan import Plan, make_plan
from bench.search import chosen, tuned
from bench.store import Store


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m bench.sweep", description=__doc__)
    p.add_argument("--table", required=True, nargs="+", metavar="NAME", help="e.g. table2")
    arguments.add_seeds(p)
    arguments.add_backend(p)
    arguments.add_place(p)
    arguments.add_machine(p)
    arguments.add_overrides(p)
    arguments.add_tuned(p)
    arguments.add_actions(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if all runs are done, 1 if some failed."""
    arg = parser().parse_args(argv)
    definitions = _definitions()
    tables = [definitions.named(name) for name in arg.table]
    arguments.check_backend(arg.jobs, arg.backend, arg.scheduler)
    store = Store(arg.results)
    if not arg.dry_run:
        store.check_writable()
    cohort = open_cohort(arg.cohort, arg.preset)
    requests = [
        request
        for table in tables
        for request in definitions.requests(
            table,
            arg.preset,
            arg.seeds,
            recipe=arg.recipe,
            overrides=tuple(arg.set),
        )
    ]
    if arg.tuned:
        of_setting = chosen(store, cohort, arg.preset, arg.recipe)
        requests = [tuned(request, of_setting) for request in requests]
    plan = make_plan(", ".join(arg.table), requests, cohort, store)
    to_do = plan.to_do(arg.rerun)
    print(f"{cohort.title} ({cohort.path})")
    with backend(arg) as (jobs, execute):
        print(plan.summary(to_do, store, jobs))
        if arg.dry_run:
            _print_runs(plan)
            return 0
        clear(to_do, arg.rerun)
        outcomes = execute(to_do, cohort.path, device=arg.device, threads=arg.threads)
        return _report(outcomes, len(to_do), store)


def _definitions() -> ModuleType:
    """The table definitions, reached by name as methods are: tables import from bench."""
    return importlib.import_module("tables.definitions")


def _print_runs(plan: Plan) -> None:
    for run in plan.runs:
        print(f"  {run.status:<12} {run.run_id}")
    for request, reason in plan.declined:
        print(f"  declined     {request.label}: {reason}")


def _report(outcomes: Iterable[Outcome], n_runs: int, store: Store) -> int:
    """Print a line per finished run (a bar on a terminal); 1 if one failed."""
    failed = 0
    with tqdm(total=n_runs, unit="run", disable=not sys.stderr.isatty()) as bar:
        for done, outcome in enumerate(outcomes, 1):
            bar.update()
            state = "done"
            if outcome.error:
                state = f"{'busy' if outcome.busy else 'failed'} ({outcome.error})"
                failed += not outcome.busy
            tqdm.write(f"[{done}/{n_runs}] {outcome.run_id}: {state}")
    if failed:
        print(f"{failed} of {n_runs} runs failed; logs lie in {store.root / 'runs'}/RUN/log.txt")
    return int(failed > 0)


if __name__ == "__main__":
    run_command(main)
