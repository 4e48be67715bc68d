"""Hourly windows from events written by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bench.data.vocabulary import EHR_VARIABLES
from bench.preparing.events import HOUR, Events, ranges
from bench.preparing.rules import STRICT, Rules
from bench.preparing.windows import (
    ended_with_charting,
    hourly,
    last_needed,
    numbered_from_film,
    pair_windows,
    stay_windows,
)

IMPUTE = ranges(STRICT).impute
HEART_RATE = EHR_VARIABLES.index("Heart Rate")
SODIUM = EHR_VARIABLES.index("Sodium")


def events_of(*rows: tuple[int, int, float, float]) -> Events:
    """Rows of stay, variable, hours, value."""
    table = np.array(rows, dtype=float).reshape(-1, 4)
    table[:, 2] = np.round(table[:, 2] * HOUR)
    stay, variable, seconds, value = table[np.lexsort(table[:, [3, 2, 0, 1]].T)].T
    return Events(stay.astype(int), variable.astype(int), seconds.astype(int), value)


def pairs_of(*rows: tuple[int, float, float]) -> pd.DataFrame:
    """Rows of stay, hours of the first and of the second film."""
    stays, first, second = zip(*rows, strict=True)
    seconds = [(np.array(hours) * HOUR).round().astype(int) for hours in (first, second)]
    return pd.DataFrame({"stay": stays, "seconds_1": seconds[0], "seconds_2": seconds[1]})


def test_values_are_carried_forward_from_the_baseline():
    events = events_of(
        (0, HEART_RATE, -3, 70), (0, HEART_RATE, 2.5, 80), (0, HEART_RATE, 2.9, 81),
        (0, HEART_RATE, 47.99, 99), (0, SODIUM, 10, 140), (1, HEART_RATE, 5, 60),
    )  # fmt: skip
    values, observed = hourly(events, stay_windows(2, STRICT), IMPUTE)
    assert values.shape == observed.shape == (96, len(EHR_VARIABLES))
    heart_rate = values[:48, HEART_RATE]
    assert heart_rate.tolist() == [70] * 2 + [81] * 45 + [99]
    assert np.flatnonzero(observed[:48, HEART_RATE]).tolist() == [2, 47]
    assert values[:48, SODIUM].tolist() == [IMPUTE[SODIUM]] * 10 + [140] * 38
    # The other stay does not see the first one's values.
    assert values[48:, HEART_RATE].tolist() == [IMPUTE[HEART_RATE]] * 5 + [60] * 43
    assert np.flatnonzero(observed[48:].any(axis=1)).tolist() == [5]


def test_an_event_on_the_hour_belongs_to_the_hour_that_begins():
    values, observed = hourly(events_of((0, HEART_RATE, 3, 80)), stay_windows(1, STRICT), IMPUTE)
    assert np.flatnonzero(observed[:, HEART_RATE]).tolist() == [3]
    assert values[2, HEART_RATE] == IMPUTE[HEART_RATE]


def test_an_event_at_48_hours_is_not_known():
    values, _ = hourly(events_of((0, HEART_RATE, 48, 80)), stay_windows(1, STRICT), IMPUTE)
    assert (values[:, HEART_RATE] == IMPUTE[HEART_RATE]).all()


def test_the_last_hour_of_a_pair_ends_with_its_second_film():
    windows = pair_windows(pairs_of((0, 5.5, 20.25)), STRICT)
    assert (windows.first_hour.tolist(), windows.n_hours.tolist()) == ([5], [16])
    events = events_of(
        (0, HEART_RATE, 5.2, 70), (0, HEART_RATE, 20.25, 80), (0, HEART_RATE, 20.26, 90)
    )
    values, observed = hourly(events, windows, IMPUTE)
    assert values[:, HEART_RATE].tolist() == [70] * 15 + [80]
    assert observed[:, HEART_RATE].tolist() == [True] + [False] * 14 + [True]


def test_a_second_film_on_the_hour_opens_a_last_row_of_one_moment():
    windows = pair_windows(pairs_of((0, 5, 9)), STRICT)
    assert windows.n_hours.tolist() == [5]
    values, _ = hourly(
        events_of((0, HEART_RATE, 9, 80), (0, HEART_RATE, 9.01, 90)), windows, IMPUTE
    )
    assert values[-1, HEART_RATE] == 80


def test_official_windows_show_the_hour_after():
    rules = Rules("longer", hour_after_prediction=True)
    windows = pair_windows(pairs_of((0, 5.5, 20.25)), rules)
    assert (windows.first_hour.tolist(), windows.n_hours.tolist()) == ([5], [17])
    values, _ = hourly(events_of((0, HEART_RATE, 21.9, 90)), windows, IMPUTE)
    assert values[-1, HEART_RATE] == 90
    values, _ = hourly(events_of((0, HEART_RATE, 48.9, 90)), stay_windows(1, rules), IMPUTE)
    assert values[48, HEART_RATE] == 90


def test_windows_overlap_without_touching_each_other():
    pairs = pairs_of((0, 1, 10), (0, 10, 30), (1, 2, 12))
    windows = pair_windows(pairs, STRICT)
    events = events_of((0, HEART_RATE, 9.5, 80), (0, HEART_RATE, 25, 90), (1, HEART_RATE, 3, 60))
    together, _ = hourly(events, windows, IMPUTE)
    for i, offset in enumerate(windows.offset):
        alone, _ = hourly(events, pair_windows(pairs.iloc[[i]], STRICT), IMPUTE)
        assert (together[offset : offset + windows.n_hours[i]] == alone).all()


def test_the_last_second_that_a_window_shows():
    windows = pair_windows(pairs_of((1, 50, 60), (1, 60, 70.5)), STRICT)
    until = last_needed(2, stay_windows(2, STRICT), windows)
    assert until.tolist() == [48 * HOUR - 1, int(70.5 * HOUR)]


def test_without_any_event_everything_is_the_starting_value():
    values, observed = hourly(events_of(), stay_windows(1, STRICT), IMPUTE)
    assert not observed.any()
    assert (values == IMPUTE.astype(np.float32)).all()


def test_official_windows_begin_an_hour_early_for_a_film_on_the_hour():
    rules = Rules("late", whole_hours_numbered_late=True)
    pairs = pairs_of((0, 5, 9), (0, 5.5, 9), (0, 0, 9))
    windows = pair_windows(pairs, rules)
    assert windows.first_hour.tolist() == [4, 5, 0] and windows.n_hours.tolist() == [6, 5, 10]
    numbered = numbered_from_film(windows, pairs)
    assert numbered.first_hour.tolist() == [5, 5, 0]
    assert numbered.n_hours.tolist() == [6, 5, 10]
    usual = pair_windows(pairs, STRICT)
    assert numbered_from_film(usual, pairs).first_hour.tolist() == usual.first_hour.tolist()


def test_official_windows_end_with_the_last_event_of_their_stay():
    windows = pair_windows(pairs_of((0, 5.5, 20), (0, 20, 60), (0, 31, 60), (1, 2, 12)), STRICT)
    events = events_of(
        (0, HEART_RATE, 29.99, 70), (0, SODIUM, 30, 140), (2, SODIUM, 47, 140), (3, SODIUM, -1, 140)
    )
    ended = ended_with_charting(windows, events, 4)
    assert ended.n_hours.tolist() == [16, 11, 0, 0]
    assert ended.first_hour.tolist() == windows.first_hour.tolist()
    of_stays = ended_with_charting(stay_windows(4, STRICT), events, 4)
    assert of_stays.n_hours.tolist() == [31, 0, 48, 0]
    assert hourly(events, of_stays, IMPUTE)[0].shape == (79, len(EHR_VARIABLES))
