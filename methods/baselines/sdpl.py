"""SDPL: one feature map per symptom and film, compared between the films of a pair.

Zhu, Xu, Lyu, Yuen, "Symptom Disentanglement in Chest X-ray Images for Fine-Grained Progression
Learning", MICCAI 2024, LNCS 15001:598-607. A pyramid Transformer encodes each film; learnt queries,
one per symptom and taught by the film's own findings, weigh the places of its map; the two maps of
a symptom are concatenated to predict its change. No attention joins the two times. Symptoms are the
benchmark's seven diseases. EHR, fusion and longer stays are the DiPro paper's variant (appendix
A.2.2): each pair of neighbouring films is compared, and the mean over pairs classifies a stay.
Differences from the released code:

- every symptom has its own query: there a reshape without a transpose gives query j to head j of
  all symptoms, so that the attention is not the symptom's own (`released_query_layout` does so);
- parts that reach no output are left out (value half, output and feed-forward of the query decoder,
  a third convolution, unused norms and heads; 2.6 million parameters that never learn);
- films are 224 px a side, as for every method here, and the number of places follows from that;
  there they are 256 px, and 8 x 8 places are written into the code;
- no random flips, crops or colours, as for every method here;
- an unlabelled finding or change adds nothing, there a batch without any divides by zero;
- the findings' loss is one mean over all films, there one over the first and one over the second;
- the task's loss weighs classes and is a mean over seven diseases, not over those of a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contract import Output, Preset, Recipe, TaskSpec
from bench.data.batch import Batch, Inputs
from bench.data.cohort import Cohort
from bench.data.vocabulary import DISEASES, FINDING_UNKNOWN, Cxr, Task
from bench.errors import UserError
from methods.base import Method, needs_two_films
from methods.encoders import mean_of_valid, to_size
from methods.findings import has_findings
from methods.fusion import QUERIES, EhrFusion
from methods.pyramid import (
    FIRST_STRIDE,
    INITIAL_SD,
    STRIDE,
    DropPath,
    PyramidConfig,
    PyramidEncoder,
    initialise,
)


@dataclass(frozen=True)
class SdplConfig(PyramidConfig):
    """Sizes and loss weights of SDPL.

    query_heads: heads h of the symptom queries
    symptom_width: channels e of a symptom's map
    d_model: width of the tokens that are fused with EHR; there are none without
    film_size: every film is brought to this many pixels a side, as the attention over places is
        refined by layers of their number
    task_weight: of the task loss; 1/7 turns the progression loss, a sum, into a mean over diseases
    symptom_weight: of the findings' loss, a mean over films; 2 as each of two films has weight 1
    fusion_query: what looks at what when EHR is fused, 'image' or 'ehr', see `EhrFusion`
    released_query_layout: cut queries into heads as the released code does, see
        `SymptomDisentangler.queries_by_head`
    """

    query_heads: int = 8
    symptom_width: int = 64
    d_model: int = 256
    film_size: int = 224
    task_weight: float = 1.0
    symptom_weight: float = 2.0
    fusion_query: str = "image"
    released_query_layout: bool = False

    choices = {"fusion_query": QUERIES}
    least = dict.fromkeys(("query_heads", "symptom_width", "d_model", "film_size"), 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        last = self.channels.split(",")[-1].strip()
        if int(last) % self.query_heads:
            raise UserError(f"model.query_heads is {self.query_heads}, it must divide {last}")

    def loss_weights(self) -> dict[str, float]:
        """The task's and the findings'."""
        return {"task": self.task_weight, "symptoms": self.symptom_weight}


SMALL: dict[str, Any] = {
    "channels": "16,32,64",
    "blocks": "1,1,1",
    "heads": "1,2,4",
    "reductions": "4,2,1",
    "query_heads": 4,
}
"""Three stages, so that the last map of small films has places enough to tell symptoms apart."""

SMALLER: dict[Preset, dict[str, Any]] = {
    Preset.DEMO: SMALL | {"symptom_width": 32, "d_model": 64, "film_size": 64},
    Preset.MEDIUM: SMALL | {"symptom_width": 32, "d_model": 128, "film_size": 96},
    Preset.PAPER: {},
}
"""What a preset changes in the paper's configuration: sizes only."""


