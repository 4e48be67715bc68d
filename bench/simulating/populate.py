"""From a seed to a population: subjects, courses, film times, reports, EHR rows and outcomes."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Final, Protocol

import numpy as np
import pandas as pd

from bench.data.vocabulary import DISEASES, NOT_MENTIONED, Progression
from bench.simulating import labels as reports
from bench.simulating import outcomes
from bench.simulating.course import frailty, simulate_course
from bench.simulating.from_ehr import course_from_ehr
from bench.simulating.physiology import (
    drivers,
    is_early,
    simulate_events,
    ventilation,
    with_oddities,
)
from bench.simulating.population import ACUTE_PROCESSES, CLEAN, Course, Courses, Population
from bench.simulating.schedule import FILMS_BY_48_HOURS, early_films, later_films
from bench.simulating.sizes import Knobs, Signal, Size
from bench.simulating.streams import Tag, stream

SECOND_STAYS: Final = 0.09
DECOYS: Final = 0.08
DECOY_KINDS: Final = (
    "short_los", "long_los", "minor", "unit_transfer", "two_stays_in_admission",
    "one_film", "no_scene_graph", "short_gap", "long_gap",
)  # fmt: skip
N_GOLD_SUBJECTS: Final = 40
RACES: Final = {
    "WHITE": 0.62, "BLACK/AFRICAN AMERICAN": 0.11, "HISPANIC/LATINO - PUERTO RICAN": 0.04,
    "ASIAN - CHINESE": 0.03, "OTHER": 0.05, "UNKNOWN": 0.11, "PORTUGUESE": 0.02,
    "WHITE - OTHER EUROPEAN": 0.02,
}  # fmt: skip
MARITAL: Final = {"MARRIED": 0.44, "SINGLE": 0.28, "WIDOWED": 0.11, "DIVORCED": 0.08, None: 0.09}
LANGUAGES: Final = {"ENGLISH": 0.89, "?": 0.11}


def draw_subjects(seed: int, n: int) -> pd.DataFrame:
    """Demographics of n subjects."""
    return pd.DataFrame([draw_subject(stream(seed, Tag.SUBJECT, s)) for s in range(n)])


def draw_subject(rng: np.random.Generator) -> dict[str, Any]:
    """Demographics of one subject: a row of `Population.subjects`."""
    sex = "M" if rng.random() < 0.56 else "F"
    height = (176 if sex == "M" else 162) + 7 * rng.standard_normal()
    return {
        "sex": sex,
        "age": float(np.clip(np.round(64 + 16 * rng.standard_normal()), 18, 91)),
        "race": _pick(RACES, rng),
        "language": _pick(LANGUAGES, rng),
        "marital_status": _pick(MARITAL, rng),
        "bmi": float(np.clip(28 + 5 * rng.standard_normal(), 17, 48)),
        "height_cm": float(np.round(height)),
    }


def _pick(shares: dict, rng: np.random.Generator):  # type: ignore[no-untyped-def, type-arg]
    names, p = list(shares), np.array(list(shares.values()))
    return names[rng.choice(len(names), p=p / p.sum())]


def film_counts(n_clean: int, seed: int) -> np.ndarray:
    """Films before 48 h of every clean stay: the paper's mix (Table 7), in random order."""
    names, counts = zip(*FILMS_BY_48_HOURS.items(), strict=True)
    share = np.array(counts) / sum(counts) * n_clean
    whole = np.floor(share).astype(int)
    # The largest remainders take what rounding down left over.
    for k in np.argsort(whole - share, kind="stable")[: n_clean - whole.sum()]:
        whole[k] += 1
    return stream(seed, Tag.SUBJECT, n_clean, 1).permutation(np.repeat(names, whole))


