"""SDPL: size, one map per symptom, labels of films, comparison of pairs. See test_contract."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.config import Request, resolve
from bench.contract import Preset, TaskSpec
from bench.contract_checks import (
    Case,
    check_learning,
    difference,
    padded,
    with_films_exchanged,
    without_dropout,
)
from bench.data.batch import Batch
from bench.data.cohort import Cohort
from bench.data.vocabulary import DISEASES, FINDING_UNKNOWN, Cxr, Split, Task
from bench.errors import UserError
from bench.objective import task_loss
from methods.baselines.sdpl import Sdpl, SdplConfig, SymptomDisentangler
from tests.methods.random_batches import random_batch, take, without_ehr_of

PROGRESSION = Task.DISEASE_PROGRESSION
EVERY_TASK = pytest.mark.parametrize("task", list(Task))
WITH_OR_WITHOUT_EHR = pytest.mark.parametrize("ehr", [True, False])
PAPER = SdplConfig()
TINY = SdplConfig(
    channels="8,16",
    blocks="1,1",
    heads="1,2",
    reductions="2,1",
    query_heads=2,
    symptom_width=6,
    d_model=16,
    film_size=32,
)
PLACES = 4 * 4
"""Of a film's map in the TINY configuration."""


def build(task: Task = PROGRESSION, config: SdplConfig = TINY, ehr: bool = True) -> Sdpl:
    torch.manual_seed(0)
    cxr = Cxr.LONG if task.is_icu else Cxr.PAIR
    return Sdpl(config, TaskSpec(task, cxr, ehr)).eval()


def lively(task: Task = PROGRESSION, ehr: bool = True) -> Sdpl:
    """A method whose weights and batch statistics make every difference visible."""
    method = build(task, ehr=ehr)
    for parameter in method.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, 0, 0.3)
    for norm in (m for m in method.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 1.0
    method.train()
    method(films_of(task, ehr))
    return method.eval()


def films_of(task: Task = PROGRESSION, ehr: bool = True, n: int = 4) -> Batch:
    return random_batch(task, n, size=0, film_size=32, ehr=ehr)


def symptom_maps(method: Sdpl, films: Tensor) -> Tensor:
    """V of films, uint8 [N, S, S]: float [N, 7, e, h, w]."""
    return method.disentangle(method._film_maps(films))


def with_findings(batch: Batch, findings: Tensor) -> Batch:
    assert batch.targets is not None
    return replace(batch, targets=replace(batch.targets, findings=findings))


def only_finding(batch: Batch, row: int, film: int, disease: int, value: int = 1) -> Batch:
    assert batch.targets is not None
    findings = torch.full_like(batch.targets.findings, FINDING_UNKNOWN)
    findings[row, film, disease] = value
    return with_findings(batch, findings)


def n_parameters(method: nn.Module) -> int:
    return sum(p.numel() for p in method.parameters())


def silent(method: nn.Module) -> list[str]:
    """Parameters without a gradient."""
    return [n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()]


class TestSize:
    def test_counts_of_the_released_codes_live_parts(self) -> None:
        # On no memory: numbers of parameters need no values.
        with torch.device("meta"):
            images_only, with_ehr = build(config=PAPER, ehr=False), build(config=PAPER)
            larger = build(config=replace(PAPER, film_size=256), ehr=False)
        assert n_parameters(images_only.encoder) == 28_937_408
        assert n_parameters(images_only) == 29_531_380
        assert n_parameters(with_ehr) == 30_620_596
        # 32,167,108 - 32,163,658 there: the refinement of attention over 64 instead of 49 places
        assert n_parameters(larger) - n_parameters(images_only) == 3450

    @pytest.mark.slow
    def test_a_pair_costs_what_the_released_code_costs(self) -> None:
        method = build(config=PAPER, ehr=False)
        batch = random_batch(PROGRESSION, n=1, size=0, film_size=224, ehr=False)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            assert method(batch).logits.shape == (1, 7, 3)
        # 6.98e9 multiplications there by a counter that leaves attention's products out
        assert 6.9e9 < counter.get_total_flops() / 2 < 7.5e9

    @pytest.mark.parametrize(("film_size", "side"), [(224, 7), (256, 8), (200, 7)])
    def test_places_follow_the_size_of_films(self, film_size: int, side: int) -> None:
        four = SdplConfig(
            "8,8,8,8", "1,1,1,1", "1,1,1,1", "8,4,2,1", query_heads=2, symptom_width=6
        )
        method = build(config=replace(four, film_size=film_size))
        films = torch.randint(0, 256, (2, 32, 32), dtype=torch.uint8)
        assert symptom_maps(method, films).shape == (2, 7, TINY.symptom_width, side, side)

    def test_presets_change_sizes_only(self) -> None:
        paper = Sdpl.configure(Preset.PAPER, Task.MORTALITY)
        assert paper == SdplConfig()
        for preset in (Preset.DEMO, Preset.MEDIUM):
            small = Sdpl.configure(preset, Task.MORTALITY)
            assert (small.dropout, small.drop_path) == (paper.dropout, paper.drop_path)
            assert small.loss_weights() == paper.loss_weights()
            assert small.d_model < paper.d_model

    def test_the_progression_loss_becomes_a_mean_over_diseases(self) -> None:
        config = Sdpl.configure(Preset.DEMO, PROGRESSION)
        assert config.loss_weights() == {"task": pytest.approx(1 / 7), "symptoms": 2.0}

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"channels": "8,x"}, "model.channels is '8,x'"),
            ({"blocks": "0,1"}, "model.blocks is '0,1'"),
            ({"blocks": "1"}, "one number per stage"),
            ({"query_heads": 3}, "model.query_heads is 3"),
        ],
    )
    def test_refuses_bad_sizes(self, changes: dict[str, Any], says: str) -> None:
        with pytest.raises(UserError, match=says):
            replace(TINY, **changes)

    def test_its_own_recipe_is_a_training_configuration(self) -> None:
        request = Request(
            "methods.baselines.sdpl:Sdpl", PROGRESSION, Cxr.PAIR, 1, recipe="reference"
        )
        assert resolve(request).training.lr == 6e-5


