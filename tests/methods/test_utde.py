"""UTDE: size, the clock, what mTAND averages, the gate, missing parts. See test_contract."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.config import Request, resolve
from bench.contract import Preset, TaskSpec
from bench.data.batch import Batch
from bench.data.cohort import Cohort
from bench.data.vocabulary import Cxr, Task
from bench.errors import UserError
from bench.objective import task_loss
from methods.baselines.utde import (
    GATE_LEVELS,
    Gate,
    InterleavedFusion,
    MultiTimeAttention,
    TimeEmbedding,
    Utde,
    UtdeConfig,
    first_grid_hour,
)
from tests.methods.learning import learn
from tests.methods.random_batches import random_batch, without_ehr_of

EVERY_TASK = pytest.mark.parametrize("task", list(Task))
ICU, PAIRS = Task.MORTALITY, Task.DISEASE_PROGRESSION
TINY = UtdeConfig("small", "none", d_model=16, time_width=16, n_layers=2)


def build(task: Task = ICU, config: UtdeConfig = TINY, cxr: Cxr | None = None) -> Utde:
    torch.manual_seed(0)
    cxr = cxr or (Cxr.LONG if task.is_icu else Cxr.PAIR)
    return Utde(config, TaskSpec(task, cxr)).eval()


def batch_of(task: Task = ICU, seed: int = 0) -> Batch:
    return random_batch(task, size=0, film_size=32, seed=seed)


def without_films(batch: Batch, row: int | slice = slice(None), after: int = 0) -> Batch:
    valid = batch.film_valid.clone()
    valid[row, after:] = False
    return replace(batch, film_valid=valid)


def later(batch: Batch, hours: float, films_only: bool = False) -> Batch:
    moved = replace(batch, film_hours=batch.film_hours + hours)
    return moved if films_only else replace(moved, ehr_hours=batch.ehr_hours + hours)


def same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def attentive(method: Utde) -> Utde:
    """The method with attention over time that is not nearly flat, as it is when drawn."""
    for part in (method.time.periodic, method.film_grid.to_query, method.film_grid.to_key):
        nn.init.normal_(part.weight)
    return method


def interpolated(method: Utde, batch: Batch) -> Tensor:
    return method.ehr.interpolated(method.time(method.grid_tau), times_of(method, batch), batch)


def times_of(method: Utde, batch: Batch) -> Tensor:
    return method.time(place_of(method, batch) / 48)


def place_of(method: Utde, batch: Batch) -> Tensor:
    first = first_grid_hour(batch, method.spec.task, method.config.n_grid)
    return batch.ehr_hours - first[:, None]


class TestSize:
    @pytest.mark.parametrize(
        ("d", "n_parameters"),
        [(64, 1_600_790), (128, 4_135_062), (256, 12_054_422), (320, 17_439_510)],
    )
    def test_of_all_but_the_backbone(self, d: int, n_parameters: int) -> None:
        # 49 grid points, and films 2048 wide, as of a ResNet-50.
        config = replace(UtdeConfig("small", "none"), d_model=d, n_grid=49)
        method = build(PAIRS, config)
        small = sum(p.numel() for p in method.films.parameters())
        wider = 8 * d * (2048 - method.films.width)
        assert sum(p.numel() for p in method.parameters()) - small + wider == n_parameters

    @pytest.mark.slow
    def test_of_the_paper(self) -> None:
        config = replace(Utde.configure(Preset.PAPER, PAIRS), weights="none", n_grid=49)
        n_parameters = sum(p.numel() for p in build(PAIRS, config).parameters())
        assert n_parameters == 4_135_062 + 23_508_032

    @pytest.mark.slow
    def test_two_films_cost_what_two_backbones_do(self) -> None:
        # The paper's 1.61 G fits no ResNet-50, of which two cost 8.17 G; see the fusion's share.
        config = replace(Utde.configure(Preset.PAPER, PAIRS), weights="none")
        batch = random_batch(PAIRS, n=1, size=0, film_size=224)
        method = build(PAIRS, config)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            method(batch)
        film_grid = 48 * method.film_grid.out.weight.numel()
        assert 8.17e9 + film_grid < counter.get_total_flops() / 2 < 8.6e9

    def test_presets_change_sizes_only(self) -> None:
        paper = Utde.configure(Preset.PAPER, ICU)
        assert paper == UtdeConfig()
        for preset in (Preset.DEMO, Preset.MEDIUM):
            small = Utde.configure(preset, ICU)
            assert (small.dropout, small.gate, small.n_grid) == (0.1, "batch", 48)
            assert small.d_model < paper.d_model

    @pytest.mark.parametrize("name", ["d_model", "time_width", "n_heads", "n_layers", "n_grid"])
    def test_refuses_bad_sizes(self, name: str) -> None:
        with pytest.raises(UserError, match=rf"model\.{name} is 0"):
            replace(TINY, **{name: 0})  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", ["d_model", "time_width"])
    def test_refuses_widths_that_heads_cannot_share(self, name: str) -> None:
        with pytest.raises(UserError, match=rf"model\.{name} is 20, .* multiple of .*8"):
            replace(TINY, **{name: 20})  # type: ignore[arg-type]

    def test_refuses_an_unknown_gate(self) -> None:
        with pytest.raises(UserError, match=r"model\.gate"):
            replace(TINY, gate="sequence")

    def test_its_own_recipe_is_a_training_configuration(self) -> None:
        training = resolve(
            Request("methods.baselines.utde:Utde", ICU, Cxr.LONG, 1, recipe="reference")
        ).training
        assert (training.lr, training.schedule) == (4e-4, "constant")
        assert training.batch_size * training.accumulation == 32

    def test_hours_beyond_the_grid_are_remarked(self, cohort: Cohort) -> None:
        longest = int(cohort.stays["n_hours"].max())
        (remark,) = build(config=replace(TINY, n_grid=longest - 1)).remarks(cohort)
        assert f"--set model.n_grid={longest}" in remark
        assert build(config=replace(TINY, n_grid=longest)).remarks(cohort) == []
        assert build(PAIRS, replace(TINY, n_grid=1)).remarks(cohort) == []

    def test_declines_what_does_not_join_two_modalities(self) -> None:
        assert "ehr_transformer" in (Utde.decline(ICU, Cxr.NONE, True) or "")
        assert Utde.decline(ICU, Cxr.LONG, False)
        for task, cxr in ((ICU, Cxr.LAST), (ICU, Cxr.LONG), (PAIRS, Cxr.PAIR)):
            assert Utde.decline(task, cxr, True) is None


class TestClock:
    def test_icu_grid_points_are_the_hours_of_the_window(self) -> None:
        method, batch = build(), batch_of()
        assert torch.equal(method.grid_tau, torch.arange(48) / 48)
        assert not first_grid_hour(batch, ICU, 48).any()

    def test_a_pairs_last_point_is_its_last_row(self) -> None:
        batch = batch_of(PAIRS)
        last_row = batch.ehr_hours.masked_fill(~batch.ehr_valid, -1).amax(1)
        assert torch.equal(first_grid_hour(batch, PAIRS, 48) + 47, last_row)

    def test_a_pair_without_ehr_ends_in_the_hour_of_its_second_film(self) -> None:
        batch = without_ehr_of(batch_of(PAIRS), 1)
        assert first_grid_hour(batch, PAIRS, 48)[1] + 47 == batch.film_hours[1, 1].floor()
        nothing = without_films(batch, row=1)
        assert first_grid_hour(nothing, PAIRS, 48)[1] + 47 == 0

    def test_imputed_rows_lie_on_their_hours(self) -> None:
        method, batch = build(PAIRS), batch_of(PAIRS)
        rows = method.ehr.imputed_rows(place_of(method, batch), batch)
        expected = torch.cat([batch.ehr_values, batch.ehr_observed.float()], -1)
        for i, n_hours in enumerate(batch.ehr_valid.sum(1).tolist()):
            assert torch.equal(rows[i, 48 - n_hours :], expected[i, :n_hours])
            assert not rows[i, : 48 - n_hours].any()

    def test_rows_before_the_grid_reach_the_interpolation_only(self) -> None:
        method = build(PAIRS, replace(TINY, n_grid=6))
        batch = batch_of(PAIRS)
        first_row = batch.ehr_values.clone()
        first_row[:, 0] += 3
        changed = replace(batch, ehr_values=first_row)
        place = place_of(method, batch)
        assert (place[:, 0] < 0).all()
        rows = method.ehr.imputed_rows
        assert torch.equal(rows(place, changed), rows(place, batch))
        assert not same(interpolated(method, changed), interpolated(method, batch))

    @pytest.mark.parametrize("hours", [1, 3.5, 200])
    def test_a_pairs_admission_does_not_matter(self, hours: float) -> None:
        method, batch = build(PAIRS), batch_of(PAIRS)
        # Hours since admission are known to 1e-5 when they are in the hundreds.
        shifted = method(later(batch, hours)).logits
        torch.testing.assert_close(shifted, method(batch).logits, rtol=1e-4, atol=1e-5)

    def test_films_that_come_later_than_the_ehr_matter(self) -> None:
        method, batch = attentive(build(PAIRS)), batch_of(PAIRS)
        logits = method(later(batch, 12, films_only=True)).logits
        assert not same(logits, method(batch).logits)

    @EVERY_TASK
    def test_gap_between_films_matters(self, task: Task) -> None:
        method, batch = attentive(build(task)), batch_of(task)
        hours = batch.film_hours.clone()
        hours[:, 0] -= 20
        assert not same(method(replace(batch, film_hours=hours)).logits, method(batch).logits)


class Interpolation:
    """One sample's rows, seen by four heads whose queries and keys are far from alike."""

    def __init__(self, n_rows: int, n_channels: int) -> None:
        torch.manual_seed(1)
        phi = TimeEmbedding(16)
        self.attention = MultiTimeAttention(16, n_channels, 8, n_heads=4).eval()
        for layer in (phi.periodic, self.attention.to_query, self.attention.to_key):
            nn.init.normal_(layer.weight)
        self.grid = phi(torch.linspace(0, 1, 5)).detach()
        self.times = phi(torch.linspace(0, 1, n_rows)[None]).detach()

    def average(self, z: Tensor, seen: Tensor) -> Tensor:
        return self.attention.average(self.grid, self.times, z * seen, seen).detach()

    def logits(self, head: int) -> Tensor:
        here = slice(4 * head, 4 * head + 4)
        q = self.attention.to_query(self.grid)[:, here]
        return q @ self.attention.to_key(self.times[0])[:, here].T / math.sqrt(4)


