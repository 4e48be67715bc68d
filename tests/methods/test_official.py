"""Published checkpoints: their layout, their inference, and ours with their weights."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.contract import Preset, TaskSpec
from bench.data.batch import Batch
from bench.data.vocabulary import REGIONS, Cxr, Task
from bench.errors import UserError
from methods.dipro import official
from methods.dipro.config import configure
from methods.dipro.model import DiPro
from tests.methods.official_reference import official_forward

EVERY_TASK = pytest.mark.parametrize("task", list(Task))
N_PARAMETERS = {
    Task.DISEASE_PROGRESSION: 31_064_172,
    Task.MORTALITY: 31_255_384,
    Task.LENGTH_OF_STAY: 26_568_667,
}
SIZE = 32
PAD = 3.0
TOLERANCE = 1e-4


def made_up_state(task: Task, seed: int = 0) -> dict[str, Tensor]:
    """An official state dict with random weights, positions and statistics included."""
    generator = torch.Generator().manual_seed(seed)
    model = official.OfficialDiPro(task)
    own = model.state_dict()
    state = {}
    for key, place in official._places(model):
        value = own[place]
        if not value.is_floating_point():
            state[key] = torch.full_like(value, 7)
            continue
        fan_in = value[0].numel() if value.ndim > 1 else 1
        noise = torch.randn(value.shape, generator=generator)
        state[key] = noise / fan_in**0.5 if value.ndim > 1 else 0.1 * noise
        if key.endswith("running_var"):
            state[key] = 0.5 + torch.rand(value.shape, generator=generator)
        elif value.ndim == 1 and key.endswith("weight"):
            state[key] = state[key] + 1
    pads = torch.rand(len(REGIONS), 3, 224, 224, generator=generator)
    return {**state, official.PADDING: pads}


def small(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with pad images of 32 px, so that a test need not run on 224 px."""
    pads = state[official.PADDING][..., :SIZE, :SIZE].contiguous()
    return {**state, official.PADDING: pads}


def loaded(state: dict[str, Tensor], task: Task) -> official.OfficialDiPro:
    model = official.load(state, task)
    model.pad_images = torch.nn.Parameter(model.pad_images[..., :SIZE, :SIZE].contiguous())
    return model


def arrays_of(
    task: Task, n_films: tuple[int, ...], n_hours: tuple[int, ...], seed: int = 0, size: int = SIZE
) -> dict[str, np.ndarray]:
    """What the official collate makes of grey films and hours; zeros, and 3.0 for times, pad."""
    rng = np.random.default_rng(seed)
    B, T, L = len(n_films), max(n_films), max(n_hours)
    film = np.arange(T) < np.array(n_films)[:, None]
    hour = np.arange(L) < np.array(n_hours)[:, None]
    first = np.zeros(B) if task.is_icu else rng.integers(0, 20, B)
    times = first[:, None] + np.arange(L)
    # Every interval holds an hour: the official attention over none is NaN.
    spacing = (min(n_hours) - 2) / T
    taken = first[:, None] + spacing * (np.arange(T) + rng.uniform(0.1, 0.6, (B, T)))
    intervals = np.stack([taken[:, :-1], taken[:, 1:]], axis=-1)
    grey = rng.integers(0, 256, (B, T, len(REGIONS), 1, size, size)) / 255
    image = np.repeat(grey, 3, axis=3) * film[:, :, None, None, None, None]
    return {
        "image": image.astype(np.float32),
        "image_mask": film,
        "ehr": (rng.normal(size=(B, L, 38)) * hour[..., None]).astype(np.float32),
        "ehr_mask": hour,
        "demographic": rng.normal(size=(B, 17)).astype(np.float32),
        "ehr_times": np.where(hour, times, PAD).astype(np.float32),
        "intervals": np.where(film[:, 1:, None], intervals, PAD).astype(np.float32),
    }


