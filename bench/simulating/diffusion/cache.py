"""Trained models on disk, found by the content of their settings."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from bench.checkpoints import save
from bench.errors import UserError
from bench.store import one_line_if_refused, write_json

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def fingerprint(files: Iterable[Path]) -> str:
    """Twelve hexadecimal digits of what source files say, for settings that hang on code."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def key(settings: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits of JSON-able settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def one_line_if_damaged(file: Path) -> Iterator[None]:
    """Turn what reading a cut or foreign cache file raises into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}")
    except (RuntimeError, EOFError, ValueError, LookupError, TypeError, pickle.PickleError):
        raise UserError(f"{file} is damaged: remove it, it is trained again")


def trained(
    module: ModuleT, folder: Path, settings: Mapping[str, Any], fit: Callable[[Path], None]
) -> ModuleT:
    """Give a module its weights from folder/model.pt; `fit` trains it if they are not there.

    `fit` is given the folder and may leave NAME.checkpoint.pt files, which are removed in the end.

    Raises:
        UserError: the folder cannot be made, or the file is damaged.
    """
    weights = folder / "model.pt"
    if not weights.exists():
        # Refused before minutes of training, not after them.
        with one_line_if_refused(folder):
            folder.mkdir(parents=True, exist_ok=True)
        fit(folder)
        write_json(folder / "config.json", dict(settings))
        save(weights, module.state_dict())
        for checkpoint in folder.glob("*.checkpoint.pt"):
            checkpoint.unlink()
    # Also after training: one and the same path to the weights.
    with one_line_if_damaged(weights):
        module.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return module.eval().requires_grad_(False)