class TestInterpolation:
    def test_is_a_softmax_per_channel_over_its_seen_rows(self) -> None:
        part, z, seen = Interpolation(7, 3), torch.randn(1, 7, 3), torch.rand(1, 7, 3) > 0.4
        u = part.average(z, seen)
        for head in range(4):
            for c in range(3):
                rows = seen[0, :, c]
                expected = part.logits(head)[:, rows].softmax(-1) @ z[0, rows, c]
                torch.testing.assert_close(u[0, head, :, c], expected, rtol=1e-4, atol=1e-5)
        assert u.std(dim=1).max() > 0.1
        assert u.std(dim=2).max() > 0.1

    def test_lies_within_what_was_seen_and_keeps_constants(self) -> None:
        part, z, seen = Interpolation(9, 4), torch.randn(1, 9, 4), torch.rand(1, 9, 4) > 0.4
        z[..., 3] = 2.5
        u = part.average(z, seen)
        for c in range(4):
            values = z[0, seen[0, :, c], c]
            assert values.min() - 1e-5 < u[..., c].min()
            assert u[..., c].max() < values.max() + 1e-5
        torch.testing.assert_close(u[..., 3], torch.full_like(u[..., 3], 2.5))

    def test_a_channel_that_was_never_seen_is_zero(self) -> None:
        part, seen = Interpolation(7, 2), torch.ones(1, 7, 2, dtype=torch.bool)
        seen[..., 1] = False
        u = part.average(torch.randn(1, 7, 2), seen)
        assert u[..., 0].all()
        assert not u[..., 1].any()

    def test_one_mask_for_all_channels(self) -> None:
        part, z, seen = Interpolation(7, 3), torch.randn(1, 7, 3), torch.rand(1, 7, 1) > 0.4
        torch.testing.assert_close(part.average(z, seen), part.average(z, seen.repeat(1, 1, 3)))

    def test_a_row_of_little_weight_overflows_nothing(self) -> None:
        # Seen is only a row whose weight underflows beside that of the other.
        part, z = Interpolation(2, 2), torch.ones(1, 2, 2)
        nn.init.normal_(part.attention.to_key.weight, std=200)
        seen = torch.tensor([[[True, False], [False, True]]])
        u = part.attention.average(part.grid, part.times, z * seen, seen)
        u.sum().backward()
        assert torch.isfinite(u).all()
        assert torch.isfinite(part.attention.to_key.weight.grad).all()  # type: ignore[arg-type]

    def test_imputed_values_do_not_enter(self) -> None:
        method, batch = build(), batch_of()
        garbage = torch.where(batch.ehr_observed, batch.ehr_values, 7.0)
        changed = replace(batch, ehr_values=garbage)
        assert torch.equal(interpolated(method, changed), interpolated(method, batch))
        rows = [method.ehr.imputed_rows(place_of(method, b), b) for b in (changed, batch)]
        assert not same(*rows)

    def test_mask_half_says_whether_a_variable_was_ever_charted(self) -> None:
        method, batch = build(), batch_of()
        observed = batch.ehr_observed.clone()
        observed[0, :, 5] = observed[2] = False
        batch = replace(batch, ehr_observed=observed)
        seen: dict[str, Tensor] = {}
        method.ehr.interpolate.out.register_forward_pre_hook(
            lambda _, args: seen.update(u=args[0].unflatten(-1, (8, 2, 38)))
        )
        interpolated(method, batch)
        mask_half = seen["u"][..., 1, :]
        expected = observed.any(1)[:, None, None].float().expand_as(mask_half)
        torch.testing.assert_close(mask_half, expected, rtol=0, atol=1e-6)

    def test_is_in_float32_whatever_the_precision(self) -> None:
        part, z = Interpolation(5, 2), torch.randn(1, 5, 2)
        seen = torch.ones(1, 5, 2, dtype=torch.bool)
        with torch.autocast("cpu", torch.bfloat16):
            u = part.average(z, seen)
        assert torch.equal(u, part.average(z, seen))


