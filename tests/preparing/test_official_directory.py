"""A directory of the official scripts: the samples that their data set returns, and bad input."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench import prepare as command
from bench.data.batch import Batch, Inputs, Samples
from bench.data.cohort import Cohort
from bench.data.vocabulary import (
    DISEASES,
    EHR_VARIABLES,
    FINDING_UNKNOWN,
    REGIONS,
    Cxr,
    Split,
    Task,
)
from bench.errors import UserError
from bench.preparing.images import Sizes
from bench.preparing.official_directory import prepare_official
from tests.preparing.official_tree import (
    CROP,
    STAYS,
    OfficialSample,
    OfficialTree,
    official_sample,
    official_tree,
)

SIZES = Sizes(film=24, region=CROP)
EVERYTHING = Inputs(regions=True, films=True, ehr=True, demographics=True)
OUR_SPLIT = {"train": Split.TRAIN, "val": Split.VALIDATION, "test": Split.TEST}


@pytest.fixture
def tree() -> OfficialTree:
    return official_tree()


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[..., Cohort]:
    def write_and_prepare(tree: OfficialTree, **options: bool) -> Cohort:
        folders = tree.write(tmp_path)
        return prepare_official(*folders, tmp_path / "out" / "cohort", SIZES, **options)

    return write_and_prepare


@pytest.fixture(scope="module", params=[False, True], ids=["folders", "flat"])
def laid_out(request: pytest.FixtureRequest, tmp_path_factory) -> tuple[Cohort, bool]:
    """The cohort of the unchanged tree, and whether its films lie side by side."""
    root = tmp_path_factory.mktemp("official")
    folders = official_tree().write(root, flat=request.param)
    return prepare_official(*folders, root / "out" / "cohort", SIZES), request.param


def assert_same_samples(cohort: Cohort, task: Task, flat: bool = False) -> int:
    """Compare every row of a task's files with our sample; returns how many there were."""
    root = cohort.path.parent.parent
    folder = "mortality_los" if task.is_icu else task
    samples = Samples(cohort, task, Cxr.LONG if task.is_icu else Cxr.PAIR, EVERYTHING)
    batch = samples.batch(np.arange(len(samples)))
    position = {key: i for i, key in enumerate(identifiers(cohort, samples))}
    for split, ours in OUR_SPLIT.items():
        table = pd.read_csv(root / "processed/split" / folder / f"{split}.csv")
        for row, line in table.iterrows():
            key = (
                (line["stay_id"],)
                if task.is_icu
                else (line["cxr1_dicom_id"], line["cxr2_dicom_id"])
            )
            i = position.pop(key)
            assert samples.split[i] == ours
            expected = official_sample(
                root / "processed", root / "mimic-cxr", task, split, int(row), flat
            )
            assert_same(batch, i, task, expected)
    assert not position
    return len(samples)


def identifiers(cohort: Cohort, samples: Samples) -> list[tuple]:
    """What the official files call our samples."""
    known = json.loads((cohort.path / "identifiers.json").read_text())
    if samples.task.is_icu:
        return [(known["stays"][row],) for row in samples.rows]
    films = cohort.pairs.iloc[samples.rows][["film_1", "film_2"]].to_numpy()
    return [(known["films"][first], known["films"][second]) for first, second in films]


def assert_same(batch: Batch, i: int, task: Task, expected: OfficialSample) -> None:
    hours, films = batch.ehr_valid[i], batch.film_valid[i]
    pairs = batch.pair_valid[i]
    np.testing.assert_array_equal(batch.ehr_values[i][hours], expected.ehr)
    # The official hours of a short ICU series go on after its rows (M12).
    np.testing.assert_array_equal(batch.ehr_hours[i][hours], expected.hours[: hours.sum()])
    np.testing.assert_array_equal(batch.regions[i][films], expected.crops)
    np.testing.assert_array_equal(batch.demographics[i], expected.demographics)
    np.testing.assert_array_equal(batch.pair_hours[i][pairs], expected.intervals)
    assert batch.targets is not None
    target = getattr(batch.targets, "progression" if not task.is_icu else task)[i]
    np.testing.assert_array_equal(target, expected.target)
    np.testing.assert_array_equal(batch.targets.region_progression[i][pairs], expected.regions)


