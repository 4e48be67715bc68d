"""The authors' published DiPro: their checkpoints in our modules, and inference as their code does.

Parameters have the shapes of ours, so a checkpoint is our DiPro under other names (`NAMES`). What
the official inference does differently is in `OfficialDiPro.forward`, all of it about padding:

- a missing film is a learnable image per region and goes through the ConvNet (ledger M13);
- only the encoder of the whole series knows which hours are padding (M7), and only the last
  self-attention which pairs are (M4 to M6, M8); padding has hour 3.0 and interval [3, 3] (M10);
- an Encoder layer leaves ordinary values at padded rows, as torch did before 1.12 (M9).

Without padding it equals our own DiPro with the same weights (`load_into`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contract import Preset, TaskSpec
from bench.data.batch import Batch
from bench.data.vocabulary import Cxr, Task
from bench.errors import UserError
from methods.dipro.config import configure
from methods.dipro.mmf import Intervals, region_tokens
from methods.dipro.model import DiPro
from methods.dipro.std import film_pairs

CXR, FUSION = "long_cxr_encoder", "long_multi_modal_fuison"
"""Parts of an official name; the misspelling is theirs."""

NAMES: Final = {
    f"{CXR}.resnet": "regions.images.network",
    f"{CXR}.feature_adapter": "regions.adapter",
    f"{CXR}.static_proj.proj_net": "std.f_s",
    f"{CXR}.dynamic_proj.proj_net": "std.f_d",
    f"{CXR}.PAE_output_layer": "region_heads",
    f"{FUSION}.cls_token": "fusion.cls_token",
    f"{FUSION}.ehr_global_encoder.cls_token": "fusion.ehr_encoder.cls_token",
    f"{FUSION}.ehr_global_encoder.input_proj": "fusion.ehr_encoder.input_proj",
    f"{FUSION}.ehr_global_encoder.pos_encoder": "fusion.ehr_encoder.positions",
    f"{FUSION}.ehr_global_encoder.transformer.layers.0": "fusion.ehr_encoder.layer",
    f"{FUSION}.ehr_local_encoder.time_encoder": "fusion.local_fusion.interval.f_te",
    f"{FUSION}.ehr_local_encoder.attn": "fusion.local_fusion.interval.attention",
    **{
        f"{FUSION}.region_attn.{i}{theirs}": f"fusion.local_fusion.layers.{i}{ours}"
        for i in range(2)
        for theirs, ours in ((".attn", ".attention"), ("", ""))
    },
    f"{FUSION}.ehr_cross_attn.stage1_attn_CXR_EHR": "fusion.global_fusion.attention",
    f"{FUSION}.ehr_cross_attn.norm1_CXR_EHR": "fusion.global_fusion.norm",
    f"{FUSION}.fusion.layers.0": "fusion.layer",
    "group_embedding": "static_fusion.group_embedding",
    "demographic_encoder": "static_fusion.demographic_encoder",
    "Demographic_attn": "static_fusion.attention",
    "Demographic_norm": "static_fusion.norm",
    "output_layer": "heads",
}
"""Official name -> ours, of modules and parameters; the longest that fits counts."""

PADDING: Final = "learnable_pad.pad_value"
UNUSED: Final = (f"{CXR}.STD_Constraint.temperature", f"{FUSION}.ehr_local_encoder.sigma")
"""Scalars that every checkpoint holds and no computation reads."""

MAX_HOURS: Final = 5000
CROPS_AT_ONCE: Final = 40


class StoredPositions(nn.Module):
    """Positions of hours as a checkpoint holds them: x + pe[:, :L], pe float [1, 5000, d]."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.register_buffer("pe", torch.zeros(1, MAX_HOURS, d))
        self.pe: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return x + positions; x is float [B, L, d]."""
        return x + self.pe[:, : x.shape[1]]


class OfficialDiPro(nn.Module):
    """Our DiPro at the paper's size, the learnable images, and two scalars that nothing reads."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        config = replace(configure(Preset.PAPER, task), weights="none")
        spec = TaskSpec(task, Cxr.LONG if task.is_icu else Cxr.PAIR)
        self.dipro = DiPro(config, spec)
        _encoder(self.dipro).positions = StoredPositions(config.d_model)
        self.pad_images = nn.Parameter(torch.zeros(spec.n_regions, 3, 224, 224))
        self.unused = nn.ParameterList(torch.zeros(()) for _ in UNUSED)
        self.ignored: tuple[str, ...] = ()

    def forward(self, images: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, C, K], S and D [B, P, 10, d] of images, float [B, T, 10, 3, 224, 224].

        `batch` holds the rest, with the masks of the collate; `films` and `regions` are not read.
        """
        model = self.dipro
        blind = _without_masks(batch)
        F_ = self._features(torch.where(_per_film(batch.film_valid), images, self.pad_images))
        S, D = model.std(film_pairs(F_, blind.layout.pairs))
        assert S is not None
        E_global, _ = _encoder(model)(batch.ehr_values, batch.ehr_valid)
        fusion = model.fusion
        assert fusion.local_fusion is not None and fusion.global_fusion is not None
        D_fuse = fusion.local_fusion(D, E_global, Intervals.of(blind))
        D_global, everywhere = region_tokens(D_fuse, blind)
        H = fusion.global_fusion(E_global, D_global, everywhere)
        cls = fusion.cls_token.expand(len(batch), -1, -1)
        real_pair = batch.pair_valid.repeat_interleave(D.shape[1], dim=1)
        valid = F.pad(torch.cat([real_pair, blind.ehr_valid], 1), (cls.shape[1], 0), value=True)
        fused = fusion.layer(torch.cat([cls, D_global, H], dim=1), valid)[:, : cls.shape[1]]
        assert model.static_fusion is not None
        fused, _ = model.static_fusion(fused, S, blind)
        logits = model.heads(fused).unflatten(0, (len(batch), -1))
        shape = blind.pair_valid.shape
        return logits.reshape(*cls.shape[:2], -1), S.unflatten(0, shape), D.unflatten(0, shape)

    def _features(self, images: Tensor) -> Tensor:
        """F, float [B, T, 10, d]."""
        encoder = self.dipro.regions
        crops = images.flatten(0, 2).contiguous(memory_format=torch.channels_last)
        pooled = [
            F.adaptive_avg_pool2d(encoder.images.network(some), 1).flatten(1)
            for some in crops.split(CROPS_AT_ONCE)
        ]
        return encoder.adapter(torch.cat(pooled)).unflatten(0, images.shape[:3])


def load(state_dict: Mapping[str, Tensor], task: Task | str) -> OfficialDiPro:
    """The official model of a task in evaluation mode, from an official state dict.

    Keys of loss objects are left out; the model's `ignored` names them.

    Raises:
        UserError: a key is missing or unexpected, or a tensor has another shape.
    """
    model = OfficialDiPro(Task(task))
    model.ignored = tuple(key for key in state_dict if _is_of_loss(key))
    given = {key: value for key, value in state_dict.items() if not _is_of_loss(key)}
    places = dict(_places(model))
    for what, keys in (
        ("lacks", places.keys() - given.keys()),
        ("holds unexpected", given.keys() - places.keys()),
    ):
        if keys:
            raise UserError(f"this is no official checkpoint of {task}: it {what} {_listed(keys)}")
    own = model.state_dict()
    for key, place in places.items():
        if given[key].shape != own[place].shape:
            raise UserError(
                f"official checkpoint of {task}, key {key}: shape {list(given[key].shape)}, "
                f"expected {list(own[place].shape)}"
            )
    model.load_state_dict({place: given[key] for key, place in places.items()})
    return model.eval()


def load_into(model: DiPro, state_dict: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Give our own DiPro the weights of an official checkpoint; returns the keys left out.

    The model reads its masks as ever: what it computes is the official inference of each sample
    alone.

    Raises:
        UserError: the checkpoint is not of this task, or the model has not the paper's parts.
    """
    official = load(state_dict, model.spec.task)
    _encoder(model).positions = StoredPositions(model.config.d_model)
    weights = official.dipro.state_dict()
    own = {name: value.shape for name, value in model.state_dict().items()}
    if own != {name: value.shape for name, value in weights.items()}:
        raise UserError(
            "official weights fit the paper's DiPro with films and EHR only: "
            "without --ablate, --no-ehr and changed sizes"
        )
    model.load_state_dict(weights)
    return (*official.ignored, PADDING, *UNUSED)


