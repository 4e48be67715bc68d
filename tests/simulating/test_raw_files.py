"""The raw files: readable, joined, deterministic; and the command's answers to wrong usage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench import simulate
from bench.data.vocabulary import BOX_REGIONS, DISEASE_IN_GRAPH
from bench.errors import run_command
from bench.simulating.mimic_cxr import film_file


def table(raw: Path, name: str, **kwargs: object) -> pd.DataFrame:
    return pd.read_csv(raw / f"{name}.csv", **kwargs)  # type: ignore[call-overload]


def graphs(raw: Path) -> dict[str, dict]:
    folder = raw / "chest-imagenome" / "silver_dataset" / "scene_graph"
    return {p.name.split("_")[0]: json.loads(p.read_text()) for p in folder.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_seed_gives_the_same_bytes(tiny_raw: Path, tmp_path: Path):
    again = tmp_path / "again"
    simulate.main(["--size", "tiny", "--out", str(again), "--film-size", "96", "--jobs", "1"])
    one, two = contents(tiny_raw), contents(again)
    assert one.keys() == two.keys() and len(one) > 100
    assert [name for name in one if one[name] != two[name]] == []


def test_compressed_tables_hold_the_same_rows_and_the_same_bytes(tiny_raw: Path, tmp_path: Path):
    arguments = ["--size", "tiny", "--film-size", "96", "--gzip", "--jobs", "1", "--out"]
    for name in ("a", "b"):
        simulate.main([*arguments, str(tmp_path / name)])
    packed = "mimic-iv/icu/icustays.csv.gz"
    assert (tmp_path / "a" / packed).read_bytes() == (tmp_path / "b" / packed).read_bytes()
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "a" / packed), table(tiny_raw, "mimic-iv/icu/icustays")
    )


def test_every_key_joins(tiny_raw: Path):
    stays = table(tiny_raw, "mimic-iv/icu/icustays")
    admissions = table(tiny_raw, "mimic-iv/hosp/admissions")
    patients = table(tiny_raw, "mimic-iv/hosp/patients")
    metadata = table(tiny_raw, "mimic-cxr-jpg/mimic-cxr-2.0.0-metadata")
    assert set(stays["hadm_id"]) <= set(admissions["hadm_id"])
    assert set(admissions["subject_id"]) <= set(patients["subject_id"])
    assert stays["stay_id"].is_unique and patients["subject_id"].is_unique
    assert metadata["dicom_id"].is_unique
    for film in metadata.itertuples():
        path = film_file(tiny_raw / "mimic-cxr-jpg", film.subject_id, film.study_id, film.dicom_id)
        with Image.open(path) as image:
            assert image.size == (96, 96) and image.mode == "L"
    chart = table(tiny_raw, "mimic-iv/icu/chartevents", keep_default_na=False)
    assert set(chart["stay_id"]) <= set(stays["stay_id"])
    assert list(chart.columns)[:6] == [
        "subject_id", "hadm_id", "stay_id", "caregiver_id", "charttime", "storetime",
    ]  # fmt: skip
    assert "None" in set(chart["value"])


def test_columns_are_those_of_the_release(tiny_raw: Path):
    expected = {
        "mimic-iv/hosp/patients": "subject_id gender anchor_age anchor_year anchor_year_group dod",
        "mimic-iv/icu/icustays": "subject_id hadm_id stay_id first_careunit last_careunit intime "
        "outtime los",
        "mimic-iv/icu/outputevents": "subject_id hadm_id stay_id caregiver_id charttime storetime "
        "itemid value valueuom",
        "mimic-iv/hosp/labevents": "labevent_id subject_id hadm_id specimen_id itemid "
        "order_provider_id charttime storetime value valuenum valueuom ref_range_lower "
        "ref_range_upper flag priority comments",
    }
    for name, columns in expected.items():
        assert list(table(tiny_raw, name).columns) == columns.split()


def test_outcomes_and_dates_are_consistent(tiny_raw: Path):
    admissions = table(tiny_raw, "mimic-iv/hosp/admissions")
    died = admissions["hospital_expire_flag"] == 1
    assert admissions["deathtime"].notna().equals(died)
    assert (admissions["dischtime"] > admissions["admittime"]).all()
    truth = table(tiny_raw, "truth/stays")
    stays = table(tiny_raw, "mimic-iv/icu/icustays")
    los = stays.set_index("stay_id")["los"][truth["stay_id"]].to_numpy()
    np.testing.assert_allclose(los, truth["los_days"], atol=1e-4)


def test_study_times_are_numbers_without_leading_zeros(tiny_raw: Path):
    metadata = table(tiny_raw, "mimic-cxr-jpg/mimic-cxr-2.0.0-metadata").set_index("dicom_id")
    films = table(tiny_raw, "truth/films")
    stays = table(tiny_raw, "mimic-iv/icu/icustays").set_index("stay_id")
    clock = metadata["StudyTime"].astype(int).astype(str).str.zfill(6)
    times = pd.to_datetime(metadata["StudyDate"].astype(str) + clock, format="%Y%m%d%H%M%S")
    intime = pd.to_datetime(stays["intime"])[films["stay_id"]].to_numpy()
    hours = (times[films["dicom_id"]].to_numpy() - intime) / np.timedelta64(1, "h")
    np.testing.assert_allclose(hours, films["hours"], atol=1 / 3600)
    assert (metadata["StudyTime"] < 100000).any()


def test_scene_graphs_have_the_form_of_chest_imagenome(tiny_raw: Path):
    found = graphs(tiny_raw)
    assert len(found) > 60
    keys = {
        "image_id", "viewpoint", "patient_id", "study_id", "gender", "age_decile",
        "reason_for_exam", "StudyOrder", "StudyDateTime", "objects", "attributes", "relationships",
    }  # fmt: skip
    seen = set()
    for dicom, graph in found.items():
        assert set(graph) == keys and graph["image_id"] == dicom
        for box in graph["objects"]:
            assert box["bbox_name"] in BOX_REGIONS
            assert box["width"] == box["x2"] - box["x1"]
        for relation in graph["relationships"]:
            assert relation["subject_id"].startswith(dicom)
            assert all(isinstance(text, str) for text in relation["attributes"])
            seen |= {text.split("|")[2] for text in relation["attributes"]}
    assert seen - {"abnormal"} <= set(DISEASE_IN_GRAPH)
    assert "pulmonary edema/hazy opacity" in seen and "pulmonary edema" not in seen


def test_the_oddities_of_real_files_are_there(tiny_raw: Path):
    metadata = table(tiny_raw, "mimic-cxr-jpg/mimic-cxr-2.0.0-metadata")
    assert {"AP", "PA", "LATERAL"} <= set(metadata["ViewPosition"])
    assert metadata[metadata["ViewPosition"] == "AP"].duplicated("study_id").any()
    relations = [r for graph in graphs(tiny_raw).values() for r in graph["relationships"]]
    assert any(len(r["relationship_names"]) == 2 for r in relations)
    assert any("|no|" in text for r in relations for text in r["attributes"])
    stays = table(tiny_raw, "mimic-iv/icu/icustays")
    assert (stays["first_careunit"] != stays["last_careunit"]).any()
    assert stays.duplicated("hadm_id").any()


def test_an_existing_simulation_is_left_alone(tiny_raw: Path, capsys):
    before = contents(tiny_raw)
    assert simulate.main(["--size", "tiny", "--out", str(tiny_raw), "--film-size", "96"]) == 0
    assert "already there" in capsys.readouterr().out
    assert contents(tiny_raw) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--size", "smal"], "did you mean 'small'"),
        (["--film-size", "0"], "above 0"),
        (["--film-size", "16"], "64 px"),
        (["--reader-noise", "-1"], "reader-noise"),
        (["--signal", "cx"], "did you mean 'cxr'"),
        (["--mimic-iv", "nowhere"], "MIMIC-IV directory"),
        (["--outt", "x"], "did you mean '--out'"),
        (["--out", "/proc/none/x"], "cannot write"),
    ],
)
def test_wrong_usage_is_refused_in_one_line(arguments, says, capsys, tmp_path: Path):
    place = [] if "--out" in arguments else ["--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: simulate.main([*arguments, *place]))
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and says in error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_simulation_is_never_replaced(tmp_path: Path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("important")
    for force in ([], ["--force"]):
        with pytest.raises(SystemExit) as ended:
            run_command(lambda f=force: simulate.main(["--out", str(tmp_path / "mine"), *f]))
        assert ended.value.code == 2
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "important"
