"""One split by subject, 70 / 10 / 20, with all human-annotated subjects in test."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from bench.data.vocabulary import Split

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1
VALIDATION_SHARE_OF_REST = 1 / 8


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


def draw_as_published(subjects: np.ndarray, gold: Collection[int], seed: int) -> np.ndarray:
    """Return the split of every subject as the official code draws it, str [subjects].

    What the gold subjects leave of the test's share of *all* subjects is drawn from the others, as
    that share of their own number, so that test has a little under 20 %; then an eighth of the rest
    is validation. Both draws are those of scikit-learn's `train_test_split`.

    Args:
        subjects: subject ids, sorted, as the official code has them
        gold: subjects fixed in test
        seed: of both draws; the official code's is 0
    """
    fixed = np.isin(subjects, list(gold))
    n, n_fixed = len(subjects), int(fixed.sum())
    split = np.full(n, Split.TRAIN.value, dtype=object)
    split[fixed] = Split.TEST.value
    rest, test = _drawn(np.flatnonzero(~fixed), max((n * TEST_SHARE - n_fixed) / n, 0), seed)
    split[test] = Split.TEST.value
    split[_drawn(rest, VALIDATION_SHARE_OF_REST, seed)[1]] = Split.VALIDATION.value
    return split


def _drawn(members: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What is left of the members, in the order of the draw, and a share of them, rounded up."""
    n_drawn = math.ceil(share * len(members))
    order = np.random.RandomState(seed).permutation(len(members))
    return members[order[n_drawn:]], members[order[:n_drawn]]


def _share(n: int, share: float) -> int:
    """A share of n, at least one subject if each of the three parts can have one."""
    return max(round(n * share), int(n >= len(Split)))
