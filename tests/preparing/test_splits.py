"""The split by subject."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from bench.data.vocabulary import Split
from bench.preparing.splits import draw_as_published, split_subjects


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


@pytest.mark.parametrize(("n", "n_gold"), [(3450, 39), (100, 0), (101, 7), (10, 1), (7, 0)])
def test_the_published_draw_is_that_of_scikit_learn(n: int, n_gold: int):
    subjects = np.arange(1000, 1000 + n)
    gold = subjects[np.linspace(0, n - 1, n_gold).astype(int)].tolist()
    others = [one for one in subjects.tolist() if one not in gold]
    share = (n * 0.2 - n_gold) / n
    rest, test = train_test_split(others, test_size=share, random_state=0)
    train, validation = train_test_split(rest, test_size=1 / 8, random_state=0)
    splits = draw_as_published(subjects, [*gold, 999_999], 0)
    assert subjects[splits == Split.TEST].tolist() == sorted([*test, *gold])
    assert subjects[splits == Split.VALIDATION].tolist() == sorted(validation)
    assert subjects[splits == Split.TRAIN].tolist() == sorted(train)


def test_the_published_draw_takes_no_more_than_the_gold_subjects_leave():
    splits = draw_as_published(np.arange(10), [0, 1, 2], 0)
    assert np.flatnonzero(splits == Split.TEST).tolist() == [0, 1, 2]
    assert draw_as_published(np.arange(1), [0], 0).tolist() == [Split.TEST]
    of_seed = [draw_as_published(np.arange(50), (), seed).tolist() for seed in (0, 0, 1)]
    assert of_seed[0] == of_seed[1] != of_seed[2]
