"""EHR events: which rows belong to a stay, and how raw values become physical units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from bench.data.vocabulary import EHR_VARIABLES
from bench.preparing.items import ITEMS, ItemMap, official_items, table_of_item
from bench.preparing.rules import Rules
from bench.preparing.tables import (
    CHART_EVENTS,
    LAB_EVENTS,
    OUTPUT_EVENTS,
    TIME,
    Table,
    find_table,
    number_list,
    source,
    stream,
    time_sql,
)
from bench.preparing.workplace import Workplace, key_of_inputs, mark_of, throwaway_workplace

HOUR: Final = 3600
"""Seconds in an hour; event and film times are whole seconds since ICU admission."""

BASELINE_HOURS: Final = 24
"""How long before ICU admission an event may be and still stand at its start."""
BASELINE_HOURS_OFFICIAL: Final = 1

WHOLE_STAY_SECONDS: Final = 365 * 24 * HOUR
"""Longer than any; what is charted later belongs to no stay."""

FAHRENHEIT_FROM: Final = 79.0
INR_TYPICAL: Final = 1.2
"""The published range table gives 14.5, which is prothrombin time in seconds; the item is INR."""

FIO2: Final = EHR_VARIABLES.index("Fraction inspired oxygen")
SPO2: Final = EHR_VARIABLES.index("Oxygen saturation")
TEMPERATURE: Final = EHR_VARIABLES.index("Temperature")
INR: Final = EHR_VARIABLES.index("Prothrombin time")

CLEANED: Final = [
    FIO2,
    SPO2,
    TEMPERATURE,
    *(EHR_VARIABLES.index(name) for name in ("Glucose", "pH", "Weight", "Height")),
    *(EHR_VARIABLES.index(f"{side} blood pressure") for side in ("Systolic", "Diastolic")),
]
"""Variables whose texts the official code turns into numbers before it sorts them."""

SYSTOLIC: Final = EHR_VARIABLES.index("Systolic blood pressure")
DIASTOLIC: Final = EHR_VARIABLES.index("Diastolic blood pressure")

TABLES: Final = {
    "chartevents": CHART_EVENTS,
    "outputevents": OUTPUT_EVENTS,
    "labevents": LAB_EVENTS,
}
"""Those of which an item is asked for are read."""

STORE_TIME: Final = {"storetime": TIME}
"""Column that is read only where it decides when an event counts."""


@dataclass(frozen=True)
class Ranges:
    """Clipping range and starting value of every variable, each float64 [38]."""

    low: np.ndarray
    high: np.ndarray
    impute: np.ndarray


@dataclass(frozen=True)
class Events:
    """E cleaned events of the kept stays, sorted by variable, stay, time and value.

    stay: int64 [E]; row of the stay
    variable: int64 [E]; index in `EHR_VARIABLES`
    seconds: int64 [E]; since ICU admission, negative before it
    value: float64 [E]; physical unit, clipped
    """

    stay: np.ndarray
    variable: np.ndarray
    seconds: np.ndarray
    value: np.ndarray

    def until(self, seconds: np.ndarray) -> Events:
        """Those up to a time of each stay, int64 [stays]."""
        return self._some(self.seconds <= seconds[self.stay])

    def kept(self) -> Events:
        """The last of those of a variable, stay and second: the one that a series shows."""
        times = np.stack([self.variable, self.stay, self.seconds])
        is_last = np.ones(len(self.value), dtype=bool)
        is_last[:-1] = (times[:, 1:] != times[:, :-1]).any(axis=0)
        return self._some(is_last)

    def _some(self, chosen: np.ndarray) -> Events:
        return Events(*(values[chosen] for values in vars(self).values()))


@cache
def _range_table() -> pd.DataFrame:
    table = pd.read_csv(str(files("bench.data") / "ehr_ranges.csv"))
    return table.set_index("variable").loc[list(EHR_VARIABLES)]


def no_events() -> Events:
    """Nothing charted."""
    none = np.zeros(0, np.int64)
    return Events(none, none, none, np.zeros(0))


def ranges(rules: Rules, item_map: ItemMap = ItemMap.OFFICIAL) -> Ranges:
    """Clipping ranges and starting values."""
    table = _range_table()
    impute = table["impute"].to_numpy(dtype=float, copy=True)
    if item_map is ItemMap.OFFICIAL and not rules.inr_filled_as_seconds:
        impute[INR] = INR_TYPICAL
    return Ranges(table["outlier_low"].to_numpy(), table["outlier_high"].to_numpy(), impute)


@cache
def score_of_text() -> dict[tuple[int, str], float]:
    """(variable index, charted text in lower case) -> score, for the coma scale.

    The published scores begin at 0 for 'None', which clipping makes 1.
    """
    scores = {}
    table = _range_table()
    for variable, (lowest, categories) in enumerate(
        zip(table["outlier_low"], table["categories"], strict=True)
    ):
        if isinstance(categories, str):
            for category in categories.split("; "):
                score, texts = category.split(": ", 1)
                for text in texts.split(" | "):
                    scores[variable, text.lower()] = max(float(score), lowest)
    return scores


def _scored_variables() -> list[int]:
    """Variables that are charted as text."""
    return sorted({variable for variable, _ in score_of_text()})


def _text_items() -> list[int]:
    """Their items; the same in both maps."""
    return [item for item, fed in official_items().items() if fed in _scored_variables()]


def _items_of(variable: int) -> list[int]:
    """All items that can feed a variable."""
    return [item for item, fed in ITEMS[ItemMap.EXTENDED]().items() if fed == variable]


def read_raw_events(
    mimic_iv: Path,
    stays: pd.DataFrame,
    until_seconds: np.ndarray,
    items: list[int],
    rules: Rules,
    oddities: Counter[str] | None = None,
    work: Workplace | None = None,
) -> pd.DataFrame:
    """Stream the event tables and keep the given items of the given stays.

    An event without item, subject or time, or with a fraction for an id, belongs to no stay; it is
    counted in `oddities`. Each table is a stage of the workplace.

    Args:
        mimic_iv: root of MIMIC-IV
        stays: columns subject_id, stay_id, intime, outtime; one row a stay
        until_seconds: int64 [stays]; last time that is of interest, since ICU admission
        items: item ids of the shipped table
        rules: the rules
        oddities: counts what had to be left out
        work: where stages are kept, and how much of the machine may be used

    Returns:
        Columns stay (row in `stays`), itemid, seconds, value (text, of the coma scale only unless
        values are sorted as text) and number (NaN if none); rows in no order.
    """
    start = BASELINE_HOURS_OFFICIAL if rules.events_by_stay_id else BASELINE_HOURS
    spans = _spans(stays, start * HOUR, until_seconds)
    with nullcontext(work) if work else throwaway_workplace() as place:
        raw = _read_tables(
            mimic_iv,
            spans,
            items,
            rules,
            place,
            lambda path, table, own_items: _events_sql(path, table, own_items, rules),
        )
    wrong, lost = raw["itemid"].isna(), raw["stay"].isna()
    if oddities is not None:
        oddities["charted values left out: no subject or no time"] += int((lost & ~wrong).sum())
        oddities["charted values left out: no item, or a fraction for an id"] += int(wrong.sum())
    return raw[~lost].astype({"stay": np.int64, "itemid": np.int64, "seconds": np.int64})


def count_raw_events(
    mimic_iv: Path,
    stays: pd.DataFrame,
    items: list[int],
    single: list[int],
    rules: Rules,
    work: Workplace,
) -> pd.DataFrame:
    """How often the items of the whole stays have each value, for statistics over many stays.

    Args:
        single: items whose events are not thrown together; the others have no stay and no seconds,
            but for those of which `rules` keep one of several at a time
        mimic_iv, stays, items, rules, work: see `read_raw_events`

    Returns:
        Its columns, and times; rows in no order.
    """
    whole = np.full(len(stays), WHOLE_STAY_SECONDS)
    start = WHOLE_STAY_SECONDS if rules.events_by_stay_id else 0
    several, at_a_time = "", ""
    if rules.normalise_on_kept:
        several = " OR e.n_at_a_time > 1"
        at_a_time = ", count(*) OVER (PARTITION BY stay, itemid, seconds) AS n_at_a_time"
    if_single = f"CASE WHEN e.itemid IN ({number_list(single)}){several} THEN"

    def counted_sql(path: Path, table: Table, own_items: list[int]) -> str:
        return f"""
            SELECT {if_single} e.stay END AS stay, e.itemid, e.value, e.number,
                   {if_single} e.seconds END AS seconds, count(*) AS times
            FROM (SELECT *{at_a_time} FROM ({_events_sql(path, table, own_items, rules)})) e
            WHERE e.stay IS NOT NULL
            GROUP BY ALL
        """

    return _read_tables(mimic_iv, _spans(stays, start, whole), items, rules, work, counted_sql)


def _spans(stays: pd.DataFrame, seconds_before: int, until_seconds: np.ndarray) -> pd.DataFrame:
    """The stays as the queries join them."""
    return pd.DataFrame(
        {
            "stay": np.arange(len(stays)),
            "subject_id": stays["subject_id"],
            "stay_id": stays["stay_id"],
            "intime": stays["intime"],
            "outtime": stays["outtime"],
            "first": stays["intime"] - pd.Timedelta(seconds=seconds_before),
            "last": stays["intime"] + pd.to_timedelta(until_seconds, unit="s"),
        }
    )


def _read_tables(
    mimic_iv: Path,
    spans: pd.DataFrame,
    items: list[int],
    rules: Rules,
    work: Workplace,
    sql_of: Callable[[Path, Table, list[int]], str],
) -> pd.DataFrame:
    """What a query gives of each table that has one of the items."""
    parts = []
    for name, table in TABLES.items():
        own_items = [item for item in items if table_of_item()[item] == name]
        if own_items:
            if rules.as_known:
                table = replace(table, optional={**table.optional, **STORE_TIME})
            path = find_table(mimic_iv, table)
            parts.append(
                _kept_events(name, path, table, sql_of(path, table, own_items), spans, work)
            )
    return pd.concat(parts, ignore_index=True)


def _kept_events(
    name: str, path: Path, table: Table, sql: str, spans: pd.DataFrame, work: Workplace
) -> pd.DataFrame:
    def make(kept: Path) -> None:
        stream(path, table, sql, {"spans": spans}, kept, work)

    key = key_of_inputs(mark_of(path), sql, spans.to_csv(index=False))
    return pd.read_parquet(work.stage(name, key, make))


def _events_sql(path: Path, table: Table, items: list[int], rules: Rules) -> str:
    belongs = "e.charttime <= s.outtime"
    if rules.events_by_stay_id:
        belongs = "e.charttime BETWEEN s.intime AND s.outtime"
        if "stay_id" in table.types:
            belongs = f"({belongs} OR e.stay_id = s.stay_id)"
    text = "NULL::VARCHAR"
    if rules.sorted_as_text:
        text = "e.value::VARCHAR"
    elif table.name == CHART_EVENTS.name:
        text = f"CASE WHEN e.itemid IN ({number_list(_text_items())}) THEN e.value END"
    times, known = ["charttime"], "e.charttime"
    if rules.as_known:
        # Some are stored before the time that they are charted for.
        times, known = ["charttime", "storetime"], "greatest(e.charttime, e.storetime)"
        belongs = f"{belongs} AND {known} <= s.last"
    ids = ["subject_id", *(["stay_id"] if "e.stay_id" in belongs else [])]
    whole = " AND ".join(["itemid % 1 = 0", *(f"coalesce({name} % 1 = 0, true)" for name in ids)])
    replaced = ", ".join(
        [
            *(f"{time_sql(column)} AS {column}" for column in times),
            *(f"CASE WHEN {whole} THEN {name}::BIGINT END AS {name}" for name in ("itemid", *ids)),
        ]
    )
    # Times are the dearest to read: they are made of text for rows of the stays' subjects only.
    # A left join shows rows without item, subject or time, too; all other strangers are dropped.
    return f"""
        SELECT s.stay, e.itemid, {text} AS value, {_number_sql(table)} AS number,
               CAST(epoch({known}) - epoch(s.intime) AS BIGINT) AS seconds
        FROM (SELECT * REPLACE ({replaced})
              FROM {source(path, table, exact=True, as_text=times)}
              WHERE (itemid IN ({number_list(items)}) OR itemid IS NULL OR itemid <> itemid::BIGINT)
                AND (subject_id IN (SELECT subject_id FROM spans)
                     OR subject_id IS NULL OR subject_id <> subject_id::BIGINT)) e
             LEFT JOIN spans s
             ON e.subject_id = s.subject_id AND e.charttime BETWEEN s.first AND s.last
        WHERE e.subject_id IS NULL OR e.charttime IS NULL OR {belongs}
    """


def _number_sql(table: Table) -> str:
    """A row's number: `valuenum`, else its text; of '120/80' left is systolic, right diastolic."""
    if "valuenum" not in table.types:
        return "e.value"
    sides = " ".join(
        f"WHEN e.itemid IN ({number_list(_items_of(variable))}) "
        f"THEN TRY_CAST(split_part(e.value, '/', {side}) AS DOUBLE)"
        for variable, side in ((SYSTOLIC, 1), (DIASTOLIC, 2))
    )
    return f"coalesce(e.valuenum, TRY_CAST(e.value AS DOUBLE), CASE {sides} END)"


