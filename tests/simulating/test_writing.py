"""What the raw files hold besides the planted cohort: identifiers, other images, oddities."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.data.vocabulary import DISEASES, NOT_MENTIONED
from bench.simulating.identifiers import draw_identifiers, draw_unused
from bench.simulating.images import Kind, draw_images
from bench.simulating.population import Population

MIMIC_IV, CXR = "mimic-iv", "mimic-cxr-jpg/mimic-cxr-2.0.0"
SILVER = Path("chest-imagenome/silver_dataset")
GOLD = "chest-imagenome/gold_dataset/gold_object_comparison_with_coordinates.txt"


def table(raw: Path, name: str, **kwargs: object) -> pd.DataFrame:
    return pd.read_csv(raw / f"{name}.csv", **kwargs)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def graphs(tiny_raw: Path) -> dict[str, dict]:
    folder = tiny_raw / SILVER / "scene_graph"
    return {path.name.split("_")[0]: json.loads(path.read_text()) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def metadata(tiny_raw: Path) -> pd.DataFrame:
    return table(tiny_raw, f"{CXR}-metadata").set_index("dicom_id")


def taken(metadata: pd.DataFrame) -> pd.Series:
    clock = metadata["StudyTime"].astype(int).astype(str).str.zfill(6)
    return pd.to_datetime(metadata["StudyDate"].astype(str) + clock, format="%Y%m%d%H%M%S")


def test_every_identifier_is_in_its_range(tiny_raw: Path, metadata: pd.DataFrame):
    stays = table(tiny_raw, f"{MIMIC_IV}/icu/icustays")
    for ids, first in (
        (stays["subject_id"], 1),
        (stays["hadm_id"], 2),
        (stays["stay_id"], 3),
        (metadata["study_id"], 5),
    ):
        assert (ids // 10_000_000 == first).all()
    assert metadata.index.str.fullmatch("[0-9a-f]{8}(-[0-9a-f]{8}){4}").all()


def test_unused_identifiers_are_unused():
    rng = np.random.default_rng(0)
    taken = np.arange(1, 9_999_000)
    drawn = draw_unused(rng, 0, taken[::100], 1000)
    assert len(set(drawn)) == 1000 and not np.isin(drawn, taken[::100]).any()


def test_study_ids_tell_nothing_about_time(small: Population):
    ids = draw_identifiers(small)
    film = pd.DataFrame({"stay": small.films["stay"], "study": ids.study_id})
    rising = film.groupby("stay")["study"].diff().dropna() > 0
    assert 0.4 < rising.mean() < 0.6


def test_the_smallest_ap_image_of_a_study_is_the_planted_film(
    tiny_raw: Path, metadata: pd.DataFrame
):
    films = table(tiny_raw, "truth/films")
    studies = metadata.loc[films["dicom_id"], "study_id"]
    ap = metadata[(metadata["ViewPosition"] == "AP") & metadata["study_id"].isin(studies)]
    assert ap["study_id"].duplicated().any()
    smallest = ap.reset_index().groupby("study_id")["dicom_id"].min()
    assert set(smallest) == set(films["dicom_id"])


def test_the_images_of_a_study_share_its_time_with_the_noise_of_floats(metadata: pd.DataFrame):
    times = metadata.groupby("study_id")[["StudyDate", "StudyTime"]].nunique()
    assert (times == 1).all(axis=None)
    assert (metadata["StudyTime"] % 1).nunique() > 20
    assert (metadata["StudyTime"] != metadata["StudyTime"].round(3)).any()


def test_the_noise_of_a_time_never_reaches_the_next_second(small: Population):
    images = draw_images(small, draw_identifiers(small))
    again = np.arange(1000)
    clock = 235959 + again / 1000
    assert np.nextafter(clock, np.inf).max() < 235960
    assert set(images["kind"]) == set(Kind)


def test_earlier_studies_lie_outside_every_stay(tiny_raw: Path, metadata: pd.DataFrame):
    films = table(tiny_raw, "truth/films")
    own = metadata.loc[films["dicom_id"], "study_id"]
    others = metadata[~metadata["study_id"].isin(own)]
    assert len(others) > 2
    stays = table(tiny_raw, f"{MIMIC_IV}/icu/icustays", parse_dates=["intime", "outtime"])
    seen = others.assign(taken=taken(others)).merge(stays, on="subject_id")
    assert not seen["taken"].between(seen["intime"], seen["outtime"]).any()


def test_every_frontal_image_has_a_graph_but_those_of_one_kind_of_stay(
    tiny_raw: Path, metadata: pd.DataFrame, graphs: dict
):
    stays = table(tiny_raw, "truth/stays")
    without = stays.loc[stays["kind"] == "no_scene_graph", "subject_id"]
    frontal = metadata["ViewPosition"].isin(["AP", "PA"])
    expected = metadata[frontal & ~metadata["subject_id"].isin(without)]
    assert set(graphs) == set(expected.index) and len(without)
    for dicom, graph in graphs.items():
        assert graph["viewpoint"] == metadata.loc[dicom, "ViewPosition"]
        assert graph["study_id"] == metadata.loc[dicom, "study_id"]
        assert graph["StudyDateTime"] == f"{taken(metadata.loc[[dicom]]).iloc[0]} UTC"


def test_study_order_follows_time(graphs: dict):
    shown = pd.DataFrame(
        [(g["patient_id"], g["StudyDateTime"], g["StudyOrder"]) for g in graphs.values()],
        columns=["patient", "time", "order"],
    ).sort_values(["patient", "time"])
    steps = shown.groupby("patient")["order"].diff().dropna()
    assert (steps >= 0).all() and shown["order"].max() > 2


def test_relations_name_images_that_exist_and_not_only_the_film_before(
    tiny_raw: Path, metadata: pd.DataFrame, graphs: dict
):
    pairs = table(tiny_raw, "truth/pairs")
    planted = set(zip(pairs["previous"], pairs["current"], strict=True))
    compared = {
        (relation["object_id"].split("_")[0], dicom)
        for dicom, graph in graphs.items()
        for relation in graph["relationships"]
    }
    assert {previous for previous, _ in compared} <= set(metadata.index)
    study = metadata["study_id"]
    assert any(study[one] == study[other] for one, other in compared)
    elsewhere = [pair for pair in compared - planted if study[pair[0]] != study[pair[1]]]
    assert elsewhere
    times = taken(metadata)
    assert all(times[previous] <= times[current] for previous, current in compared)


def test_the_parent_concept_never_says_anything_else_than_the_label(tiny_raw: Path, graphs: dict):
    pairs = table(tiny_raw, "truth/pairs").set_index(["previous", "current"])
    words, n_parents = ["worsened", "improved", "no change"], 0
    for dicom, graph in graphs.items():
        for relation in graph["relationships"]:
            key = (relation["object_id"].split("_")[0], dicom)
            named = [a.split("|")[2] for a in relation["attributes"] if a.split("|")[1] == "yes"]
            if key in pairs.index and "lung opacity" in named[1:]:
                said = words.index(relation["relationship_names"][0].split("|")[2])
                assert pairs.loc[key, "lung opacity"] == said
                n_parents += 1
    assert n_parents > 5


def test_gold_boxes_are_those_of_the_scene_graphs(tiny_raw: Path, graphs: dict):
    gold = pd.read_csv(tiny_raw / GOLD, sep="\t")
    assert len(gold) and len(gold.columns) == 15
    for row in gold.to_dict("records"):
        for role, image in (("subject", "current"), ("object", "previous")):
            found = [
                box
                for box in graphs[row[f"{image}_image_id"]]["objects"]
                if box["bbox_name"] == row["bbox"]
            ]
            small = [found[0][k] for k in ("x1", "y1", "x2", "y2")] if found else [0] * 4
            large = (
                [found[0][f"original_{k}"] for k in ("x1", "y1", "x2", "y2")] if found else small
            )
            assert ast.literal_eval(row[f"bbox_coord_224_{role}"]) == small
            assert ast.literal_eval(row[f"bbox_coord_original_{role}"]) == large


def test_imagenome_splits_are_by_subject_and_avoid_the_gold_ones(tiny_raw: Path, graphs: dict):
    names = ("train", "valid", "test", "images_to_avoid")
    parts = [table(tiny_raw, f"{SILVER}/splits/{name}") for name in names]
    subjects = [set(part["subject_id"]) for part in parts]
    assert sum(map(len, subjects)) == len(set.union(*subjects))
    assert set(pd.concat(parts)["dicom_id"]) == set(graphs)
    gold = pd.read_csv(tiny_raw / GOLD, sep="\t")
    assert set(gold["patient_id"]) <= subjects[-1]


def test_chexpert_labels_every_study_by_what_its_film_shows(tiny_raw: Path, metadata: pd.DataFrame):
    labels = table(tiny_raw, f"{CXR}-chexpert")
    assert labels["study_id"].is_unique and set(labels["study_id"]) == set(metadata["study_id"])
    values = labels.drop(columns=["subject_id", "study_id"]).to_numpy()
    assert set(values[~np.isnan(values)]) == {1.0, 0.0, -1.0} and np.isnan(values).any()
    films = table(tiny_raw, "truth/films")
    edema = labels.set_index("study_id")["Edema"]
    own = edema[metadata.loc[films["dicom_id"], "study_id"]].to_numpy()
    assert films["edema"][own == 1].min() > 0.6 and films["edema"][own == 0].max() < 0.02


def test_dictionaries_name_every_item_and_code(tiny_raw: Path):
    for name, linksto in (("chartevents", "chartevents"), ("outputevents", "outputevents")):
        items = table(tiny_raw, f"{MIMIC_IV}/icu/d_items")
        known = set(items.loc[items["linksto"] == linksto, "itemid"])
        assert set(table(tiny_raw, f"{MIMIC_IV}/icu/{name}")["itemid"]) <= known
    labs = set(table(tiny_raw, f"{MIMIC_IV}/hosp/d_labitems")["itemid"])
    assert set(table(tiny_raw, f"{MIMIC_IV}/hosp/labevents")["itemid"]) <= labs
    codes = ["icd_code", "icd_version"]
    diagnoses = table(tiny_raw, f"{MIMIC_IV}/hosp/diagnoses_icd", dtype=str)
    titles = table(tiny_raw, f"{MIMIC_IV}/hosp/d_icd_diagnoses", dtype=str)
    assert diagnoses.merge(titles, on=codes)["long_title"].notna().sum() == len(diagnoses)
    admissions = table(tiny_raw, f"{MIMIC_IV}/hosp/admissions", dtype=str)
    assert set(diagnoses["hadm_id"]) == set(admissions["hadm_id"])
    assert "0389" in set(diagnoses["icd_code"])


def test_some_rows_are_charted_outside_the_stay_they_name(tiny_raw: Path):
    times = ["charttime", "storetime"]
    chart = table(tiny_raw, f"{MIMIC_IV}/icu/chartevents", parse_dates=times)
    stays = table(tiny_raw, f"{MIMIC_IV}/icu/icustays", parse_dates=["intime", "outtime"])
    chart = chart.merge(stays[["stay_id", "intime", "outtime"]], on="stay_id")
    before = chart["charttime"] < chart["intime"].dt.floor("min")
    after = chart["charttime"] > chart["outtime"]
    assert 0.002 < (before | after).mean() < 0.008
    assert (chart["storetime"] >= chart["charttime"]).all()
    output = table(tiny_raw, f"{MIMIC_IV}/icu/outputevents", parse_dates=times)
    assert 0.05 < (output["storetime"] < output["charttime"]).mean() < 0.3


def test_stays_lie_inside_their_admission_and_do_not_overlap(tiny_raw: Path):
    stays = table(tiny_raw, f"{MIMIC_IV}/icu/icustays", parse_dates=["intime", "outtime"])
    times = ["admittime", "dischtime"]
    admissions = table(tiny_raw, f"{MIMIC_IV}/hosp/admissions", parse_dates=times)
    stays = stays.merge(admissions, on=["subject_id", "hadm_id"]).sort_values("intime")
    assert (stays["admittime"] <= stays["intime"]).all()
    assert (stays["outtime"].dt.floor("min") <= stays["dischtime"]).all()
    ended = stays.groupby("subject_id")["outtime"].shift()
    assert not (stays["intime"] < ended).any()


def test_death_dates_after_discharge_are_no_death_in_hospital(tiny_raw: Path):
    patients = table(tiny_raw, f"{MIMIC_IV}/hosp/patients", parse_dates=["dod"])
    admissions = table(
        tiny_raw, f"{MIMIC_IV}/hosp/admissions", parse_dates=["admittime", "dischtime"]
    )
    both = admissions.merge(patients, on="subject_id").sort_values("admittime")
    both = both.drop_duplicates("subject_id", keep="last")
    alive = both[both["hospital_expire_flag"] == 0]
    known = alive["dod"].notna()
    assert known.any() and (alive["dod"] > alive["dischtime"])[known].all()


def test_truth_keeps_the_contradictions(tiny_raw: Path, small: Population):
    pairs = table(tiny_raw, "truth/pairs")
    assert all(isinstance(json.loads(words), list) for words in pairs["contradictions"])
    for labels, words in zip(
        small.pairs[list(DISEASES)].to_dict("records"), small.contradictions, strict=True
    ):
        assert all(labels[disease] == NOT_MENTIONED for _, disease, _ in words)