@pytest.mark.parametrize(
    ("task", "n_samples"),
    [(Task.DISEASE_PROGRESSION, 9), (Task.MORTALITY, 4), (Task.LENGTH_OF_STAY, 4)],
)
def test_samples_are_those_of_the_official_data_set(
    task: Task, n_samples: int, laid_out: tuple[Cohort, bool]
):
    cohort, flat = laid_out
    assert assert_same_samples(cohort, task, flat) == n_samples


def test_crops_that_leave_the_film_are_those_of_the_official_data_set(prepare: Callable):
    assert_same_samples(prepare(official_tree(1, leaving=True)), Task.DISEASE_PROGRESSION)


def test_hours_are_those_of_the_official_code(laid_out: tuple[Cohort, bool]):
    cohort, _ = laid_out
    # Hours 2 to 22 around films at 3.0 and 21.25 h, numbered from 3; a series that ends first.
    pair, last = cohort.pairs.iloc[0], cohort.pairs.iloc[5]
    assert (pair["first_hour"], pair["n_hours"]) == (3, 21)
    assert (last["first_hour"], last["n_hours"]) == (20, 1)
    on_file = [hours for _, _, hours, _ in STAYS]
    assert cohort.stays["n_hours"].tolist() == [min(hours, 49) for hours in on_file]


def test_nothing_is_normalised_again_and_the_manifest_says_so(
    tree: OfficialTree, laid_out: tuple[Cohort, bool]
):
    cohort, _ = laid_out
    norm = cohort.normalisation
    assert not norm.ehr_mean.any() and not norm.demographics_mean.any()
    assert (norm.ehr_sd == 1).all() and (norm.demographics_sd == 1).all()
    assert cohort.manifest["normalised_by"] == "official scripts"
    first = tree.ehr[30000153]
    masks = first[[name for name in first if name.endswith("_mask")]].to_numpy(bool)[:49]
    np.testing.assert_array_equal(cohort.arrays["ehr_observed"][:49], masks)
    assert (cohort.arrays["findings"] == FINDING_UNKNOWN).all()


def test_a_long_stay_is_in_the_last_class(tree: OfficialTree, prepare: Callable):
    tree.icu["train"].loc[0, "los"] = 14.2
    cohort = prepare(tree)
    assert cohort.stays["length_of_stay"].tolist()[:4] == [3, 1, 3, 3]


def test_whose_data_it_is(tree: OfficialTree, prepare: Callable, tmp_path: Path):
    cohort = prepare(tree)
    assert cohort.is_credentialed and not cohort.is_simulated
    assert cohort.title == "mimic-iv, mimic-cxr, official scripts"
    (tmp_path / "simulation.json").write_text(json.dumps({"size": "small", "seed": 7}))
    folders = tmp_path / "processed", tmp_path / "mimic-cxr"
    simulated = prepare_official(*folders, tmp_path / "second", SIZES)
    assert simulated.is_simulated and not simulated.is_credentialed
    assert simulated.title == "simulated cohort, small, seed 7, official scripts"
    assert simulated.content_hash == cohort.content_hash


