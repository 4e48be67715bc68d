"""The latent course and what it drives: reports, EHR rows, outcomes, null experiments."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from bench.data.vocabulary import BOX_REGIONS, DISEASES, NOT_MENTIONED, Progression
from bench.simulating import labels, outcomes
from bench.simulating.course import low_pass, ornstein_uhlenbeck, simulate_course
from bench.simulating.physiology import GCS_TEXT, VARIABLES, with_oddities
from bench.simulating.populate import simulate_population
from bench.simulating.population import CLEAN, Population
from bench.simulating.schedule import early_films
from bench.simulating.sizes import Knobs, Signal


def test_the_same_seed_gives_the_same_population_and_another_another():
    one, two, other = (simulate_population("tiny", seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(one.events, two.events)
    pd.testing.assert_frame_equal(one.pairs, two.pairs)
    assert np.array_equal(one.film_severity, two.film_severity)
    assert not np.array_equal(one.course.acute, other.course.acute)


def test_a_stay_has_the_same_course_in_every_size(small: Population):
    alone = simulate_course(
        7, [5], small.stays["subject"].iloc[[5]].tolist(), np.array([small.stays["age"].iloc[5]])
    )
    np.testing.assert_array_equal(alone.acute[0], small.course.acute[5])


def test_a_second_stay_shares_the_chronic_state_of_its_subject(small: Population):
    clean = small.stays[small.stays["kind"] == CLEAN]
    first, second = clean.index[clean["subject"] == clean["subject"].iloc[-1]]
    assert np.array_equal(small.course.chronic[first], small.course.chronic[second])
    assert not np.array_equal(small.course.acute[first], small.course.acute[second])


def test_noise_and_filter_have_the_moments_they_claim():
    rng = np.random.default_rng(0)
    noise = ornstein_uhlenbeck(rng.standard_normal((400, 2000)), sd=0.5, hours=10.0)
    assert noise.std() == pytest.approx(0.5, rel=0.02)
    lag = 10
    correlation = np.corrcoef(noise[:, :-lag].ravel(), noise[:, lag:].ravel())[0, 1]
    assert correlation == pytest.approx(np.exp(-1), abs=0.02)
    step = low_pass(np.r_[0.0, np.ones(20)][None], 5.0)[0]
    assert step[0] == 0 and step[5] == pytest.approx(1 - np.exp(-1), abs=1e-9)


def test_films_of_clean_stays_obey_the_thinning_rule(small: Population):
    films = small.films[small.films["stay"].map(small.stays["kind"]) == CLEAN]
    gaps = films.groupby("stay")["hours"].diff().dropna()
    assert gaps.min() >= 8 and gaps.max() < 96
    ends = 24 * small.stays["los_days"].to_numpy()[films["stay"]]
    assert (films["hours"] < ends).all()


def test_early_films_fit_their_window():
    rng = np.random.default_rng(0)
    for n in (2, 3, 4, 5):
        hours = np.array([early_films(n, rng) for _ in range(200)])
        assert hours.min() >= 0.3 and hours.max() < 48
        assert np.diff(hours, axis=1).min() >= 8.05 - 1e-9


def test_the_mix_of_stays_is_the_papers(small: Population):
    icu = small.stays[small.stays["icu_sample"]]
    assert len(icu) == pytest.approx(300 * 2720 / 3763, abs=1)
    assert icu["p_death"].mean() == pytest.approx(465 / 2720, abs=0.04)
    assert icu["died"].mean() == pytest.approx(icu["p_death"].mean(), abs=0.01)
    los = np.digitize(icu["los_days"], (3, 4, 6))
    shares = np.bincount(los, minlength=4) / len(icu)
    np.testing.assert_allclose(shares, np.array(outcomes.LOS_COUNTS) / 2720, atol=0.08)


def test_systematic_sampling_draws_the_expected_number_and_keeps_each_chance():
    p = np.random.default_rng(0).uniform(0.02, 0.5, 60)
    drawn = np.array([outcomes.draw_deaths(p, np.random.default_rng(k)) for k in range(4000)])
    assert set(drawn.sum(axis=1)) == {round(p.sum())}
    expected = p * round(p.sum()) / p.sum()
    assert np.abs(drawn.mean(axis=0) - expected).max() < 4 * np.sqrt(0.25 / 4000)


def test_reversing_a_pair_turns_the_sign_of_the_change():
    rng = np.random.default_rng(0)
    S_1, S_2 = rng.gamma(1.0, 0.5, (2, 50, 7))
    noise, h0 = np.zeros((50, 2, 7)), np.zeros(50)
    forward = labels.read_pairs(S_1, S_2, h0, noise)
    backward = labels.read_pairs(S_2, S_1, h0, noise)
    np.testing.assert_allclose(forward.u, -backward.u)
    np.testing.assert_allclose(forward.m, backward.m)


def test_chronic_severities_change_films_but_no_label():
    plain, chronic = (simulate_population("tiny", knobs=Knobs(chronic=c)) for c in (0.0, 2.0))
    pd.testing.assert_frame_equal(plain.pairs, chronic.pairs)
    assert (chronic.film_severity[:, :-1] >= plain.film_severity[:, :-1]).all()
    assert chronic.film_severity.sum() > plain.film_severity.sum()


def test_words_are_said_about_every_mentioned_disease_and_no_other(small: Population):
    for i, row in enumerate(small.pairs[list(DISEASES)].to_numpy()):
        said = {(disease, word) for _, disease, word in small.region_words[i]}
        assert said == {
            (d, int(w)) for d, w in zip(DISEASES, row, strict=True) if w < NOT_MENTIONED
        }
        assert {region for region, _, _ in small.region_words[i]} <= set(BOX_REGIONS)
        for region, disease, _ in small.contradictions[i]:
            assert row[DISEASES.index(disease)] == NOT_MENTIONED, region


def test_worsened_means_that_the_finding_grew(small: Population):
    for k, disease in enumerate(DISEASES):
        label = small.pairs[disease].to_numpy()
        dq = small.pairs[f"dq_{disease}"].to_numpy()
        worse, better = dq[label == Progression.WORSENED], dq[label == Progression.IMPROVED]
        if min(len(worse), len(better)) >= 5:
            assert np.median(worse) > 0 > np.median(better), (k, disease)


def test_gold_labels_belong_to_gold_subjects_and_mostly_agree(small: Population):
    subject = small.stays["subject"].to_numpy()[small.pairs["stay"]]
    has_gold = (small.gold_labels != NOT_MENTIONED).any(axis=1)
    assert set(subject[has_gold]) <= set(small.gold_subjects)
    silver = small.pairs[list(DISEASES)].to_numpy()
    both = small.gold_labels != NOT_MENTIONED
    assert 0.6 < (silver[both] == small.gold_labels[both]).mean() <= 1.0


def test_ehr_rows_follow_the_course(small: Population):
    """Sicker lungs: higher respiratory rate, lower saturation; and measured more often."""
    edema = small.course.acute[:, 0, :48].mean(axis=1)
    sick = edema > np.quantile(edema, 0.75)
    early = small.events[small.events["hours"] < 48]

    def mean_of(itemid: int) -> pd.Series:
        rows = early[early["itemid"] == itemid]
        return rows.groupby("stay")["valuenum"].median()

    for itemid, sign in ((220210, 1), (220277, -1), (220045, 1)):
        values = mean_of(itemid)
        score = roc_auc_score(sick[values.index], sign * values)
        assert score > 0.6, itemid
    n_rows = early.groupby("stay").size()
    assert n_rows[sick[n_rows.index]].mean() > n_rows[~sick[n_rows.index]].mean()


def test_values_are_physiological_but_for_the_planted_errors(small: Population):
    numeric = small.events[~small.events["itemid"].isin([*GCS_TEXT, 223835])]
    for variable in VARIABLES:
        rows = numeric[numeric["itemid"] == variable.itemid]["valuenum"]
        if len(rows) > 500:
            outside = ((rows < variable.low) | (rows > variable.high)).mean()
            assert outside < 0.02, variable.name
    assert (small.events["hours"] >= 0).all()
    assert set(small.events.loc[small.events["itemid"] == 220739, "value"]) <= set(GCS_TEXT[220739])
    verbal = small.events[small.events["value"] == "No Response-ETT"]
    assert set(verbal["itemid"]) == {223900} and (verbal["valuenum"] == 1).all()


def test_what_is_added_to_the_tables_is_not_official():
    events = simulate_population("tiny").events
    official = {variable.itemid for variable in VARIABLES}
    extra = events[~events["itemid"].isin(official)]
    assert set(extra["table"]) == {"chartevents", "labevents"}
    assert {220050, 227465, 51006} <= set(extra["itemid"])


def test_additions_leave_every_row_in_place_and_double_some():
    rows = pd.DataFrame(
        {
            "stay": 0, "hours": np.arange(9000) / 60, "itemid": 220045, "table": "chartevents",
            "value": "80", "valuenum": 80.0, "valueuom": "bpm",
        }
    )  # fmt: skip
    more = with_oddities(rows)
    assert len(more) == 9001
    pd.testing.assert_frame_equal(more.drop_duplicates(ignore_index=True), rows, check_dtype=False)


def test_without_a_signal_films_and_ehr_know_nothing_of_death():
    population = simulate_population("small", knobs=Knobs(signal=Signal.NONE))
    icu = population.stays["icu_sample"].to_numpy()
    died = population.stays["died"].to_numpy()[icu]
    rows = population.events[population.events["itemid"] == 220210]
    rate = rows[rows["hours"] < 48].groupby("stay")["valuenum"].mean()
    rate = rate.reindex(population.stays.index).to_numpy()[icu]
    shown = pd.Series(population.film_severity.sum(axis=1)).groupby(population.films["stay"]).mean()
    shown = shown.reindex(population.stays.index).to_numpy()[icu]
    for score in (rate, shown):
        assert abs(roc_auc_score(died, score) - 0.5) < 0.17


def test_knobs_are_all_used():
    base = simulate_population("tiny")
    for field in dataclasses.fields(Knobs):
        if field.name in ("signal", "nuisance"):
            continue
        turned = simulate_population("tiny", knobs=Knobs(**{field.name: 2.0}))
        same = (
            np.array_equal(base.film_severity, turned.film_severity)
            and base.pairs.equals(turned.pairs)
            and base.events.equals(turned.events)
            and base.stays.equals(turned.stays)
        )
        assert not same, field.name
