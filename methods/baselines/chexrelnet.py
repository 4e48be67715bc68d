"""CheXRelNet: a graph of anatomical regions within and between two films, read by graph attention.

Karwande, Mbakwe, Wu, Celi, Moradi, Lourentzou, "CheXRelNet: An Anatomy-Aware Model for Tracking
Longitudinal Relationships between Chest X-Rays", MICCAI 2022, doi:10.1007/978-3-031-16431-6_55.
One ConvNet embeds every region crop and both films; regions of one film are linked with each other,
and each region of the earlier film points at the same region of the later one. EHR, its fusion and
longer stays are the DiPro paper's variant (appendix A.2.2): each pair of neighbouring films makes a
graph, and the mean over pairs classifies a stay. Differences from the released code:

- the ConvNet is ResNet-50, as the operation count in the DiPro paper implies, not half of an
  autoencoder of films; pretrained, it is frozen too, but along with its batch statistics, which
  drift there;
- films come at the size of the crops, 224 px there, and as for every method here are scaled to 0..1
  alike, there each by its own maximum;
- every pair has a graph of its own: there the edges of a batch lack offsets, so that all graphs but
  the first have self-loops only;
- all regions of one film are linked: the released code reads links from a file that is not public
  (`links` takes others);
- an edge counts once, there one within a film counts twice: `edge_multiplicity` 2 brings that back;
- all diseases are predicted at once, from the mean over the later film's regions: there one region
  and one disease at a time, without "no change", after balancing the validation and test sets too;
- a film that lacks a region is kept: the region has no links and is left out of the mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contract import MethodConfig, Output, Preset, Recipe, TaskSpec
from bench.data.batch import Batch, Inputs
from bench.data.layout import Packing
from bench.data.vocabulary import REGIONS, Cxr, Task
from bench.errors import UserError
from methods.base import Method, needs_two_films
from methods.encoders import BACKBONES, Encoder, ImageEncoder, encode_valid, mean_of_valid
from methods.fusion import QUERIES, EhrFusion

ATTENTION_SLOPE, SLOPE = 0.2, 0.01
"""Negative slopes of the leaky ReLUs: in the attention logits, and everywhere else."""


@dataclass(frozen=True)
class CheXRelNetConfig(MethodConfig):
    """Sizes of CheXRelNet.

    backbone, weights: see `methods.encoders.ImageEncoder`
    freeze: leave the backbone as it is, provided that its weights are pretrained
    first_heads, first_width: heads of the first graph layer, and the width of each
    second_heads: heads of the second graph layer, which are averaged
    d_model: width of regions and films after the graph; a multiple of 8
    trunk_width: width of the layer before the logits
    edge_multiplicity: how often an edge within a film counts, those between films counting once
    dropout, ehr_dropout: of graph and classifier, and of the EHR encoder
    links: which regions of one film are linked: 'all', or pairs of their numbers in `REGIONS`,
        counted from 0, as '0-2,1-3'
    fusion_query: what looks at what when EHR is fused, 'image' or 'ehr', see `EhrFusion`
    """

    backbone: str = "resnet50"
    weights: str = "imagenet"
    freeze: bool = True
    first_heads: int = 5
    first_width: int = 1024
    second_heads: int = 3
    d_model: int = 256
    trunk_width: int = 128
    edge_multiplicity: int = 1
    dropout: float = 0.5
    ehr_dropout: float = 0.1
    links: str = "all"
    fusion_query: str = "image"

    choices = {"fusion_query": QUERIES, "backbone": BACKBONES}
    least = dict.fromkeys(
        (
            "first_heads",
            "first_width",
            "second_heads",
            "d_model",
            "trunk_width",
            "edge_multiplicity",
        ),
        1,
    )
    multiples = {"d_model": 8}

    def __post_init__(self) -> None:
        super().__post_init__()
        links_of_film(self.links, len(REGIONS))


SMALL: dict[str, Any] = {"backbone": "small", "weights": "none"}

SMALLER: dict[Preset, dict[str, Any]] = {
    Preset.DEMO: SMALL | {"first_width": 32, "d_model": 64, "trunk_width": 32},
    Preset.MEDIUM: SMALL | {"first_width": 64, "d_model": 128, "trunk_width": 64},
    Preset.PAPER: {},
}
"""What a preset changes in the paper's configuration: sizes only."""


