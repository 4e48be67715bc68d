"""Is every baseline above chance? Cohort `medium`, three seeds, after a search of rate and dropout.

    python -m bench.search --table table1 table2 --preset medium --draws 9
    python -m bench.studies.baselines            (a few hours on two cores, search included)

Each method with EHR and all films it takes, on each task, with what the search chose: mean over
seeds with a 95 % interval over test subjects (cluster bootstrap). One that is not above chance is
a bug until shown otherwise. Prints Markdown for RESULTS.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bench.config import PAPER_SEEDS, Request, default_cxr
from bench.data.vocabulary import Task
from bench.demo import open_cohort
from bench.errors import Parser, run_command
from bench.plan import PlannedRun
from bench.registry import METHODS
from bench.search import Setting, chosen, tuned
from bench.store import Store
from bench.studies.grid import done, study_parser, work_off
from bench.studies.scores import CHANCE, METRIC, scores_of


def parser() -> Parser:
    """The command's arguments."""
    p = study_parser("baselines", __doc__, PAPER_SEEDS)
    p.add_argument("--method", nargs="+", default=list(METHODS), metavar="NAME")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    arg = parser().parse_args(argv)
    cohort, store = open_cohort(arg.cohort, arg.preset), Store(arg.results)
    of_setting = chosen(store, cohort, arg.preset)
    cells: dict[tuple[Task, str], list[Request]] = {}
    for task in Task:
        for method in arg.method:
            cxr = default_cxr(method, task)
            requests = [Request(method, task, cxr, s, preset=arg.preset) for s in arg.seeds]
            cells[task, method] = [tuned(request, of_setting) for request in requests]
    work_off("baselines", [r for cell in cells.values() for r in cell], arg, cohort, store)
    rows = []
    for (task, method), requests in cells.items():
        runs = list(done(requests, cohort, store).values())
        searched = Setting.of(requests[0]) in of_setting
        rows += [_row(task, method, runs, searched)] if runs else []
    print(f"\nSIMULATED: {cohort.title} ({cohort.content_hash}); preset {arg.preset}\n")
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3f"))
    return 0


def _row(task: Task, method: str, runs: Sequence[PlannedRun], searched: bool) -> dict[str, object]:
    """A method's score on a task, and whether its whole interval is above chance."""
    scores = scores_of(task, METRIC[task], [run.files.read_predictions() for run in runs])
    low, high = scores.interval
    seconds = [run.files.read_record()["seconds"] for run in runs]
    return {
        "task": str(task),
        "method": method,
        "metric": scores.metric,
        "seeds": len(runs),
        "searched": "yes" if searched else "no",
        "mean": scores.mean,
        "sd": scores.sd,
        "interval": f"{low:.3f} to {high:.3f}",
        "above chance": "yes" if low > CHANCE[scores.metric] else "NO",
        "seconds a run": float(np.mean(seconds)),
    }


if __name__ == "__main__":
    run_command(main)