def draw_stays(seed: int, size: Size) -> pd.DataFrame:
    """Clean stays and decoys with their subjects; a second stay shares its subject's anatomy."""
    n_clean = size.n_stays
    n_decoy = max(round(DECOYS * n_clean), len(DECOY_KINDS))
    n_subjects = round(n_clean / (1 + SECOND_STAYS))
    subject = np.r_[np.arange(n_subjects), np.arange(n_clean - n_subjects)]
    stays = pd.DataFrame({"subject": subject, "kind": CLEAN, "n_early": film_counts(n_clean, seed)})
    decoys = pd.DataFrame(
        {
            "subject": n_subjects + np.arange(n_decoy),
            "kind": [DECOY_KINDS[k % len(DECOY_KINDS)] for k in range(n_decoy)],
            "n_early": 2,
        }
    )
    return pd.concat([stays, decoys], ignore_index=True)


class CourseMaker(Protocol):
    """Makes the courses of stays; arguments as of `simulate_course`."""

    def __call__(
        self, seed: int, stays: list[int], subjects: list[int], ages: np.ndarray, dynamics: float
    ) -> Courses:
        """Courses of the stays, which must not depend on what other stays there are."""
        ...


def one_course(
    seed: int, stays: list[int], subjects: list[int], ages: np.ndarray, dynamics: float = 1.0
) -> Courses:
    """Films show the very course that everything else follows."""
    course = simulate_course(seed, stays, subjects, ages, dynamics)
    early = np.array([is_early(seed, stay) for stay in stays])
    return Courses(course, course, frailty(seed, stays), early)


def simulate_population(
    size: Size | str,
    seed: int = 7,
    knobs: Knobs | None = None,
    make_courses: CourseMaker = one_course,
) -> Population:
    """Simulate a cohort's truth.

    Args:
        size: how many stays
        seed: decides everything
        knobs: what is planted how strongly
        make_courses: of the engine
    """
    size, knobs = Size(size), knobs or Knobs()
    stays = draw_stays(seed, size)
    subjects = draw_subjects(seed, int(stays["subject"].max()) + 1)
    minor = stays.loc[stays["kind"] == "minor", "subject"]
    subjects.loc[minor, "age"] = 17.0
    ids, owner = stays.index.tolist(), stays["subject"].tolist()
    age = subjects["age"].to_numpy()[owner]
    courses = make_courses(seed, ids, owner, age, knobs.dynamics)
    course = courses.told
    donor = _donors(seed, len(ids))
    # Age tells of outcomes too: without any signal it is another stay's as well.
    told_age = age[donor] if knobs.signal is Signal.NONE else age
    exact = size is Size.PAPER
    drawn = _outcomes(seed, stays, course, courses.frailty, told_age, knobs.timing, exact)
    stays = stays.assign(age=age, **drawn)
    charted = course if knobs.signal in (Signal.BOTH, Signal.EHR) else _of_others(course, donor)
    if knobs.signal not in (Signal.BOTH, Signal.CXR):
        courses = replace(courses, shown=_of_others(courses.shown, donor))
    events, _ = simulate_events(
        seed, np.array(ids), stays["los_days"].to_numpy() * 24, charted, knobs.ehr_gain
    )
    films = _films(seed, stays)
    events = with_oddities(events)
    return _assemble(seed, knobs, subjects, stays, films, courses, events, exact)


def _of_others(course: Course, donor: np.ndarray) -> Course:
    """Every stay with the course of another one."""
    return Course(*(values[donor] for values in vars(course).values()))


def _donors(seed: int, n: int) -> np.ndarray:
    """For every stay another one, int [n]: whose course a modality without signal shows."""
    order = stream(seed, Tag.EXCHANGE, n).permutation(n)
    donor = np.empty(n, dtype=np.int64)
    donor[order] = np.roll(order, 1)
    return donor


