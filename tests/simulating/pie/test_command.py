"""The words edit, calibrate and score: PIE's options, files, refusals. The engine is a toy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from bench import simulate
from bench.errors import run_command
from bench.simulating.diffusion.generator import TinyGenerator
from bench.simulating.pie import command, engine, film_edit
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


def read(out: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(out / f"{n}.png")) for n in range(3)])


def test_the_end_tells_asked_and_seen_and_what_did_not_rise(
    picture: Path, engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    """The film's brightness stands for its edema."""

    def brightness(films: Tensor) -> np.ndarray:
        levels = np.zeros((len(films), len(FILM_SEVERITIES)), dtype=np.float32)
        levels[:, 0] = 1 + films.mean(dim=(1, 2, 3)).numpy()
        return levels

    for sign, rises in ((1, True), (-1, False)):
        brighter = [torch.full((1, 4, 16, 16), float(n)) for n in range(3)]
        monkeypatch.setattr(film_edit, "levels_of", lambda net, films: brightness(films))
        monkeypatch.setattr(film_edit, "pie_latents", lambda *_, z=brighter, **__: z)
        monkeypatch.setattr(
            TinyGenerator, "decode",
            lambda _, z, sign=sign: sign * 0.4 * z.mean() * torch.ones(1, 1, 64, 64),
        )  # fmt: skip
        edit(picture, tmp_path / str(sign), engines, "--resolution", "64")
        printed = capsys.readouterr()
        assert "edema: asked 1.2, seen " in printed.out
        assert ("edema did not rise" in printed.err) != rises
        assert printed.err.count("warning") == (not rises)


def test_the_generator_is_asked_for_the_worst_unless_as_published(
    picture: Path, engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked, stages = [], film_edit.pie_latents

    def listen(x0: Tensor, condition: Tensor, *args, **named):
        asked.append(float(condition[0, 0]))
        return stages(x0, condition, *args, **named)

    monkeypatch.setattr(film_edit, "pie_latents", listen)
    for name, more in (("new", []), ("old", ["--as-published"])):
        edit(picture, tmp_path / name, engines, "--resolution", "64", *more)
    assert asked == pytest.approx([np.log1p(2.5 / 0.25), np.log1p(1.2 / 0.25)])


def test_films_may_be_encoded_again_between_stages(picture: Path, engines: Path, tmp_path: Path):
    for name, more in (("kept", []), ("again", ["--reencode"])):
        edit(picture, tmp_path / name, engines, "--resolution", "64", "--as-published", *more)
    kept, again = read(tmp_path / "kept"), read(tmp_path / "again")
    assert np.array_equal(kept[0], again[0]) and not np.array_equal(kept[2], again[2])


def test_unusable_folders_are_refused_before_the_work(
    picture: Path, engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    def work(*_: object, **__: object) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(film_edit, "pie_latents", work)
    monkeypatch.setattr(engine, "training_films", work)
    assert stopped(lambda: edit(picture, picture / "out", engines)) == 2
    assert stopped(lambda: edit(picture, tmp_path / "out", picture)) == 2
    assert capsys.readouterr().err.count("cannot write") == 2


def test_damaged_engines_are_told_in_one_line(picture: Path, engines: Path, tmp_path: Path, capsys):
    for name in ("model.pt", "calibration*.json"):
        broken = shutil.copytree(engines, tmp_path / name[:5])
        file = next(broken.rglob(name))
        file.write_bytes(file.read_bytes()[:100])
        engine.load_engine.cache_clear()
        assert stopped(lambda at=broken: edit(picture, tmp_path / "out", at)) == 2
        error = capsys.readouterr().err
        assert error == f"error: {file} is damaged: remove it, it is trained again\n"


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
def test_real_open_films_are_edited(engines: Path, tmp_path: Path, capsys):
    for file in sorted(f for f in REAL.iterdir() if f.suffix in (".png", ".jpg")):
        assert edit(file, tmp_path / file.stem, engines, "--mask", "regions") == 0
        first, last = (np.asarray(Image.open(tmp_path / file.stem / f"{n}.png")) for n in (0, 2))
        assert first.shape == (512, 512) and first.std() > 20
        assert not np.array_equal(first, last)
        assert "edema: asked 1.2, seen " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["edit", "--image", "nowhere.png", "--condition", "edema=1"], "nowhere.png"),
        (["edit", "--image", "f.png"], "--condition"),
        (["edit", "--image", "f.png", "--condition", "edma=1"], "edema"),
        (["edit", "--image", "f.png", "--condition", "edema"], "FINDING=SEVERITY"),
        (["edit", "--image", "f.png", "--prompt", "edema"], "--pretrained-model-name-or-path"),
        (["edit", "--image", "f.png", "--condition", "edema=1", "--strength", "2"], "strength"),
        (["edit", "--image", "f.png", "--condition", "edema=1", "--guidance-scale", "nan"], "nan"),
        (["edit", "--image", "f.png", "--condition", "edema=1", "--guidance_scale", "inf"], "inf"),
        (["edit", "--image", "f.png", "--condition", "edema=1", "--seed", "9" * 23], "--seed"),
        (["edit", "--image", "f.png", "--condition", "edema=1", "--engine-seed", "-1"], "-1"),
        (["edit", "--image", "f.png", "--condition", "edema=1", "--device", "banana"], "banana"),
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
