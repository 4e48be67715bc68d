"""DrFuse: known values of its losses, masking, joining of films, size. See test_contract."""

from __future__ import annotations

import math
from dataclasses import replace

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
from methods.baselines.drfuse import (
    BRANCHES,
    DrFuse,
    DrFuseConfig,
    FilmEncoder,
    absolute_cosine,
    by_branch,
    cell_losses,
    disentanglement,
    divergence,
    labels,
    logit_pool,
    masked_mean,
    newest_films,
    rank_loss,
)
from tests.methods.random_batches import random_batch, take, without_ehr_of

EVERY_TASK = pytest.mark.parametrize("task", list(Task))
PAPER = DrFuseConfig(weights="none")
TINY = DrFuseConfig("small", "none", hidden=16, feed_forward=24)
ICU, PAIRS = Task.MORTALITY, Task.DISEASE_PROGRESSION
LN_3 = math.log(3)
EHR, SHARED, CXR = range(3)


def build(task: Task = ICU, config: DrFuseConfig = TINY, cxr: Cxr | None = None) -> DrFuse:
    torch.manual_seed(0)
    return DrFuse(config, TaskSpec(task, cxr or (Cxr.LONG if task.is_icu else Cxr.PAIR))).eval()


def batch_of(task: Task = ICU, n: int = 4) -> Batch:
    return random_batch(task, n=n, size=0, film_size=32)


def without_films(batch: Batch, row: int | slice, after: int = 0) -> Batch:
    valid = batch.film_valid.clone()
    valid[row, after:] = False
    return replace(batch, film_valid=valid)


def everything(method: DrFuse, batch: Batch) -> dict[str, Tensor]:
    """Logits and losses by name."""
    output = method(batch)
    return {"logits": output.logits, **output.losses}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-6)


def attention_of(method: DrFuse, batch: Batch) -> Tensor:
    return method.attention(*method.branches(method.disentangle(batch)))[1]


def same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def paper_size() -> DrFuse:
    return build(PAIRS, PAPER)


class TestSize:
    def test_parameter_count(self, paper_size: DrFuse) -> None:
        total = sum(p.numel() for p in paper_size.parameters())
        assert total == 55_493_076
        assert total == pytest.approx(56.40e6, rel=0.03)  # the DiPro paper's

    @pytest.mark.slow
    def test_two_films_cost_what_the_paper_says(self, paper_size: DrFuse) -> None:
        batch = random_batch(PAIRS, n=1, size=0, film_size=224)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            paper_size(batch)
        assert 16.1e9 < counter.get_total_flops() / 2 < 16.8e9

    def test_presets_change_sizes_only(self) -> None:
        for task, weight in ((PAIRS, 1 / 7), (ICU, 1.0)):
            paper = DrFuse.configure(Preset.PAPER, task)
            assert paper == DrFuseConfig(task_weight=weight)
            for preset in (Preset.DEMO, Preset.MEDIUM):
                small = DrFuse.configure(preset, task)
                assert small.loss_weights() == paper.loss_weights()
                assert (small.dropout, small.unit, small.n_heads) == (0.3, "output", 4)
                assert small.hidden < paper.hidden

    @pytest.mark.parametrize("name", ["hidden", "feed_forward", "n_heads", "max_films"])
    def test_refuses_bad_sizes(self, name: str) -> None:
        with pytest.raises(UserError, match=rf"model\.{name} is 0"):
            replace(TINY, **{name: 0})  # type: ignore[arg-type]

    @pytest.mark.parametrize("share", [-0.1, 1.0])
    def test_refuses_shares_that_leave_nothing(self, share: float) -> None:
        with pytest.raises(UserError, match=r"model\.drop_films is .* 0 to below 1"):
            replace(TINY, drop_films=share)

    def test_refuses_bad_choices(self) -> None:
        with pytest.raises(UserError, match=r"multiple of model\.n_heads, 4"):
            build(config=replace(TINY, hidden=18))
        with pytest.raises(UserError, match=r"model\.unit is 'disease'"):
            replace(TINY, unit="disease")
        with pytest.raises(UserError, match=r"model\.join is 'token'"):
            replace(TINY, join="token")

    def test_its_own_recipe_is_a_training_configuration(self) -> None:
        method = "methods.baselines.drfuse:DrFuse"
        training = resolve(Request(method, ICU, Cxr.LONG, 1, recipe="reference")).training
        assert (training.lr, training.weight_decay, training.patience) == (1e-4, 0.0, 10)

    def test_declines_one_modality(self) -> None:
        decline = DrFuse.decline
        assert "ehr_transformer" in (decline(ICU, Cxr.NONE, True) or "")
        assert "EHR" in (decline(PAIRS, Cxr.PAIR, False) or "")
        for task, cxr in ((ICU, Cxr.LAST), (ICU, Cxr.LONG), (PAIRS, Cxr.PAIR)):
            assert decline(task, cxr, True) is None


