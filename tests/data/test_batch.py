"""From a cohort to padded batches: which samples, films, hours and labels, and what is withheld."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.data.batch import Batch, Inputs, Samples, Targets, progression_class_weights
from bench.data.cohort import Cohort
from bench.data.vocabulary import (
    DEMOGRAPHICS,
    DISEASES,
    FINDING_UNKNOWN,
    ICU_HORIZON_HOURS,
    NOT_MENTIONED,
    Cxr,
    Split,
    Task,
)

ALL = Inputs(regions=True, films=True, ehr=True, demographics=True)
SETTINGS = [
    *(
        (task, cxr)
        for task in (Task.MORTALITY, Task.LENGTH_OF_STAY)
        for cxr in Cxr
        if cxr != "pair"
    ),
    (Task.DISEASE_PROGRESSION, Cxr.PAIR),
    (Task.DISEASE_PROGRESSION, Cxr.NONE),
]
EVERY_SETTING = pytest.mark.parametrize(("task", "cxr"), SETTINGS)

DTYPES = {
    "films": torch.uint8,
    "regions": torch.uint8,
    "region_present": torch.bool,
    "film_valid": torch.bool,
    "pair_valid": torch.bool,
    "ehr_observed": torch.bool,
    "ehr_valid": torch.bool,
    "progression": torch.int64,
    "length_of_stay": torch.int64,
    "region_progression": torch.int64,
    "findings": torch.int64,
}
"""The others are float32."""


def samples_of(
    cohort: Cohort,
    task: Task = Task.MORTALITY,
    cxr: Cxr = Cxr.LONG,
    inputs: Inputs = ALL,
) -> Samples:
    return Samples(cohort, task, cxr, inputs)


def everything(samples: Samples) -> Batch:
    return samples.batch(np.arange(len(samples)))


def changed(cohort: Cohort, table: str, change: Callable[[Any], Any]) -> Cohort:
    """The cohort with one of its tables changed."""
    return replace(cohort, **{table: change(getattr(cohort, table).copy())})


def early_films(cohort: Cohort, stay: int) -> list[int]:
    films = cohort.films[cohort.films["stay"] == stay].sort_values("hours")
    return list(films.index[films["hours"] < ICU_HORIZON_HOURS])


def tensors(batch: Batch) -> dict[str, Tensor]:
    parts = {f.name: getattr(batch, f.name) for f in fields(Batch) if f.name != "targets"}
    labels = {f.name: getattr(batch.targets, f.name) for f in fields(Targets)}
    return parts | labels


class TestWhichSamples:
    def test_stays_of_the_icu_tasks(self, cohort: Cohort) -> None:
        samples = samples_of(cohort)
        assert list(samples.rows) == list(np.flatnonzero(cohort.stays["icu_sample"]))
        assert 0 < len(samples) < len(cohort.stays)
        assert list(samples.keys) == list(cohort.stays["stay_key"][samples.rows])

    def test_pairs_with_a_label(self, cohort: Cohort) -> None:
        def silence(pairs: Any) -> Any:
            pairs.loc[4, list(DISEASES)] = NOT_MENTIONED
            return pairs

        silenced = changed(cohort, "pairs", silence)
        samples = samples_of(silenced, Task.DISEASE_PROGRESSION, Cxr.PAIR)
        assert 4 not in samples.rows
        assert len(samples) == len(cohort.pairs) - 1
        assert list(samples.keys) == list(cohort.pairs["pair_key"].drop(4))

    @EVERY_SETTING
    def test_split_by_subject(self, cohort: Cohort, task: Task, cxr: Cxr) -> None:
        samples = samples_of(cohort, task, cxr)
        subjects = [set(samples.subject[samples.indices(split)]) for split in Split]
        assert all(subjects)
        assert not subjects[0] & subjects[1] and not (subjects[0] | subjects[1]) & subjects[2]
        assert sum(len(samples.indices(split)) for split in Split) == len(samples)
        for i in (0, len(samples) - 1):
            row = cohort.subjects.loc[samples.subject[i]]
            assert (samples.split[i], samples.subject_keys[i]) == tuple(
                row[["split", "subject_key"]]
            )


class TestFilms:
    def test_long_is_every_early_film_oldest_first(self, cohort: Cohort) -> None:
        samples = samples_of(cohort)
        batch = everything(samples)
        lengths = batch.film_valid.sum(1)
        assert lengths.min() < lengths.max() == batch.film_valid.shape[1]
        for i, stay in enumerate(samples.rows):
            rows, n = early_films(cohort, stay), int(lengths[i])
            assert n == len(rows)
            assert torch.equal(batch.film_valid[i], torch.arange(len(batch.film_valid[i])) < n)
            assert np.array_equal(batch.films[i, :n].numpy(), cohort.arrays["films"][rows])
            assert np.array_equal(batch.regions[i, :n].numpy(), cohort.arrays["regions"][rows])
            present = batch.region_present[i, :n].numpy()
            assert np.array_equal(present, cohort.arrays["region_present"][rows])
            hours = cohort.films["hours"][rows].to_numpy(np.float32)
            assert np.array_equal(batch.film_hours[i, :n].numpy(), hours)

    def test_last_is_the_newest_film_before_the_prediction_time(self, cohort: Cohort) -> None:
        samples = samples_of(cohort, cxr=Cxr.LAST)
        batch = everything(samples)
        assert batch.film_valid.shape == (len(samples), 1) and batch.film_valid.all()
        assert batch.pair_valid.shape == (len(samples), 0)
        for i, stay in enumerate(samples.rows):
            newest = early_films(cohort, stay)[-1]
            assert np.array_equal(batch.films[i, 0].numpy(), cohort.arrays["films"][newest])
        has_later = [
            (cohort.films["stay"] == s).sum() > len(early_films(cohort, s)) for s in samples.rows
        ]
        assert any(has_later)

    def test_a_film_at_the_prediction_time_is_too_late(self, cohort: Cohort) -> None:
        stay = next(s for s in samples_of(cohort).rows if len(early_films(cohort, s)) == 3)
        newest = early_films(cohort, stay)[-1]

        def postpone(films: Any) -> Any:
            films.loc[newest, "hours"] = ICU_HORIZON_HOURS
            return films

        samples = samples_of(changed(cohort, "films", postpone))
        batch = samples.batch(np.flatnonzero(samples.rows == stay))
        assert batch.film_valid.sum() == 2
        assert batch.film_hours.max() < ICU_HORIZON_HOURS

    def test_order_is_by_hours_not_by_row(self, cohort: Cohort) -> None:
        def reverse(films: Any) -> Any:
            early = films["hours"] < ICU_HORIZON_HOURS
            films.loc[early, "hours"] = ICU_HORIZON_HOURS - films["hours"][early]
            return films

        reversed_ = changed(cohort, "films", reverse)
        samples = samples_of(reversed_)
        batch = everything(samples)
        steps = batch.film_hours.diff(dim=1)[batch.film_valid[:, 1:]]
        assert (steps > 0).all()
        oldest = early_films(cohort, samples.rows[0])[-1]
        assert np.array_equal(batch.films[0, 0].numpy(), cohort.arrays["films"][oldest])

    def test_a_progression_sample_is_its_two_films(self, cohort: Cohort) -> None:
        batch = everything(samples_of(cohort, Task.DISEASE_PROGRESSION, Cxr.PAIR))
        assert batch.film_valid.shape[1] == 2 and batch.film_valid.all() and batch.pair_valid.all()
        for column, place in (("film_1", 0), ("film_2", 1)):
            rows = cohort.pairs[column].to_numpy()
            assert np.array_equal(batch.films[:, place].numpy(), cohort.arrays["films"][rows])

    def test_the_film_axis_is_cut_to_the_longest_of_the_batch(self, cohort: Cohort) -> None:
        samples = samples_of(cohort)
        whole = everything(samples)
        for i in range(len(samples)):
            alone, n = samples.batch(np.array([i])), int(whole.film_valid[i].sum())
            assert alone.film_valid.shape == (1, n)
            for name in ("films", "regions", "region_present", "film_hours"):
                assert torch.equal(getattr(alone, name)[0], getattr(whole, name)[i, :n])
            assert torch.equal(alone.pair_hours[0], whole.pair_hours[i, : n - 1])

    def test_pairs_are_neighbouring_valid_films(self, cohort: Cohort) -> None:
        batch = everything(samples_of(cohort))
        assert torch.equal(batch.pair_valid, batch.film_valid[:, 1:])
        assert batch.pair_valid.sum() == (batch.film_valid.sum(1) - 1).sum()
        for i, pair in batch.pair_valid.nonzero().tolist():
            assert torch.equal(batch.pair_hours[i, pair], batch.film_hours[i, pair : pair + 2])


class TestHours:
    def test_a_stay_has_its_first_48(self, cohort: Cohort) -> None:
        samples = samples_of(cohort)
        batch = everything(samples)
        assert batch.ehr_valid.shape[1] == 48 and batch.ehr_valid.all()
        assert torch.equal(batch.ehr_hours[3], torch.arange(48.0))

    def test_a_pair_has_the_hours_between_its_films(self, cohort: Cohort) -> None:
        samples = samples_of(cohort, Task.DISEASE_PROGRESSION, Cxr.PAIR)
        batch = everything(samples)
        for i, pair in cohort.pairs.iterrows():
            hours = batch.ehr_hours[i][batch.ehr_valid[i]]
            first, last = batch.film_hours[i].floor().tolist()
            assert hours.tolist() == list(np.arange(first, last + 1))
            window = slice(pair["ehr_offset"], pair["ehr_offset"] + pair["n_hours"])
            observed = batch.ehr_observed[i][batch.ehr_valid[i]].numpy()
            assert np.array_equal(observed, cohort.arrays["ehr_observed"][window])

    def test_values_are_scaled_by_the_cohorts_training_statistics(self, cohort: Cohort) -> None:
        norm = cohort.normalisation
        for task, cxr in ((Task.MORTALITY, Cxr.NONE), (Task.DISEASE_PROGRESSION, Cxr.PAIR)):
            samples = samples_of(cohort, task, cxr)
            table = (cohort.stays if task.is_icu else cohort.pairs).iloc[samples.rows]
            batch = everything(samples)
            for i, (start, n) in enumerate(zip(table["ehr_offset"], table["n_hours"], strict=True)):
                raw = cohort.arrays["ehr_values"][start : start + n].astype(np.float64)
                expected = (raw - norm.ehr_mean) / norm.ehr_sd
                np.testing.assert_allclose(batch.ehr_values[i, :n].numpy(), expected, atol=1e-5)

    def test_other_samples_do_not_move_the_scale(self, cohort: Cohort) -> None:
        samples = samples_of(cohort)
        arrays = dict(cohort.arrays)
        outside = cohort.stays[cohort.split_of_stays() != Split.TRAIN]
        values = np.array(arrays["ehr_values"])
        for start, n in zip(outside["ehr_offset"], outside["n_hours"], strict=True):
            values[start : start + n] *= 10
        arrays["ehr_values"] = values
        train = samples.indices(Split.TRAIN)
        other = samples_of(replace(cohort, arrays=arrays))
        assert torch.equal(other.batch(train).ehr_values, samples.batch(train).ehr_values)
        test = samples.indices(Split.TEST)
        assert not torch.equal(other.batch(test).ehr_values, samples.batch(test).ehr_values)


class TestDemographics:
    def test_are_scaled_and_one_hot(self, cohort: Cohort) -> None:
        samples = samples_of(cohort)
        values = everything(samples).demographics
        raw, norm = cohort.arrays["demographics"][samples.rows], cohort.normalisation
        known = ~np.isnan(raw)
        expected = ((raw - norm.demographics_mean) / norm.demographics_sd)[known]
        np.testing.assert_allclose(values.numpy()[known], expected, atol=1e-5)
        assert set(values[:, 3:].unique().tolist()) == {0.0, 1.0}

    def test_the_unknown_becomes_the_mean_or_the_commonest(self, cohort: Cohort) -> None:
        values = everything(samples_of(cohort)).demographics
        height = DEMOGRAPHICS.index("height")
        married = [i for i, name in enumerate(DEMOGRAPHICS) if name.startswith("marital")]
        assert np.isnan(cohort.arrays["demographics"][0, height])
        assert values[0, height] == 0
        assert np.isnan(cohort.arrays["demographics"][1, married]).all()
        fill = cohort.normalisation.demographics_fill[married]
        assert values[1, married].tolist() == fill.tolist()
        assert fill.sum() == 1

    def test_a_pair_has_those_of_its_stay(self, cohort: Cohort) -> None:
        pairs = everything(samples_of(cohort, Task.DISEASE_PROGRESSION, Cxr.PAIR))
        samples = samples_of(cohort)
        stays = everything(samples).demographics
        stay = cohort.pairs["stay"].to_numpy()
        i = int(np.flatnonzero(np.isin(stay, samples.rows))[-1])
        (position,) = np.flatnonzero(samples.rows == stay[i])
        assert torch.equal(pairs.demographics[i], stays[position])


class TestLabels:
    def test_of_pairs(self, cohort: Cohort) -> None:
        samples = samples_of(cohort, Task.DISEASE_PROGRESSION, Cxr.PAIR)
        targets = everything(samples).targets
        assert targets is not None
        expected = cohort.pairs[list(DISEASES)].to_numpy()
        assert np.array_equal(targets.progression.numpy(), expected)
        assert np.array_equal(samples.labels()["progression"], expected)
        assert not targets.mortality.any() and not targets.length_of_stay.any()
        region = targets.region_progression[:, 0].numpy()
        assert np.array_equal(region, cohort.arrays["region_progression"])

    def test_of_stays(self, cohort: Cohort) -> None:
        samples = samples_of(cohort, Task.LENGTH_OF_STAY)
        targets, stays = everything(samples).targets, cohort.stays.iloc[samples.rows]
        assert targets is not None
        assert targets.mortality.tolist() == stays["mortality"].tolist()
        assert targets.length_of_stay.tolist() == stays["length_of_stay"].tolist()
        assert (targets.progression == NOT_MENTIONED).all()

    def test_by_region_of_the_pairs_of_a_stay(self, cohort: Cohort) -> None:
        samples = samples_of(cohort)
        batch = everything(samples)
        assert batch.targets is not None
        region = batch.targets.region_progression
        row_of = {(p.film_1, p.film_2): p.Index for p in cohort.pairs.itertuples()}
        for i, stay in enumerate(samples.rows):
            films = early_films(cohort, stay)
            for j, pair in enumerate(itertools.pairwise(films)):
                expected = cohort.arrays["region_progression"][row_of[pair]]
                assert np.array_equal(region[i, j].numpy(), expected)
        assert (region[~batch.pair_valid] == NOT_MENTIONED).all()

    def test_neighbouring_films_without_a_pair_have_no_region_labels(self, cohort: Cohort) -> None:
        samples = samples_of(changed(cohort, "pairs", lambda pairs: pairs.iloc[1:]))
        targets = samples.batch(np.array([0])).targets
        assert targets is not None
        assert (targets.region_progression[0, 0] == NOT_MENTIONED).all()

    def test_findings_of_each_film(self, cohort: Cohort) -> None:
        samples = samples_of(cohort)
        batch = everything(samples)
        assert batch.targets is not None
        for i, stay in enumerate(samples.rows):
            films = early_films(cohort, stay)
            own = batch.targets.findings[i, : len(films)].numpy()
            assert np.array_equal(own, cohort.arrays["findings"][films])
        assert (batch.targets.findings[~batch.film_valid] == FINDING_UNKNOWN).all()

    def test_are_withheld_in_prediction(self, cohort: Cohort) -> None:
        batch = everything(samples_of(cohort))
        assert batch.without_targets().targets is None
        assert torch.equal(batch.without_targets().films, batch.films)


class TestDroppedEhr:
    def dropped(
        self, cohort: Cohort, share: float, inputs: Inputs = ALL, seed: int = 0
    ) -> set[int]:
        samples = Samples(cohort, Task.MORTALITY, Cxr.LONG, inputs, share, seed)
        batch = everything(samples)
        return set(np.flatnonzero(~batch.ehr_valid.any(dim=1).numpy()).tolist())

    def test_hides_that_share_of_training_samples_and_no_other(self, cohort: Cohort) -> None:
        training = samples_of(cohort).indices(Split.TRAIN)
        hidden = self.dropped(cohort, 0.5)
        assert len(hidden) == round(0.5 * len(training))
        assert hidden <= set(training.tolist())

    def test_a_smaller_share_is_part_of_a_larger_one(self, cohort: Cohort) -> None:
        assert self.dropped(cohort, 0.25) < self.dropped(cohort, 0.75)

    def test_is_the_same_for_every_method_and_another_for_another_seed(
        self, cohort: Cohort
    ) -> None:
        assert self.dropped(cohort, 0.5) == self.dropped(cohort, 0.5, Inputs(ehr=True))
        assert self.dropped(cohort, 0.5) != self.dropped(cohort, 0.5, seed=1)

    def test_demographics_stay(self, cohort: Cohort) -> None:
        whole, part = (Samples(cohort, Task.MORTALITY, Cxr.LONG, ALL, s) for s in (0.0, 0.75))
        assert torch.equal(everything(whole).demographics, everything(part).demographics)


class TestShape:
    @EVERY_SETTING
    def test_dtypes_and_finite_values(self, cohort: Cohort, task: Task, cxr: Cxr) -> None:
        samples = samples_of(cohort, task, cxr)
        batch = everything(samples)
        assert len(batch) == len(samples)
        for name, value in tensors(batch).items():
            assert value.dtype == DTYPES.get(name, torch.float32), name
            assert torch.isfinite(value.float()).all(), name

    @EVERY_SETTING
    def test_padding_is_zero(self, cohort: Cohort, task: Task, cxr: Cxr) -> None:
        batch = everything(samples_of(cohort, task, cxr))
        for mask, names in (
            (batch.film_valid, ("films", "regions", "region_present", "film_hours")),
            (batch.pair_valid, ("pair_hours",)),
            (batch.ehr_valid, ("ehr_values", "ehr_observed", "ehr_hours")),
        ):
            assert all(not getattr(batch, name)[~mask].any() for name in names)

    def test_an_absent_region_is_black(self, cohort: Cohort) -> None:
        batch = everything(samples_of(cohort))
        absent = batch.film_valid[..., None] & ~batch.region_present
        assert absent.any()
        assert not batch.regions[absent].any()

    def test_what_is_not_declared_has_no_length(self, cohort: Cohort) -> None:
        batch = everything(samples_of(cohort, inputs=Inputs()))
        n, n_films = batch.film_valid.shape
        assert n_films == 4
        assert batch.films.shape == (n, 4, 0, 0)
        assert batch.regions.shape == (n, 4, 0, 0, 0)
        assert batch.ehr_values.shape == (n, 0, 38)
        assert batch.ehr_observed.shape == (n, 0, 38)
        assert batch.ehr_hours.shape == batch.ehr_valid.shape == (n, 0)
        assert batch.demographics.shape == (n, 0)
        assert batch.targets is not None

    @pytest.mark.parametrize("name", ["regions", "films", "ehr", "demographics"])
    def test_each_input_is_declared_by_itself(self, cohort: Cohort, name: str) -> None:
        batch = everything(samples_of(cohort, inputs=Inputs(**{name: True})))
        given = {
            "regions": batch.regions,
            "films": batch.films,
            "ehr": batch.ehr_values,
            "demographics": batch.demographics,
        }
        assert [key for key, value in given.items() if value.numel()] == [name]

    @pytest.mark.parametrize("task", [Task.MORTALITY, Task.DISEASE_PROGRESSION])
    def test_without_films_the_film_axis_has_no_length(self, cohort: Cohort, task: Task) -> None:
        batch = everything(samples_of(cohort, task, Cxr.NONE))
        assert batch.film_valid.shape[1] == batch.films.shape[1] == batch.regions.shape[1] == 0
        assert batch.pair_valid.shape == (len(batch), 0)
        assert batch.pair_hours.shape == (len(batch), 0, 2)
        assert batch.ehr_values.any()

    def test_samples_come_in_the_order_asked_for(self, cohort: Cohort) -> None:
        samples = samples_of(cohort)
        batch, picked = everything(samples), samples.batch(np.array([5, 2, 5]))
        assert torch.equal(picked.ehr_values, batch.ehr_values[[5, 2, 5]])
        assert torch.equal(picked.demographics, batch.demographics[[5, 2, 5]])

    def test_moves_every_tensor(self, cohort: Cohort) -> None:
        moved = everything(samples_of(cohort)).to("meta")
        assert all(value.device.type == "meta" for value in tensors(moved).values())
        assert everything(samples_of(cohort)).without_targets().to("meta").targets is None


class TestClassWeights:
    def test_are_n_by_three_times_the_class(self, cohort: Cohort) -> None:
        training = cohort.split_of_stays()[cohort.pairs["stay"]] == Split.TRAIN
        labels = np.resize([0, 0, 1, 2, 2, 2, NOT_MENTIONED], training.sum() // 7 * 7)
        labels = np.append(labels, np.full(training.sum() - len(labels), NOT_MENTIONED))

        def relabel(pairs: Any) -> Any:
            pairs.loc[training, DISEASES[2]] = labels.astype(np.int8)
            pairs.loc[~training, DISEASES[2]] = 0
            return pairs

        weights = progression_class_weights(changed(cohort, "pairs", relabel))
        assert weights.dtype == np.float32
        assert weights.shape == (7, 3)
        np.testing.assert_allclose(weights[2], [6 / 6, 6 / 3, 6 / 9], rtol=1e-6)

    def test_a_class_never_seen_in_training_weighs_nothing(self, cohort: Cohort) -> None:
        def relabel(pairs: Any) -> Any:
            pairs[DISEASES[0]] = pairs[DISEASES[0]].replace(1, 2)
            pairs[DISEASES[1]] = NOT_MENTIONED
            return pairs

        weights = progression_class_weights(changed(cohort, "pairs", relabel))
        assert weights[0, 1] == 0
        assert (weights[0, [0, 2]] > 0).all()
        assert not weights[1].any()
