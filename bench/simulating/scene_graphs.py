"""The simulated reports as Chest ImaGenome: a scene graph per film and the gold comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from bench.data.vocabulary import DISEASE_IN_GRAPH, DISEASES, NOT_MENTIONED, Progression
from bench.simulating.boxes import Box
from bench.simulating.identifiers import Identifiers, draw_dicom_id
from bench.simulating.population import Population
from bench.simulating.streams import Tag, stream

GRAPH_NAME: Final = {disease: name for name, disease in reversed(DISEASE_IN_GRAPH.items())}
"""Our name -> the graph's; edema's is the long one."""

WORD: Final = {
    Progression.WORSENED: "worsened",
    Progression.IMPROVED: "improved",
    Progression.NO_CHANGE: "no change",
}
LETTERBOX: Final = 224


def attribute_of(disease: str, polarity: str = "yes") -> str:
    """'category|yes or no|name' of a disease."""
    category = "disease" if disease == "pneumonia" else "anatomicalfinding"
    return f"{category}|{polarity}|{GRAPH_NAME.get(disease, disease)}"


def write_scene_graphs(
    root: Path, population: Population, ids: Identifiers, boxes: list[dict[str, Box]], size: int
) -> None:
    """Write silver_dataset/scene_graph and gold_dataset below `root`."""
    folder = root / "silver_dataset" / "scene_graph"
    folder.mkdir(parents=True, exist_ok=True)
    times = pd.DatetimeIndex(ids.film_times(population.films))
    pair_of = {int(film): i for i, film in enumerate(population.pairs["film_2"])}
    kind = population.stays["kind"].to_numpy()[population.films["stay"]]
    for film in np.flatnonzero(kind != "no_scene_graph").tolist():
        rng = stream(population.seed, Tag.WRITING, 3, film)
        relations: list[dict[str, Any]] = []
        if film in pair_of:
            relations = _relations(population, ids, pair_of[film], rng)
        elif rng.random() < 0.2:
            relations = [_elsewhere(ids, film, rng)]
        graph = _graph(population, ids, film, boxes[film], size, times[film], relations, rng)
        path = folder / f"{ids.dicom_id[film]}_SceneGraph.json"
        path.write_text(json.dumps(graph))
    _write_gold(root / "gold_dataset", population, ids)


def _graph(
    population: Population,
    ids: Identifiers,
    film: int,
    boxes: dict[str, Box],
    size: int,
    time: pd.Timestamp,
    relations: list[dict[str, Any]],
    rng: np.random.Generator,
) -> dict[str, Any]:
    subject = int(population.stays["subject"].iloc[population.films["stay"].iloc[film]])
    person = population.subjects.iloc[subject]
    dicom = ids.dicom_id[film]
    objects = [_object(dicom, name, box, size) for name, box in boxes.items()]
    if objects and rng.random() < 0.01:
        # A name that occurs twice: readers keep the first.
        objects.append({**objects[0], "original_x1": 0, "original_y1": 0})
    decade = int(person["age"]) // 10 * 10
    return {
        "image_id": dicom,
        "viewpoint": "AP",
        "patient_id": int(ids.subject_id[subject]),
        "study_id": int(ids.study_id[film]),
        "gender": person["sex"],
        "age_decile": f"{decade}-{decade + 10}",
        "reason_for_exam": "___ year old patient, interval change",
        "StudyOrder": 1,
        "StudyDateTime": f"{time} UTC",
        "objects": objects,
        "attributes": _attributes(dicom, int(ids.study_id[film]), relations),
        "relationships": relations,
    }


def _object(dicom: str, name: str, box: Box, size: int) -> dict[str, Any]:
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    a1, b1, a2, b2 = (round(float(v) * LETTERBOX / size) for v in box)
    return {
        "object_id": f"{dicom}_{name}",
        "x1": a1, "y1": b1, "x2": a2, "y2": b2, "width": a2 - a1, "height": b2 - b1,
        "bbox_name": name,
        "synsets": ["C0817096"],
        "name": name.capitalize(),
        "original_x1": x1, "original_y1": y1, "original_x2": x2, "original_y2": y2,
        "original_width": x2 - x1, "original_height": y2 - y1,
    }  # fmt: skip


def _attributes(dicom: str, study: int, relations: list[dict[str, Any]]) -> list[dict[str, Any]]:
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
                "phrase_IDs": [f"{study}|{k}" for k in range(len(own))],
                "sections": ["finalreport"] * len(own),
                "comparison_cues": [relation["relationship_names"] for relation in own],
                "temporal_cues": [[] for _ in own],
                "severity_cues": [[] for _ in own],
                "texture_cues": [[] for _ in own],
                "object_id": f"{dicom}_{region}",
            }
        )
    return entries


def _relations(
    population: Population, ids: Identifiers, pair: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """What the report of a pair's second film says of the first, region by region."""
    row = population.pairs.iloc[pair]
    current, previous = ids.dicom_id[row["film_2"]], ids.dicom_id[row["film_1"]]
    study = int(ids.study_id[row["film_2"]])
    opacity = int(row["lung opacity"])
    relations = []
    words = [*population.region_words[pair], *population.contradictions[pair]]
    for k, (region, disease, word) in enumerate(words):
        attributes = [attribute_of(disease), "nlp|yes|abnormal"]
        # Parent concept: added where it says what the report says of lung opacity anyway.
        lung = "lung" in region and disease not in ("lung opacity", "enlarged cardiac silhouette")
        if lung and opacity == word and (region, "lung opacity", word) in words:
            attributes.insert(1, attribute_of("lung opacity"))
        relations.append(_relation(study, k, current, previous, region, [word], attributes))
    if row["compared"] and rng.random() < 0.1:
        relations.append(_ambiguous(row, study, len(relations), current, previous))
    if row["compared"] and rng.random() < 0.1:
        absent = [attribute_of(_unmentioned(row), "no")]
        k = len(relations)
        relations.append(_relation(study, k, current, previous, "left lung", [1], absent))
    return relations


