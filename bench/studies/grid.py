"""How studies are run: their arguments, working off what is open, finding what is done."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench import arguments
from bench.config import Request
from bench.contract import Preset
from bench.data.cohort import Cohort
from bench.errors import Parser
from bench.execution import backend, clear
from bench.plan import PlannedRun, make_plan
from bench.store import Store


def study_parser(name: str, description: str | None, seeds: Sequence[int]) -> Parser:
    """Arguments of a study of many runs, on the medium cohort unless told otherwise."""
    p = Parser(prog=f"python -m bench.studies.{name}", description=description)
    p.add_argument("--seeds", type=arguments.whole, nargs="+", default=list(seeds), metavar="N")
    arguments.add_backend(p)
    p.add_argument("--no-training", action="store_true", help="use the runs that are there")
    arguments.add_place(p)
    arguments.add_machine(p)
    arguments.add_actions(p)
    p.set_defaults(preset=Preset.MEDIUM)
    return p


def work_off(
    name: str, requests: Sequence[Request], arg: argparse.Namespace, cohort: Cohort, store: Store
) -> None:
    """Train what is open, a line for each run, unless `--no-training` was given."""
    if arg.no_training:
        return
    plan = make_plan(name, requests, cohort, store)
    to_do = plan.to_do(arg.rerun)
    with backend(arg) as (jobs, execute):
        print(plan.summary(to_do, store, jobs), flush=True)
        if arg.dry_run:
            return
        store.check_writable()
        clear(to_do, arg.rerun)
        for outcome in execute(to_do, cohort.path, device=arg.device, threads=arg.threads):
            print(f"{outcome.run_id}: {outcome.error or 'done'}", flush=True)


def done(requests: Sequence[Request], cohort: Cohort, store: Store) -> dict[int, PlannedRun]:
    """The finished runs among some of one configuration, by seed."""
    runs = make_plan("done", requests, cohort, store).runs
    return {run.config.request.seed: run for run in runs if run.files.record.exists()}
