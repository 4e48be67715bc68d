"""The EHR branch of the methods that compare films."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from bench.config import Request, resolve
from bench.contract import TaskSpec
from bench.contract_checks import (
    Case,
    check_finite,
    check_gradients,
    check_padding,
    difference,
    padded,
)
from bench.data.batch import Batch
from bench.data.cohort import Cohort
from bench.data.vocabulary import Cxr, Task
from bench.errors import UserError
from methods.baselines.sdpl import SdplConfig
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


@pytest.fixture
def hours_look() -> EhrFusion:
    torch.manual_seed(0)
    return EhrFusion(16, TaskSpec(Task.MORTALITY, Cxr.LONG), query="ehr").eval()


def test_hours_that_look_at_a_token_all_get_its_projected_value(
    hours_look: EhrFusion, batch: Batch, tokens: Tensor
) -> None:
    row, m = 1, 2
    n_hours = int(batch.ehr_valid[row].sum())
    series = torch.cat(
        [batch.ehr_values[row, :n_hours], batch.demographics[row].expand(n_hours, -1)], dim=-1
    )
    hours, cls = hours_look.encoder(series[None], torch.ones(1, n_hours, dtype=torch.bool))
    E = torch.cat([cls[:, None], hours], dim=1)
    # With one key the weight is 1, whatever the query.
    weight, bias = hours_look.attention.in_proj_weight[32:], hours_look.attention.in_proj_bias[32:]
    value = hours_look.attention.out_proj(tokens[row, m] @ weight.T + bias)
    assert hours_look.layer is not None
    always = torch.ones(1, n_hours + 1, dtype=torch.bool)
    expected = hours_look.layer(hours_look.norm(E + value), always)[0, 0]
    torch.testing.assert_close(hours_look(tokens, batch)[row, m], expected)


def test_hours_that_look_keep_tokens_and_padding_apart(
    hours_look: EhrFusion, batch: Batch, tokens: Tensor
) -> None:
    fused = hours_look(tokens, batch)
    changed = tokens.clone()
    changed[:, 0] += torch.randn(16)
    moved = (hours_look(changed, batch) - fused).abs().amax(dim=(0, 2)) > 1e-4
    assert moved.tolist() == [True, False, False]
    torch.testing.assert_close(hours_look(tokens, padded(batch)), fused)
    hours_look(tokens, without_ehr_of(batch, 0)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in hours_look.parameters())


def test_the_default_direction_draws_the_same_weights(fusion: EhrFusion) -> None:
    torch.manual_seed(0)
    other = EhrFusion(16, TaskSpec(Task.MORTALITY, Cxr.LONG), query="ehr")
    extra = {n for n, _ in other.named_parameters()} - {n for n, _ in fusion.named_parameters()}
    assert extra and all(name.startswith("layer.") for name in extra)
    for name, value in fusion.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.fusion_query is 'film'"):
        SdplConfig(fusion_query="film")


@pytest.mark.parametrize("method", ["chexrelnet", "chexrelformer", "sdpl"])
def test_every_method_that_compares_films_has_both_directions(method: str, cohort: Cohort) -> None:
    logits = []
    for query in ("image", "ehr"):
        overrides = (("model.fusion_query", query),)
        request = Request(method, Task.LENGTH_OF_STAY, Cxr.LONG, 0, overrides=overrides)
        case = Case(resolve(request), cohort)
        faults = [check(case) for check in (check_finite, check_gradients, check_padding)]
        assert faults == [None, None, None]
        logits.append(case.settled()(case.batch()).logits)
    assert difference("the logits", *logits)
