"""CheXRelFormer: size, start, comparison at every scale, pairs, EHR. See test_contract."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.config import Request, resolve
from bench.contract import Preset, TaskSpec
from bench.contract_checks import (
    Case,
    check_learning,
    with_films_exchanged,
    without_dropout,
)
from bench.data.batch import Batch
from bench.data.cohort import Cohort
from bench.data.vocabulary import Cxr, Task
from bench.errors import UserError
from bench.objective import task_loss
from methods.baselines.chexrelformer import (
    CheXRelFormer,
    CheXRelFormerConfig,
    LearntDifference,
    PairDecoder,
    PairNorm,
    at_finest,
    coarse_to_fine,
    resize,
)
from tests.methods.learning import assert_padding_is_not_learned
from tests.methods.random_batches import random_batch, take, without_ehr_of

EVERY_TASK = pytest.mark.parametrize("task", list(Task))
PAIR = Task.DISEASE_PROGRESSION
TINY = CheXRelFormerConfig(
    "8,8,16,16",
    "1,1,1,1",
    "1,1,2,2",
    "2,1,1,1",
    dropout=0.0,
    drop_path=0.0,
    d_model=16,
    film_size=64,
)


def build(task: Task = PAIR, config: CheXRelFormerConfig = TINY, ehr: bool = True) -> CheXRelFormer:
    """A method in evaluation mode, its weights large enough that effects are seen."""
    torch.manual_seed(0)
    method = CheXRelFormer(config, TaskSpec(task, Cxr.LONG if task.is_icu else Cxr.PAIR, ehr))
    for name, parameter in method.named_parameters():
        if parameter.ndim > 1 and "fusion" not in name:
            nn.init.normal_(parameter, 0, 1 / parameter[0].numel() ** 0.5)
    return method.eval()


def films_of(task: Task = PAIR, ehr: bool = True, n: int = 4, film_size: int = 64) -> Batch:
    return random_batch(task, n, size=0, film_size=film_size, ehr=ehr)


def n_parameters(method: nn.Module) -> int:
    return sum(p.numel() for p in method.parameters())


def same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5)


class TestSize:
    def test_the_papers_parameter_counts(self) -> None:
        # On no memory: numbers of parameters need no values.
        with torch.device("meta"):
            config = CheXRelFormerConfig()
            film_only = CheXRelFormer(config, TaskSpec(PAIR, Cxr.PAIR, ehr=False))
            with_ehr = CheXRelFormer(config, TaskSpec(PAIR, Cxr.PAIR))
            absolute = PairDecoder((64, 128, 320, 512), 256, "absolute")
            last, last_absolute = (
                CheXRelFormer(
                    replace(config, scales="last", comparison=comparison),
                    TaskSpec(PAIR, Cxr.PAIR, ehr=False),
                )
                for comparison in ("learnt", "absolute")
            )
        assert n_parameters(film_only.encoder) == 28_937_408
        assert n_parameters(film_only) == 36_546_243 - 771 + 5_397
        assert n_parameters(with_ehr) == 37_619_413
        assert n_parameters(absolute) + 28_937_408 + 771 == 29_464_259
        # 31.89 and 28.94 million there, with one finding's three logits instead of 21.
        assert n_parameters(last) - 18 * 257 == 31_888_323
        assert n_parameters(last_absolute) - 18 * 513 == 28_937_408 + 1_539

    @pytest.mark.slow
    def test_a_pair_costs_what_the_dipro_paper_says(self) -> None:
        method = CheXRelFormer(
            replace(CheXRelFormerConfig(), film_size=256), TaskSpec(PAIR, Cxr.PAIR, ehr=False)
        )
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            method.eval()(films_of(ehr=False, n=1, film_size=256))
        # 19.95 GFLOPs are multiply-adds without those of attention, which count 0.40 here.
        assert counter.get_total_flops() / 2e9 == pytest.approx(19.93 + 0.40, abs=0.05)

    def test_presets_change_sizes_only(self) -> None:
        paper = CheXRelFormer.configure(Preset.PAPER, PAIR)
        assert paper == CheXRelFormerConfig()
        for preset in (Preset.DEMO, Preset.MEDIUM):
            small = CheXRelFormer.configure(preset, PAIR)
            assert small.d_model < paper.d_model
            assert (small.dropout, small.drop_path, small.comparison) == (0.1, 0.1, "learnt")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("d_model", 20),
            ("comparison", "sum"),
            ("film_size", -1),
            ("channels", "8"),
            ("scales", "first"),
            ("fusion_query", "film"),
        ],
    )
    def test_refuses_bad_sizes(self, field: str, value: object) -> None:
        with pytest.raises(UserError, match=rf"model\.{field}"):
            replace(TINY, **{field: value})  # type: ignore[arg-type]

    def test_its_own_recipe_is_a_training_configuration(self) -> None:
        name = "methods.baselines.chexrelformer:CheXRelFormer"
        training = resolve(Request(name, PAIR, Cxr.PAIR, 1, recipe="reference")).training
        assert (training.lr, training.batch_size, training.patience) == (6e-5, 4, 100)

    def test_declines_what_is_no_pair(self) -> None:
        decline = CheXRelFormer.decline
        assert "--cxr long" in (decline(Task.MORTALITY, Cxr.LAST, True) or "")
        assert "ehr_transformer" in (decline(Task.MORTALITY, Cxr.NONE, True) or "")
        assert decline(Task.MORTALITY, Cxr.LONG, False) is None
        assert decline(PAIR, Cxr.PAIR, True) is None


def test_start() -> None:
    torch.manual_seed(0)
    method = CheXRelFormer(replace(TINY, d_model=64), TaskSpec(PAIR, Cxr.PAIR))
    norms = [m for m in method.decoder.modules() if isinstance(m, PairNorm)]
    gains = torch.cat([norm.weight for norm in norms])
    assert gains.mean().item() == pytest.approx(1, abs=0.01)
    assert gains.std().item() == pytest.approx(0.02, rel=0.2)
    for module in (*method.decoder.modules(), method.classifier):
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.15)
            assert module.bias is not None
            assert not module.bias.any()


class TestComparison:
    def test_coarse_to_fine_is_a_running_sum(self) -> None:
        Delta = [torch.randn(2, 3, n, n) for n in (16, 8, 4, 2)]
        G1, G2, G3, G4 = coarse_to_fine(Delta)

        def up(x: Tensor) -> Tensor:
            return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

        assert torch.equal(G4, Delta[3])
        torch.testing.assert_close(G3, Delta[2] + up(G4))
        torch.testing.assert_close(G1, Delta[0] + up(Delta[1] + up(G3)))
        joined = at_finest([G1, G2, G3, G4])
        assert joined.shape == (2, 12, 16, 16)
        assert torch.equal(joined[:, 9:], G1)
        torch.testing.assert_close(joined[:, 6:9], up(G2))

    def test_exchanged_films(self) -> None:
        batch = films_of()
        for comparison, moves in (("learnt", True), ("absolute", False)):
            method = build(config=replace(TINY, comparison=comparison))
            logits = method(batch).logits
            assert same(method(with_films_exchanged(batch)).logits, logits) != moves

    def test_equal_films_differ_by_nothing_in_absolute_terms(self) -> None:
        batch = films_of()
        twice = replace(batch, films=batch.films[:, :1].expand(-1, 2, -1, -1))
        method = build(config=replace(TINY, comparison="absolute"))
        seen: list[Tensor] = []
        for part in method.decoder.compare:
            part.register_forward_hook(lambda module, given, Delta: seen.append(Delta))
        method(twice)
        assert len(seen) == 4
        assert not any(Delta.any() for Delta in seen)
        method(batch)
        assert all(Delta.any() for Delta in seen[4:])

    @pytest.mark.parametrize("ehr", [True, False])
    @pytest.mark.parametrize(("comparison", "moves"), [("learnt", True), ("absolute", False)])
    def test_of_the_last_stage_alone(self, comparison: str, moves: bool, ehr: bool) -> None:
        config = replace(TINY, comparison=comparison, scales="last", d_model=24)
        method, batch = build(config=config, ehr=ehr), films_of(ehr=ehr)
        logits = method(batch).logits
        assert same(method(with_films_exchanged(batch)).logits, logits) != moves
        maps = method.encoder(method._scaled(batch.films.flatten(0, 1)))
        both = maps[-1].unflatten(0, (len(batch), 2))
        v = (both[:, 0] - both[:, 1]).abs()
        if comparison == "learnt":
            v = nn.Sequential.forward(method.decoder.compare, both.flatten(1, 2))  # type: ignore[arg-type]
        seen = method._pair_vectors(batch)[:, 0]
        torch.testing.assert_close(seen, v.mean(dim=(-2, -1)), rtol=1e-4, atol=1e-5)
        logits.square().sum().backward()
        assert not [n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()]

    def test_only_the_joined_mean_matters_in_evaluation(self) -> None:
        # Averaging over places commutes with a 1x1 convolution and with running statistics.
        method = build()
        Delta = [torch.randn(3, 16, n, n) for n in (16, 8, 4, 2)]
        joined = at_finest(coarse_to_fine(Delta))
        pooled = joined.mean(dim=(-2, -1), keepdim=True)
        full = method.decoder.fuse(joined).mean(dim=(-2, -1))
        torch.testing.assert_close(full, method.decoder.fuse(pooled).flatten(1))

    def test_a_pair_alone_is_normalised_by_running_statistics(self) -> None:
        norm = PairNorm(4).train()
        x = torch.randn(1, 4, 5, 5) + 3
        torch.testing.assert_close(norm(x), x / (1 + norm.eps) ** 0.5)
        assert not norm.running_mean.any()  # type: ignore[union-attr]
        norm(x.expand(2, -1, -1, -1))
        assert norm.running_mean.any()  # type: ignore[union-attr]

    def test_odd_maps_meet(self) -> None:
        assert resize(torch.rand(1, 2, 2, 3), torch.rand(1, 1, 3, 5)).shape == (1, 2, 3, 5)
        method, batch = build(), films_of(film_size=52)
        assert torch.isfinite(method(batch).logits).all()


class TestPairs:
    def test_each_film_is_encoded_once(self) -> None:
        method, batch = build(Task.MORTALITY), films_of(Task.MORTALITY)
        seen: list[int] = []
        method.encoder.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
        method(batch)
        assert seen == [int(batch.film_valid.sum())]

    def test_films_are_scaled_to_minus_one_to_one(self) -> None:
        films = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None].expand(-1, 64, 64)
        x = build()._scaled(films)
        assert x.shape == (2, 3, 64, 64)
        assert (x[0] == -1).all()
        assert (x[1] == 1).all()

    def test_larger_films_are_averaged_down(self) -> None:
        batch = films_of(film_size=32)
        large = batch.films.repeat_interleave(2, -1).repeat_interleave(2, -2)
        method = build(config=replace(TINY, film_size=32))
        expected = method(batch).logits
        torch.testing.assert_close(method(replace(batch, films=large)).logits, expected)

    def test_smaller_films_are_enlarged(self) -> None:
        assert build()._scaled(torch.full((1, 16, 16), 51.0))[0, 0].unique() == -0.6
        assert (
            build(config=replace(TINY, film_size=128))._scaled(torch.ones(1, 64, 64)).shape[-1]
            == 128
        )

    def test_a_stay_is_the_mean_over_its_pairs(self) -> None:
        method, batch = build(Task.LENGTH_OF_STAY, ehr=False), films_of(Task.LENGTH_OF_STAY, False)
        logits = method(batch).logits
        for row, n_films in enumerate(batch.film_valid.sum(1).tolist()):
            one = take(batch, [row])
            alone = [method(films_cut(one, i, i + 2)).logits for i in range(n_films - 1)]
            torch.testing.assert_close(logits[row], torch.cat(alone).mean(0), rtol=1e-4, atol=1e-5)

    @EVERY_TASK
    def test_padding_in_training(self, task: Task) -> None:
        one, other = (without_dropout(build(task)) for _ in range(2))
        assert_padding_is_not_learned(one, other, films_of(task))

    def test_no_pair_at_all(self) -> None:
        batch = films_of(Task.MORTALITY)
        nothing = torch.zeros_like(batch.film_valid)
        blank = replace(batch, film_valid=nothing, pair_valid=nothing[:, 1:])
        for training in (False, True):
            logits = build(Task.MORTALITY).train(training)(blank).logits
            assert torch.isfinite(logits).all()


def films_cut(batch: Batch, start: int, stop: int) -> Batch:
    """Only the films from `start` until `stop`, and their pairs."""
    by_film = ("films", "film_valid", "film_hours", "regions", "region_present")
    changes = {name: getattr(batch, name)[:, start:stop] for name in by_film}
    pair_valid = batch.pair_valid[:, start : stop - 1]
    return replace(batch.without_targets(), pair_valid=pair_valid, **changes)


class TestEhr:
    def test_withheld_there_are_no_parts_for_it(self) -> None:
        method = build(ehr=False)
        assert method.fusion is None
        batch = films_of(ehr=False)
        v = method._pair_vectors(batch)[:, 0]
        expected = method.classifier(v).unflatten(-1, (7, 3))
        torch.testing.assert_close(method(batch).logits, expected)

    @EVERY_TASK
    def test_a_sample_without_an_hour(self, task: Task) -> None:
        method, batch = build(task).train(), films_of(task)
        bare = without_ehr_of(batch, 1)
        other_values = replace(bare, ehr_values=bare.ehr_values.clone())
        other_values.ehr_values[1] = 7
        output = method(bare)
        output.logits.square().sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
        method.eval()
        torch.testing.assert_close(method(other_values).logits, method(bare).logits)
        assert not same(method(bare).logits[1], method(batch).logits[1])
        assert same(method(bare).logits[0], method(batch).logits[0])

    def test_hours_and_demographics_are_read(self) -> None:
        method, batch = build(), films_of()
        logits = method(batch).logits
        for name in ("ehr_values", "demographics"):
            moved = replace(batch, **{name: getattr(batch, name) + 1})
            assert not same(method(moved).logits, logits), name


class TestTraining:
    @EVERY_TASK
    @pytest.mark.parametrize("ehr", [True, False])
    def test_no_parameter_is_dead(self, task: Task, ehr: bool) -> None:
        method, batch = build(task, ehr=ehr).train(), films_of(task, ehr, n=8)
        assert batch.targets is not None
        task_loss(task, method(batch).logits, batch.targets, torch.ones(7, 3)).backward()
        silent = [n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()]
        assert not silent

    @pytest.mark.parametrize("scale", range(4))
    def test_each_scale_alone_learns(self, scale: int) -> None:
        method, batch = build().train(), films_of()
        for i, compare in enumerate(method.decoder.compare):
            if i != scale:
                compare.register_forward_hook(lambda module, given, Delta: Delta * 0)
        method(batch).logits.square().sum().backward()
        for i, (stage, compare) in enumerate(
            zip(method.encoder.stages, method.decoder.compare, strict=True)
        ):
            assert isinstance(compare, LearntDifference)
            assert has_gradient(compare) == (i == scale)
            assert has_gradient(stage) == (i <= scale)

    @EVERY_TASK
    def test_four_samples_can_be_learnt_from_films_alone(self, task: Task, cohort: Cohort) -> None:
        cxr = Cxr.LONG if task.is_icu else Cxr.PAIR
        case = Case(resolve(Request("chexrelformer", task, cxr, 0, ehr=False)), cohort)
        assert check_learning(case) is None

    def test_outputs_are_logits(self) -> None:
        method, batch = build(), films_of()
        logits = method(batch).logits
        assert not same(logits.sum(-1), torch.ones_like(logits.sum(-1)))
        labels = logits.argmax(-1)
        with torch.no_grad():
            method.classifier.weight *= 1000
            method.classifier.bias *= 1000
        loss = F.cross_entropy(method(batch).logits.flatten(0, 1), labels.flatten())
        assert loss < 0.3  # behind a softmax it could not fall below 0.55

    def test_a_double_softmax_keeps_the_loss_above_055(self) -> None:
        method, batch = build(config=replace(TINY, double_softmax=True)), films_of()
        logits = method(batch).logits
        assert torch.equal(logits, build()(batch).logits)
        with torch.no_grad():
            method.classifier.weight *= 1000
            method.classifier.bias *= 1000
        given = method.train()(batch).logits
        torch.testing.assert_close(given.sum(-1), torch.ones(given.shape[:-1]))
        loss = F.cross_entropy(given.flatten(0, 1), given.argmax(-1).flatten())
        assert 0.5514 < loss < 0.6  # ln(1 + 2 / e) is 0.55144

    def test_the_softmax_of_one_logit_is_refused(self) -> None:
        with pytest.raises(UserError, match=r"model\.double_softmax"):
            build(Task.MORTALITY, replace(TINY, double_softmax=True))

    def test_learns_which_film_has_the_finding(self) -> None:
        """Planted: a bright spot in the second film only is worsened, in the first improved."""
        torch.manual_seed(0)
        method = CheXRelFormer(TINY, TaskSpec(PAIR, Cxr.PAIR, ehr=False)).train()
        optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
        for step in range(60):
            batch, labels = planted(seed=step)
            optimizer.zero_grad()
            logits = method(batch).logits
            F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(7)).backward()
            optimizer.step()
        batch, labels = planted(seed=1000, n=48)
        predicted = method.eval()(batch).logits.argmax(-1)
        assert (predicted == labels[:, None]).float().mean() > 0.85


def has_gradient(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def planted(seed: int, n: int = 12) -> tuple[Batch, Tensor]:
    """Pairs of noise with a bright spot somewhere in one film, or none, and the class of each."""
    generator = torch.Generator().manual_seed(seed)
    films = torch.randint(0, 100, (n, 2, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.arange(n) % 3
    for i, label in enumerate(labels.tolist()):
        y, x = torch.randint(0, 20, (2,), generator=generator).tolist()
        if label < 2:
            films[i, 1 - label, y : y + 12, x : x + 12] += 120
    return replace(random_batch(PAIR, n, size=0, ehr=False), films=films), labels
