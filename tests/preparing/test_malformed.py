"""Malformed raw files: read as meant, mended and counted, or refused; no label changes silently."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.data.cohort import Cohort
from bench.data.vocabulary import DISEASES
from bench.errors import UserError
from bench.preparing.mimic import Options, prepare_mimic
from bench.preparing.rules import STRICT
from bench.preparing.selection import RawFolders
from tests.preparing.raw_tree import (
    BOX,
    FILM_SHAPE,
    GOLD,
    SIMULATED,
    SIZES,
    RawTree,
    object_of,
    plain_tree,
    stay_id,
    subject,
)
from tests.preparing.test_bad_input import assert_nothing_half_written, edit, set_cell

Damage = Callable[[RawFolders], None]
Labels = dict[Any, list[int]]

STAYS, ADMISSIONS, PATIENTS = "icustays.csv", "admissions.csv", "patients.csv"
CHART, OUTPUT = "chartevents.csv", "outputevents.csv"
METADATA, CHEXPERT = "mimic-cxr-2.0.0-metadata.csv", "mimic-cxr-2.0.0-chexpert.csv"
GOLD_FILE = f"{Path(GOLD).name}.txt"
TABLES = (STAYS, ADMISSIONS, PATIENTS, METADATA, CHEXPERT)

HEIGHT, WIDTH = FILM_SHAPE
LATER, EARLIER = "2155-02-10 00:00:00", "2155-01-01 00:00:00"


def tree() -> RawTree:
    """Three subjects with three films each; a human calls the effusion of a0, b0 improved."""
    made = plain_tree(3)
    made.add_gold(0, "a0", "b0", "improved", "anatomicalfinding|yes|pleural effusion")
    return made


@pytest.fixture
def raw(tmp_path: Path) -> RawFolders:
    return tree().write(tmp_path / "raw")


def prepared(raw: RawFolders, out: Path) -> Cohort:
    return prepare_mimic(raw, SIMULATED, out, Options(STRICT, SIZES), say=lambda line: None)


def labels(cohort: Cohort) -> Labels:
    """ICU labels by stay id, diseases by the ids of two films: what no damage may change."""
    ids = json.loads((cohort.path / "identifiers.json").read_text())
    films = ids["films"]
    icu = cohort.stays[["mortality", "length_of_stay"]].to_numpy().tolist()
    of_pairs = cohort.pairs[list(DISEASES)].to_numpy().tolist()
    pairs = zip(cohort.pairs["film_1"], cohort.pairs["film_2"], strict=True)
    keys = [(films[first], films[second]) for first, second in pairs]
    return {**dict(zip(ids["stays"], icu, strict=True)), **dict(zip(keys, of_pairs, strict=True))}


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("undamaged")
    return prepared(tree().write(folder / "raw"), folder / "cohort")


def file_named(raw: RawFolders, name: str) -> Path:
    (found,) = raw.mimic_iv.parent.rglob(name)
    return found


def film(raw: RawFolders, dicom: str = "a1") -> Path:
    return file_named(raw, f"{dicom}.jpg")


def edit_graph(raw: RawFolders, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the scene graph of b1."""
    path = file_named(raw, "b1_SceneGraph.json")
    graph = json.loads(path.read_text())
    change(graph)
    path.write_text(json.dumps(graph))


# Damages; each returns what does it to the raw folders.


def cell(name: str, row: int, column: str, value: str) -> Damage:
    return lambda raw: set_cell(file_named(raw, name), row, column, value)


def cells(name: str, row: int, **values: str) -> Damage:
    def damage(raw: RawFolders) -> None:
        for column, value in values.items():
            set_cell(file_named(raw, name), row, column, value)

    return damage


def without_row(name: str, row: int) -> Damage:
    return lambda raw: edit(file_named(raw, name), lambda table: table.drop(index=row - 2))


