"""The EHR branch of the methods that compare films."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from bench.contract import TaskSpec
from bench.contract_checks import padded
from bench.data.batch import Batch
from bench.data.vocabulary import Cxr, Task
from methods.fusion import EhrFusion
from tests.methods.random_batches import random_batch, without_ehr_of


@pytest.fixture
def batch() -> Batch:
    return random_batch(Task.MORTALITY)


@pytest.fixture
def fusion() -> EhrFusion:
    torch.manual_seed(0)
    return EhrFusion(16, TaskSpec(Task.MORTALITY, Cxr.LONG)).eval()


@pytest.fixture
def tokens(batch: Batch) -> Tensor:
    return torch.randn(len(batch), 3, 16, generator=torch.Generator().manual_seed(1))


def test_count_at_the_paper_s_width() -> None:
    fusion = EhrFusion(256, TaskSpec(Task.MORTALITY, Cxr.LONG))
    assert sum(p.numel() for p in fusion.parameters()) == 804_864 + 263_680


def test_reads_hours_and_demographics(fusion: EhrFusion, batch: Batch, tokens: Tensor) -> None:
    fused = fusion(tokens, batch)
    assert fused.shape == tokens.shape
    for change in (
        {"ehr_values": batch.ehr_values + 1},
        {"demographics": batch.demographics + 1},
    ):
        assert not torch.allclose(fusion(tokens, replace(batch, **change)), fused, atol=1e-3)


def test_is_the_norm_of_a_residual_attention_over_class_token_and_hours(
    fusion: EhrFusion, batch: Batch, tokens: Tensor
) -> None:
    row = 0
    n_hours = int(batch.ehr_valid[row].sum())
    static = batch.demographics[row].expand(n_hours, -1)
    series = torch.cat([batch.ehr_values[row, :n_hours], static], dim=-1)[None]
    hours, cls = fusion.encoder(series, torch.ones(1, n_hours, dtype=torch.bool))
    E = torch.cat([cls[:, None], hours], dim=1)
    reference = nn.MultiheadAttention(16, 8, batch_first=True)
    reference.load_state_dict(fusion.attention.state_dict())
    Z = tokens[row : row + 1]
    expected = fusion.norm(Z + reference(Z, E, E)[0])
    torch.testing.assert_close(fusion(tokens, batch)[row], expected[0])


def test_image_tokens_do_not_see_each_other(
    fusion: EhrFusion, batch: Batch, tokens: Tensor
) -> None:
    changed = tokens.clone()
    changed[:, 0] += 1
    moved = (fusion(changed, batch) - fusion(tokens, batch)).abs().amax(dim=(0, 2)) > 1e-4
    assert moved.tolist() == [True, False, False]


def test_padded_hours_change_nothing(fusion: EhrFusion, batch: Batch, tokens: Tensor) -> None:
    torch.testing.assert_close(fusion(tokens, padded(batch)), fusion(tokens, batch))


def test_a_sample_without_hours_is_finite(fusion: EhrFusion, batch: Batch, tokens: Tensor) -> None:
    fused = fusion(tokens, without_ehr_of(batch, 0))
    assert torch.isfinite(fused).all()
    fused.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in fusion.parameters() if p.grad is not None)