class ImageEmbedder(Encoder):
    """The ConvNet that regions and films share; frozen, it keeps its batch statistics."""

    def __init__(self, config: CheXRelNetConfig) -> None:
        super().__init__()
        self.frozen = config.freeze and config.weights != "none"
        is_imagenet = self.frozen and config.weights == "imagenet"
        self.images = ImageEncoder(config.backbone, config.weights, standardised=is_imagenet)
        self.width = self.images.width
        self.images.requires_grad_(not self.frozen)

    def train(self, mode: bool = True) -> Self:
        """Change modes, but for a frozen ConvNet."""
        super().train(mode)
        self.images.train(mode and not self.frozen)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Encode images, uint8 [N, s, s], to float [N, width]."""
        return self.images(images)


class GraphAttention(nn.Module):
    """A graph attention layer (GAT, Velickovic et al. 2018), over dense graphs of few nodes.

    Args:
        n_in, width: features of a node before, and per head after
        joined: whether heads are concatenated, or else averaged
    """

    def __init__(
        self, n_in: int, width: int, n_heads: int, dropout: float, joined: bool = True
    ) -> None:
        super().__init__()
        self.n_heads, self.joined = n_heads, joined
        self.Theta = nn.Linear(n_in, n_heads * width, bias=False)
        self.a_src = nn.Parameter(torch.empty(n_heads, width))
        self.a_dst = nn.Parameter(torch.empty(n_heads, width))
        self.bias = nn.Parameter(torch.zeros(n_heads * width if joined else width))
        self.dropout = nn.Dropout(dropout)
        for weight in (self.Theta.weight, self.a_src, self.a_dst):
            nn.init.xavier_uniform_(weight)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """o_i = sum over j of alpha_ij v_j.

        Args:
            x: float [N, M, n_in]; N graphs of M nodes
            edges: float [N, M, M]; how many edges lead from node j to node i, in row i, column j;
                at least one to each node

        Returns:
            float [N, M, n_heads x width], or [N, M, width] if heads are averaged.
        """
        v = self.Theta(x).unflatten(-1, (self.n_heads, -1))
        alpha = self.dropout(self.attention(v, edges))
        o = torch.einsum("nijh,njhc->nihc", alpha, v)
        return (o.flatten(2) if self.joined else o.mean(dim=2)) + self.bias

    def attention(self, v: Tensor, edges: Tensor) -> Tensor:
        """alpha_ij, a softmax over j in which every edge counts: float [N, M, M, n_heads].

        v is float [N, M, n_heads, width]; m edges add ln m to a logit, none adds -inf.
        """
        s, t = (v * self.a_src).sum(dim=-1), (v * self.a_dst).sum(dim=-1)
        e = F.leaky_relu(t[:, :, None] + s[:, None], ATTENTION_SLOPE)
        return (e.float() + edges.log()[..., None]).softmax(dim=2)


def links_of_film(links: str, n: int) -> Tensor:
    """Which of the n regions of one film are linked, float [n, n]: symmetric, no self-loops.

    Raises:
        UserError: `links` is neither 'all' nor a list of pairs like '0-2,1-3'.
    """
    if links == "all":
        return 1 - torch.eye(n)
    linked = torch.zeros(n, n)
    for pair in links.split(","):
        texts = [end.strip() for end in pair.split("-")]
        ends = [int(text) if text.isdecimal() else n for text in texts]
        if len(ends) != 2 or ends[0] == ends[1] or max(ends) >= n:
            raise UserError(
                f"model.links is '{links}': give all, or pairs of regions 0 to {n - 1} like 0-2,1-3"
            )
        linked[ends, ends[::-1]] = 1
    return linked


def pair_edges(within: Tensor) -> Tensor:
    """How many edges lead from node j (column) to node i (row) in the graph of two films.

    Nodes are the regions of the earlier film, then those of the later one.

    Args:
        within: float [R, R]; edges among the regions of one film, without self-loops

    Returns:
        float [2R, 2R]; with self-loops, and an edge from each region to its later self.
    """
    n = len(within)
    to_later_self = torch.diag(torch.ones(n), -n)
    return torch.block_diag(within, within) + torch.eye(2 * n) + to_later_self


class RegionGraph(nn.Module):
    """Two graph attention layers over the regions of two films."""

    edges: Tensor

    def __init__(self, config: CheXRelNetConfig, n_in: int, n_regions: int) -> None:
        super().__init__()
        joined = config.first_heads * config.first_width
        self.first = GraphAttention(n_in, config.first_width, config.first_heads, config.dropout)
        self.second = GraphAttention(
            joined, config.d_model, config.second_heads, config.dropout, joined=False
        )
        self.dropout = nn.Dropout(config.dropout)
        within = config.edge_multiplicity * links_of_film(config.links, n_regions)
        self.register_buffer("edges", pair_edges(within), persistent=False)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """Update every region of both films in the light of the others.

        Args:
            x: float [N, 2, R, n_in]
            present: bool [N, 2, R]; other regions keep no edge but their self-loop

        Returns:
            float [N, 2, R, d_model]
        """
        known = present.flatten(1)
        itself = torch.eye(known.shape[1], dtype=torch.bool, device=known.device)
        linked = known[:, :, None] & known[:, None] | itself
        edges = self.edges * linked
        h = self.dropout(F.leaky_relu(self.first(x.flatten(1, 2), edges), SLOPE))
        return F.leaky_relu(self.second(h, edges), SLOPE).unflatten(1, present.shape[1:])


class CheXRelNet(Method[CheXRelNetConfig]):
    """Per pair of films: the mean over the later film's regions beside both whole films."""

    title = "CheXRelNet"
    inputs = Inputs(regions=True, films=True, ehr=True, demographics=True)

    def __init__(self, config: CheXRelNetConfig, spec: TaskSpec) -> None:
        super().__init__(config, spec)
        d = config.d_model
        self.embed = ImageEmbedder(config)
        self.graph = RegionGraph(config, self.embed.width, spec.n_regions)
        self.film = nn.Linear(self.embed.width, d)
        self.fusion = (
            EhrFusion(d, spec, dropout=config.ehr_dropout, query=config.fusion_query)
            if spec.ehr
            else None
        )
        self.classifier = nn.Sequential(
            nn.Linear(3 * d, config.trunk_width),
            nn.LeakyReLU(SLOPE),
            nn.Dropout(config.dropout),
            nn.Linear(config.trunk_width, spec.n_outputs * spec.n_logits),
        )

    @classmethod
    def configure(cls, preset: Preset, task: Task) -> CheXRelNetConfig:
        """One configuration for every task, at the preset's size."""
        return replace(CheXRelNetConfig(), **SMALLER[preset])

    @classmethod
    def recipe(cls, task: Task) -> Recipe:
        """Values of the released code, which lowers its rate when the validation loss stalls."""
        return {
            "lr": 8e-4,
            "weight_decay": 0.0,
            "batch_size": 32,
            "accumulation": 1,
            "max_epochs": 200,
            "patience": 11,
            "clip_norm": 0.1,
        }

    @classmethod
    def decline(cls, task: Task, cxr: Cxr, ehr: bool) -> str | None:
        """It compares films."""
        return needs_two_films(cls.title, cxr)

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        """Logits; there are no further loss terms and no maps."""
        present = batch.region_present & batch.film_valid[..., None]
        Z = self._tokens(batch, present)
        if self.fusion is not None:
            # A query sees the hours and no other query: all pairs are fused at once.
            Z = self.fusion(Z.flatten(1, 2), batch).unflatten(1, Z.shape[1:3])
        z = _read_out(Z, present[:, 1:])
        logits = self.classifier(mean_of_valid(z, batch.pair_valid))
        n_outputs = self.spec.n_outputs
        return Output(logits.unflatten(-1, (n_outputs, -1)) if n_outputs > 1 else logits)

    def _tokens(self, batch: Batch, present: Tensor) -> Tensor:
        """The later film's R regions, then both whole films (g): [B, P, R + 2, d]; padding is 0."""
        crops, films = batch.regions, _resize(batch.films, batch.regions.shape[-1])
        # One call for all images: crops and films have their batch statistics in common.
        images = torch.cat([crops, films[:, :, None]], dim=2)
        layout = batch.layout
        x = _of_pairs(encode_valid(self.embed, images, layout.images), layout.pairs)
        regions = self.graph(x[:, :, :-1], _of_pairs(present, layout.pairs))
        g = self.film(x[:, :, -1])
        return layout.pairs.unpack(torch.cat([regions[:, 1], g], dim=1))


def _resize(films: Tensor, size: int) -> Tensor:
    """Average films, uint8 [B, T, S, S], to `size` pixels a side."""
    if films.shape[-1] == size:
        return films
    return F.adaptive_avg_pool2d(films.float(), size).round().to(films.dtype)


def _of_pairs(by_film: Tensor, pairs: Packing) -> Tensor:
    """The two films of each valid pair: [B, T, ...] -> [N, 2, ...]."""
    return pairs.pack(torch.stack([by_film[:, :-1], by_film[:, 1:]], dim=2))


def _read_out(Z: Tensor, present: Tensor) -> Tensor:
    """z = [n ; g_earlier ; g_later], n the mean over present regions (0 if none).

    Args:
        Z: float [B, P, R + 2, d]; regions, then the two films
        present: bool [B, P, R]

    Returns:
        float [B, P, 3d]
    """
    R = present.shape[-1]
    n = mean_of_valid(Z[:, :, :R].flatten(0, 1), present.flatten(0, 1)).unflatten(0, Z.shape[:2])
    return torch.cat([n[:, :, None], Z[:, :, R:]], dim=2).flatten(2)
