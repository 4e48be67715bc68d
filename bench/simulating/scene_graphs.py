"""The simulated reports and boxes as Chest ImaGenome: a scene graph per frontal image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from bench.simulating.boxes import Box
from bench.simulating.comparisons import WORD, Sentence, write_reports
from bench.simulating.gold import LETTERBOX, scaled, write_gold
from bench.simulating.identifiers import Identifiers
from bench.simulating.population import Population
from bench.simulating.streams import Tag, stream

DOUBLED: Final = 0.01
"""Graphs in which a region has a second box: readers keep the first."""

SPLIT_SHARES: Final = {"train": 0.7, "valid": 0.1, "test": 0.2}


def write_scene_graphs(
    root: Path,
    population: Population,
    ids: Identifiers,
    images: pd.DataFrame,
    boxes: list[dict[str, Box]],
    size: int,
) -> None:
    """Write silver_dataset (graphs, splits) and gold_dataset below `root`.

    images: of `draw_images`; boxes: by film, in pixels; size: side of a film
    """
    folder = root / "silver_dataset" / "scene_graph"
    folder.mkdir(parents=True, exist_ok=True)
    reports = write_reports(population, ids, images)
    stay = population.films["stay"].to_numpy()[images["film"]]
    people = population.subjects.iloc[population.stays["subject"].to_numpy()[stay]]
    images = images.assign(
        sex=people["sex"].to_numpy(),
        age=people["age"].to_numpy(),
        order=images.groupby("subject_id")["taken"].rank("dense").astype(int),
    )
    kind = population.stays["kind"].to_numpy()[stay]
    with_graph = (kind != "no_scene_graph") & images["view"].isin(["AP", "PA"]).to_numpy()
    for row in np.flatnonzero(with_graph).tolist():
        image = images.iloc[row]
        found = list(boxes[image["film"]].items())
        if stream(population.seed, Tag.WRITING, 9, row).random() < DOUBLED:
            found.append((found[0][0], (0, 0, size, size)))
        objects = [_object(image["dicom_id"], region, box, size) for region, box in found]
        graph = _graph(image, objects, reports[row])
        (folder / f"{image['dicom_id']}_SceneGraph.json").write_text(json.dumps(graph))
    avoid = ids.subject_id[population.gold_subjects]
    _write_splits(root / "silver_dataset" / "splits", images[with_graph], avoid, population.seed)
    write_gold(root / "gold_dataset", population, ids, boxes, size)


def _graph(
    image: pd.Series, objects: list[dict[str, Any]], report: Sequence[Sentence]
) -> dict[str, Any]:
    relations = [
        _relation(image["dicom_id"], f"{image['study_id']}|{k}", sentence)
        for k, sentence in enumerate(report)
    ]
    decade = int(image["age"]) // 10 * 10
    return {
        "image_id": image["dicom_id"],
        "viewpoint": image["view"],
        "patient_id": int(image["subject_id"]),
        "study_id": int(image["study_id"]),
        "gender": image["sex"],
        "age_decile": f"{decade}-{decade + 10}",
        "reason_for_exam": "___ year old patient, interval change",
        "StudyOrder": int(image["order"]),
        "StudyDateTime": f"{image['taken']} UTC",
        "objects": objects,
        "attributes": _attributes(image["dicom_id"], relations),
        "relationships": relations,
    }


def _object(dicom: str, name: str, box: Box, size: int) -> dict[str, Any]:
    x1, y1, x2, y2 = scaled(box)
    a1, b1, a2, b2 = scaled(box, LETTERBOX / size)
    return {
        "object_id": f"{dicom}_{name}",
        "x1": a1, "y1": b1, "x2": a2, "y2": b2, "width": a2 - a1, "height": b2 - b1,
        "bbox_name": name,
        "synsets": ["C0817096"],
        "name": name.capitalize(),
        "original_x1": x1, "original_y1": y1, "original_x2": x2, "original_y2": y2,
        "original_width": x2 - x1, "original_height": y2 - y1,
    }  # fmt: skip


def _attributes(dicom: str, relations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry per region that the report mentions, one list item per sentence."""
    entries = []
    for region in dict.fromkeys(relation["bbox_name"] for relation in relations):
        own = [relation for relation in relations if relation["bbox_name"] == region]
        entries.append(
            {
                region: True,
                "bbox_name": region,
                "synsets": ["C0817096"],
                "name": region.capitalize(),
                "attributes": [relation["attributes"] for relation in own],
                "attributes_ids": [["" for _ in relation["attributes"]] for relation in own],
                "phrases": [relation["phrase"] for relation in own],
                "phrase_IDs": [relation["relationship_id"].split("_")[0] for relation in own],
                "sections": ["finalreport"] * len(own),
                "comparison_cues": [relation["relationship_names"] for relation in own],
                "temporal_cues": [[] for _ in own],
                "severity_cues": [[] for _ in own],
                "texture_cues": [[] for _ in own],
                "object_id": f"{dicom}_{region}",
            }
        )
    return entries


def _relation(dicom: str, phrase_id: str, sentence: Sentence) -> dict[str, Any]:
    names = [WORD[word] for word in sentence.words]
    return {
        "relationship_id": f"{phrase_id}_{dicom}_{sentence.region}",
        "predicate": str([name.capitalize() for name in names]),
        "synsets": ["C1457868"] * len(names),
        "relationship_names": [f"comparison|yes|{name}" for name in names],
        "relationship_contexts": [1.0] * len(names),
        "phrase": f"{sentence.region}: {', '.join(names)}.",
        "attributes": list(sentence.attributes),
        "bbox_name": sentence.region,
        "subject_id": f"{dicom}_{sentence.region}",
        "object_id": f"{sentence.previous}_{sentence.region}",
    }


def _write_splits(folder: Path, images: pd.DataFrame, avoid: np.ndarray, seed: int) -> None:
    """Write the data set's own splits, by subject; images of gold subjects are in none."""
    folder.mkdir(parents=True, exist_ok=True)
    subjects, subject = np.unique(images["subject_id"], return_inverse=True)
    drawn = stream(seed, Tag.WRITING, 10).choice(
        list(SPLIT_SHARES), size=len(subjects), p=list(SPLIT_SHARES.values())
    )
    part = np.where(np.isin(subjects, avoid), "avoid", drawn)[subject]
    path = [
        f"files/p{str(s)[:2]}/p{s}/s{study}/{dicom}.dcm"
        for s, study, dicom in zip(
            images["subject_id"], images["study_id"], images["dicom_id"], strict=True
        )
    ]
    table = images[["subject_id", "study_id", "dicom_id"]].assign(
        path=path, ViewPosition=images["view"]
    )
    for name in SPLIT_SHARES:
        rows = table[part == name].reset_index(drop=True)
        rows.to_csv(folder / f"{name}.csv", lineterminator="\n")
    table[part == "avoid"].to_csv(folder / "images_to_avoid.csv", index=False, lineterminator="\n")
