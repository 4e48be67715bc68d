"""Is every baseline above chance? Cohort `medium`, three seeds, after a short search.

    python -m bench.studies.baselines            (about three hours on two cores)

Each method with EHR and all films it takes, on each task: first a few draws from the small grid of
`bench.space` (rate, dropout, widths, loss weights), judged on validation, as many for each; then
the seeds with what was chosen. Mean over seeds with a 95 % interval over test subjects (cluster
bootstrap). One that is not above chance is a bug until shown otherwise. Prints Markdown for
RESULTS.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import pandas as pd

from bench import arguments
from bench.config import PAPER_SEEDS, Request, default_cxr
from bench.data.vocabulary import Task
from bench.demo import open_cohort
from bench.errors import Parser, run_command
from bench.plan import PlannedRun
from bench.registry import METHODS
from bench.search import Chosen, Search, Setting, chosen, tuned
from bench.search import work_off as search_all
from bench.space import Overrides
from bench.store import Store
from bench.studies.grid import done, study_parser, work_off
from bench.studies.scores import CHANCE, METRIC, scores_of


def parser() -> Parser:
    """The command's arguments."""
    p = study_parser("baselines", __doc__, PAPER_SEEDS)
    p.add_argument("--method", nargs="+", default=list(METHODS), metavar="NAME")
    p.add_argument("--draws", type=arguments.positive, default=4, metavar="N")
    p.add_argument("--search-steps", type=arguments.positive, default=250, metavar="N")
    p.add_argument("--steps", type=arguments.positive, default=600, metavar="N")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    arg = parser().parse_args(argv)
    cohort, store = open_cohort(arg.cohort, arg.preset), Store(arg.results)
    settings = [
        Setting(method, task, default_cxr(method, task), ehr=True)
        for task in Task
        for method in arg.method
    ]
    if not arg.no_training:
        search = Search(arg.preset, arg.draws, fixed=_steps(arg.search_steps))
        search_all(search, settings, arg, cohort, store)
    of_setting = chosen(store, cohort, arg.preset)
    cells = {
        setting: [_request(setting, seed, arg, of_setting) for seed in arg.seeds]
        for setting in settings
    }
    by_seed = [request for of_seed in zip(*cells.values(), strict=True) for request in of_seed]
    work_off("baselines", by_seed, arg, cohort, store)
    rows = []
    for setting, requests in cells.items():
        runs = list(done(requests, cohort, store).values())
        rows += [_row(setting, runs, of_setting)] if runs else []
    print(f"\nSIMULATED: {cohort.title} ({cohort.content_hash}); preset {arg.preset}\n")
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3f"))
    return 0


def _steps(n: int) -> Overrides:
    return (("training.max_steps", str(n)),)


def _request(setting: Setting, seed: int, arg: argparse.Namespace, of_setting: Chosen) -> Request:
    """A run with what the search chose."""
    plain = Request(
        setting.method, setting.task, setting.cxr, seed,
        preset=arg.preset, overrides=_steps(arg.steps),
    )  # fmt: skip
    return tuned(plain, of_setting)


def _row(setting: Setting, runs: Sequence[PlannedRun], of_setting: Chosen) -> dict[str, object]:
    """A method's score on a task, and whether its whole interval is above chance."""
    task = setting.task
    predictions = [run.files.read_predictions() for run in runs]
    scores, auroc = (scores_of(task, metric, predictions) for metric in (METRIC[task], "auroc"))
    low, high = scores.interval
    seconds = [run.files.read_record()["seconds"] for run in runs]
    return {
        "task": str(task),
        "method": setting.method,
        "metric": scores.metric,
        "seeds": len(runs),
        "chosen": " ".join(
            f"{name}={text}"
            for name, text in (of_setting[setting].overrides if setting in of_setting else ())
        ),
        "mean": scores.mean,
        "sd": scores.sd,
        "interval": f"{low:.3f} to {high:.3f}",
        "auroc": "{:.3f} ({:.3f} to {:.3f})".format(auroc.mean, *auroc.interval),
        "above chance": "yes" if low > CHANCE[scores.metric] else "NO",
        "seconds a run": float(np.mean(seconds)),
    }


if __name__ == "__main__":
    run_command(main, resumes=True)
