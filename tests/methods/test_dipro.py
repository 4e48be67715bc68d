"""DiPro and its ablations: invariances, gradients, known values of every loss term."""

from __future__ import annotations

import csv
import dataclasses
import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bench.contract import Output, Preset, TaskSpec
from bench.contract_checks import padded, with_films_exchanged
from bench.data.batch import Batch
from bench.data.layout import Packing
from bench.data.vocabulary import DISEASES, NOT_MENTIONED, REGIONS, Cxr, Progression, Task
from bench.errors import UserError
from bench.objective import task_loss
from methods.dipro import losses, model
from methods.dipro.config import ABLATIONS, PAPER, DiProConfig
from methods.dipro.mmf import GroupEmbedding, IntervalAttention, Intervals
from methods.dipro.model import DiPro
from methods.dipro.pae import RegionHeads, reversed_labels, reversed_pair
from methods.dipro.std import Disentanglement, film_pairs
from tests.methods.random_batches import random_batch, take, without_ehr_of

FULL = "full"
VARIANTS = (FULL, *ABLATIONS)
EVERY = pytest.mark.parametrize(("task", "variant"), list(itertools.product(Task, VARIANTS)))
EVERY_TASK = pytest.mark.parametrize("task", list(Task))


def configuration(task: Task, variant: str = FULL, **changes: object) -> DiProConfig:
    """A tiny DiPro with every loss weight the task has."""
    config = replace(DiPro.configure(Preset.DEMO, task), d_model=16, **changes)  # type: ignore[arg-type]
    return config if variant == FULL else ABLATIONS[variant].apply(config)


def build(config: DiProConfig, task: Task, ehr: bool = True, seed: int = 0) -> DiPro:
    torch.manual_seed(seed)
    weights = torch.tensor([1.5, 1.2, 0.7]).expand(len(DISEASES), -1)
    return DiPro(config, TaskSpec(task, Cxr.LONG if task.is_icu else Cxr.PAIR, ehr, weights))


def built(task: Task, variant: str = FULL, **changes: object) -> DiPro:
    """A DiPro in evaluation mode, its batch statistics those of a random batch."""
    dipro = build(configuration(task, variant, **changes), task)
    for module in dipro.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = None
    dipro(random_batch(task, seed=10))
    return dipro.eval()


def total(dipro: DiPro, output: Output, batch: Batch) -> Tensor:
    """The weighted sum that the runner minimises."""
    assert batch.targets is not None
    task = task_loss(dipro.spec.task, output.logits, batch.targets, dipro.class_weights)
    weights = dipro.config.loss_weights()
    return torch.stack([weights[k] * v for k, v in {"task": task, **output.losses}.items()]).sum()


def assert_same(output: Output, expected: Output) -> None:
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-4, atol=1e-5)
    assert output.losses.keys() == expected.losses.keys()
    for name, value in expected.losses.items():
        torch.testing.assert_close(output.losses[name], value, rtol=1e-4, atol=1e-5)