def clean_events(
    raw: pd.DataFrame,
    rules: Rules,
    oddities: Counter[str],
    item_map: ItemMap = ItemMap.OFFICIAL,
) -> Events:
    """Turn raw events of a map's items into sorted physical values; others are left out."""
    return events_of(physical_values(raw, rules, oddities, item_map), rules)


def events_of(raw: pd.DataFrame, rules: Rules) -> Events:
    """Sort `physical_values`; of several at a time the one that is kept comes last."""
    value = raw["physical"].to_numpy()
    stay, seconds, variable = (
        raw[name].to_numpy(np.int64) for name in ("stay", "seconds", "variable")
    )
    at_one_time = _text_order(variable, value, raw["value"]) if rules.sorted_as_text else value
    order = np.lexsort((at_one_time, seconds, stay, variable))
    return Events(stay[order], variable[order], seconds[order], value[order])


def physical_values(
    raw: pd.DataFrame, rules: Rules, oddities: Counter[str], item_map: ItemMap
) -> pd.DataFrame:
    """Rows of a map's items with their variable (its index) and clipped physical value."""
    variable = raw["itemid"].map(ITEMS[item_map]())
    raw = raw[variable.notna()]
    index = variable[variable.notna()].to_numpy(np.int64)
    value = _in_units(index, _scores(index, raw, rules), rules)
    readable = np.isfinite(value)
    oddities["charted values left out: no number"] += int((~readable).sum())
    index, value = index[readable], value[readable]
    limits = ranges(rules, item_map)
    clipped = np.clip(value, limits.low[index], limits.high[index])
    oddities["charted values clipped to their range"] += int((clipped != value).sum())
    return raw[readable].assign(variable=index, physical=clipped)


