"""The simulated films as MIMIC-CXR-JPG: JPEG files and the tables that describe them."""

from __future__ import annotations

import shutil
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import joblib
import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from bench.simulating.anatomy import draw_anatomy
from bench.simulating.boxes import Box
from bench.simulating.film import finding_masks, render_film
from bench.simulating.identifiers import Identifiers, draw_dicom_id
from bench.simulating.mimic_iv import write_csv
from bench.simulating.population import FILM_SEVERITIES, Population
from bench.simulating.streams import Tag, stream

JPEG_QUALITY: Final = 90
N_MASKED_SUBJECTS: Final = 20
"""Subjects whose exact finding masks are kept in the truth."""

CHEXPERT: Final = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum",
    "Fracture", "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other",
    "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip
CHEXPERT_PROCESS: Final = {
    "Atelectasis": "atelectasis",
    "Cardiomegaly": "heart",
    "Consolidation": "consolidation",
    "Edema": "edema",
    "Lung Opacity": "opacity",
    "Pleural Effusion": "effusion",
    "Pneumonia": "pneumonia",
}


@dataclass(frozen=True)
class Drawn:
    """What rendering a subject's films leaves besides the files."""

    films: list[int]
    boxes: list[dict[str, Box]]
    masks: dict[str, np.ndarray]


def film_file(root: Path, subject_id: int, study_id: int, dicom_id: str) -> Path:
    """Where MIMIC-CXR-JPG keeps a film."""
    folder = f"p{str(subject_id)[:2]}/p{subject_id}/s{study_id}"
    return root / "files" / folder / f"{dicom_id}.jpg"


def write_films(
    root: Path, population: Population, ids: Identifiers, size: int, nuisance: float, jobs: int
) -> tuple[list[dict[str, Box]], dict[str, np.ndarray]]:
    """Render and write every film; return the boxes by film and masks of some subjects' films."""
    subject = population.stays["subject"].to_numpy()[population.films["stay"]]
    people = population.subjects.to_dict("records")
    order = np.argsort(subject, kind="stable")
    films_of = np.split(order, np.flatnonzero(np.diff(subject[order])) + 1)
    tasks = [
        joblib.delayed(_draw_subject)(
            population.seed, int(subject[films[0]]), people[subject[films[0]]], films.tolist(),
            population.film_severity[films], population.film_ventilated[films],
            [film_file(root, ids.subject_id[subject[f]], ids.study_id[f], ids.dicom_id[f])
             for f in films],
            size, nuisance, keep_masks=rank < N_MASKED_SUBJECTS,
        )
        for rank, films in enumerate(films_of)
    ]  # fmt: skip
    boxes: list[dict[str, Box]] = [{} for _ in subject]
    masks: dict[str, np.ndarray] = {}
    with tqdm(total=len(subject), unit="film", desc="films", disable=None) as bar:
        for drawn in joblib.Parallel(n_jobs=jobs, return_as="generator")(tasks):
            for film, found in zip(drawn.films, drawn.boxes, strict=True):
                boxes[film] = found
            masks |= drawn.masks
            bar.update(len(drawn.films))
    return boxes, masks


def _draw_subject(
    seed: int,
    subject: int,
    person: dict[Hashable, Any],
    films: list[int],
    severity: np.ndarray,
    ventilated: np.ndarray,
    files: list[Path],
    size: int,
    nuisance: float,
    keep_masks: bool,
) -> Drawn:
    """Draw one subject's anatomy once and all its films."""
    anatomy = draw_anatomy(
        stream(seed, Tag.ANATOMY, subject),
        sex=person["sex"], age=person["age"], bmi=person["bmi"], size=size,
    )  # fmt: skip
    boxes: list[dict[str, Box]] = []
    masks: dict[str, np.ndarray] = {}
    for k, film in enumerate(films):
        rng = stream(seed, Tag.FILM, subject, k)
        drawn = render_film(anatomy, severity[k], bool(ventilated[k]), rng, nuisance=nuisance)
        files[k].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.image).save(files[k], quality=JPEG_QUALITY)
        boxes.append(drawn.boxes)
        if keep_masks:
            found = finding_masks(anatomy, severity[k])
            for name, mask in found.items():
                on_film = drawn.view.resample(mask.astype(np.float32)) > 0.5
                masks[f"{film}/{name}"] = np.packbits(on_film)
    return Drawn(films, boxes, masks)


