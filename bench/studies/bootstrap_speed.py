"""How long a table's bootstrap takes: ours, and a loop over scikit-learn on a few resamples.

python -m bench.studies.bootstrap_speed

The job: 10 methods x 3 seeds, AUPRC and AUROC of mortality and kappa, accuracy, macro F1 and AUPRC
of length of stay, on 546 test stays (as many as in the paper), 10 000 resamples of their subjects.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from sklearn import metrics as sk

from bench.arguments import positive
from bench.data.vocabulary import N_LENGTH_OF_STAY_CLASSES, Task
from bench.errors import Parser, run_command
from bench.metrics import Scorer, probabilities
from bench.significance import Statistic, bootstrap, draw_counts

N_STAYS, N_SUBJECTS = 546, 500
N_RUNS = 10 * 3
MORTALITY_RATE = 0.17
METRICS = {
    Task.MORTALITY: ("auprc", "auroc"),
    Task.LENGTH_OF_STAY: ("kappa", "accuracy", "macro_f1", "auprc"),
}


def random_predictions(task: Task, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of one run."""
    if task is Task.MORTALITY:
        labels = (generator.random(N_STAYS) < MORTALITY_RATE).astype(np.int64)
        return generator.normal(size=(N_STAYS, 1)) + labels[:, None], labels
    labels = generator.integers(0, N_LENGTH_OF_STAY_CLASSES, N_STAYS)
    one_hot = labels[:, None] == np.arange(N_LENGTH_OF_STAY_CLASSES)
    return generator.normal(size=one_hot.shape) + one_hot, labels


def subjects() -> np.ndarray:
    """Subject of each stay."""
    return np.arange(N_STAYS) % N_SUBJECTS


def seconds_of_ours(n_resamples: int, n_runs: int = N_RUNS) -> float:
    """Seconds of the whole job."""
    generator = np.random.default_rng(0)
    started = time.perf_counter()
    for task, names in METRICS.items():
        runs = [random_predictions(task, generator) for _ in range(n_runs)]
        labels = runs[0][1]
        scorers = [Scorer.of(task, logits, labels, subjects()) for logits, _ in runs]
        bootstrap(_statistic(scorers, names), N_SUBJECTS, n_resamples, generator)
    return time.perf_counter() - started


def _statistic(scorers: Sequence[Scorer], names: Sequence[str]) -> Statistic:
    return lambda counts: np.stack([scorer.values(names, counts) for scorer in scorers], axis=1)


def seconds_of_a_loop(n_resamples: int) -> float:
    """Seconds of a loop over scikit-learn for one run."""
    generator = np.random.default_rng(0)
    runs = {task: random_predictions(task, generator) for task in METRICS}
    counts = draw_counts(generator, N_SUBJECTS, n_resamples)[subjects()].astype(np.int64)
    started = time.perf_counter()
    for of_resample in counts.T:
        chosen = np.repeat(np.arange(N_STAYS), of_resample)
        for task, (logits, labels) in runs.items():
            _by_scikit_learn(task, probabilities(task, logits[chosen]), labels[chosen])
    return time.perf_counter() - started


def _by_scikit_learn(task: Task, p: np.ndarray, labels: np.ndarray) -> list[float]:
    if task is Task.MORTALITY:
        return [sk.average_precision_score(labels, p), sk.roc_auc_score(labels, p)]
    predicted, one_hot = p.argmax(-1), labels[:, None] == np.arange(p.shape[1])
    return [
        sk.cohen_kappa_score(labels, predicted),
        sk.accuracy_score(labels, predicted),
        sk.f1_score(labels, predicted, average="macro", labels=range(4), zero_division=0),
        sk.average_precision_score(one_hot, p, average="macro"),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and print both durations."""
    p = Parser(prog="python -m bench.studies.bootstrap_speed", description=__doc__)
    p.add_argument("--resamples", type=positive, default=10_000, metavar="B", help="of the job")
    p.add_argument("--loop", type=positive, default=100, metavar="B", help="of the timed loop")
    arg = p.parse_args(argv)
    ours = seconds_of_ours(arg.resamples)
    loop = seconds_of_a_loop(arg.loop) * N_RUNS * arg.resamples / arg.loop
    print(f"{N_RUNS} runs, {sum(map(len, METRICS.values()))} metrics, B = {arg.resamples}")
    print(f"ours                  {ours:8.1f} s")
    print(f"loop over scikit-learn {loop:7.0f} s (extrapolated from {arg.loop} resamples, one run)")
    print(f"ratio                 {loop / ours:8.0f}")
    return 0


if __name__ == "__main__":
    run_command(main)
