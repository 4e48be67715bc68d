"""Location and scale of every input over all adult stays, as the official code fits them (D5)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from bench.data.cohort import Normalisation
from bench.preparing.attrition import Attrition
from bench.preparing.demographics import MEASURE_ITEMS, demographics
from bench.preparing.events import count_raw_events, events_of, physical_values, ranges
from bench.preparing.items import ITEMS, ItemMap
from bench.preparing.normalising import normalisation_of
from bench.preparing.rules import Rules
from bench.preparing.stays import adult_stays, read_stays
from bench.preparing.windows import HORIZON_SECONDS
from bench.preparing.workplace import Workplace


def fit_on_adults(
    mimic_iv: Path, rules: Rules, item_map: ItemMap, work: Workplace
) -> Normalisation:
    """Fit on whole stays of any length, with films or without.

    There are many times as many of them as in a cohort, so that events are counted while they are
    read, and only heights and weights are kept one by one.
    """
    stays = adult_stays(read_stays(mimic_iv), rules, Attrition()).reset_index(drop=True)
    items = sorted({*ITEMS[item_map](), *MEASURE_ITEMS})
    # Of several items of a variable, which one is kept is told by their times alone.
    several = rules.normalise_on_kept and item_map is ItemMap.EXTENDED
    single = items if several else MEASURE_ITEMS
    counts = count_raw_events(mimic_iv, stays, items, single, rules, work)
    values = physical_values(counts, rules, Counter(), item_map)
    measures = _with_time(counts)
    variable, value, times = (values[name].to_numpy() for name in ("variable", "physical", "times"))
    if rules.normalise_on_kept:
        alone, kept = values["stay"].isna(), events_of(_with_time(values), rules).kept()
        variable = np.concatenate([variable[alone], kept.variable])
        value = np.concatenate([value[alone], kept.value])
        times = np.concatenate([times[alone], np.ones(len(kept.value))])
    known_until = np.full(len(stays), HORIZON_SECONDS)
    return normalisation_of(
        variable,
        value,
        times.astype(float),
        ranges(rules, item_map).impute,
        demographics(stays, measures, known_until, rules),
    )


def _with_time(counts: pd.DataFrame) -> pd.DataFrame:
    """The events that were not thrown together."""
    return counts[counts["stay"].notna()].astype({"stay": np.int64, "seconds": np.int64})
