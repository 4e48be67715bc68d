"""Which part of DiPro earns what was planted? Cohort `medium`, five seeds, paired intervals.

    python -m bench.studies.ablations            (about two and a half hours on two cores)

Every arm is compared with full DiPro on the same test subjects (cluster bootstrap, mean over
seeds). For progression each trained run also sees the films of every test pair exchanged, with
worsened and improved labels exchanged too: a model that knows which way time runs keeps its score.
The arm 'interleaved' reverses pairs as the official code does (ledger M1). Runs that are there are
used, so the study may be stopped and gone on with. Prints Markdown for RESULTS.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench import arguments
from bench.config import Request
from bench.data.cohort import Cohort
from bench.data.vocabulary import DISEASES, NOT_MENTIONED, Cxr, Progression, Task
from bench.demo import open_cohort
from bench.errors import Parser, UserError, run_command
from bench.metrics import stored_arrays
from bench.plan import PlannedRun
from bench.store import Store
from bench.studies.grid import done, study_parser, work_off
from bench.studies.scores import METRIC, Scores, exchanged_logits, scores_of, with_logits

SEEDS = (23, 29, 66, 1, 2)


@dataclass(frozen=True)
class Arm:
    """DiPro with something left out or done otherwise."""

    title: str
    ablate: tuple[str, ...] = ()
    overrides: tuple[tuple[str, str], ...] = ()

    def request(self, task: Task, seed: int, arg: argparse.Namespace) -> Request:
        """The run of this arm."""
        cxr = Cxr.LONG if task.is_icu else Cxr.PAIR
        steps = (("training.max_steps", str(arg.steps)),) if arg.steps else ()
        return Request(
            "dipro", task, cxr, seed, ehr=not arg.no_ehr, ablate=self.ablate, preset=arg.preset,
            overrides=(*self.overrides, *steps),
        )  # fmt: skip


FULL = Arm("DiPro")
ARMS = {
    Task.DISEASE_PROGRESSION: (
        FULL,
        Arm("w/o PAE", ("pae",)),
        Arm("w/o STD", ("std",)),
        Arm("interleaved reversal", overrides=(("model.reversal", "interleave"),)),
        Arm("local fusion only", ("local-only",)),
        Arm("global fusion only", ("global-only",)),
        Arm("w/o MMF", ("mmf",)),
        Arm("w/o STD, PAE, MMF", ("std+pae+mmf",)),
    ),
    Task.MORTALITY: (
        FULL,
        Arm("local fusion only", ("local-only",)),
        Arm("global fusion only", ("global-only",)),
        Arm("w/o PAE", ("pae",)),
    ),
}


def parser() -> Parser:
    """The command's arguments."""
    p = study_parser("ablations", __doc__, SEEDS)
    p.add_argument("--steps", type=arguments.positive, metavar="N", help="fewer than the preset's")
    p.add_argument("--no-ehr", action="store_true", help="films alone")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    arg = parser().parse_args(argv)
    cohort, store = open_cohort(arg.cohort, arg.preset), Store(arg.results)
    # Seed by seed, so that a study stopped early has every arm.
    requests = [
        arm.request(task, seed, arg)
        for seed in arg.seeds
        for task, arms in ARMS.items()
        for arm in arms
    ]
    work_off("ablations", requests, arg, cohort, store)
    print(f"\nSIMULATED: {cohort.title} ({cohort.content_hash}); preset {arg.preset}\n")
    for task, arms in ARMS.items():
        runs = {
            arm: done([arm.request(task, seed, arg) for seed in arg.seeds], cohort, store)
            for arm in arms
        }
        if not runs[FULL]:
            raise UserError(f"no finished run of full DiPro on {task}: leave --no-training out")
        rows = [_row(task, arm, runs, cohort) for arm in arms if runs[arm]]
        print(f"{task}, {METRIC[task]}\n")
        print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3f") + "\n")
    return 0


def _row(
    task: Task, arm: Arm, runs: dict[Arm, dict[int, PlannedRun]], cohort: Cohort
) -> dict[str, object]:
    """One line: the arm's score, its difference to full DiPro on their common seeds, reversal."""
    common = [seed for seed in runs[arm] if seed in runs[FULL]]
    own, full = (_scores(task, [runs[a][seed] for seed in common]) for a in (arm, FULL))
    difference, low, high, p = own.minus(full)
    row = {"arm": arm.title, "seeds": len(common), "mean": own.mean, "sd": own.sd}
    row["interval"] = "{:.3f} to {:.3f}".format(*own.interval)
    if arm != FULL:
        row |= {"difference": f"{difference:+.3f} ({low:+.3f} to {high:+.3f})", "p": p}
    if task is Task.DISEASE_PROGRESSION:
        turned, share = _reversed(list(runs[arm].values()), cohort)
        row |= {"reversed": turned.mean, "turned over": share}
    return row


def _scores(task: Task, runs: Sequence[PlannedRun]) -> Scores:
    return scores_of(task, METRIC[task], [run.files.read_predictions() for run in runs])


def _reversed(runs: Sequence[PlannedRun], cohort: Cohort) -> tuple[Scores, float]:
    """The score on exchanged films and labels, and the share of predictions that turn over."""
    tables, shares = [], []
    for run in runs:
        predictions = run.files.read_predictions()
        exchanged = exchanged_logits(run, cohort)
        before, labels = stored_arrays(predictions)
        turned = {f"label_{k}": column for k, column in enumerate(_opposite(labels).T)}
        tables.append(with_logits(predictions, exchanged).assign(**turned))
        was, now = (
            logits.reshape(-1, len(DISEASES), 3).argmax(-1) for logits in (before, exchanged)
        )
        mentioned = labels != NOT_MENTIONED
        shares.append((now == _opposite(was))[mentioned].mean())
    task = Task.DISEASE_PROGRESSION
    return scores_of(task, METRIC[task], tables), float(np.mean(shares))


def _opposite(labels: np.ndarray) -> np.ndarray:
    """Worsened and improved exchanged."""
    opposite = np.arange(NOT_MENTIONED + 1)
    opposite[[Progression.WORSENED, Progression.IMPROVED]] = (
        Progression.IMPROVED,
        Progression.WORSENED,
    )
    return opposite[labels]


if __name__ == "__main__":
    run_command(main, resumes=True)
