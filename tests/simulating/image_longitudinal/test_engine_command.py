"""The engine as a user asks for it: its files, its words, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench import demo, simulate
from bench.contract import Preset
from bench.errors import run_command
from bench.simulating.sizes import Engine
from bench.simulating.writing import Settings

ENGINE = ["--engine", "image-longitudinal"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("raw") / "half"
    words = [*ENGINE, "--association", "0.5", "--size", "tiny", "--film-size", "64", "--jobs", "1"]
    assert simulate.main([*words, "--out", str(out)]) == 0
    return out


def test_the_settings_name_the_engine_and_its_dial(raw: Path):
    settings = json.loads((raw / "simulation.json").read_text())
    assert settings["engine"] == "image-longitudinal"
    assert settings["options"] == {"decoder": "procedural", "association": 0.5}


def test_procedural_settings_are_what_they_always_were():
    content = Settings("tiny").to_json()
    assert list(content) == [
        "engine", "format", "size", "seed", "film_size", "gzip", "mimic_iv", "knobs",
    ]  # fmt: skip
    assert content["engine"] == "procedural"


def test_the_truth_holds_what_films_show_and_what_the_rest_follows(raw: Path):
    truth = np.load(raw / "truth" / "engine.npz")
    stays = pd.read_csv(raw / "truth" / "stays.csv")
    assert truth["z_eta"].shape == (len(stays), 11, 3)
    r2 = np.corrcoef(truth["z_eta"].ravel(), truth["eta_eta"].ravel())[0, 1] ** 2
    assert r2 == pytest.approx(0.5, abs=0.1)


def test_the_oracle_also_says_the_ceilings(raw: Path, tiny_raw: Path, capsys):
    for folder, said in ((raw, True), (tiny_raw, False)):
        simulate.main(["oracle", str(folder)])
        assert ("at most 0.500" in capsys.readouterr().out) is said


def test_evaluate_prints_five_sources_and_both_ceilings(raw: Path, capsys):
    words = ["--subjects", "60", "--test-subjects", "30", "--epochs", "1", "--jobs", "1"]
    assert simulate.main(["evaluate", str(raw), *words]) == 0
    printed = capsys.readouterr().out
    for word in ("SIMULATED", "v = 1", "true", "EBE", "image", "population", "random", "Imax"):
        assert word in printed


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--engine", "image-longitudnal"], "did you mean 'image-longitudinal'"),
        (["--decoder", "vae"], "--engine image-longitudinal"),
        (["--association", "0.5"], "--engine image-longitudinal"),
        ([*ENGINE, "--association", "0"], "--association"),
        ([*ENGINE, "--association", "1.5"], "--association"),
        ([*ENGINE, "--decoder", "vea"], "did you mean 'vae'"),
        ([*ENGINE, "--perceptual", "nowhere.pt"], "--perceptual nowhere.pt"),
        ([*ENGINE, "--decoder", "diffusion", "--checkpoint", "nowhere"], "--checkpoint nowhere"),
        ([*ENGINE, "--decoder", "vae", "--checkpoint", "tests"], "--decoder diffusion"),
        ([*ENGINE, "--mimic-iv", "nowhere"], "--mimic-iv"),
        (["evaluat"], "did you mean 'evaluate'"),
        (["evaluate"], "DIR"),
        (["evaluate", "nowhere"], "was not made with"),
        (["evaluate", "nowhere", "--subjects", "3"], "'3' is not a whole number above 9"),
    ],
)
def test_wrong_usage_is_refused_in_one_line(words: list[str], says: str, capsys, tmp_path: Path):
    place = [] if words[0] == "evaluate" else ["--out", str(tmp_path / "raw")]
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: simulate.main([*words, *place]))
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and says in error
    assert list(tmp_path.iterdir()) == []


def test_evaluate_refuses_a_procedural_folder(tiny_raw: Path, capsys):
    with pytest.raises(SystemExit):
        run_command(lambda: simulate.main(["evaluate", str(tiny_raw)]))
    assert "was not made with" in capsys.readouterr().err


def test_every_engine_has_a_cohort_of_its_own():
    places = {demo.default_cohort(Preset.DEMO, engine) for engine in Engine}
    assert len(places) == len(Engine)
    assert demo.default_cohort(Preset.DEMO) == Path("data/simulated-small")
    assert demo.default_cohort(Preset.DEMO, "pie") == Path("data/simulated-small-pie")
    assert simulate.default_out("small", Engine.PIE) == Path("data/raw/small-pie")
