"""Does the simulated cohort hold what it should? Counts, calibration, oracle, views, missingness.

    python -m bench.studies.simulator_checks --size paper      (some minutes on one core)

No film is drawn: a view of a film is its true severities with noise. Probes are boosted trees, 75 %
of the subjects for training and the rest for testing. Prints Markdown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from scipy.stats import chi2, linregress
from sklearn.ensemble import HistGradientBoostingClassifier

from bench import arguments
from bench.data.vocabulary import DISEASES, ICU_HORIZON_HOURS, NOT_MENTIONED, Progression, Task
from bench.errors import Parser, run_command
from bench.metrics import evaluate
from bench.preparing.events import HOUR, Events, clean_events, ranges
from bench.preparing.rules import STRICT
from bench.preparing.windows import Windows, hourly
from bench.simulating.labels import COUNTS, Thresholds
from bench.simulating.oracle import progression_probabilities
from bench.simulating.outcomes import LOS_COUNTS
from bench.simulating.physiology import GCS_TEXT
from bench.simulating.populate import simulate_population
from bench.simulating.population import CLEAN, Population
from bench.simulating.sizes import Knobs, Signal, Size

FILM_NOISE: Final = 0.12
TEST_SHARE: Final = 0.25
N_BINS: Final = 6
TINY: Final = 1e-9

Views = dict[str, np.ndarray]
"""Features [samples, F] by what is seen of a sample."""


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m bench.studies.simulator_checks", description=__doc__)
    p.add_argument("--size", type=arguments.choice(Size), default=Size.PAPER, metavar="NAME")
    p.add_argument("--seed", type=int, default=7, metavar="N")
    p.add_argument("--skip-probes", action="store_true", help="only what needs no fitting")
    p.add_argument("--null", action="store_true", help="also probe a cohort without signal")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks; returns the exit status."""
    arg = parser().parse_args(argv)
    population = simulate_population(arg.size, arg.seed)
    print(f"SIMULATED cohort: {arg.size}, seed {arg.seed}\n")
    _show("Counts", counts(population))
    _show("Calibration of deaths", calibration(population))
    _show("Oracle, all samples", oracle(population))
    _show("Charting", charting(population))
    if not arg.skip_probes:
        _show("Views", probes(population))
    if arg.null:
        null = simulate_population(arg.size, arg.seed, Knobs(signal=Signal.NONE))
        _show("Views without signal", probes(null))
    return 0


def _show(title: str, table: pd.DataFrame) -> None:
    print(f"{title}\n\n{table.to_markdown(index=False, floatfmt='.3f')}\n", flush=True)


def counts(population: Population) -> pd.DataFrame:
    """What there is beside what the paper's cohort has."""
    stays, pairs = population.stays, population.pairs
    icu = stays[stays["icu_sample"]]
    labels = pairs[list(DISEASES)].to_numpy()
    films = population.films[population.films["stay"].map(stays["kind"]) == CLEAN]
    early = films[films["hours"] < ICU_HORIZON_HOURS].groupby("stay").size()
    los = np.bincount(np.digitize(icu["los_days"], (3, 4, 6)), minlength=4)
    found = {
        "clean stays": ((stays["kind"] == CLEAN).sum(), 3763),
        "ICU samples": (len(icu), 2720),
        "deaths": (icu["died"].sum(), 465),
        **{f"length of stay, class {k}": (los[k], n) for k, n in enumerate(LOS_COUNTS)},
        **{
            f"ICU stays with {n} films": ((early[icu.index] == n).sum(), count)
            for n, count in ((2, 1975), (3, 661), (4, 82), (5, 2))
        },
        "pairs with a label": ((labels != NOT_MENTIONED).any(axis=1).sum(), 5679),
    }
    for k, disease in enumerate(DISEASES):
        for word in Progression:
            name = f"{disease}, {word.name.lower().replace('_', ' ')}"
            found[name] = ((labels[:, k] == word).sum(), COUNTS[k, word])
    rows = [(name, int(n), int(paper)) for name, (n, paper) in found.items()]
    return pd.DataFrame(rows, columns=["what", "here", "paper"])


