"""Checks of a prepared cohort before anything is trained on it: leaks, windows, statistics, labels.

Cohort.open sees to it that the files hold together; this asks whether they can be believed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from bench.data.cohort import Cohort, Normalisation
from bench.data.vocabulary import (
    DISEASES,
    EHR_VARIABLES,
    ICU_HORIZON_HOURS,
    N_LENGTH_OF_STAY_CLASSES,
    Progression,
    Split,
)
from bench.preparing.ehr_rows import hourly_events, window_rows
from bench.preparing.events import Events, no_events
from bench.preparing.normalising import fit_normalisation

TOLERANCE: Final = 1e-6
"""Relative and absolute, of statistics that can be computed again from what they were fitted on."""

MAX_LEANING: Final = 0.1
"""How far EHR statistics may lean from those of training (0) to those of everyone (1)."""

MAX_LEANING_SE: Final = 0.2
"""Above it the leaning cannot be told."""

MAX_OFF_SD: Final = 0.5
"""How far a mean may lie from the mean over training's hours, in sd, and an sd in log units."""

MIN_HOURS: Final = 30
"""Observed hours of training subjects from which on a variable's statistics are compared: events
before the window, in which some are charted only, are not kept."""

N_NAMED: Final = 6
"""How many faults a detail names."""


@dataclass(frozen=True)
class Check:
    """What must hold and whether it does; `holds` is None where the cohort cannot tell.

    `detail` says what was looked at or what is wrong; it names rows of tables, never identifiers.
    `decides` is False where a fault is worth a warning but nothing to be refused for.
    """

    name: str
    holds: bool | None
    detail: str
    decides: bool = True

    @property
    def verdict(self) -> str:
        """In a word or two: holds, fails, warns or cannot tell."""
        if self.holds is None:
            return "cannot tell"
        if self.holds:
            return "holds"
        return "fails" if self.decides else "warns"


def check_cohort(cohort: Cohort) -> list[Check]:
    """Run every check."""
    return [check(cohort) for check in CHECKS]


def _subjects(cohort: Cohort) -> Check:
    subjects = cohort.subjects
    rows = _in_several_splits(subjects["subject_key"], subjects["split"])
    return _rows_check("every subject in one split", rows, "subjects", len(subjects))


def _stays(cohort: Cohort) -> Check:
    """Cohort.open ties samples to stays by row; a stay with two rows shows in its key."""
    rows = _in_several_splits(cohort.stays["stay_key"], cohort.split_of_stays())
    name = "every stay's ICU sample and pairs in one split"
    return _rows_check(name, rows, "stays", len(cohort.stays))


def _films(cohort: Cohort) -> Check:
    split = cohort.split_of_stays()[cohort.films["stay"]]
    rows = _in_several_splits(_digests(cohort.arrays["films"]), split)
    return _rows_check("no film of the same bytes in two splits", rows, "films", len(cohort.films))


def _ehr_windows(cohort: Cohort) -> Check:
    """Of stays with a charted value: those without are alike for a good reason."""
    values, observed = cohort.arrays["ehr_values"], cohort.arrays["ehr_observed"]
    spans = [
        slice(offset, offset + n)
        for offset, n in zip(cohort.stays["ehr_offset"], cohort.stays["n_hours"], strict=True)
    ]
    charted = np.array([observed[span].any() for span in spans], dtype=bool)
    stays = np.flatnonzero(charted)
    digests = _digests([values[spans[stay]] for stay in stays])
    rows = stays[_in_several_splits(digests, cohort.split_of_stays()[stays])]
    return _rows_check("no EHR window of the same bytes in two splits", rows, "stays", len(stays))


def _horizon(cohort: Cohort) -> Check:
    rows = np.flatnonzero(cohort.stays["n_hours"] > ICU_HORIZON_HOURS)
    name = f"no EHR row of an ICU sample at or after {ICU_HORIZON_HOURS:g} h"
    return _rows_check(name, rows, "stays", len(cohort.stays))


