"""CheXRelNet: size, graph attention edge by edge, what reaches which region. See test_contract."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.config import Request, resolve
from bench.contract import Preset, TaskSpec
from bench.contract_checks import Case, check_learning, without_dropout
from bench.data.batch import Batch
from bench.data.cohort import Cohort
from bench.data.vocabulary import REGIONS, Cxr, Task
from bench.errors import UserError
from bench.objective import task_loss
from methods.attention import Attention
from methods.baselines.chexrelnet import (
    CheXRelNet,
    CheXRelNetConfig,
    GraphAttention,
    RegionGraph,
    links_of_film,
    pair_edges,
)
from methods.encoders import ImageEncoder
from tests.methods.learning import assert_padding_is_not_learned
from tests.methods.random_batches import random_batch, take, without_ehr_of

EVERY_TASK = pytest.mark.parametrize("task", list(Task))
PAPER = CheXRelNetConfig(weights="none")
TINY = CheXRelNetConfig("small", "none", first_width=6, d_model=16, trunk_width=8)
R = len(REGIONS)


def build(
    task: Task = Task.DISEASE_PROGRESSION, config: CheXRelNetConfig = TINY, ehr: bool = True
) -> CheXRelNet:
    torch.manual_seed(0)
    cxr = Cxr.LONG if task.is_icu else Cxr.PAIR
    return CheXRelNet(config, TaskSpec(task, cxr, ehr)).eval()


def films_of(task: Task = Task.DISEASE_PROGRESSION, ehr: bool = True, n: int = 4) -> Batch:
    return random_batch(task, n=n, film_size=32, ehr=ehr)


def all_present(batch: Batch) -> Batch:
    present = batch.film_valid[..., None].expand_as(batch.region_present)
    noise = torch.randint(0, 256, batch.regions.shape, dtype=torch.uint8)
    return replace(batch, region_present=present, regions=noise * present[..., None, None])


def with_regions(batch: Batch, region_present: Tensor) -> Batch:
    return replace(batch, region_present=region_present)


def same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def n_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class TestSize:
    @pytest.mark.parametrize(("ehr", "count"), [(False, 38_568_789), (True, 39_637_333)])
    def test_parameter_count(self, ehr: bool, count: int) -> None:
        assert n_parameters(build(config=PAPER, ehr=ehr)) == count

    @pytest.mark.slow
    def test_a_pair_costs_what_the_paper_says(self) -> None:
        # 90.90 G: 22 images through ResNet-50, batch norms included (0.98 G) but no graph layers
        # (0.29 G); this counter sees graph layers and no batch norms.
        batch = all_present(
            random_batch(Task.DISEASE_PROGRESSION, n=1, size=224, film_size=224, ehr=False)
        )
        method = build(config=PAPER, ehr=False)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            method(batch)
        assert counter.get_total_flops() / 2 == pytest.approx(90.90e9 - 0.98e9 + 0.29e9, rel=1e-3)

    def test_presets_change_sizes_only(self) -> None:
        paper = CheXRelNet.configure(Preset.PAPER, Task.MORTALITY)
        assert paper == CheXRelNetConfig()
        for preset in (Preset.DEMO, Preset.MEDIUM):
            small = CheXRelNet.configure(preset, Task.MORTALITY)
            assert (small.dropout, small.edge_multiplicity, small.first_heads) == (0.5, 1, 5)
            assert small.d_model < paper.d_model

    @pytest.mark.parametrize("name", ["first_width", "second_heads", "d_model"])
    def test_refuses_bad_sizes(self, name: str) -> None:
        with pytest.raises(UserError, match=rf"model\.{name} is 0"):
            replace(TINY, **{name: 0})  # type: ignore[arg-type]

    def test_its_own_recipe_is_a_training_configuration(self) -> None:
        method = "methods.baselines.chexrelnet:CheXRelNet"
        request = Request(method, Task.MORTALITY, Cxr.LONG, 1, recipe="reference")
        training = resolve(request).training
        assert (training.lr, training.weight_decay, training.clip_norm) == (8e-4, 0.0, 0.1)

    def test_declines_what_is_no_pair(self) -> None:
        decline = CheXRelNet.decline
        assert "ehr_transformer" in (decline(Task.MORTALITY, Cxr.NONE, True) or "")
        assert "--cxr long" in (decline(Task.MORTALITY, Cxr.LAST, True) or "")
        assert decline(Task.MORTALITY, Cxr.LONG, False) is None


def attention_edge_by_edge(layer: GraphAttention, x: Tensor, edges: Tensor, node: int) -> Tensor:
    """What reaches one node of one graph, summed over a list of its edges, per head."""
    v = layer.Theta(x).unflatten(-1, (layer.n_heads, -1))
    heads = []
    for h in range(layer.n_heads):
        listed = [j for j in range(len(x)) for _ in range(int(edges[node, j]))]
        logits = torch.stack(
            [
                F.leaky_relu(layer.a_dst[h] @ v[node, h] + layer.a_src[h] @ v[j, h], 0.2)
                for j in listed
            ]
        )
        alpha = logits.softmax(dim=0)
        heads.append(sum(a * v[j, h] for a, j in zip(alpha, listed, strict=True)))
    return torch.stack(heads)  # type: ignore[arg-type]


class TestGraphAttention:
    @pytest.mark.parametrize("m", [1, 2])
    @pytest.mark.parametrize("joined", [True, False])
    def test_is_a_sum_over_edges(self, m: int, joined: bool) -> None:
        torch.manual_seed(0)
        layer = GraphAttention(5, 4, 3, dropout=0.5, joined=joined).eval()
        nn.init.normal_(layer.bias)
        x = torch.randn(2, 7, 5)
        edges = m * (torch.rand(2, 7, 7) > 0.5).float() * (1 - torch.eye(7)) + torch.eye(7)
        o = layer(x, edges)
        for graph in range(2):
            for node in range(7):
                heads = attention_edge_by_edge(layer, x[graph], edges[graph], node)
                expected = heads.flatten() if joined else heads.mean(dim=0)
                torch.testing.assert_close(o[graph, node], expected + layer.bias)

    def test_weights_sum_to_one_and_follow_edges(self) -> None:
        layer, edges = GraphAttention(5, 4, 3, dropout=0.5), pair_edges(1 - torch.eye(3))
        alpha = layer.attention(torch.randn(2, 6, 3, 4), edges)
        torch.testing.assert_close(alpha.sum(dim=2), torch.ones(2, 6, 3))
        assert torch.equal(alpha > 0, (edges > 0)[None, :, :, None].expand_as(alpha))

    def test_initialisation(self) -> None:
        layer = GraphAttention(512, 64, 5, dropout=0.5)
        bounds = {"Theta.weight": 512 + 5 * 64, "a_src": 5 + 64, "a_dst": 5 + 64}
        for name, fan in bounds.items():
            largest, limit = layer.get_parameter(name).abs().max(), np.sqrt(6 / fan)
            assert 0.9 * limit < largest <= limit
        assert not layer.bias.any()

    def test_edges_of_two_films(self) -> None:
        within = torch.tensor([[0.0, 1, 0], [1, 0, 2], [0, 2, 0]])
        edges = pair_edges(within)
        assert torch.equal(edges[:3, :3], within + torch.eye(3))
        assert torch.equal(edges[3:, 3:], within + torch.eye(3))
        assert torch.equal(edges[3:, :3], torch.eye(3))
        assert not edges[:3, 3:].any()


class TestRegionGraph:
    def graph(self, **changes: int | str) -> RegionGraph:
        torch.manual_seed(0)
        return RegionGraph(replace(TINY, **changes), n_in=9, n_regions=R).eval()  # type: ignore[arg-type]

    def test_time_has_one_direction(self) -> None:
        graph, x, present = self.graph(), torch.randn(2, 2, R, 9), torch.ones(2, 2, R) > 0
        before = graph(x, present)
        for film, moved in ((0, [True, True]), (1, [False, True])):
            changed = x.clone()
            changed[:, film] += 1
            after = graph(changed, present)
            assert [not same(after[:, i], before[:, i]) for i in range(2)] == moved

    def test_an_earlier_region_reaches_its_later_self_alone_in_one_layer(self) -> None:
        graph, x = self.graph(), torch.randn(1, 2 * R, 9)
        changed = x.clone()
        changed[:, 3] += 1
        moved = graph.first(changed, graph.edges) - graph.first(x, graph.edges)
        later = moved[0, R:].abs().amax(dim=-1) > 1e-6
        assert later.nonzero().flatten().tolist() == [3]

    def test_order_of_regions_does_not_matter(self) -> None:
        graph, order = self.graph(), torch.randperm(R)
        within = torch.bernoulli(torch.full((R, R), 0.4)).triu(1)
        within = within + within.T
        x, present = torch.randn(2, 2, R, 9), torch.rand(2, 2, R) > 0.3
        graph.edges = pair_edges(within)
        expected = graph(x, present)[:, :, order]
        unordered = graph(x[:, :, order], present[:, :, order])
        assert not same(unordered, expected)
        graph.edges = pair_edges(within[order][:, order])
        torch.testing.assert_close(graph(x[:, :, order], present[:, :, order]), expected)

    def test_an_absent_region_reaches_itself_alone(self) -> None:
        graph, x, present = self.graph(), torch.randn(1, 2, R, 9), torch.ones(1, 2, R) > 0
        present[0, 1, 4] = False
        changed = x.clone()
        changed[0, 1, 4] += 1
        moved = (graph(changed, present) - graph(x, present))[0].abs().amax(dim=-1) > 1e-6
        assert moved.nonzero().tolist() == [[1, 4]]
        # Nor does its earlier self reach it.
        changed = x.clone()
        changed[0, 0, 4] += 1
        assert same(graph(changed, present)[0, 1, 4], graph(x, present)[0, 1, 4])

    def test_multiplicity_is_an_option(self) -> None:
        x, present = torch.randn(1, 2, R, 9), torch.ones(1, 2, R) > 0
        once, twice = self.graph(), self.graph(edge_multiplicity=2)
        assert twice.edges[0, 1] == 2 and twice.edges[R, 0] == 1 and twice.edges[0, 0] == 1
        assert not same(once(x, present), twice(x, present))

    def test_links_are_an_option(self) -> None:
        links = links_of_film("0-2, 3-1", 4)
        assert links.tolist() == [[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]]
        assert torch.equal(links_of_film("all", 3), 1 - torch.eye(3))
        graph = self.graph(links="0-2,1-3", edge_multiplicity=2)
        assert torch.equal(graph.edges, pair_edges(2 * links_of_film("0-2,1-3", R)))
        x, present = torch.randn(1, 2, R, 9), torch.ones(1, 2, R) > 0
        changed = x.clone()
        changed[0, 1, 0] += 1
        moved = (graph(changed, present) - graph(x, present))[0].abs().amax(dim=-1) > 1e-6
        assert moved.nonzero().tolist() == [[1, 0], [1, 2]]

    @pytest.mark.parametrize("links", ["", "0", "0-10", "1-1", "0--2", "0-2-3", "left-right"])
    def test_refuses_what_are_no_links(self, links: str) -> None:
        with pytest.raises(UserError, match=r"model\.links is .* like 0-2,1-3"):
            replace(TINY, links=links)


class TestFilms:
    def test_which_film_came_first_matters(self) -> None:
        method, batch = build(ehr=False), all_present(films_of(ehr=False))
        exchanged = replace(
            batch,
            films=batch.films.flip(1),
            regions=batch.regions.flip(1),
            region_present=batch.region_present.flip(1),
        )
        assert not same(method(exchanged).logits, method(batch).logits)

    def test_equal_films_have_equal_tokens(self) -> None:
        method, batch = build(ehr=False), films_of(ehr=False)
        Z = method._tokens(replace(batch, films=batch.films[:, [0, 0]]), batch.region_present)
        torch.testing.assert_close(Z[:, :, R], Z[:, :, R + 1])
        Z = method._tokens(batch, batch.region_present)
        assert not same(Z[:, :, R], Z[:, :, R + 1])

    def test_logits_are_those_of_the_parts(self) -> None:
        method, batch = build(ehr=False), all_present(films_of(ehr=False))
        crops = method.embed(batch.regions.flatten(0, 2)).view(len(batch), 2, R, -1)
        films = F.avg_pool2d(batch.films.float(), 2).round().to(torch.uint8)
        g = method.film(method.embed(films.flatten(0, 1))).view(len(batch), -1)
        n = method.graph(crops, batch.region_present)[:, 1].mean(dim=1)
        expected = method.classifier(torch.cat([n, g], dim=-1)).view(-1, 7, 3)
        torch.testing.assert_close(method(batch).logits, expected)

    def test_a_stay_is_the_mean_of_its_pairs(self) -> None:
        method, batch = build(Task.MORTALITY, ehr=False), films_of(Task.MORTALITY, ehr=False)
        seen: list[Tensor] = []
        method.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        method(batch)
        n_films = int(batch.film_valid[0].sum())
        for i in range(n_films - 1):
            pair = {
                name: getattr(batch, name)[:1, i : i + 2]
                for name in ("films", "regions", "region_present", "film_valid")
            }
            method(replace(take(batch, [0]), **pair, pair_valid=torch.ones(1, 1) > 0))
        assert n_films > 2
        torch.testing.assert_close(seen[0][:1], torch.stack(seen[1:]).mean(dim=0))

    def test_the_order_in_which_regions_are_listed_does_not_matter(self) -> None:
        # Few links, as all of them make regions too much alike to see which one counts.
        method, batch = build(ehr=False), films_of(ehr=False)
        order = torch.arange(R).roll(1)
        within = torch.zeros(R, R)
        within[0, 1] = within[1, 0] = within[4, 7] = within[7, 4] = 1
        method.graph.edges = pair_edges(within)
        logits = method(batch).logits
        listed = replace(
            batch,
            regions=batch.regions[:, :, order],
            region_present=batch.region_present[:, :, order],
        )
        assert not same(method(listed).logits, logits)
        method.graph.edges = pair_edges(within[order][:, order])
        torch.testing.assert_close(method(listed).logits, logits)

    @EVERY_TASK
    def test_padding_in_training(self, task: Task) -> None:
        one, other = (without_dropout(build(task)) for _ in range(2))
        assert_padding_is_not_learned(one, other, films_of(task))

    @EVERY_TASK
    def test_batch_position_does_not_matter(self, task: Task) -> None:
        method, batch = build(task), films_of(task)
        reversed_rows = list(range(len(batch)))[::-1]
        together = method(batch).logits
        torch.testing.assert_close(method(take(batch, reversed_rows)).logits, together.flip(0))

    def test_one_sample_can_be_trained_on(self) -> None:
        method, batch = build().train(), films_of(n=1)
        nothing = torch.zeros_like(batch.region_present)
        for one in (batch, with_regions(batch, nothing)):
            assert torch.isfinite(method(one).logits).all()

    def test_no_pair_at_all(self) -> None:
        method, batch = build(Task.MORTALITY), films_of(Task.MORTALITY)
        for valid in (torch.zeros_like(batch.film_valid), batch.film_valid):
            none = torch.zeros_like(batch.pair_valid)
            logits = method(replace(batch, film_valid=valid, pair_valid=none)).logits
            assert torch.isfinite(logits).all()


class TestMissingRegions:
    def test_content_of_an_absent_region_does_not_matter(self) -> None:
        method, batch = build(), all_present(films_of())
        present = batch.region_present.clone()
        present[1, 1, 4] = False
        absent = with_regions(batch, present)
        white = batch.regions.clone()
        white[1, 1, 4] = 255
        expected = method(absent).logits
        torch.testing.assert_close(method(replace(absent, regions=white)).logits, expected)
        assert not same(method(batch).logits[1], expected[1])
        torch.testing.assert_close(method(batch).logits[0], expected[0])

    def test_no_region_at_all_leaves_the_films(self) -> None:
        method, batch = build(ehr=False), films_of(ehr=False)
        nothing = torch.zeros_like(batch.region_present)
        Z = method._tokens(batch, nothing)
        z = torch.cat([torch.zeros(len(batch), TINY.d_model), Z[:, 0, R:].flatten(1)], dim=-1)
        logits = method(with_regions(batch, nothing)).logits
        torch.testing.assert_close(logits.flatten(1), method.classifier(z))


class TestEhr:
    def test_without_ehr_there_is_no_fusion(self) -> None:
        method, batch = build(ehr=False), films_of(ehr=False)
        assert method.fusion is None
        assert batch.ehr_values.shape[1] == 0
        assert torch.isfinite(method(batch).logits).all()

    def test_a_padded_hour_changes_nothing_a_valid_one_does(self) -> None:
        method, batch = build(), films_of()
        short = batch.ehr_valid.clone()
        short[0, 6:] = False
        cut = replace(batch, ehr_valid=short)
        values = batch.ehr_values.clone()
        values[0, 6:] = 9
        torch.testing.assert_close(
            method(replace(cut, ehr_values=values)).logits, method(cut).logits
        )
        assert not same(method(cut).logits[0], method(batch).logits[0])

    @EVERY_TASK
    def test_a_sample_without_hours(self, task: Task) -> None:
        method, batch = build(task).train(), films_of(task)
        for row in range(len(batch)):
            batch = without_ehr_of(batch, row)
        logits = method(batch).logits
        logits.sum().backward()
        assert torch.isfinite(logits).all()
        grads = [p.grad for p in method.parameters() if p.grad is not None]
        assert all(torch.isfinite(g).all() for g in grads)

    def test_every_pair_reads_the_hours(self) -> None:
        method, batch = build(Task.MORTALITY), films_of(Task.MORTALITY)
        queries: list[tuple[int, ...]] = []
        for module in method.modules():
            if isinstance(module, Attention):
                module.register_forward_pre_hook(lambda _, x: queries.append(tuple(x[0].shape)))
        method(batch)
        n, n_pairs = batch.pair_valid.shape
        assert queries[-1] == (n, n_pairs * (R + 2), TINY.d_model)


class TestTraining:
    @EVERY_TASK
    def test_gradients_reach_every_part(self, task: Task) -> None:
        config = replace(TINY, dropout=0.0, ehr_dropout=0.0)
        method, batch = build(task, config).train(), films_of(task)
        assert batch.targets is not None
        task_loss(task, method(batch).logits, batch.targets, torch.ones(7, 3)).backward()
        silent = [n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()]
        assert not silent

    def test_every_disease_trains_its_own_logits(self) -> None:
        method, batch = build(), films_of()
        assert batch.targets is not None
        labels = torch.arange(len(batch))[:, None] % 3 + torch.zeros(7, dtype=torch.int64)
        logits = method(batch).logits
        for disease in range(7):
            one = torch.full_like(labels, 3)
            one[:, disease] = labels[:, disease]
            targets = replace(batch.targets, progression=one)
            loss = task_loss(Task.DISEASE_PROGRESSION, logits, targets, torch.ones(7, 3))
            (gradient,) = torch.autograd.grad(loss, method.classifier[-1].weight, retain_graph=True)
            moved = gradient.unflatten(0, (7, 3)).any(dim=-1)
            assert moved.tolist() == [[d == disease] * 3 for d in range(7)]

    @EVERY_TASK
    def test_four_samples_can_be_learnt_from_films_alone(self, task: Task, cohort: Cohort) -> None:
        cxr = Cxr.LONG if task.is_icu else Cxr.PAIR
        case = Case(resolve(Request("chexrelnet", task, cxr, 0, ehr=False)), cohort)
        assert check_learning(case) is None

    @pytest.mark.parametrize("where", ["regions", "films"])
    def test_learns_which_film_has_the_finding(self, where: str) -> None:
        """Planted: a bright square in the second film only is worsened, in the first improved."""
        method = build(config=replace(TINY, dropout=0.0), ehr=False).train()
        optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
        for step in range(70):
            batch, labels = planted(where, seed=step)
            optimizer.zero_grad()
            logits = method(batch).logits
            F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(7)).backward()
            optimizer.step()
        batch, labels = planted(where, seed=1000, n=64)
        predicted = method.eval()(batch).logits.argmax(-1)
        assert (predicted == labels[:, None]).float().mean() > 0.9

    def test_crops_and_films_share_their_batch_statistics(self) -> None:
        method, batch = build(ehr=False).train(), films_of(ehr=False)
        calls: list[int] = []
        method.embed.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
        method(batch)
        assert calls == [int(batch.region_present.sum() + batch.film_valid.sum())]

    def test_dropout_is_on_attention_nodes_and_trunk(self) -> None:
        method = build(ehr=False)
        rates = {n: m.p for n, m in method.named_modules() if isinstance(m, nn.Dropout)}
        parts = ("graph.first.dropout", "graph.second.dropout", "graph.dropout", "classifier.2")
        assert rates == dict.fromkeys(parts, 0.5)


class TestFrozen:
    @pytest.fixture
    def pretrained(self, tmp_path: Path) -> CheXRelNetConfig:
        torch.manual_seed(1)
        file = tmp_path / "small.pt"
        torch.save(ImageEncoder("small", "none").network.state_dict(), file)
        return replace(TINY, weights=str(file))

    def test_pretrained_weights_and_statistics_stay(self, pretrained: CheXRelNetConfig) -> None:
        method, batch = build(config=pretrained).train(), films_of()
        before = {n: t.clone() for n, t in method.embed.state_dict().items()}
        optimizer = torch.optim.AdamW(method.parameters(), lr=0.1)
        method(batch).logits.sum().backward()
        optimizer.step()
        assert all(torch.equal(t, before[n]) for n, t in method.embed.state_dict().items())
        assert method.film.weight.grad is not None

    def test_unless_asked_otherwise(self, pretrained: CheXRelNetConfig) -> None:
        method, batch = build(config=replace(pretrained, freeze=False)).train(), films_of()
        before = {n: t.clone() for n, t in method.embed.named_buffers()}
        method(batch).logits.sum().backward()
        assert any(not torch.equal(t, before[n]) for n, t in method.embed.named_buffers())
        assert all(p.grad is not None for p in method.embed.parameters())

    def test_weights_from_scratch_are_trained(self) -> None:
        assert all(p.requires_grad for p in build().embed.parameters())


SHOWN = torch.tensor([[0, 1], [1, 0], [0, 0], [1, 1]])
"""In which film a finding shows: worsened, improved, twice no change; one film never tells."""


def planted(where: str, seed: int, n: int = 24) -> tuple[Batch, Tensor]:
    """Pairs of noise with a bright square in a region's crop, or in the film; class of each."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.arange(n) % 4
    batch = random_batch(Task.DISEASE_PROGRESSION, n, ehr=False)
    crops, films = (
        torch.randint(0, 100, (n, 2, *shape), dtype=torch.uint8, generator=generator)
        for shape in ((R, 16, 16), (32, 32))
    )
    square = (120 * SHOWN[kind]).to(torch.uint8)[..., None, None]
    if where == "regions":
        crops[:, :, 3, 4:12, 4:12] += square
    else:
        films[:, :, 6:18, 6:18] += square
    present = torch.ones(n, 2, R, dtype=torch.bool)
    return replace(batch, films=films, regions=crops, region_present=present), kind.clamp_max(2)