def population_from_stays(
    subjects: pd.DataFrame, stays: pd.DataFrame, ehr: list[np.ndarray], seed: int = 7
) -> Population:
    """Films and reports for stays that exist: their own EHR drives the findings.

    Args:
        subjects: row = subject; sex, age, bmi
        stays: row = stay; subject, los_days
        ehr: per stay float [L, 38], hourly cleaned values carried forward, NaN before the first
        seed: decides everything else

    Returns:
        A population without events; outcomes are the stays' own and not in it.
    """
    rng = stream(seed, Tag.SUBJECT, len(stays), 2)
    counts = [n for n, share in FILMS_BY_48_HOURS.items() for _ in range(share) if n > 1]
    n_early = np.where(stays["los_days"] > 2, rng.choice(counts, len(stays)), 2)
    kind = np.where(stays["los_days"] > 2, CLEAN, "short_los")
    ids, owner = stays.index.tolist(), stays["subject"].tolist()
    age = subjects["age"].to_numpy()[owner]
    stays = stays.assign(kind=kind, n_early=n_early, age=age)
    course = course_from_ehr(seed, ids, owner, age, ehr)
    # A short stay may end before a second film is due.
    films = _films(seed, stays)
    films = films[films["hours"] < 24 * stays["los_days"].to_numpy()[films["stay"]]]
    films = films.reset_index(drop=True)
    early = np.array([is_early(seed, k) for k in ids])
    courses = Courses(course, course, frailty(seed, ids), early)
    return _assemble(seed, Knobs(), subjects, stays, films, courses, pd.DataFrame())


def _assemble(
    seed: int,
    knobs: Knobs,
    subjects: pd.DataFrame,
    stays: pd.DataFrame,
    films: pd.DataFrame,
    courses: Courses,
    events: pd.DataFrame,
    exact: bool = False,
) -> Population:
    """What reports say of the told courses, and what films show of the others.

    With `exact` the labels have the paper's counts; else its thresholds are taken over.
    """
    chronic = np.float32(knobs.chronic)
    course = replace(courses.told, chronic=courses.told.chronic * chronic)
    shown = replace(courses.shown, chronic=courses.shown.chronic * chronic)
    stays["icu_sample"] = (_n_early(films, len(stays)) >= 2) & (stays["kind"] == CLEAN)
    pairs, reading, thresholds = _pairs(seed, stays, films, course, knobs, exact)
    hour = np.minimum(films["hours"].astype(int), course.heart.shape[1] - 1).to_numpy()
    stay = films["stay"].to_numpy()
    said, contradicted = _region_words(seed, pairs, _severity(course, stay, hour))
    gold = np.unique(stays.loc[stays["kind"] == CLEAN, "subject"])[: _n_gold(len(stays))]
    return Population(
        seed=seed,
        subjects=subjects,
        stays=stays.drop(columns="n_early"),
        films=films,
        film_severity=np.maximum(_severity(shown, stay, hour), 0).astype(np.float32),
        film_ventilated=ventilation(drivers(shown)[1], courses.early)[stay, hour],
        pairs=pairs,
        region_words=said,
        contradictions=contradicted,
        gold_subjects=gold,
        gold_labels=_gold_labels(pairs, stays, gold, reading, thresholds),
        events=events,
        course=course,
        parameters={
            "knobs": asdict(knobs),
            "thresholds": asdict(thresholds),
            **courses.parameters,
        },
        engine_truth=courses.truth,
    )


def _severity(course: Course, stay: np.ndarray, hour: np.ndarray) -> np.ndarray:
    """Severities at films, chronic part included, in the order of `FILM_SEVERITIES`."""
    acute = course.acute[stay, :, hour] + course.chronic[stay]
    return np.concatenate([acute, course.heart[stay, hour][:, None]], axis=1)


def _n_early(films: pd.DataFrame, n_stays: int) -> np.ndarray:
    early = films.loc[films["hours"] < 48, "stay"]
    return np.bincount(early, minlength=n_stays)