class TestSettings:
    def test_declines_what_is_no_pair(self) -> None:
        assert "two films" in (Sdpl.decline(Task.MORTALITY, Cxr.LAST, True) or "")
        assert "ehr_transformer" in (Sdpl.decline(PROGRESSION, Cxr.NONE, True) or "")
        assert Sdpl.decline(PROGRESSION, Cxr.PAIR, False) is None
        assert Sdpl.decline(Task.MORTALITY, Cxr.LONG, True) is None

    def test_initial_weights_are_the_released_codes(self) -> None:
        method = build(config=replace(TINY, channels="8,64", symptom_width=64))
        layers = [
            m
            for part in (method.disentangle, method.compare)
            for m in part.modules()
            if isinstance(m, nn.Linear | nn.Conv2d | nn.BatchNorm2d)
        ]
        assert len(layers) == 15
        for layer in layers:
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.4)
            centre = 1.0 if isinstance(layer, nn.BatchNorm2d) else 0.0
            assert layer.weight.mean().item() == pytest.approx(centre, abs=0.01)
            assert layer.bias is None or not layer.bias.any()

    def test_films_are_scaled_to_minus_one_to_one_at_one_size(self) -> None:
        method, seen = build(), []
        method.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        films = torch.zeros(2, 16, 16, dtype=torch.uint8)
        films[1] = 255
        for size in (16, 32, 64):
            grown = films[:, :1, :1].expand(-1, size, size)
            method._film_maps(grown)
            assert seen[-1].shape == (2, 3, 32, 32)
            assert (seen[-1][0] == -1).all()
            torch.testing.assert_close(seen[-1][1], torch.ones(3, 32, 32))


