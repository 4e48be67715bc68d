"""Train and test one method once: `python -m bench.run --method dipro --ablate pae`."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

from bench import arguments
from bench.config import PAPER_SEEDS, Request, Weights, default_cxr, resolve
from bench.contract import Ablation, Preset
from bench.data.cohort import Cohort
from bench.data.vocabulary import Cxr, Task
from bench.demo import open_cohort
from bench.environment import choose_device
from bench.errors import Parser, UserError, first_line, run_command
from bench.metrics import MIN_LABELS, MIN_LABELS_DEMO, evaluate_table
from bench.plan import PlannedRun, make_plan
from bench.registry import METHODS, load_method
from bench.runner import execute
from bench.store import RunBusyError, Status, Store


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m bench.run", description=__doc__, epilog=_ablation_help())
    p.add_argument("--method", required=True, help=f"{', '.join(METHODS)}, or module:Class")
    p.add_argument(
        "--ablate", action="append", default=[], metavar="NAME", help="see below; may be repeated"
    )
    p.add_argument(
        "--task",
        type=arguments.choice(Task),
        default=Task.DISEASE_PROGRESSION,
        metavar="NAME",
        help=", ".join(Task),
    )
    p.add_argument(
        "--cxr",
        type=arguments.choice(Cxr),
        metavar="NAME",
        help="films: none, last, long (ICU tasks) or pair; without it the fullest the method takes",
    )
    p.add_argument("--no-ehr", action="store_true", help="withhold EHR and demographics")
    p.add_argument(
        "--drop-ehr",
        type=arguments.share_of_training,
        default=0.0,
        metavar="SHARE",
        help="hide the hours of this share of training samples, e.g. 0.5",
    )
    p.add_argument(
        "--seed", type=arguments.whole, default=PAPER_SEEDS[0], metavar="N", help="random seed"
    )
    arguments.add_place(p)
    arguments.add_machine(p)
    arguments.add_overrides(p)
    arguments.add_actions(p)
    p.add_argument(
        "--weights",
        type=Weights.parse,
        metavar="[KIND:]FILE",
        help="start from trained weights: best.pt of a run, official:FILE (DiPro's authors) or "
        "stage-one:FILE (MedFuse)",
    )
    p.add_argument("--test-only", action="store_true", help="evaluate --weights, train nothing")
    return p


def _ablation_help() -> str:
    """One sentence per ablation of the methods that have any."""
    lines = []
    for name in METHODS:
        ablations: dict[str, Ablation] = load_method(name).ablations
        if ablations:
            lines.append(f"ablations of {name}:")
        lines += [
            textwrap.fill(f"--ablate {key}: {a.sentence}", 88, initial_indent="  ",
                          subsequent_indent="      ")
            for key, a in ablations.items()
        ]  # fmt: skip
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arg = parser().parse_args(argv)
    request = Request(
        method=arg.method,
        task=arg.task,
        cxr=arg.cxr or default_cxr(arg.method, arg.task),
        seed=arg.seed,
        ehr=not arg.no_ehr,
        drop_ehr=arg.drop_ehr,
        ablate=tuple(arg.ablate),
        preset=arg.preset,
        recipe=arg.recipe,
        weights=arg.weights.name if arg.weights else "",
        test_only=arg.test_only,
        overrides=tuple(arg.set),
    )
    _check_films(request)
    device = choose_device(arg.device)
    store = Store(arg.results)
    if not arg.dry_run:
        store.check_writable()
    cohort = open_cohort(arg.cohort, arg.preset)
    plan = make_plan("run", [request], cohort, store)
    (run,) = plan.runs
    print(_header(request, cohort, run))
    is_redone = run.status in arg.rerun
    if arg.dry_run:
        print(f"status: {run.status}{', would be made again' if is_redone else ''}")
        return 0
    if run.files.record.exists() and not is_redone:
        print(_already_done(run))
    else:
        try:
            if is_redone:
                run.files.clear()
            execute(
                run.config,
                cohort,
                run.files,
                device=device,
                threads=arg.threads,
                weights=arg.weights,
            )
        except RunBusyError as owner:
            raise UserError(f"another process works on {run.run_id}: wait for {owner}")
        except UserError:
            raise
        except Exception as error:
            print(
                f"failed: {first_line(error)}; whole message: {run.files.failure}", file=sys.stderr
            )
            return 1
    print(_last_lines(run, cohort))
    return 0


def _check_films(request: Request) -> None:
    """Refuse films that do not go with task and method where others do, and name those.

    Without films the method's own reason, which names another method, is left to say more.
    """
    fitting = [cxr for cxr in Cxr if _resolves(replace(request, cxr=cxr))]
    if fitting and request.cxr not in (*fitting, Cxr.NONE):
        raise UserError(
            f"--cxr {request.cxr}: these films do not go with {request.method} on {request.task}, "
            f"use --cxr {' or '.join(fitting)}"
        )


def _resolves(request: Request) -> bool:
    try:
        resolve(request)
    except UserError:
        return False
    return True


def _header(request: Request, cohort: Cohort, run: PlannedRun) -> str:
    return (
        f"{request.label}, task {request.task}, seed {request.seed}, preset {request.preset}, "
        f"on {cohort.title} ({cohort.path}) -> {run.files.folder}"
    )


def _already_done(run: PlannedRun) -> str:
    """That the record which follows is not a new one, and how to have a new one."""
    commit = run.files.read_record()["commit"] or "unknown"
    by, status = f"commit {commit}", Status.DONE
    if run.status is Status.STALE:
        by, status = f"older code, commit {commit}", Status.STALE
    return f"already done (record of {by}); --rerun {status} trains it again"


def _last_lines(run: PlannedRun, cohort: Cohort) -> str:
    """Test metrics from the stored predictions, with what they may be taken for."""
    record = run.files.read_record()
    task = run.config.request.task
    is_demo = run.config.request.preset is Preset.DEMO
    values = evaluate_table(
        task, run.files.read_predictions(), MIN_LABELS_DEMO if is_demo else MIN_LABELS
    )
    lines = [f"test ({record['n_test']} samples): {_scores(task, values)}"]
    if cohort.is_simulated:
        lines.append("SIMULATED cohort: these numbers say nothing about MIMIC.")
    if is_demo:
        lines.append("The demo preset proves the plumbing; its test set is far too small to rank.")
    return "\n".join(lines)


def _scores(task: Task, values: Mapping[str, float]) -> str:
    """The task's main metrics in the first line, the others under it, a line for each disease."""
    headline = values.keys() & _MAIN_METRICS[task]
    of_disease = {name for name in values if "[" in name}

    def line(names: Set[str]) -> str:
        return "  ".join(f"{name} {values[name]:.3f}" for name in values if name in names)

    width = max((len(name) for name in of_disease), default=0)
    return "\n  ".join(
        [
            line(headline),
            line(values.keys() - headline - of_disease),
            *(f"{name:<{width}}  {values[name]:.3f}" for name in values if name in of_disease),
        ]
    )


_MAIN_METRICS = {
    Task.DISEASE_PROGRESSION: {"macro_f1", "auprc", "auroc"},
    Task.MORTALITY: {"auprc", "auroc"},
    Task.LENGTH_OF_STAY: {"kappa", "accuracy"},
}
"""What a run's first line of results holds: what the paper's tables compare."""


if __name__ == "__main__":
    run_command(main, resumes=True)
