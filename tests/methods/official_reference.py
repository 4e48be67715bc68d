"""The official inference once more, sample by sample and pair by pair, with torch's own modules.

Written from the description of the released code, without any module of ours: what
`methods.dipro.official` computes in one pass over masks, this does naively, padding included.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

State = dict[str, Tensor]

N_HEADS = 8
CXR, FUSION = "long_cxr_encoder.", "long_multi_modal_fuison."


def official_forward(state: State, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Logits, static and dynamic features of official arrays."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    # Since torch 1.12 the fast path leaves zeros at padded rows.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            given = {name: torch.as_tensor(values) for name, values in arrays.items()}
            samples = [_sample(state, given, b) for b in range(len(given["ehr"]))]
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    return {
        name: np.stack([sample[name].numpy() for sample in samples])
        for name in ("logits", "static", "dynamic")
    }


def _sample(state: State, given: State, b: int) -> State:
    features = [_film(state, given, b, t) for t in range(given["image"].shape[1])]
    static, dynamic = [], []
    for first, second in itertools.pairwise(features):
        pair = torch.cat([first, second], dim=-1)
        static.append(_projection(state, CXR + "static_proj.proj_net.", pair))
        dynamic.append(_projection(state, CXR + "dynamic_proj.proj_net.", pair))
    hours = _hours(state, given["ehr"][b], given["ehr_mask"][b])
    fused = []
    for p, regions in enumerate(dynamic):
        local = _interval(state, hours, given["ehr_times"][b], given["intervals"][b, p])
        layer = 0
        while f"{FUSION}region_attn.{layer}.norm.weight" in state:
            regions = _region_attention(state, f"{FUSION}region_attn.{layer}.", regions, local)
            layer += 1
        fused.append(regions)
    regions = torch.cat(fused)
    attended = _attend(state, FUSION + "ehr_cross_attn.stage1_attn_CXR_EHR.", hours, regions)
    hours = _norm(state, FUSION + "ehr_cross_attn.norm1_CXR_EHR.", hours + attended)
    cls = state[FUSION + "cls_token"][0]
    absent_pair = ~given["image_mask"][b, 1:].bool()
    padding = torch.cat(
        [
            torch.zeros(len(cls), dtype=torch.bool),
            absent_pair.repeat_interleave(10),
            torch.zeros(len(hours), dtype=torch.bool),
        ]
    )
    tokens = torch.cat([cls, regions, hours])
    tokens = _layer(state, FUSION + "fusion.layers.0.", tokens, padding)
    demographics = F.relu(_linear(state, "demographic_encoder.0.", given["demographic"][b]))
    keys = torch.cat([*static, demographics[None]])
    keys = (keys @ state["group_embedding.W"]).softmax(-1) @ state["group_embedding.G"]
    attended = _attend(state, "Demographic_attn.", tokens, keys)
    tokens = _norm(state, "Demographic_norm.", tokens + attended)
    logits = [
        _linear(
            state,
            f"output_layer.{c}.3.",
            F.relu(_linear(state, f"output_layer.{c}.0.", tokens[c])),
        )
        for c in range(len(cls))
    ]
    return {
        "logits": torch.stack(logits),
        "static": torch.stack(static),
        "dynamic": torch.stack(dynamic),
    }


def _film(state: State, given: State, b: int, t: int) -> Tensor:
    is_there = bool(given["image_mask"][b, t])
    crops = given["image"][b, t] if is_there else state["learnable_pad.pad_value"]
    resnet = torchvision.models.resnet50()
    resnet.fc = nn.Identity()
    resnet.load_state_dict(_part(state, CXR + "resnet."))
    pooled = resnet.eval()(crops)
    prefix = CXR + "feature_adapter."
    return F.relu(_batch_norm(state, prefix + "1.", _linear(state, prefix + "0.", pooled)))


def _projection(state: State, prefix: str, pair: Tensor) -> Tensor:
    hidden = F.gelu(_linear(state, prefix + "0.", pair))
    return _batch_norm(state, prefix + "3.", _linear(state, prefix + "2.", hidden))


def _hours(state: State, ehr: Tensor, mask: Tensor) -> Tensor:
    prefix = FUSION + "ehr_global_encoder."
    x = _norm(state, prefix + "input_proj.1.", _linear(state, prefix + "input_proj.0.", ehr))
    x = x + state[prefix + "pos_encoder.pe"][0, : len(x)]
    x = torch.cat([state[prefix + "cls_token"], x])
    padding = torch.cat([torch.tensor([False]), ~mask.bool()])
    return _layer(state, prefix + "transformer.layers.0.", x, padding)[1:]


def _interval(state: State, hours: Tensor, times: Tensor, interval: Tensor) -> Tensor:
    prefix = FUSION + "ehr_local_encoder."
    start, end = interval
    since, until = times - start, end - times
    features = torch.stack([since, until, torch.sigmoid(since * until)], dim=-1)
    query = F.gelu(_linear(state, prefix + "time_encoder.0.", features))
    query = _linear(state, prefix + "time_encoder.2.", query)
    far = (times - (start + end) / 2).abs()
    far[(times < start) | (times > end)] = float("inf")
    bias = -far.expand(len(times), -1)
    return _attend(state, prefix + "attn.", query, hours, bias=bias)


def _region_attention(state: State, prefix: str, regions: Tensor, local: Tensor) -> Tensor:
    query, key, value = _linear(state, prefix + "region_proj.", regions).chunk(3, dim=-1)
    local_key, local_value = _linear(state, prefix + "ehr_proj.", local).chunk(2, dim=-1)
    keys, values = torch.cat([key, local_key]), torch.cat([value, local_value])
    attended = _attend(state, prefix + "attn.", query, keys, values)
    return _norm(state, prefix + "norm.", attended + regions)


def _attend(
    state: State,
    prefix: str,
    query: Tensor,
    keys: Tensor,
    values: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    attention = nn.MultiheadAttention(query.shape[-1], N_HEADS, batch_first=True)
    attention.load_state_dict(_part(state, prefix))
    values = keys if values is None else values
    return attention.eval()(query[None], keys[None], values[None], attn_mask=bias)[0][0]


def _layer(state: State, prefix: str, x: Tensor, padding: Tensor) -> Tensor:
    d = x.shape[-1]
    layer = nn.TransformerEncoderLayer(d, N_HEADS, 4 * d, batch_first=True)
    layer.load_state_dict(_part(state, prefix))
    return layer.eval()(x[None], src_key_padding_mask=padding[None])[0]


def _linear(state: State, prefix: str, x: Tensor) -> Tensor:
    return F.linear(x, state[prefix + "weight"], state[prefix + "bias"])


def _norm(state: State, prefix: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[prefix + "weight"], state[prefix + "bias"])


def _batch_norm(state: State, prefix: str, x: Tensor) -> Tensor:
    part = _part(state, prefix)
    return F.batch_norm(x, part["running_mean"], part["running_var"], part["weight"], part["bias"])


def _part(state: State, prefix: str) -> State:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
