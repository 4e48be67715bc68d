"""Miniature raw folders in the MIMIC layouts, built row by row so that a test can add an oddity."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from bench.data.cohort import Cohort
from bench.data.vocabulary import BOX_REGIONS, DISEASE_IN_CHEXPERT
from bench.preparing.images import Sizes
from bench.preparing.mimic import Options, prepare_mimic
from bench.preparing.provenance import Provenance
from bench.preparing.rules import STRICT, Rules
from bench.preparing.selection import RawFolders

HEART_RATE, GCS_EYE, FIO2, URINE, INR = 220045, 220739, 223835, 226559, 227467

ICU_STAYS, ADMISSIONS, PATIENTS = "icu/icustays", "hosp/admissions", "hosp/patients"
CHART, OUTPUT, LAB = "icu/chartevents", "icu/outputevents", "hosp/labevents"
METADATA = "mimic-cxr-2.0.0-metadata"
CHEXPERT = "mimic-cxr-2.0.0-chexpert"
GOLD = "gold_dataset/gold_object_comparison_with_coordinates"

COLUMNS: dict[str, list[str]] = {
    ICU_STAYS: [
        "subject_id",
        "hadm_id",
        "stay_id",
        "first_careunit",
        "last_careunit",
        "intime",
        "outtime",
        "los",
    ],
    ADMISSIONS: [
        "subject_id",
        "hadm_id",
        "admittime",
        "dischtime",
        "deathtime",
        "admission_type",
        "admit_provider_id",
        "discharge_location",
        "language",
        "marital_status",
        "race",
        "hospital_expire_flag",
    ],
    PATIENTS: ["subject_id", "gender", "anchor_age", "anchor_year", "anchor_year_group", "dod"],
    CHART: [
        "subject_id",
        "hadm_id",
        "stay_id",
        "caregiver_id",
        "charttime",
        "storetime",
        "itemid",
        "value",
        "valuenum",
        "valueuom",
        "warning",
    ],
    OUTPUT: [
        "subject_id",
        "hadm_id",
        "stay_id",
        "caregiver_id",
        "charttime",
        "storetime",
        "itemid",
        "value",
        "valueuom",
    ],
    LAB: [
        "labevent_id",
        "subject_id",
        "hadm_id",
        "specimen_id",
        "itemid",
        "charttime",
        "storetime",
        "value",
        "valuenum",
        "valueuom",
    ],
    METADATA: [
        "dicom_id",
        "subject_id",
        "study_id",
        "PerformedProcedureStepDescription",
        "ViewPosition",
        "Rows",
        "Columns",
        "StudyDate",
        "StudyTime",
    ],
    CHEXPERT: ["subject_id", "study_id", *DISEASE_IN_CHEXPERT, "No Finding"],
    GOLD: [
        "patient_id",
        "relationship_id",
        "subject_id",
        "object_id",
        "bbox",
        "comparison",
        "attribute",
        "sentence",
        "label_name",
        "current_image_id",
        "previous_image_id",
    ],
}
INTIME = pd.Timestamp("2155-01-10 02:13:07")
NO_SHIFT = pd.Timedelta(0)
FILM_SHAPE = (50, 40)  # rows, columns
BOX = (4, 10, 16, 40)


@dataclass
class RawTree:
    """Rows of the tables, scene graphs and films of three raw data sets; `write` makes files.

    Subject k has id 10000001 + k; its stay, admission and studies are numbered along.
    """

    rows: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {name: [] for name in COLUMNS}
    )
    graphs: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)
    shift: pd.Timedelta = NO_SHIFT

    def add_stay(self, k: int, los_hours: float = 120, n: int = 0, **changes: Any) -> None:
        """Stay n of subject k, in an admission of its own; 1000 hours after the one before."""
        ids = {"subject_id": subject(k), "hadm_id": 20_000_001 + 10 * k + n}
        intime = INTIME + pd.Timedelta(hours=1000 * n)
        outtime = intime + pd.Timedelta(hours=los_hours)
        stay = {
            **ids,
            "stay_id": stay_id(k, n),
            "first_careunit": "MICU",
            "last_careunit": "MICU",
            "intime": intime,
            "outtime": outtime,
            "los": los_hours / 24,
        }
        admission = {
            **ids,
            "admittime": intime - pd.Timedelta(hours=8),
            "dischtime": outtime + pd.Timedelta(hours=24),
            "language": "ENGLISH",
            "marital_status": "MARRIED",
            "race": "WHITE - RUSSIAN",
            "hospital_expire_flag": 0,
        }
        patient = {
            "subject_id": subject(k),
            "gender": "F",
            "anchor_age": 60 + k,
            "anchor_year": 2154 + round(self.shift.days / 365.25),
        }
        for name, row, key in (
            (ICU_STAYS, stay, "stay_id"),
            (ADMISSIONS, admission, "hadm_id"),
            (PATIENTS, patient, "subject_id"),
        ):
            row.update({column: to for column, to in changes.items() if column in COLUMNS[name]})
            # A second stay of one admission, or of one subject, adds no second row of that.
            if row[key] not in [other[key] for other in self.rows[name]]:
                self.rows[name].append(row)

    def chart(self, k: int, hours: float, item: int, value: object, **changes: Any) -> None:
        """An event of subject k's first stay; a text value has no valuenum."""
        name = OUTPUT if item == URINE else CHART
        row = {
            "subject_id": subject(k),
            "stay_id": stay_id(k),
            "charttime": INTIME + pd.Timedelta(hours=hours),
            "itemid": item,
            "value": value,
        }
        if name == CHART and not isinstance(value, str):
            row["valuenum"] = value
        self.rows[name].append({**row, **changes})

    def measure(self, k: int, hours: float, item: int, value: object, **changes: Any) -> None:
        """A laboratory value of subject k; a text has no valuenum."""
        row = {
            "subject_id": subject(k),
            "charttime": INTIME + pd.Timedelta(hours=hours),
            "itemid": item,
            "value": value,
            "valuenum": None if isinstance(value, str) else value,
        }
        self.rows[LAB].append({**row, **changes})

    def add_film(self, k: int, hours: float, dicom: str, graph: bool = True, **changes: Any) -> str:
        """A film of subject k, in a study of its own."""
        time = INTIME + pd.Timedelta(hours=hours) + self.shift
        row = {
            "dicom_id": dicom,
            "subject_id": subject(k),
            "study_id": 50_000_001 + len(self.rows[METADATA]),
            "ViewPosition": "AP",
            "Rows": FILM_SHAPE[0],
            "Columns": FILM_SHAPE[1],
            "StudyDate": time.strftime("%Y%m%d"),
            "StudyTime": float(time.strftime("%H%M%S")) + 0.343,
            **changes,
        }
        self.rows[METADATA].append(row)
        self.rows[CHEXPERT].append({"subject_id": subject(k), "study_id": row["study_id"]})
        gradient = np.linspace(20, 230, FILM_SHAPE[0] * FILM_SHAPE[1])
        self.images[dicom] = gradient.reshape(FILM_SHAPE).astype(np.uint8)
        if graph:
            self.graphs[dicom] = graph_of(dicom)
        return dicom

    def compare(
        self,
        previous: str,
        current: str,
        word: str,
        findings: tuple[str, ...] = ("anatomicalfinding|yes|pleural effusion",),
        region: str = "left lung",
        graph: str | None = None,
    ) -> None:
        """A sentence in the graph of `current` (or another); several words join with '+'."""
        self.graphs[graph or current]["relationships"].append(
            {
                "relationship_names": [f"comparison|yes|{one}" for one in word.split("+")],
                "attributes": [*findings, "nlp|yes|abnormal"],
                "bbox_name": region,
                "subject_id": f"{current}_{region}",
                "object_id": f"{previous}_{region}",
            }
        )

    def add_gold(
        self, k: int, previous: str, current: str, word: str, finding: str, bbox: str = "left lung"
    ) -> None:
        """A row of the gold file."""
        self.rows[GOLD].append(
            {
                "patient_id": subject(k),
                "bbox": bbox,
                "comparison": word,
                "attribute": finding,
                "label_name": finding.split("|")[-1],
                "current_image_id": current,
                "previous_image_id": previous,
            }
        )

    def write(self, root: Path, packed: bool = False) -> RawFolders:
        """Write the three folders below `root`; `packed` as .csv.gz."""
        raw = RawFolders(root / "mimic-iv", root / "mimic-cxr-jpg", root / "chest-imagenome")
        folder_of = {METADATA: raw.mimic_cxr, CHEXPERT: raw.mimic_cxr, GOLD: raw.imagenome}
        for name in COLUMNS:
            file = folder_of.get(name, raw.mimic_iv) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            write_table(file, self.table(name), packed)
        for row in self.rows[METADATA]:
            file = film_file(raw.mimic_cxr, row)
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(self.images[row["dicom_id"]]).save(file, quality=95)
        graphs = raw.imagenome / "silver_dataset" / "scene_graph"
        graphs.mkdir(parents=True)
        for dicom, graph in self.graphs.items():
            (graphs / f"{dicom}_SceneGraph.json").write_text(json.dumps(graph))
        return raw

    def table(self, name: str) -> pd.DataFrame:
        """A table as the file holds it: every column, times as text and shifted."""
        table = pd.DataFrame(self.rows[name], columns=COLUMNS[name], dtype=object)
        for column in table.columns:
            table[column] = [
                (value + self.shift).strftime("%Y-%m-%d %H:%M:%S")
                if isinstance(value, pd.Timestamp)
                else value
                for value in table[column]
            ]
        return table


