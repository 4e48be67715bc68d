"""Hyperparameter search: what is drawn, that test data stays out, that tables use the choice."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import run, search, sweep
from bench.config import Request, resolve
from bench.contract import Preset
from bench.contract_checks import settings
from bench.data.cohort import Cohort
from bench.data.vocabulary import Cxr, Task
from bench.errors import UserError
from bench.registry import METHODS
from bench.space import Grid, draw, space
from bench.store import RunFiles, Store, write_json
from tables import render
from tests.methods import faulty_methods

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

    def test_extended_grid_adds_rates_and_a_lower_one_for_backbones(self):
        paper, extended = (space(resolve(MORTALITY), grid) for grid in (Grid.PAPER, Grid.EXTENDED))
        assert set(extended["training.lr"]) - set(paper["training.lr"]) == {
            "5e-05",
            "0.0001",
            "0.0004",
        }
        assert {k: v for k, v in paper.items() if k != "training.lr"} == {
            k: v for k, v in extended.items() if not k.startswith("training.")
        }
        assert extended["training.backbone_lr_share"] == ("1", "0.1")
        assert "training.backbone_lr_share" not in space(
            resolve(Request("ehr_transformer", Task.MORTALITY, Cxr.NONE, 23)), Grid.EXTENDED
        )

    def test_dipro_has_its_own_rates_and_loss_weights(self):
        values = space(resolve(DIPRO), Grid.PAPER)
        assert float(values["training.lr"][1]) == pytest.approx(1.6e-4)
        assert values["model.d_model"] == ("64", "128", "256")
        assert values["model.lambda_orth"] == ("0.001", "0.01", "0.1", "10")

    @pytest.mark.parametrize("request_", [MORTALITY, DIPRO], ids=["medfuse", "dipro"])
    @pytest.mark.parametrize("grid", Grid)
    def test_every_draw_resolves_and_is_another_one(self, request_: Request, grid: Grid):
        points = draw(space(resolve(request_), grid), 24, np.random.default_rng(0))
        assert len(points) == len(set(points)) == 24
        for overrides in points:
            resolve(replace(request_, overrides=overrides))

    def test_few_draws_try_every_value(self):
        values = space(resolve(replace(DIPRO, preset=Preset.DEMO)), Grid.SMALL)
        points = draw(values, 4, np.random.default_rng(0))
        for name, choices in values.items():
            assert {dict(point)[name] for point in points} == set(choices)

    def test_small_widths_are_about_the_presets_own(self):
        for preset, width in ((Preset.DEMO, 64), (Preset.MEDIUM, 128)):
            values = space(resolve(replace(MORTALITY, preset=preset)), Grid.SMALL)
            assert values["model.hidden"] == tuple(f"{f * width:g}" for f in (0.5, 1, 2))

    @pytest.mark.parametrize("method", METHODS)
    def test_a_setting_draws_no_idle_field_and_has_points_for_every_draw(
        self, method: str, monkeypatch: pytest.MonkeyPatch
    ):
        full = [config for config in settings(method) if not config.request.ablate]
        drawn = [space(config, Grid.SMALL) for config in full]
        monkeypatch.setattr("bench.space.is_idle", lambda *_: False)
        for config, values in zip(full, drawn, strict=True):
            request = config.request
            left_out = space(config, Grid.SMALL).keys() - values.keys()
            assert left_out == idle(method, request.task, request.ehr), request.label
            for preset, grid in ((Preset.MEDIUM, Grid.SMALL), (Preset.PAPER, Grid.EXTENDED)):
                larger = space(resolve(replace(request, preset=preset)), grid)
                kept = [texts for name, texts in larger.items() if name not in left_out]
                assert math.prod(map(len, kept)) >= search.N_DRAWS, (request.label, preset)
            assert math.prod(map(len, values.values())) >= search.N_DRAWS, request.label

    def test_draws_are_the_same_again(self):
        values = space(resolve(DIPRO), Grid.PAPER)
        assert draw(values, 5, np.random.default_rng(0)) == draw(
            values, 5, np.random.default_rng(0)
        )


def idle(method: str, task: Task, ehr: bool) -> set[str]:
    """Fields of the small grid that change nothing, read off the methods' code."""
    if method == "dipro" and not task.is_icu:
        return {"model.lambda_temp"}  # L_temp compares pairs: one pair has none beside it
    without_ehr = {"medfuse": {"model.dropout"}, "sdpl": {"model.d_model"}}
    return set() if ehr else without_ehr.get(method, set())


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
    return {line.split()[-1] for line in lines if line.startswith("  ")}


@pytest.fixture
def copied(place: list[str], tmp_path: Path) -> list[str]:
    """The same in a store that a test may change."""
    shutil.copytree(place[-1], tmp_path / "store")
    return [*place[:-1], str(tmp_path / "store")]