@torch.inference_mode()
def forward(model: OfficialDiPro, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Official inference on a batch as the official collate makes it.

    Args:
        arrays: image float [B, T, 10, 3, 224, 224] in 0..1, image_mask bool [B, T] (True: a film),
            ehr float [B, L, 38], ehr_mask bool [B, L], demographic float [B, 17], ehr_times float
            [B, L], intervals float [B, P, 2]

    Returns:
        logits [B, C, K], static and dynamic [B, P, 10, d]

    Raises:
        UserError: an array is missing.
    """
    given = {name: _tensor(arrays, name) for name in ARRAYS}
    film_valid, ehr_valid = given["image_mask"].bool(), given["ehr_mask"].bool()
    n, n_films = film_valid.shape
    images = given["image"]
    batch = Batch(
        films=torch.zeros(n, n_films, 0, 0, dtype=torch.uint8),
        regions=torch.zeros(n, n_films, images.shape[2], 0, 0, dtype=torch.uint8),
        region_present=film_valid[..., None].expand(-1, -1, images.shape[2]),
        film_valid=film_valid,
        film_hours=torch.zeros(n, n_films),
        pair_valid=film_valid[:, 1:] & film_valid[:, :-1],
        pair_hours=given["intervals"],
        ehr_values=given["ehr"],
        ehr_observed=torch.zeros_like(given["ehr"], dtype=torch.bool),
        ehr_hours=given["ehr_times"],
        ehr_valid=ehr_valid,
        demographics=given["demographic"],
    )
    logits, S, D = model(images, batch)
    return {"logits": logits.numpy(), "static": S.numpy(), "dynamic": D.numpy()}


ARRAYS: Final = (
    "image", "image_mask", "ehr", "ehr_mask", "demographic", "ehr_times", "intervals",
)  # fmt: skip


def read(path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint file, Lightning's or a bare one; nothing in the file runs.

    A Lightning file also pickles classes of its callbacks. torch loads it with `weights_only` when
    each of these names stands for an empty class of ours, so no code of the file's is imported.

    Raises:
        UserError: the file is missing or holds no state dict.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        stubs: list[Any] = [(type("Stub", (), {}), name) for name in names]
        with torch.serialization.safe_globals(stubs):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} is not there: download the published checkpoint")
    except Exception as error:
        # torch.load raises many kinds for a file that is no checkpoint.
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as a checkpoint: {reason}")
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path} holds no state dict")
    return state


def _encoder(model: DiPro) -> Any:
    encoder = model.fusion.ehr_encoder
    if encoder is None:
        raise UserError("official weights need the EHR: leave --no-ehr out")
    return encoder


def _without_masks(batch: Batch) -> Batch:
    """The batch as most of the official code sees it: padding is as good as anything."""
    return replace(
        batch,
        film_valid=torch.ones_like(batch.film_valid),
        pair_valid=torch.ones_like(batch.pair_valid),
        ehr_valid=torch.ones_like(batch.ehr_valid),
    )


def _per_film(film_valid: Tensor) -> Tensor:
    return film_valid[:, :, None, None, None, None]


def _places(model: OfficialDiPro) -> Iterator[tuple[str, str]]:
    """Official key and name in `OfficialDiPro` of every tensor."""
    yield PADDING, "pad_images"
    yield from ((key, f"unused.{i}") for i, key in enumerate(UNUSED))
    official = {ours: theirs for theirs, ours in NAMES.items()}
    for name in model.dipro.state_dict():
        prefix = max((p for p in official if _begins(name, p)), key=len)
        yield official[prefix] + name.removeprefix(prefix), f"dipro.{name}"


def _begins(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _is_of_loss(key: str) -> bool:
    return key.split(".")[0] in ("loss", "loss_batch", "loss_ls")


def _listed(keys: set[str]) -> str:
    some = sorted(keys)[:5]
    return ", ".join(some) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")


def _tensor(arrays: Mapping[str, np.ndarray], name: str) -> Tensor:
    if name not in arrays:
        raise UserError(f"array '{name}' is missing: give {', '.join(ARRAYS)}")
    values = np.asarray(arrays[name])
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
