"""Make all runs of tables: plan, print, work off what is open, in parallel, resumable.

python -m bench.sweep --table table2
python -m bench.sweep --table table3 table13 table14 table15
python -m bench.sweep --table table2 --dry-run
python -m bench.sweep --table table2 --tuned
python -m bench.sweep --table table2 --backend dask --scheduler tcp://node1:8786
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from tqdm import tqdm

from bench import arguments
from bench.backends import Outcome
from bench.demo import open_cohort
from bench.errors import Parser, run_command
from bench.execution import backend, clear
from bench.plan import Plan, PlannedRun, make_plan
from bench.search import add_tuned, chosen, tuned
from bench.store import Store
from tables.definitions import named, requests


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m bench.sweep", description=__doc__)
    p.add_argument("--table", required=True, nargs="+", metavar="NAME", help="e.g. table2")
    arguments.add_seeds(p)
    arguments.add_backend(p)
    arguments.add_place(p)
    arguments.add_machine(p)
    arguments.add_overrides(p)
    add_tuned(p)
    arguments.add_actions(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if all runs are done, 1 if some failed or are busy."""
    arg = parser().parse_args(argv)
    tables = [named(name) for name in arg.table]
    arguments.check_backend(arg.jobs, arg.backend, arg.scheduler, arg.runs_per_gpu)
    store = Store(arg.results)
    if not arg.dry_run:
        store.check_writable()
    cohort = open_cohort(arg.cohort, arg.preset)
    asked = [
        request
        for table in tables
        for request in requests(table, arg.preset, arg.seeds, arg.recipe, tuple(arg.set))
    ]
    if arg.tuned:
        of_setting = chosen(store, cohort, arg.preset, arg.recipe, arg.tuned)
        asked = [tuned(request, of_setting) for request in asked]
    plan = make_plan(", ".join(arg.table), asked, cohort, store)
    to_do = plan.to_do(arg.rerun)
    print(f"{cohort.title} ({cohort.path})")
    with backend(arg) as (jobs, execute):
        print(plan.summary(to_do, store, jobs))
        if arg.dry_run:
            _print_runs(plan)
            return 0
        clear(to_do, arg.rerun)
        outcomes = execute(to_do, cohort.path, device=arg.device, threads=arg.threads)
        return _report(outcomes, to_do, store)


def _print_runs(plan: Plan) -> None:
    width = max((len(run.title) for run in plan.runs), default=0)
    for run in plan.runs:
        print(f"  {run.status:<12} {run.title:<{width}}  {run.run_id}")
    for request, reason in plan.declined:
        print(f"  declined     {request.label}: {reason}")


def _report(outcomes: Iterable[Outcome], to_do: Sequence[PlannedRun], store: Store) -> int:
    """Print a line per finished run (a bar on a terminal); 1 if one failed or is busy."""
    titles = {run.run_id: run.title for run in to_do}
    n_runs, failed, busy = len(to_do), 0, 0
    with tqdm(total=n_runs, unit="run", disable=not sys.stderr.isatty()) as bar:
        for done, outcome in enumerate(outcomes, 1):
            bar.update()
            state = "done"
            if outcome.error:
                state = f"{'busy' if outcome.busy else 'failed'} ({outcome.error})"
                busy += outcome.busy
                failed += not outcome.busy
            name = f"{titles[outcome.run_id]}, {outcome.run_id}"
            tqdm.write(f"[{done}/{n_runs}] {name}: {state}")
    if busy:
        print(
            f"{busy} of {n_runs} runs are busy: the processes named above work on them; when they "
            "have ended, type the same command again"
        )
    if failed:
        print(
            f"{failed} of {n_runs} runs failed; whole messages lie in "
            f"{store.root / 'runs'}/RUN/failure.json, logs beside them in log.txt"
        )
    return int(failed + busy > 0)


if __name__ == "__main__":
    run_command(main, resumes=True)
