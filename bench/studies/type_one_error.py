"""How often the tests reject when two methods are equally good: should be 5 % at level 0.05.

python -m bench.studies.type_one_error

In a simulated test set each subject has one to three samples that share a label and a subject
effect. Both methods' scores come from the same distribution, seed by seed, given the labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm import trange

from bench.arguments import positive
from bench.data.vocabulary import Task
from bench.errors import Parser, run_command
from bench.metrics import Scorer
from bench.significance import bootstrap, permutation_p, two_sided_p

METRICS = ("auroc", "auprc", "accuracy")
N_SEEDS = 3
PREVALENCE = 0.3


def scorers_under_null(
    n_subjects: int, generator: np.random.Generator
) -> list[tuple[Scorer, Scorer]]:
    """Predictions of two equally good methods for one clustered test set, a pair per seed."""
    subject = np.repeat(np.arange(n_subjects), generator.integers(1, 4, n_subjects))
    labels = (generator.random(n_subjects) < PREVALENCE).astype(np.int64)[subject]
    # What both methods see of a subject, whatever their seed: makes their errors alike.
    shared = generator.normal(size=n_subjects)[subject]

    def scorer(subject_effect: np.ndarray) -> Scorer:
        noise = generator.normal(size=len(labels))
        logits = 1.5 * labels - 1 + shared + subject_effect[subject] + 0.5 * noise
        return Scorer.of(Task.MORTALITY, logits[:, None], labels, subject)

    effects = generator.normal(scale=0.7, size=(2, n_subjects))
    return [(scorer(effects[0]), scorer(effects[1])) for _ in range(N_SEEDS)]


def p_by_bootstrap(
    pairs: Sequence[tuple[Scorer, Scorer]],
    names: Sequence[str],
    n_resamples: int,
    generator: np.random.Generator,
) -> list[float]:
    """Paired cluster bootstrap, one p per metric."""

    n_subjects = pairs[0][0].n_subjects

    def difference(counts: np.ndarray) -> np.ndarray:
        values = [a.values(names, counts) - b.values(names, counts) for a, b in pairs]
        return np.mean(values, axis=0)[:, None]

    resamples = bootstrap(difference, n_subjects, n_resamples, generator)
    return [two_sided_p(values) for values in resamples.values[:, 0]]


def p_by_permutation(
    pairs: Sequence[tuple[Scorer, Scorer]],
    names: Sequence[str],
    n_resamples: int,
    generator: np.random.Generator,
) -> list[float]:
    """Cluster permutation test, one p per metric."""
    return [permutation_p(pairs, name, n_resamples, generator) for name in names]


TESTS = {"bootstrap": p_by_bootstrap, "permutation": p_by_permutation}


def rejection_rates(
    n_sets: int,
    n_subjects: int,
    n_resamples: int,
    seed: int,
    names: Sequence[str] = METRICS,
    level: float = 0.05,
) -> dict[str, dict[str, float]]:
    """Share of simulated test sets in which each test rejects at `level`, per metric."""
    rejected = {test: np.zeros(len(names)) for test in TESTS}
    for k in trange(n_sets, unit="set", disable=None):
        generator = np.random.default_rng([seed, k])
        pairs = scorers_under_null(n_subjects, generator)
        for test, p_values in TESTS.items():
            p = np.array(p_values(pairs, names, n_resamples, generator))
            rejected[test] += p < level
    return {
        test: dict(zip(names, (n / n_sets).tolist(), strict=True)) for test, n in rejected.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and print a line per test and metric."""
    p = Parser(prog="python -m bench.studies.type_one_error", description=__doc__)
    p.add_argument("--sets", type=positive, default=1000, metavar="N", help="simulated test sets")
    p.add_argument("--resamples", type=positive, default=999, metavar="N", help="B of each test")
    p.add_argument("--seed", type=int, default=7, metavar="N", help="random seed")
    p.add_argument("--subjects", type=positive, default=120, metavar="N", help="in a test set")
    arg = p.parse_args(argv)
    rates = rejection_rates(arg.sets, arg.subjects, arg.resamples, arg.seed)
    print(f"{arg.sets} test sets of {arg.subjects} subjects, {N_SEEDS} seeds, B = {arg.resamples}")
    print("share rejected at 0.05; wanted 0.035 to 0.065")
    for test, by_metric in rates.items():
        for metric, rate in by_metric.items():
            print(f"{test:<12} {metric:<9} {rate:.3f}")
    return 0


if __name__ == "__main__":
    run_command(main)
