"""Fine-tuning of a tiny random pipeline: loss, resuming, what is read back, prompts, refusals."""

from __future__ import annotations

import gzip
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bench import simulate
from bench.errors import UserError, run_command
from bench.simulating.diffusion import finetune_command
from bench.simulating.diffusion.epsilon import epsilon_loss
from bench.simulating.diffusion.finetune import RECIPES, Condition, Recipe, finetune
from bench.simulating.diffusion.finetune_examples import (
    TextExamples,
    VectorExamples,
    prompt_of,
    read_prompted,
    square,
)
from bench.simulating.diffusion.schedule import Schedule
from bench.simulating.diffusion.stable_diffusion import StableDiffusion, TextStableDiffusion
from bench.simulating.diffusion.stages import Stage, run_stage
from bench.simulating.image_longitudinal.decoders import Recipe as DecoderRecipe
from bench.simulating.image_longitudinal.decoders import load_decoder, vectors_of
from bench.simulating.image_longitudinal.training import (
    N_CONDITIONS,
    trained_vae,
    training_films,
)
from bench.simulating.mimic_cxr import CHEXPERT
from bench.simulating.sizes import Decoder
from tests.simulating.image_longitudinal.test_vae import TINY

Examples = TextExamples | VectorExamples
SIDE = 16


def fast(condition: Condition, **changes) -> Recipe:
    quick = {"n_steps": 40, "batch_size": 4, "lr": 3e-3, "warm_up": 2, "ema": 0.0}
    return replace(RECIPES[condition], resolution=SIDE, checkpoint_every=2, **quick | changes)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


def examples_of(
    condition: Condition, generator: TextStableDiffusion, raw: Path, root: Path
) -> Examples:
    if condition is Condition.TEXT:
        return TextExamples(read_prompted(raw), generator, SIDE, jobs=1)
    images, conditions = training_films(TINY)
    vectors = vectors_of(trained_vae(TINY, root), torch.zeros(len(images), 4), conditions)
    return VectorExamples(images, vectors, generator, SIDE)