def _pair_ends(cohort: Cohort) -> Check:
    last_hour = cohort.pairs["first_hour"] + cohort.pairs["n_hours"] - 1
    film_hours = cohort.films["hours"].to_numpy()[cohort.pairs["film_2"]]
    rows = np.flatnonzero(last_hour > np.floor(film_hours))
    name = "no EHR row of a pair after the hour of its second film"
    return _rows_check(name, rows, "pairs", len(cohort.pairs))


def _carried_forward(cohort: Cohort) -> Check:
    """A value that changes in an hour without observation came from elsewhere, e.g. from later."""
    lines = window_rows(cohort)
    window, row = lines["window"].to_numpy(), lines["row"].to_numpy()
    values, observed = cohort.arrays["ehr_values"][row], cohort.arrays["ehr_observed"][row]
    changed = (values[1:] != values[:-1]) & (window[1:] == window[:-1])[:, None]
    variables = np.flatnonzero((changed & ~observed[1:]).any(axis=0))
    name = "EHR hours without observation repeat the hour before"
    fault = f"not so: {_some([EHR_VARIABLES[v] for v in variables])}"
    return Check(name, not len(variables), fault if len(variables) else f"{len(row)} rows")


def _demographics_statistics(cohort: Cohort) -> Check:
    name = "demographic statistics are those of training subjects"
    if beyond := _fitted_beyond(cohort):
        return Check(name, False, beyond)
    stored, (training, everyone) = cohort.normalisation, _refitted(cohort, no_events())
    fields = [field for field in vars(stored) if field.startswith("demographics")]

    def equals(refitted: Normalisation) -> bool:
        return all(
            np.allclose(getattr(stored, f), getattr(refitted, f), rtol=TOLERANCE, atol=TOLERANCE)
            for f in fields
        )

    if not equals(training):
        whose = "those of all subjects" if equals(everyone) else "neither theirs nor everyone's"
        return Check(name, False, f"they are {whose}")
    if equals(everyone):
        return Check(name, None, "training subjects and all subjects give the same")
    return Check(name, True, f"equal within {TOLERANCE:g}, and different from all subjects'")


def _ehr_statistics(cohort: Cohort) -> Check:
    """Compare with statistics over observed hours: the events they were fitted on are not kept."""
    name = "EHR statistics are those of training subjects"
    if beyond := _fitted_beyond(cohort):
        return Check(name, False, beyond)
    hours = hourly_events(cohort)
    stored, (training, everyone) = cohort.normalisation, _refitted(cohort, hours)
    compared = _training_hours(cohort, hours) >= MIN_HOURS
    left_out = ""
    if not compared.all():
        seldom = _some([EHR_VARIABLES[v] for v in np.flatnonzero(~compared)])
        left_out = f"; left out, under {MIN_HOURS} training hours: {seldom}"
    off = _offsets(stored, training)
    wrong = np.flatnonzero((np.abs(off) > MAX_OFF_SD).any(axis=0) & compared)
    if len(wrong):
        named = _some([EHR_VARIABLES[v] for v in wrong])
        return Check(name, False, f"far from those of training's hours: {named}{left_out}")
    towards = _offsets(everyone, training)
    leaning, se = _leaning(off[:, compared].ravel(), towards[:, compared].ravel())
    found = f"leaning {leaning:.3f} ± {se:.3f} (training 0, everyone 1)"
    if not se <= MAX_LEANING_SE:
        return Check(name, None, f"{found}: too unsure to tell{left_out}")
    return Check(name, bool(abs(leaning) <= max(MAX_LEANING, 2 * se)), f"{found}{left_out}")


def _training_hours(cohort: Cohort, hours: Events) -> np.ndarray:
    """How many observed hours of training subjects each variable has, int64 [38]."""
    training = cohort.split_of_stays() == Split.TRAIN
    return np.bincount(hours.variable[training[hours.stay]], minlength=len(EHR_VARIABLES))


def _fitted_beyond(cohort: Cohort) -> str:
    """On what more than its own stays the statistics were fitted; empty if on nothing more."""
    if by := cohort.manifest.get("normalised_by"):
        return f"normalised by the {by}, with statistics over all stays"
    if "normalise_beyond_cohort" in cohort.manifest.get("official_behaviour", []):
        return "fitted on all adult stays, with films or without"
    return ""