def _outcomes(
    seed: int,
    stays: pd.DataFrame,
    course: Course,
    frail: np.ndarray,
    age: np.ndarray,
    timing: float,
    exact: bool,
) -> dict[str, np.ndarray]:
    """Death and length of stay of every stay, with their probabilities."""
    ids = stays.index.to_numpy()
    terms = outcomes.predictors(course, age, frail)
    noise = np.array([stream(seed, Tag.OUTCOME, i).standard_normal() for i in ids])
    kind = stays["kind"].to_numpy()
    icu = (stays["n_early"] >= 2).to_numpy() & (kind == CLEAN)
    scale = outcomes.calibrate(terms, icu, noise, timing) if exact else outcomes.FROZEN
    terms = outcomes.scaled_recency(terms, scale.mean["rec"], timing)
    p = outcomes.death_probability(terms, scale)
    g = outcomes.los_location(terms, scale)
    rng = stream(seed, Tag.OUTCOME, len(ids), 1)
    days = outcomes.draw_los_days(g + outcomes.LOS_NOISE * noise, scale, rng)
    # A film after 48 h needs the stay to last that long.
    days = np.where(stays["n_early"] == 1, 9.9 - (9.9 - days) * (9.9 - 2.45) / (9.9 - 2.02), days)
    days = np.where(kind == "short_los", 0.6 + 1.3 * rng.random(len(ids)), days)
    days = np.where(kind == "long_los", 14 + 26 * rng.random(len(ids)), days)
    days = np.where(kind == "long_gap", np.maximum(days, 6.5), days)
    died = np.zeros(len(ids), dtype=bool)
    died[icu] = outcomes.draw_deaths(p[icu], rng)
    died[~icu] = rng.random((~icu).sum()) < p[~icu]
    after = 24 * days + 48 * rng.exponential(1.0, len(ids))
    chances = outcomes.los_probabilities(g, scale)
    return {
        "los_days": np.round(days, 6),
        "died": died,
        "death_hours": np.where(died, after, np.nan),
        "p_death": p,
        **{f"p_los_{k}": chances[:, k] for k in range(4)},
    }


def _films(seed: int, stays: pd.DataFrame) -> pd.DataFrame:
    """Film times of every stay; decoys get the flaw their kind names."""
    rows = []
    for stay, row in enumerate(stays.to_dict("records")):
        rng = stream(seed, Tag.SCHEDULE, stay)
        until = 24 * row["los_days"] - 1
        hours = early_films(row["n_early"], rng)
        if row["kind"] == "short_los":
            hours = [0.1 * until, 0.8 * until]
        elif row["kind"] == "one_film":
            hours = hours[:1]
        elif row["kind"] == "short_gap":
            hours = [hours[0], hours[0] + 3.0]
        elif row["kind"] == "long_gap":
            hours = [hours[0], hours[0] + 100.0]
        else:
            hours += later_films(hours[-1], until, row["n_early"] == 1, rng)
        rows += [(stay, hour) for hour in hours]
    films = pd.DataFrame(rows, columns=["stay", "hours"])
    # Film times are to the second, as StudyTime is.
    return films.assign(hours=np.round(films["hours"] * 3600) / 3600)


def _pairs(
    seed: int,
    stays: pd.DataFrame,
    films: pd.DataFrame,
    course: Course,
    knobs: Knobs,
    exact: bool,
) -> tuple[pd.DataFrame, reports.Reading, reports.Thresholds]:
    """Pairs of consecutive films of clean stays, with what their report says."""
    clean = films[films["stay"].map(stays["kind"]) == CLEAN]
    neighbours = clean["stay"].to_numpy()[:-1] == clean["stay"].to_numpy()[1:]
    first, second = clean.index.to_numpy()[:-1][neighbours], clean.index.to_numpy()[1:][neighbours]
    stay = films["stay"].to_numpy()[first]
    hour_1, hour_2 = (
        np.minimum(films["hours"].to_numpy()[f].astype(int), 263) for f in (first, second)
    )
    S_1 = reports.severities(course.acute[stay, :, hour_1], course.heart[stay, hour_1])
    S_2 = reports.severities(course.acute[stay, :, hour_2], course.heart[stay, hour_2])
    noise, lot = np.empty((len(stay), 2, len(DISEASES))), np.empty(len(stay))
    order = pd.Series(stay).groupby(stay).cumcount()
    for i, (s, k) in enumerate(zip(stay, order, strict=True)):
        rng = stream(seed, Tag.LABELS, s, k)
        noise[i], lot[i] = rng.standard_normal(noise.shape[1:]), rng.random()
    reading = reports.read_pairs(S_1, S_2, course.heart[stay, 0], noise, knobs.reader_noise)
    thresholds = reports.calibrate(reading, lot) if exact else reports.FROZEN
    compared = lot < thresholds.compared
    labels = reports.words(reading, compared, thresholds)
    frame = pd.DataFrame({"stay": stay, "film_1": first, "film_2": second, "compared": compared})
    for k, disease in enumerate(DISEASES):
        frame[disease] = labels[:, k]
    for k, disease in enumerate(DISEASES):
        frame[f"u_{disease}"], frame[f"dq_{disease}"] = reading.u[:, k], reading.dq[:, k]
        frame[f"m0_{disease}"] = reading.m0[:, k]
    return frame, reading, thresholds