def mean_loss(generator: StableDiffusion, examples: Examples) -> float:
    """Of a handful of films with the same noise at every call."""
    rows = torch.arange(10).repeat(20)
    told = examples.conditions(rows)

    def predict(noised: Tensor, t: Tensor) -> Tensor:
        return generator.unet(noised, t, encoder_hidden_states=told).sample

    alphas = generator.schedule.alphas_bar().float()
    with torch.no_grad():
        z = generator.encode(examples.films(rows))
        return float(epsilon_loss(predict, z, alphas, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("condition", Condition)
def test_the_loss_falls(
    condition: Condition, pipeline_folder: Path, tiny_raw: Path, root: Path, tmp_path: Path
):
    generator = TextStableDiffusion(pipeline_folder)
    examples = examples_of(condition, generator, tiny_raw, root)
    frozen = {k: v.clone() for k, v in generator.vae.state_dict().items()}
    before = mean_loss(generator, examples)
    finetune(generator, examples, fast(condition), tmp_path / "unet.pt")
    assert mean_loss(generator, examples) < 0.9 * before
    assert all(torch.equal(v, generator.vae.state_dict()[k]) for k, v in frozen.items())


@pytest.mark.parametrize("condition", Condition)
def test_what_a_film_is_told_reaches_the_gradient(
    condition: Condition, pipeline_folder: Path, tiny_raw: Path, root: Path, tmp_path: Path
):
    """Only cross-attention reads a condition: its weights move, so they got a gradient."""
    generator = TextStableDiffusion(pipeline_folder)
    before = {k: v.clone() for k, v in generator.unet.state_dict().items() if "attn2.to_v" in k}
    examples = examples_of(condition, generator, tiny_raw, root)
    finetune(generator, examples, fast(condition, n_steps=4), tmp_path / "unet.pt")
    assert before
    for name, value in before.items():
        assert (generator.unet.state_dict()[name] - value).abs().max() > 1e-3


def test_a_stopped_training_ends_with_the_same_weights(
    pipeline_folder: Path, tiny_raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = fast(Condition.TEXT, n_steps=7, accumulate=2, noise_offset=0.1)

    def trained(checkpoint: Path, n_reads: float = math.inf) -> dict[str, Tensor]:
        """The weights; stopped when films are read once more than `n_reads` times."""
        generator = TextStableDiffusion(pipeline_folder)
        examples = examples_of(Condition.TEXT, generator, tiny_raw, tmp_path)
        read, left = examples.films, n_reads

        def films(rows: Tensor) -> Tensor:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return read(rows)

        monkeypatch.setattr(TextExamples, "films", lambda _, rows: films(rows))
        finetune(generator, examples, recipe, checkpoint)
        monkeypatch.undo()
        return generator.unet.state_dict()

    whole = trained(tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "part.pt", n_reads=11)
    monkeypatch.undo()
    # Four of seven steps are in the checkpoint, so three of two batches are left.
    resumed = trained(tmp_path / "part.pt", n_reads=6)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_the_recipes_are_the_papers():
    text, vector = RECIPES[Condition.TEXT], RECIPES[Condition.VECTOR]
    assert (text.lr, text.warm_up, text.n_steps, text.batch_size * text.accumulate) == (
        5e-5, 1000, 20_000, 128
    )  # fmt: skip
    assert text.noise_offset == 0 and math.isinf(text.min_snr) and text.last_lr == 0
    assert (vector.lr, vector.min_snr, vector.noise_offset) == (1e-5, 5.0, 0.1)
    assert vector.last_lr == 1 and vector.ema > 0.99 and vector.resolution == 512


def steps_of(path: Path, **settings) -> tuple[np.ndarray, list[Tensor]]:
    """How far a weight of gradient 1 moves until each next batch, and the rows of the batches."""
    module, asked, seen = nn.Linear(1, 1, bias=False), [], []

    def loss(rows: Tensor, _: torch.Generator) -> Tensor:
        asked.append(rows)
        seen.append(module.weight.item())
        return module.weight.sum()

    run_stage(Stage("test", module, loss, 1000, 8, 4, 1e-3, seed=1, **settings), path)
    return -np.diff([*seen, module.weight.item()]), asked


def test_learning_rates_are_warmed_up_and_fall_or_do_not(tmp_path: Path):
    constant, _ = steps_of(tmp_path / "a.pt", warm_up=0, last_lr=1.0)
    assert constant == pytest.approx(np.full(8, 1e-3), rel=0.02)
    warmed, _ = steps_of(tmp_path / "b.pt", warm_up=4, last_lr=1.0)
    assert warmed == pytest.approx(1e-3 * np.minimum(np.arange(1, 9) / 4, 1), rel=0.02)
    cosine, _ = steps_of(tmp_path / "c.pt", warm_up=0, last_lr=0.0)
    assert cosine == pytest.approx(5e-4 * (1 + np.cos(np.pi * np.arange(8) / 8)), rel=0.02)


def test_accumulated_batches_are_other_films_of_the_same_step(tmp_path: Path):
    moved, asked = steps_of(tmp_path / "a.pt", warm_up=0, last_lr=1.0, accumulate=3)
    assert len({tuple(rows.tolist()) for rows in asked}) == len(asked) == 24
    each = moved.reshape(8, 3)
    assert np.all(each[:, :2] == 0)
    assert each[:, 2] == pytest.approx(np.full(8, 1e-3), rel=0.02)


def test_the_loss_of_known_predictions():
    z, alphas = torch.randn(4000, 1, 2, 2), Schedule().alphas_bar().float()

    def loss(scale: float, **settings: float) -> float:
        """Of a prediction that is off by `scale` times the noise; z is known to the oracle."""

        def predict(noised: Tensor, t: Tensor) -> Tensor:
            left = alphas[t][:, None, None, None]
            return (1 + scale) * (noised - left.sqrt() * z) / (1 - left).sqrt()

        draws = torch.Generator().manual_seed(1)
        return float(epsilon_loss(predict, z, alphas, draws, **settings))

    assert loss(0.0) < 1e-5
    assert loss(1.0) == pytest.approx(1, rel=0.05)
    assert loss(1.0, noise_offset=0.5) == pytest.approx(1.25, rel=0.05)
    snr = alphas / (1 - alphas)
    weight = float((snr.clamp(max=0.5) / snr).mean())
    assert weight < 0.8
    assert loss(1.0, min_snr=0.5) == pytest.approx(weight, rel=0.05)


def test_prompts_name_what_the_labels_say(tiny_raw: Path):
    assert prompt_of(["Edema", "Fracture"]) == "A chest X-ray image, Edema, Fracture"
    assert prompt_of([]) == "A chest X-ray image"
    cxr = tiny_raw / "mimic-cxr-jpg"
    labels = pd.read_csv(cxr / "mimic-cxr-2.0.0-chexpert.csv").set_index("study_id")
    prompted = read_prompted(tiny_raw)
    assert prompted == read_prompted(cxr)
    assert len({*prompted.prompts}) > 3
    for path, prompt in zip(prompted.paths, prompted.prompts, strict=True):
        row = labels.loc[int(path.parent.name[1:])]
        positive = [name for name in CHEXPERT if row[name] == 1]
        assert prompt.split(", ") == ["A chest X-ray image", *positive]


def tree(root: Path, views: list[str], splits: list[str], labels: list[float]) -> Path:
    """Films of one study each, as MIMIC-CXR-JPG has them, with a label for edema."""
    rows = range(len(views))
    ids = {"subject_id": [10000000 + k for k in rows], "study_id": [50000000 + k for k in rows]}
    dicom = [f"film{k}" for k in rows]
    root.mkdir()
    pd.DataFrame({"dicom_id": dicom, **ids, "ViewPosition": views}).to_csv(
        root / "mimic-cxr-2.0.0-metadata.csv", index=False
    )
    pd.DataFrame({"dicom_id": dicom, **ids, "split": splits}).to_csv(
        root / "mimic-cxr-2.0.0-split.csv", index=False
    )
    table = pd.DataFrame({**ids, **dict.fromkeys(CHEXPERT, math.nan)})
    table["Edema"] = labels
    text = table.dropna(subset="Edema").to_csv(index=False)
    with gzip.open(root / "mimic-cxr-2.0.0-chexpert.csv.gz", "wt") as file:
        file.write(text)
    for k in rows:
        folder = root / "files" / "p10" / f"p1000000{k}" / f"s5000000{k}"
        folder.mkdir(parents=True)
        Image.fromarray(np.full((30, 40), 50 * k, np.uint8)).save(folder / f"film{k}.jpg")
    return root


def test_only_labelled_frontal_films_of_the_training_split_are_used(tmp_path: Path):
    views = ["AP", "LATERAL", "PA", "AP", "AP"]
    splits = ["train", "train", "train", "test", "train"]
    found = read_prompted(tree(tmp_path / "cxr", views, splits, [1, 1, -1, 1, math.nan]))
    assert [path.stem for path in found.paths] == ["film0", "film2"]
    assert found.prompts == ["A chest X-ray image, Edema", "A chest X-ray image"]


def test_films_are_cut_to_their_centre(tmp_path: Path):
    wide = np.zeros((40, 80), np.uint8)
    wide[:, 20:60] = 200
    Image.fromarray(wide).save(tmp_path / "film.png")
    cut = square(tmp_path / "film.png", 20)
    # Shrinking mixes the outermost columns with what was cut off.
    assert np.all(cut[:, 1:-1] == 200) and cut.shape == (20, 20) and cut.min() > 100


def words(pipeline: Path, out: Path, condition: str, *more: str) -> list[str]:
    return [
        "finetune", "--pretrained-model-name-or-path", str(pipeline), "--condition", condition,
        "--output-dir", str(out), "--train-steps", "3", "--batch-size", "2", "--resolution",
        str(SIDE), "--learning-rate", "1e-2", "--warm-up", "0", "--device", "cpu", "--jobs", "1",
        *more,
    ]  # fmt: skip


def test_text_makes_a_pipeline_to_edit_with(
    pipeline_folder: Path, tiny_raw: Path, tmp_path: Path, capsys
):
    out = tmp_path / "new" / "tuned"
    command = words(pipeline_folder, out, "text", "--raw", str(tiny_raw))
    assert simulate.main(command) == 0
    parts = {"unet", "vae", "scheduler", "text_encoder", "tokenizer", "finetune.json"}
    assert {p.name for p in out.iterdir()} == parts and [out] == list(out.parent.iterdir())
    before = TextStableDiffusion(pipeline_folder).unet.state_dict()
    tuned = TextStableDiffusion(pipeline_folder, finetuned=out).unet.state_dict()
    moved = [name for name, value in before.items() if not torch.equal(value, tuned[name])]
    assert len(moved) > 0.9 * len(before)
    alone = TextStableDiffusion(out).unet.state_dict()
    assert all(torch.equal(tuned[name], alone[name]) for name in tuned)
    told = json.loads((out / "finetune.json").read_text())
    assert told["condition"] == "text" and told["recipe"]["n_steps"] == 3
    capsys.readouterr()
    assert simulate.main(command) == 0 and "already there" in capsys.readouterr().out


def test_vectors_to_a_decoder(
    pipeline_folder: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(finetune_command, "Training", lambda perceptual: TINY)
    bare = tmp_path / "bare"  # text is not needed
    for part in ("unet", "vae", "scheduler"):
        shutil.copytree(pipeline_folder / part, bare / part)
    out = tmp_path / "tuned"
    assert simulate.main(words(bare, out, "vector", "--engines", str(root))) == 0
    assert {p.name for p in out.iterdir()} == {"unet", "vae", "scheduler", "finetune.json"}
    where = "bench.simulating.image_longitudinal.decoders."
    monkeypatch.setattr(where + "STABLE_DIFFUSION_SIZE", SIDE)
    monkeypatch.setattr(where + "SAMPLING_STEPS", 2)
    drawn = [
        load_decoder(DecoderRecipe(Decoder.DIFFUSION, TINY, checkpoint=folder), root)(
            torch.ones(1, 4), torch.zeros(1, N_CONDITIONS), [1]
        )
        for folder in (bare, out)
    ]
    assert drawn[0].shape == drawn[1].shape == (1, 1, SIDE, SIDE)
    assert not torch.allclose(drawn[0], drawn[1], atol=1e-3)


def test_the_command_goes_on_where_it_was_stopped(
    pipeline_folder: Path, tiny_raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recipe = replace(RECIPES[Condition.TEXT], checkpoint_every=1, accumulate=1)
    monkeypatch.setitem(RECIPES, Condition.TEXT, recipe)
    more = ("--raw", str(tiny_raw))
    assert simulate.main(words(pipeline_folder, tmp_path / "whole", "text", *more)) == 0
    read, n_reads = TextExamples.films, 0

    def films(examples: TextExamples, rows: Tensor) -> Tensor:
        nonlocal n_reads
        n_reads += 1
        if n_reads == 3:
            raise KeyboardInterrupt
        return read(examples, rows)

    monkeypatch.setattr(TextExamples, "films", films)
    command = words(pipeline_folder, tmp_path / "part", "text", *more)
    with pytest.raises(KeyboardInterrupt):
        simulate.main(command)
    assert not (tmp_path / "part").exists()
    with pytest.raises(UserError, match="other settings"):
        simulate.main([*command, "--seed", "5"])
    assert simulate.main(command) == 0
    assert n_reads == 4  # two steps of three were kept
    names = {"whole", "part"}
    assert {p.name for p in tmp_path.iterdir()} == names
    whole, part = (StableDiffusion(tmp_path / name).unet.state_dict() for name in names)
    assert all(torch.equal(value, part[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["text"], "--raw"),
        (["vector", "--raw", "RAW"], "--raw is for --condition text"),
        (["txt", "--raw", "RAW"], "text"),
        (["text", "--raw", "RAW", "--pretrained-model-name-or-path", "EMPTY"], "no folder unet"),
        (["text", "--raw", "EMPTY"], "mimic-cxr-2.0.0-metadata.csv"),
        (["text", "--raw", "RAW", "--resolution", "18"], "multiple of 4"),
        (["text", "--raw", "RAW", "--device", "tpu9"], "tpu9"),
        (["text", "--raw", "RAW", "--learning-rate", "0"], "above 0"),
        (["text", "--raw", "RAW", "--perceptual", "x.pt"], "--perceptual"),
        (["vector", "--perceptual", "x.pt"], "--perceptual"),
        (["text", "--raw", "RAW", "--output-dir", "EMPTY"], "exists"),
        (["text", "--raw", "LOST"], "is not there (1 of 2 films are missing)"),
        (["text", "--raw", "LATERAL"], "no AP or PA film"),
    ],
)
def test_wrong_usage_is_refused_in_one_line(
    more: list[str], says: str, pipeline_folder: Path, tiny_raw: Path, tmp_path: Path, capsys
):
    lost = tree(tmp_path / "lost", ["AP", "AP"], ["train", "train"], [1, 0])
    next(lost.rglob("film1.jpg")).unlink()
    side = tree(tmp_path / "lateral", ["LATERAL"], ["train"], [1])
    (tmp_path / "empty").mkdir()
    places = {"RAW": tiny_raw, "EMPTY": tmp_path / "empty", "LOST": lost, "LATERAL": side}
    condition, *flags = (str(places.get(word, word)) for word in more)
    command = words(pipeline_folder, tmp_path / "out", condition, *flags)
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: simulate.main(command))
    # Before it there may be a progress bar of weights that were read.
    *_, error = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert error.startswith("error: ") and says in error
    assert {p.name for p in tmp_path.iterdir()} == {"lost", "lateral", "empty"}
    assert list((tmp_path / "empty").iterdir()) == []


def test_pies_spellings_of_the_options_are_taken():
    spelled = "--pretrained_model_name_or_path a --output_dir b --condition text --revision main"
    arg = finetune_command.parser().parse_args(spelled.split())
    assert (str(arg.pretrained_model_name_or_path), str(arg.output_dir)) == ("a", "b")