def test_the_command_prepares_the_same(
    tree: OfficialTree, prepare: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    cohort = prepare(tree)
    folders = [
        "--processed",
        str(tmp_path / "processed"),
        "--mimic-cxr",
        str(tmp_path / "mimic-cxr"),
    ]
    sizes = ["--film-size", str(SIZES.film), "--region-size", str(SIZES.region)]
    words = ["official", *folders, *sizes, "--out", str(tmp_path / "second"), "--simulated"]
    assert command.main([*words, "--open", "--jobs", "2"]) == 0
    second = Cohort.open(tmp_path / "second")
    assert second.content_hash == cohort.content_hash
    assert second.is_simulated and not second.is_credentialed
    assert "6 subjects, 6 stays, 15 films, 9 pairs" in capsys.readouterr().out
    with pytest.raises(UserError, match="--force"):
        command.main(words)
    with pytest.raises(SystemExit):
        command.main([*words, "--seed", "1"])  # the split is theirs


def test_gold_pairs_are_marked_where_their_file_is(
    tree: OfficialTree, prepare: Callable, tmp_path: Path
):
    cohort = prepare(tree)
    assert not cohort.pairs["from_gold"].any() and not cohort.manifest["gold_pairs_known"]
    pairs = tree.progression["test"][["cxr1_dicom_id", "cxr2_dicom_id"]]
    pairs.assign(from_golden=[0, 1, 0, 0]).to_csv(
        tmp_path / "processed/golden_corrected_neighbor_progression.csv", index=False
    )
    folders = tmp_path / "processed", tmp_path / "mimic-cxr"
    gold = prepare_official(*folders, tmp_path / "second", SIZES)
    assert np.flatnonzero(gold.pairs["from_gold"]).tolist() == [6]


def test_a_pair_without_a_label_is_no_sample_and_counted(tree: OfficialTree, prepare: Callable):
    tree.progression["test"].loc[0, list(DISEASES)] = None
    cohort = prepare(tree)
    assert len(Samples(cohort, Task.DISEASE_PROGRESSION, Cxr.PAIR, EVERYTHING)) == 8
    assert list(cohort.manifest["oddities"].values()) == [1]


def test_numbers_as_newer_libraries_print_them_are_read(tree: OfficialTree, tmp_path: Path):
    as_older = prepare_official(*tree.write(tmp_path / "older"), tmp_path / "a", SIZES)
    for table in tree.icu.values():
        table["cxr_list"] = [
            re.sub(r", (\d[\d.]*)\)", r", np.float64(\1))", films) for films in table["cxr_list"]
        ]
    assert "np.float64(" in tree.icu["train"]["cxr_list"].iloc[0]
    for region in REGIONS:
        tree.boxes[region] = [re.sub(r"(\d+)", r"\1.0", box) for box in tree.boxes[region]]
    as_newer = prepare_official(*tree.write(tmp_path / "newer"), tmp_path / "b", SIZES)
    assert as_newer.content_hash == as_older.content_hash


def refusal(tree: OfficialTree, prepare: Callable, tmp_path: Path) -> str:
    """The message with which a directory is refused, checked for form."""
    with pytest.raises(UserError) as caught:
        prepare(tree)
    out = tmp_path / "out"
    assert not out.exists() or not list(out.iterdir())
    message = str(caught.value)
    assert "\n" not in message
    return message


REGION = "cardiac silhouette_progression"
SERIES = "New_episode30000153_timeseries.csv"


@pytest.mark.parametrize(
    ("split", "row", "column", "value", "expected"),
    [
        ("train", 2, REGION, "__import__('os').abort()", "is not a plain Python value"),
        ("train", 2, REGION, "[0, 1]", "is not a dict of disease to progression"),
        ("val", 3, REGION, "{'atelectasis': 'worsened'}", "no entry of 'enlarged cardiac"),
        ("val", 2, "pneumonia", "worsend", "unknown progression 'worsend', did you mean"),
        ("train", 3, "cxr1_time", 90.0, "expected an earlier and a later one"),
        ("train", 3, "stay_id", "30000153.5", "is not a whole number"),
        ("train", 3, "stay_id", "x", "'x' is not a whole number"),
        ("train", 3, "cxr2_dicom_id", "", "empty, expected a text"),
        ("test", 4, "cxr2_time", float("inf"), "expected an earlier and a later one"),
    ],
)
def test_a_wrong_progression_row(
    split: str,
    row: int,
    column: str,
    value: object,
    expected: str,
    tree: OfficialTree,
    prepare: Callable,
    tmp_path: Path,
):
    table = tree.progression[split] = tree.progression[split].astype(object)
    table.loc[row - 2, column] = value
    message = refusal(tree, prepare, tmp_path)
    shown = "cxr2_time" if column == "cxr1_time" else column
    assert f"disease_progression/{split}.csv, row {row}, column {shown}" in message
    assert expected in message


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        (REGION, "[]", "expected a list of 2 dicts"),
        ("cxr_list", "[('a', 1.0), 'b']", "expected a list of (dicom_id, hours)"),
        ("cxr_list", "[('a', 1.0)]", "expected 2 films or more"),
        ("cxr_list", "[('a', 3.0), ('b', 1.0)]", "oldest first"),
        ("cxr_list", "[('a', 3.0), ('b', 48.0)]", "before hour 48"),
        ("cxr_list", "[('a', 3.0), ('b', nan)]", "is not a plain Python value"),
        ("mortality_inhospital", 2.0, "2.0 is not 0 or 1"),
        ("los", 1.5, "1.5 is not 2 days or more"),
        ("los", None, "empty, expected a number"),
    ],
)
def test_a_wrong_row_of_a_stay(
    column: str,
    value: object,
    expected: str,
    tree: OfficialTree,
    prepare: Callable,
    tmp_path: Path,
):
    table = tree.icu["train"] = tree.icu["train"].astype(object)
    table.loc[0, column] = value
    message = refusal(tree, prepare, tmp_path)
    assert f"mortality_los/train.csv, row 2, column {column}" in message
    assert expected in message