def calibration(population: Population) -> pd.DataFrame:
    """Deaths by decile of P(death), expected and observed."""
    icu = population.stays[population.stays["icu_sample"]]
    decile = pd.qcut(icu["p_death"], 10, labels=False)
    groups = icu.groupby(decile)
    table = pd.DataFrame(
        {
            "stays": groups.size(),
            "expected": groups["p_death"].sum(),
            "observed": groups["died"].sum(),
        }
    )
    variance = groups["p_death"].apply(lambda p: (p * (1 - p)).sum())
    statistic = float(((table["observed"] - table["expected"]) ** 2 / variance).sum())
    table["chi-square p, all deciles"] = chi2.sf(statistic, len(table))
    return table


def oracle(population: Population) -> pd.DataFrame:
    """Metrics of the exact probabilities."""
    pairs = population.pairs
    dq, m0 = (
        pairs[[f"{name}_{disease}" for disease in DISEASES]].to_numpy() for name in ("dq", "m0")
    )
    thresholds = Thresholds(**population.parameters["thresholds"])
    icu = population.stays[population.stays["icu_sample"]]
    p_los = icu[[f"p_los_{k}" for k in range(4)]].to_numpy()
    logits = {
        Task.DISEASE_PROGRESSION: np.log(progression_probabilities(dq, m0, thresholds) + TINY),
        Task.MORTALITY: _log_odds(icu["p_death"].to_numpy()),
        Task.LENGTH_OF_STAY: np.log(p_los + TINY),
    }
    labels = {
        Task.DISEASE_PROGRESSION: pairs[list(DISEASES)].to_numpy(),
        Task.MORTALITY: icu["died"].to_numpy().astype(int),
        Task.LENGTH_OF_STAY: np.digitize(icu["los_days"], (3, 4, 6)),
    }
    return pd.DataFrame([_row(task, "oracle", logits[task], labels[task]) for task in Task])


def _log_odds(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, TINY, 1 - TINY)
    return np.log(p / (1 - p))[:, None]


def _row(task: Task, view: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, object]:
    values = evaluate(task, logits, labels)
    names = ("auroc", "auprc", "macro_f1", "accuracy", "kappa")
    return {"task": str(task), "view": view} | {
        name: values.get(name, float("nan")) for name in names
    }


def charting(population: Population) -> pd.DataFrame:
    """Rows a stay, charting by severity, and values outside the accepted range."""
    events, stays = population.events, population.stays
    cleaned = Counter[str]()
    kept = clean_events(_raw(population), STRICT, cleaned)
    clipped = cleaned["charted values clipped to their range"] / len(kept.value)
    early = events[events["hours"] < ICU_HORIZON_HOURS].groupby("stay").size()
    sick = population.course.acute[:, 0, :48].mean(axis=1)
    slope = linregress(sick[early.index], early)
    rows = [
        ("rows a stay", len(events) / len(stays)),
        ("rows in 48 h by mean edema: slope", slope.slope),
        ("its p", slope.pvalue),
        ("share of values clipped when cleaned", clipped),
        ("share of values without a number", cleaned["charted values left out: no number"]
         / len(kept.value)),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["what", "value"])


def _raw(population: Population) -> pd.DataFrame:
    """Events as preparation reads them."""
    events = population.events[population.events["table"] != "labevents"]
    return pd.DataFrame(
        {
            "stay": events["stay"],
            "itemid": events["itemid"],
            "seconds": np.round(events["hours"] * HOUR).astype(np.int64),
            "value": events["value"].where(events["itemid"].isin(list(GCS_TEXT))),
            "number": events["valuenum"],
        }
    )


def probes(population: Population) -> pd.DataFrame:
    """Metrics of boosted trees on views of the test subjects' samples."""
    rng = np.random.default_rng(0)
    stays = population.stays
    subject = stays["subject"].to_numpy()
    is_test = (rng.random(len(population.subjects)) < TEST_SHARE)[subject]
    events = clean_events(_raw(population), STRICT, Counter())
    noise = rng.standard_normal(population.film_severity.shape)
    shown = population.film_severity + FILM_NOISE * noise
    rows = []
    words = population.pairs[list(DISEASES)].to_numpy()
    test = is_test[population.pairs["stay"].to_numpy()]
    for view, seen in pair_views(population, events, shown, rng).items():
        columns = [_fit(seen, y, ~test & (y != NOT_MENTIONED), test) for y in words.T]
        rows.append(_row(Task.DISEASE_PROGRESSION, view, np.stack(columns, axis=1), words[test]))
    icu = stays["icu_sample"].to_numpy()
    died = stays["died"].to_numpy().astype(int)
    los = np.digitize(stays["los_days"], (3, 4, 6))
    train, test = icu & ~is_test, icu & is_test
    for view, seen in stay_views(population, events, shown).items():
        p = _fit(seen, died, train, test)
        rows.append(_row(Task.MORTALITY, view, p[:, [1]] - p[:, [0]], died[test]))
        rows.append(_row(Task.LENGTH_OF_STAY, view, _fit(seen, los, train, test), los[test]))
    return pd.DataFrame(rows)


