"""What is in a cohort, counted: labels, films, EHR sampling; small cells hidden where asked for.

A hidden count is NaN. Totals are sums of what is shown, so that none gives a hidden count away.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final

import numpy as np
import pandas as pd

from bench.data.cohort import Cohort
from bench.data.vocabulary import (
    DEMOGRAPHIC_GROUPS,
    DEMOGRAPHICS,
    DISEASES,
    EHR_VARIABLES,
    ICU_HORIZON_HOURS,
    LENGTH_OF_STAY_EDGES_DAYS,
    NOT_MENTIONED,
    Progression,
    Split,
)
from bench.preparing.items import PROTHROMBIN_TIME, ItemMap

MIN_PATIENTS: Final = 10
"""Cells of fewer patients are hidden in a report that is passed on; empty ones are not."""

ALL: Final = "all"
SPLITS: Final = [str(split) for split in Split]
CLASSES: Final = [p.name.lower().replace("_", " ") for p in Progression]
MORTALITY: Final = ["survived", "died"]
LENGTHS_OF_STAY: Final = [
    *(f"{low:g} to {high:g} d" for low, high in itertools.pairwise(LENGTH_OF_STAY_EDGES_DAYS)),
    f"{LENGTH_OF_STAY_EDGES_DAYS[-1]:g} d or more",
]
RACE_UNKNOWN: Final = "race_group_UNKNOWN/UNABLE TO OBTAIN/PATIENT DECLINED TO ANSWER"
PAPER_SPLITS: Final = {"train": Split.TRAIN, "val": Split.VALIDATION, "test": Split.TEST}


def tally(
    row: np.ndarray,
    column: Sequence[str] | np.ndarray,
    subject: np.ndarray,
    rows: list[Any],
    columns: list[Any],
    min_patients: int = 0,
) -> pd.DataFrame:
    """Count samples by row and column; NaN where 1 to `min_patients` - 1 subjects are behind it.

    Where one cell of a row is hidden the smallest other is too, for the row's sum may be known.
    """
    frame = pd.DataFrame({"row": list(row), "column": list(column), "subject": subject})
    counts, patients = (
        pd.crosstab(part["row"], part["column"])
        .reindex(index=rows, columns=columns, fill_value=0)
        .astype(float)
        for part in (frame, frame.drop_duplicates())
    )
    hidden = patients.gt(0) & patients.lt(min_patients)
    for name in counts.index[hidden.sum(axis=1) == 1]:
        others = counts.loc[name].where(~hidden.loc[name] & counts.loc[name].gt(0)).dropna()
        if len(others):
            hidden.loc[name, others.idxmin()] = True
    return counts.mask(hidden)


def with_total(table: pd.DataFrame) -> pd.DataFrame:
    """Add a row 'all', NaN where a part is hidden."""
    return pd.concat([table, table.sum(skipna=False).to_frame(ALL).T])


def sizes(cohort: Cohort, min_patients: int = 0) -> pd.DataFrame:
    """Subjects, stays, films, pairs and samples of each split; rows end with 'all'."""
    subject = cohort.stays["subject"].to_numpy()
    stay = cohort.pairs["stay"].to_numpy()
    labelled = cohort.pairs[list(DISEASES)].ne(NOT_MENTIONED).any(axis=1).to_numpy()
    owners = {
        "subjects": cohort.subjects.index.to_numpy(),
        "stays": subject,
        "films": subject[cohort.films["stay"]],
        "pairs": subject[stay],
        "labelled pairs": subject[stay[labelled]],
        "ICU samples": subject[cohort.stays["icu_sample"].to_numpy()],
    }
    split = cohort.subjects["split"].to_numpy()
    parts = [
        tally(split[subjects], [name] * len(subjects), subjects, SPLITS, [name], min_patients)
        for name, subjects in owners.items()
    ]
    return with_total(pd.concat(parts, axis=1))


def progression(cohort: Cohort, from_gold: bool, min_patients: int = 0) -> pd.DataFrame:
    """Labels of pairs by (disease, split) and class; gold (human) or silver (from reports)."""
    pairs = cohort.pairs[cohort.pairs["from_gold"] == from_gold]
    stay = pairs["stay"].to_numpy()
    split, subject = cohort.split_of_stays()[stay], cohort.stays["subject"].to_numpy()[stay]
    names = np.array([*CLASSES, "not mentioned"])
    parts = {
        disease: tally(split, names[pairs[disease]], subject, SPLITS, CLASSES, min_patients)
        for disease in DISEASES
    }
    return pd.concat(parts)


def progression_in_all(cohort: Cohort, min_patients: int = 0) -> pd.DataFrame:
    """Labels by disease and class, gold and silver and all splits together."""
    parts = [progression(cohort, from_gold, min_patients) for from_gold in (False, True)]
    by_split = parts[0] + parts[1]
    return pd.DataFrame({d: by_split.loc[d].sum(skipna=False) for d in DISEASES}).T


def outcome(cohort: Cohort, column: str, names: list[str], min_patients: int) -> pd.DataFrame:
    """ICU samples by split and class of mortality or length_of_stay; rows end with 'all'."""
    icu = cohort.stays[cohort.stays["icu_sample"]]
    split, label = cohort.split_of_stays()[icu.index], np.array(names)[icu[column]]
    return with_total(tally(split, label, icu["subject"].to_numpy(), SPLITS, names, min_patients))


def films_per_stay(cohort: Cohort, min_patients: int = 0) -> pd.DataFrame:
    """ICU samples by split and number of films before the prediction time."""
    early = cohort.films["stay"][cohort.films["hours"] < ICU_HORIZON_HOURS].value_counts()
    icu = cohort.stays[cohort.stays["icu_sample"]]
    n_films = early.reindex(icu.index).to_numpy()
    split, subject = cohort.split_of_stays()[icu.index], icu["subject"].to_numpy()
    most = max(5, int(n_films.max(initial=0)))
    return tally(split, n_films, subject, SPLITS, list(range(2, most + 1)), min_patients)


def mended(cohort: Cohort, min_patients: int = 0) -> pd.DataFrame:
    """What preparing mended or left out: column count; empty if nothing was or nobody knows.

    With `min_patients` smaller counts are hidden: so few rows are of so few patients.
    """
    counts = pd.Series(cohort.manifest.get("oddities", {}), dtype=float)
    counts = counts[counts > 0]
    return counts.mask(counts < min_patients).to_frame("count")


def unknown_demographics(cohort: Cohort, min_patients: int = 0) -> pd.DataFrame:
    """Share of stays whose age, height, race, ... is not known: column unknown.

    'race charted as unknown' is a category of its own. NaN where few patients, but some, tell.
    """
    values = pd.DataFrame(cohort.arrays["demographics"], columns=list(DEMOGRAPHICS))
    continuous = [n for n in DEMOGRAPHICS if not n.startswith(DEMOGRAPHIC_GROUPS)]
    lacks = {name: values[name].isna() for name in continuous}
    for prefix in DEMOGRAPHIC_GROUPS:
        own = [name for name in DEMOGRAPHICS if name.startswith(prefix)]
        named = prefix.removesuffix("_").removesuffix("_group").replace("_", " ")
        lacks[named] = values[own].isna().all(axis=1)
    lacks["race charted as unknown"] = values[RACE_UNKNOWN].eq(1)
    subject = cohort.stays["subject"].to_numpy()
    shares = {}
    for name, lacking in lacks.items():
        patients = [len(np.unique(subject[part])) for part in (lacking, ~lacking)]
        few = any(0 < n < min_patients for n in patients)
        shares[name] = np.nan if few or not len(lacking) else lacking.mean()
    return pd.Series(shares).to_frame("unknown")


def variable_titles(cohort: Cohort) -> list[str]:
    """Names of the 38 variables; prothrombin time says so where its item is INR."""
    is_inr = cohort.manifest.get("ehr_items") == ItemMap.OFFICIAL
    return [
        f"{name} (INR)" if is_inr and name == PROTHROMBIN_TIME else name for name in EHR_VARIABLES
    ]


def gaps(cohort: Cohort) -> np.ndarray:
    """Hours between the films of each pair, float [pairs]."""
    hours = cohort.films["hours"].to_numpy()
    return hours[cohort.pairs["film_2"]] - hours[cohort.pairs["film_1"]]


def stay_rows(cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    """EHR rows of the stays' windows and the stay of each, both int64 [rows]."""
    n_hours, offset = cohort.stays["n_hours"].to_numpy(), cohort.stays["ehr_offset"].to_numpy()
    stay = np.repeat(np.arange(len(n_hours)), n_hours)
    return np.arange(len(stay)) + (offset - np.cumsum(n_hours) + n_hours)[stay], stay