class TestGate:
    @pytest.mark.parametrize(
        ("level", "shape"),
        [
            ("batch", (2, 1, 1)),
            ("batch_seq", (2, 6, 1)),
            ("batch_seq_feature", (2, 6, 16)),
        ],
    )
    def test_shape_and_range(self, level: str, shape: tuple[int, ...]) -> None:
        g = Gate(16, level, 0.1).eval()(torch.randn(2, 6, 16), torch.randn(2, 6, 16))
        assert g.shape == shape
        assert ((g > 0) & (g < 1)).all()

    @pytest.mark.parametrize("level", GATE_LEVELS)
    def test_chooses_between_the_two_embeddings(self, level: str) -> None:
        method, batch = build(config=replace(TINY, gate=level)), batch_of()
        part, place = method.ehr, place_of(method, batch)
        E_attn, E_imp = interpolated(method, batch), part.impute(part.imputed_rows(place, batch))
        last = part.gate.mlp[-1]
        assert isinstance(last, nn.Linear)
        for bias, expected in ((1e3, E_attn), (-1e3, E_imp)):
            nn.init.constant_(last.bias, bias)
            E_ts = part(method.time(method.grid_tau), times_of(method, batch), place, batch)
            torch.testing.assert_close(E_ts, expected)

    def test_of_a_sample_sees_every_hour_of_both(self) -> None:
        gate = Gate(16, "batch", 0.1).eval()
        quiet = torch.zeros(1, 6, 16)
        loud = quiet.clone()
        loud[0, 2] = 3
        gates = {gate(*pair).item() for pair in ((loud, quiet), (quiet, loud), (quiet, quiet))}
        assert len(gates) == 3