class SeparableConv(nn.Sequential):
    """A 3x3 convolution per channel, then one across channels, each with batch norm and ReLU."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(
            nn.Conv2d(n_in, n_in, 3, padding=1, groups=n_in, bias=False),
            nn.BatchNorm2d(n_in),
            nn.ReLU(),
            nn.Conv2d(n_in, n_out, 1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
        )


class SymptomDisentangler(nn.Module):
    """From a film's map to one map per symptom (SD): queries find a symptom's places.

    Args:
        channels: width C of the film's map
        n_places: places n of the film's map
        width: channels e of a symptom's map
        released_layout: see `queries_by_head`
    """

    def __init__(
        self,
        channels: int,
        n_places: int,
        width: int,
        n_heads: int,
        drop_path: float,
        released_layout: bool = False,
    ) -> None:
        super().__init__()
        self.n_heads, self.released_layout = n_heads, released_layout
        self.queries = nn.Parameter(torch.empty(len(DISEASES), channels))
        self.query_norm, self.key_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.to_query, self.to_key = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.refine = nn.Sequential(
            nn.LayerNorm(n_places),
            nn.Linear(n_places, n_places),
            nn.GELU(),
            nn.Linear(n_places, n_places),
        )
        self.drop_path = DropPath(drop_path)
        self.fuse = nn.Sequential(
            SeparableConv(channels + n_heads, width), SeparableConv(width, width)
        )
        nn.init.trunc_normal_(self.queries, std=INITIAL_SD)

    def forward(self, film_map: Tensor) -> Tensor:
        """V: film maps, float [N, C, h, w], to symptom maps, float [N, 7, e, h, w].

        Weights of the fusing convolutions are the symptoms' in common.
        """
        attention = self.attention(film_map.flatten(2).transpose(1, 2))
        attention = attention.unflatten(-1, film_map.shape[2:])
        shared = film_map[:, None].expand(-1, len(DISEASES), -1, -1, -1)
        joined = torch.cat([shared, attention.to(shared.dtype)], dim=2)
        return self.fuse(joined.flatten(0, 1)).unflatten(0, joined.shape[:2])

    def attention(self, places: Tensor) -> Tensor:
        """Attention logits A'' (no softmax follows) of places, float [N, n, C]: [N, 7, heads, n].

        The released code adds A to its own dropped copy, not to an earlier attention: 2A.
        """
        q = self.queries_by_head()
        k = self.to_key(self.key_norm(places)).unflatten(-1, (self.n_heads, -1))
        A = torch.einsum("che,nphe->nchp", q, k) / math.sqrt(q.shape[-1])
        A = A + self.drop_path(A)
        return A + self.drop_path(self.refine(A))

    def queries_by_head(self) -> Tensor:
        """Projected queries, float [7, heads, C / heads].

        In the released layout, of 8 symptoms and 8 heads, head j of symptom c is slice c of query
        j. Seven symptoms straddle the heads.
        """
        q = self.to_query(self.query_norm(self.queries))
        if self.released_layout:
            return q.reshape(self.n_heads, len(q), -1).transpose(0, 1)
        return q.unflatten(-1, (self.n_heads, -1))


class ProgressionLearner(nn.Module):
    """What changed between a symptom's maps of two films (SPL): p_c, float [N, 7, e]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.compare = nn.Sequential(
            nn.Conv2d(2 * width, width, 1),
            nn.ReLU(),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, width, 1),
            nn.ReLU(),
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Compare V of the first and of the second films, float [N, 7, e, h, w] each."""
        both = torch.cat([first, second], dim=2)
        compared = self.compare(both.flatten(0, 1))
        return compared.mean(dim=(-2, -1)).unflatten(0, both.shape[:2])


class Sdpl(Method[SdplConfig]):
    """Symptom maps of every film, changes of every pair, EHR for each, one linear layer on top."""

    title = "SDPL"
    inputs = Inputs(films=True, ehr=True, demographics=True)

    def __init__(self, config: SdplConfig, spec: TaskSpec) -> None:
        super().__init__(config, spec)
        e = config.symptom_width
        self.encoder = PyramidEncoder.of(config)
        channels = self.encoder.channels
        self.disentangle = SymptomDisentangler(
            channels[-1],
            _places_a_side(config.film_size, len(channels)) ** 2,
            e,
            config.query_heads,
            config.drop_path,
            config.released_query_layout,
        )
        self.symptoms = nn.Linear(e, 1)
        self.compare = ProgressionLearner(e)
        for part in (self.disentangle, self.symptoms, self.compare):
            part.apply(initialise)
        self.tokens = nn.Linear(e, config.d_model) if spec.ehr else None
        self.fusion = (
            EhrFusion(config.d_model, spec, dropout=config.dropout, query=config.fusion_query)
            if spec.ehr
            else None
        )
        n_features = len(DISEASES) * (config.d_model if spec.ehr else e)
        self.heads = nn.ModuleList(
            nn.Linear(n_features // spec.n_outputs, spec.n_logits) for _ in range(spec.n_outputs)
        )
        self.heads.apply(initialise)

    @classmethod
    def configure(cls, preset: Preset, task: Task) -> SdplConfig:
        """The paper's sizes, or smaller ones; the released code's mean over diseases."""
        task_weight = 1.0 if task.is_icu else 1 / len(DISEASES)
        return replace(SdplConfig(task_weight=task_weight), **SMALLER[preset])

    @classmethod
    def recipe(cls, task: Task) -> Recipe:
        """Defaults of the released code, which never stops early (its rate falls linearly, too)."""
        return {
            "lr": 6e-5,
            "weight_decay": 0.01,
            "batch_size": 16,
            "accumulation": 1,
            "max_epochs": 100,
            "patience": 100,
        }

    @classmethod
    def decline(cls, task: Task, cxr: Cxr, ehr: bool) -> str | None:
        """It compares films."""
        return needs_two_films(cls.title, cxr)

    def remarks(self, cohort: Cohort) -> list[str]:
        """What a run should say of its cohort: without labels of findings one loss is nothing."""
        if has_findings(cohort):
            return []
        return [
            f"{self.title}: no training film has labels of its findings, so the loss 'symptoms' is "
            "0: the task alone teaches the symptom maps"
        ]

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        """Logits and, with targets, the loss of the films' findings; there are no region maps."""
        films, pairs = batch.layout.films, batch.layout.pairs
        V = self.disentangle(self._film_maps(films.pack(batch.films)))
        by_film = films.unpack(V)
        p = pairs.unpack(self.compare(pairs.pack(by_film[:, :-1]), pairs.pack(by_film[:, 1:])))
        Z = self._with_ehr(p, batch)
        pooled = mean_of_valid(Z.flatten(2), batch.pair_valid).unflatten(-1, (len(self.heads), -1))
        logits = torch.stack([head(pooled[:, i]) for i, head in enumerate(self.heads)], dim=1)
        return Output(logits if len(self.heads) > 1 else logits[:, 0], self._symptom_loss(V, batch))

    def _film_maps(self, films: Tensor) -> Tensor:
        """The last map of each film, uint8 [N, S, S]: float [N, C, h, w]."""
        x = to_size(films, self.config.film_size)[:, None].float() / 127.5 - 1
        return self.encoder(x.expand(-1, 3, -1, -1))[-1]

    def _with_ehr(self, p: Tensor, batch: Batch) -> Tensor:
        """Z': each pair's tokens p, float [B, P, 7, e], in the light of the EHR: [B, P, 7, d].

        A query sees the hours and no other query, so all pairs of a sample are fused at once.
        """
        if self.tokens is None or self.fusion is None:
            return p
        return self.fusion(self.tokens(p).flatten(1, 2), batch).unflatten(1, p.shape[1:3])

    def _symptom_loss(self, V: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Binary cross-entropy over labelled findings of films with maps V, [N, 7, e, h, w]."""
        if batch.targets is None:
            return {}
        logits = self.symptoms(V.mean(dim=(-2, -1))).squeeze(-1).float()
        findings = batch.layout.films.pack(batch.targets.findings)
        known = findings != FINDING_UNKNOWN
        target = torch.where(known, findings, 0).float()
        terms = F.binary_cross_entropy_with_logits(logits, target, known.float(), reduction="sum")
        return {"symptoms": terms / known.sum().clamp_min(1)}


def _places_a_side(film_size: int, n_stages: int) -> int:
    """Places along a side of the last map of a pyramid."""
    return math.ceil(film_size / (FIRST_STRIDE * STRIDE ** (n_stages - 1)))