def _unmentioned(row: pd.Series) -> str:
    """A disease that the pair's labels do not mention, or one that no label is about."""
    free = [disease for disease in DISEASES if row[disease] == NOT_MENTIONED]
    return free[0] if free else "pneumothorax"


def _ambiguous(row: pd.Series, study: int, k: int, current: str, previous: str) -> dict[str, Any]:
    """A sentence with two comparisons, which readers must drop."""
    attributes = [attribute_of(_unmentioned(row))]
    return _relation(study, k, current, previous, "right lung", [0, 1], attributes)


def _elsewhere(ids: Identifiers, film: int, rng: np.random.Generator) -> dict[str, Any]:
    """A comparison of a stay's first film with one that is not in the stay."""
    attributes = [attribute_of("pleural effusion")]
    study = int(ids.study_id[film])
    return _relation(study, 0, ids.dicom_id[film], draw_dicom_id(rng), "left lung", [0], attributes)


def _relation(
    study: int,
    k: int,
    current: str,
    previous: str,
    region: str,
    words: list[int],
    attributes: list[str],
) -> dict[str, Any]:
    names = [WORD[Progression(word)] for word in words]
    return {
        "relationship_id": f"{study}|{k}_{current}_{region}",
        "predicate": str([name.capitalize() for name in names]),
        "synsets": ["C1457868"] * len(names),
        "relationship_names": [f"comparison|yes|{name}" for name in names],
        "relationship_contexts": [1.0] * len(names),
        "phrase": f"{region}: {', '.join(names)}.",
        "attributes": attributes,
        "bbox_name": region,
        "subject_id": f"{current}_{region}",
        "object_id": f"{previous}_{region}",
    }


GOLD_COLUMNS: Final = (
    "patient_id", "relationship_id", "subject_id", "object_id", "bbox", "comparison", "attribute",
    "sentence", "bbox_coord_224_subject", "bbox_coord_224_object", "bbox_coord_original_subject",
    "bbox_coord_original_object", "label_name", "current_image_id", "previous_image_id",
)  # fmt: skip


def _write_gold(folder: Path, population: Population, ids: Identifiers) -> None:
    """Consensus comparisons of the gold subjects' pairs, tab separated."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    subject = population.stays["subject"].to_numpy()
    for i, row in enumerate(population.pairs.to_dict("records")):
        current, previous = ids.dicom_id[row["film_2"]], ids.dicom_id[row["film_1"]]
        labels = dict(zip(DISEASES, population.gold_labels[i], strict=True))
        said = [(r, d) for r, d, _ in population.region_words[i] if labels[d] != NOT_MENTIONED]
        for k, (region, disease) in enumerate(said):
            word = WORD[Progression(int(labels[disease]))]
            rows.append(
                {
                    "patient_id": ids.subject_id[subject[row["stay"]]],
                    "relationship_id": f"g{i}_{k}",
                    "subject_id": f"{current}_{region}",
                    "object_id": f"{previous}_{region}",
                    "bbox": region,
                    "comparison": word,
                    "attribute": attribute_of(disease),
                    "sentence": f"{region}: {word}.",
                    **dict.fromkeys(GOLD_COLUMNS[8:12], "[0, 0, 0, 0]"),
                    "label_name": GRAPH_NAME.get(disease, disease),
                    "current_image_id": current,
                    "previous_image_id": previous,
                }
            )
    table = pd.DataFrame(rows, columns=list(GOLD_COLUMNS))
    path = folder / "gold_object_comparison_with_coordinates.txt"
    table.to_csv(path, sep="\t", index=False, lineterminator="\n")
