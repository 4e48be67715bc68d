"""UMSE: size, the set, the clock, bottlenecks, missing parts, the head. See test_contract."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.config import Request, resolve
from bench.contract import Preset, TaskSpec
from bench.contract_checks import without_dropout
from bench.data.batch import Batch
from bench.data.vocabulary import Cxr, Task
from bench.errors import UserError
from bench.objective import task_loss
from methods.baselines.umse import (
    Block,
    HeadBatchNorm,
    Projection,
    Umse,
    UmseConfig,
    exchange,
    last_hour,
    newest_observations,
)
from tests.methods.random_batches import HOUR_AXIS, random_batch, take, without_ehr_of

EVERY_TASK = pytest.mark.parametrize("task", list(Task))
ICU, PAIRS = Task.MORTALITY, Task.DISEASE_PROGRESSION
TINY = UmseConfig("small", "none", d_model=16, n_layers=3)
FILM_AXIS = ("films", "film_hours", "film_valid")
EVERYTHING = slice(None)


def build(task: Task = ICU, ehr: bool = True, **changes: Any) -> Umse:
    torch.manual_seed(0)
    cxr = Cxr.LONG if task.is_icu else Cxr.PAIR
    return settled(Umse(replace(TINY, **changes), TaskSpec(task, cxr, ehr)))


def settled(method: Umse) -> Umse:
    """In evaluation mode, with the batch statistics of `batch_of`: else films hardly count."""
    for module in without_dropout(method).modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        method(batch_of(method.spec.task, method.spec.ehr))
    return method.eval()


def head_statistics(method: Umse) -> Tensor:
    norm = method.readout.head[1]
    assert isinstance(norm, HeadBatchNorm)
    assert norm.running_mean is not None
    return norm.running_mean.clone()


def batch_of(task: Task = ICU, ehr: bool = True, seed: int = 0) -> Batch:
    return random_batch(task, size=0, film_size=32, ehr=ehr, seed=seed)


def without_films(batch: Batch, row: int | slice = EVERYTHING) -> Batch:
    valid = batch.film_valid.clone()
    valid[row] = False
    return replace(batch, film_valid=valid)


def without_ehr(batch: Batch) -> Batch:
    return replace(batch, ehr_valid=torch.zeros_like(batch.ehr_valid))


def with_other_films(batch: Batch, row: int | slice = EVERYTHING) -> Batch:
    films = batch.films.clone()
    films[row] = 255 - films[row]
    return replace(batch, films=films)


def with_other_values(batch: Batch) -> Batch:
    return replace(batch, ehr_values=batch.ehr_values + 1)


def moves(method: Umse, batch: Batch, other: Batch) -> bool:
    return not torch.allclose(method(other).logits, method(batch).logits, rtol=1e-4, atol=1e-5)


def loss_of(method: Umse, batch: Batch) -> Tensor:
    assert batch.targets is not None
    return task_loss(method.spec.task, method(batch).logits, batch.targets, torch.ones(7, 3))


def silent_parts(method: Umse) -> list[str]:
    return [n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()]


def planted(where: str, n: int, seed: int) -> Batch:
    """Mortality is what makes every film brighter, or all of one variable higher."""
    batch = random_batch(ICU, n, seed, size=0, film_size=32)
    assert batch.targets is not None
    died = batch.targets.mortality
    if where == "films":
        shown = batch.films // 2 + 100 * died.to(torch.uint8)[:, None, None, None]
        return replace(batch, films=shown)
    values = batch.ehr_values.clone()
    values[..., 6] += 4 * died[:, None] - 2
    return replace(batch, ehr_values=values)


class TestSize:
    @pytest.mark.parametrize(
        ("d", "n_parameters"),
        [(64, 650_005), (128, 2_307_605), (256, 8_645_653), (320, 13_326_101)],
    )
    def test_of_all_but_the_backbone(self, d: int, n_parameters: int) -> None:
        # Films 2048 wide, as of a ResNet-50.
        method = build(PAIRS, d_model=d, n_layers=6)
        images = method.embed.films.images
        wider = d * (2048 - images.width)
        small = sum(p.numel() for p in images.parameters())
        assert sum(p.numel() for p in method.parameters()) - small + wider == n_parameters

    def test_of_a_layer(self) -> None:
        d = 12
        assert sum(p.numel() for p in Block(d, 4, 0.1).parameters()) == 11 * d**2 + 12 * d

    @pytest.mark.slow
    def test_of_the_published_configuration(self) -> None:
        config = replace(Umse.configure(Preset.PAPER, PAIRS), weights="none")
        method = Umse(config, TaskSpec(PAIRS, Cxr.PAIR))
        assert sum(p.numel() for p in method.parameters()) == 8_645_653 + 23_508_032

    @pytest.mark.slow
    def test_two_films_cost_what_two_backbones_do(self) -> None:
        # Table 9 has 8.27 G: two ResNet-50 at 4.087 G, and 0.013 G to project their places.
        config = UmseConfig(weights="none", d_model=64)
        method = Umse(config, TaskSpec(PAIRS, Cxr.PAIR)).eval()
        batch = random_batch(PAIRS, n=1, size=0, film_size=224)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            method(batch)
        assert 8.17e9 + 2 * 49 * 2048 * 64 < counter.get_total_flops() / 2 < 8.5e9

    def test_presets_change_sizes_and_the_clock_only(self) -> None:
        paper = Umse.configure(Preset.PAPER, ICU)
        assert paper == UmseConfig()
        kept = ("dropout", "n_bottlenecks", "film_tokens", "readout", "head_norm")
        for preset in (Preset.DEMO, Preset.MEDIUM):
            small = Umse.configure(preset, ICU)
            assert all(getattr(small, name) == getattr(paper, name) for name in kept)
            assert small.d_model < paper.d_model
            assert (paper.time_unit_hours, small.time_unit_hours) == (1, 24)

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("n_layers", 0, "model.n_layers is 0"),
            ("max_observations", 0, "model.max_observations is 0"),
            ("n_bottlenecks", -1, "model.n_bottlenecks is -1"),
            ("time_unit_hours", 0.0, "model.time_unit_hours is 0"),
            ("d_model", 18, "model.d_model is 18, .* multiple of model.n_heads"),
            ("film_tokens", "patches", "model.film_tokens is 'patches'"),
            ("readout", "cls", "model.readout is 'cls'"),
            ("head_norm", "group", "model.head_norm is 'group'"),
        ],
    )
    def test_refuses_bad_values(self, field: str, value: Any, message: str) -> None:
        with pytest.raises(UserError, match=message):
            replace(TINY, **{field: value})

    def test_its_own_recipe_is_a_training_configuration(self) -> None:
        request = Request("methods.baselines.umse:Umse", ICU, Cxr.LONG, 1, recipe="reference")
        training = resolve(request).training
        assert (training.lr, training.weight_decay, training.batch_size) == (8e-5, 1e-6, 64)

    def test_declines_what_has_no_films(self) -> None:
        assert "ehr_transformer" in (Umse.decline(ICU, Cxr.NONE, True) or "")
        for task, cxr in ((ICU, Cxr.LAST), (ICU, Cxr.LONG), (PAIRS, Cxr.PAIR)):
            assert Umse.decline(task, cxr, True) is None
            assert Umse.decline(task, cxr, False) is None


class TestSet:
    def test_holds_the_charted_values_newest_first(self) -> None:
        batch = batch_of()
        seen = newest_observations(batch, 10_000)
        for row in range(len(batch)):
            charted = (batch.ehr_observed[row] & batch.ehr_valid[row, :, None]).nonzero().tolist()
            expected = {
                (batch.ehr_hours[row, i].item(), v, batch.ehr_values[row, i, v].item())
                for i, v in charted
            }
            valid = seen.valid[row]
            elements = [x[row][valid].tolist() for x in (seen.hour, seen.variable, seen.value)]
            assert set(zip(*elements, strict=True)) == expected
            assert len(elements[0]) == len(expected)
            assert elements[0] == sorted(elements[0], reverse=True)

    def test_keeps_the_newest_at_the_cap(self) -> None:
        batch = take(batch_of(), [0])
        n = int((batch.ehr_observed & batch.ehr_valid[..., None]).sum())
        full = newest_observations(batch, n)
        assert full.valid.shape == (1, n)
        assert full.valid.all()
        cut = newest_observations(batch, 100)
        assert cut.valid.shape == (1, 100)
        assert torch.equal(cut.value, full.value[:, :100])
        assert cut.hour.min() >= full.hour[:, 100:].max()

    def test_is_empty_without_charting(self) -> None:
        batch = batch_of()
        assert newest_observations(without_ehr(batch), 1000).valid.shape == (len(batch), 0)

    def test_order_means_nothing(self) -> None:
        method, batch = build(), batch_of()
        hours = torch.randperm(12)  # valid in every sample
        order = torch.cat([hours, torch.arange(12, batch.ehr_valid.shape[1])])
        shuffled = {name: getattr(batch, name)[:, order] for name in HOUR_AXIS}
        assert not moves(method, batch, replace(batch, **shuffled))
        backwards = {name: getattr(batch, name).flip(1) for name in FILM_AXIS}
        assert not moves(method, batch, replace(batch, **backwards))

    @EVERY_TASK
    def test_films_that_trade_hours_are_others(self, task: Task) -> None:
        # In days: hours as published hardly differ beyond a dozen.
        method, batch = build(task, ehr=False, time_unit_hours=24.0), batch_of(task, ehr=False)
        films = batch.films[:, [1, 0, *range(2, batch.films.shape[1])]]
        assert moves(method, batch, replace(batch, films=films))

    def test_imputed_values_are_not_read(self) -> None:
        method, batch = build(), batch_of()
        imputed = torch.where(batch.ehr_observed, batch.ehr_values, 99.0)
        assert torch.equal(method(replace(batch, ehr_values=imputed)).logits, method(batch).logits)

    def test_a_charted_zero_is_an_element(self) -> None:
        method, batch = build(), batch_of()
        values, without, charted = (
            x.clone() for x in (batch.ehr_values, batch.ehr_observed, batch.ehr_observed)
        )
        values[:, 0, 6], without[:, 0, 6], charted[:, 0, 6] = 0, False, True
        batch = replace(batch, ehr_values=values, ehr_observed=without)
        assert moves(method, batch, replace(batch, ehr_observed=charted))

    def test_tells_variables_apart(self) -> None:
        method, batch = build(), batch_of()
        swapped = {
            name: getattr(batch, name)[..., [1, 0, *range(2, 38)]]
            for name in ("ehr_values", "ehr_observed")
        }
        assert moves(method, batch, replace(batch, **swapped))

    @pytest.mark.parametrize(("film_tokens", "n_tokens"), [("patch", 4), ("pooled", 1)])
    def test_a_film_is_the_places_of_its_map(self, film_tokens: str, n_tokens: int) -> None:
        method, batch = build(film_tokens=film_tokens), batch_of()
        _, films = method.modalities(batch)
        n_films = batch.film_valid.shape[1]
        assert films.tokens.shape == (len(batch), n_tokens * n_films, 16)
        assert torch.equal(films.valid.sum(dim=1), n_tokens * batch.film_valid.sum(dim=1))

    def test_reads_no_film_beyond_the_largest_size(self) -> None:
        batch = batch_of()
        finer = batch.films.repeat_interleave(2, -1).repeat_interleave(2, -2)
        assert not moves(build(max_film_size=32), batch, replace(batch, films=finer))


class TestClock:
    def test_ends_at_the_prediction_time(self) -> None:
        assert last_hour(batch_of(), ICU).flatten().tolist() == [48] * 4
        batch = batch_of(PAIRS)
        newest = torch.maximum(batch.film_hours[:, 1], batch.ehr_hours.amax(dim=1))
        assert torch.equal(last_hour(batch, PAIRS).flatten(), newest)
        films_only = last_hour(without_ehr(batch), PAIRS)
        assert torch.equal(films_only.flatten(), batch.film_hours[:, 1])
        nothing = last_hour(without_ehr(without_films(batch)), PAIRS)
        assert nothing.flatten().tolist() == [0] * 4

    @pytest.mark.parametrize("ehr", [True, False])
    def test_of_a_pair_starts_anywhere(self, ehr: bool) -> None:
        method, batch = build(PAIRS, ehr, time_unit_hours=24.0), batch_of(PAIRS, ehr)
        later = replace(batch, film_hours=batch.film_hours + 32, ehr_hours=batch.ehr_hours + 32)
        assert not moves(method, batch, later)
        earlier_film = batch.film_hours - torch.tensor([2.0, 0.0])
        assert moves(method, batch, replace(batch, film_hours=earlier_film))

    def test_unit_is_that_of_the_configuration(self) -> None:
        batch = batch_of()
        days = replace(
            batch,
            film_hours=48 + (batch.film_hours - 48) * 24,
            ehr_hours=48 + (batch.ehr_hours - 48) * 24,
        )
        in_days, in_hours = (build(time_unit_hours=u, head_norm="layer") for u in (24.0, 1.0))
        torch.testing.assert_close(in_days(days).logits, in_hours(batch).logits)
        assert moves(in_hours, batch, days)

    def test_published_hours_saturate_and_days_do_not(self) -> None:
        # How far embedded times lie apart, relative to their size.
        torch.manual_seed(0)
        f_time = Projection(1, 256)

        def apart(one: float, other: float, unit: float) -> float:
            a, b = f_time(torch.tensor([[one], [other]]) / unit)
            return ((a - b).norm() / a.norm()).item()

        for hours, far in (((0, -1), 0.70), ((-1, -25), 0.68)):
            assert apart(*hours, unit=1) == pytest.approx(far, abs=0.1)
        for hours, near in (((-12, -24), 0.04), ((-24, -48), 0.02)):
            assert apart(*hours, unit=1) == pytest.approx(near, abs=0.01)
            assert apart(*hours, unit=24) > 0.2

    def test_is_one_module_for_both_modalities(self) -> None:
        method, batch = build(), batch_of()
        end = last_hour(batch, ICU)
        for tokens in (method.embed.of_ehr(batch, end), method.embed.of_films(batch, end)):
            (gradient,) = torch.autograd.grad(
                tokens.tokens.square().sum(), [method.embed.f_time.linear.weight]
            )
            assert gradient.any()

    def test_survives_half_precision(self) -> None:
        f_time = Projection(1, 16)
        hours = torch.tensor([[-40.0], [-40.1]])
        exact = f_time(hours)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(f_time(hours), exact)


class TestBlock:
    def test_is_attention_and_feed_forward_of_normed_tokens(self) -> None:
        block, x = Block(8, 2, 0.1).eval(), torch.randn(1, 5, 8)
        y = block.attention_norm(x)
        q, k, v = (
            f(y).view(5, 2, 4).transpose(0, 1) for f in (block.query, block.key, block.value)
        )
        heads = (q @ k.mT / 2).softmax(dim=-1) @ v
        z = x + heads.transpose(0, 1).reshape(1, 5, 8)
        expected = z + block.linear2(block.linear1(block.norm(z)).relu())
        valid = torch.ones(1, 5, dtype=torch.bool)
        torch.testing.assert_close(block(x, valid), expected)
        torch.testing.assert_close(block(x, valid, slice(1, 3)), expected[:, 1:3])

    def test_starts_within_the_bounds_of_xavier(self) -> None:
        block = Block(64, 4, 0.1)
        for layer in (block.query, block.key, block.value):
            assert 0.21 < layer.weight.abs().max() <= (6 / 128) ** 0.5
            assert not layer.bias.any()


class TestBottlenecks:
    def test_mean_over_what_is_available(self) -> None:
        b, one, other = torch.randn(3, 4, 2, 8)
        available = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]], dtype=torch.bool)
        after = exchange([one, other], available, b)
        expected = torch.stack([(one[0] + other[0]) / 2, one[1], other[2], b[3]])
        torch.testing.assert_close(after, expected)

    def test_may_be_averaged_with_those_before(self) -> None:
        method, batch = build(n_layers=2), batch_of()
        plain = method(batch).logits
        given: list[Tensor] = []
        stream = method.attention.ehr
        assert stream is not None
        for block in stream.blocks:
            block.register_forward_pre_hook(lambda _, args: given.append(args[0][:, :4]))
        method(batch)
        method.attention.residual = True
        averaged = method(batch).logits
        before, exchanged, _, seen = given
        torch.testing.assert_close(seen, (before + exchanged) / 2)
        assert not torch.allclose(averaged, plain, rtol=1e-4, atol=1e-5)
        assert build(residual_bottlenecks=True).attention.residual
        assert not build().attention.residual

    def test_are_all_that_passes_between_the_streams(self) -> None:
        batch = batch_of()
        assert moves(build(n_layers=2), batch, with_other_films(batch))
        for n_layers, n_bottlenecks in ((2, 0), (1, 4)):
            method = build(n_layers=n_layers, n_bottlenecks=n_bottlenecks)
            assert torch.equal(method(with_other_films(batch)).logits, method(batch).logits)

    def test_after_the_last_layer_nothing_is_exchanged(self) -> None:
        attention = build().attention
        assert attention.ehr is not None
        assert (len(attention.ehr.blocks), len(attention.films.blocks)) == (3, 2)
        assert len(build(readout="mean").attention.films.blocks) == 3
        assert len(build(ehr=False).attention.films.blocks) == 3


class TestMissing:
    def test_no_film_at_all(self) -> None:
        method, batch = build(), without_films(batch_of())
        loss = loss_of(method.train(), batch)
        assert torch.isfinite(loss)
        loss.backward()
        unread = ("embed.films", "attention.films")
        assert all(
            p.grad is None or not p.grad.any()
            for n, p in method.named_parameters()
            if n.startswith(unread)
        )
        method.eval()
        assert torch.equal(method(with_other_films(batch)).logits, method(batch).logits)

    def test_no_film_of_one_sample(self) -> None:
        method, batch = build(), without_films(batch_of(), 1)
        assert torch.equal(method(with_other_films(batch, 1)).logits, method(batch).logits)
        for row in (0, 1):
            alone = take(batch, [row]) if row == 0 else without_films(take(batch_of(), [1]))
            torch.testing.assert_close(method(alone).logits[0], method(batch).logits[row])

    def test_no_ehr_of_one_sample(self) -> None:
        method, batch = build(), without_ehr_of(batch_of(), 1)
        other = with_other_values(batch)
        torch.testing.assert_close(method(other).logits[1], method(batch).logits[1])
        assert moves(method, take(batch_of(), [1]), take(batch, [1]))
        alone = without_ehr(take(batch_of(), [1]))
        torch.testing.assert_close(method(alone).logits[0], method(batch).logits[1])

    def test_no_ehr_of_all_samples(self) -> None:
        method, batch = build(), without_ehr(batch_of())
        assert moves(method, batch, with_other_films(batch))
        loss = loss_of(method.train(), batch)
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)

    @pytest.mark.parametrize("readout", ["anchor", "mean"])
    def test_neither_leaves_the_demographics(self, readout: str) -> None:
        method, batch = build(readout=readout), without_ehr(without_films(batch_of()))
        logits = method(batch).logits
        assert torch.isfinite(logits).all()
        assert torch.equal(method(with_other_values(with_other_films(batch))).logits, logits)
        assert moves(method, batch, replace(batch, demographics=-batch.demographics))

    @EVERY_TASK
    def test_films_only(self, task: Task) -> None:
        method, batch = build(task, ehr=False), batch_of(task, ehr=False)
        assert method.embed.f_val is method.attention.ehr is method.readout.demographics is None
        assert method.embed.types.num_embeddings == 1
        assert moves(method, batch, with_other_films(batch))
        loss_of(method.train(), batch).backward()
        assert not silent_parts(method)

    def test_films_only_is_one_stream_read_at_its_class_token(self) -> None:
        method, batch = build(PAIRS, ehr=False), batch_of(PAIRS, ehr=False)
        (films,) = method.modalities(batch)
        films_stream = method.attention.films
        x = torch.cat(
            [method.attention.bottlenecks.expand(4, -1, -1), films_stream.start(films.tokens)], 1
        )
        for block in films_stream.blocks:
            x = block(x, torch.ones(x.shape[:2], dtype=torch.bool))
        expected = method.readout(x[:, 4], batch.demographics).view(4, 7, 3)
        torch.testing.assert_close(method(batch).logits, expected)


class TestReadout:
    def test_mean_over_available_modalities(self) -> None:
        method = build(readout="mean")
        batch = without_ehr_of(without_films(batch_of(), 0), 1)
        cls = method.attention(method.modalities(batch))
        ehr, films = (method.readout(cls[:, m], batch.demographics) for m in (0, 1))
        expected = torch.stack([ehr[0], films[1], *((ehr + films) / 2)[2:]])
        torch.testing.assert_close(method(batch).logits, expected)

    def test_missing_modalities_enter_no_batch_statistics(self) -> None:
        def statistics(without: int | slice, shift: float) -> Tensor:
            method = build(readout="mean")
            method.attention.films.norm.bias.data[:8] += shift
            without_dropout(method)
            method(without_films(batch_of(), without))
            return head_statistics(method)

        assert torch.equal(statistics(EVERYTHING, 0), statistics(EVERYTHING, 5))
        assert not torch.allclose(statistics(0, 0), statistics(0, 5))

    def test_one_sample_trains(self) -> None:
        method = build().train()
        before = head_statistics(method)
        loss_of(method, take(batch_of(), [1])).backward()
        assert torch.equal(head_statistics(method), before)
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in method.parameters())
        loss_of(method, take(batch_of(), [1, 2]))
        assert not torch.equal(head_statistics(method), before)

    def test_layer_norm_on_request(self) -> None:
        assert isinstance(build(head_norm="layer").readout.head[1], nn.LayerNorm)


class TestTraining:
    @EVERY_TASK
    @pytest.mark.parametrize("readout", ["anchor", "mean"])
    def test_gradients_reach_every_part(self, task: Task, readout: str) -> None:
        method, batch = build(task, readout=readout, dropout=0.0), batch_of(task)
        loss_of(method.train(), batch).backward()
        assert not silent_parts(method)
        types = method.embed.types.weight.grad
        assert types is not None
        assert types.any(dim=1).all()

    @pytest.mark.parametrize("where", ["films", "ehr"])
    def test_learns_what_one_modality_shows(self, where: str) -> None:
        torch.manual_seed(0)
        config = replace(TINY, max_observations=64)
        method = Umse(config, TaskSpec(ICU, Cxr.LONG))
        without_dropout(method)
        optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
        for seed in range(80):
            batch = planted(where, 16, seed)
            optimizer.zero_grad()
            loss_of(method, batch).backward()
            optimizer.step()
        unseen = planted(where, 64, seed=1000)
        assert unseen.targets is not None
        right = (method.eval()(unseen).logits[:, 0] > 0) == (unseen.targets.mortality > 0)
        assert right.float().mean() > 0.9

    def test_learns_when_a_variable_was_high(self) -> None:
        def batch(seed: int) -> tuple[Batch, Tensor]:
            """Charted every third hour at +1 or -1: first up, then down, or the other way round."""
            stays, hour = random_batch(ICU, 16, seed, size=0, film_size=16), torch.arange(48.0)
            rises = torch.arange(16) % 2 == 0
            values, observed = torch.zeros(16, 48, 38), torch.zeros(16, 48, 38, dtype=torch.bool)
            observed[:, ::3, 6] = True
            values[..., 6] = torch.where((hour >= 24) == rises[:, None], 1.0, -1.0)
            hours = {
                "ehr_values": values,
                "ehr_observed": observed,
                "ehr_hours": hour.expand(16, -1),
                "ehr_valid": torch.ones(16, 48, dtype=torch.bool),
            }
            return replace(stays, **hours), rises.float()

        torch.manual_seed(0)
        config = replace(TINY, n_layers=2, time_unit_hours=24.0)
        method = without_dropout(Umse(config, TaskSpec(ICU, Cxr.LONG)))
        optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
        for seed in range(80):
            stays, rises = batch(seed)
            optimizer.zero_grad()
            logits = method(stays).logits[:, 0]
            nn.functional.binary_cross_entropy_with_logits(logits, rises).backward()
            optimizer.step()
        unseen, rises = batch(seed=1000)
        assert ((method.eval()(unseen).logits[:, 0] > 0) == (rises > 0)).float().mean() > 0.9

    def test_a_frozen_backbone_stays_as_it_is(self) -> None:
        method, batch = build(freeze_backbone=True).train(), batch_of()
        images = method.embed.films.images
        before = {name: value.clone() for name, value in images.state_dict().items()}
        loss_of(method, batch).backward()
        assert all(torch.equal(value, before[n]) for n, value in images.state_dict().items())
        assert all(p.grad is None for p in images.parameters())
        projection = method.embed.films.projection.weight.grad
        assert projection is not None
        assert projection.any()

    def test_changes_no_input(self) -> None:
        method, batch = build(readout="mean"), batch_of()
        before = {name: getattr(batch, name).clone() for name in (*HOUR_AXIS, *FILM_AXIS)}
        method(batch)
        assert all(torch.equal(getattr(batch, name), value) for name, value in before.items())

    def test_dropout_is_in_training_only(self) -> None:
        method, batch = build(), batch_of()
        assert torch.equal(method(batch).logits, method(batch).logits)
        for stream in (method.attention.ehr, method.attention.films):
            assert stream is not None
            stream.train()
        assert not torch.equal(method(batch).logits, method(batch).logits)
