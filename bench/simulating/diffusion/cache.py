"""Trained models on disk, found by the content of their settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from bench.checkpoints import save
from bench.store import write_json

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def key(settings: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits of JSON-able settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def trained(
    module: ModuleT, folder: Path, settings: Mapping[str, Any], fit: Callable[[Path], None]
) -> ModuleT:
    """Give a module its weights from folder/model.pt; `fit` trains it if they are not there.

    `fit` is given the folder and may leave NAME.checkpoint.pt files, which are removed in the end.
    """
    weights = folder / "model.pt"
    if not weights.exists():
        fit(folder)
        write_json(folder / "config.json", dict(settings))
        save(weights, module.state_dict())
        for checkpoint in folder.glob("*.checkpoint.pt"):
            checkpoint.unlink()
    # Also after training: one and the same path to the weights.
    module.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return module.eval().requires_grad_(False)