class TestLogitPool:
    @pytest.mark.parametrize(
        ("a", "b", "expected"),
        [(2, 0, 0.80198), (3, -1, 0.45050), (LN_3, -LN_3, 0), (1.7, 1.7, 1.7), (100, 100, 100)],
    )
    def test_known_values(self, a: float, b: float, expected: float) -> None:
        pooled = logit_pool(torch.tensor(a), torch.tensor(b))
        assert pooled.item() == pytest.approx(expected, abs=1e-5)

    def test_is_the_logit_of_the_mean_probability(self) -> None:
        a, b = 3 * torch.randn(2, 50)
        pooled = logit_pool(a, b)
        torch.testing.assert_close(pooled, torch.logit((a.sigmoid() + b.sigmoid()) / 2))
        torch.testing.assert_close(pooled, logit_pool(b, a))
        assert (pooled >= torch.minimum(a, b) - 1e-5).all()
        assert (pooled <= torch.maximum(a, b) + 1e-5).all()

    def test_is_finite_where_probabilities_saturate(self) -> None:
        a = torch.tensor([100.0, -100.0], requires_grad=True)
        pooled = logit_pool(a, torch.zeros(2))
        torch.testing.assert_close(pooled, torch.tensor([LN_3, -LN_3]))
        pooled.sum().backward()
        assert a.grad is not None
        assert torch.isfinite(a.grad).all()


class TestDivergence:
    @pytest.mark.parametrize(
        ("a", "b", "full", "expected"),
        [
            (LN_3, -LN_3, False, 0.065406),
            (LN_3, -LN_3, True, 2 * 0.065406),
            (2, 0, False, 0.026597),
        ],
    )
    def test_known_values_per_dimension(
        self, a: float, b: float, full: bool, expected: float
    ) -> None:
        found = divergence(torch.full((3,), a), torch.full((3,), b), full)
        assert found.item() == pytest.approx(3 * expected, abs=3e-6)

    def test_is_zero_only_where_equal(self) -> None:
        a = torch.randn(4, 5)
        torch.testing.assert_close(divergence(a, a), torch.zeros(4))
        assert (divergence(a, a + 0.5) > 0).all()

    def test_is_finite_where_probabilities_saturate(self) -> None:
        a = torch.tensor([[200.0, -200.0, 200.0]], requires_grad=True)
        found = divergence(a, torch.tensor([[-200.0, -200.0, 200.0]]), full=True)
        assert found.item() == pytest.approx(math.log(2), rel=1e-5)
        found.sum().backward()
        assert a.grad is not None
        assert torch.isfinite(a.grad).all()

    def test_samples_without_a_pair_add_nothing(self) -> None:
        method, batch = build(), batch_of()
        complete = take(batch, [0, 2])
        partial = without_films(without_ehr_of(batch, 1), 3)
        found, expected = (
            disentanglement(method.disentangle(b), full_divergence=False)["divergence"]
            for b in (partial, complete)
        )
        assert expected > 0
        torch.testing.assert_close(found, expected)

    def test_no_pair_at_all_gives_zero(self) -> None:
        method, batch = build(), without_films(batch_of(), slice(None))
        losses = method(batch).losses
        assert all(losses[name] == 0 for name in ("divergence", "cxr_cosine", "cxr", "rank"))
        assert losses["ehr_cosine"] > 0


