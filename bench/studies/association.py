"""Do methods fall as films tell less of the rest? Engine image-longitudinal, five associations.

    python -m bench.studies.association

A cohort for each R² = 1, .5, .1, .053, .02: what films show explains at most so much of the
variance of anything that EHR, outcomes and reports are made of (arXiv 2410.16177, v = 0, 1, 9, 18,
49). Each method sees films alone. `explained` is the squared correlation of its probabilities with
the labels, averaged over classes. Age, sex and build show in films whatever the association; of
what the oracle explains beyond them no function of films can pass R² (for progression only nearly
so: which pairs are labelled depends on their course). A method whose interval is above that ceiling
leaks. Prints Markdown for RESULTS.md and draws a figure beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.special import expit, softmax

from bench import arguments
from bench.config import PAPER_SEEDS, Request
from bench.contract import Preset, TaskSpec
from bench.data.batch import Inputs, Samples
from bench.data.cohort import MANIFEST, Cohort
from bench.data.vocabulary import DISEASES, NOT_MENTIONED, Cxr, Progression, Task
from bench.demo import make_cohort, raw_folder
from bench.errors import Parser, UserError, run_command
from bench.metrics import stored_arrays
from bench.prediction import task_label
from bench.simulating.image_longitudinal.association import PAPER_VARIANCES, ceiling
from bench.simulating.oracle import oracle_logits
from bench.simulating.sizes import Engine, Size
from bench.store import Store
from bench.studies.grid import done, study_parser, work_off
from bench.studies.scores import METRIC, scores_of

FIGURES = Path(__file__).parent / "figures"
N_RESAMPLES = 1000
FILM_READERS = ("dipro", "medfuse", "umse", "chexrelnet", "chexrelformer", "sdpl")
"""Methods that take films without EHR, on both tasks."""


def parser() -> Parser:
    """The command's arguments."""
    p = study_parser("association", __doc__, PAPER_SEEDS)
    p.set_defaults(preset=Preset.DEMO)
    sizes = [size for size in Size if size is not Size.PAPER]
    p.add_argument("--size", type=arguments.choice(Size), default=Size.MEDIUM, metavar="NAME",
                   help="of each cohort: " + ", ".join(sizes))  # fmt: skip
    p.add_argument("--method", nargs="+", default=list(FILM_READERS), metavar="NAME")
    p.add_argument("--task", nargs="+", type=arguments.choice(Task), metavar="NAME",
                   default=[Task.DISEASE_PROGRESSION, Task.MORTALITY])  # fmt: skip
    r2 = [round(ceiling(v), 3) for v in PAPER_VARIANCES]
    p.add_argument("--association", nargs="+", type=float, default=r2, metavar="R2")
    p.add_argument("--steps", type=arguments.positive, metavar="N", help="fewer than the preset's")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    arg = parser().parse_args(argv)
    if arg.cohort:
        raise UserError("this study makes its own cohorts, one an association: leave --cohort out")
    store, rows = Store(arg.results), []
    for r2 in arg.association:
        cohort = _cohort(r2, arg)
        requests = [
            _request(method, task, seed, arg)
            for seed in arg.seeds
            for task in arg.task
            for method in arg.method
        ]
        work_off(f"association {r2:g}", requests, arg, cohort, store)
        if arg.dry_run:
            continue
        rows += _rows(r2, cohort, store, arg)
    if not rows:
        return 0
    print(f"\nSIMULATED: engine {Engine.IMAGE_LONGITUDINAL}, {arg.size}; preset {arg.preset}, ")
    print(f"films alone, {len(arg.seeds)} seeds\n")
    table = pd.DataFrame(rows)
    print(table.to_markdown(index=False, floatfmt=".3f"))
    _draw(table)
    return 0


def _cohort(r2: float, arg: argparse.Namespace) -> Cohort:
    engine = Engine.IMAGE_LONGITUDINAL
    words = ("--size", arg.size, "--engine", engine, "--association", str(r2))
    place = Path("data") / f"simulated-{arg.size}-{engine}-{r2:g}-{arg.preset}"
    if arg.dry_run and not (place / MANIFEST).exists():
        raise UserError(f"{place} is not there: without --dry-run it is made")
    return make_cohort(place, arg.preset, *words)


def _request(method: str, task: Task, seed: int, arg: argparse.Namespace) -> Request:
    """A run that sees films alone."""
    cxr = Cxr.LONG if task.is_icu else Cxr.PAIR
    steps = (("training.max_steps", str(arg.steps)),) if arg.steps else ()
    return Request(method, task, cxr, seed, ehr=False, preset=arg.preset, overrides=steps)


def _rows(r2: float, cohort: Cohort, store: Store, arg: argparse.Namespace) -> list[dict]:
    """A line per task and method with finished runs."""
    rows = []
    for task in arg.task:
        for method in arg.method:
            requests = [_request(method, task, seed, arg) for seed in arg.seeds]
            runs = list(done(requests, cohort, store).values())
            if runs:
                predictions = [run.files.read_predictions() for run in runs]
                rows.append(_row(r2, task, method, predictions, cohort))
    return rows