class TestFusion:
    def test_modalities_read_each_other_as_they_were(self) -> None:
        torch.manual_seed(0)
        layer = InterleavedFusion(TINY).eval().layers[0]
        cxr, ts = torch.randn(2, 3, 5, 16)
        one, other = layer(cxr, ts)
        layer.cxr, layer.ts = layer.ts, layer.cxr
        swapped = layer(ts, cxr)
        assert torch.equal(swapped[0], other)
        assert torch.equal(swapped[1], one)

    def test_reads_the_last_grid_points(self) -> None:
        torch.manual_seed(0)
        fusion = InterleavedFusion(replace(TINY, n_grid=5)).eval()
        E_cxr, E_ts = torch.randn(2, 3, 5, 16)
        cxr, ts = (4 * E + fusion.positions for E in (E_cxr, E_ts))
        for layer in fusion.layers:
            cxr, ts = layer(cxr, ts)
        expected = [fusion.cxr_norm(cxr)[:, -1], fusion.ts_norm(ts)[:, -1]]
        torch.testing.assert_close(fusion(E_cxr, E_ts), torch.cat(expected, dim=-1))


class TestFilms:
    @pytest.mark.parametrize("cxr", [Cxr.LONG, Cxr.LAST])
    def test_one_film_has_no_time(self, cxr: Cxr) -> None:
        method, batch = build(cxr=cxr), without_films(batch_of(), after=1)
        E_cxr, _ = method.on_grid(batch)
        torch.testing.assert_close(E_cxr, E_cxr[:, :1].expand_as(E_cxr))
        earlier = replace(batch, film_hours=batch.film_hours / 2)
        torch.testing.assert_close(method(earlier).logits, method(batch).logits)

    def test_every_point_of_one_film_is_its_projection(self) -> None:
        method, batch = build(cxr=Cxr.LAST), without_films(batch_of(), after=1)
        f = method.films(batch.films[:, 0])
        E_cxr, _ = method.on_grid(batch)
        torch.testing.assert_close(E_cxr[:, 7], method.film_grid.out(f.repeat(1, 8)))

    def test_with_the_last_film_only_no_query_is_trained(self) -> None:
        for cxr, trained in ((Cxr.LAST, False), (Cxr.LONG, True)):
            grid = build(cxr=cxr).film_grid
            parts = (*grid.to_query.parameters(), *grid.to_key.parameters())
            assert all(p.requires_grad is trained for p in parts)

    def test_exchanging_two_films_matters(self) -> None:
        method, batch = attentive(build(PAIRS)), batch_of(PAIRS)
        exchanged = method(replace(batch, films=batch.films.flip(1))).logits
        assert not same(exchanged, method(batch).logits)

    def test_larger_films_are_averaged_down(self) -> None:
        batch = batch_of()
        large = batch.films.repeat_interleave(2, -1).repeat_interleave(2, -2)
        method = build(config=replace(TINY, max_film_size=32))
        torch.testing.assert_close(method(replace(batch, films=large)).logits, method(batch).logits)


