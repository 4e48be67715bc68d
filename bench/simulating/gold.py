"""The gold comparisons of Chest ImaGenome: human consensus on the gold subjects' pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pandas as pd

from bench.data.vocabulary import DISEASES, NOT_MENTIONED, Progression
from bench.simulating.boxes import Box
from bench.simulating.comparisons import GRAPH_NAME, WORD, attribute_of
from bench.simulating.identifiers import Identifiers
from bench.simulating.population import Population

COLUMNS: Final = (
    "patient_id", "relationship_id", "subject_id", "object_id", "bbox", "comparison", "attribute",
    "sentence", "bbox_coord_224_subject", "bbox_coord_224_object", "bbox_coord_original_subject",
    "bbox_coord_original_object", "label_name", "current_image_id", "previous_image_id",
)  # fmt: skip

NO_BOX: Final[Box] = (0, 0, 0, 0)
LETTERBOX: Final = 224
"""Side of the copy in which Chest ImaGenome's boxes are given besides the film's own pixels."""

TWO_WORDS_EVERY: Final = 25
"""One pair in so many gets a row that joins two comparisons, which readers leave out."""


def write_gold(
    folder: Path, population: Population, ids: Identifiers, boxes: list[dict[str, Box]], size: int
) -> None:
    """Write gold_object_comparison_with_coordinates.txt, tab separated, a row per region's word."""
    folder.mkdir(parents=True, exist_ok=True)
    subject = population.stays["subject"].to_numpy()
    rows: list[dict[str, Any]] = []
    for i, pair in enumerate(population.pairs.to_dict("records")):
        labels = dict(zip(DISEASES, population.gold_labels[i], strict=True))
        said = [
            (region, disease, WORD[Progression(int(labels[disease]))])
            for region, disease, _ in population.region_words[i]
            if labels[disease] != NOT_MENTIONED
        ]
        silent = [disease for disease in DISEASES if labels[disease] == NOT_MENTIONED]
        if said and silent and i % TWO_WORDS_EVERY == 0:
            said.append((said[0][0], silent[0], "improved;;no change"))
        patient = ids.subject_id[subject[pair["stay"]]]
        films = (pair["film_2"], pair["film_1"])
        rows += [
            {"patient_id": patient, **_row(f"g{i}_{k}", ids, boxes, films, *words, size)}
            for k, words in enumerate(said)
        ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    path = folder / "gold_object_comparison_with_coordinates.txt"
    table.to_csv(path, sep="\t", index=False, lineterminator="\n")


def _row(
    name: str,
    ids: Identifiers,
    boxes: list[dict[str, Box]],
    films: tuple[int, int],
    region: str,
    disease: str,
    word: str,
    size: int,
) -> dict[str, Any]:
    """One row; `films` are the current and the previous one."""
    current, previous = (ids.dicom_id[film] for film in films)
    subject_box, object_box = (boxes[film].get(region, NO_BOX) for film in films)
    return {
        "relationship_id": name,
        "subject_id": f"{current}_{region}",
        "object_id": f"{previous}_{region}",
        "bbox": region,
        "comparison": word,
        "attribute": attribute_of(disease),
        "sentence": f"{region}: {word}.",
        "bbox_coord_224_subject": str(scaled(subject_box, LETTERBOX / size)),
        "bbox_coord_224_object": str(scaled(object_box, LETTERBOX / size)),
        "bbox_coord_original_subject": str(scaled(subject_box)),
        "bbox_coord_original_object": str(scaled(object_box)),
        "label_name": GRAPH_NAME.get(disease, disease),
        "current_image_id": current,
        "previous_image_id": previous,
    }


def scaled(box: Box, ratio: float = 1.0) -> list[int]:
    """A box in whole pixels of a copy `ratio` times as large."""
    return [round(float(v) * ratio) for v in box]