@pytest.mark.parametrize(
    ("row", "column", "value", "expected"),
    [
        (9, "Heart Rate", float("nan"), "nan is not a finite number"),
        (9, "pH", float("-inf"), "-inf is not a finite number"),
        (4, "Albumin", "high", "'high' is not a number"),
        (4, "Albumin_mask", 2, "2 is not 0 or 1"),
        (5, "regular_interval", 7, "7 is not the hour of its row"),
    ],
)
def test_a_wrong_ehr_value(
    row: int,
    column: str,
    value: object,
    expected: str,
    tree: OfficialTree,
    prepare: Callable,
    tmp_path: Path,
):
    table = tree.ehr[30000153] = tree.ehr[30000153].astype(object)
    table.loc[row - 2, column] = value
    message = refusal(tree, prepare, tmp_path)
    assert f"{SERIES}, row {row}, column {column}" in message and expected in message


def test_an_ehr_column_is_missing(tree: OfficialTree, prepare: Callable, tmp_path: Path):
    tree.ehr[30000153] = tree.ehr[30000153].drop(columns="Glucose")
    assert f"{SERIES} has no column Glucose" in refusal(tree, prepare, tmp_path)


def test_the_ehr_of_a_stay_is_missing(tree: OfficialTree, prepare: Callable, tmp_path: Path):
    del tree.ehr[30000153]
    message = refusal(tree, prepare, tmp_path)
    assert "New_episode30000153_timeseries.csv" in message and "is not there" in message


def test_a_subject_in_two_splits(tree: OfficialTree, prepare: Callable, tmp_path: Path):
    tree.icu["val"].loc[0, ["subject_id", "stay_id"]] = [10000032, 30000153]
    message = refusal(tree, prepare, tmp_path)
    assert "mortality_los/val.csv, row 2, column subject_id" in message
    assert "disease_progression/train.csv, row 2" in message


def test_a_stay_of_two_subjects(tree: OfficialTree, prepare: Callable, tmp_path: Path):
    tree.icu["train"].loc[1, "stay_id"] = 30000153
    message = refusal(tree, prepare, tmp_path)
    assert "mortality_los/train.csv, rows 2 and 3" in message
    tree = official_tree()
    tree.progression["train"].loc[2, "stay_id"] = 30000153
    message = refusal(tree, lambda _: prepare_again(tree, tmp_path), tmp_path)
    assert "disease_progression/train.csv, row 4, column stay_id" in message


def prepare_again(tree: OfficialTree, tmp_path: Path) -> Cohort:
    (tmp_path / "again").mkdir()
    return prepare_official(*tree.write(tmp_path / "again"), tmp_path / "out" / "cohort", SIZES)


def other_hours(tree: OfficialTree) -> None:
    """A film before 48 h, and one that only disease progression has after it."""
    tree.progression["train"].loc[0, "cxr1_time"] = 3.5
    tree.progression["test"].loc[0, "cxr2_time"] = 60.25


def other_region_labels(tree: OfficialTree) -> None:
    for row, word in enumerate(("worsened", "improved")):
        labels = dict.fromkeys(DISEASES, word)
        tree.progression["train"].loc[row, REGION] = str(labels)


def film_in_between(tree: OfficialTree) -> None:
    """Disease progression has a film at 7 h, of which the ICU sample does not know."""
    tree.progression["train"].loc[2, ["cxr1_dicom_id", "cxr1_time"]] = ["between", 7.0]
    known = tree.metadata["dicom_id"].iloc[3]
    tree.films["between"] = tree.films[known]
    for name, column in (("boxes", "cxr_id"), ("metadata", "dicom_id")):
        table = getattr(tree, name)
        row = table[table[column] == known].assign(**{column: "between"})
        setattr(tree, name, pd.concat([table, row], ignore_index=True))