class TestMissing:
    def test_without_ehr_the_two_embeddings_are_empty(self) -> None:
        method, batch = build(), without_ehr_of(batch_of(), 1)
        E_attn = interpolated(method, batch)
        bias = method.ehr.interpolate.out.bias
        torch.testing.assert_close(E_attn[1], bias.expand_as(E_attn[1]))
        assert not method.ehr.imputed_rows(place_of(method, batch), batch)[1].any()
        assert same(interpolated(method, batch_of())[0], E_attn[0])

    @EVERY_TASK
    @pytest.mark.parametrize("without", ["ehr", "films", "both", "ehr of all, hours cut"])
    def test_logits_and_gradients_stay_finite(self, task: Task, without: str) -> None:
        batch = batch_of(task)
        if without in ("ehr", "both"):
            batch = without_ehr_of(batch, 1)
        if without in ("films", "both"):
            batch = without_films(batch, row=1)
        if without.endswith("cut"):
            names = ("ehr_values", "ehr_observed", "ehr_hours", "ehr_valid")
            batch = replace(batch, **{name: getattr(batch, name)[:, :0] for name in names})
        method = build(task).train()
        logits = method(batch).logits
        logits.square().sum().backward()
        assert torch.isfinite(logits).all()
        grads = [p.grad for p in method.parameters() if p.grad is not None]
        assert all(torch.isfinite(grad).all() for grad in grads)

    def test_no_film_at_all(self) -> None:
        method, batch = build(), without_films(batch_of())
        logits = method(batch).logits
        white = replace(batch, films=torch.full_like(batch.films, 255))
        assert torch.equal(method(white).logits, logits)
        logits.sum().backward()
        assert all(p.grad is None or not p.grad.any() for p in method.films.parameters())
        assert torch.equal(method.on_grid(batch)[0][1, 3], method.film_grid.out.bias)


