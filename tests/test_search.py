"""Hyperparameter search: what is drawn, that test data stays out, that tables use the choice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import run, search, sweep
from bench.config import Request, resolve
from bench.contract import Preset
from bench.data.cohort import Cohort
from bench.data.vocabulary import Cxr, Task
from bench.errors import UserError
from bench.space import Grid, draw, space
from bench.store import RunFiles, Store
from tables import render

MORTALITY = Request("medfuse", Task.MORTALITY, Cxr.LONG, 1, preset=Preset.PAPER)
DIPRO = Request("dipro", Task.DISEASE_PROGRESSION, Cxr.PAIR, 1, preset=Preset.PAPER)


class TestSpace:
    def test_paper_grid_of_a_baseline_is_scaled_as_the_optimizer_gets_it(self):
        values = space(resolve(MORTALITY), Grid.PAPER)
        # Batch of 4, accumulated 4 times.
        assert [float(v) for v in values["training.lr"]] == pytest.approx(
            [1.6e-4, 6.4e-6, 1.6e-5, 1.6e-6]
        )
        assert values["model.hidden"] == ("64", "128", "256", "320")
        assert values["model.dropout"] == ("0.1", "0.2", "0.3")

    def test_extended_grid_adds_rates_and_nothing_else(self):
        paper, extended = (space(resolve(MORTALITY), grid) for grid in (Grid.PAPER, Grid.EXTENDED))
        assert set(extended["training.lr"]) - set(paper["training.lr"]) == {
            "5e-05",
            "0.0001",
            "0.0004",
        }
        assert {k: v for k, v in paper.items() if k != "training.lr"} == {
            k: v for k, v in extended.items() if k != "training.lr"
        }

    def test_dipro_has_its_own_rates_and_loss_weights(self):
        values = space(resolve(DIPRO), Grid.PAPER)
        assert float(values["training.lr"][1]) == pytest.approx(1.6e-4)
        assert values["model.d_model"] == ("64", "128", "256")
        assert values["model.lambda_orth"] == ("0.001", "0.01", "0.1", "10")

    @pytest.mark.parametrize("request_", [MORTALITY, DIPRO], ids=["medfuse", "dipro"])
    @pytest.mark.parametrize("grid", Grid)
    def test_every_draw_resolves_and_is_another_one(self, request_: Request, grid: Grid):
        points = draw(space(resolve(request_), grid), 24, np.random.default_rng(0))
        assert len(points) == len(set(points)) == (24 if grid is not Grid.SMALL else 9)
        for overrides in points:
            resolve(replace(request_, overrides=overrides))

    def test_few_draws_try_every_value(self):
        values = space(resolve(replace(DIPRO, preset=Preset.DEMO)), Grid.SMALL)
        points = draw(values, 3, np.random.default_rng(0))
        for name, choices in values.items():
            assert {dict(point)[name] for point in points} == set(choices)

    def test_draws_are_the_same_again(self):
        values = space(resolve(DIPRO), Grid.PAPER)
        assert draw(values, 5, np.random.default_rng(0)) == draw(
            values, 5, np.random.default_rng(0)
        )


@pytest.fixture(scope="module")
def place(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A store in which the EHR Transformer was searched for Table 2."""
    place = ["--cohort", str(cohort.path), "--results", str(tmp_path_factory.mktemp("search"))]
    assert search.main([*search_words(place), "--jobs", "1"]) == 0
    return place


def search_words(place: list[str]) -> list[str]:
    return ["--table", "table2", "--method", "ehr_transformer", "--draws", "3", *place]


def store_of(place: list[str]) -> Store:
    return Store(Path(place[-1]))


def record_of(place: list[str]) -> dict[str, Any]:
    (file,) = store_of(place).root.glob("search/ehr_transformer-mortality-none-demo-*.json")
    return json.loads(file.read_text())


def test_the_best_draw_on_validation_is_written_down(place: list[str]):
    record = record_of(place)
    assert len(record["draws"]) == 3
    assert record["value"] == max(d["value"] for d in record["draws"])
    best = next(d for d in record["draws"] if d["value"] == record["value"])
    assert record["overrides"] == best["overrides"]


def test_a_search_run_leaves_the_test_set_alone(place: list[str]):
    folders = list((store_of(place).root / "runs").iterdir())
    assert len(folders) == 6
    for folder in folders:
        assert len(RunFiles(folder).read_predictions("validation")) > 0
        assert len(RunFiles(folder).read_predictions("test")) == 0


def test_a_search_goes_on_where_it_stopped(place: list[str], monkeypatch, capsys):
    monkeypatch.setattr("bench.backends.execute", None)
    assert search.main(search_words(place)) == 0
    assert "6 done" in capsys.readouterr().out


def test_tables_use_what_was_chosen(place: list[str], capsys):
    words = ["--table", "table2", *place, "--seeds", "1", "--dry-run"]
    plain, tuned = (_planned(words + extra, capsys) for extra in ([], ["--tuned"]))
    changed = plain - tuned
    assert changed and all("ehr_transformer" in name for name in changed)

    task = ["--method", "ehr_transformer", "--task", "mortality", "--seed", "1", *place]
    overrides = [
        w for name, text in record_of(place)["overrides"] for w in ("--set", f"{name}={text}")
    ]
    assert run.main([*task, *overrides]) == 0
    capsys.readouterr()
    shown = ["table2", *place, "--seeds", "1", "--resamples", "10", "--tuned"]
    assert render.main(shown) == 0
    text = capsys.readouterr().out
    assert (
        "chosen on validation by bench.search (3 draws of the small grid); the preset's for"
        in " ".join(text.split())
    )
    assert "--tuned" in text


def _planned(words: list[str], capsys) -> set[str]:
    assert sweep.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[1] for line in lines if line.startswith("  ")}


def test_wrong_usage(tmp_path: Path, cohort: Cohort):
    place = ["--cohort", str(cohort.path), "--results", str(tmp_path)]
    with pytest.raises(UserError, match="did you mean 'table2'"):
        search.main(["--table", "tabel2", *place])
    with pytest.raises(UserError, match="did you mean 'medfuse'"):
        search.main(["--table", "table2", "--method", "medfus", *place])


def test_no_choice_brings_back_what_is_ablated():
    base = Request("dipro", Task.DISEASE_PROGRESSION, Cxr.PAIR, 1)
    for name, field in (("orth", "orth"), ("temp", "temp"), ("pae-loss", "pae_dynamic")):
        chosen = (("model.lambda_orth", "0.1"), ("model.lambda_temp", "1"))
        chosen += (("model.lambda_pae_dynamic", "2"),)
        config = resolve(replace(base, ablate=(name,), overrides=chosen))
        assert config.model.loss_weights()[field] == 0


def test_a_choice_is_for_its_cohort_and_recipe(place: list[str], cohort: Cohort):
    store = store_of(place)
    assert search.chosen(store, cohort, Preset.DEMO)
    assert not search.chosen(store, cohort, Preset.DEMO, "reference")
    other = replace(cohort, manifest={**cohort.manifest, "content_hash": "0" * 16})
    assert not search.chosen(store, other, Preset.DEMO)
