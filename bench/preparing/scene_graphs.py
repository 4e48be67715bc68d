"""Chest ImaGenome scene graphs: region boxes and comparisons with an earlier film."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
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

POLARITIES: Final = {"yes": True, "no": False}

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

    A graph may speak of films of its own subject only (`subject_of`: subject by dicom_id).

    Raises:
        UserError: there are none, or fewer unpacked than in the zip file beside them.
    """

    def __init__(self, imagenome: Path, subject_of: Mapping[str, int] | None = None) -> None:
        self._subject_of = subject_of or {}
        folder = imagenome / "silver_dataset" / "scene_graph"
        inner, packed = folder / "scene_graph", folder.with_name("scene_graph.zip")
        if not folder.is_dir() and not packed.is_file():
            raise UserError(f"neither {folder} nor {packed} is there: Chest ImaGenome holds one")
        self.root = inner if inner.is_dir() else folder
        unpacked = [path.name for path in self.root.iterdir()] if folder.is_dir() else []
        self._names = _named_by_film(self.root, unpacked)
        self._zip: zipfile.ZipFile | None = None
        if packed.is_file():
            archive = _open_zip(packed)
            in_zip = _named_by_film(packed, archive.namelist())
            if not self._names:
                self.root, self._names, self._zip = packed, in_zip, archive
            elif len(self._names) < len(in_zip):
                raise UserError(
                    f"{self.root} holds {len(self._names)} graphs, {packed} {len(in_zip)}: unpack "
                    "it again, or remove one of the two"
                )
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
            graph = json.loads(self._content(dicom_id), object_pairs_hook=_object)
        except (OSError, ValueError, RecursionError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} is not JSON ({error}): download or unpack it again")
        try:
            # Graphs that are not of a release may lack the name of their image.
            image = image_of(graph.get("image_id", dicom_id))
            if image != dicom_id:
                raise UserError(f"{path} is the graph of another image, {image!r}: rename it")
            entries = _list(graph.get("relationships", []), "relationships")
            relations = [
                _relation(entry, number, path, oddities)
                for number, entry in enumerate(entries, start=1)
            ]
            return SceneGraph(
                boxes=_boxes(dicom_id, _list(graph["objects"], "objects"), oddities),
                relations=tuple(self._of_own_subject(dicom_id, relations, oddities)),
            )
        except KeyError as error:
            raise UserError(f"{path} has no field {error}: is it a scene graph?")
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            raise UserError(f"{path} is not built as a scene graph ({error}): download it again")

    def _content(self, dicom_id: str) -> bytes:
        name = self._names[dicom_id]
        if self._zip is None:
            return (self.root / name).read_bytes()
        try:
            return self._zip.read(name)
        except NotImplementedError as error:
            raise UserError(f"{self.root}, {name} cannot be unpacked here ({error}): unpack it")
        except RuntimeError:
            raise UserError(f"{self.root}, {name} is encrypted: unpack it with its password")

    def _of_own_subject(
        self, dicom_id: str, relations: Iterable[Relation], oddities: Counter[str]
    ) -> Iterable[Relation]:
        own = self._subject_of.get(dicom_id)
        for relation in relations:
            films = (relation.previous, relation.current)
            if any(self._subject_of.get(film, own) != own for film in films):
                oddities["relations left out: films of another subject"] += 1
            else:
                yield relation


def affirmed(polarity: str, oddities: Counter[str]) -> bool:
    """Whether 'yes' is written; other letters of it are counted in `oddities`.

    Raises:
        ValueError: it is neither yes nor no.
    """
    if polarity.lower() not in POLARITIES:
        raise ValueError(f"polarity {polarity!r} is neither yes nor no")
    if polarity not in POLARITIES:
        oddities["polarities written in other letters than yes and no"] += 1
    return POLARITIES[polarity.lower()]


def image_of(object_id: str) -> str:
    """The dicom_id in an object id ('<dicom_id>_<region>') or an image id."""
    return object_id.split("_", 1)[0].removesuffix(".dcm")


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({error}): download it again")


def _named_by_film(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Name of the graph of each dicom_id; hidden files are not graphs."""
    found: dict[str, str] = {}
    for name in names:
        file = Path(name).name
        if file.endswith(SUFFIX) and not file.startswith("."):
            dicom_id = file.removesuffix(SUFFIX)
            if dicom_id in found:
                raise UserError(f"{root} holds two graphs of {dicom_id}; keep one")
            found[dicom_id] = name
    return found


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{what} is no list")
    return value


def _region(entry: dict[str, Any]) -> str:
    name = entry["bbox_name"]
    if not isinstance(name, str):
        raise TypeError(f"bbox_name {name!r} is no text")
    return name


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
        region: str | None = _region(entry)
        key = (dicom_id, _region(entry), (x1, y1, x2, y2))
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


def _relation(entry: dict[str, Any], number: int, path: Path, oddities: Counter[str]) -> Relation:
    try:
        names = list(dict.fromkeys(_comparisons(entry, oddities)))
        for name in names:
            if name not in VERDICTS:
                raise UserError(
                    f"{path}: unknown comparison {name!r} in relationship {number}: expected "
                    f"{', '.join(VERDICTS)}"
                )
        return Relation(
            previous=image_of(entry["object_id"]),
            current=image_of(entry["subject_id"]),
            region=_region(entry),
            verdicts=tuple(VERDICTS[name] for name in names),
            findings=tuple(_findings(entry, oddities)),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"relationship {number}: {error}")


def _comparisons(entry: dict[str, Any], oddities: Counter[str]) -> Iterable[str]:
    for name in _list(entry["relationship_names"], "relationship_names"):
        category, polarity, comparison = name.split("|")
        if category == "comparison" and affirmed(polarity, oddities):
            yield comparison


def _findings(entry: dict[str, Any], oddities: Counter[str]) -> Iterable[tuple[str, bool]]:
    for attribute in _list(entry["attributes"], "attributes"):
        category, polarity, name = attribute.split("|")
        if category in ("anatomicalfinding", "disease") and name in DISEASE_IN_GRAPH:
            yield DISEASE_IN_GRAPH[name], affirmed(polarity, oddities)