def _refitted(cohort: Cohort, events: Events) -> tuple[Normalisation, Normalisation]:
    """Statistics fitted on training and on everyone; those of no event keep the stored mean."""
    training = cohort.split_of_stays() == Split.TRAIN
    impute, demographics = cohort.normalisation.ehr_mean, cohort.arrays["demographics"]
    on_training, on_everyone = (
        fit_normalisation(events, stays, impute, demographics)
        for stays in (training, np.ones_like(training))
    )
    return on_training, on_everyone


def _offsets(some: Normalisation, training: Normalisation) -> np.ndarray:
    """Differences of means (in sd) and of log sd from training's, float [2, 38]."""
    means = (some.ehr_mean - training.ehr_mean) / training.ehr_sd
    return np.stack([means, np.log(some.ehr_sd / training.ehr_sd)])


def _leaning(stored: np.ndarray, everyone: np.ndarray) -> tuple[float, float]:
    """Least-squares share of `everyone` in `stored`, both offsets from training, and its se."""
    square = float(everyone @ everyone)
    if not square:
        return float("nan"), float("nan")
    slope = float(everyone @ stored) / square
    residual = stored - slope * everyone
    return slope, float(np.sqrt(residual @ residual / (len(stored) - 1) / square))


def _classes(cohort: Cohort) -> Check:
    """A small cohort lacks some class or other, and still may be trained on."""
    name = "every class in every split"
    if cohort.manifest.get("labels") == "none":
        return Check(name, None, "the cohort has no labels")
    missing = list(_missing_classes(cohort))
    detail = f"missing: {_some(missing)}" if missing else "of all three tasks"
    return Check(name, not missing, detail, decides=False)


def _missing_classes(cohort: Cohort) -> Iterator[str]:
    """Split, outcome and class of each combination that no sample has."""
    icu, split_of_stays = cohort.stays[cohort.stays["icu_sample"]], cohort.split_of_stays()
    of_icu, of_pairs = split_of_stays[icu.index], split_of_stays[cohort.pairs["stay"]]
    parts = [
        ("mortality", icu, of_icu, ["0", "1"]),
        ("length_of_stay", icu, of_icu, [str(k) for k in range(N_LENGTH_OF_STAY_CLASSES)]),
    ]
    names = [p.name.lower().replace("_", " ") for p in Progression]
    parts += [(disease, cohort.pairs, of_pairs, names) for disease in DISEASES]
    for column, table, split_of_rows, classes in parts:
        found = set(zip(split_of_rows, table[column], strict=True))
        for split in Split:
            for label, named in enumerate(classes):
                if (split, label) not in found:
                    yield f"{split} {column} {named}"


def _in_several_splits(keys: Iterable[str], split: Iterable[str]) -> np.ndarray:
    """Numbers of the entries whose key occurs in more than one split."""
    table = pd.DataFrame({"key": list(keys), "split": list(split)})
    return np.flatnonzero(table.groupby("key")["split"].transform("nunique") > 1)


def _digests(arrays: Sequence[np.ndarray] | np.ndarray) -> list[str]:
    return [hashlib.blake2b(a.tobytes(), digest_size=16).hexdigest() for a in arrays]


def _rows_check(name: str, rows: np.ndarray, table: str, n: int) -> Check:
    """A check that fails at some rows of a table."""
    if not len(rows):
        return Check(name, True, f"{n} {table}")
    return Check(name, False, f"{table}.parquet, row {_some([str(row) for row in rows])}")


def _some(named: Sequence[str]) -> str:
    more = f" and {len(named) - N_NAMED} more" if len(named) > N_NAMED else ""
    return ", ".join(named[:N_NAMED]) + more


CHECKS: Final = (
    _subjects,
    _stays,
    _films,
    _ehr_windows,
    _horizon,
    _pair_ends,
    _carried_forward,
    _demographics_statistics,
    _ehr_statistics,
    _classes,
)
