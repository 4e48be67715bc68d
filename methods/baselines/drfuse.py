"""DrFuse: what EHR and film share and what each has alone, weighed per patient and disease.

Yao, Yin, Cheung, Liu, Qin, "DrFuse: Learning Disentangled Representation for Clinical Multi-Modal
Fusion with Missing Modality and Modal Inconsistency", AAAI 2024, 38(15):16416-16424. Each modality
gives a shared and a distinct vector; the shared ones are aligned and pooled, the distinct ones kept
orthogonal to them, and attention weighs the three that are left. With several films each is set
against the EHR, then one linear layer joins what they gave (the DiPro paper, appendix A.2.2: joined
after disentangling); it knows the films' order. Differences from the released code, which stops
with an error in its first forward pass:

- a whole ResNet stem and average pooling; there ReLU, max pooling and average pooling are missing;
- films start from ImageNet, as in every baseline here; there from scratch;
- films that are not there enter no batch statistics and no loss; there they add to the divergence;
- the divergence is computed from logarithms, so that it stays finite where sigmoids saturate;
- a sample may lack the EHR: its shared vector is the film's, and its distinct EHR has no weight;
- progression: one attention unit per disease with three logits; cross-entropy, over labelled
  diseases, stands for binary cross-entropy. Length of stay: one unit with four logits;
- values are z-scored as for every method here; there those beyond 10 sd are set to 0;
- no random flips or rotations, and scaling to 0..1, as in every baseline here;
- parts that nothing uses are left out: a domain classifier and a second classifier of the EHR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contract import MethodConfig, Output, Preset, Recipe, TaskSpec
from bench.data.batch import Batch, Inputs, Targets
from bench.data.layout import Packing
from bench.data.vocabulary import DISEASES, Cxr, Task
from methods.attention import EncoderLayer
from methods.base import Method
from methods.encoders import BACKBONES, Encoder, ImageEncoder, encode_valid, mean_of_valid, shrink

BRANCHES = ("ehr", "shared", "cxr")
"""The three tokens that attention weighs, in order: distinct EHR, shared, distinct film."""

N_POSITIONS = 350
"""Rows of the table of positions; later hours share its last row."""


@dataclass(frozen=True)
class DrFuseConfig(MethodConfig):
    """Sizes and loss weights of DrFuse.

    backbone, weights: see `methods.encoders.ImageEncoder`; there are two bodies on one stem
    hidden: width h of every vector; 320 gives the DiPro paper's parameter count, the default of
        DrFuse itself is 256; a multiple of n_heads
    feed_forward: width inside the EHR layers
    dropout: of the EHR layers; there is none elsewhere
    max_films: newest films of a stay that are read
    max_film_size: larger films are averaged down to this many pixels a side; 0 leaves them
    use_demographics: append demographics to every hour of EHR; DrFuse itself reads none
    unit: one attention unit per 'output' (a disease), or per 'logit' (a disease's or a stay's
        class), the other reading of how DrFuse was run on several classes
    full_divergence: add the divergence of the complements, 1 - p and 1 - q
    drop_films: share of the samples with EHR whose films are hidden in training; the released code
        hides them from a share of every batch, here each sample's lot is its own
    join: of several films, each branch's vectors become one by a linear layer over the 'features',
        or stay 'tokens' of the attention, to which the order of films means nothing
    task_weight: 1/7 turns the progression loss, a sum, into a mean over diseases
    *_weight: of the loss terms, see `loss_weights`
    """

    backbone: str = "resnet50"
    weights: str = "imagenet"
    hidden: int = 320
    feed_forward: int = 2048
    n_heads: int = 4
    dropout: float = 0.3
    max_films: int = 5
    max_film_size: int = 224
    use_demographics: bool = False
    unit: str = "output"
    full_divergence: bool = False
    task_weight: float = 1.0
    shared_weight: float = 1.0
    ehr_weight: float = 1.0
    cxr_weight: float = 1.0
    divergence_weight: float = 1.0
    ehr_cosine_weight: float = 1.0
    cxr_cosine_weight: float = 1.0
    rank_weight: float = 1.0
    drop_films: float = 0.0
    join: str = "features"

    choices = {
        "backbone": BACKBONES,
        "unit": ("output", "logit"),
        "join": ("features", "tokens"),
    }
    least = {
        **dict.fromkeys(("hidden", "feed_forward", "n_heads", "max_films"), 1),
        "max_film_size": 0,
    }
    multiples = {"hidden": "n_heads"}

    def loss_weights(self) -> dict[str, float]:
        """The task's, the branches' own predictions, disentanglement and the ranking of weights."""
        return {
            "task": self.task_weight,
            "shared": self.shared_weight,
            "ehr": self.ehr_weight,
            "cxr": self.cxr_weight,
            "divergence": self.divergence_weight,
            "ehr_cosine": self.ehr_cosine_weight,
            "cxr_cosine": self.cxr_cosine_weight,
            "rank": self.rank_weight,
        }


SMALL: dict[str, Any] = {"backbone": "small_film", "weights": "none", "max_film_size": 96}
SMALLER: dict[Preset, dict[str, Any]] = {
    Preset.DEMO: SMALL | {"hidden": 64, "feed_forward": 128},
    Preset.MEDIUM: SMALL | {"hidden": 128, "feed_forward": 512},
    Preset.PAPER: {},
}
"""What a preset changes in the paper's configuration: sizes only."""