def repeated(name: str, row: int, **changes: str) -> Damage:
    """Add a row again at the end, perhaps changed."""

    def again(table: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([table, table.iloc[[row - 2]].assign(**changes)])

    return lambda raw: edit(file_named(raw, name), again)


def content(name: str, change: Callable[[bytes], bytes]) -> Damage:
    def damage(raw: RawFolders) -> None:
        path = file_named(raw, name)
        path.write_bytes(change(path.read_bytes()))

    return damage


def replaced(name: str, old: str, new: bytes) -> Damage:
    return content(name, lambda was: was.replace(old.encode(), new, 1))


def line(name: str, row: int, change: Callable[[bytes], bytes]) -> Damage:
    def changed(was: bytes) -> bytes:
        lines = was.splitlines(keepends=True)
        lines[row - 1] = change(lines[row - 1].rstrip(b"\n")) + b"\n"
        return b"".join(lines)

    return content(name, changed)


def packed(name: str, change: Callable[[bytes], bytes]) -> Damage:
    def damage(raw: RawFolders) -> None:
        path = file_named(raw, name)
        path.with_name(f"{name}.gz").write_bytes(change(gzip.compress(path.read_bytes())))
        path.unlink()

    return damage


def box(*corners: float, region: str = "left lung") -> Damage:
    def change(graph: dict[str, Any]) -> None:
        (entry,) = (entry for entry in graph["objects"] if entry["bbox_name"] == region)
        entry.update(object_of(region, corners))  # type: ignore[arg-type]

    return lambda raw: edit_graph(raw, change)


def more_boxes(region: str) -> Damage:
    return lambda raw: edit_graph(
        raw, lambda graph: graph["objects"].append(object_of(region, (1, 1, 9, 9)))
    )


def relation(**changes: Any) -> Damage:
    """Add a sentence to the graph of b1: its first one, changed."""

    def change(graph: dict[str, Any]) -> None:
        graph["relationships"].append({**graph["relationships"][0], **changes})

    return lambda raw: edit_graph(raw, change)


def field(name: str, value: Any) -> Damage:
    return lambda raw: edit_graph(raw, lambda graph: graph.update({name: value}))


def graph_text(change: Callable[[str], str]) -> Damage:
    return content("b1_SceneGraph.json", lambda was: change(was.decode()).encode())


def numbered(name: str) -> Damage:
    """As pandas writes a table with its row numbers: in a column without a name."""

    def numbers(table: pd.DataFrame) -> pd.DataFrame:
        return table.rename_axis("").reset_index()

    return lambda raw: edit(file_named(raw, name), numbers)


def saved_as(mode: str, kind: str) -> Damage:
    def damage(raw: RawFolders) -> None:
        with Image.open(film(raw)) as image:
            image.convert(mode).save(film(raw), format=kind, quality=95)

    return damage


def deep_png(raw: RawFolders) -> None:
    with Image.open(film(raw)) as image:
        deep = np.asarray(image).astype(np.uint16) * 257
    Image.fromarray(deep).save(film(raw), format="PNG")


def png_of_12_bits(raw: RawFolders) -> None:
    with Image.open(film(raw)) as image:
        deep = np.asarray(image).astype(np.uint16) * 16
    Image.fromarray(deep).save(film(raw), format="PNG")


def shrunk(raw: RawFolders) -> None:
    with Image.open(film(raw)) as image:
        image.resize((WIDTH // 2, HEIGHT // 2)).save(film(raw), format="JPEG")


def in_folder_of_another_subject(raw: RawFolders) -> None:
    study = film(raw, "a1").parent
    study.rename(film(raw, "a2").parent.parent / study.name)


def gold_row(previous: str, current: str, word: str, patient: int, name: str) -> Damage:
    def add(table: pd.DataFrame) -> pd.DataFrame:
        changes = {
            "patient_id": str(subject(patient)),
            "previous_image_id": previous,
            "current_image_id": current,
            "comparison": word,
            "label_name": name,
        }
        return pd.concat([table, table.iloc[[0]].assign(**changes)])

    return lambda raw: edit(file_named(raw, GOLD_FILE), add)


def zipped(change: Callable[[zipfile.ZipFile], None], broken: bool = False) -> Damage:
    """The graphs in their zip file, with something added, or with a broken byte in the middle."""

    def damage(raw: RawFolders) -> None:
        folder = raw.imagenome / "silver_dataset" / "scene_graph"
        path = folder.with_name("scene_graph.zip")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.iterdir()):
                archive.write(file, f"scene_graph/{file.name}")
                file.unlink()
            change(archive)
        folder.rmdir()
        if broken:
            packed_bytes = bytearray(path.read_bytes())
            packed_bytes[200:220] = bytes(20)
            path.write_bytes(packed_bytes)

    return damage


def nothing(archive: zipfile.ZipFile) -> None:
    return


def empty_folder_beside_the_zip(raw: RawFolders) -> None:
    zipped(nothing)(raw)
    (raw.imagenome / "silver_dataset" / "scene_graph").mkdir()


def half_unpacked(raw: RawFolders) -> None:
    """The zip file beside a folder that lacks one of its graphs."""
    folder = raw.imagenome / "silver_dataset" / "scene_graph"
    with zipfile.ZipFile(folder.with_name("scene_graph.zip"), "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"scene_graph/{file.name}")
    file.unlink()


def marked_in_zip(offset: int, value: int) -> Damage:
    """The graphs in their zip file, with a byte of each entry in its list of contents changed."""

    def damage(raw: RawFolders) -> None:
        zipped(nothing)(raw)
        path = file_named(raw, "scene_graph.zip")
        first, *entries = path.read_bytes().split(b"PK\1\2")
        changed = [e[: offset - 4] + bytes([value]) + e[offset - 3 :] for e in entries]
        path.write_bytes(b"PK\1\2".join([first, *changed]))

    return damage


READ_AS_MEANT = {
    "byte order mark": content(STAYS, lambda was: b"\xef\xbb\xbf" + was),
    "byte order mark of the gold file": content(GOLD_FILE, lambda was: b"\xef\xbb\xbf" + was),
    "Windows line ends": content(STAYS, lambda was: was.replace(b"\n", b"\r\n")),
    "Windows line ends of events": content(CHART, lambda was: was.replace(b"\n", b"\r\n")),
    "Windows line ends of the gold file": content(
        GOLD_FILE, lambda was: was.replace(b"\n", b"\r\n")
    ),
    "line break inside quotes": cell(ADMISSIONS, 3, "discharge_location", "HOME\nHEALTH, CARE"),
    "quote inside quotes": cell(ADMISSIONS, 3, "discharge_location", 'a "home"'),
    "extra column": lambda raw: edit(
        file_named(raw, STAYS), lambda table: table.assign(site="a, b")
    ),
    "no line end at the end": content(STAYS, lambda was: was.rstrip(b"\n")),
    "blank lines at the end": content(STAYS, lambda was: was + b"\n\n"),
    "ids with a decimal point": cell(STAYS, 2, "subject_id", f"{subject(0)}.0"),
    "spaces around a number": cell(STAYS, 2, "hadm_id", " 20000001 "),
    "packed events": packed(CHART, lambda was: was),
    "graphs in the zip file": zipped(nothing),
    "a folder of another system in the zip file": zipped(
        lambda archive: archive.writestr("__MACOSX/._a0_SceneGraph.json", b"\0\5")
    ),
    "graph with byte order mark": content("b1_SceneGraph.json", lambda was: b"\xef\xbb\xbf" + was),
    "column of row numbers": numbered(STAYS),
    "column of row numbers before events": numbered(CHART),
    "comma at the end of every line": content(STAYS, lambda was: was.replace(b"\n", b",\n")),
    "empty folder beside the zip file": empty_folder_beside_the_zip,
    "images named with .dcm": cell(GOLD_FILE, 2, "current_image_id", "b0.dcm"),
}


@pytest.mark.parametrize("damage", READ_AS_MEANT.values(), ids=READ_AS_MEANT)
def test_read_as_meant(damage: Damage, raw: RawFolders, undamaged: Cohort, tmp_path: Path):
    damage(raw)
    cohort = prepared(raw, tmp_path / "cohort")
    assert cohort.content_hash == undamaged.content_hash
    assert cohort.manifest["oddities"] == undamaged.manifest["oddities"]


NO_NUMBER = "charted values left out: no number"
NO_PLACE = "charted values left out: no subject or no time"
NO_ID = "charted values left out: no item, or a fraction for an id"
CLIPPED = "charted values clipped to their range"
NO_AREA = "region boxes left out: reversed or without area"
CUT = "region boxes cut at the edge of their film"
OUTSIDE = "region boxes left out: outside their film"
NO_ADMISSION = "stays left out: no admission or no patient"

MENDED = {
    **{
        f"repeated row of {name}": (repeated(name, 2), f"rows left out: repeated in {name[:-4]}")
        for name in TABLES
    },
    "stay without end": (cell(STAYS, 3, "outtime", ""), "stays left out: no outtime"),
    "stay with swapped dates": (
        cells(STAYS, 3, intime=LATER, outtime=EARLIER),
        "stays left out: outtime before intime",
    ),
    "admission with swapped dates": (
        cells(ADMISSIONS, 3, admittime=LATER, dischtime=EARLIER),
        "admissions that end before they begin",
    ),
    "death that the flag denies": (
        cell(ADMISSIONS, 3, "deathtime", "2155-01-12 00:00:00"),
        "stays whose death flag and dates disagree",
    ),
    "stay without admission": (without_row(ADMISSIONS, 3), NO_ADMISSION),
    "stay without patient": (without_row(PATIENTS, 3), NO_ADMISSION),
    "masked value": (cells(CHART, 9, value="___", valuenum=""), NO_NUMBER),
    "value that is no number": (cells(CHART, 9, value="NaN", valuenum="NaN"), NO_NUMBER),
    "endless value": (cells(CHART, 9, value="", valuenum="inf"), NO_NUMBER),
    "impossible value": (cells(CHART, 9, value="", valuenum="1e300"), CLIPPED),
    "negative value": (cells(CHART, 9, value="", valuenum="-3"), CLIPPED),
    "urine without value": (cell(OUTPUT, 2, "value", ""), NO_NUMBER),
    "event without time": (cell(CHART, 9, "charttime", ""), NO_PLACE),
    "event without subject": (cell(CHART, 9, "subject_id", ""), NO_PLACE),
    "event without item": (cell(CHART, 9, "itemid", ""), NO_ID),
    "event of an item with a fraction": (cell(CHART, 9, "itemid", "220044.6"), NO_ID),
    "event of a subject with a fraction": (cell(CHART, 9, "subject_id", "9999999.6"), NO_ID),
    "urine of a subject with a fraction": (cell(OUTPUT, 2, "subject_id", "9999999.6"), NO_ID),
    "box reversed in x": (box(16, 10, 4, 40), NO_AREA),
    "box reversed in y": (box(4, 40, 16, 10), NO_AREA),
    "box reversed in both": (box(16, 40, 4, 10), NO_AREA),
    "box without width": (box(4, 10, 4, 40), NO_AREA),
    "box with negative corner": (box(-4, -10, 16, 40), CUT),
    "box beyond the edge": (box(4, 10, WIDTH + 5, HEIGHT + 5), CUT),
    "box larger than the film": (box(-9, -9, WIDTH + 9, HEIGHT + 9), CUT),
    "negative box": (box(-20, -20, -5, -5), OUTSIDE),
    "box outside the film": (box(WIDTH, 0, WIDTH + 9, 9), OUTSIDE),
    "two boxes of one name": (
        more_boxes("left lung"),
        "region boxes left out: second of their name",
    ),
    "two comparisons at once": (
        relation(relationship_names=["comparison|yes|improved", "comparison|yes|worsened"]),
        "relations left out: two comparisons, or none",
    ),
    "no comparison": (
        relation(relationship_names=[]),
        "relations left out: two comparisons, or none",
    ),
    "film compared with itself": (
        relation(object_id="b1_left lung"),
        "relations left out: both films in one study",
    ),
    "films of another subject": (
        relation(
            relationship_names=["comparison|yes|worsened"],
            subject_id="b2_left lung",
            object_id="a2_left lung",
        ),
        "relations left out: films of another subject",
    ),
    "film compared with another subject's": (
        relation(object_id="a2_left lung"),
        "relations left out: films of another subject",
    ),
    "finding that is not there": (
        relation(attributes=["disease|no|pneumonia"]),
        "findings left out: negated",
    ),
    "polarity in other letters": (
        relation(attributes=["anatomicalfinding|Yes|pleural effusion"]),
        "polarities written in other letters than yes and no",
    ),
    "gold polarity in other letters": (
        cell(GOLD_FILE, 2, "attribute", "anatomicalfinding|YES|pleural effusion"),
        "polarities written in other letters than yes and no",
    ),
    "gold row without pair": (
        gold_row("x", "y", "worsened", 0, "pneumonia"),
        "gold rows left out: of no pair",
    ),
    "gold row of films that are no neighbours": (
        gold_row("a0", "c0", "worsened", 0, "pneumonia"),
        "gold rows left out: of no pair",
    ),
    "gold row turned round": (
        gold_row("b0", "a0", "worsened", 0, "pneumonia"),
        "gold rows left out: of no pair",
    ),
    "gold row with two comparisons": (
        gold_row("a0", "b0", "improved;;worsened", 0, "pneumonia"),
        "gold rows with two comparisons left out",
    ),
    "colour JPEG": (saved_as("RGB", "JPEG"), "films turned into 8-bit grey: RGB"),
    "CMYK JPEG": (saved_as("CMYK", "JPEG"), "films turned into 8-bit grey: CMYK"),
    "film with transparency": (saved_as("LA", "PNG"), "films turned into 8-bit grey: LA"),
    "film of 16 bits": (deep_png, "films turned into 8-bit grey: I;16"),
    "film of 12 bits": (png_of_12_bits, "films turned into 8-bit grey: I;16, 12 bits in use"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "rule"), MENDED.values(), ids=MENDED)
def test_mended_and_counted(
    damage: Damage, rule: str, raw: RawFolders, undamaged: Cohort, tmp_path: Path
):
    damage(raw)
    cohort = prepared(raw, tmp_path / "cohort")
    before, after = undamaged.manifest["oddities"], cohort.manifest["oddities"]
    changed = {what for what in before | after if before.get(what, 0) != after.get(what, 0)}
    assert changed == {rule}
    assert after[rule] == before.get(rule, 0) + 1
    assert labels(cohort).items() <= labels(undamaged).items()
    lost = set(labels(undamaged)) - set(labels(cohort))
    left_out = (
        {stay_id(1), ("a1", "b1"), ("b1", "c1")} if rule.startswith("stays left out") else set()
    )
    assert lost == left_out


@pytest.mark.parametrize(
    "damage",
    [
        saved_as("RGB", "JPEG"),
        saved_as("CMYK", "JPEG"),
        saved_as("LA", "PNG"),
        deep_png,
        png_of_12_bits,
    ],
)
def test_a_film_looks_the_same_in_every_mode(
    damage: Damage, raw: RawFolders, undamaged: Cohort, tmp_path: Path
):
    damage(raw)
    cohort = prepared(raw, tmp_path / "cohort")
    for name in ("films", "regions"):
        before, after = (one.arrays[name].astype(int) for one in (undamaged, cohort))
        assert np.abs(before - after).max() <= 3


@pytest.mark.parametrize("corners", [(16, 10, 4, 40), (-20, -20, -5, -5), (0, 0, 0, 0)])
def test_a_box_of_no_use_makes_its_region_absent(
    corners: tuple[int, ...], raw: RawFolders, tmp_path: Path
):
    box(*corners)(raw)
    cohort = prepared(raw, tmp_path / "cohort")
    present = cohort.arrays["region_present"]
    assert present.sum() == present.size - 1
    assert (cohort.arrays["regions"][~present] == 0).all()
    assert np.isnan(cohort.arrays["boxes"][:, : present.shape[1]][~present]).all()


def step(cohort: Cohort, rule: str) -> dict[str, Any]:
    (found,) = (one for one in cohort.manifest["attrition"] if one["rule"] == rule)
    return found


def test_of_two_films_in_a_study_one_is_kept(undamaged: Cohort, tmp_path: Path):
    made = tree()
    study = made.rows["mimic-cxr-2.0.0-metadata"][4]["study_id"]
    made.add_film(1, 20, "b1-again", study_id=study)
    made.rows["mimic-cxr-2.0.0-chexpert"].pop()
    cohort = prepared(made.write(tmp_path / "raw"), tmp_path / "cohort")
    assert step(cohort, "AP view")["n_films"] == 10
    assert step(cohort, "one of each study")["n_films"] == 9
    assert labels(cohort) == labels(undamaged)


def test_a_film_filed_twice_is_dropped_by_its_gap(undamaged: Cohort, tmp_path: Path):
    made = tree()
    made.add_film(1, 20, "b1-again")
    cohort = prepared(made.write(tmp_path / "raw"), tmp_path / "cohort")
    assert step(cohort, "has a scene graph")["n_films"] == 10
    assert step(cohort, "8 h or more after the film kept before")["n_films"] == 9
    assert labels(cohort) == labels(undamaged)


TIME = "is not a time like 2155-01-10 03:00:00"
WHOLE = "is not a whole number"
CLOCK, DATE = "is not a time HHMMSS", "is not a date YYYYMMDD"
UNBUILT = "is not built as a scene graph"

REFUSED = {
    "bytes of another encoding": (
        replaced(STAYS, "MICU", b"\xb0MICU"),
        (STAYS, "row 2", "cannot be read"),
    ),
    "UTF-16": (content(STAYS, lambda was: was.decode().encode("utf-16")), (STAYS, "cannot be")),
    "header named twice": (
        line(STAYS, 1, lambda was: was.replace(b"los", b"intime")),
        (f"{STAYS}, row 1: two columns are named 'intime'",),
    ),
    "quote that never ends": (replaced(STAYS, "MICU", b'"MICU'), (STAYS, "row 2", "cannot be")),
    "field too many": (line(STAYS, 3, lambda was: was + b",x"), (f"{STAYS}, row 3: 9 fields",)),
    "semicolons": (
        content(STAYS, lambda was: was.replace(b",", b";")),
        (f"{STAYS} has no column subject_id",),
    ),
    "two kinds of line end": (line(STAYS, 3, lambda was: was + b"\r"), (STAYS, "cannot be read")),
    "table of zero bytes": (content(PATIENTS, lambda was: b""), (PATIENTS, "is empty")),
    "packed table of zero bytes": (packed(CHART, lambda was: b""), (f"{CHART}.gz", "is empty")),
    "packed table cut off": (
        packed(ADMISSIONS, lambda was: was[:-40]),
        (f"{ADMISSIONS}.gz", "cannot be read"),
    ),
    "packed table with a wrong byte": (
        packed(STAYS, lambda was: was[:60] + bytes(8) + was[68:]),
        (f"{STAYS}.gz", "cannot be read"),
    ),
    "events without a row": (content(CHART, lambda was: was.splitlines()[0]), (CHART, "no row")),
    "urine without a row": (content(OUTPUT, lambda was: was.splitlines()[0]), (OUTPUT, "no row")),
    "stay that differs from itself": (
        repeated(STAYS, 3, outtime=LATER),
        (f"{STAYS}, rows 3 and 5: they differ", f"stay_id {stay_id(1)}"),
    ),
    "admission that differs from itself": (
        repeated(ADMISSIONS, 3, hospital_expire_flag="1"),
        (f"{ADMISSIONS}, rows 3 and 5: they differ", "hadm_id 20000011"),
    ),
    "patient that differs from itself": (
        repeated(PATIENTS, 3, anchor_age="12"),
        (f"{PATIENTS}, rows 3 and 5: they differ", f"subject_id {subject(1)}"),
    ),
    "film that differs from itself": (
        repeated(METADATA, 3, StudyTime="1.0"),
        (f"{METADATA}, rows 3 and 11: they differ", "dicom_id b0"),
    ),
    "report that differs from itself": (
        repeated(CHEXPERT, 3, Edema="1.0"),
        (f"{CHEXPERT}, rows 3 and 11: they differ", "study_id 50000002"),
    ),
    "time without seconds": (
        cell(STAYS, 3, "intime", "2155-01-10 02:13"),
        (f"{STAYS}, row 3, column intime: '2155-01-10 02:13' {TIME}",),
    ),
    "time of an event without seconds": (
        cell(CHART, 9, "charttime", "2155-01-10 02:13"),
        (f"{CHART}, row 9, column charttime: '2155-01-10 02:13' {TIME}",),
    ),
    "day without time": (
        cell(STAYS, 3, "outtime", "2155-01-14"),
        (f"{STAYS}, row 3, column outtime: '2155-01-14' {TIME}",),
    ),
    "time with a zone": (
        cell(STAYS, 3, "intime", "2155-01-10 02:13:07+05:00"),
        (f"{STAYS}, row 3, column intime", TIME),
    ),
    "month before day": (
        cell(STAYS, 3, "intime", "01/10/2155 02:13:07"),
        (f"{STAYS}, row 3, column intime", TIME),
    ),
    "id with a line break": (
        cell(STAYS, 3, "subject_id", "1\n0"),
        (STAYS, f"column subject_id: '1\\n0' {WHOLE}"),
    ),
    "death that is no date": (
        cell(PATIENTS, 3, "dod", "soon"),
        (f"{PATIENTS}, row 3, column dod: 'soon' is not a date like",),
    ),
    "id with a fraction": (
        cell(STAYS, 3, "subject_id", "10000002.5"),
        (f"{STAYS}, row 3, column subject_id: 10000002.5 {WHOLE}",),
    ),
    "id in base 16": (
        cell(STAYS, 3, "stay_id", "0x10"),
        (f"{STAYS}, row 3, column stay_id: '0x10' {WHOLE}",),
    ),
    "id too long": (
        cell(STAYS, 3, "stay_id", "9" * 25),
        (f"{STAYS}, row 3, column stay_id", WHOLE),
    ),
    "masked id": (
        cell(STAYS, 3, "hadm_id", "___"),
        (f"{STAYS}, row 3, column hadm_id: '___' {WHOLE}",),
    ),
    "death flag with a fraction": (
        cell(ADMISSIONS, 3, "hospital_expire_flag", "0.7"),
        (f"{ADMISSIONS}, row 3, column hospital_expire_flag: 0.7 {WHOLE}",),
    ),
    "death flag of another value": (
        cell(ADMISSIONS, 3, "hospital_expire_flag", "2"),
        (f"{ADMISSIONS}, row 3, column hospital_expire_flag: 2 is not 0 or 1",),
    ),
    "death flag in words": (
        cell(ADMISSIONS, 3, "hospital_expire_flag", "yes"),
        (f"{ADMISSIONS}, row 3, column hospital_expire_flag: 'yes' {WHOLE}",),
    ),
    "age that is no number": (
        cell(PATIENTS, 3, "anchor_age", "NaN"),
        (f"{PATIENTS}, row 3, column anchor_age: empty, expected a number",),
    ),
    **{
        f"{column} of {value}": (
            cell(PATIENTS, 3, column, value),
            (f"{PATIENTS}, row 3, column {column}: {value}", "is not from"),
        )
        for column, value in (("anchor_age", "300"), ("anchor_age", "-3"), ("anchor_year", "20"))
    },
    **{
        f"film of {value} {column}": (
            cell(METADATA, 3, column, value),
            (f"{METADATA}, row 3, column {column}: {value}", "is not a whole number from 1 to"),
        )
        for column, value in (("Rows", "inf"), ("Columns", "40.5"), ("Rows", "0"), ("Rows", "-50"))
    },
    "blank line for a header": (
        content(STAYS, lambda was: b"\n" + was),
        (f"{STAYS}, row 1: a blank line, expected the header",),
    ),
    "blank lines after the header": (
        content(CHART, lambda was: was.replace(b"\n", b"\n\n\n", 1)),
        (f"{CHART}, row 2: a blank line, expected a row",),
    ),
    "masked number": (
        cell(CHART, 9, "valuenum", "___"),
        (f"{CHART}, row 9, column valuenum: '___' is not a number",),
    ),
    "clock that is no number": (
        cell(METADATA, 3, "StudyTime", "nan"),
        (f"{METADATA}, row 3, column StudyTime: empty, expected a number",),
    ),
    **{
        f"clock of {value}": (
            cell(METADATA, 3, "StudyTime", value),
            (f"{METADATA}, row 3, column StudyTime", CLOCK),
        )
        for value in ("inf", "-0.5", "126000", "120060", "240000", "1e30")
    },
    **{
        f"date of {value}": (
            cell(METADATA, 3, "StudyDate", value),
            (f"{METADATA}, row 3, column StudyDate: {value}", DATE),
        )
        for value in ("2155011", "215501101", "21550010", "-21550110")
    },
    "date with a fraction": (
        cell(METADATA, 3, "StudyDate", "21550110.5"),
        (f"{METADATA}, row 3, column StudyDate: 21550110.5 {WHOLE}",),
    ),
    "film of zero bytes": (lambda raw: film(raw).write_bytes(b""), ("a1.jpg is not an image",)),
    "film of another size": (
        shrunk,
        (f"a1.jpg is {WIDTH // 2} x {HEIGHT // 2} pixels", f"says {WIDTH} x {HEIGHT}"),
    ),
    "film in the folder of another subject": (
        in_folder_of_another_subject,
        (f"p{subject(1)}", "a1.jpg is not there"),
    ),
    "graph of zero bytes": (graph_text(lambda was: ""), ("b1_SceneGraph.json is not JSON",)),
    "graph cut off": (graph_text(lambda was: was[:-30]), ("b1_SceneGraph.json is not JSON",)),
    "graph of another encoding": (
        content("b1_SceneGraph.json", lambda was: was.replace(b"left lung", b"\xb0", 1)),
        ("b1_SceneGraph.json is not JSON",),
    ),
    "graph nested without end": (
        graph_text(lambda was: "[" * 100_000),
        ("b1_SceneGraph.json is not JSON",),
    ),
    "graph of another image": (
        field("image_id", "c2"),
        ("b1_SceneGraph.json is the graph of another image, 'c2'",),
    ),
    "graph whose image is a number": (field("image_id", 7), ("b1_SceneGraph.json", UNBUILT)),
    "field given twice": (
        graph_text(lambda was: was[:-1] + ', "relationships": []}'),
        ("b1_SceneGraph.json is not JSON", "field 'relationships' is given twice"),
    ),
    "box corner that is no number": (box(float("nan"), 0, 9, 9), ("b1_SceneGraph.json", UNBUILT)),
    "box without end": (box(0, 0, float("inf"), 9), ("b1_SceneGraph.json", UNBUILT)),
    "box of a size no film has": (box(0, 0, 10**400, 9), ("b1_SceneGraph.json", UNBUILT)),
    "objects that are no list": (field("objects", 3), ("b1_SceneGraph.json", UNBUILT)),
    "relations that are no list": (field("relationships", 3), ("b1_SceneGraph.json", UNBUILT)),
    "nested attributes": (
        relation(attributes=[["disease|yes|pneumonia"]]),
        ("b1_SceneGraph.json", UNBUILT),
    ),
    "polarity that is neither": (
        relation(attributes=["anatomicalfinding|maybe|pleural effusion"]),
        ("b1_SceneGraph.json", UNBUILT, "relationship 2: polarity 'maybe' is neither yes nor no"),
    ),
    "polarity of a comparison that is neither": (
        relation(relationship_names=["comparison||improved"]),
        ("b1_SceneGraph.json", UNBUILT, "relationship 2: polarity '' is neither yes nor no"),
    ),
    "gold polarity that is neither": (
        cell(GOLD_FILE, 2, "attribute", "anatomicalfinding|maybe|pleural effusion"),
        (f"{GOLD_FILE}, row 2, column attribute: 'anatomicalfinding|maybe|pleural effusion'",),
    ),
    **{
        f"{name} in braces": (field(name, {}), ("b1_SceneGraph.json", UNBUILT, f"{name} is no"))
        for name in ("relationships", "objects")
    },
    **{
        f"{name} of a relation in braces": (
            relation(**{name: {}}),
            ("b1_SceneGraph.json", UNBUILT, f"relationship 2: {name} is no list"),
        )
        for name in ("relationship_names", "attributes")
    },
    **{
        f"region of a relation as {value}": (
            relation(bbox_name=value),
            ("b1_SceneGraph.json", UNBUILT, "relationship 2: bbox_name"),
        )
        for value in (None, 3, ["left lung"])
    },
    "comparison in two parts": (
        relation(relationship_names=["comparison|improved"]),
        ("b1_SceneGraph.json", UNBUILT),
    ),
    "comparison with a line break": (
        relation(relationship_names=["comparison|yes|im\nproved"]),
        ("b1_SceneGraph.json: unknown comparison 'im\\nproved'",),
    ),
    "two graphs of one image": (
        zipped(lambda archive: archive.writestr("other/b1_SceneGraph.json", "{}")),
        ("scene_graph.zip holds two graphs of b1",),
    ),
    "zip file with a password": (
        marked_in_zip(8, 1),
        ("scene_graph.zip, scene_graph/a0_SceneGraph.json is encrypted",),
    ),
    "zip file packed in a way of its own": (
        marked_in_zip(10, 99),
        ("scene_graph.zip, scene_graph/a0_SceneGraph.json cannot be unpacked here",),
    ),
    "half of the zip file unpacked": (
        half_unpacked,
        ("scene_graph holds 8 graphs", "scene_graph.zip 9", "unpack it again"),
    ),
    "zip file with wrong bytes": (zipped(nothing, broken=True), ("scene_graph.zip",)),
    "gold row under another patient": (
        gold_row("a1", "b1", "improved", 0, "pleural effusion"),
        (f"{GOLD_FILE}: image b1 is of subject {subject(1)}",),
    ),
    "gold comparison with a space": (
        cell(GOLD_FILE, 2, "comparison", "improved "),
        (f"{GOLD_FILE}, row 2, column comparison: unknown comparison 'improved '",),
    ),
    "gold file with commas": (
        content(GOLD_FILE, lambda was: was.replace(b"\t", b",")),
        (f"{GOLD_FILE} has no column patient_id",),
    ),
}


@pytest.mark.parametrize(("damage", "expected"), REFUSED.values(), ids=REFUSED)
def test_refused_in_one_line_that_names_the_place(
    damage: Damage, expected: tuple[str, ...], raw: RawFolders, tmp_path: Path
):
    damage(raw)
    with pytest.raises(UserError) as caught:
        prepared(raw, tmp_path / "out" / "cohort")
    message = str(caught.value)
    assert "\n" not in message
    for part in expected:
        assert part in message
    assert_nothing_half_written(tmp_path / "out", message)


def test_there_are_sixty_kinds_of_damage_and_more():
    assert len(MENDED) + len(REFUSED) >= 60
    assert not set(MENDED) & set(REFUSED)


def test_the_boxes_of_the_undamaged_films_are_inside(undamaged: Cohort):
    assert BOX[2] <= WIDTH and BOX[3] <= HEIGHT
    assert undamaged.manifest["oddities"].get(CUT, 0) == 0