Words = list[list[tuple[str, str, int]]]
"""For every pair: (region, disease, Progression) as the report says it."""

CONTRADICTED: Final = 0.08
"""Share of unmentioned diseases of compared pairs that get contradicting words instead."""


def _region_words(seed: int, pairs: pd.DataFrame, severity: np.ndarray) -> tuple[Words, Words]:
    """Words region by region: those that agree, and contradictions that the pipeline must drop."""
    said, contradicted = [], []
    labels = pairs[list(DISEASES)].to_numpy()
    first, second = pairs["film_1"].to_numpy(), pairs["film_2"].to_numpy()
    names = (*ACUTE_PROCESSES, "heart")
    for i, stay in enumerate(pairs["stay"]):
        rng = stream(seed, Tag.LABELS, stay, first[i], 1)
        worst = np.maximum(severity[first[i]], severity[second[i]])
        here, against = [], []
        for k, disease in enumerate(DISEASES):
            kind = reports.DISEASE_PROCESS[k]
            columns = [c for c, name in enumerate(names) if name.startswith(kind)]
            shown = [c for c in columns if worst[c] > reports.AFFECTED]
            chosen = shown or [max(columns, key=lambda c: worst[c])]
            low = bool(rng.random() < 0.6)
            regions = [r for c in chosen for r in reports.regions_of(names[c], low)]
            if kind == "heart" and rng.random() < 0.2:
                regions.append("mediastinum")
            if labels[i, k] != NOT_MENTIONED:
                here += [(region, disease, int(labels[i, k])) for region in dict.fromkeys(regions)]
            elif pairs["compared"].iloc[i] and rng.random() < CONTRADICTED / 7:
                one, other = rng.permutation(3)[:2]
                twin = regions[0] if rng.random() < 0.5 else _other_side(regions[0])
                against += [(regions[0], disease, int(one)), (twin, disease, int(other))]
        said.append(here)
        contradicted.append(against)
    return said, contradicted


def _other_side(region: str) -> str:
    """The same region of the other side; midline regions give the mediastinum."""
    side, _, rest = region.partition(" ")
    return {"left": f"right {rest}", "right": f"left {rest}"}.get(side, "mediastinum")


def _n_gold(n_stays: int) -> int:
    return max(1, round(N_GOLD_SUBJECTS * n_stays / Size.PAPER.n_stays))


def _gold_labels(
    pairs: pd.DataFrame,
    stays: pd.DataFrame,
    gold: np.ndarray,
    reading: reports.Reading,
    thresholds: reports.Thresholds,
) -> np.ndarray:
    """Consensus labels int8 [P, 7] of gold subjects' mentioned diseases: a reader less noisy."""
    labels = pairs[list(DISEASES)].to_numpy(np.int8)
    quieter = reading.dq + (reading.u - reading.dq) / np.sqrt(3)
    consensus = np.full(labels.shape, Progression.NO_CHANGE, dtype=np.int8)
    consensus[quieter >= thresholds.worsened] = Progression.WORSENED
    consensus[quieter <= thresholds.improved] = Progression.IMPROVED
    is_gold = np.isin(stays["subject"].to_numpy()[pairs["stay"]], gold)
    return np.where((labels != NOT_MENTIONED) & is_gold[:, None], consensus, NOT_MENTIONED)