class TestSymptoms:
    def test_attention_doubles_and_refines_its_logits(self) -> None:
        torch.manual_seed(0)
        part = SymptomDisentangler(12, n_places=9, width=4, n_heads=3, drop_path=0.1).eval()
        places = torch.randn(2, 9, 12)
        with torch.no_grad():
            q = part.to_query(part.query_norm(part.queries))
            k = part.to_key(part.key_norm(places))
            for head in range(3):
                own = slice(4 * head, 4 * head + 4)
                doubled = 2 * (q[:, own] @ k[..., own].transpose(1, 2)) / 4**0.5
                expected = doubled + part.refine(doubled)
                torch.testing.assert_close(part.attention(places)[:, :, head], expected)

    @WITH_OR_WITHOUT_EHR
    def test_a_query_is_its_symptoms_own(self, ehr: bool) -> None:
        method, batch = lively(ehr=ehr), films_of(ehr=ehr)
        films = batch.films[:, 0]
        with torch.no_grad():
            maps, logits = symptom_maps(method, films), method(batch).logits
            # Not a constant, which the norm of queries would remove.
            method.disentangle.queries[3] += torch.randn(method.disentangle.queries.shape[1])
            moved = (symptom_maps(method, films) - maps).abs().amax(dim=(0, 2, 3, 4))
            changed = (method(batch).logits - logits).abs().amax(dim=(0, 2))
        others = [c for c in range(len(DISEASES)) if c != 3]
        assert moved[3] > 1e-3
        assert changed[3] > 1e-4
        assert not moved[others].any()
        assert not changed[others].any()

    def test_in_the_released_layout_a_query_is_a_head_of_all_symptoms(self) -> None:
        method, films = lively(), films_of().films[:, 0]
        part = method.disentangle
        part.released_layout = True
        with torch.no_grad():
            flat = part.to_query(part.query_norm(part.queries)).flatten()
            by_head = part.queries_by_head()
            for head in range(2):
                for c in range(len(DISEASES)):
                    start = 8 * (head * len(DISEASES) + c)
                    assert torch.equal(by_head[c, head], flat[start : start + 8])
            maps = symptom_maps(method, films)
            part.queries[3] += torch.randn(part.queries.shape[1])
            moved = (symptom_maps(method, films) - maps).abs().amax(dim=(0, 2, 3, 4)) > 1e-3
        assert moved.sum() > 1

    def test_of_the_configuration_is_the_layout(self) -> None:
        config = replace(TINY, released_query_layout=True)
        assert build(config=config).disentangle.released_layout
        assert not build().disentangle.released_layout

    def test_a_film_is_read_without_its_partner(self) -> None:
        method, batch = lively(), only_finding(films_of(), row=1, film=0, disease=2)
        white = batch.films.clone()
        white[1, 1], white[0] = 255, 255
        expected = method(batch).losses["symptoms"]
        other = method(replace(batch, films=white))
        torch.testing.assert_close(other.losses["symptoms"], expected)
        assert not torch.allclose(other.logits[1], method(batch).logits[1])

    def test_loss_is_the_mean_over_labelled_findings(self) -> None:
        method, batch = lively(), films_of()
        V = symptom_maps(method, batch.films[2, 1][None])
        logit = method.symptoms(V.mean(dim=(-2, -1)))[0, :, 0]
        shown = only_finding(batch, row=2, film=1, disease=5)
        expected = nn.functional.softplus(-logit[5])
        torch.testing.assert_close(method(shown).losses["symptoms"], expected)
        assert shown.targets is not None
        both = shown.targets.findings.clone()
        both[2, 1, 0] = 0
        expected = (expected + nn.functional.softplus(logit[0])) / 2
        two = with_findings(batch, both)
        torch.testing.assert_close(method(two).losses["symptoms"], expected)

    def test_unlabelled_findings_add_nothing(self) -> None:
        method, batch = lively(), films_of()
        assert batch.targets is not None
        nothing = torch.full_like(batch.targets.findings, FINDING_UNKNOWN)
        loss = method(with_findings(batch, nothing)).losses["symptoms"]
        assert loss == 0
        loss.backward()
        assert len(silent(method)) == len(list(method.parameters()))

    def test_a_cohort_without_labelled_training_films_is_remarked(self, cohort: Cohort) -> None:
        training = cohort.split_of_stays()[cohort.films["stay"].to_numpy()] == Split.TRAIN
        findings = np.full_like(cohort.arrays["findings"], FINDING_UNKNOWN)
        findings[~training] = 1
        bare = replace(cohort, arrays={**cohort.arrays, "findings": findings})
        (remark,) = build().remarks(bare)
        assert "the loss 'symptoms' is 0" in remark and "\n" not in remark
        findings[training.argmax(), 2] = 0
        assert build().remarks(bare) == []
        assert build().remarks(cohort) == []

    def test_an_unlabelled_symptom_gets_no_gradient(self) -> None:
        method = lively()
        method(only_finding(films_of(), row=0, film=0, disease=4)).losses["symptoms"].backward()
        gradient = method.disentangle.queries.grad
        assert gradient is not None
        assert gradient.any(dim=1).tolist() == [c == 4 for c in range(len(DISEASES))]

    def test_planted_findings_are_learnt(self) -> None:
        """Each finding is a bright square at a place of its own."""
        torch.manual_seed(0)
        method = build(config=replace(TINY, dropout=0.0, drop_path=0.0), ehr=False).train()
        findings = torch.randint(0, 2, (48, 2, 7))
        squares = torch.zeros(48, 2, 16, dtype=torch.uint8)
        squares[..., 2:9] = (255 * findings).to(torch.uint8)
        films = squares.unflatten(-1, (4, 4)).repeat_interleave(8, -1).repeat_interleave(8, -2)
        blank = random_batch(PROGRESSION, 48, size=0, film_size=32, ehr=False)
        batch = with_findings(replace(blank, films=films), findings)
        optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
        for _ in range(60):
            loss = method(batch).losses["symptoms"]
            if loss < 0.2:
                return
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        pytest.fail(f"the loss is still {loss:.2f}")