class TestOptions:
    def test_demographics_can_be_left_out(self) -> None:
        batch = batch_of()
        older = replace(batch, demographics=batch.demographics + 1)
        plain, wider = build(config=replace(TINY, use_demographics=False)), build()
        assert torch.equal(plain(older).logits, plain(batch).logits)
        assert not same(wider(older).logits, wider(batch).logits)
        assert plain.readout.out.in_features == 2 * TINY.d_model

    @pytest.mark.parametrize("level", GATE_LEVELS)
    def test_gradients_reach_every_part(self, level: str) -> None:
        config = replace(TINY, dropout=0.0, gate=level)
        method, batch = build(PAIRS, config), batch_of(PAIRS)
        assert batch.targets is not None
        task_loss(PAIRS, method(batch).logits, batch.targets, torch.ones(7, 3)).backward()
        silent = [n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()]
        assert not silent
        positions = method.fusion.positions.grad
        assert positions is not None
        assert positions[0].any()

    @EVERY_TASK
    def test_loss_of_zero_logits(self, task: Task) -> None:
        method, batch = build(task), batch_of(task)
        nn.init.zeros_(method.readout.out.weight)
        nn.init.zeros_(method.readout.out.bias)
        assert batch.targets is not None
        loss = task_loss(task, method(batch).logits, batch.targets, torch.ones(7, 3))
        expected = {PAIRS: 7 * math.log(3), Task.MORTALITY: math.log(2)}
        assert loss.item() == pytest.approx(expected.get(task, math.log(4)), rel=1e-5)


class TestPlantedTruth:
    """Order in time is all that tells the samples apart."""

    def learn(self, batch: Batch, labels: Tensor, n_steps: int) -> float:
        """Train on one batch; return the last mean loss."""
        method = build(config=replace(TINY, n_layers=1, n_grid=12, dropout=0.0))
        return learn(method, batch, labels, 1e-2, n_steps)

    def batch(self) -> tuple[Batch, Tensor]:
        """Sixteen stays with 12 uncharted hours and two grey films; half are to be told apart."""
        batch = random_batch(ICU, n=16, size=0, film_size=16)
        films = torch.full_like(batch.films[:, :2], 40)
        changes: dict[str, Any] = {
            "ehr_values": torch.zeros(16, 12, 38),
            "ehr_observed": torch.zeros(16, 12, 38, dtype=torch.bool),
            "ehr_hours": torch.arange(12.0).expand(16, -1),
            "ehr_valid": torch.ones(16, 12, dtype=torch.bool),
            "films": films,
            "film_valid": torch.ones(16, 2, dtype=torch.bool),
            "film_hours": torch.tensor([1.0, 10.0]).expand(16, -1),
            "demographics": torch.zeros_like(batch.demographics),
        }
        return replace(batch, **changes), torch.arange(16) % 2 == 0

    def test_finds_when_a_variable_was_high(self) -> None:
        batch, late = self.batch()
        batch.ehr_values[late, -3:, 3] = batch.ehr_values[~late, :3, 3] = 2.0
        batch.ehr_observed[..., 3] = True
        assert self.learn(batch, late.float(), n_steps=40) < 0.1

    def test_finds_in_which_film_a_mark_is(self) -> None:
        batch, late = self.batch()
        batch.films[late, 1, 4:9], batch.films[~late, 0, 4:9] = 220, 220
        assert self.learn(batch, late.float(), n_steps=120) < 0.1