def subject(k: int) -> int:
    return 10_000_001 + k


def stay_id(k: int, n: int = 0) -> int:
    return 30_000_001 + 10 * k + n


def film_file(mimic_cxr: Path, row: dict[str, Any]) -> Path:
    who = f"p{row['subject_id']}"
    folder = mimic_cxr / "files" / who[:3] / who / f"s{row['study_id']}"
    return folder / f"{row['dicom_id']}.jpg"


def write_table(file: Path, table: pd.DataFrame, packed: bool) -> None:
    is_gold = file.name.startswith("gold")
    text = table.to_csv(index=False, sep="\t" if is_gold else ",", lineterminator="\n")
    if is_gold:
        file.with_name(file.name + ".txt").write_text(text)
    elif packed:
        file.with_name(file.name + ".csv.gz").write_bytes(gzip.compress(text.encode()))
    else:
        file.with_name(file.name + ".csv").write_text(text)


def graph_of(dicom: str) -> dict[str, Any]:
    """A graph with a box for every region and no relation."""
    objects = [object_of(region, BOX) for region in BOX_REGIONS]
    return {"image_id": dicom, "objects": objects, "attributes": [], "relationships": []}


def object_of(region: str, box: tuple[int, int, int, int]) -> dict[str, Any]:
    names = ("original_x1", "original_y1", "original_x2", "original_y2")
    return {"bbox_name": region, **dict(zip(names, box, strict=True))}