class TestComparison:
    def test_swapping_films_swaps_symptoms_but_not_changes(self) -> None:
        method, batch = lively(), films_of()
        swapped = with_films_exchanged(batch)
        assert batch.targets is not None
        assert swapped.targets is not None
        labels = with_findings(swapped, swapped.targets.findings[:, [1, 0]])
        expected, output = method(batch), method(labels)
        torch.testing.assert_close(output.losses["symptoms"], expected.losses["symptoms"])
        assert (output.logits - expected.logits).abs().max() > 1e-3

    def test_equal_films_are_concatenated_not_subtracted(self) -> None:
        method, batch = lively(), films_of()
        V = symptom_maps(method, batch.films[:, 0])
        p = method.compare(V, V)
        assert p.shape == (4, 7, TINY.symptom_width)
        assert p.any()

    @WITH_OR_WITHOUT_EHR
    def test_a_stay_is_the_mean_of_its_pairs(self, ehr: bool) -> None:
        method, batch = lively(Task.LENGTH_OF_STAY, ehr), films_of(Task.LENGTH_OF_STAY, ehr)
        T = batch.film_valid.shape[1]
        assert T > 2
        logits = method(batch).logits
        for row in range(len(batch)):
            stay = take(batch, [row]).without_targets()
            pairs = [
                replace(
                    stay,
                    films=stay.films[:, t : t + 2],
                    film_valid=stay.film_valid[:, t : t + 2],
                    pair_valid=stay.pair_valid[:, t : t + 1],
                )
                for t in range(stay.pair_valid.shape[1])
            ]
            mean = torch.stack([method(pair).logits for pair in pairs]).mean(dim=0)
            torch.testing.assert_close(logits[row : row + 1], mean)

    def test_padding_films_and_hours_changes_nothing(self) -> None:
        method, batch = lively(), films_of()
        torch.testing.assert_close(method(padded(batch)).logits, method(batch).logits)

    @EVERY_TASK
    def test_padding_in_training(self, task: Task) -> None:
        batch = films_of(task)
        one, other = (without_dropout(lively(task)) for _ in range(2))
        seen, expected = one(padded(batch, n_films=3)), other(batch)
        assert difference("logits", seen.logits, expected.logits) is None
        assert difference("loss", seen.losses["symptoms"], expected.losses["symptoms"]) is None
        for (name, value), buffer in zip(one.named_buffers(), other.buffers(), strict=True):
            assert difference(name, value, buffer) is None