def sampling(cohort: Cohort, min_patients: int = 0) -> pd.DataFrame:
    """How each variable is observed in the stays' windows.

    Rows: the 38 variables. Columns: never_observed (share of stays), per_day (hours with an
    observation, per stay and day); NaN where too few patients tell.
    """
    row, stay = stay_rows(cohort)
    observed = np.zeros((len(cohort.stays), len(EHR_VARIABLES)))
    np.add.at(observed, stay, cohort.arrays["ehr_observed"][row])
    n_hours = cohort.stays["n_hours"].to_numpy()
    observed, n_hours = observed[n_hours > 0], n_hours[n_hours > 0]
    subject = cohort.stays["subject"].to_numpy()[cohort.stays["n_hours"] > 0]
    table = pd.DataFrame(index=list(EHR_VARIABLES))
    if not len(observed):
        return table.assign(never_observed=np.nan, per_day=np.nan)
    table["never_observed"] = (observed == 0).mean(axis=0)
    table["per_day"] = (observed * 24 / n_hours[:, None]).mean(axis=0)
    ever = [len(np.unique(subject[column > 0])) for column in observed.T]
    never = [len(np.unique(subject[column == 0])) for column in observed.T]
    few_ever, few_never = ((np.array(n) > 0) & (np.array(n) < min_patients) for n in (ever, never))
    table.loc[few_ever | few_never, "never_observed"] = np.nan
    table.loc[few_ever, "per_day"] = np.nan
    return table