def _row(
    r2: float, task: Task, method: str, predictions: list[pd.DataFrame], cohort: Cohort
) -> dict[str, object]:
    first = predictions[0]
    labels = stored_arrays(first)[1]
    oracle = oracle_logits(raw_folder(cohort.path), cohort, task, first["sample"])
    weights = _resampled(first["subject"].to_numpy())
    explained = np.mean(
        [explained_share(task, stored_arrays(p)[0], labels, weights) for p in predictions], axis=0
    )
    # A squared correlation of a resample is too large on average, by as much as it is here.
    bias = np.nanmean(explained[1:]) - explained[0]
    low, high = np.nanquantile(explained[1:], [0.025, 0.975]) - bias
    known = shared_share(task, cohort)
    limit = known + r2 * (explained_share(task, oracle, labels, weights[:1])[0] - known)
    score = scores_of(task, METRIC[task], predictions)
    return {
        "R²": r2,
        "task": str(task),
        "method": method,
        METRIC[task]: score.mean,
        "interval": "{:.3f} to {:.3f}".format(*score.interval),
        "explained": explained[0],
        "its interval": f"{low:.3f} to {high:.3f}",
        "ceiling": limit,
        "above ceiling": "YES" if low > limit else "no",
    }


def _resampled(subject: np.ndarray) -> np.ndarray:
    """Weights of samples [1 + B, N]: all alike, then as often as their subject is drawn."""
    subjects, number = np.unique(subject, return_inverse=True)
    n = len(subjects)
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), N_RESAMPLES)
    return np.concatenate([np.ones((1, len(subject))), counts[:, number]])


def explained_share(
    task: Task, logits: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Squared correlation of probabilities and labels, mean over classes, [W] for W weightings.

    It is adjusted for the one slope that it fits, so that chance gives 0 on average.
    """
    shares = [
        _squared_correlation(p, is_class, weights[:, chosen])
        for p, is_class, chosen in _classes(task, logits, labels)
        if 0 < is_class.mean() < 1
    ]
    return np.nanmean(shares, axis=0)


def shared_share(task: Task, cohort: Cohort) -> float:
    """Share of the labels' variance that demographics explain linearly, mean over classes.

    Over all samples of a cohort, adjusted for what is fitted; 0 at least.
    """
    samples = Samples(cohort, task, Cxr.NONE, Inputs(demographics=True))
    spec = TaskSpec(task, Cxr.NONE)
    x = samples.batch(np.arange(len(samples))).demographics.numpy()
    x = np.column_stack([np.ones(len(x)), x])
    labels = samples.labels()[task_label(task)]
    blank = np.zeros((len(x), spec.n_outputs * spec.n_logits))
    shares = []
    for _, truth, rows in _classes(task, blank, labels):
        y, design = truth.astype(float), x[rows]
        fitted, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
        if y.var() > 0 and len(y) > rank:
            r2 = 1 - (y - design @ fitted).var() / y.var()
            shares.append(1 - (1 - r2) * (len(y) - 1) / (len(y) - rank))
    return max(0.0, float(np.mean(shares)))


def _classes(
    task: Task, logits: np.ndarray, labels: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Probability, truth and rows of each class."""
    everyone = np.arange(len(labels))
    if task is Task.MORTALITY:
        return [(expit(logits.reshape(-1)), labels.reshape(-1) == 1, everyone)]
    if task is Task.LENGTH_OF_STAY:
        p = softmax(logits, axis=-1)
        return [(p[:, k], labels == k, everyone) for k in range(p.shape[1])]
    p = softmax(logits.reshape(len(labels), len(DISEASES), len(Progression)), axis=-1)
    return [
        (p[rows, d, k], labels[rows, d] == k, rows)
        for d in range(len(DISEASES))
        for rows in [np.flatnonzero(labels[:, d] != NOT_MENTIONED)]
        if len(rows) > 3
        for k in range(len(Progression))
    ]


def _squared_correlation(p: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Adjusted squared correlation under each of W weightings [W, n]; NaN where all are alike."""
    total = weights.sum(axis=1)

    def covariance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (weights @ (x * y)) / total - (weights @ x) * (weights @ y) / total**2

    y = truth.astype(float)
    spread = covariance(p, p) * covariance(y, y)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(spread > 1e-15, covariance(p, y) ** 2 / spread, np.nan)
    n = len(truth)
    return 1 - (1 - r2) * (n - 1) / (n - 2)


def _draw(table: pd.DataFrame) -> None:
    """What each method explains against the ceiling, a panel a task."""
    tasks = table["task"].unique()
    figure, axes = plt.subplots(
        1, len(tasks), figsize=(4.2 * len(tasks), 3.4), layout="constrained", squeeze=False
    )
    for axis, task in zip(axes[0], tasks, strict=True):
        part = table[table["task"] == task]
        limit = part.groupby("R²")["ceiling"].mean()
        axis.plot(limit.index, limit, color="black", linestyle=":", label="ceiling")
        for method, own in part.groupby("method"):
            axis.plot(own["R²"], own["explained"], marker="o", label=method)
        axis.set(xscale="log", title=task.replace("_", " "), xlabel="association R²")
    axes[0, 0].set_ylabel("share of the labels' variance explained")
    axes[0, 0].legend()
    figure.suptitle("SIMULATED: films alone, engine image-longitudinal")
    FIGURES.mkdir(exist_ok=True)
    figure.savefig(FIGURES / "association.png", dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    run_command(main, resumes=True)
