"""Scene graphs: where they lie, boxes and their repairs, relations."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench.data.vocabulary import Progression
from bench.errors import UserError
from bench.preparing.scene_graphs import REPAIRS, SceneGraph, SceneGraphs, image_of
from tests.preparing.raw_tree import BOX, graph_of, object_of


def write(root: Path, graph: Any, dicom: str = "a") -> Path:
    folder = root / "silver_dataset" / "scene_graph"
    folder.mkdir(parents=True, exist_ok=True)
    text = graph if isinstance(graph, str) else json.dumps(graph)
    (folder / f"{dicom}_SceneGraph.json").write_text(text)
    return root


def read(root: Path, graph: Any, dicom: str = "a") -> tuple[SceneGraph, Counter[str]]:
    oddities: Counter[str] = Counter()
    return SceneGraphs(write(root, graph, dicom)).read(dicom, oddities), oddities


def relation(**changes: Any) -> dict[str, Any]:
    return {
        "relationship_names": ["comparison|yes|improved"],
        "attributes": ["anatomicalfinding|yes|pleural effusion"],
        "bbox_name": "left lung",
        "subject_id": "now_left lung",
        "object_id": "before_left lung",
        **changes,
    }


def test_graphs_are_found_unpacked_either_way_or_in_the_zip(tmp_path: Path):
    flat = write(tmp_path / "flat", graph_of("a"))
    nested = tmp_path / "nested"
    write(nested, graph_of("a"))
    folder = nested / "silver_dataset" / "scene_graph"
    (folder / "scene_graph").mkdir()
    (folder / "a_SceneGraph.json").rename(folder / "scene_graph" / "a_SceneGraph.json")
    packed = tmp_path / "packed" / "silver_dataset"
    packed.mkdir(parents=True)
    with zipfile.ZipFile(packed / "scene_graph.zip", "w") as archive:
        archive.writestr("scene_graph/a_SceneGraph.json", json.dumps(graph_of("a")))
    found = [SceneGraphs(root) for root in (flat, nested, packed.parent)]
    assert all("a" in graphs and "b" not in graphs for graphs in found)
    first, second, third = (graphs.read("a", Counter()) for graphs in found)
    assert first == second == third
    assert first.boxes["left lung"] == BOX


def test_a_missing_scene_graph_folder_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"scene_graph\.zip is there"):
        SceneGraphs(tmp_path)


def test_of_a_name_seen_twice_the_first_counts(tmp_path: Path):
    graph = graph_of("a")
    graph["objects"].append(object_of("left lung", (0, 0, 5, 5)))
    found, oddities = read(tmp_path, graph)
    assert found.boxes["left lung"] == BOX
    assert oddities == {"region boxes left out: second of their name": 1}


@pytest.mark.parametrize(("key", "right_name"), REPAIRS.items())
def test_known_defects_are_repaired_in_memory(key: tuple, right_name: str | None, tmp_path: Path):
    dicom, wrong_name, box = key
    graph = {"objects": [object_of(wrong_name, box), object_of(wrong_name, BOX)]}
    found, oddities = read(tmp_path, graph, dicom)
    assert found.boxes == {wrong_name: BOX} | ({right_name: box} if right_name else {})
    assert oddities == {"scene graph objects repaired": 1}
    again, _ = read(tmp_path, graph, dicom)
    assert again == found
    # The same object in another film is left as it is.
    untouched, _ = read(tmp_path, graph, "b")
    assert untouched.boxes == {wrong_name: box}


def test_a_relation_is_read_with_its_films_and_findings(tmp_path: Path):
    graph = graph_of("now")
    graph["relationships"] = [
        relation(
            attributes=[
                "anatomicalfinding|no|pleural effusion",
                "anatomicalfinding|yes|pulmonary edema/hazy opacity",
                "disease|yes|pneumonia",
                "disease|yes|copd/emphysema",
                "nlp|yes|abnormal",
            ],
            relationship_names=["comparison|yes|worsened", "temporal|yes|acute"],
        )
    ]
    (found,) = read(tmp_path, graph, "now")[0].relations
    assert (found.previous, found.current, found.region) == ("before", "now", "left lung")
    assert found.verdicts == (Progression.WORSENED,)
    assert found.findings == (
        ("pleural effusion", False),
        ("pulmonary edema", True),
        ("pneumonia", True),
    )


def test_a_graph_without_relations_is_fine(tmp_path: Path):
    assert read(tmp_path, {"objects": []})[0] == SceneGraph({}, ())


def test_image_ids_lose_region_and_suffix():
    assert image_of("0f3a-77b2_left lung") == image_of("0f3a-77b2.dcm") == "0f3a-77b2"


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "not built as a scene graph"),
        ({"relationships": []}, "no field 'objects'"),
        ({"objects": None}, "not built as a scene graph"),
        ({"objects": [{"bbox_name": "left lung"}]}, "no field 'original_x1'"),
        ({"objects": [object_of("left lung", ("a", 0, 1, 1))]}, "not built as a scene graph"),
        (
            {"objects": [], "relationships": [relation(relationship_names=["comparison|yes|new"])]},
            "unknown comparison 'new'",
        ),
        (
            {"objects": [], "relationships": [relation(attributes=["pneumonia"])]},
            "not built as a scene graph",
        ),
    ],
)
def test_a_broken_graph_is_named(graph: Any, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, graph)
    assert "a_SceneGraph.json" in str(caught.value)
    assert "\n" not in str(caught.value)
