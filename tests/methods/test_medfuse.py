"""MedFuse: size, initialisation, which step ends the sequence, missing parts. See test_contract."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.config import Request, resolve
from bench.contract import Preset, TaskSpec
from bench.data.batch import Batch
from bench.data.vocabulary import DEMOGRAPHICS, NOT_MENTIONED, Cxr, Task
from bench.errors import UserError
from bench.objective import task_loss
from methods.baselines.medfuse import (
    FilmEncoder,
    MedFuse,
    MedFuseConfig,
    last_state,
    valid_first,
)
from tests.methods.learning import learn
from tests.methods.random_batches import random_batch, without_ehr_of

EVERY_TASK = pytest.mark.parametrize("task", list(Task))
PAPER = MedFuseConfig(weights="none")
TINY = MedFuseConfig("small", "none", hidden=16, fusion_width=24)


def build(task: Task = Task.MORTALITY, config: MedFuseConfig = TINY, ehr: bool = True) -> MedFuse:
    torch.manual_seed(0)
    cxr = Cxr.LONG if task.is_icu else Cxr.PAIR
    return MedFuse(config, TaskSpec(task, cxr, ehr)).eval()


def films_of(task: Task = Task.MORTALITY, ehr: bool = True, seed: int = 0) -> Batch:
    return random_batch(task, size=0, film_size=32, ehr=ehr, seed=seed)


def without_film(batch: Batch, row: int, column: int | slice) -> Batch:
    valid = batch.film_valid.clone()
    valid[row, column] = False
    return replace(batch, film_valid=valid)


def same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-6)


class TestSize:
    def test_the_papers_parameter_count(self) -> None:
        method = build(Task.DISEASE_PROGRESSION, PAPER)
        assert sum(p.numel() for p in method.parameters()) == 27_165_077

    @pytest.mark.parametrize(
        ("changes", "millions"),
        [({"hidden": 256}, 26.49), ({"hidden": 64}, 24.93), ({"backbone": "resnet34"}, 24.48)],
    )
    def test_other_sizes(self, changes: dict[str, object], millions: float) -> None:
        # Totals of the released code, which also builds three heads that only pretraining uses.
        config = replace(PAPER, **changes)  # type: ignore[arg-type]
        method = build(Task.DISEASE_PROGRESSION, config)
        n, v_cxr = config.hidden, method.films.images.width
        unused = 21 * (n + 1) + 14 * (v_cxr + 1) + 21 * (2 * n + 1)
        total = sum(p.numel() for p in method.parameters()) + unused
        assert total / 1e6 == pytest.approx(millions, abs=0.005)

    def test_two_films_cost_what_the_paper_says(self) -> None:
        method = build(Task.DISEASE_PROGRESSION, PAPER)
        batch = random_batch(Task.DISEASE_PROGRESSION, n=1, size=0, film_size=224)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            method(batch)
        assert 8.1e9 < counter.get_total_flops() / 2 < 8.4e9

    def test_presets_change_sizes_only(self) -> None:
        paper = MedFuse.configure(Preset.PAPER, Task.MORTALITY)
        assert paper == MedFuseConfig()
        for preset in (Preset.DEMO, Preset.MEDIUM):
            small = MedFuse.configure(preset, Task.MORTALITY)
            assert (small.dropout, small.use_demographics) == (0.3, False)
            assert small.hidden < paper.hidden

    @pytest.mark.parametrize("name", ["hidden", "fusion_width"])
    def test_refuses_bad_sizes(self, name: str) -> None:
        with pytest.raises(UserError, match=rf"model\.{name} is 0"):
            replace(TINY, **{name: 0})

    def test_its_own_recipe_is_a_training_configuration(self) -> None:
        request = Request("medfuse", Task.MORTALITY, Cxr.LONG, 1, recipe="reference")
        training = resolve(request).training
        assert (training.lr, training.weight_decay, training.patience) == (1e-4, 0.0, 15)


class TestInitialisation:
    def test_ehr_lstm(self) -> None:
        method = build()
        assert method.ehr is not None
        for name, parameter in method.ehr.lstm.named_parameters():
            if "bias" in name:
                assert not parameter.any()
            elif "weight_hh" in name:
                gram = parameter.T @ parameter
                torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-5, rtol=0)
            else:
                limit = np.sqrt(6 / sum(parameter.shape))
                assert 0.9 * limit < parameter.abs().max() <= limit

    def test_dropout_is_on_the_ehr_vector(self) -> None:
        method, batch = build(), films_of()
        assert torch.equal(method(batch).logits, method(batch).logits)
        assert method.ehr is not None
        method.ehr.train()
        assert not same(method(batch).logits, method(batch).logits)
        values = method.ehr(batch.ehr_values, batch.ehr_valid)
        assert (values == 0).any()


class TestSequence:
    def test_last_state_is_that_of_a_packed_sequence(self) -> None:
        lstm, x = nn.LSTM(3, 5, num_layers=2, batch_first=True), torch.randn(4, 6, 3)
        lengths = torch.tensor([6, 1, 4, 2])
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        _, (h, _) = lstm(packed)
        seen = last_state(lstm, x, torch.arange(6) < lengths[:, None])
        torch.testing.assert_close(seen, h[-1])

    def test_no_step_gives_zeros(self) -> None:
        lstm = nn.LSTM(3, 5, batch_first=True)
        nothing = torch.zeros(2, 4, dtype=torch.bool)
        assert not last_state(lstm, torch.randn(2, 4, 3), nothing).any()
        assert last_state(lstm, torch.randn(2, 0, 3), nothing[:, :0]).shape == (2, 5)

    def test_valid_steps_come_first_in_order(self) -> None:
        x = torch.arange(8.0).view(2, 4, 1)
        valid = torch.tensor([[False, True, False, True], [True, True, True, False]])
        moved, prefix = valid_first(x, valid)
        assert moved[0, :2, 0].tolist() == [1, 3]
        assert moved[1, :3, 0].tolist() == [4, 5, 6]
        assert prefix.tolist() == [[True, True, False, False], [True, True, True, False]]

    def test_reads_ehr_then_films_oldest_first(self) -> None:
        method, batch = build(), films_of()
        assert method.ehr is not None
        for row in range(len(batch)):
            n_films = int(batch.film_valid[row].sum())
            n_hours = int(batch.ehr_valid[row].sum())
            hours = batch.ehr_values[row : row + 1, :n_hours]
            v_ehr = method.ehr(hours, torch.ones(1, n_hours, dtype=torch.bool))
            steps = torch.cat([v_ehr, method.films(batch.films[row, :n_films])])
            _, (h, _) = method.fusion(steps)
            expected = method.classifier(h[-1])
            torch.testing.assert_close(method(batch).logits[row], expected)

    def test_one_film_of_long_is_last(self) -> None:
        method, batch = build(), films_of()
        only_first = without_film(batch, slice(None), slice(1, None))  # type: ignore[arg-type]
        cut = replace(batch, films=batch.films[:, :1], film_valid=batch.film_valid[:, :1])
        torch.testing.assert_close(method(only_first).logits, method(cut).logits)

    def test_last_is_long_of_one_film_with_the_same_weights(self) -> None:
        long, batch = build(), films_of()
        last = MedFuse(TINY, TaskSpec(Task.MORTALITY, Cxr.LAST)).eval()
        last.load_state_dict(long.state_dict())
        newest = batch.film_valid.sum(dim=1) - 1
        films = batch.films[torch.arange(len(batch)), newest][:, None]
        alone = replace(batch, films=films, film_valid=batch.film_valid[:, :1])
        torch.testing.assert_close(last(alone).logits, long(alone).logits)

    def test_permuting_samples_permutes_logits(self) -> None:
        method, batch = build(), films_of()
        order = [2, 0, 3, 1]
        names = ("films", "film_valid", "ehr_values", "ehr_valid")
        permuted = replace(batch, **{name: getattr(batch, name)[order] for name in names})
        torch.testing.assert_close(method(permuted).logits, method(batch).logits[order])


class TestMissing:
    def test_no_film_at_all(self) -> None:
        batch = without_film(films_of(), slice(None), slice(None))  # type: ignore[arg-type]
        method = build()
        logits = method(batch).logits
        assert torch.isfinite(logits).all()
        white = replace(batch, films=torch.full_like(batch.films, 255))
        assert torch.equal(method(white).logits, logits)
        logits.sum().backward()
        assert all(p.grad is None or not p.grad.any() for p in method.films.parameters())

    def test_no_film_of_one_sample(self) -> None:
        batch = without_film(films_of(), 1, slice(None))
        method = build()
        white = batch.films.clone()
        white[1] = 255
        torch.testing.assert_close(method(replace(batch, films=white)).logits, method(batch).logits)

    def test_no_ehr_of_one_sample_starts_at_its_first_film(self) -> None:
        method, batch = build(), films_of()
        logits = method(without_ehr_of(batch, 1)).logits
        n_films = int(batch.film_valid[1].sum())
        _, (h, _) = method.fusion(method.films(batch.films[1, :n_films]))
        torch.testing.assert_close(logits[1], method.classifier(h[-1]))
        torch.testing.assert_close(logits[0], method(batch).logits[0])

    @EVERY_TASK
    def test_films_only(self, task: Task) -> None:
        method, batch = build(task, ehr=False), films_of(task, ehr=False)
        assert method.ehr is None
        (h_of_first_sample, _) = method.fusion(
            method.films(batch.films[0, : int(batch.film_valid[0].sum())])
        )
        expected = method.classifier(h_of_first_sample[-1])
        torch.testing.assert_close(method(batch).logits[0].flatten(), expected)

    def test_declines_what_is_no_sequence(self) -> None:
        decline = MedFuse.decline
        assert "ehr_transformer" in (decline(Task.MORTALITY, Cxr.NONE, True) or "")
        assert "--cxr long" in (decline(Task.MORTALITY, Cxr.LAST, False) or "")
        assert decline(Task.MORTALITY, Cxr.LAST, True) is None
        assert decline(Task.DISEASE_PROGRESSION, Cxr.PAIR, False) is None


class TestOptions:
    def test_demographics_are_read_on_request_only(self) -> None:
        batch = films_of()
        older = replace(batch, demographics=batch.demographics + 1)
        plain, wider = build(), build(config=replace(TINY, use_demographics=True))
        assert torch.equal(plain(older).logits, plain(batch).logits)
        assert not same(wider(older).logits, wider(batch).logits)
        extra = [sum(p.numel() for p in m.parameters()) for m in (wider, plain)]
        assert extra[0] - extra[1] == 4 * TINY.hidden * len(DEMOGRAPHICS)

    def test_larger_films_are_averaged_down(self) -> None:
        small = torch.randint(0, 256, (2, 16, 16), dtype=torch.uint8)
        large = small.repeat_interleave(2, -1).repeat_interleave(2, -2)
        torch.manual_seed(0)
        encoder = FilmEncoder(replace(TINY, max_film_size=16)).eval()
        torch.testing.assert_close(encoder(large), encoder(small))
        encoder.max_film_size = 0
        assert not same(encoder(large), encoder(small))


class TestTraining:
    @EVERY_TASK
    def test_gradients_reach_every_part(self, task: Task) -> None:
        config = replace(TINY, backbone="resnet34", dropout=0.0)
        method, batch = build(task, config).train(), films_of(task)
        assert batch.targets is not None
        task_loss(task, method(batch).logits, batch.targets, torch.ones(7, 3)).backward()
        silent = [n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()]
        assert not silent

    @EVERY_TASK
    def test_loss_of_zero_logits(self, task: Task) -> None:
        method, batch = build(task), films_of(task)
        nn.init.zeros_(method.classifier.weight)
        nn.init.zeros_(method.classifier.bias)
        logits, targets = method(batch).logits, batch.targets
        assert targets is not None
        loss = task_loss(task, logits, targets, torch.ones(7, 3))
        expected = {Task.DISEASE_PROGRESSION: 7 * np.log(3), Task.MORTALITY: np.log(2)}
        assert loss.item() == pytest.approx(expected.get(task, np.log(4)), rel=1e-5)
        if not task.is_icu:
            silent = torch.full_like(targets.progression, NOT_MENTIONED)
            unmentioned = replace(targets, progression=silent)
            assert task_loss(task, logits, unmentioned, torch.ones(7, 3)) == 0


class TestPlantedTruth:
    """What decides is in one place; training has to find it."""

    def learn(self, batch: Batch, labels: Tensor, n_steps: int) -> float:
        """Train on one batch; return the last mean loss."""
        method = build(config=replace(TINY, hidden=32, dropout=0.0))
        return learn(method, batch, labels, 3e-3, n_steps)

    def batch(self) -> tuple[Batch, Tensor]:
        """Sixteen stays with 24 uneventful hours and two grey films; half are to be told apart."""
        batch = random_batch(Task.MORTALITY, n=16, size=0, film_size=16)
        changes = {
            "ehr_values": torch.zeros(16, 24, 38),
            "ehr_valid": torch.ones(16, 24, dtype=torch.bool),
            "films": torch.full_like(batch.films[:, :2], 40),
            "film_valid": torch.ones(16, 2, dtype=torch.bool),
        }
        return replace(batch, **changes), torch.arange(16) % 2 == 0

    def test_remembers_hours_long_past(self) -> None:
        batch, high = self.batch()
        batch.ehr_values[high, 4:7, 3] = 2.0
        assert self.learn(batch, high.float(), n_steps=100) < 0.1

    def test_finds_in_which_film_a_mark_is(self) -> None:
        batch, late = self.batch()
        batch.films[late, 1, 4:9], batch.films[~late, 0, 4:9] = 220, 220
        assert self.learn(batch, late.float(), n_steps=100) < 0.1