def sample_of(arrays: dict[str, np.ndarray], b: int) -> dict[str, np.ndarray]:
    """One sample of a batch without its padding."""
    T, L = int(arrays["image_mask"][b].sum()), int(arrays["ehr_mask"][b].sum())
    length = {"image": T, "image_mask": T, "intervals": T - 1, "demographic": None}
    return {
        name: values[b : b + 1]
        if name == "demographic"
        else values[b : b + 1, : length.get(name, L)]
        for name, values in arrays.items()
    }


def batch_of(arrays: dict[str, np.ndarray]) -> Batch:
    """The same samples as our data interface gives them, padding zero."""
    image = np.round(arrays["image"][:, :, :, 0] * 255).astype(np.uint8)
    film, hour = arrays["image_mask"], arrays["ehr_mask"]
    pair = film[:, 1:]
    given = {
        "films": np.zeros((*film.shape, 0, 0), np.uint8),
        "regions": image,
        "region_present": np.repeat(film[..., None], len(REGIONS), axis=-1),
        "film_valid": film,
        "film_hours": np.zeros(film.shape, np.float32),
        "pair_valid": pair,
        "pair_hours": arrays["intervals"] * pair[..., None],
        "ehr_values": arrays["ehr"],
        "ehr_observed": np.zeros(arrays["ehr"].shape, bool),
        "ehr_hours": arrays["ehr_times"] * hour,
        "ehr_valid": hour,
        "demographics": arrays["demographic"],
    }
    return Batch(**{name: torch.as_tensor(values) for name, values in given.items()})


def ours(task: Task) -> DiPro:
    config = dataclasses.replace(configure(Preset.PAPER, task), weights="none")
    return DiPro(config, TaskSpec(task, Cxr.LONG if task.is_icu else Cxr.PAIR)).eval()


def assert_same(value: np.ndarray, expected: np.ndarray) -> None:
    assert value.shape == expected.shape
    assert np.isfinite(expected).all()
    assert np.abs(value - expected).max() <= TOLERANCE * np.abs(expected).max()


def ragged(task: Task) -> dict[str, np.ndarray]:
    if task.is_icu:
        return arrays_of(task, n_films=(3, 2, 4), n_hours=(49, 49, 40))
    return arrays_of(task, n_films=(2, 2, 2), n_hours=(30, 17, 22))


@pytest.fixture(scope="module", params=list(Task))
def published(request: pytest.FixtureRequest) -> tuple[Task, dict[str, Tensor]]:
    return request.param, made_up_state(request.param)


class TestLayout:
    @EVERY_TASK
    def test_count(self, task: Task) -> None:
        model = official.OfficialDiPro(task)
        assert sum(p.numel() for p in model.parameters()) == N_PARAMETERS[task]

    def test_names_what_is_missing_or_too_much(self) -> None:
        state = made_up_state(Task.LENGTH_OF_STAY)
        some = "long_multi_modal_fuison.fusion.layers.0.norm1.weight"
        without = {k: v for k, v in state.items() if k != some}
        with pytest.raises(UserError, match=f"lacks {some}"):
            official.load(without, Task.LENGTH_OF_STAY)
        with pytest.raises(UserError, match=r"holds unexpected long_cxr_encoder\.extra"):
            official.load({**state, "long_cxr_encoder.extra": torch.zeros(1)}, "length_of_stay")
        with pytest.raises(
            UserError, match=r"group_embedding\.W: shape \[3\], expected \[128, 8\]"
        ):
            official.load({**state, "group_embedding.W": torch.zeros(3)}, Task.LENGTH_OF_STAY)

    def test_of_another_task_is_refused(self) -> None:
        with pytest.raises(UserError, match="no official checkpoint of mortality"):
            official.load(made_up_state(Task.DISEASE_PROGRESSION), Task.MORTALITY)

    def test_keys_of_loss_objects_are_ignored_by_name(self) -> None:
        state = made_up_state(Task.MORTALITY)
        extra = {"loss.pos_weight": torch.ones(1), "loss_batch.pos_weight": torch.ones(1)}
        assert official.load({**state, **extra}, Task.MORTALITY).ignored == tuple(extra)