def histogram(
    values: np.ndarray, subject: np.ndarray, edges: np.ndarray, min_patients: int = 0
) -> np.ndarray:
    """Values in each bin, float [bins]; those outside go to the outermost bins.

    A bin of 1 to `min_patients` - 1 subjects is 0.
    """
    bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    counts = np.bincount(bins, minlength=len(edges) - 1).astype(float)
    patients = np.bincount(
        np.unique(np.stack([bins, subject]), axis=1)[0], minlength=len(edges) - 1
    )
    return np.where(patients < min_patients, 0.0, counts)


def attrition(cohort: Cohort, min_patients: int = 0) -> pd.DataFrame:
    """What was left after each rule: columns rule, n_stays, n_films, n_subjects; empty if unknown.

    With `min_patients` a step is hidden if it dropped so few of anything, counted from the end.
    """
    columns = ["n_stays", "n_films", "n_subjects"]
    table = pd.DataFrame(cohort.manifest.get("attrition", []), columns=["rule", *columns])
    table[columns] = table[columns].astype(float)
    after = pd.Series(np.nan, columns)
    for step in table.index[::-1]:
        now = table.loc[step, columns].astype(float)
        dropped = (now - after).abs()
        if (dropped.gt(0) & dropped.lt(min_patients)).any() or now["n_subjects"] < min_patients:
            table.loc[step, columns] = np.nan
        else:
            after = now.fillna(after)
    return table


def paper_counts(number: int) -> pd.DataFrame:
    """A table of counts as the paper prints it (its Tables 4 to 7), rows and columns named as ours.

    4: split x (labelled pairs, ICU samples); 5: disease x class; 7: split x number of films.
    6: one row 'all' x the classes of mortality and length of stay.
    """
    table = pd.read_csv(str(files("tables") / "paper" / "cohort.csv"), dtype=str)
    table = table[table["table"] == str(number)]
    what, column, count = (table[c].to_numpy() for c in ("what", "split_or_class", "count"))
    rows: Sequence[object] = list(what)
    columns: Sequence[object] = list(column)
    if number == 4:
        names = {"disease_progression": "labelled pairs", "icu": "ICU samples"}
        rows, columns = [str(PAPER_SPLITS[c]) for c in column], [names[w] for w in what]
    elif number == 6:
        rows, columns = [ALL] * len(what), [*MORTALITY, *LENGTHS_OF_STAY]
    elif number == 7:
        rows = [str(PAPER_SPLITS[w.split()[-1]]) for w in what]
        columns = [int(c) for c in column]
    frame = pd.DataFrame({"row": rows, "column": columns, "count": count.astype(float)})
    return frame.pivot_table(index="row", columns="column", values="count")