def test_what_is_fixed_is_not_drawn():
    setting = search.Setting.of(replace(MORTALITY, preset=Preset.DEMO))
    fixed = (("model.hidden", "48"),)
    drawn = search.Search(Preset.DEMO, fixed=fixed).draws(setting)
    assert len(drawn) == search.N_DRAWS
    assert all("model.hidden" not in dict(point) for point in drawn)
    assert {resolve(request).model.hidden for request in drawn.values()} == {48}


def test_fewer_points_than_draws_are_said(place: list[str], capsys):
    words = [*search_words(place), "--draws", "100", "--dry-run"]
    assert search.main(words) == 0
    assert "36 instead of 100 draws, all points that the small grid has" in capsys.readouterr().out


def test_every_grid_has_a_choice_of_its_own(copied: list[str], capsys):
    store, record = store_of(copied), record_of(copied)
    setting = search.Setting("ehr_transformer", Task.MORTALITY, Cxr.NONE, ehr=True)
    cohort = Cohort.open(copied[1])
    name = search.Search(Preset.DEMO, grid=Grid.PAPER).name_of(setting, cohort)
    other = {**record, "grid": "paper", "overrides": [["training.lr", "0.5"]]}
    write_json(store.search(name), other)
    assert len(list(store.root.glob("search/ehr_transformer-mortality-*.json"))) == 2
    by_grid = {
        grid: search.chosen(store, cohort, Preset.DEMO, grid=grid)[setting].overrides
        for grid in (True, Grid.SMALL, Grid.PAPER)
    }
    assert by_grid[True] == by_grid[Grid.SMALL] != by_grid[Grid.PAPER]

    words = ["--table", "table2", *copied, "--seeds", "1", "--dry-run", "--tuned"]
    small, paper = (_planned(words + extra, capsys) for extra in (["small"], ["paper"]))
    assert _planned(words, capsys) == small != paper
    with pytest.raises(SystemExit):
        sweep.main([*words, "large"])
    assert "choose from extended, paper, small" in capsys.readouterr().err


def test_fewer_draws_do_not_take_the_place_of_more(copied: list[str], capsys):
    before = record_of(copied)
    words = [*search_words(copied), "--jobs", "1"]
    assert search.main([*words, "--draws", "2"]) == 0
    printed = capsys.readouterr().out
    assert "kept what 3 draws of the small grid chose, this search has 2" in printed
    assert record_of(copied) == before


def test_another_search_says_what_it_replaces(copied: list[str], capsys):
    (file,) = store_of(copied).root.glob("search/ehr_transformer-mortality-none-demo-*.json")
    write_json(file, {**record_of(copied), "fixed": [["training.max_steps", "9"]]})
    assert search.main(search_words(copied)) == 0
    printed = capsys.readouterr().out
    assert "takes the place of what 3 draws of the small grid, training.max_steps=9" in printed


def test_draws_by_older_code_are_counted(copied: list[str], capsys):
    files = store_of(copied).run(record_of(copied)["draws"][0]["run_id"])
    write_json(files.record, {**files.read_record(), "fingerprint": "older"})
    assert search.main(search_words(copied)) == 0
    assert "1 made by older code, --rerun stale redoes them" in capsys.readouterr().out
    assert record_of(copied)["n_stale"] == 1
    task = ["--method", "ehr_transformer", "--task", "mortality", "--seed", "1", *copied]
    overrides = [f"--set={name}={text}" for name, text in record_of(copied)["overrides"]]
    assert run.main([*task, *overrides]) == 0
    shown = ["table2", *copied, "--seeds", "1", "--resamples", "10", "--tuned"]
    assert render.main(shown) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "made by older code: 1 of ehr_transformer-mortality-none." in text
    assert "--rerun stale" in text


def test_a_method_of_somebody_elses_is_searched_on_a_task(place: list[str], tmp_path, capsys):
    name = f"{faulty_methods.__name__}:Sound"
    words = ["--method", name, "--task", "mortality", *place[:2], "--results", str(tmp_path)]
    short = ["--draws", "2", "--set", "training.max_epochs=1", "--jobs", "1"]
    assert search.main([*words, *short]) == 0
    assert f"python -m bench.run --method {name} --task mortality" in capsys.readouterr().out
    (file,) = tmp_path.glob("search/tests.methods.faulty_methods.Sound-mortality-*.json")
    assert len(json.loads(file.read_text())["draws"]) == 2
    with pytest.raises(UserError, match="with --task NAME instead of --table"):
        search.main(["--table", "table2", "--method", name, *place])


def test_wrong_usage(tmp_path: Path, cohort: Cohort):
    place = ["--cohort", str(cohort.path), "--results", str(tmp_path)]
    with pytest.raises(UserError, match="did you mean 'table2'"):
        search.main(["--table", "tabel2", *place])
    with pytest.raises(UserError, match="did you mean 'medfuse'"):
        search.main(["--table", "table2", "--method", "medfus", *place])
    for words in ([], ["--task", "mortality"], ["--table", "table2", "--no-ehr"]):
        with pytest.raises(UserError, match="--t"):
            search.main([*words, *place])


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
