"""Raw files go through preparation and come out as exactly what was planted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench import prepare, simulate
from bench.data.batch import Inputs, Samples
from bench.data.cohort import IDENTIFIERS, Cohort
from bench.data.vocabulary import DISEASES, NOT_MENTIONED, REGIONS, Cxr, Task
from bench.simulating.oracle import oracle_logits


@pytest.fixture(scope="module")
def ids(prepared: Cohort) -> dict:
    return json.loads((prepared.path / IDENTIFIERS).read_text())


def test_exactly_the_planted_icu_stays_are_kept(tiny_raw: Path, prepared: Cohort, ids: dict):
    truth = pd.read_csv(tiny_raw / "truth" / "stays.csv").set_index("stay_id")
    kept = [
        stay for stay, icu in zip(ids["stays"], prepared.stays["icu_sample"], strict=True) if icu
    ]
    planted = truth[truth["icu_sample"]]
    # Of the decoys only long stays may pass under the strict rules.
    extra = set(kept) - set(planted.index)
    assert set(planted.index) <= set(kept)
    assert set(truth.loc[list(extra), "kind"]) <= {"long_los"}
    rows = prepared.stays[prepared.stays["icu_sample"].to_numpy()]
    expected = truth.loc[kept]
    assert rows["mortality"].tolist() == expected["died"].astype(int).tolist()
    assert rows["length_of_stay"].tolist() == np.digitize(expected["los_days"], (3, 4, 6)).tolist()


def test_exactly_the_planted_pairs_and_labels_come_out(tiny_raw: Path, prepared: Cohort, ids: dict):
    truth = pd.read_csv(tiny_raw / "truth" / "pairs.csv").set_index(["previous", "current"])
    films = ids["films"]
    found = {
        (films[row["film_1"]], films[row["film_2"]]): [row[d] for d in DISEASES]
        for row in prepared.pairs.to_dict("records")
    }
    for pair, row in truth.iterrows():
        silver, gold = row[list(DISEASES)].tolist(), json.loads(row["gold"])
        expected = [g if g != NOT_MENTIONED else s for s, g in zip(silver, gold, strict=True)]
        if pair in found:
            assert found[pair] == expected, pair
        else:
            assert all(label == NOT_MENTIONED for label in expected), pair
    labelled = {pair for pair, row in found.items() if set(row) != {NOT_MENTIONED}}
    assert labelled <= set(truth.index)
    assert len(labelled) > 20


def test_region_labels_are_the_words_of_the_report(tiny_raw: Path, prepared: Cohort, ids: dict):
    truth = pd.read_csv(tiny_raw / "truth" / "pairs.csv").set_index(["previous", "current"])
    films, checked = ids["films"], 0
    for i, row in enumerate(prepared.pairs.to_dict("records")):
        pair = (films[row["film_1"]], films[row["film_2"]])
        if pair not in truth.index or row["from_gold"]:
            continue
        regions = prepared.arrays["region_progression"][i]
        for region, disease, word in json.loads(truth.loc[pair, "region_words"]):
            if region in REGIONS:
                assert regions[REGIONS.index(region), DISEASES.index(disease)] == word
                checked += 1
    assert checked > 50


def test_boxes_are_those_of_the_films(prepared: Cohort):
    boxes = prepared.arrays["boxes"]
    present = np.isfinite(boxes).all(axis=-1)
    assert 0.95 < present.mean() < 1.0
    x1, y1, x2, y2 = boxes[present].T
    assert (x1 < x2).all() and (y1 < y2).all()
    assert boxes[present].min() > -0.2 and boxes[present].max() < 1.2


def test_what_a_reader_must_leave_out_was_planted_and_left_out(prepared: Cohort):
    left_out = prepared.manifest["oddities"]
    assert left_out["relations left out: both films in one study"] > 0
    assert left_out["relations left out: two comparisons, or none"] > 0


def test_the_oracle_knows_every_sample(tiny_raw: Path, prepared: Cohort):
    for task in Task:
        samples = Samples(prepared, task, Cxr.NONE, Inputs(ehr=True))
        logits = oracle_logits(tiny_raw, prepared, task, pd.Series(samples.keys))
        assert len(logits) == len(samples) and np.isfinite(logits).all()


def test_films_for_real_stays(mimic_iv_demo: Path, tmp_path: Path):
    raw, out = tmp_path / "raw", tmp_path / "cohort"
    simulate.main(["--mimic-iv", str(mimic_iv_demo), "--out", str(raw), "--film-size", "64"])
    assert not (raw / "mimic-iv").exists()
    arguments = ["simulated", "--raw", str(raw), "--out", str(out), "--preset", "demo"]
    assert prepare.main(arguments) == 0
    cohort = Cohort.open(out)
    assert cohort.is_simulated and not cohort.is_credentialed
    assert cohort.stays["icu_sample"].sum() > 45
    sick = [row["rule"] for row in cohort.manifest["attrition"]]
    assert len(sick) > 8
