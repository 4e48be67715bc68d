"""What a run saves to go on later: weights, optimizer, random state and selection together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.store import RunFiles, replacing

if TYPE_CHECKING:
    from bench.runner import Run


@dataclass
class Progress:
    """Where training stands, besides tensors. `best_value` is higher-is-better."""

    epoch: int = 0
    step: int = 0
    best_epoch: int = -1
    best_value: float = -math.inf
    history: list[dict[str, float]] = field(default_factory=list)

    def stale_epochs(self) -> int:
        """Epochs since the last improvement."""
        return self.epoch - 1 - self.best_epoch


def save(path: Path, content: Any) -> None:
    """Write tensors by atomic replace."""
    with replacing(path) as partial, partial.open("wb") as handle:
        torch.save(content, handle)


def save_checkpoint(
    run: Run, files: RunFiles, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Keep the state after a finished epoch."""
    content = {
        "model": run.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "progress": asdict(progress),
        "micro_batch": run.micro_batch,
    }
    if run.device.type == "cuda":
        content["random_cuda"] = torch.cuda.get_rng_state(run.device)
    save(files.checkpoint, content)


def resume(
    run: Run, files: RunFiles, optimizer: torch.optim.Optimizer, say: Callable[[str], None]
) -> Progress:
    """Go back to the last finished epoch, or to the start if there is none."""
    if not files.checkpoint.exists():
        return Progress()
    content = torch.load(files.checkpoint, map_location="cpu", weights_only=True)
    run.model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    torch.set_rng_state(content["random"])
    if run.device.type == "cuda" and "random_cuda" in content:
        torch.cuda.set_rng_state(content["random_cuda"], run.device)
    run.micro_batch = content.get("micro_batch", run.micro_batch)
    progress = Progress(**content["progress"])
    say(f"resumed after epoch {progress.epoch}")
    return progress
