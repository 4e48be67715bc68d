"""The split by subject."""

from __future__ import annotations

import numpy as np
import pytest

from bench.data.vocabulary import Split
from bench.preparing.splits import split_subjects


def split(n: int, gold: tuple[int, ...] = (), seed: int = 0) -> np.ndarray:
    return split_subjects(np.arange(100, 100 + n), gold, np.random.default_rng(seed))


def counts(splits: np.ndarray) -> tuple[int, ...]:
    return tuple(int((splits == name).sum()) for name in Split)


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (100, (70, 10, 20)),
        (3450, (2415, 345, 690)),
        (10, (7, 1, 2)),
        (3, (1, 1, 1)),
        (1, (1, 0, 0)),
    ],
)
def test_shares(n: int, expected: tuple[int, ...]):
    assert counts(split(n)) == expected


def test_gold_subjects_are_in_test_and_count_towards_it():
    gold = tuple(range(100, 115))
    splits = split(100, (*gold, 999_999))
    assert (splits[:15] == Split.TEST).all()
    assert counts(splits) == (70, 10, 20)
    assert counts(split(100, tuple(range(100, 130)))) == (60, 10, 30)


def test_the_seed_decides():
    assert (split(50, seed=1) == split(50, seed=1)).all()
    assert (split(50, seed=1) != split(50, seed=2)).any()