def write_tables(
    root: Path, population: Population, ids: Identifiers, size: int, gzip: bool
) -> None:
    """Write metadata, chexpert and split; extra images (other views, copies) with their files."""
    metadata = _metadata(population, ids, size)
    extra = _extra_images(root, metadata, population.seed)
    everything = pd.concat([metadata, extra], ignore_index=True).sort_values(
        ["subject_id", "study_id", "dicom_id"], ignore_index=True
    )
    names = {
        "metadata": everything,
        "chexpert": _chexpert(population, ids),
        "split": everything[["dicom_id", "study_id", "subject_id"]].assign(split="train"),
    }
    for name, table in names.items():
        write_csv(root / f"mimic-cxr-2.0.0-{name}.csv", table, gzip)


def _metadata(population: Population, ids: Identifiers, size: int) -> pd.DataFrame:
    times = pd.DatetimeIndex(ids.film_times(population.films))
    subject = population.stays["subject"].to_numpy()[population.films["stay"]]
    # HHMMSS.fff as a number: leading zeros are lost, as in the real table.
    clock = times.hour * 10000 + times.minute * 100 + times.second + 0.343
    return pd.DataFrame(
        {
            "dicom_id": ids.dicom_id,
            "subject_id": ids.subject_id[subject],
            "study_id": ids.study_id,
            "PerformedProcedureStepDescription": "CHEST (PORTABLE AP)",
            "ViewPosition": "AP",
            "Rows": size,
            "Columns": size,
            "StudyDate": times.year * 10000 + times.month * 100 + times.day,
            "StudyTime": clock,
            "ProcedureCodeSequence_CodeMeaning": "CHEST (PORTABLE AP)",
            "ViewCodeSequence_CodeMeaning": "antero-posterior",
            "PatientOrientationCodeSequence_CodeMeaning": "Erect",
        }
    )


def _extra_images(root: Path, metadata: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Images that a pipeline must leave aside: a second AP film, other views, studies long before.

    They are copies of a film's file under another name.
    """
    rng = stream(seed, Tag.WRITING, 2)
    rows: list[dict[Hashable, Any]] = []
    for film in metadata.to_dict("records"):
        kind = rng.random()
        if kind > 0.15:
            continue
        row = {**film, "dicom_id": draw_dicom_id(rng)}
        if kind < 0.05:
            # A second AP film of a study sorts after the film that counts.
            row["dicom_id"] = draw_dicom_id(rng, "ffffffff")
        elif kind < 0.12:
            row["ViewPosition"] = "LATERAL" if kind < 0.09 else "PA"
        else:
            row["study_id"] = 60_000_000 + len(rows)
            # New Year of the year before: a date in every year, which 29 February is not.
            row["StudyDate"] = film["StudyDate"] // 10_000 * 10_000 - 10_000 + 101
        rows.append(row)
        copy = film_file(root, row["subject_id"], row["study_id"], row["dicom_id"])
        copy.parent.mkdir(parents=True, exist_ok=True)
        original = film_file(root, film["subject_id"], film["study_id"], film["dicom_id"])
        shutil.copyfile(original, copy)
    return pd.DataFrame(rows, columns=metadata.columns)


def _chexpert(population: Population, ids: Identifiers) -> pd.DataFrame:
    """Labels per study: positive when clearly shown, uncertain when faint, else not mentioned."""
    subject = population.stays["subject"].to_numpy()[population.films["stay"]]
    table = pd.DataFrame({"subject_id": ids.subject_id[subject], "study_id": ids.study_id})
    for label in CHEXPERT:
        table[label] = np.nan
    for label, process in CHEXPERT_PROCESS.items():
        columns = [name.startswith(process) for name in FILM_SEVERITIES]
        shown = population.film_severity[:, columns].sum(axis=1)
        table[label] = np.select([shown > 0.6, shown > 0.35], [1.0, -1.0], np.nan)
    return table
