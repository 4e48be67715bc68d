"""Every kind of bad input ends in one line that names the place, with nothing half-written."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench import prepare as command
from bench.data.cohort import Cohort
from bench.errors import UserError
from bench.preparing import events, images
from bench.preparing.images import FilmArrays, FilmFile, prepare_film
from bench.preparing.selection import RawFolders
from bench.preparing.workplace import folder_beside
from tests.conftest import ROOT
from tests.preparing.raw_tree import GOLD, plain_tree

GOES_ON = "; the same command then goes on from what was finished"
SMALL = ["--film-size", "16", "--region-size", "8", "--jobs", "1"]


@pytest.fixture
def raw(tmp_path: Path) -> RawFolders:
    tree = plain_tree(3)
    tree.add_gold(0, "a0", "b0", "improved", "disease|yes|pneumonia")
    return tree.write(tmp_path / "raw")


def words(raw: RawFolders, out: Path) -> list[str]:
    roots = ["--mimic-iv", str(raw.mimic_iv), "--mimic-cxr", str(raw.mimic_cxr)]
    roots += ["--imagenome", str(raw.imagenome)]
    return ["mimic", *roots, "--out", str(out), "--simulated", *SMALL]


def refusal(raw: RawFolders, tmp_path: Path) -> str:
    """The message with which the raw folders are refused, checked for form."""
    with pytest.raises(UserError) as caught:
        command.main(words(raw, tmp_path / "out" / "cohort"))
    message = str(caught.value)
    assert "\n" not in message
    assert_nothing_half_written(tmp_path / "out", message)
    return message


def assert_nothing_half_written(folder: Path, message: str) -> None:
    """Nothing is left in the folder of a cohort but what a refusal says that was finished."""
    left = list(folder.iterdir()) if folder.exists() else []
    if message.endswith(GOES_ON):
        (place,) = left
        assert place == folder_beside(folder / "cohort")
        assert not list(place.glob("*.partial")) and not (place / "spill").exists()
    else:
        assert not left


def edit(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame | None]) -> None:
    separator = "\t" if path.suffix == ".txt" else ","
    table = pd.read_csv(path, dtype=str, keep_default_na=False, sep=separator)
    changed = change(table)
    (table if changed is None else changed).to_csv(path, index=False, sep=separator)


def set_cell(path: Path, row: int, column: str, value: str) -> None:
    """Set a cell; `row` is the row in the file, the header being row 1."""

    def change(table: pd.DataFrame) -> None:
        table.loc[row - 2, column] = value

    edit(path, change)


def test_the_undamaged_folders_are_accepted(raw: RawFolders, tmp_path: Path):
    assert command.main(words(raw, tmp_path / "cohort")) == 0


@pytest.mark.parametrize("name", ["mimic_iv", "mimic_cxr", "imagenome"])
def test_a_missing_root(name: str, raw: RawFolders, tmp_path: Path):
    roots = {**vars(raw), name: tmp_path / "nowhere"}
    assert "nowhere is not a folder" in refusal(RawFolders(**roots), tmp_path)


@pytest.mark.parametrize(
    "file",
    [
        "mimic-iv/icu/icustays.csv",
        "mimic-iv/icu/chartevents.csv",
        "mimic-iv/icu/outputevents.csv",
        "mimic-iv/hosp/admissions.csv",
        "mimic-iv/hosp/patients.csv",
        "mimic-cxr-jpg/mimic-cxr-2.0.0-metadata.csv",
        f"chest-imagenome/{GOLD}.txt",
    ],
)
def test_a_missing_file(file: str, raw: RawFolders, tmp_path: Path):
    (tmp_path / "raw" / file).unlink()
    message = refusal(raw, tmp_path)
    assert Path(file).name in message and "is not there" in message


@pytest.mark.parametrize(
    ("file", "column"),
    [
        ("mimic-iv/icu/icustays.csv", "outtime"),
        ("mimic-iv/icu/chartevents.csv", "valuenum"),
        ("mimic-iv/hosp/admissions.csv", "hospital_expire_flag"),
        ("mimic-cxr-jpg/mimic-cxr-2.0.0-metadata.csv", "StudyTime"),
        (f"chest-imagenome/{GOLD}.txt", "label_name"),
    ],
)
def test_a_missing_column(file: str, column: str, raw: RawFolders, tmp_path: Path):
    edit(tmp_path / "raw" / file, lambda table: table.rename(columns={column: column + "s"}))
    message = refusal(raw, tmp_path)
    assert f"{Path(file).name} has no column {column}" in message
    assert f"did you mean '{column}s'" in message


@pytest.mark.parametrize(
    ("file", "row", "column", "value", "expected"),
    [
        ("mimic-iv/icu/icustays.csv", 3, "subject_id", "x7", "'x7' is not a whole number"),
        ("mimic-iv/icu/icustays.csv", 2, "intime", "2155-13-01 00:00:00", "is not a time like"),
        ("mimic-iv/icu/icustays.csv", 4, "intime", "", "empty, expected a time"),
        ("mimic-iv/hosp/patients.csv", 2, "anchor_age", "sixty", "'sixty' is not a number"),
        ("mimic-iv/hosp/admissions.csv", 3, "admittime", "yesterday", "is not a time like"),
        ("mimic-iv/icu/chartevents.csv", 17, "valuenum", "12,5", "'12,5' is not a number"),
        ("mimic-iv/icu/chartevents.csv", 18, "charttime", "3 pm", "is not a time like"),
        ("mimic-iv/icu/chartevents.csv", 19, "itemid", "HR", "'HR' is not a whole number"),
        ("mimic-iv/icu/outputevents.csv", 2, "value", "much", "'much' is not a number"),
        ("mimic-cxr-jpg/mimic-cxr-2.0.0-metadata.csv", 5, "StudyTime", "noon", "is not a number"),
        (
            "mimic-cxr-jpg/mimic-cxr-2.0.0-metadata.csv", 6, "StudyTime", "256000.0",
            "256000.0 is not a time HHMMSS",
        ),
        (
            "mimic-cxr-jpg/mimic-cxr-2.0.0-metadata.csv", 7, "StudyDate", "21550231",
            "21550231 is not a date YYYYMMDD",
        ),
        (f"chest-imagenome/{GOLD}.txt", 2, "comparison", "worse", "did you mean 'worsened'"),
        (f"chest-imagenome/{GOLD}.txt", 2, "bbox", "", "empty, expected a text"),
    ],
)  # fmt: skip
def test_a_wrong_value(
    file: str, row: int, column: str, value: str, expected: str, raw: RawFolders, tmp_path: Path
):
    set_cell(tmp_path / "raw" / file, row, column, value)
    message = refusal(raw, tmp_path)
    assert f"{Path(file).name}, row {row}, column {column}: " in message
    assert expected in message


@pytest.mark.parametrize(
    "file",
    [
        "mimic-iv/icu/icustays.csv",
        "mimic-iv/hosp/patients.csv",
        "mimic-cxr-jpg/mimic-cxr-2.0.0-metadata.csv",
    ],
)
def test_an_empty_table(file: str, raw: RawFolders, tmp_path: Path):
    edit(tmp_path / "raw" / file, lambda table: table.iloc[:0])
    assert f"{Path(file).name} has no row" in refusal(raw, tmp_path)
    (tmp_path / "raw" / file).write_text("")
    assert "is empty, not even a header" in refusal(raw, tmp_path)


def test_a_row_with_too_few_fields(raw: RawFolders, tmp_path: Path):
    file = raw.mimic_iv / "icu" / "icustays.csv"
    lines = file.read_text().splitlines()
    lines[2] = "10000002,20000011"
    file.write_text("\n".join(lines) + "\n")
    assert "icustays.csv, row 3: 2 fields, the header has 8" in refusal(raw, tmp_path)


@pytest.mark.parametrize("name", ["icu/icustays", "icu/chartevents"])
@pytest.mark.parametrize("damage", ["cut", "not gzip"])
def test_a_broken_gzip_file(name: str, damage: str, raw: RawFolders, tmp_path: Path):
    file = raw.mimic_iv / f"{name}.csv"
    packed = gzip.compress(file.read_bytes())
    content = packed[: len(packed) // 2] if damage == "cut" else b"subject_id"
    file.with_name(file.name + ".gz").write_bytes(content)
    file.unlink()
    message = refusal(raw, tmp_path)
    assert f"{file.name}.gz" in message and "cannot be read" in message


def film_of(raw: RawFolders) -> Path:
    return sorted((raw.mimic_cxr / "files").rglob("*.jpg"))[0]


def test_a_missing_film(raw: RawFolders, tmp_path: Path):
    film_of(raw).unlink()
    message = refusal(raw, tmp_path)
    assert film_of(raw).parent.parent.name in message
    assert "a film that is needed (1 of 9 are missing)" in message


def test_a_truncated_film(raw: RawFolders, tmp_path: Path):
    film = film_of(raw)
    film.write_bytes(film.read_bytes()[:-200])
    assert f"{film} cannot be decoded" in refusal(raw, tmp_path)


def test_a_mended_film_is_all_that_is_done_again(
    raw: RawFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    command.main(words(raw, tmp_path / "undisturbed"))
    film = film_of(raw)
    whole = film.read_bytes()
    film.write_bytes(whole[:-200])
    assert refusal(raw, tmp_path).endswith(GOES_ON)
    assert list(folder_beside(tmp_path / "out" / "cohort").glob("chartevents-*"))

    film.write_bytes(whole)
    decoded: list[Path] = []

    def counting(film: FilmFile, *of: Any) -> FilmArrays:
        decoded.append(film.path)
        return prepare_film(film, *of)

    monkeypatch.setattr(events, "stream", None)
    monkeypatch.setattr(images, "prepare_film", counting)
    command.main(words(raw, tmp_path / "out" / "cohort"))
    assert decoded == [film]
    one, other = (Cohort.open(tmp_path / name) for name in ("undisturbed", "out/cohort"))
    assert one.content_hash == other.content_hash
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cohort"]


def test_a_film_that_is_no_image(raw: RawFolders, tmp_path: Path):
    film_of(raw).write_text("<html>please log in</html>")
    assert f"{film_of(raw)} is not an image" in refusal(raw, tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{not json", "is not JSON"),
        (json.dumps({"relationships": []}), "has no field 'objects'"),
        (
            json.dumps(
                {
                    "objects": [],
                    "relationships": [{"relationship_names": ["comparison|yes|stable"]}],
                }
            ),
            "unknown comparison 'stable'",
        ),
    ],
)
def test_a_broken_scene_graph(content: str, expected: str, raw: RawFolders, tmp_path: Path):
    graphs = raw.imagenome / "silver_dataset" / "scene_graph"
    (graphs / "b1_SceneGraph.json").write_text(content)
    message = refusal(raw, tmp_path)
    assert "b1_SceneGraph.json" in message and expected in message


def test_no_scene_graph_at_all(raw: RawFolders, tmp_path: Path):
    graphs = raw.imagenome / "silver_dataset" / "scene_graph"
    for file in graphs.iterdir():
        file.unlink()
    assert "holds no *_SceneGraph.json" in refusal(raw, tmp_path)
    graphs.rmdir()
    (graphs.parent / "scene_graph.zip").write_bytes(b"not a zip")
    assert "scene_graph.zip cannot be read" in refusal(raw, tmp_path)


def test_a_rule_that_leaves_nothing_is_named(raw: RawFolders, tmp_path: Path):
    metadata = raw.mimic_cxr / "mimic-cxr-2.0.0-metadata.csv"
    edit(metadata, lambda table: table.assign(ViewPosition="PA"))
    assert "nothing is left after the rule 'AP view'" in refusal(raw, tmp_path)


def test_a_simulation_file_that_is_not_json(raw: RawFolders, tmp_path: Path):
    (tmp_path / "raw" / "simulation.json").write_text("seed: 7")
    assert "simulation.json is not JSON" in refusal(raw, tmp_path)


def test_an_out_path_that_cannot_be_written(raw: RawFolders, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a writable folder"):
        command.main(words(raw, tmp_path / "file" / "cohort"))


def test_an_out_path_that_exists(raw: RawFolders, tmp_path: Path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"exists.*--force"):
        command.main(words(raw, tmp_path / "kept"))
    assert (tmp_path / "kept" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (["--rules", "strikt"], "no rules 'strikt', did you mean 'strict'?"),
        (["--fore"], "unknown argument '--fore': did you mean '--force'?"),
        (["--jobs", "0"], "'0' is not a whole number above 0"),
        (["--film-size", "-3"], "'-3' is not a whole number above 0"),
        (["--seed", "x"], "'x' is not a whole number"),
    ],
)
def test_wrong_usage(change: list[str], expected: str, raw: RawFolders, tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main([*words(raw, tmp_path / "out"), *change])
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert expected in message and message.count("\n") == 1


def test_wrong_usage_of_simulated(raw: RawFolders, tmp_path: Path, capsys):
    base = ["simulated", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        command.main([*base, "--preset", "demos"])
    assert "did you mean 'demo'?" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"holds no simulation\.json"):
        command.main(base)


def test_wrong_films(tmp_path: Path):
    out = ["--out", str(tmp_path / "cohort"), *SMALL]
    (tmp_path / "7_1.txt").write_text("a note")
    with pytest.raises(UserError, match="no film is named"):
        command.main(["films", *out])
    with pytest.raises(UserError, match=r"7_1\.txt is not an image"):
        command.main(["films", str(tmp_path / "7_1.txt"), *out])
    with pytest.raises(UserError, match=r"7_2\.png"):
        command.main(["films", str(tmp_path / "7_2.png"), *out])
    with pytest.raises(UserError, match="cannot be decoded"):
        command.main(["films", str(tmp_path), *out])
    assert [path.name for path in tmp_path.iterdir()] == ["7_1.txt"]


def test_the_command_ends_with_status_2_and_one_line(tmp_path: Path):
    wrong = ["films", str(tmp_path / "none.png"), "--out", str(tmp_path / "cohort")]
    done = subprocess.run(
        [sys.executable, "-m", "bench.prepare", *wrong], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