def _fit(seen: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Log-probabilities of the test samples by trees that saw the training samples."""
    trees = HistGradientBoostingClassifier(
        max_iter=80, learning_rate=0.08, max_leaf_nodes=12, l2_regularization=1.0, random_state=0
    )
    trees.fit(seen[train], labels[train])
    return np.log(trees.predict_proba(seen[test]) + TINY)


def pair_views(
    population: Population, events: Events, shown: np.ndarray, rng: np.random.Generator
) -> Views:
    """What can be seen of pairs; the EHR also with its time spoilt."""
    pairs = population.pairs
    hours = population.films["hours"].to_numpy()
    start, end = (np.floor(hours[pairs[name]]).astype(int) for name in ("film_1", "film_2"))
    stay = pairs["stay"].to_numpy()
    first, second = shown[pairs["film_1"]], shown[pairs["film_2"]]
    films = np.concatenate([first, second, second - first], axis=1)
    aligned = _bins(events, stay, start, end)
    return {
        "film 1": first,
        "film 2": second,
        "both films": films,
        "EHR": aligned,
        "EHR, hours shuffled": _bins(events, stay, start, end, shuffle=rng),
        "EHR, 24 h earlier": _bins(events, stay, start - 24, end - 24),
        "EHR, the stay's mean so far": _bins(events, stay, np.zeros_like(end), end, n_bins=1),
        "both films and EHR": np.concatenate([films, aligned], axis=1),
    }


def _bins(
    events: Events,
    stay: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    n_bins: int = N_BINS,
    shuffle: np.random.Generator | None = None,
) -> np.ndarray:
    """Means of the hourly values in equal parts of hours start..end, [windows, n_bins * 38]."""
    n_hours = end - start + 1
    windows = Windows(stay, start, n_hours, (end + 1) * HOUR)
    values, _ = hourly(events, windows, ranges(STRICT).impute)
    window = np.repeat(np.arange(len(stay)), n_hours)
    if shuffle is not None:
        values = values[np.lexsort((shuffle.random(len(window)), window))]
    step = np.arange(len(window)) - windows.offset[window]
    group = window * n_bins + step * n_bins // n_hours[window]
    means = pd.DataFrame(values).groupby(group).mean()
    means = means.reindex(np.arange(len(stay) * n_bins))
    return means.to_numpy().reshape(len(stay), -1)


def stay_views(population: Population, events: Events, shown: np.ndarray) -> Views:
    """What can be seen of stays by 48 h; rows as `population.stays`, NaN where there is no film."""
    stays = population.stays
    n = len(stays)
    horizon = int(ICU_HORIZON_HOURS)
    windows = Windows(
        np.arange(n), np.zeros(n, int), np.full(n, horizon), np.full(n, horizon * HOUR)
    )
    values = hourly(events, windows, ranges(STRICT).impute)[0].reshape(n, horizon, -1)
    halves = values[:, horizon // 2 :].mean(axis=1) - values[:, : horizon // 2].mean(axis=1)
    male = population.subjects["sex"].to_numpy()[stays["subject"]] == "M"
    person = np.stack([stays["age"], male], axis=1)
    ehr = np.concatenate([values.mean(axis=1), values.std(axis=1), halves, person], axis=1)
    by_stay = pd.DataFrame(shown)[population.films["hours"] < horizon].groupby(
        population.films["stay"]
    )
    first, last, mean = (by_stay.agg(how).reindex(stays.index) for how in ("first", "last", "mean"))
    films = np.concatenate([first, last, mean, last - first], axis=1)
    return {
        "EHR": ehr,
        "last film": last.to_numpy(),
        "all films": films,
        "EHR and last film": np.concatenate([ehr, last], axis=1),
        "EHR and all films": np.concatenate([ehr, films], axis=1),
    }


if __name__ == "__main__":
    run_command(main)
