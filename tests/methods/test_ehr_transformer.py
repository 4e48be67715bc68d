"""EHR Transformer: sizes, where order enters, missing EHR, known losses. See also test_contract."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from bench.contract import Preset, TaskSpec
from bench.data.batch import Batch
from bench.data.vocabulary import EHR_VARIABLES, NOT_MENTIONED, Cxr, Task
from bench.errors import UserError
from bench.objective import task_loss
from methods.baselines.ehr_transformer import EhrTransformer, EhrTransformerConfig
from methods.encoders import mean_of_valid
from tests.methods.random_batches import random_batch, without_ehr_of

EVERY_TASK = pytest.mark.parametrize("task", list(Task))
POOLINGS = pytest.mark.parametrize("pooling", ["cls", "mean"])


def build(task: Task = Task.MORTALITY, seed: int = 0, **changes: object) -> EhrTransformer:
    torch.manual_seed(seed)
    config = replace(EhrTransformerConfig(d_model=16), **changes)  # type: ignore[arg-type]
    return EhrTransformer(config, TaskSpec(task, Cxr.NONE)).eval()


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def with_hours(batch: Batch, rows: list[int] | slice) -> Batch:
    """The batch with its hours rearranged."""
    names = ("ehr_values", "ehr_observed", "ehr_hours", "ehr_valid")
    return replace(batch, **{name: getattr(batch, name)[:, rows] for name in names})


@pytest.mark.parametrize(
    ("d_model", "encoder", "counts"),
    [
        (64, 52_672, (112_981, 62_145, 62_340)),
        (128, 203_648, (438_933, 238_977, 239_364)),
        (256, 800_512, (1_729_813, 936_705, 937_476)),
        (320, 1_246_400, (2_694_741, 1_457_601, 1_458_564)),
    ],
)
def test_parameter_counts(d_model: int, encoder: int, counts: tuple[int, ...]) -> None:
    # Of 128 and 256, the encoder's are those of DiPro's published checkpoints.
    for task, count in zip(Task, counts, strict=True):
        method = EhrTransformer(EhrTransformerConfig(d_model), TaskSpec(task, Cxr.NONE))
        assert sum(p.numel() for p in method.encoder.parameters()) == encoder
        assert sum(p.numel() for p in method.parameters()) == count


def test_configurations() -> None:
    widths = [EhrTransformer.configure(Preset.PAPER, task).d_model for task in Task]
    assert widths == [256, 256, 128]
    assert EhrTransformer.configure(Preset.DEMO, Task.MORTALITY).d_model == 64


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"d_model": 100}, "multiple of model.n_heads, 8"),
        ({"d_model": 15, "n_heads": 3}, "odd"),
        ({"d_model": 0}, "1 or more"),
        ({"pooling": "means"}, "did you mean 'mean'"),
    ],
)
def test_refuses_bad_configurations(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        build(**changes)
    assert "\n" not in str(error.value)


def test_declines_films_and_the_lack_of_ehr() -> None:
    decline = EhrTransformer.decline
    assert decline(Task.MORTALITY, Cxr.NONE, True) is None
    assert "no films" in (decline(Task.MORTALITY, Cxr.LONG, True) or "")
    assert "no films" in (decline(Task.DISEASE_PROGRESSION, Cxr.PAIR, True) or "")
    assert "nothing but EHR" in (decline(Task.MORTALITY, Cxr.NONE, False) or "")


@POOLINGS
def test_films_change_nothing(pooling: str) -> None:
    method, batch = build(pooling=pooling), random_batch(Task.MORTALITY, film_size=32)
    other = random_batch(Task.MORTALITY, film_size=32, seed=5)
    changed = replace(batch, films=other.films, regions=other.regions)
    assert torch.equal(method(changed).logits, method(batch).logits)
    assert all(p.ndim < 4 for p in method.parameters())


@POOLINGS
def test_a_sample_without_hours_is_predicted_from_demographics(pooling: str) -> None:
    method, batch = build(pooling=pooling), without_ehr_of(random_batch(Task.MORTALITY), 1)
    logits = method(batch).logits
    assert torch.isfinite(logits).all()
    noise = replace(batch, ehr_values=torch.randn_like(batch.ehr_values))
    assert same(method(noise).logits[1], logits[1])
    older = replace(batch, demographics=batch.demographics + 1)
    assert not same(method(older).logits[1], logits[1])
    nothing = with_hours(batch, slice(0, 0))
    assert same(method(nothing).logits[1], logits[1])


@POOLINGS
def test_the_order_of_hours_enters_by_positions_alone(pooling: str) -> None:
    batch = with_hours(random_batch(Task.MORTALITY), slice(0, 12))
    backwards = with_hours(batch, list(range(11, -1, -1)))
    method = build(pooling=pooling)
    assert not same(method(backwards).logits, method(batch).logits)
    method.encoder.positions = nn.Identity()  # type: ignore[assignment]
    assert same(method(backwards).logits, method(batch).logits)


def test_positions_count_from_the_first_row_not_by_the_clock() -> None:
    method, batch = build(), random_batch(Task.DISEASE_PROGRESSION)
    method = build(Task.DISEASE_PROGRESSION)
    later = replace(batch, ehr_hours=batch.ehr_hours + 64)
    assert torch.equal(method(later).logits, method(batch).logits)
    assert not same(method(with_hours(batch, slice(1, None))).logits, method(batch).logits)


def test_observed_flags_are_an_option() -> None:
    batch = random_batch(Task.MORTALITY)
    flipped = replace(batch, ehr_observed=~batch.ehr_observed)
    plain, observing = build(), build(use_observed=True)
    assert torch.equal(plain(flipped).logits, plain(batch).logits)
    assert not same(observing(flipped).logits, observing(batch).logits)
    assert observing.encoder.input_proj[0].in_features == 2 * len(EHR_VARIABLES)


def test_mean_pooling_is_over_valid_hours() -> None:
    x = torch.arange(12.0).view(2, 3, 2)
    valid = torch.tensor([[True, True, False], [False, False, False]])
    assert mean_of_valid(x, valid).tolist() == [[1.0, 2.0], [0.0, 0.0]]


@POOLINGS
def test_gradients_reach_every_part(pooling: str) -> None:
    batch = random_batch(Task.DISEASE_PROGRESSION)
    method = build(Task.DISEASE_PROGRESSION, pooling=pooling)
    method(batch).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in method.parameters())


@EVERY_TASK
def test_loss_of_zero_logits(task: Task) -> None:
    method, batch = build(task), random_batch(task)
    for head in method.heads:
        nn.init.zeros_(head[-1].weight)
        nn.init.zeros_(head[-1].bias)
    assert batch.targets is not None
    loss = task_loss(task, method(batch).logits, batch.targets, torch.ones(7, 3))
    expected = {Task.DISEASE_PROGRESSION: 7 * np.log(3), Task.MORTALITY: np.log(2)}
    assert loss.item() == pytest.approx(expected.get(task, np.log(4)), rel=1e-5)
    if not task.is_icu:
        silent = torch.full_like(batch.targets.progression, NOT_MENTIONED)
        unmentioned = replace(batch.targets, progression=silent)
        assert task_loss(task, method(batch).logits, unmentioned, torch.ones(7, 3)) == 0


def with_planted_slope(n: int, seed: int) -> Batch:
    """Deaths show in the slope of one variable over the last six of twelve hours."""
    batch = with_hours(random_batch(Task.MORTALITY, n=n, seed=seed), slice(0, 12))
    assert batch.targets is not None
    values = batch.ehr_values.clone()
    sign = 2 * batch.targets.mortality - 1
    values[:, 6:, EHR_VARIABLES.index("Heart Rate")] += sign[:, None] * torch.arange(6)
    return replace(batch, ehr_values=values)


def trained(batch: Batch, labels: torch.Tensor, n_steps: int) -> tuple[EhrTransformer, float]:
    method = build(dropout=0.0).train()
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    for _ in range(n_steps):
        optimizer.zero_grad()
        logits = method(batch).logits[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        loss.backward()
        optimizer.step()
    return method.eval(), loss.item()


def test_learns_a_late_slope_and_nothing_from_shuffled_labels() -> None:
    training, validation = with_planted_slope(64, seed=1), with_planted_slope(200, seed=2)
    assert training.targets is not None and validation.targets is not None
    labels = training.targets.mortality
    shuffled = labels[torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    aurocs = []
    for given in (labels, shuffled):
        method, loss = trained(training, given, n_steps=100)
        assert loss < 0.05
        with torch.no_grad():
            logits = method(validation).logits[:, 0].numpy()
        aurocs.append(roc_auc_score(validation.targets.mortality.numpy(), logits))
    assert aurocs[0] > 0.95
    assert 0.3 < aurocs[1] < 0.7