def _text_order(variable: np.ndarray, value: np.ndarray, text: pd.Series) -> np.ndarray:
    """What the official code sorts by: numbers of the variables it cleans, texts of the others.

    It reads a subject's values as text because some are (the coma scale), all of them here; a long
    file's parts without any such text are numbers there.
    """
    return np.where(np.isin(variable, CLEANED), value, pd.factorize(text, sort=True)[0])


def _scores(variable: np.ndarray, raw: pd.DataFrame, rules: Rules) -> np.ndarray:
    """Numbers as charted; the texts of the coma scale as scores."""
    number = raw["number"].to_numpy(float, copy=True)
    rows = np.flatnonzero(raw["value"].notna() & np.isin(variable, _scored_variables()))
    texts = raw["value"].to_numpy()[rows]
    number[rows] = [
        score_of_text().get((of, text.lower()), charted)
        for of, text, charted in zip(variable[rows], texts, number[rows], strict=True)
    ]
    if rules.gcs_none_missing:
        number[rows[texts == "None"]] = np.nan
    return number


def _in_units(variable: np.ndarray, value: np.ndarray, rules: Rules) -> np.ndarray:
    """Percent to fraction (FiO2), fraction to percent (SpO2), Fahrenheit to Celsius."""
    percent = (variable == FIO2) & (rules.fio2_always_divided | (value > 1))
    fraction = (variable == SPO2) & (value <= 1)
    fahrenheit = (variable == TEMPERATURE) & (value >= FAHRENHEIT_FROM)
    # All three are computed for every value, and absurd ones may overflow where they are not used.
    with np.errstate(over="ignore"):
        converted = [value / 100, value * 100, (value - 32) * 5 / 9]
    return np.select([percent, fraction, fahrenheit], converted, value)
