"""The words edit, calibrate and score: PIE's options, files, refusals. The engine is a toy."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench import simulate
from bench.errors import run_command
from bench.simulating.pie import command
from bench.simulating.pie.engine import EngineConfig
from bench.simulating.population import FILM_SEVERITIES

REAL = Path(os.environ.get("REAL_CXR", Path(__file__).parents[4] / "shared/data/real_cxr"))


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch, toy: EngineConfig) -> None:
    monkeypatch.setattr(command, "EngineConfig", lambda **_: toy)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    file = tmp_path / "film.png"
    Image.fromarray(rng.integers(0, 255, (90, 120), dtype=np.uint8)).save(file)
    return file


def edit(picture: Path, out: Path, engines: Path, *more: str) -> int:
    words = ["edit", "--image", str(picture), "--output-dir", str(out), "--engines", str(engines)]
    return simulate.main([*words, "--condition", "edema=1.2", "--step", "2", *more])


def test_the_options_have_pies_names_and_defaults():
    arg = command.edit_parser().parse_args(["--image_path", "f.png", "--mask_path", "m.png"])
    assert (arg.step, arg.strength, arg.guidance_scale, arg.resolution) == (10, 0.5, 7.5, 512)
    assert str(arg.output_dir) == "simulation" and str(arg.image) == "f.png" and arg.mask == "m.png"
    words = "--image f --guidance_scale 27.5 --pretrained_model_name_or_path d --finetuned_path u"
    arg = command.edit_parser().parse_args(words.split())
    assert arg.guidance_scale == 27.5 and str(arg.finetuned_path) == "u"


def test_an_edit_leaves_films_a_gif_and_a_curve(picture: Path, engines: Path, tmp_path: Path):
    out = tmp_path / "new" / "sequence"
    assert edit(picture, out, engines, "--mask", "regions", "--resolution", "96") == 0
    names = {"0.png", "1.png", "2.png", "mask.png", "progression.gif"}
    assert {f.name for f in out.iterdir()} == names | {"confidence.csv", "confidence.png"}
    with Image.open(out / "2.png") as film, Image.open(out / "progression.gif") as moving:
        assert film.size == (96, 96) and moving.n_frames == 3  # type: ignore[attr-defined]
    curve = pd.read_csv(out / "confidence.csv")
    assert list(curve.columns) == ["stage", *FILM_SEVERITIES] and len(curve) == 3


def test_the_start_is_the_users_film(picture: Path, engines: Path, tmp_path: Path):
    edit(picture, tmp_path / "out", engines, "--resolution", "90")
    with Image.open(tmp_path / "out" / "0.png") as start, Image.open(picture) as film:
        centre = np.asarray(film)[:, 15:105]
        assert np.abs(np.asarray(start).astype(int) - centre).max() <= 1


def test_outside_the_mask_nothing_changes(picture: Path, engines: Path, tmp_path: Path):
    mask = np.zeros((128, 128), dtype=np.uint8)
    mask[:, 64:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    more = ["--mask", str(tmp_path / "mask.png"), "--resolution", "128"]
    edit(picture, tmp_path / "out", engines, *more)
    first, last = (np.asarray(Image.open(tmp_path / "out" / f"{n}.png")) for n in (0, 2))
    assert np.array_equal(first[:, :56], last[:, :56])
    assert not np.array_equal(first[:, 72:], last[:, 72:])


def test_same_seed_same_bytes(picture: Path, engines: Path, tmp_path: Path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        edit(picture, tmp_path / name, engines, "--seed", seed, "--resolution", "64")
    a, b, c = ((tmp_path / name / "2.png").read_bytes() for name in "abc")
    assert a == b != c


def test_an_older_edit_is_replaced_and_nothing_else(picture: Path, engines: Path, tmp_path: Path):
    out = tmp_path / "out"
    for _ in range(2):
        assert edit(picture, out, engines, "--resolution", "64") == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert stopped(lambda: edit(picture, tmp_path / "mine", engines)) == 2
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    assert {f.name for f in tmp_path.iterdir()} == {"film.png", "out", "mine"}


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no open films in {REAL}; set REAL_CXR")
def test_real_open_films_are_edited(engines: Path, tmp_path: Path):
    for file in sorted(f for f in REAL.iterdir() if f.suffix in (".png", ".jpg")):
        assert edit(file, tmp_path / file.stem, engines, "--mask", "regions") == 0
        first, last = (np.asarray(Image.open(tmp_path / file.stem / f"{n}.png")) for n in (0, 2))
        assert first.shape == (512, 512) and first.std() > 20
        assert not np.array_equal(first, last)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["edit", "--image", "nowhere.png", "--condition", "edema=1"], "nowhere.png"),
        (["edit", "--image", "f.png"], "--condition"),
        (["edit", "--image", "f.png", "--condition", "edma=1"], "edema"),
        (["edit", "--image", "f.png", "--condition", "edema"], "FINDING=SEVERITY"),
        (["edit", "--image", "f.png", "--prompt", "edema"], "--pretrained-model-name-or-path"),
        (["edit", "--image", "f.png", "--condition", "edema=1", "--strength", "2"], "strength"),
        (["edit", "--condition", "edema=1"], "--image"),
        (["score", "--findings", "fever"], "fever"),
    ],
)
def test_wrong_usage_is_refused_in_one_line(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert stopped(lambda: simulate.main(words)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and says in error
    assert list(tmp_path.iterdir()) == []


def test_calibrate_prints_every_finding(engines: Path, capsys):
    assert simulate.main(["calibrate", "--engines", str(engines)]) == 0
    printed = capsys.readouterr().out
    assert "SIMULATED" in printed
    assert all(printed.count(f" {finding} ") == 2 for finding in FILM_SEVERITIES)


def test_score_prints_and_leaves_curves_and_sheets(engines: Path, tmp_path: Path, capsys):
    words = ["score", "--films", "6", "--findings", "edema", "--engines", str(engines)]
    assert (
        simulate.main([*words, "--step", "2", "--jobs", "1", "--output-dir", str(tmp_path / "s")])
        == 0
    )
    printed = capsys.readouterr().out
    assert "SIMULATED" in printed and "Spearman" in printed and "recognised" in printed
    found = {f.name for f in (tmp_path / "s").iterdir()}
    assert found == {"confidence.csv", "confidence.png", "edema.png"}


def stopped(act) -> int:
    with pytest.raises(SystemExit) as ended:
        run_command(act)
    return int(ended.value.code or 0)