class TestForward:
    def test_without_padding(self, published: tuple[Task, dict[str, Tensor]]) -> None:
        task, state = published
        arrays = sample_of(ragged(task), 0)
        expected = official_forward(small(state), arrays)
        for name, values in official.forward(loaded(state, task), arrays).items():
            assert_same(values, expected[name])

    def test_with_padding(self, published: tuple[Task, dict[str, Tensor]]) -> None:
        task, state = published
        arrays = ragged(task)
        expected = official_forward(small(state), arrays)
        for name, values in official.forward(loaded(state, task), arrays).items():
            assert_same(values, expected[name])

    def test_padding_matters_there(self, published: tuple[Task, dict[str, Tensor]]) -> None:
        task, state = published
        arrays, model = ragged(task), loaded(state, task)
        alone = official.forward(model, sample_of(arrays, 1))["logits"][0]
        together = official.forward(model, arrays)["logits"][1]
        assert np.abs(alone - together).max() > 1e-3

    def test_missing_array_is_named(self) -> None:
        arrays = ragged(Task.MORTALITY)
        del arrays["ehr_times"]
        with pytest.raises(UserError, match="'ehr_times' is missing"):
            official.forward(official.OfficialDiPro(Task.MORTALITY), arrays)


class TestOurPath:
    def test_agrees_for_every_sample_in_any_batch(
        self, published: tuple[Task, dict[str, Tensor]]
    ) -> None:
        task, state = published
        arrays, model, mine = ragged(task), loaded(state, task), ours(task)
        left_out = official.load_into(mine, state)
        assert set(left_out) == {official.PADDING, *official.UNUSED}
        with torch.inference_mode():
            together = mine(batch_of(arrays)).logits.reshape(len(arrays["ehr"]), -1).numpy()
        for b, logits in enumerate(together):
            alone = official.forward(model, sample_of(arrays, b))["logits"]
            assert_same(logits, alone.ravel())

    def test_another_shape_is_refused(self) -> None:
        small_one = DiPro(
            DiPro.configure(Preset.DEMO, Task.MORTALITY), TaskSpec(Task.MORTALITY, Cxr.LONG)
        )
        with pytest.raises(UserError, match="changed sizes"):
            official.load_into(small_one, made_up_state(Task.MORTALITY))


class Callback:
    """Stands for a class of the training framework, pickled into a checkpoint."""

    def __reduce__(self) -> tuple:
        return (print, ("code of a checkpoint was run",))


class TestRead:
    def test_lightning_checkpoint_without_lightning(self, tmp_path: Path) -> None:
        module = types.ModuleType("pytorch_lightning_stand_in")
        kind = type("EarlyStopping", (), {"__module__": module.__name__})
        module.EarlyStopping = kind  # type: ignore[attr-defined]
        sys.modules[module.__name__] = module
        file = tmp_path / "last.ckpt"
        state = {"group_embedding.W": torch.ones(2)}
        torch.save({"epoch": 3, "state_dict": state, "callbacks": {kind: {"wait": 1}}}, file)
        del sys.modules[module.__name__]
        with pytest.raises(pickle.UnpicklingError):
            torch.load(file, weights_only=True)
        assert torch.equal(official.read(file)["group_embedding.W"], torch.ones(2))

    def test_nothing_in_it_runs(self, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        file = tmp_path / "evil.ckpt"
        torch.save({"state_dict": {}, "callbacks": {"x": Callback()}}, file)
        with contextlib.suppress(UserError):
            official.read(file)
        assert "was run" not in capsys.readouterr().out

    @pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
    def test_no_checkpoint(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "x.ckpt").write_bytes(content)
        with pytest.raises(UserError, match=r"x\.ckpt cannot be read"):
            official.read(tmp_path / "x.ckpt")

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="is not there"):
            official.read(tmp_path / "none.ckpt")

    def test_no_state_dict(self, tmp_path: Path) -> None:
        torch.save([1, 2], tmp_path / "x.ckpt")
        with pytest.raises(UserError, match="holds no state dict"):
            official.read(tmp_path / "x.ckpt")