class TestCosine:
    def test_orthogonal_and_parallel(self) -> None:
        a = torch.tensor([[3.0, 4, 0]]).expand(3, -1)
        b = torch.tensor([[4.0, -3, 7], [6, 8, 0], [-0.3, -0.4, 0]])
        torch.testing.assert_close(absolute_cosine(a, b), torch.tensor([0.0, 1, 1]))

    def test_terms_read_the_projected_shared_vector(self) -> None:
        method, batch = build(cxr=Cxr.LAST), batch_of()
        f = method.disentangle(batch)
        films, _ = newest_films(batch, 1)
        s_cxr, d_cxr = method.films(films[:, 0]).chunk(2, dim=-1)
        s_ehr, d_ehr = method.ehr(batch.ehr_values, batch.ehr_valid)
        torch.testing.assert_close(f.s_cxr[:, 0], method.projector(s_cxr))
        torch.testing.assert_close(f.s_ehr, method.projector(s_ehr))
        assert same(f.d_cxr[:, 0], d_cxr)
        assert same(f.d_ehr, d_ehr)
        expected = absolute_cosine(f.s_cxr[f.film_valid], f.d_cxr[f.film_valid]).mean()
        found = method(batch).losses
        torch.testing.assert_close(found["cxr_cosine"], expected)
        nn.init.zeros_(method.projector[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(method.projector[-1].bias)  # type: ignore[arg-type]
        assert method(batch).losses["ehr_cosine"] == 0


class TestRanking:
    alpha = torch.tensor([[[0.5, 0.3, 0.2]]])
    counted = torch.ones(1, 1, dtype=torch.bool)

    @pytest.mark.parametrize(
        ("loss", "expected"), [((0.2, 0.4, 0.9), 0.0), ((0.9, 0.4, 0.2), 0.2), ((1, 1, 1), 0.1 / 3)]
    )
    def test_known_values(self, loss: tuple[float, ...], expected: float) -> None:
        found = rank_loss(self.alpha, torch.tensor([[loss]]), self.counted)
        assert found.item() == pytest.approx(expected, abs=1e-6)

    def test_each_pair_is_divided_by_its_positive_terms(self) -> None:
        loss = torch.tensor([[[0.9, 0.4, 0.2]], [[0.2, 0.4, 0.9]], [[0.9, 0.4, 0.2]]])
        alpha = self.alpha.expand(3, -1, -1)
        counted = torch.tensor([[True], [True], [False]])
        assert rank_loss(alpha, loss, counted).item() == pytest.approx(0.2)
        assert rank_loss(alpha, loss, torch.zeros_like(counted)) == 0

    def test_teaches_the_weights_only(self) -> None:
        method, batch = build(PAIRS), batch_of(PAIRS)
        rank = method(batch).losses["rank"]
        assert rank > 0
        rank.backward()
        assert all(p.grad is None for p in method.branch_heads.parameters())
        assert method.attention.project.weight.grad is not None
        assert method.attention.project.weight.grad.any()

    def test_samples_without_one_modality_or_a_label_are_left_out(self) -> None:
        method, batch = build(PAIRS), batch_of(PAIRS)
        assert batch.targets is not None
        unlabelled = batch.targets.progression.clone()
        unlabelled[2] = NOT_MENTIONED
        partial = without_films(without_ehr_of(batch, 1), 3)
        partial = replace(partial, targets=replace(batch.targets, progression=unlabelled))
        expected = method(take(batch, [0])).losses["rank"]
        torch.testing.assert_close(method(partial).losses["rank"], expected)


class TestAttention:
    @EVERY_TASK
    @pytest.mark.parametrize("n", [1, 4])
    def test_a_missing_branch_has_no_weight(self, task: Task, n: int) -> None:
        method, batch = build(task), batch_of(task, n)
        for partial, absent in (
            (batch, None),
            (without_films(batch, 0), CXR),
            (without_ehr_of(batch, 0), EHR),
        ):
            alpha = attention_of(method, partial)
            assert alpha.shape == (n, method.spec.n_outputs, len(BRANCHES))
            torch.testing.assert_close(alpha.sum(-1), torch.ones(alpha.shape[:2]))
            assert (alpha[1:] > 0).all()
            weightless = (alpha[0] == 0).all(dim=0)
            assert weightless.tolist() == [branch == absent for branch in range(3)]

    def test_units_differ_by_their_keys_alone(self) -> None:
        attention, tokens = build(PAIRS).attention, torch.randn(2, 3, 16)
        present = torch.tensor([[True, True, True], [True, True, False]])
        found, alpha = attention(tokens, present)
        q, v, *k = attention.project(tokens).split(16, dim=-1)
        for sample, there in enumerate(present):
            query = q[sample, there].mean(dim=0)
            for unit, keys in enumerate(k):
                weights = (keys[sample, there] @ query / 4).softmax(dim=0)
                torch.testing.assert_close(alpha[sample, unit, there], weights)
                torch.testing.assert_close(found[sample, unit], weights @ v[sample, there])

    def test_each_unit_has_its_own_rows_of_the_classifier(self) -> None:
        head, units = build(PAIRS).head, torch.randn(2, 7, 16)
        logits = head(units).unflatten(-1, (7, 3))
        whole = nn.functional.linear(units, head.weight, head.bias)
        for disease in range(7):
            expected = whole[:, disease, 3 * disease : 3 * disease + 3]
            torch.testing.assert_close(logits[:, disease], expected)

    @EVERY_TASK
    def test_one_unit_per_logit(self, task: Task) -> None:
        method, batch = build(task, replace(TINY, unit="logit")), batch_of(task)
        n_units = method.spec.n_outputs * method.spec.n_logits
        assert attention_of(method, batch).shape[1] == n_units
        units, _ = method.attention(*method.branches(method.disentangle(batch)))
        expected = (units * method.head.weight).sum(-1) + method.head.bias
        torch.testing.assert_close(method(batch).logits.flatten(1), expected)
        assert torch.isfinite(method(batch).losses["rank"])


class TestMissing:
    def test_pixels_of_absent_films_change_nothing(self) -> None:
        partial = without_films(batch_of(), 1)
        white = torch.where(partial.film_valid[..., None, None], partial.films, 255)
        for train in (False, True):
            config = replace(TINY, dropout=0.0)
            one, other = (build(config=config).train(train) for _ in range(2))
            changed = replace(partial, films=white.to(torch.uint8))
            assert_same(everything(one, changed), everything(other, partial))
            assert_same(dict(one.named_buffers()), dict(other.named_buffers()))

    def test_without_ehr_shared_is_the_films(self) -> None:
        method, batch = build(cxr=Cxr.LAST), without_ehr_of(batch_of(), 1)
        features = method.disentangle(batch)
        tokens, _ = method.branches(features)
        torch.testing.assert_close(tokens[1, SHARED], features.s_cxr[1, 0])
        expected = logit_pool(features.s_ehr[0], features.s_cxr[0, 0])
        torch.testing.assert_close(tokens[0, SHARED], expected)

    def test_without_films_shared_is_the_ehrs(self) -> None:
        method, batch = build(), without_films(batch_of(), 1)
        features = method.disentangle(batch)
        tokens, _ = method.branches(features)
        torch.testing.assert_close(tokens[1, SHARED], features.s_ehr[1])

    @EVERY_TASK
    @pytest.mark.parametrize("without", ["ehr", "films", "both", "ehr of all, hours cut"])
    def test_logits_losses_and_gradients_stay_finite(self, task: Task, without: str) -> None:
        batch = batch_of(task)
        if without in ("ehr", "both"):
            batch = without_ehr_of(batch, 1)
        if without in ("films", "both"):
            batch = without_films(batch, 1)
        if without.endswith("cut"):
            names = ("ehr_values", "ehr_observed", "ehr_hours", "ehr_valid")
            batch = replace(batch, **{name: getattr(batch, name)[:, :0] for name in names})
        method = build(task).train()
        values = everything(method, batch)
        assert all(torch.isfinite(value).all() for value in values.values())
        torch.stack([value.square().sum() for value in values.values()]).sum().backward()
        grads = [p.grad for p in method.parameters() if p.grad is not None]
        assert all(torch.isfinite(grad).all() for grad in grads)

    def test_one_film_in_training(self) -> None:
        method, batch = build(cxr=Cxr.LAST).train(), batch_of(n=1)
        before = {name: buffer.clone() for name, buffer in method.named_buffers()}
        assert torch.isfinite(method(batch).logits).all()
        assert_same(dict(method.named_buffers()), before)


class TestDroppedFilms:
    config = replace(TINY, drop_films=0.5)

    def test_are_those_of_a_share_of_the_samples_with_ehr_in_training(self) -> None:
        method, batch = build(config=self.config), without_ehr_of(batch_of(n=64), 5)
        assert method._with_films_dropped(batch) is batch
        seen = method.train()._with_films_dropped(batch)
        left = seen.film_valid.any(dim=1)
        assert 16 < left.sum() < 48
        assert left[5]
        assert torch.equal(seen.film_valid[left], batch.film_valid[left])
        assert not seen.pair_valid[~left].any()
        assert not torch.equal(method._with_films_dropped(batch).film_valid, seen.film_valid)
        assert build().train()._with_films_dropped(batch) is batch

    def test_count_as_films_that_are_not_there(self) -> None:
        method = build(config=replace(self.config, dropout=0.0)).train()
        batch = batch_of(n=16)
        torch.manual_seed(3)
        seen = method._with_films_dropped(batch)
        assert 0 < seen.film_valid.any(dim=1).sum() < len(batch)
        torch.manual_seed(3)
        found = everything(method, batch)
        method.config = replace(method.config, drop_films=0.0)
        assert_same(found, everything(method, seen))


class TestEhr:
    @pytest.mark.parametrize("n_hours", [1, 49])
    def test_padding_changes_nothing(self, n_hours: int) -> None:
        encoder, values = build().ehr, torch.randn(2, n_hours, 38)
        valid = torch.ones(2, n_hours, dtype=torch.bool)
        padded = torch.cat([values, torch.full((2, 6, 38), 1e3)], dim=1)
        longer = nn.functional.pad(valid, (0, 6))
        for found, expected in zip(encoder(padded, longer), encoder(values, valid), strict=True):
            torch.testing.assert_close(found, expected)

    def test_the_order_of_hours_matters(self) -> None:
        encoder, values = build().ehr, torch.randn(1, 9, 38)
        valid = torch.ones(1, 9, dtype=torch.bool)
        found, turned = encoder(values, valid), encoder(values.flip(1), valid)
        assert not any(same(*vectors) for vectors in zip(found, turned, strict=True))

    def test_hours_beyond_the_table_share_its_last_row(self) -> None:
        encoder, values = build().ehr, torch.randn(1, 400, 38)
        valid = torch.ones(1, 400, dtype=torch.bool)
        late = values.clone()
        late[0, [360, 390]] = values[0, [390, 360]]
        torch.testing.assert_close(encoder(late, valid)[0], encoder(values, valid)[0])

    def test_demographics_are_read_on_request_only(self) -> None:
        batch = batch_of()
        older = replace(batch, demographics=batch.demographics + 1)
        plain, wider = build(), build(config=replace(TINY, use_demographics=True))
        assert torch.equal(plain(older).logits, plain(batch).logits)
        assert not same(wider(older).logits, wider(batch).logits)
        extra = [sum(p.numel() for p in m.parameters()) for m in (wider, plain)]
        assert extra[0] - extra[1] == TINY.hidden * len(DEMOGRAPHICS)


class TestFilms:
    def test_bodies_differ_and_share_the_stem_only(self) -> None:
        encoder = build(config=replace(TINY, backbone="resnet34")).films
        shared, distinct = (dict(body.named_parameters()) for body in encoder.bodies)
        assert shared.keys() == distinct.keys()
        assert not any(shared[n].data_ptr() == distinct[n].data_ptr() for n in shared)
        convs = [n for n, p in shared.items() if p.ndim == 4]
        assert len(convs) == 35
        assert not any(same(shared[n], distinct[n]) for n in convs)

    @pytest.mark.parametrize("body", [0, 1])
    def test_the_stem_learns_from_both_bodies(self, body: int) -> None:
        encoder, films = build().films, batch_of().films[:, 0]
        encoder(films).chunk(2, dim=-1)[body].square().sum().backward()
        stem = encoder.stem.network[0].weight  # type: ignore[index]
        assert stem.grad is not None
        assert stem.grad.any()
        other = encoder.bodies[1 - body]
        assert all(p.grad is None or not p.grad.any() for p in other.parameters())

    def test_a_body_on_the_stem_is_the_whole_backbone(self) -> None:
        torch.manual_seed(0)
        encoder = FilmEncoder(replace(TINY, backbone="resnet34")).eval()
        kinds = [type(layer) for layer in encoder.stem.network.children()]
        assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]
        films = batch_of().films[:, 0]
        assert encoder.bodies[0](encoder.stem.feature_map(films)).shape == (4, 512, 1, 1)

    def test_larger_films_are_averaged_down(self) -> None:
        small = batch_of().films[:, 0]
        large = small.repeat_interleave(2, -1).repeat_interleave(2, -2)
        encoder = build(config=replace(TINY, max_film_size=32)).films
        torch.testing.assert_close(encoder(large), encoder(small))

    def test_the_newest_film_is_in_the_last_slot(self) -> None:
        batch = batch_of()
        for row, n in enumerate(batch.film_valid.sum(dim=1).tolist()):
            for n_slots in (1, 2, 5):
                films, valid = newest_films(batch, n_slots)
                kept = min(n, n_slots)
                assert valid[row].tolist() == [False] * (n_slots - kept) + [True] * kept
                assert torch.equal(films[row, n_slots - kept :], batch.films[row, n - kept : n])

    def test_long_of_one_film_is_last(self) -> None:
        batch = batch_of()
        long = build(config=replace(TINY, max_films=1))
        assert not hasattr(long, "join_shared")
        assert_same(everything(long, batch), everything(build(cxr=Cxr.LAST), batch))

    def test_films_are_joined_after_each_is_pooled_with_the_ehr(self) -> None:
        method, batch = build(PAIRS), without_films(batch_of(PAIRS), 1, after=1)
        f = method.disentangle(batch)
        tokens, _ = method.branches(f)
        pooled = [logit_pool(f.s_ehr, f.s_cxr[:, slot]) for slot in range(2)]
        expected = method.join_shared(torch.cat(pooled, dim=-1))
        torch.testing.assert_close(tokens[[0, 2, 3], SHARED], expected[[0, 2, 3]])
        only_newest = {
            SHARED: method.join_shared(torch.cat([torch.zeros(16), pooled[1][1]])),
            CXR: method.join_distinct(torch.cat([torch.zeros(16), f.d_cxr[1, 1]])),
        }
        for branch, token in only_newest.items():
            torch.testing.assert_close(tokens[1, branch], token)

    def test_exchanging_two_films_changes_both_tokens(self) -> None:
        method, batch = build(PAIRS), batch_of(PAIRS)
        turned = replace(batch, films=batch.films.flip(1))
        tokens, others = (method.branches(method.disentangle(b))[0] for b in (batch, turned))
        assert not same(tokens[:, SHARED], others[:, SHARED])
        assert not same(tokens[:, CXR], others[:, CXR])
        assert not same(method(turned).logits, method(batch).logits)

    @pytest.mark.parametrize("task", [ICU, PAIRS])
    def test_films_that_stay_tokens_have_no_order(self, task: Task) -> None:
        method, batch = build(task, replace(TINY, join="tokens")), batch_of(task)
        order = [1, 0, *range(2, batch.films.shape[1])]
        turned = replace(batch, films=batch.films[:, order])
        assert_same(everything(method, turned), everything(method, batch))
        darker = replace(batch, films=batch.films // 2)
        assert not same(method(darker).logits, method(batch).logits)

    def test_one_film_that_stays_a_token_is_last(self) -> None:
        batch = without_films(without_films(batch_of(), slice(None), after=1), 2)
        batch = without_ehr_of(batch, 1)
        long, last = build(config=replace(TINY, join="tokens")), build(cxr=Cxr.LAST)
        assert long.n_slots > 1
        assert_same(dict(long.state_dict()), dict(last.state_dict()))
        assert_same(everything(long, batch), everything(last, batch))

    def test_a_branch_has_the_weights_and_the_mean_of_its_tokens(self) -> None:
        method = build(config=replace(TINY, join="tokens"))
        batch = without_ehr_of(batch_of(), 3)
        tokens, present = method.branches(method.disentangle(batch))
        n_films = batch.film_valid.sum(1)
        assert (
            present.sum(1).tolist() == (2 * n_films + (n_films.new_tensor([1, 1, 1, 0]))).tolist()
        )
        _, alpha = method.attention(tokens, present)
        means, there, weights = by_branch(tokens, present, alpha)
        torch.testing.assert_close(weights.sum(-1), torch.ones(4, 1))
        torch.testing.assert_close(weights[..., CXR], alpha[..., -method.n_slots :].sum(-1))
        assert there.tolist() == [[True, True, True]] * 3 + [[False, True, True]]
        newest = tokens[:, -method.n_slots :]
        for row, n in enumerate(n_films.tolist()):
            torch.testing.assert_close(means[row, CXR], newest[row, -n:].mean(0))

    def test_permuting_samples_permutes_logits(self) -> None:
        method, batch = build(), batch_of()
        order = [2, 0, 3, 1]
        names = ("films", "film_valid", "ehr_values", "ehr_valid")
        permuted = replace(batch, **{name: getattr(batch, name)[order] for name in names})
        torch.testing.assert_close(method(permuted).logits, method(batch).logits[order])


class TestTraining:
    @EVERY_TASK
    def test_the_task_loss_alone_reaches_every_part(self, task: Task) -> None:
        config = replace(TINY, backbone="resnet34", dropout=0.0)
        method, batch = build(task, config).train(), batch_of(task)
        assert batch.targets is not None
        task_loss(task, method(batch).logits, batch.targets, torch.ones(7, 3)).backward()
        silent = {n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()}
        assert silent == {n for n, _ in method.named_parameters() if n.startswith("branch_heads")}
        of_units = method.attention.project.weight.grad
        assert of_units is not None
        assert of_units.view(2 + method.spec.n_outputs, -1).any(dim=1).all()

    @EVERY_TASK
    def test_losses_of_zero_logits(self, task: Task) -> None:
        method, batch = build(task, replace(TINY, task_weight=1 / 7)), batch_of(task, n=16)
        for head in (method.head, *method.branch_heads):
            nn.init.zeros_(head.weight)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]
        output, targets = method(batch), batch.targets
        assert targets is not None
        loss = task_loss(task, output.logits, targets, torch.ones(7, 3))
        expected = {PAIRS: LN_3, ICU: math.log(2)}.get(task, math.log(4))
        assert loss.item() / method.spec.n_outputs == pytest.approx(expected, rel=1e-5)
        for name in BRANCHES:
            assert output.losses[name].item() == pytest.approx(expected, rel=1e-5)

    def test_unlabelled_pairs_give_no_prediction_loss(self) -> None:
        method, batch = build(PAIRS), batch_of(PAIRS)
        assert batch.targets is not None
        nothing = torch.full_like(batch.targets.progression, NOT_MENTIONED)
        silent = replace(batch, targets=replace(batch.targets, progression=nothing))
        losses = method(silent).losses
        assert all(losses[name] == 0 for name in (*BRANCHES, "rank"))

    @EVERY_TASK
    def test_branch_losses_are_the_tasks(self, task: Task) -> None:
        batch, n_logits = batch_of(task, n=8), TaskSpec(task, Cxr.LONG).n_logits
        assert batch.targets is not None
        classes = labels(task, batch.targets)
        logits = torch.randn(8, 3, classes.shape[1], n_logits)
        loss, labelled = cell_losses(logits, classes)
        for disease in range(classes.shape[1]):
            found = masked_mean(loss[:, 1, disease], labelled[:, disease])
            alone = logits[:, 1].clone() if task is PAIRS else logits[:, 1, 0]
            targets = batch.targets
            if task is PAIRS:
                others = torch.full_like(classes, NOT_MENTIONED)
                others[:, disease] = classes[:, disease]
                targets = replace(targets, progression=others)
            expected = task_loss(task, alone, targets, torch.ones(7, 3))
            torch.testing.assert_close(found, expected)

    def test_only_the_ehr_has_dropout(self) -> None:
        method, batch = build().train(), batch_of()
        for norm in (m for m in method.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.eval()
        one, other = (method.disentangle(batch) for _ in range(2))
        assert torch.equal(one.d_cxr, other.d_cxr)
        assert not same(one.d_ehr, other.d_ehr)


class TestPlantedTruth:
    """What decides is in one place; training has to find it."""

    def learn(self, method: DrFuse, batch: Batch, n_steps: int) -> float:
        """Train with every loss term on one batch; return the last task loss."""
        assert batch.targets is not None
        optimizer = torch.optim.Adam(method.train().parameters(), lr=3e-3)
        weights = method.config.loss_weights()
        for _ in range(n_steps):
            output = method(batch)
            task = task_loss(method.spec.task, output.logits, batch.targets, torch.ones(7, 3))
            terms = {"task": task, **output.losses}
            optimizer.zero_grad()
            torch.stack([weights[name] * term for name, term in terms.items()]).sum().backward()
            optimizer.step()
        return task.item()

    def test_finds_in_which_film_a_mark_is(self) -> None:
        batch = batch_of(PAIRS, n=16)
        assert batch.targets is not None
        films = torch.full_like(batch.films, 40)
        second = torch.arange(16) % 2
        films[torch.arange(16), second, 8:18] = 220
        batch = replace(
            batch,
            films=films,
            ehr_values=torch.zeros_like(batch.ehr_values),
            targets=replace(batch.targets, progression=second[:, None].repeat(1, 7)),
        )
        method = build(PAIRS, replace(TINY, dropout=0.0))
        assert self.learn(method, batch, n_steps=60) / 7 < 0.1

    def test_ranking_takes_weight_from_a_branch_that_knows_nothing(self) -> None:
        batch = batch_of(n=16)
        assert batch.targets is not None
        batch.ehr_values[..., 3] = 4 * batch.targets.mortality[:, None] - 2
        batch = replace(batch, films=torch.full_like(batch.films, 128))
        weights = []
        for rank_weight in (0.0, 1.0):
            method = build(config=replace(TINY, dropout=0.0, rank_weight=rank_weight))
            assert self.learn(method, batch, n_steps=40) < 0.1
            weights.append(attention_of(method.eval(), batch).mean(dim=(0, 1)))
        without, ranked = weights
        assert ranked[CXR] < 0.5 * without[CXR]
        assert ranked[CXR] < 0.5 * ranked[EHR]