def plain_tree(n_subjects: int = 10, shift: pd.Timedelta = NO_SHIFT) -> RawTree:
    """Subjects with a stay of 5 days, a heart rate every two hours and films a<k>, b<k>, c<k>.

    The films are at 5, 20 and 60 h; effusion improves from a to b and worsens from b to c.
    """
    tree = RawTree(shift=shift)
    for k in range(n_subjects):
        tree.add_stay(k, los_hours=120 + k)
        for hour in range(0, 110, 2):
            tree.chart(k, hour + 0.5, HEART_RATE, 60 + k + hour)
        tree.chart(k, 3, URINE, 100 + k)
        a, b, c = (
            tree.add_film(k, hours, f"{name}{k}")
            for name, hours in (("a", 5), ("b", 20), ("c", 60))
        )
        tree.compare(a, b, "improved")
        tree.compare(b, c, "worsened")
    return tree


SIMULATED = Provenance("simulated cohort, by hand", simulated=True, credentialed=False)
SIZES = Sizes(film=32, region=16)


def prepare(tree: RawTree, root: Path, rules: Rules = STRICT, **options: Any) -> Cohort:
    """Write the tree below `root` and prepare it."""
    raw = tree.write(root / "raw")
    return prepare_mimic(
        raw, SIMULATED, root / "cohort", Options(rules, SIZES, **options), say=lambda line: None
    )
