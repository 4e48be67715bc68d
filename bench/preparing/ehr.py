"""The EHR part of a cohort: hourly arrays, demographics and normalisation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bench.data.cohort import Normalisation
from bench.data.vocabulary import DEMOGRAPHICS
from bench.preparing.demographics import MEASURE_ITEMS, demographics
from bench.preparing.events import (
    WHOLE_STAY_SECONDS,
    clean_events,
    no_events,
    ranges,
    read_raw_events,
)
from bench.preparing.items import ITEMS, ItemMap
from bench.preparing.normalising import fit_normalisation
from bench.preparing.normalising_on_adults import fit_on_adults
from bench.preparing.rules import STRICT, Rules
from bench.preparing.selection import Selection
from bench.preparing.windows import (
    HORIZON_SECONDS,
    Windows,
    ended_with_charting,
    hourly,
    last_needed,
    numbered_from_film,
    pair_windows,
    stay_windows,
)
from bench.preparing.workplace import Workplace


@dataclass(frozen=True)
class Ehr:
    """ehr_values, ehr_observed and demographics of a cohort, and what belongs to them."""

    values: np.ndarray
    observed: np.ndarray
    demographics: np.ndarray
    of_stays: Windows
    of_pairs: Windows
    normalisation: Normalisation


def prepare_ehr(
    mimic_iv: Path,
    selection: Selection,
    training: np.ndarray,
    rules: Rules,
    oddities: Counter[str],
    work: Workplace,
    item_map: ItemMap = ItemMap.OFFICIAL,
) -> Ehr:
    """Read the events of the kept stays and turn them into windows.

    Args:
        mimic_iv: root of MIMIC-IV
        selection: the kept stays and pairs
        training: bool [stays]; stays of training subjects, on which normalisation is fitted
        rules: the rules
        oddities: counts what had to be mended
        work: where stages are kept, and how much of the machine may be used
        item_map: which items feed the variables
    """
    stays, pairs = selection.stays, selection.pairs
    of_stays, of_pairs = stay_windows(len(stays), rules), pair_windows(pairs, rules)
    needed = until = last_needed(len(stays), of_stays, of_pairs)
    if rules.measures_look_ahead or rules.series_end_with_charting:
        until = np.full(len(stays), WHOLE_STAY_SECONDS)
    items = sorted({*ITEMS[item_map](), *MEASURE_ITEMS})
    raw = read_raw_events(mimic_iv, stays, until, items, rules, oddities, work)
    inputs = demographics(stays, raw, _first_prediction(pairs, len(stays)), rules)
    events = clean_events(raw, rules, oddities, item_map)
    if rules.series_end_with_charting:
        of_stays, of_pairs = (
            ended_with_charting(windows, events, len(stays)) for windows in (of_stays, of_pairs)
        )
    impute = ranges(rules, item_map).impute
    values, observed = hourly(events, of_stays.followed_by(of_pairs), impute)

    if rules.normalise_beyond_cohort:
        normalisation = fit_on_adults(mimic_iv, rules, item_map, work)
    else:
        shown = events if rules.normalise_on_all else events.until(needed)
        shown = shown.kept() if rules.normalise_on_kept else shown
        fitted = training | rules.normalise_on_all
        normalisation = fit_normalisation(shown, fitted, impute, inputs)
    of_pairs = numbered_from_film(of_pairs, pairs)
    return Ehr(values, observed, inputs, of_stays, of_pairs, normalisation)


def unknown_ehr(selection: Selection) -> Ehr:
    """The EHR of stays of which nothing is known: starting values, nothing observed."""
    stays, pairs = selection.stays, selection.pairs
    of_stays, of_pairs = stay_windows(len(stays), STRICT), pair_windows(pairs, STRICT)
    impute = ranges(STRICT).impute
    events = no_events()
    values, observed = hourly(events, of_stays.followed_by(of_pairs), impute)
    inputs = np.full((len(stays), len(DEMOGRAPHICS)), np.nan, np.float32)
    normalisation = fit_normalisation(events, np.ones(len(stays), bool), impute, inputs)
    return Ehr(values, observed, inputs, of_stays, of_pairs, normalisation)


def _first_prediction(pairs: pd.DataFrame, n_stays: int) -> np.ndarray:
    """Second from which on nothing is known at a stay's first prediction time, int64 [stays].

    The earlier of 48 h and its first pair's second film (what is charted with it is known).
    """
    until = np.full(n_stays, HORIZON_SECONDS)
    np.minimum.at(until, pairs["stay"].to_numpy(), pairs["seconds_2"].to_numpy() + 1)
    return until