class TestContract:
    @EVERY
    def test_output(self, task: Task, variant: str) -> None:
        batch = random_batch(task)
        dipro = build(configuration(task, variant), task)
        output = dipro(batch)
        shape = {Task.DISEASE_PROGRESSION: (4, 7, 3), Task.MORTALITY: (4, 1)}.get(task, (4, 4))
        assert output.logits.shape == shape
        assert {"task", *output.losses} == set(dipro.config.loss_weights())
        assert all(v.shape == () and torch.isfinite(v) for v in output.losses.values())
        assert not output.attention

    @EVERY_TASK
    def test_prediction_needs_no_labels_and_reverses_nothing(
        self, task: Task, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch = random_batch(task)
        dipro = built(task)
        expected = dipro(batch).logits

        def fail(*_: object) -> Tensor:
            raise AssertionError("reversed")

        monkeypatch.setattr(model, "reversed_pair", fail)
        output = dipro(batch.without_targets())
        assert not output.losses
        assert torch.equal(output.logits, expected)
        without_pae = build(configuration(task, "pae"), task)
        assert "pae_dynamic" not in without_pae(batch).losses
        with pytest.raises(AssertionError, match="reversed"):
            dipro(batch)

    @EVERY_TASK
    def test_half_precision(self, task: Task) -> None:
        batch = random_batch(task)
        dipro = build(configuration(task), task)
        with torch.autocast("cpu", torch.bfloat16):
            output = dipro(batch, with_attention=True)
            loss = total(dipro, output, batch)
        loss.backward()
        assert all(term.dtype == torch.float32 for term in output.losses.values())
        assert all(torch.isfinite(p.grad).all() for p in dipro.parameters())

    @EVERY_TASK
    def test_same_seed_same_weights(self, task: Task) -> None:
        one, other = (build(configuration(task), task).state_dict() for _ in range(2))
        assert all(torch.equal(value, other[name]) for name, value in one.items())

    def test_declines(self) -> None:
        assert "EHR Transformer" in (DiPro.decline(Task.MORTALITY, Cxr.NONE, True) or "")
        assert "two films" in (DiPro.decline(Task.MORTALITY, Cxr.LAST, True) or "")
        assert DiPro.decline(Task.MORTALITY, Cxr.LONG, False) is None
        assert DiPro.decline(Task.DISEASE_PROGRESSION, Cxr.PAIR, True) is None

    @pytest.mark.parametrize(
        "changes",
        [
            {"reversal": "swop"},
            {"local_fusion": False, "global_fusion": False},
            {"local_fusion_layers": 0},
        ],
    )
    def test_refuses_bad_configurations(self, changes: dict[str, object]) -> None:
        with pytest.raises(UserError, match=r"model\."):
            DiProConfig(**changes)  # type: ignore[arg-type]


class TestInvariances:
    @EVERY
    def test_padding_changes_nothing(self, task: Task, variant: str) -> None:
        batch = random_batch(task)
        dipro = built(task, variant)
        assert_same(dipro(padded(batch)), dipro(batch))

    @EVERY
    def test_padding_changes_nothing_in_training(self, task: Task, variant: str) -> None:
        batch = random_batch(task)
        one, other = (build(configuration(task, variant, dropout=0.0), task) for _ in range(2))
        assert_same(one(padded(batch)), other(batch))
        for (name, seen), expected in zip(one.named_buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(seen, expected, msg=name)

    @EVERY
    def test_batch_mates_change_nothing(self, task: Task, variant: str) -> None:
        batch = random_batch(task)
        dipro = built(task, variant)
        together = dipro(batch).logits
        for row in range(len(batch)):
            alone = dipro(take(batch, [row])).logits
            torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)

    @EVERY
    def test_order_of_films_matters(self, task: Task, variant: str) -> None:
        batch = random_batch(task)
        dipro = built(task, variant)
        swapped = dipro(with_films_exchanged(batch)).logits
        assert not torch.allclose(swapped, dipro(batch).logits, atol=1e-4)

    @EVERY_TASK
    def test_clock_does_not_matter(self, task: Task) -> None:
        batch = random_batch(task)
        dipro = built(task)
        later = replace(
            batch,
            film_hours=batch.film_hours + 64,
            pair_hours=batch.pair_hours + 64,
            ehr_hours=batch.ehr_hours + 64,
        )
        torch.testing.assert_close(dipro(later).logits, dipro(batch).logits, rtol=1e-4, atol=1e-4)

    def test_hours_of_films_matter_to_local_fusion_only(self) -> None:
        batch = random_batch(Task.MORTALITY)
        earlier = replace(batch, pair_hours=batch.pair_hours * 0.5)
        for variant, matters in ((FULL, True), ("local-only", True), ("global-only", False)):
            dipro = built(Task.MORTALITY, variant)
            same = torch.allclose(dipro(earlier).logits, dipro(batch).logits, atol=1e-5)
            assert same != matters, variant

    def test_regions_are_a_set(self) -> None:
        # No token says which region it is: identity must come from the image (ledger M15).
        batch = random_batch(Task.MORTALITY)
        order = torch.randperm(len(REGIONS))
        permuted = replace(
            batch,
            regions=batch.regions[:, :, order],
            region_present=batch.region_present[:, :, order],
        )
        dipro = built(Task.MORTALITY)
        torch.testing.assert_close(
            dipro(permuted).logits, dipro(batch).logits, rtol=1e-4, atol=1e-5
        )


class TestGradients:
    @EVERY
    def test_reach_every_parameter(self, task: Task, variant: str) -> None:
        batch = random_batch(task)
        dipro = build(configuration(task, variant, dropout=0.0), task)
        total(dipro, dipro(batch), batch).backward()
        unused = {
            name
            for name, p in dipro.named_parameters()
            if p.grad is None or not torch.isfinite(p.grad).all() or not p.grad.any()
        }
        heads = {n for n, _ in dipro.named_parameters() if n.startswith("region_heads")}
        assert unused == (heads if variant == "pae-loss" else set())

    @EVERY_TASK
    def test_four_samples_can_be_learnt(self, task: Task) -> None:
        batch = random_batch(task)
        dipro = build(configuration(task, dropout=0.0), task)
        optimizer = torch.optim.Adam(dipro.parameters(), lr=1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            output = dipro(batch)
            total(dipro, output, batch).backward()
            optimizer.step()
        assert batch.targets is not None
        assert task_loss(task, output.logits, batch.targets, dipro.class_weights) < 0.05


class TestMissing:
    @EVERY
    def test_a_stay_without_ehr(self, task: Task, variant: str) -> None:
        batch = without_ehr_of(random_batch(task), 1)
        dipro = build(configuration(task, variant), task)
        total(dipro, dipro(batch), batch).backward()
        assert all(torch.isfinite(p.grad).all() for p in dipro.parameters() if p.grad is not None)
        dipro = built(task, variant)
        noise = torch.randn_like(batch.ehr_values) * ~batch.ehr_valid[..., None]
        changed = replace(batch, ehr_values=batch.ehr_values + noise)
        torch.testing.assert_close(dipro(changed).logits, dipro(batch).logits)

    @EVERY_TASK
    def test_no_ehr_in_the_whole_batch(self, task: Task) -> None:
        batch = random_batch(task)
        empty = replace(
            batch,
            ehr_values=batch.ehr_values[:, :0],
            ehr_observed=batch.ehr_observed[:, :0],
            ehr_hours=batch.ehr_hours[:, :0],
            ehr_valid=batch.ehr_valid[:, :0],
        )
        dipro = built(task)
        masked = replace(batch, ehr_valid=torch.zeros_like(batch.ehr_valid))
        assert_same(dipro(empty, with_attention=True), dipro(masked))
        total(dipro, dipro(empty), empty).backward()

    @EVERY
    def test_films_only(self, task: Task, variant: str) -> None:
        batch = random_batch(task, ehr=False)
        dipro = build(configuration(task, variant, dropout=0.0), task, ehr=False)
        output = dipro(batch, with_attention=True)
        total(dipro, output, batch).backward()
        silent = {n for n, p in dipro.named_parameters() if p.grad is None or not p.grad.any()}
        if variant == "pae-loss":
            silent = {name for name in silent if not name.startswith("region_heads")}
        assert not silent
        assert "interval" not in output.attention
        names = " ".join(name for name, _ in dipro.named_parameters())
        assert not any(part in names for part in ("ehr", "interval", "demographic"))

    def test_an_interval_without_an_hour(self) -> None:
        batch = random_batch(Task.MORTALITY)
        hours = batch.pair_hours.clone()
        hours[0, 0] = torch.tensor([10.2, 10.8])
        batch = replace(batch, pair_hours=hours)
        dipro = build(configuration(Task.MORTALITY), Task.MORTALITY)
        output = dipro(batch, with_attention=True)
        total(dipro, output, batch).backward()
        assert torch.isfinite(output.logits).all()
        assert all(torch.isfinite(p.grad).all() for p in dipro.parameters())
        assert not output.attention["interval"][0, 0].any()

    def test_an_interval_without_an_hour_fuses_as_if_there_were_no_ehr(self) -> None:
        batch = random_batch(Task.DISEASE_PROGRESSION)
        fusion = built(Task.DISEASE_PROGRESSION).fusion.local_fusion
        assert fusion is not None
        D, E_global = torch.randn(4, 10, 16), torch.randn(*batch.ehr_valid.shape, 16)
        nowhere = replace(batch, pair_hours=batch.pair_hours + 1000)
        no_ehr = replace(batch, ehr_valid=torch.zeros_like(batch.ehr_valid))
        expected = fusion(D, E_global, Intervals.of(no_ehr))
        torch.testing.assert_close(fusion(D, E_global, Intervals.of(nowhere)), expected)
        assert not torch.allclose(fusion(D, E_global, Intervals.of(batch)), expected)

    def test_absent_regions(self) -> None:
        batch = random_batch(Task.DISEASE_PROGRESSION)
        absent = replace(
            batch,
            regions=torch.zeros_like(batch.regions),
            region_present=torch.zeros_like(batch.region_present),
        )
        dipro = build(configuration(Task.DISEASE_PROGRESSION), Task.DISEASE_PROGRESSION)
        total(dipro, dipro(absent), absent).backward()
        assert all(torch.isfinite(p.grad).all() for p in dipro.parameters())


class TestAblations:
    @EVERY
    def test_changes_the_model(self, task: Task, variant: str) -> None:
        full, ablated = configuration(task), configuration(task, variant)
        if variant == FULL or (variant == "temp" and not task.is_icu):
            assert ablated == full
            return
        batch = random_batch(task)
        one, other = built(task), built(task, variant)
        weights_differ = full.loss_weights() != ablated.loss_weights()
        parts_differ = one.state_dict().keys() != other.state_dict().keys()
        assert weights_differ or parts_differ
        if variant in ("orth", "temp", "pae-loss"):
            assert not parts_differ
            assert total(one, one(batch), batch) != total(other, other(batch), batch)
        else:
            assert parts_differ
            assert len(list(other.parameters())) < len(list(one.parameters()))

    @pytest.mark.parametrize(
        ("variant", "absent", "kept"),
        [
            ("std", "f_s", "f_d"),
            ("pae", "region_heads", "f_s"),
            ("mmf", "local_fusion", "static_fusion"),
            ("mmf", "global_fusion", "ehr_encoder"),
            ("local-only", "global_fusion", "f_te"),
            ("global-only", "local_fusion", "global_fusion"),
            ("global-only", "f_te", "ehr_encoder"),
            ("std+pae+mmf", "f_s", "f_d"),
        ],
    )
    def test_removed_parts_are_not_built(self, variant: str, absent: str, kept: str) -> None:
        names = " ".join(build(configuration(Task.MORTALITY, variant), Task.MORTALITY).state_dict())
        assert absent not in names
        assert kept in names

    def test_combined_names_equal_single_ones(self) -> None:
        config = DiPro.configure(Preset.PAPER, Task.MORTALITY)
        for combined in ("pae+mmf", "std+pae+mmf"):
            one_by_one = config
            for name in combined.split("+"):
                one_by_one = ABLATIONS[name].apply(one_by_one)
            assert ABLATIONS[combined].apply(config) == one_by_one

    def test_local_only_has_no_hour_tokens(self) -> None:
        batch = random_batch(Task.MORTALITY)
        outside = replace(batch, pair_hours=batch.pair_hours + 1000 * batch.pair_valid[..., None])
        dipro = built(Task.MORTALITY, "local-only")
        noise = replace(outside, ehr_values=torch.randn_like(outside.ehr_values))
        torch.testing.assert_close(dipro(noise).logits, dipro(outside).logits)

    def test_without_std_static_fusion_sees_demographics_only(self) -> None:
        batch = random_batch(Task.MORTALITY)
        dipro = built(Task.MORTALITY, "std")
        assert "static" not in dipro(batch, with_attention=True).attention
        other = replace(batch, demographics=batch.demographics + 1)
        assert not torch.allclose(dipro(other).logits, dipro(batch).logits)


class TestDisentanglement:
    def test_pairs_are_neighbours(self) -> None:
        F = torch.arange(3.0).view(1, 3, 1, 1).expand(2, 3, 10, 4)
        pair = film_pairs(F, Packing.of(torch.tensor([[True, True], [True, False]])))
        assert pair.shape == (3, 10, 8)
        assert pair[:, 0, 0].tolist() == [0, 1, 0]
        assert pair[:, 0, -1].tolist() == [1, 2, 1]

    def test_orthogonality_knows_its_ends(self) -> None:
        S = torch.randn(3, 10, 8)
        D = torch.zeros_like(S)
        D[..., 0], D[..., 1] = -S[..., 1], S[..., 0]
        orthogonal = torch.cat([S[..., :2], torch.zeros(3, 10, 6)], -1)
        assert losses.orthogonality(orthogonal, D) == pytest.approx(0, abs=1e-12)
        assert losses.orthogonality(S, -2 * S) == pytest.approx(1)

    def test_temporal_consistency_is_a_mean_over_valid_neighbours(self) -> None:
        S = torch.tensor([0.0, 1.0, 4.0]).view(1, 3, 1, 1).expand(2, 3, 10, 8)
        neighbours = torch.tensor([[True, True], [True, False]])
        mean = losses.temporal_consistency(S, Packing.of(neighbours))
        assert mean == pytest.approx((1 + 9 + 1) / 3)
        assert losses.temporal_consistency(S[:, :1], Packing.of(neighbours[:, :0])) == 0

    def test_temporal_term_is_zero_for_two_films(self) -> None:
        dipro = built(Task.DISEASE_PROGRESSION)
        assert dipro(random_batch(Task.DISEASE_PROGRESSION)).losses["temp"] == 0


class TestReversal:
    def test_swaps_the_halves_exactly(self) -> None:
        first, second = torch.randn(2, 3, 10, 8)
        pair = torch.cat([first, second], -1)
        assert torch.equal(reversed_pair(pair), torch.cat([second, first], -1))
        assert torch.equal(reversed_pair(reversed_pair(pair)), pair)

    def test_forward_of_swapped_films_is_reversed(self) -> None:
        std = Disentanglement(8, 0.1, static=True).eval()
        F = torch.randn(2, 2, 10, 8)
        valid = Packing.of(torch.ones(2, 1, dtype=torch.bool))
        S, D = std(reversed_pair(film_pairs(F, valid)))
        S_swapped, D_swapped = std(film_pairs(F.flip(1), valid))
        assert torch.equal(S, S_swapped)
        assert torch.equal(D, D_swapped)

    def test_interleaves_as_the_official_code(self) -> None:
        pair = torch.tensor([1.0, 2.0, 10.0, 20.0])
        assert reversed_pair(pair, "interleave").tolist() == [10, 1, 20, 2]
        batch = random_batch(Task.MORTALITY)
        swap = built(Task.MORTALITY)
        interleave = build(configuration(Task.MORTALITY, reversal="interleave"), Task.MORTALITY)
        interleave.load_state_dict(swap.state_dict())
        one, other = swap(batch), interleave.eval()(batch)
        assert torch.equal(one.logits, other.logits)
        assert one.losses["pae_static"] != other.losses["pae_static"]

    def test_identical_films_look_the_same_backwards(self) -> None:
        dipro = built(Task.MORTALITY)
        F = torch.randn(2, 1, 10, 16).expand(-1, 2, -1, -1)
        pair = film_pairs(F, Packing.of(torch.ones(2, 1, dtype=torch.bool)))
        for forward, backward in zip(dipro.std(pair), dipro.std(reversed_pair(pair)), strict=True):
            assert torch.equal(forward, backward)

    def test_a_symmetric_projection_looks_the_same_backwards(self) -> None:
        std = Disentanglement(8, 0.1, static=True).eval()
        for f in (std.f_s, std.f_d):
            assert f is not None
            linear = f[0]
            assert isinstance(linear, nn.Linear)
            linear.weight.data[:, 8:] = linear.weight.data[:, :8]
        pair = torch.randn(3, 10, 16)
        for forward, backward in zip(std(pair), std(reversed_pair(pair)), strict=True):
            torch.testing.assert_close(forward, backward)

    def test_labels_swap(self) -> None:
        labels = torch.tensor([*Progression, NOT_MENTIONED])
        worsened, improved, no_change = Progression
        expected = [improved, worsened, no_change, NOT_MENTIONED]
        assert reversed_labels(labels).tolist() == expected
        assert reversed_labels(labels).dtype == torch.int64
        assert torch.equal(reversed_labels(reversed_labels(labels)), labels)

    def test_dynamic_loss_does_not_mind_which_way_is_forward(self) -> None:
        batch = random_batch(Task.DISEASE_PROGRESSION)
        assert batch.targets is not None
        targets = replace(
            batch.targets, region_progression=reversed_labels(batch.targets.region_progression)
        )
        backwards = replace(with_films_exchanged(batch), targets=targets)
        dipro = built(Task.DISEASE_PROGRESSION)
        torch.testing.assert_close(
            dipro(backwards).losses["pae_dynamic"], dipro(batch).losses["pae_dynamic"]
        )

    def test_dynamic_loss_of_certain_heads(self) -> None:
        labels = torch.randint(0, NOT_MENTIONED + 1, (3, 10, len(DISEASES)))
        logits = 50.0 * nn.functional.one_hot(labels, 4)[..., :3]
        back = 50.0 * nn.functional.one_hot(reversed_labels(labels), 4)[..., :3]
        weights = torch.ones(len(DISEASES), 3)
        assert losses.dynamic_progression(logits, back, labels, weights) < 1e-6
        assert losses.dynamic_progression(logits, logits, labels, weights) > 1
        blank = torch.full_like(labels, NOT_MENTIONED)
        assert losses.dynamic_progression(logits, back, blank, weights) == 0

    def test_static_target_gets_no_gradient(self) -> None:
        S, S_reversed = torch.randn(2, 3, 10, 8).unbind()
        S.requires_grad_()
        S_reversed.requires_grad_()
        loss = losses.static_reversal(S, S_reversed)
        loss.backward()
        assert S_reversed.grad is None
        assert loss.item() == pytest.approx((S - S_reversed).square().mean().item())

    def test_region_heads_are_one_per_disease(self) -> None:
        heads = RegionHeads(8)
        D = torch.randn(3, 10, 8)
        assert heads(D).shape == (3, 10, len(DISEASES), 3)
        torch.testing.assert_close(heads(D)[..., 4, :], heads[4](D))


class TestIntervals:
    def intervals(self, start: float, end: float, n_hours: int = 12) -> Intervals:
        hours = torch.arange(float(n_hours))[None]
        valid = hours < n_hours - 2
        bounds = torch.tensor([[start]]), torch.tensor([[end]])
        return Intervals(torch.tensor([0]), *bounds, hours, valid)

    def test_only_hours_inside_count_and_the_centre_most(self) -> None:
        attention = IntervalAttention(16, 8)
        nn.init.zeros_(attention.attention.in_proj_weight)
        weights = attention.weights(torch.randn(1, 12, 16), self.intervals(2.5, 7.0))[0]
        expected = torch.zeros(12)
        expected[3:8] = torch.tensor([-1.75, -0.75, -0.25, -1.25, -2.25]).softmax(0)
        torch.testing.assert_close(weights, expected)

    def test_ends_are_inside_and_padding_is_not(self) -> None:
        assert self.intervals(3.0, 5.0).inside[0].nonzero()[:, 0].tolist() == [3, 4, 5]
        assert self.intervals(8.0, 20.0).inside[0].nonzero()[:, 0].tolist() == [8, 9]

    def test_hours_outside_do_not_reach_the_output(self) -> None:
        attention, intervals = IntervalAttention(16, 8), self.intervals(3.0, 5.0)
        E_global = torch.randn(1, 12, 16)
        changed = torch.where(intervals.inside[..., None], E_global, torch.randn(1, 12, 16))
        torch.testing.assert_close(attention(changed, intervals), attention(E_global, intervals))
        E_global[:, 4] += 1
        assert not torch.allclose(attention(E_global, intervals), attention(changed, intervals))

    def test_shifting_time_changes_nothing(self) -> None:
        attention, E_global = IntervalAttention(16, 8), torch.randn(1, 12, 16)
        here = self.intervals(3.0, 5.0)
        later = dataclasses.replace(
            here, start=here.start + 32, end=here.end + 32, hours=here.hours + 32
        )
        torch.testing.assert_close(attention(E_global, later), attention(E_global, here))

    def test_an_empty_interval_gives_zero(self) -> None:
        attention, E_global = IntervalAttention(16, 8), torch.randn(1, 12, 16, requires_grad=True)
        nn.init.ones_(attention.attention.out_proj.bias)
        out = attention(E_global, self.intervals(3.2, 3.8))
        out.square().sum().backward()
        assert not out.any()
        assert E_global.grad is not None
        assert torch.isfinite(E_global.grad).all()

    def test_of_a_batch(self) -> None:
        batch = random_batch(Task.MORTALITY)
        intervals = Intervals.of(batch)
        pairs = [(b, p) for b in range(4) for p in range(3) if batch.pair_valid[b, p]]
        assert intervals.sample.tolist() == [b for b, _ in pairs]
        for row, (b, p) in enumerate(pairs):
            assert intervals.start[row] == batch.film_hours[b, p]
            assert intervals.end[row] == batch.film_hours[b, p + 1]
            assert torch.equal(intervals.hours[row], batch.ehr_hours[b])

    def test_times(self) -> None:
        times = self.intervals(3.0, 5.0).times[0]
        torch.testing.assert_close(
            times[4], torch.tensor([1.0, 1.0, torch.sigmoid(torch.tensor(1.0))])
        )
        assert times[11].tolist() == pytest.approx([8, -6, 0], abs=1e-6)


class TestAttentionMaps:
    @EVERY
    def test_shapes_and_masks(self, task: Task, variant: str) -> None:
        batch = random_batch(task)
        dipro = built(task, variant)
        output = dipro(batch, with_attention=True)
        assert torch.equal(output.logits, dipro(batch).logits)
        config, n_outputs = dipro.config, dipro.spec.n_outputs
        expected = {"dynamic"}
        expected |= {"static"} if config.std else set()
        expected |= {"interval"} if config.mmf and config.local_fusion else set()
        assert set(output.attention) == expected
        P, padding = batch.pair_valid.shape[1], ~batch.pair_valid
        for name in expected - {"interval"}:
            weights = output.attention[name]
            assert weights.shape == (4, n_outputs, P, len(REGIONS))
            assert not weights.transpose(1, 2)[padding].any()
            assert (weights.transpose(1, 2)[~padding] > 0).all()
            assert (weights.sum((-1, -2)) < 1).all()
        if "interval" in expected:
            weights = output.attention["interval"]
            assert weights.shape == (*batch.pair_valid.shape, batch.ehr_valid.shape[1])
            assert not weights[padding].any()
            has_hours = Intervals.of(batch).inside.any(-1).float()
            torch.testing.assert_close(weights[~padding].sum(-1), has_hours)

    def test_group_embedding_mixes(self) -> None:
        group = GroupEmbedding(16, 8)
        nn.init.zeros_(group.W)
        mean = group.G.mean(0).expand(2, 3, -1)
        torch.testing.assert_close(group(torch.randn(2, 3, 16)), mean)


class TestPaper:
    @pytest.mark.parametrize(
        ("task", "n"),
        [
            (Task.DISEASE_PROGRESSION, 29_558_890),
            (Task.MORTALITY, 29_750_102),
            (Task.LENGTH_OF_STAY, 25_063_385),
        ],
    )
    def test_size(self, task: Task, n: int) -> None:
        """The published model without its pad images (10 x 3 x 224 x 224) and two dead scalars."""
        config = replace(DiPro.configure(Preset.PAPER, task), weights="none")
        with torch.device("meta"):
            dipro = DiPro(config, TaskSpec(task, Cxr.LONG))
        assert sum(p.numel() for p in dipro.parameters()) == n

    @EVERY_TASK
    def test_configuration_is_published(self, task: Task) -> None:
        file = Path(__file__).parents[2] / "tables" / "paper" / "hyperparameters.csv"
        with file.open() as lines:
            rows = list(csv.DictReader(lines))
        published = {r["param"]: float(r["value"]) for r in rows if r["task"] == task}
        config = DiPro.configure(Preset.PAPER, task)
        for name in PAPER[task]:
            assert getattr(config, name) == published[name], name
        shared = {r["param"]: r["value"] for r in rows if r["task"] == "all"}
        assert config.dropout == float(shared["dropout"])
        assert config.group_embedding_k == int(shared["group_embedding_k"])
        assert config.n_heads == int(shared["heads"])
        recipe = DiPro.recipe(task)
        assert recipe["batch_size"] == published["batch_size"]
        scale = recipe["accumulation"] * recipe["batch_size"]
        assert recipe["lr"] == pytest.approx(published["base_lr"] * scale)

    @EVERY_TASK
    def test_smaller_presets_change_sizes_only(self, task: Task) -> None:
        paper = dataclasses.asdict(DiPro.configure(Preset.PAPER, task))
        assert (paper["backbone"], paper["weights"]) == ("resnet50", "imagenet")
        for preset in (Preset.DEMO, Preset.MEDIUM):
            smaller = dataclasses.asdict(DiPro.configure(preset, task))
            changed = {name for name in paper if paper[name] != smaller[name]}
            assert changed <= {"backbone", "weights", "d_model"}
