"""The studies of the runner measure what they say, at toy size."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.config import Request, resolve
from bench.contract import Preset
from bench.data.batch import Samples
from bench.data.cohort import Cohort
from bench.data.miniature import miniature_cohort
from bench.data.vocabulary import Cxr, Task
from bench.errors import UserError
from bench.runner import Run
from bench.studies import (
    epoch_speed,
    kills,
    loading_speed,
    plain_dipro,
    sweep_overhead,
    training_speed,
)
from bench.studies.training_speed import ragged_batch, subjects
from methods.dipro.model import DiPro
from tables.definitions import named, requests

CPU = torch.device("cpu")
SIZE = 16
SMALL_STEPS = (("training.batch_size", "2"), ("training.accumulation", "2"))
N_FILMS = (2, 3, 4)


@pytest.fixture(scope="module")
def pair() -> tuple[training_speed.Subject, training_speed.Subject]:
    return subjects("small", SIZE, CPU)


class TestPlainDiPro:
    def test_logits_are_those_of_dipro(self, pair):
        ours, plain = pair
        assert training_speed.largest_difference(ours, plain, ragged_batch(N_FILMS, SIZE)) < 1e-4

    def test_it_encodes_every_film_of_the_padded_batch(self, pair):
        counted = []
        for subject in pair:
            network = subject.model.regions.images.network
            handle = network.register_forward_hook(lambda _, args, __: counted.append(len(args[0])))
            subject.infer(ragged_batch(N_FILMS, SIZE))
            handle.remove()
        assert counted == [10 * sum(N_FILMS), 10 * len(N_FILMS) * max(N_FILMS)]

    def test_it_has_the_same_weights_in_the_default_layout(self, pair):
        ours, plain = (subject.model.regions.images.network[3].weight for subject in pair)
        assert torch.equal(ours, plain)
        assert ours.is_contiguous(memory_format=torch.channels_last) and not ours.is_contiguous()
        assert plain.is_contiguous()

    def test_a_training_step_reaches_the_padding_and_every_weight_of_the_convnet(self, pair):
        _, plain = pair
        before = {name: value.clone() for name, value in plain.model.named_parameters()}
        plain.train(ragged_batch(N_FILMS, SIZE))
        moved = {
            n for n, value in plain.model.named_parameters() if not torch.equal(value, before[n])
        }
        assert "pad_images" in moved
        assert {n for n in before if n.startswith("regions.images.")} <= moved


def test_decoded_regions_are_cut_where_the_boxes_are(tmp_path: Path):
    pixels = np.zeros((64, 64), np.uint8)
    pixels[:32, 32:] = 200
    Image.fromarray(pixels).save(tmp_path / "film.png")
    boxes = np.array([[0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [np.nan] * 4])
    crops = plain_dipro.decode_regions(tmp_path / "film.png", boxes, 8)
    assert crops.shape == (3, 3, 8, 8)
    assert torch.allclose(crops[0], torch.tensor(200 / 255))
    assert not crops[1:].any()


class TestTrainingSpeed:
    def test_works_take_turns(self):
        done = []
        costs = training_speed.side_by_side(
            [lambda: done.append("slow") or time.sleep(0.02), lambda: done.append("fast")], CPU, 2
        )
        assert done == ["slow", "fast", "slow", "fast"]
        assert [len(cost.seconds) for cost in costs] == [2, 2]
        assert costs[0].median >= 0.02

    def test_slope_of_a_power(self):
        assert training_speed.slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)

    def test_every_axis_is_scaled(self, pair):
        found = training_speed.scaling(pair[0], SIZE, repeats=1)
        assert set(found) == {"films", "regions", "batch"}
        assert all(np.isfinite(exponent) for _, exponent in found.values())

    def test_share_of_waiting(self, pair, cohort: Cohort, monkeypatch: pytest.MonkeyPatch):
        samples = Samples(cohort, Task.DISEASE_PROGRESSION, Cxr.PAIR, DiPro.inputs)
        lazy = replace(pair[0])
        monkeypatch.setattr(type(lazy), "train", lambda self, batch: time.sleep(0.2))
        assert training_speed.waiting_share(lazy, samples, 2, n_steps=2) < 0.5

    def test_peak_memory_is_forgotten(self):
        held = torch.ones(64 * 2**20)
        training_speed.reset_peak(CPU)
        high = training_speed.peak_mb(CPU)
        del held
        training_speed.reset_peak(CPU)
        assert high - training_speed.peak_mb(CPU) > 200

    def test_a_trace_is_written(self, pair, tmp_path: Path):
        training_speed.write_trace(pair[0], ragged_batch((2,), SIZE), tmp_path / "trace.json")
        assert "conv" in (tmp_path / "trace.json").read_text()


class TestLoadingSpeed:
    def test_an_epoch_grows_with_the_cohort(self):
        seconds, exponent = loading_speed.growth((40, 160), batch_size=8)
        assert len(seconds) == 2 and exponent > 0

    def test_foreign_raw_files_are_refused(self, tmp_path: Path):
        cohort = miniature_cohort(tmp_path / "cohort")
        (cohort.path / "identifiers.json").write_text('{"films": ["a"]}')
        with pytest.raises(UserError, match="has not the films"):
            loading_speed.film_paths(cohort, tmp_path)
        (tmp_path / "a.jpg").touch()
        assert loading_speed.film_paths(cohort, tmp_path) == [tmp_path / "a.jpg"]


class TestSweepOverhead:
    def test_share_outside_runs(self):
        assert sweep_overhead.overhead([4, 4, 4], 8, 2) == pytest.approx(0.25)

    def test_the_large_cohort_has_the_size_asked_for(self, tmp_path: Path):
        cohort = sweep_overhead.large_cohort(tmp_path / "cohort", 20 * 2**20)
        assert (tmp_path / "cohort" / "regions.npy").stat().st_size >= 20 * 2**20
        assert cohort.arrays["regions"].shape[1:] == (10, 224, 224)

    @pytest.mark.slow
    def test_two_workers_share_a_cohort(self, tmp_path: Path):
        cohort = sweep_overhead.large_cohort(tmp_path / "cohort", 300 * 2**20)
        memory = sweep_overhead.memory_of_workers(cohort.path)
        assert memory.one - memory.bare > 250
        assert memory.added < 100


class TestKills:
    def sweep(self, tmp_path: Path) -> kills.Sweep:
        return kills.Sweep(tmp_path / "cohort", tmp_path, 1)

    def test_workers_are_known_by_the_locks_of_open_runs(self, tmp_path: Path):
        sweep = self.sweep(tmp_path)
        for name in ("open", "done"):
            with kills.RunFiles(tmp_path / "runs" / name).locked():
                pass
        (tmp_path / "runs" / "done" / "record.json").write_text("{}")
        (mine,) = sweep.workers()
        assert f"process {mine} on" in (tmp_path / "runs" / "open" / "lock").read_text()
        (tmp_path / "runs" / "open" / "lock").write_text("process 99999999 on here\n")
        assert sweep.workers() == []

    def test_other_records_are_a_difference(self, tmp_path: Path):
        mine, other = (self.sweep(tmp_path / name) for name in ("a", "b"))
        (tmp_path / "b" / "runs" / "x").mkdir(parents=True)
        assert "other runs or records" in kills.differences(mine, other)

    @pytest.mark.slow
    def test_a_few_kills(self, capsys: pytest.CaptureFixture[str]):
        assert kills.main(["--kills", "3", "--epochs", "8"]) == 0
        assert "no difference to the undisturbed sweep" in capsys.readouterr().out


class TestEpochSpeed:
    @pytest.fixture
    def run(self, cohort: Cohort) -> Run:
        request = Request("ehr_transformer", Task.MORTALITY, Cxr.NONE, 23, overrides=SMALL_STEPS)
        return Run(resolve(request), cohort, CPU, 1)

    def test_steps_are_those_of_training_and_their_waiting_is_part_of_their_time(self, run):
        before = [p.detach().clone() for p in run.model.parameters()]
        timing = epoch_speed.time_steps(run, 3)
        assert timing.n_samples == 3 * 2 * 2
        assert 0 < timing.waited < timing.seconds
        assert timing.flops > 0 and timing.flops % 3 == 0
        assert any(
            not torch.equal(p, b) for p, b in zip(run.model.parameters(), before, strict=True)
        )

    def test_hours_of_a_table_are_those_of_its_runs(self, cohort, monkeypatch, capsys):
        monkeypatch.setattr(epoch_speed, "time_steps", lambda run, n: epoch_speed.Timing(1, 0, 100))
        monkeypatch.setattr(epoch_speed, "Run", lambda config, *place: config)
        hours = epoch_speed.hours_of_table("table2", CPU, 1, 1, cohort)
        n_runs = 3 * len(requests(named("table2"), Preset.PAPER, [23]))
        assert hours == pytest.approx(n_runs * 1889 * 100 / 100 / 3600)
        assert f"table2: {hours:.0f} h at most" in capsys.readouterr().out
