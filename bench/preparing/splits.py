"""One split by subject, 70 / 10 / 20, with all human-annotated subjects in test."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from bench.data.vocabulary import Split

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1


def split_subjects(
    subjects: np.ndarray, gold: Collection[int], rng: np.random.Generator
) -> np.ndarray:
    """Return the split name of every subject, str [subjects].

    Args:
        subjects: subject ids, sorted: the split depends on them and on `rng` only
        gold: subjects fixed in test (paper, appendix)
        rng: the draw
    """
    n = len(subjects)
    fixed = np.isin(subjects, list(gold))
    others = rng.permutation(np.flatnonzero(~fixed))
    n_test = max(_share(n, TEST_SHARE) - int(fixed.sum()), 0)
    n_validation = min(_share(n, VALIDATION_SHARE), len(others) - n_test)
    split = np.full(n, Split.TRAIN.value, dtype=object)
    split[fixed] = Split.TEST.value
    split[others[:n_test]] = Split.TEST.value
    split[others[n_test : n_test + n_validation]] = Split.VALIDATION.value
    return split


def _share(n: int, share: float) -> int:
    """A share of n, at least one subject if each of the three parts can have one."""
    return max(round(n * share), int(n >= len(Split)))
