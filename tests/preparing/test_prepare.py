"""From raw files to an opened cohort: contents, determinism, provenance, the commands."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench import prepare as command
from bench import simulate
from bench.data.batch import Inputs, Samples
from bench.data.cohort import IDENTIFIERS, Cohort
from bench.data.vocabulary import (
    DISEASES,
    EHR_VARIABLES,
    NOT_MENTIONED,
    REGIONS,
    Cxr,
    Progression,
    Split,
    Task,
)
from bench.errors import UserError
from bench.preparing.provenance import provenance
from bench.preparing.rules import OFFICIAL, STRICT, Rules
from bench.preparing.splits import draw_as_published
from tests.preparing.raw_tree import (
    CHART,
    FILM_SHAPE,
    INTIME,
    plain_tree,
    prepare,
    stay_id,
    subject,
)
from tests.preparing.raw_tree import HEART_RATE as HEART_RATE_ITEM

EFFUSION = DISEASES.index("pleural effusion")
HEART_RATE = EHR_VARIABLES.index("Heart Rate")


def files_of(cohort: Cohort) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(cohort.path.iterdir())}


def test_a_plain_tree_becomes_the_cohort_that_was_planted(tmp_path: Path):
    cohort = prepare(plain_tree(), tmp_path)
    assert len(cohort.subjects) == len(cohort.stays) == 10
    assert cohort.subjects["split"].value_counts().to_dict() == {
        Split.TRAIN: 7,
        Split.VALIDATION: 1,
        Split.TEST: 2,
    }
    assert cohort.films["hours"].tolist() == pytest.approx([5, 20, 60] * 10)
    assert cohort.stays["icu_sample"].all()
    assert cohort.stays["los_days"].tolist() == pytest.approx([5 + k / 24 for k in range(10)])
    assert cohort.stays["length_of_stay"].tolist() == [2] * 10
    labels = cohort.pairs[list(DISEASES)].to_numpy()
    assert labels[:, EFFUSION].tolist() == [Progression.IMPROVED, Progression.WORSENED] * 10
    assert (np.delete(labels, EFFUSION, axis=1) == NOT_MENTIONED).all()
    regions = cohort.arrays["region_progression"]
    assert (regions[:, REGIONS.index("left lung"), EFFUSION] == labels[:, EFFUSION]).all()
    assert (regions != NOT_MENTIONED).sum() == 20
    assert cohort.arrays["region_present"].all()


def test_windows_begin_and_end_with_their_films(tmp_path: Path):
    cohort = prepare(plain_tree(), tmp_path)
    assert cohort.stays["n_hours"].tolist() == [48] * 10
    assert cohort.pairs["first_hour"].tolist() == [5, 20] * 10
    assert cohort.pairs["n_hours"].tolist() == [16, 41] * 10
    values, observed = cohort.arrays["ehr_values"], cohort.arrays["ehr_observed"]
    pair = cohort.pairs.iloc[0]
    rows = slice(pair["ehr_offset"], pair["ehr_offset"] + pair["n_hours"])
    # Charted at every even hour and a half; hour 20 ends with the film, before 20.5.
    expected = [60 + hour - hour % 2 for hour in range(5, 20)] + [78]
    assert values[rows, HEART_RATE].tolist() == expected
    assert observed[rows, HEART_RATE].tolist() == [hour % 2 == 0 for hour in range(5, 20)] + [False]


def test_the_same_files_give_the_same_bytes_whatever_the_workers(tmp_path: Path):
    first = prepare(plain_tree(), tmp_path / "a", jobs=1)
    second = prepare(plain_tree(), tmp_path / "b", jobs=3)
    assert files_of(first) == files_of(second)


def test_row_order_column_order_and_packing_change_nothing(tmp_path: Path):
    tree = plain_tree()
    first = prepare(tree, tmp_path / "a")
    for name, rows in tree.rows.items():
        tree.rows[name] = rows[::-1]
    raw = tree.write(tmp_path / "b" / "raw", packed=True)
    stays = raw.mimic_iv / "icu" / "icustays.csv.gz"
    table = pd.read_csv(stays, dtype=str)
    table[table.columns[::-1]].assign(new_column="x").to_csv(stays, index=False)
    command.main(
        [
            *("mimic", "--mimic-iv", str(raw.mimic_iv), "--mimic-cxr", str(raw.mimic_cxr)),
            *("--imagenome", str(raw.imagenome), "--out", str(tmp_path / "second"), "--simulated"),
            *("--film-size", "32", "--region-size", "16"),
        ]
    )
    assert Cohort.open(tmp_path / "second").content_hash == first.content_hash


def test_releases_without_provider_columns_are_read(tmp_path: Path):
    tree = plain_tree()
    first = prepare(tree, tmp_path / "a")
    raw = tree.write(tmp_path / "raw")
    for file, column in (
        (raw.mimic_iv / "hosp" / "admissions.csv", "admit_provider_id"),
        (raw.mimic_iv / "icu" / "chartevents.csv", "caregiver_id"),
    ):
        pd.read_csv(file, dtype=str, keep_default_na=False).drop(columns=column).to_csv(
            file, index=False
        )
    main = ["mimic", "--mimic-iv", str(raw.mimic_iv), "--mimic-cxr", str(raw.mimic_cxr)]
    main += ["--imagenome", str(raw.imagenome), "--out", str(tmp_path / "b"), "--simulated"]
    command.main([*main, "--film-size", "32", "--region-size", "16"])
    assert Cohort.open(tmp_path / "b").content_hash == first.content_hash


def test_the_seed_moves_the_split_and_nothing_else(tmp_path: Path):
    first = prepare(plain_tree(20), tmp_path / "a", seed=0)
    second = prepare(plain_tree(20), tmp_path / "b", seed=1)
    assert first.subjects["split"].tolist() != second.subjects["split"].tolist()
    pd.testing.assert_frame_equal(first.pairs, second.pairs)
    assert (first.arrays["ehr_values"] == second.arrays["ehr_values"]).all()


def test_only_the_identifiers_file_holds_raw_identifiers(tmp_path: Path):
    cohort = prepare(plain_tree(), tmp_path)
    for path in cohort.path.iterdir():
        content = path.read_bytes()
        holds = str(subject(3)).encode() in content or str(stay_id(3)).encode() in content
        assert holds == (path.name == IDENTIFIERS), path.name
    for name in ("subjects", "stays", "films", "pairs"):
        numbers = getattr(cohort, name).select_dtypes("number")
        assert not numbers.isin([subject(3), stay_id(3)]).to_numpy().any()
    assert json.loads((cohort.path / IDENTIFIERS).read_text())["stays"][3] == stay_id(3)


def test_keys_of_credentialed_cohorts_cannot_be_guessed(tmp_path: Path):
    raw = plain_tree(3).write(tmp_path)
    folders = (raw.mimic_iv, raw.mimic_cxr, raw.imagenome)
    origin = provenance(*folders, marked_simulated=False, marked_open=False)
    assert origin.credentialed and not origin.simulated
    assert origin.secret() != origin.secret()
    assert provenance(*folders, marked_simulated=True, marked_open=False).credentialed
    demo = provenance(*folders, marked_simulated=False, marked_open=True)
    assert not demo.credentialed
    assert demo.secret() == demo.secret()


def test_titles_tell_what_is_simulated(tmp_path: Path):
    raw = plain_tree(3).write(tmp_path / "raw")
    folders = (raw.mimic_iv, raw.mimic_cxr, raw.imagenome)
    settings = tmp_path / "raw" / "simulation.json"
    settings.write_text(json.dumps({"size": "small", "seed": 7, "mimic_iv": None}))
    origin = provenance(*folders, marked_simulated=False, marked_open=False)
    assert origin.title == "simulated cohort, small, seed 7"
    assert origin.simulated and not origin.credentialed

    elsewhere = shutil.copytree(raw.mimic_iv, tmp_path / "elsewhere" / "mimic-iv")
    (elsewhere / "demo_subject_id.csv").write_text("subject_id\n")
    origin = provenance(elsewhere, *folders[1:], marked_simulated=False, marked_open=False)
    assert origin.title == "mimic-iv demo stays, simulated films"
    assert origin.simulated and not origin.credentialed

    (elsewhere / "demo_subject_id.csv").unlink()
    origin = provenance(elsewhere, *folders[1:], marked_simulated=False, marked_open=False)
    assert origin.simulated and origin.credentialed


def test_the_manifest_tells_how_it_was_made(tmp_path: Path):
    strict = prepare(plain_tree(), tmp_path / "a").manifest
    assert strict["rules"] == "strict" and strict["official_behaviour"] == []
    steps = strict["attrition"]
    assert steps[0] == {"rule": "ICU stays", "n_stays": 10, "n_films": None, "n_subjects": 10}
    assert steps[-1]["n_films"] == 30
    official = prepare(plain_tree(), tmp_path / "b", rules=OFFICIAL).manifest
    assert "los_fence" in official["official_behaviour"]
    assert official["not_reproduced"]
    assert official["content_hash"] != strict["content_hash"]


def test_official_windows_are_an_hour_longer(tmp_path: Path):
    longer = Rules("strict", hour_after_prediction=True)
    cohort = prepare(plain_tree(), tmp_path / "a", rules=longer)
    assert set(cohort.stays["n_hours"]) == {49}
    assert cohort.pairs["n_hours"].tolist() == [17, 42] * 10
    # The first films are on whole hours: the hour before is there, too, and has their number.
    cohort = prepare(plain_tree(), tmp_path / "b", rules=OFFICIAL)
    assert set(cohort.stays["n_hours"]) == {49}
    assert cohort.pairs["n_hours"].tolist() == [18, 43] * 10
    assert cohort.pairs["first_hour"].tolist() == [5, 20] * 10
    row = cohort.pairs["ehr_offset"].iloc[0]
    assert cohort.arrays["ehr_values"][row : row + 2, HEART_RATE].tolist() == [64, 64]
    assert cohort.arrays["ehr_observed"][row : row + 2, HEART_RATE].tolist() == [True, False]


def test_a_stay_without_film_or_sample_is_left_out(tmp_path: Path):
    tree = plain_tree()
    tree.add_stay(50)
    tree.add_stay(51)
    tree.add_film(51, 60, "x1")
    tree.add_film(51, 75, "x2")  # two films, but late and not compared
    cohort = prepare(tree, tmp_path)
    assert len(cohort.stays) == 10
    assert cohort.manifest["attrition"][-2]["n_stays"] == 11
    kept = prepare(tree, tmp_path / "official", rules=OFFICIAL)
    assert len(kept.stays) == len(kept.subjects) == 11


def test_a_replaced_cohort_needs_force(tmp_path: Path):
    tree = plain_tree(3)
    raw = tree.write(tmp_path / "raw")
    words = ["mimic", "--mimic-iv", str(raw.mimic_iv), "--mimic-cxr", str(raw.mimic_cxr)]
    words += ["--imagenome", str(raw.imagenome), "--out", str(tmp_path / "out"), "--simulated"]
    words += ["--film-size", "32", "--region-size", "16"]
    assert command.main(words) == 0
    with pytest.raises(UserError, match="--force"):
        command.main(words)
    assert command.main([*words, "--force"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "raw"]


def test_films_become_a_cohort_that_methods_can_read(real_cxr: Path, tmp_path: Path):
    images = [str(p) for p in sorted(real_cxr.iterdir()) if p.suffix in (".jpg", ".png")]
    words = ["films", *images[::-1], "--out", str(tmp_path / "films")]
    assert command.main([*words, "--film-size", "64", "--region-size", "32"]) == 0
    cohort = Cohort.open(tmp_path / "films")
    assert cohort.manifest["labels"] == "none"
    assert "canonical boxes" in cohort.title
    assert cohort.films["hours"].tolist() == [0, 0, 12, 24, 36, 0]
    assert cohort.stays["icu_sample"].tolist() == [False, True, False]
    assert not cohort.arrays["ehr_observed"].any()
    assert cohort.arrays["region_present"].all()
    assert (cohort.arrays["films"].std(axis=(1, 2)) > 20).all()

    samples = Samples(cohort, Task.MORTALITY, Cxr.LONG, Inputs(True, True, True, True))
    batch = samples.batch(np.arange(len(samples)))
    assert batch.films.shape == (1, 4, 64, 64) and batch.film_valid.all()
    assert batch.pair_valid.all()
    assert (
        np.isfinite(batch.ehr_values.numpy()).all()
        and np.isfinite(batch.demographics.numpy()).all()
    )
    late = batch.ehr_values[0, 0].numpy() * cohort.normalisation.ehr_sd
    assert np.allclose(late, 0, atol=1e-3)


def test_films_of_any_shape_and_mode(tmp_path: Path):
    from PIL import Image

    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, FILM_SHAPE, dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "7_1.png")
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "7_2.png")
    Image.fromarray(grey.astype(np.uint16) << 8).save(tmp_path / "7_3.png")
    images = [str(tmp_path / f"7_{i}.png") for i in (1, 2, 3)]
    words = ["films", *images, "--out", str(tmp_path / "out")]
    command.main([*words, "--film-size", "32", "--region-size", "16"])
    films = Cohort.open(tmp_path / "out").arrays["films"]
    assert (films[0] == films[1]).all() and (films[0] == films[2]).all()


def test_a_simulation_comes_back_as_planted(tmp_path: Path):
    raw, out = tmp_path / "raw", tmp_path / "cohort"
    size = ["--size", "tiny", "--film-size", "64", "--jobs", "1"]
    assert simulate.main([*size, "--out", str(raw)]) == 0
    assert command.main(["simulated", "--raw", str(raw), "--out", str(out), "--jobs", "1"]) == 0
    cohort = Cohort.open(out)
    assert cohort.is_simulated and cohort.title == "simulated cohort, tiny, seed 7"
    assert (cohort.manifest["film_size"], cohort.manifest["region_size"]) == (128, 32)

    truth = {name: pd.read_csv(raw / "truth" / f"{name}.csv") for name in ("stays", "pairs")}
    ids = json.loads((out / IDENTIFIERS).read_text())
    stays = cohort.stays.assign(stay_id=ids["stays"]).merge(
        truth["stays"], on="stay_id", suffixes=("", "_planted")
    )
    dropped = set(stays["kind"]) - {"clean", "long_los"}
    assert not dropped
    clean = truth["stays"][truth["stays"]["kind"] == "clean"]
    assert set(clean.loc[clean["icu_sample"], "stay_id"]) <= set(ids["stays"])
    assert (stays["mortality"] == stays["died"]).all()
    assert stays["los_days"].to_numpy() == pytest.approx(stays["los_days_planted"], abs=1e-4)

    film = np.array(ids["films"], dtype=object)
    pairs = cohort.pairs.assign(
        previous=film[cohort.pairs["film_1"]], current=film[cohort.pairs["film_2"]]
    ).merge(truth["pairs"], on=["previous", "current"], suffixes=("", "_planted"))
    assert len(pairs) == truth["pairs"]["stay_id"].isin(ids["stays"]).sum() > 20
    gold = np.array([json.loads(row) for row in pairs["gold"]])
    silver = pairs[[f"{disease}_planted" for disease in DISEASES]].to_numpy()
    planted = np.where(gold != NOT_MENTIONED, gold, silver)
    assert (pairs[list(DISEASES)].to_numpy() == planted).all()
    assert (planted != NOT_MENTIONED).sum() > 50


def test_official_series_end_with_the_last_charted_value(tmp_path: Path):
    tree = plain_tree(3)
    tree.rows[CHART] = [
        row
        for row in tree.rows[CHART]
        if row["subject_id"] != subject(0) or row["charttime"] < INTIME + pd.Timedelta(hours=30)
    ]
    rules = Rules("strict", series_end_with_charting=True)
    ended = prepare(tree, tmp_path / "a", rules=rules)
    # The last heart rate is at 28.5 h, the second pair spans hours 20 to 60.
    assert ended.stays["n_hours"].tolist() == [29, 48, 48]
    assert ended.pairs["n_hours"].tolist() == [16, 9, 16, 41, 16, 41]
    usual = prepare(tree, tmp_path / "b")
    for pair in ended.pairs.index:
        rows = [cohort.pairs.loc[pair, "ehr_offset"] for cohort in (ended, usual)]
        n_hours = ended.pairs.loc[pair, "n_hours"]
        shown, all_hours = (
            cohort.arrays["ehr_values"][row : row + n_hours]
            for cohort, row in zip((ended, usual), rows, strict=True)
        )
        assert (shown == all_hours).all()
    # Events after the windows were read to find the end, but training statistics show none.
    assert ended.normalisation.to_json() == usual.normalisation.to_json()
    samples = Samples(ended, Task.MORTALITY, Cxr.LONG, Inputs(True, True, True, True))
    assert samples.batch(np.arange(3)).ehr_valid.sum(dim=1).tolist() == [29, 48, 48]


def test_official_statistics_are_those_of_stays_without_films_too(tmp_path: Path):
    tree = plain_tree()
    tree.add_stay(50, los_hours=30, anchor_age=70)
    tree.chart(50, 1, HEART_RATE_ITEM, 300)
    cohorts = {
        name: prepare(tree, tmp_path / name, rules=rules)
        for name, rules in {
            "strict": STRICT,
            "cohort": replace(OFFICIAL, normalise_beyond_cohort=False),
            "adults": OFFICIAL,
        }.items()
    }
    # Of each subject k of the ten: 60 + k + hour at the even hours to 108.
    charted = [60 + k + hour for k in range(10) for hour in range(0, 110, 2)]
    mean, sd = (
        {name: getattr(cohort.normalisation, of)[HEART_RATE] for name, cohort in cohorts.items()}
        for of in ("ehr_mean", "ehr_sd")
    )
    assert (mean["cohort"], sd["cohort"]) == pytest.approx((np.mean(charted), np.std(charted)))
    charted.append(300)
    assert (mean["adults"], sd["adults"]) == pytest.approx((np.mean(charted), np.std(charted)))
    assert mean["strict"] < mean["cohort"]
    age = {name: cohort.normalisation.demographics_mean[0] for name, cohort in cohorts.items()}
    assert (age["cohort"], age["adults"]) == (64.5, 65)
    assert len(cohorts["adults"].stays) == 10


def test_the_published_draw_is_one_rule(tmp_path: Path):
    tree = plain_tree(20)
    own, published = (
        prepare(tree, tmp_path / str(rule), rules=Rules("strict", published_draw=rule))
        for rule in (False, True)
    )
    ids = np.array([subject(k) for k in range(20)])
    expected = draw_as_published(ids, (), 0)
    assert published.subjects["split"].tolist() == expected.tolist()
    assert own.subjects["split"].tolist() != expected.tolist()
