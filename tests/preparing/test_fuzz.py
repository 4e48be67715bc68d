"""Parsers under arbitrary input: a right answer or a `UserError` of one line, never another end."""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.data.vocabulary import BOX_REGIONS, REGIONS
from bench.errors import UserError
from bench.preparing.events import clean_events, ranges
from bench.preparing.films import taken
from bench.preparing.images import FilmFile, Sizes, inspect_films, prepare_film
from bench.preparing.items import ItemMap, extended_items
from bench.preparing.rules import OFFICIAL, STRICT, Rules
from bench.preparing.scene_graphs import Box, SceneGraph, SceneGraphs
from bench.preparing.tables import PATIENTS, read_table
from tests.preparing.raw_tree import graph_of, object_of

hypothesis = pytest.importorskip("hypothesis", reason="pip install hypothesis to run these tests")
from hypothesis import example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

settings.register_profile("fast", max_examples=80, deadline=None, derandomize=True, database=None)
settings.load_profile("fast")

PATH = Path("metadata.csv")


def result_or_one_line(parse: Callable[[], Any]) -> Any:
    """What a parser returns; None if it refuses in one line."""
    try:
        return parse()
    except UserError as error:
        assert "\n" not in str(error) and str(error)
        return None


# Scene graphs

numbers = st.none() | st.booleans() | st.integers() | st.floats()
texts = st.text(max_size=8) | st.sampled_from(
    ["comparison|yes|improved", "comparison|no|worsened", "disease|yes|pneumonia", "left lung"]
)
anything = st.recursive(
    numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
relations = st.fixed_dictionaries(
    {},
    optional={
        "relationship_names": st.lists(texts, max_size=3) | anything,
        "attributes": st.lists(texts, max_size=3) | anything,
        "bbox_name": texts | anything,
        "subject_id": texts | anything,
        "object_id": texts | anything,
    },
)
objects = st.builds(
    object_of, st.sampled_from(BOX_REGIONS) | texts, st.tuples(*[numbers | st.text(max_size=5)] * 4)
)
graphs = st.fixed_dictionaries(
    {"objects": st.lists(objects | anything, max_size=3) | anything},
    optional={
        "image_id": st.just("a") | anything,
        "relationships": st.lists(relations, max_size=3) | anything,
    },
)


def read_graph(content: bytes) -> SceneGraph | None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "silver_dataset" / "scene_graph"
        folder.mkdir(parents=True)
        (folder / "a_SceneGraph.json").write_bytes(content)
        found = SceneGraphs(Path(root))
        return result_or_one_line(lambda: found.read("a", Counter()))


@given(graphs | anything)
def test_a_graph_is_read_or_refused(graph: Any):
    found = read_graph(json.dumps(graph).encode())
    for box in found.boxes.values() if found else ():
        assert box[0] < box[2] and box[1] < box[3]
        assert all(type(corner) is int for corner in box)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_graph_are_refused(content: bytes):
    assert read_graph(content) is None


@given(st.data())
def test_a_damaged_graph_never_gains_a_relation(data: st.DataObject):
    graph = graph_of("a")
    graph["relationships"] = [
        {
            "relationship_names": ["comparison|yes|improved"],
            "attributes": ["disease|yes|pneumonia"],
            "bbox_name": "left lung",
            "subject_id": "a_left lung",
            "object_id": "before_left lung",
        }
    ]
    content = json.dumps(graph).encode()
    whole = read_graph(content)
    assert whole is not None and len(whole.relations) == 1
    cut = data.draw(st.integers(0, len(content) - 1))
    assert read_graph(content[:cut]) is None


# Film times


def film_table(time: float, date: int = 2155_01_10) -> pd.DataFrame:
    return pd.DataFrame({"StudyTime": [time], "StudyDate": [date], "row": [2]})


@given(st.integers(0, 23), st.integers(0, 59), st.integers(0, 59), st.floats(0, 0.999))
def test_every_clock_is_read_to_its_second(hour: int, minute: int, second: int, rest: float):
    time = taken(film_table(hour * 10_000 + minute * 100 + second + rest), PATH).iloc[0]
    assert (time.hour, time.minute, time.second) == (hour, minute, second)
    assert time.microsecond == 0


@given(st.floats(), st.integers(-(2**62), 2**62))
@example(1e30, 2155_01_10)
@example(-0.0, 2155_01_10)
@example(120_000.0, 2155_02_30)
def test_any_number_is_a_time_of_its_day_or_refused(time: float, date: int):
    found = result_or_one_line(lambda: taken(film_table(time, date), PATH))
    if found is not None:
        assert found.iloc[0].strftime("%Y%m%d") == str(date)
        assert found.iloc[0].strftime("%H%M%S") == f"{math.floor(time):06d}"


# Boxes

corners = st.integers(-60, 120) | st.integers(-1_000_000, 1_000_000)
boxes = st.tuples(corners, corners, corners, corners)
WIDTH, HEIGHT = 50, 30


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.png"
    Image.fromarray(np.full((HEIGHT, WIDTH), 200, np.uint8)).save(path)
    return path


@given(box=boxes)
def test_a_region_is_present_if_its_box_covers_a_pixel(box: Box, film: Path):
    x1, y1, x2, y2 = box
    covers = max(x1, 0) < min(x2, WIDTH) and max(y1, 0) < min(y2, HEIGHT)
    arrays = prepare_film(FilmFile(film, {REGIONS[0]: box}), Sizes(film=16, region=8))
    assert arrays.present[0] == covers
    assert not arrays.present[1:].any()
    assert arrays.regions[0].any() == covers
    kept = arrays.boxes[0]
    assert np.isnan(kept).all() if not covers else ((kept >= 0) & (kept <= 1)).all()
    if covers:
        assert kept[0] < kept[2] and kept[1] < kept[3]


@given(box=boxes)
def test_every_box_is_whole_or_counted_once(box: Box, film: Path):
    oddities: Counter[str] = Counter()
    inspect_films([FilmFile(film, {REGIONS[0]: box}, (WIDTH, HEIGHT))], oddities)
    x1, y1, x2, y2 = box
    is_whole = 0 <= x1 < x2 <= WIDTH and 0 <= y1 < y2 <= HEIGHT
    assert oddities.total() == int(not is_whole)


# Charted values

events = st.lists(
    st.tuples(
        st.sampled_from(sorted(extended_items())),
        st.floats(),
        st.none() | st.sampled_from(["None", "To Speech", "___", "", "Oriented"]),
        st.integers(-86_400, 10**6),
    ),
    max_size=20,
)


@pytest.mark.parametrize("rules", [STRICT, OFFICIAL], ids=lambda rules: rules.name)
@given(rows=events)
def test_every_value_is_in_range_or_counted(rules: Rules, rows: list[tuple]):
    raw = pd.DataFrame(rows, columns=["itemid", "number", "value", "seconds"])
    raw = raw.astype({"value": object, "number": float}).assign(stay=0)
    oddities: Counter[str] = Counter()
    found = clean_events(raw, rules, oddities, ItemMap.EXTENDED)
    limits = ranges(rules, ItemMap.EXTENDED)
    assert (found.value >= limits.low[found.variable]).all()
    assert (found.value <= limits.high[found.variable]).all()
    assert len(found.value) + oddities["charted values left out: no number"] == len(rows)
    assert oddities["charted values clipped to their range"] <= len(found.value)


# Tables

HEADER = "subject_id,gender,anchor_age,anchor_year,dod\n"
fields = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(
    ["10000001", "60", "1.5", "nan", "", "___", "2155-01-10", '"', "0x1", "-1", "\r\n", "1e400"]
)


def read_patients(content: bytes) -> pd.DataFrame | None:
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "hosp").mkdir()
        (Path(root) / "hosp" / "patients.csv").write_bytes(content)
        return result_or_one_line(lambda: read_table(Path(root), PATIENTS))


@settings(max_examples=30)
@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda rest: HEADER.encode() + rest))
def test_bytes_are_a_table_or_refused(content: bytes):
    found = read_patients(content)
    assert found is None or list(found.columns) == list(PATIENTS.types)


@settings(max_examples=30)
@given(st.lists(fields, min_size=5, max_size=5))
@example(["10000001", "F", "60", "2155.5", ""])
@example(["10000001", "F", "60", "2155.0", ""])
def test_a_number_is_what_was_written_or_refused(row: list[str]):
    found = read_patients((HEADER + ",".join(row) + "\n").encode())
    if found is not None and len(found):
        assert found["subject_id"].iloc[0] == float(row[0])
        assert found["anchor_year"].iloc[0] == float(row[3])
        assert found["anchor_age"].iloc[0] == float(row[2])