@dataclass(frozen=True)
class Features:
    """What the modalities give, each shared vector after the projector.

    s_ehr, d_ehr: float [B, h]; shared and distinct
    s_cxr, d_cxr: float [B, n_slots, h]; of every film, the newest in the last slot
    has_ehr: bool [B]
    film_valid: bool [B, n_slots]
    """

    s_ehr: Tensor
    d_ehr: Tensor
    s_cxr: Tensor
    d_cxr: Tensor
    has_ehr: Tensor
    film_valid: Tensor

    @property
    def has_film(self) -> Tensor:
        """Bool [B]."""
        return self.film_valid.any(dim=1)


class EhrLayer(EncoderLayer):
    """An encoder layer whose feed-forward has a width of its own."""

    def __init__(self, config: DrFuseConfig) -> None:
        d, width = config.hidden, config.feed_forward
        super().__init__(d, config.n_heads, config.dropout)
        self.linear1, self.linear2 = nn.Linear(d, width), nn.Linear(width, d)


class EhrBranches(nn.Module):
    """A common layer over the hours, then one for what is shared and one for what is distinct."""

    def __init__(self, n_inputs: int, config: DrFuseConfig) -> None:
        super().__init__()
        self.embed = nn.Linear(n_inputs, config.hidden)
        self.positions = nn.Parameter(torch.empty(N_POSITIONS, config.hidden).uniform_(-0.1, 0.1))
        self.trunk, self.shared, self.distinct = (EhrLayer(config) for _ in range(3))

    def forward(self, hours: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Shared and distinct vector, float [B, h] each, of hours, float [B, L, n_inputs].

        Both are zero for a sample without a valid hour (bool [B, L]).
        """
        position = torch.arange(hours.shape[1], device=hours.device).clamp_max(N_POSITIONS - 1)
        x = self.trunk(self.embed(hours) + self.positions[position], valid)
        s, d = (mean_of_valid(branch(x, valid), valid) for branch in (self.shared, self.distinct))
        return s, d


class FilmEncoder(Encoder):
    """One ConvNet stem, then two bodies with a projection each: shared and distinct features."""

    def __init__(self, config: DrFuseConfig) -> None:
        super().__init__()
        self.width = 2 * config.hidden
        self.max_film_size = config.max_film_size
        self.stem, other = (ImageEncoder(config.backbone, config.weights) for _ in range(2))
        self.bodies = nn.ModuleList(cut_body(encoder) for encoder in (self.stem, other))
        self.projections = nn.ModuleList(
            nn.Linear(self.stem.width, config.hidden) for _ in self.bodies
        )

    def forward(self, films: Tensor) -> Tensor:
        """Encode films, uint8 [N, S, S], to float [N, 2 h]: shared, then distinct features."""
        x = self.stem.feature_map(shrink(films, self.max_film_size))
        pairs = zip(self.bodies, self.projections, strict=True)
        pooled = [projection(body(x).mean(dim=(2, 3))) for body, projection in pairs]
        return torch.cat(pooled, dim=-1)


def cut_body(encoder: ImageEncoder) -> nn.Sequential:
    """Leave an encoder its stem, what comes before the stages of a ResNet, and return the rest."""
    layers = list(encoder.network.children())
    # Convolution, normalisation, ReLU, and in a ResNet max pooling.
    n = 4 if isinstance(layers[3], nn.MaxPool2d) else 3
    encoder.network = nn.Sequential(*layers[:n])
    return nn.Sequential(*layers[n:])


class Projector(nn.Sequential):
    """Brings the shared vectors of both modalities into one space."""

    def __init__(self, h: int) -> None:
        super().__init__(
            nn.Linear(h, 2 * h), nn.ReLU(), nn.Linear(2 * h, h), nn.ReLU(), nn.Linear(h, h)
        )


def logit_pool(a: Tensor, b: Tensor) -> Tensor:
    """The logit of the mean of sigmoid(a) and sigmoid(b), elementwise, in float32.

    It is log(2 e^(a+b) + e^a + e^b) - log(2 + e^a + e^b).
    """
    a, b = torch.broadcast_tensors(a.float(), b.float())
    ln_2 = math.log(2)
    above = torch.stack([a + b + ln_2, a, b]).logsumexp(dim=0)
    return above - torch.stack([torch.full_like(a, ln_2), a, b]).logsumexp(dim=0)


class DiseaseAttention(nn.Module):
    """Disease-wise attention: query and value of a token are common to all units, its keys not."""

    def __init__(self, h: int, n_units: int) -> None:
        super().__init__()
        self.h, self.n_units = h, n_units
        self.project = nn.Linear(h, (2 + n_units) * h)

    def forward(self, tokens: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Weigh the tokens that are present.

        Args:
            tokens: float [B, N, h]
            present: bool [B, N]; at least one of a sample

        Returns:
            each unit's mixture of values, float [B, n_units, h], and weights, [B, n_units, N].
        """
        sizes = [self.h, self.h, self.n_units * self.h]
        queries, values, keys = self.project(tokens).split(sizes, dim=-1)
        query = mean_of_valid(queries, present)
        keys = keys.unflatten(-1, (self.n_units, self.h))
        scores = torch.einsum("bh,btkh->bkt", query, keys).float() / math.sqrt(self.h)
        alpha = scores.masked_fill(~present[:, None], float("-inf")).softmax(dim=-1)
        return alpha @ values, alpha


class UnitHead(nn.Linear):
    """A linear classifier of which each unit has its own rows."""

    def forward(self, units: Tensor) -> Tensor:
        """Logits of units, float [B, n_units, h], flat: [B, out_features]."""
        weight, bias = (p.unflatten(0, (units.shape[1], -1)) for p in (self.weight, self.bias))
        return (torch.einsum("bkh,knh->bkn", units, weight) + bias).flatten(1)


class DrFuse(Method[DrFuseConfig]):
    """Disentangle, join films, weigh the three branches per disease, classify."""

    title = "DrFuse"
    inputs = Inputs(films=True, ehr=True, demographics=True)

    def __init__(self, config: DrFuseConfig, spec: TaskSpec) -> None:
        super().__init__(config, spec)
        h, n_logits = config.hidden, spec.n_outputs * spec.n_logits
        n_inputs = spec.n_variables + (spec.n_demographics if config.use_demographics else 0)
        self.n_slots = {Cxr.LAST: 1, Cxr.PAIR: 2, Cxr.LONG: config.max_films}[spec.cxr]
        self.ehr = EhrBranches(n_inputs, config)
        self.films = FilmEncoder(config)
        self.projector = Projector(h)
        self.joined = self.n_slots > 1 and config.join == "features"
        if self.joined:
            self.join_shared, self.join_distinct = (
                nn.Linear(self.n_slots * h, h) for _ in range(2)
            )
        self.attention = DiseaseAttention(h, n_logits if config.unit == "logit" else spec.n_outputs)
        self.head = UnitHead(h, n_logits)
        self.branch_heads = nn.ModuleList(nn.Linear(h, n_logits) for _ in BRANCHES)

    @classmethod
    def configure(cls, preset: Preset, task: Task) -> DrFuseConfig:
        """One configuration for every task, at the preset's size; the task's loss is a mean."""
        task_weight = 1.0 if task.is_icu else 1 / len(DISEASES)
        return replace(DrFuseConfig(task_weight=task_weight), **SMALLER[preset])

    @classmethod
    def recipe(cls, task: Task) -> Recipe:
        """Defaults of DrFuse's released code: the rate does not fall."""
        return {
            "lr": 1e-4,
            "schedule": "constant",
            "weight_decay": 0.0,
            "batch_size": 16,
            "accumulation": 1,
            "max_epochs": 100,
            "patience": 10,
        }

    @classmethod
    def decline(cls, task: Task, cxr: Cxr, ehr: bool) -> str | None:
        """It compares two modalities: one alone, of all samples, is none of its business."""
        if cxr is Cxr.NONE:
            return "DrFuse without films is an EHR Transformer: use --method ehr_transformer"
        if not ehr:
            return "DrFuse sets films against the EHR: it needs the EHR"
        return None

    def forward(self, batch: Batch, with_attention: bool = False) -> Output:
        """Logits and, with targets, the loss terms of `loss_weights`; there are no maps."""
        features = self.disentangle(self._with_films_dropped(batch))
        tokens, present = self.branches(features)
        units, alpha = self.attention(tokens, present)
        logits = self.head(units)
        losses: dict[str, Tensor] = {}
        if batch.targets is not None:
            losses = disentanglement(features, self.config.full_divergence)
            losses |= self._branch_losses(*by_branch(tokens, present, alpha), batch.targets)
        per_output = self._per_output(logits)
        return Output(per_output if self.spec.n_outputs > 1 else logits, losses)

    def _with_films_dropped(self, batch: Batch) -> Batch:
        """In training, hide the films of some samples that have EHR."""
        if not self.training or not self.config.drop_films:
            return batch
        has_ehr = batch.ehr_valid.any(dim=1)
        dropped = torch.rand(len(batch), device=has_ehr.device) < self.config.drop_films
        kept = ~(dropped & has_ehr)[:, None]
        return replace(
            batch, film_valid=batch.film_valid & kept, pair_valid=batch.pair_valid & kept
        )

    def disentangle(self, batch: Batch) -> Features:
        """Shared and distinct features of the EHR and of each of the newest films."""
        hours = batch.ehr_values
        if self.config.use_demographics:
            static = batch.demographics[:, None].expand(-1, hours.shape[1], -1)
            hours = torch.cat([hours, static], dim=-1)
        s_ehr, d_ehr = self.ehr(hours, batch.ehr_valid)
        films, film_valid = newest_films(batch, self.n_slots)
        n_films = sum(min(n, self.n_slots) for n in batch.layout.n_films)
        packing = Packing.of(film_valid, n_films)
        s_cxr, d_cxr = encode_valid(self.films, films, packing).chunk(2, dim=-1)
        return Features(
            s_ehr=self.projector(s_ehr),
            d_ehr=d_ehr,
            s_cxr=self.projector(s_cxr),
            d_cxr=d_cxr,
            has_ehr=batch.ehr_valid.any(dim=1),
            film_valid=film_valid,
        )

    def branches(self, features: Features) -> tuple[Tensor, Tensor]:
        """The tokens H = [d_ehr, s, d_cxr], float [B, 3, h], and which are present, bool [B, 3].

        Films are pooled with the EHR one by one, then joined; a film slot without one is zero.
        Without films s is that of the EHR, a constant if there is none either. Films that are not
        joined have an s and a d_cxr each, float [B, 1 + 2 n_slots, h].
        """
        f = features
        has_ehr, has_film, valid = f.has_ehr[:, None], f.has_film[:, None], f.film_valid[..., None]
        pooled = torch.where(has_ehr[..., None], logit_pool(f.s_ehr[:, None], f.s_cxr), f.s_cxr)
        s, d_cxr = (torch.where(valid, x, 0) for x in (pooled, f.d_cxr))
        film_valid = f.film_valid
        if self.joined:
            s, d_cxr = (
                layer(x.flatten(1))[:, None]
                for layer, x in ((self.join_shared, s), (self.join_distinct, d_cxr))
            )
            film_valid = has_film
        # The newest film has the last slot, so without one no film is there.
        s = torch.cat([s[:, :-1], torch.where(has_film, s[:, -1], f.s_ehr)[:, None]], dim=1)
        shared = torch.cat([film_valid[:, :-1], torch.ones_like(has_film)], dim=1)
        tokens = torch.cat([f.d_ehr[:, None], s, d_cxr], dim=1)
        return tokens, torch.cat([has_ehr, shared, film_valid], dim=1)

    def _branch_losses(
        self, tokens: Tensor, present: Tensor, alpha: Tensor, targets: Targets
    ) -> dict[str, Tensor]:
        """Each branch's own prediction, and the ranking of attention by how good these are."""
        logits = [self._per_output(head(tokens[:, i])) for i, head in enumerate(self.branch_heads)]
        loss, labelled = cell_losses(torch.stack(logits, dim=1), labels(self.spec.task, targets))
        counted = present[..., None] & labelled[:, None]
        terms = {name: masked_mean(loss[:, i], counted[:, i]) for i, name in enumerate(BRANCHES)}
        # A cell's weights are the mean over its units.
        per_cell = alpha.unflatten(1, (self.spec.n_outputs, -1)).mean(dim=2)
        return terms | {"rank": rank_loss(per_cell, loss.mT, counted.all(dim=1))}

    def _per_output(self, logits: Tensor) -> Tensor:
        return logits.unflatten(-1, (self.spec.n_outputs, self.spec.n_logits))


def by_branch(tokens: Tensor, present: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, presence and weights of the three branches; films' own tokens taken together.

    Args:
        tokens: float [B, 1 + 2 n, h]; one of the EHR, n shared ones, n of films
        present: bool [B, 1 + 2 n]
        alpha: float [B, n_units, 1 + 2 n]

    Returns:
        float [B, 3, h], the means of what is present; bool [B, 3]; float [B, n_units, 3], the sums.
    """
    n = tokens.shape[1] // 2
    if n == 1:
        return tokens, present, alpha
    sizes = [1, n, n]
    there = present.split(sizes, dim=1)
    means = [mean_of_valid(x, p) for x, p in zip(tokens.split(sizes, dim=1), there, strict=True)]
    return (
        torch.stack(means, dim=1),
        torch.stack([p.any(dim=1) for p in there], dim=1),
        torch.stack([a.sum(dim=-1) for a in alpha.split(sizes, dim=-1)], dim=-1),
    )


def newest_films(batch: Batch, n_slots: int) -> tuple[Tensor, Tensor]:
    """The newest films, uint8 [B, n_slots, S, S], the last in the last slot; valid [B, n_slots]."""
    n_films = batch.film_valid.sum(dim=1, keepdim=True)
    place = n_films - n_slots + torch.arange(n_slots, device=n_films.device)
    sample = torch.arange(len(place), device=n_films.device)[:, None]
    return batch.films[sample, place.clamp_min(0)], place >= 0


def disentanglement(f: Features, full_divergence: bool) -> dict[str, Tensor]:
    """Align the shared vectors; keep the distinct ones orthogonal to them. Scalars by name."""
    both = f.has_ehr[:, None] & f.film_valid
    apart = divergence(f.s_ehr[:, None], f.s_cxr, full_divergence)
    return {
        "divergence": masked_mean(apart, both),
        "ehr_cosine": masked_mean(absolute_cosine(f.s_ehr, f.d_ehr), f.has_ehr),
        "cxr_cosine": masked_mean(absolute_cosine(f.s_cxr, f.d_cxr), f.film_valid),
    }


def divergence(a: Tensor, b: Tensor, full: bool = False) -> Tensor:
    """Jensen-Shannon divergence of p = sigmoid(a) and q = sigmoid(b), summed over the last axis.

    As in the released code it is the half for p and q, without that for 1 - p and 1 - q, unless
    `full`.
    """
    ln_p, ln_q = F.logsigmoid(a.float()), F.logsigmoid(b.float())
    ln_m = torch.logaddexp(ln_p, ln_q) - math.log(2)
    terms = ln_p.exp() * (ln_p - ln_m) + ln_q.exp() * (ln_q - ln_m)
    return terms.sum(dim=-1) / 2 + (divergence(-a, -b) if full else 0)


def absolute_cosine(a: Tensor, b: Tensor) -> Tensor:
    """|cos(a, b)| over the last axis, in float32."""
    return F.cosine_similarity(a.float(), b.float(), dim=-1).abs()


def masked_mean(values: Tensor, counted: Tensor) -> Tensor:
    """The mean of `values` where `counted` (bool, same shape), a scalar; 0 if there are none."""
    return torch.where(counted, values, 0).sum() / counted.sum().clamp_min(1)


def labels(task: Task, targets: Targets) -> Tensor:
    """The class per sample and output, int64 [B, n_outputs]; `NOT_MENTIONED` diseases as they are.

    Only progression has these: for length of stay the same number is a class.
    """
    if task is Task.DISEASE_PROGRESSION:
        return targets.progression
    single = targets.mortality if task is Task.MORTALITY else targets.length_of_stay
    return single[:, None].long()


def cell_losses(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every branch in every cell, a sample's output.

    Args:
        logits: float [B, 3, n_outputs, n_logits]; one logit is that of class 1 against class 0
        classes: int64 [B, n_outputs]; a number beyond the classes is no label

    Returns:
        float [B, 3, n_outputs], and whether the cell is labelled, bool [B, n_outputs].
    """
    logits = logits.float()
    if logits.shape[-1] == 1:
        logits = F.pad(logits, (1, 0))
    labelled = classes < logits.shape[-1]
    index = torch.where(labelled, classes, 0)[:, None, :, None].expand(-1, len(BRANCHES), -1, -1)
    return -logits.log_softmax(dim=-1).gather(-1, index).squeeze(-1), labelled


def rank_loss(alpha: Tensor, loss: Tensor, counted: Tensor) -> Tensor:
    """A branch that predicts better should get more weight.

    A pair of branches adds what its weights lack, divided by the number of cells that lack. Losses
    are compared only, so no gradient reaches the branches' own classifiers.

    Args:
        alpha: float [B, n_outputs, 3]; weights, order of `BRANCHES`
        loss: float [B, n_outputs, 3]; each branch's own loss in the cell
        counted: bool [B, n_outputs]; cells with both modalities and a label
    """
    ehr, shared, cxr = range(len(BRANCHES))
    pairs = (cxr, ehr), (shared, ehr), (shared, cxr)
    # A tie counts as the second being better, as in the released code.
    better = torch.stack(
        [torch.where(loss[..., i] < loss[..., j], 1.0, -1.0) for i, j in pairs], -1
    )
    ahead = torch.stack([alpha[..., i] - alpha[..., j] for i, j in pairs], dim=-1)
    lacks = F.relu(-better * ahead) * counted[..., None]
    return (lacks.sum(dim=(0, 1)) / (lacks > 0).sum(dim=(0, 1)).clamp_min(1)).mean()