@pytest.mark.parametrize(
    ("change", "n_at_odds"), [(other_hours, 2), (other_region_labels, 1), (film_in_between, 1)]
)
def test_each_task_is_as_its_own_files_say(
    change: Callable[[OfficialTree], None], n_at_odds: int, tree: OfficialTree, prepare: Callable
):
    n_films = len(tree.films)
    change(tree)
    cohort = prepare(tree)
    for task in Task:
        assert assert_same_samples(cohort, task) == (4 if task.is_icu else 9)
    assert [n for what, n in cohort.manifest["oddities"].items() if "two rows" in what] == [
        n_at_odds
    ]
    assert len(cohort.stays) == len(STAYS) + n_at_odds and len(cohort.films) > n_films
    assert cohort.pairs["pair_key"].is_unique


def test_a_film_with_two_times_in_one_task(tree: OfficialTree, prepare: Callable, tmp_path: Path):
    tree.progression["train"].loc[0, "cxr2_time"] = 30.0
    message = refusal(tree, prepare, tmp_path)
    assert "disease_progression/train.csv, row 3: film" in message
    assert "but at hour 30.0 in" in message


def test_a_variable_that_no_stay_has_is_zero(tree: OfficialTree, prepare: Callable):
    for table in tree.ehr.values():
        table["Albumin"] = np.nan
    cohort = prepare(tree)
    values = cohort.arrays["ehr_values"]
    assert not values[:, EHR_VARIABLES.index("Albumin")].any()
    assert values[:, EHR_VARIABLES.index("Alkaline phosphate")].all()
    assert cohort.manifest["oddities"] == {"EHR variables that no stay has: 0 instead of NaN": 1}


def test_a_variable_that_one_stay_lacks(tree: OfficialTree, prepare: Callable, tmp_path: Path):
    tree.ehr[30000160]["Albumin"] = np.nan
    message = refusal(tree, prepare, tmp_path)
    assert "New_episode30000160_timeseries.csv, column Albumin: empty" in message


@pytest.mark.parametrize(
    "value", ["[0, 0, 5]", "[0, 0, 5, 5.5]", "left", "(0, 0, 5, 'x')", "[0, 0, 9, 99999]"]
)
def test_a_wrong_box(value: str, tree: OfficialTree, prepare: Callable, tmp_path: Path):
    tree.boxes.loc[3, "mediastinum"] = value
    assert "cxr_bbox.csv, row 5, column mediastinum" in refusal(tree, prepare, tmp_path)


def test_a_film_without_boxes(tree: OfficialTree, prepare: Callable, tmp_path: Path):
    tree.boxes = tree.boxes.drop(index=0)
    message = refusal(tree, prepare, tmp_path)
    assert "cxr_bbox.csv has no row" in message and "train.csv, row 2" in message


def test_a_stay_without_demographics(tree: OfficialTree, prepare: Callable, tmp_path: Path):
    tree.demographics = tree.demographics.drop(index=2)
    message = refusal(tree, prepare, tmp_path)
    assert "demographic_processed.csv has no row of stay_id 30000167" in message


def test_an_empty_demographic(tree: OfficialTree, prepare: Callable, tmp_path: Path):
    tree.demographics.loc[1, "weight"] = None
    message = refusal(tree, prepare, tmp_path)
    assert "demographic_processed.csv, row 3, column weight: empty" in message


def test_a_film_of_another_subject(tree: OfficialTree, prepare: Callable, tmp_path: Path):
    tree.metadata.loc[0, "subject_id"] = 10000099
    message = refusal(tree, prepare, tmp_path)
    assert "subject_id 10000032, but of 10000099" in message and "row 2" in message


@pytest.mark.parametrize("flat", [False, True])
def test_a_film_that_is_not_there(flat: bool, tree: OfficialTree, tmp_path: Path):
    processed, mimic_cxr = tree.write(tmp_path, flat)
    next(mimic_cxr.rglob("*.jpg")).unlink()
    with pytest.raises(UserError, match=r"\.jpg is not there, a film that is needed \(1 of 15"):
        prepare_official(processed, mimic_cxr, tmp_path / "out", SIZES)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("which", [0, 1])
def test_a_folder_that_is_not_there(which: int, tree: OfficialTree, tmp_path: Path):
    folders = list(tree.write(tmp_path))
    folders[which] = tmp_path / "nowhere"
    processed, mimic_cxr = folders
    with pytest.raises(UserError, match="nowhere is not a folder"):
        prepare_official(processed, mimic_cxr, tmp_path / "out", SIZES)