class TestEhr:
    def test_is_read_where_there_is_any(self) -> None:
        method, batch = lively(), films_of()
        sicker = replace(batch, ehr_values=batch.ehr_values + 1)
        assert (method(sicker).logits - method(batch).logits).abs().max() > 1e-3
        one = without_ehr_of(batch, 1)
        logits = method(replace(one, ehr_values=sicker.ehr_values)).logits
        assert torch.isfinite(logits).all()
        torch.testing.assert_close(logits[1], method(one).logits[1])

    @EVERY_TASK
    def test_without_it_the_comparison_itself_is_classified(self, task: Task) -> None:
        method, batch = lively(task, ehr=False), films_of(task, ehr=False)
        assert (method.tokens, method.fusion) == (None, None)
        V = symptom_maps(method, batch.films[0, :2])
        p = method.compare(V[:1], V[1:])[0]
        first_pair = take(batch, [0]).without_targets()
        first_pair = replace(
            first_pair,
            films=first_pair.films[:, :2],
            film_valid=first_pair.film_valid[:, :2],
            pair_valid=first_pair.pair_valid[:, :1],
        )
        features = [p.flatten()] if task.is_icu else list(p)
        pairs = zip(method.heads, features, strict=True)
        expected = torch.stack([head(x) for head, x in pairs])
        torch.testing.assert_close(method(first_pair).logits[0], expected.squeeze(0))


class TestTraining:
    @EVERY_TASK
    def test_gradients_of_the_task_reach_all_but_the_classifier_of_symptoms(
        self, task: Task
    ) -> None:
        method, batch = lively(task), films_of(task)
        output = method(batch)
        assert batch.targets is not None
        task_loss(task, output.logits, batch.targets, torch.ones(7, 3)).backward()
        assert silent(method) == ["symptoms.weight", "symptoms.bias"]
        method(batch).losses["symptoms"].backward()
        assert silent(method) == []

    @EVERY_TASK
    def test_four_samples_can_be_learnt_from_films_alone(self, task: Task, cohort: Cohort) -> None:
        cxr = Cxr.LONG if task.is_icu else Cxr.PAIR
        case = Case(resolve(Request("sdpl", task, cxr, 0, ehr=False)), cohort)
        assert check_learning(case) is None

    def test_learns_which_film_has_the_finding(self) -> None:
        """Planted: a bright square in the second film only is worsened, in the first improved."""
        method = build(config=replace(TINY, dropout=0.0, drop_path=0.0), ehr=False).train()
        optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
        for step in range(90):
            batch, labels = planted_change(seed=step)
            optimizer.zero_grad()
            logits = method(batch).logits
            nn.functional.cross_entropy(
                logits.flatten(0, 1), labels.repeat_interleave(7)
            ).backward()
            optimizer.step()
        batch, labels = planted_change(seed=1000, n=48)
        predicted = method.eval()(batch).logits.argmax(-1)
        assert (predicted == labels[:, None]).float().mean() > 0.85

    def test_one_sample_can_be_trained_on(self) -> None:
        method = lively().train()
        output = method(films_of(n=1))
        (output.logits.sum() + output.losses["symptoms"]).backward()
        assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def planted_change(seed: int, n: int = 24) -> tuple[Batch, Tensor]:
    """Pairs of noise with a bright square in the second film, the first, or neither; classes."""
    generator = torch.Generator().manual_seed(seed)
    films = torch.randint(0, 100, (n, 2, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.arange(n) % 3
    shown = torch.tensor([[0, 1], [1, 0], [0, 0]])[labels]
    films[:, :, 6:18, 6:18] += (120 * shown).to(torch.uint8)[..., None, None]
    return replace(random_batch(PROGRESSION, n, size=0, ehr=False), films=films), labels
