"""How often the tests reject when two methods are equally good, and when one is better.

    python -m bench.studies.type_one_error
    python -m bench.studies.type_one_error --gain 0.3        (power instead of the error rate)

Resampling tests see three seeds a method and subjects with one to three samples that share a label
and a subject effect. DeLong and McNemar take samples as independent and one model a method: they
see one sample a subject and one seed. Given the labels, both methods' scores come from the same
distribution, `gain` aside, which lifts the first method's logits of positives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import trange

from bench.arguments import positive
from bench.data.vocabulary import Task
from bench.errors import Parser, run_command
from bench.metrics import Scorer
from bench.significance import bootstrap, delong, mcnemar, permutation_p, two_sided_p

METRICS = ("auroc", "auprc", "accuracy")
N_SEEDS = 3
PREVALENCE = 0.3


@dataclass(frozen=True)
class TestSet:
    """Predictions of two methods: labels and subject [n], logits [2 methods, seeds, n]."""

    labels: np.ndarray
    subject: np.ndarray
    logits: np.ndarray

    def scorers(self) -> list[tuple[Scorer, Scorer]]:
        """Both methods' scorers, a pair per seed."""
        return [
            (self._scorer(first), self._scorer(second))
            for first, second in zip(*self.logits, strict=True)
        ]

    def _scorer(self, logits: np.ndarray) -> Scorer:
        return Scorer.of(Task.MORTALITY, logits[:, None], self.labels, self.subject)


def simulate(
    n_subjects: int,
    generator: np.random.Generator,
    gain: float = 0.0,
    n_seeds: int = N_SEEDS,
    most_samples: int = 3,
) -> TestSet:
    """A test set of subjects with 1 to `most_samples` samples each."""
    n_samples = generator.integers(1, most_samples + 1, n_subjects)
    subject = np.repeat(np.arange(n_subjects), n_samples)
    labels = (generator.random(n_subjects) < PREVALENCE).astype(np.int64)[subject]
    # What both methods see of a subject, whatever their seed: makes their errors alike.
    shared = generator.normal(size=n_subjects)[subject]
    effects = generator.normal(scale=0.7, size=(2, n_subjects))[:, None, subject]
    noise = generator.normal(scale=0.5, size=(2, n_seeds, len(labels)))
    logits = 1.5 * labels - 1 + shared + effects + noise
    logits[0] += gain * labels
    return TestSet(labels, subject, logits)


def p_by_bootstrap(
    pairs: Sequence[tuple[Scorer, Scorer]],
    names: Sequence[str],
    n_resamples: int,
    generator: np.random.Generator,
) -> list[float]:
    """Paired cluster bootstrap, one p per metric."""

    def difference(counts: np.ndarray) -> np.ndarray:
        values = [a.values(names, counts) - b.values(names, counts) for a, b in pairs]
        return np.mean(values, axis=0)[:, None]

    resamples = bootstrap(difference, pairs[0][0].n_subjects, n_resamples, generator)
    return [two_sided_p(values) for values in resamples.values[:, 0]]


def p_by_permutation(
    pairs: Sequence[tuple[Scorer, Scorer]],
    names: Sequence[str],
    n_resamples: int,
    generator: np.random.Generator,
) -> list[float]:
    """Cluster permutation test, one p per metric."""
    return [permutation_p(pairs, name, n_resamples, generator) for name in names]


def p_by_delong(test_set: TestSet) -> float:
    """DeLong's test of the first seeds' AUROCs."""
    return delong(test_set.labels, *test_set.logits[:, 0]).p


def p_by_mcnemar(test_set: TestSet) -> float:
    """Exact McNemar test of the first seeds' correct answers."""
    first, second = (test_set.logits[:, 0] > 0) == test_set.labels
    return mcnemar(first, second)


RESAMPLING = {"bootstrap": p_by_bootstrap, "permutation": p_by_permutation}
INDEPENDENT: dict[str, tuple[str, Callable[[TestSet], float]]] = {
    "delong": ("auroc", p_by_delong),
    "mcnemar": ("accuracy", p_by_mcnemar),
}
"""Tests of one sample a subject and one seed, each with the metric it is about."""


def rejection_rates(
    n_sets: int,
    n_subjects: int,
    n_resamples: int,
    seed: int,
    names: Sequence[str] = METRICS,
    gain: float = 0.0,
    level: float = 0.05,
) -> dict[tuple[str, str], float]:
    """Share of simulated test sets in which a test rejects at `level`, by test and metric."""
    rejected: dict[tuple[str, str], int] = {}
    for k in trange(n_sets, unit="set", disable=None):
        generator = np.random.default_rng([seed, k])
        pairs = simulate(n_subjects, generator, gain).scorers()
        p_values = {
            (test, name): p
            for test, p_of in RESAMPLING.items()
            for name, p in zip(names, p_of(pairs, names, n_resamples, generator), strict=True)
        }
        independent = simulate(n_subjects, generator, gain, n_seeds=1, most_samples=1)
        p_values |= {(test, name): p(independent) for test, (name, p) in INDEPENDENT.items()}
        for key, p in p_values.items():
            rejected[key] = rejected.get(key, 0) + (p < level)
    return {key: n / n_sets for key, n in rejected.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and print a line per test and metric."""
    p = Parser(prog="python -m bench.studies.type_one_error", description=__doc__)
    p.add_argument("--sets", type=positive, default=1000, metavar="N", help="simulated test sets")
    p.add_argument("--resamples", type=positive, default=999, metavar="N", help="B of each test")
    p.add_argument("--seed", type=int, default=7, metavar="N", help="random seed")
    p.add_argument("--subjects", type=positive, default=120, metavar="N", help="in a test set")
    p.add_argument("--gain", type=float, default=0.0, metavar="X", help="of the first method")
    arg = p.parse_args(argv)
    rates = rejection_rates(arg.sets, arg.subjects, arg.resamples, arg.seed, gain=arg.gain)
    wanted = "power" if arg.gain else "wanted 0.035 to 0.065, mcnemar at most 0.065"
    print(
        f"{arg.sets} test sets of {arg.subjects} subjects, B = {arg.resamples}, gain {arg.gain:g}"
    )
    print(f"share rejected at 0.05; {wanted}")
    for (test, metric), rate in rates.items():
        print(f"{test:<12} {metric:<9} {rate:.3f}")
    return 0


if __name__ == "__main__":
    run_command(main)
