"""Chest ImaGenome scene graphs: region boxes and comparisons with an earlier film."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.data.vocabulary import DISEASE_IN_GRAPH, Progression
from bench.errors import UserError

Box = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels of the film; may leave it."""

SUFFIX: Final = "_SceneGraph.json"
BOX_FIELDS: Final = ("original_x1", "original_y1", "original_x2", "original_y2")
NO_BOX: Final = (0, 0, 0, 0)
"""How a missing box is written."""
MAX_PIXEL: Final = 1_000_000

VERDICTS: Final = {
    "worsened": Progression.WORSENED,
    "improved": Progression.IMPROVED,
    "no change": Progression.NO_CHANGE,
}

REPAIRS: Final[dict[tuple[str, str, Box], str | None]] = {
    (
        "3e953c67-28b78460-4f783437-379841d3-a79ec530",
        "left mid lung zone",
        (1500, 886, 2278, 1214),
    ): None,
    (
        "8bd72ea4-f6e5470f-3ddbc81e-a1da43d8-b6e39876",
        "left lower lung zone",
        (777, 586, 1199, 1404),
    ): None,
    (
        "38bbebbd-b67908dc-387567bf-e3f965b7-77a18536",
        "right apical zone",
        (1146, 532, 1787, 859),
    ): "left apical zone",
    (
        "38bbebbd-b67908dc-387567bf-e3f965b7-77a18536",
        "right upper lung zone",
        (1159, 518, 1964, 1146),
    ): "left upper lung zone",
    (
        "038c0310-98178aef-3414521f-1d34c309-8b94b78e",
        "left lower lung zone",
        (641, 1732, 1732, 2428),
    ): "right lower lung zone",
    (
        "038c0310-98178aef-3414521f-1d34c309-8b94b78e",
        "left mid lung zone",
        (777, 1309, 1746, 1746),
    ): "right mid lung zone",
}
"""Objects of release 1.0.0 with a wrong name: their right one, or None to leave the object out."""


@dataclass(frozen=True)
class Relation:
    """A sentence that compares a region with an earlier film.

    previous, current: dicom_id of the two films
    verdicts: the comparisons it makes; two are ambiguous
    findings: (disease, affirmed); a negated finding is not affirmed
    """

    previous: str
    current: str
    region: str
    verdicts: tuple[Progression, ...]
    findings: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class SceneGraph:
    """What is read of a graph: one box a region, relations in file order."""

    boxes: dict[str, Box]
    relations: tuple[Relation, ...]


class SceneGraphs:
    """The scene graphs of a Chest ImaGenome folder, unpacked (either way) or in their zip file.

    Raises:
        UserError: there are none.
    """

    def __init__(self, imagenome: Path) -> None:
        folder = imagenome / "silver_dataset" / "scene_graph"
        inner, packed = folder / "scene_graph", folder.with_name("scene_graph.zip")
        self._zip: zipfile.ZipFile | None = None
        if folder.is_dir():
            self.root = inner if inner.is_dir() else folder
            names: Iterable[str] = [path.name for path in self.root.iterdir()]
        elif packed.is_file():
            self.root = packed
            self._zip = _open_zip(packed)
            names = self._zip.namelist()
        else:
            raise UserError(f"neither {folder} nor {packed} is there: Chest ImaGenome holds one")
        self._names: dict[str, str] = {}
        for name in names:
            if name.endswith(SUFFIX):
                dicom_id = Path(name).name.removesuffix(SUFFIX)
                if dicom_id in self._names:
                    raise UserError(f"{self.root} holds two graphs of {dicom_id}; keep one")
                self._names[dicom_id] = name
        if not self._names:
            raise UserError(f"{self.root} holds no *{SUFFIX}: download or unpack it again")

    def __contains__(self, dicom_id: str) -> bool:
        return dicom_id in self._names

    def read(self, dicom_id: str, oddities: Counter[str]) -> SceneGraph:
        """Read the graph of a film; what had to be mended is counted in `oddities`.

        Raises:
            UserError: it is not the JSON of a scene graph.
        """
        path = self.root / self._names[dicom_id]
        try:
            text = self._zip.read(self._names[dicom_id]) if self._zip else path.read_bytes()
            graph = json.loads(text, object_pairs_hook=_object)
        except (OSError, ValueError, RecursionError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} is not JSON ({error}): download or unpack it again")
        try:
            # Graphs that are not of a release may lack the name of their image.
            image = image_of(graph.get("image_id", dicom_id))
            if image != dicom_id:
                raise UserError(f"{path} is the graph of another image, {image!r}: rename it")
            return SceneGraph(
                boxes=_boxes(dicom_id, graph["objects"], oddities),
                relations=tuple(_relation(r, path) for r in graph.get("relationships", [])),
            )
        except KeyError as error:
            raise UserError(f"{path} has no field {error}: is it a scene graph?")
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            raise UserError(f"{path} is not built as a scene graph ({error}): download it again")


def image_of(object_id: str) -> str:
    """The dicom_id in an object id ('<dicom_id>_<region>') or an image id."""
    return object_id.split("_", 1)[0].removesuffix(".dcm")


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({error}): download it again")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a field given twice neither could be believed."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
        raise ValueError(f"field {twice!r} is given twice")
    return fields


def _boxes(dicom_id: str, objects: list[dict[str, Any]], oddities: Counter[str]) -> dict[str, Box]:
    """One box a region; of a name seen twice the first counts, and one without area is none."""
    boxes: dict[str, Box] = {}
    for entry in objects:
        x1, y1, x2, y2 = (_pixel(entry[name]) for name in BOX_FIELDS)
        region: str | None = entry["bbox_name"]
        key = (dicom_id, str(region), (x1, y1, x2, y2))
        if key in REPAIRS:
            region = REPAIRS[key]
            oddities["scene graph objects repaired"] += 1
        if not (x1 < x2 and y1 < y2):
            if (x1, y1, x2, y2) != NO_BOX:
                oddities["region boxes left out: reversed or without area"] += 1
        elif region in boxes:
            oddities["region boxes left out: second of their name"] += 1
        elif region is not None:
            boxes[region] = (x1, y1, x2, y2)
    return boxes


def _pixel(value: int | float | str) -> int:
    """A coordinate; fractions of a pixel are cut off."""
    pixel = int(value)
    if abs(pixel) > MAX_PIXEL:
        raise ValueError(f"a coordinate beyond {MAX_PIXEL} pixels")
    return pixel


def _relation(entry: dict[str, Any], path: Path) -> Relation:
    verdicts = []
    for name in entry["relationship_names"]:
        category, polarity, verdict = name.split("|")
        if category == "comparison" and polarity == "yes":
            if verdict not in VERDICTS:
                raise UserError(
                    f"{path}: unknown comparison {verdict!r}: expected {', '.join(VERDICTS)}"
                )
            verdicts.append(VERDICTS[verdict])
    return Relation(
        previous=image_of(entry["object_id"]),
        current=image_of(entry["subject_id"]),
        region=entry["bbox_name"],
        verdicts=tuple(dict.fromkeys(verdicts)),
        findings=tuple(_findings(entry["attributes"])),
    )


def _findings(attributes: list[str]) -> Iterable[tuple[str, bool]]:
    for attribute in attributes:
        category, polarity, name = attribute.split("|")
        if category in ("anatomicalfinding", "disease") and name in DISEASE_IN_GRAPH:
            yield DISEASE_IN_GRAPH[name], polarity == "yes"
