"""What a run saves to go on later: weights, optimizer, random state and selection together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.epoch import Epoch
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


@contextmanager
def refusal_kept() -> Iterator[None]:
    """Raise the system's refusal to write (disk full) where a library raises its own error over it.

    torch and zipfile do so when the disk fills up in the middle of a file.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        cause = error.__context__
        while cause and not isinstance(cause, OSError):
            cause = cause.__context__
        raise cause or error


def save(path: Path, content: Any) -> None:
    """Write tensors by atomic replace."""
    with replacing(path) as partial, partial.open("wb") as handle, refusal_kept():
        torch.save(content, handle)


def save_checkpoint(
    run: Run, files: RunFiles, optimizer: torch.optim.Optimizer, progress: Progress, epoch: Epoch
) -> None:
    """Keep the state after the finished epochs of `progress` and the finished steps of `epoch`."""
    content = {
        "model": run.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "progress": asdict(progress),
        "epoch": epoch.to_numbers(),
        "micro_batch": run.micro_batch,
    }
    if run.device.type == "cuda":
        content["random_cuda"] = torch.cuda.get_rng_state(run.device)
    save(files.checkpoint, content)


def resume(
    run: Run, files: RunFiles, optimizer: torch.optim.Optimizer, say: Callable[[str], None]
) -> tuple[Progress, Epoch]:
    """Go back to what was saved last, or to the start if there is nothing."""
    if not files.checkpoint.exists():
        return Progress(), Epoch()
    content = torch.load(files.checkpoint, map_location="cpu", weights_only=True)
    run.model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    torch.set_rng_state(content["random"])
    if run.device.type == "cuda" and "random_cuda" in content:
        torch.cuda.set_rng_state(content["random_cuda"], run.device)
    run.micro_batch = content.get("micro_batch", run.micro_batch)
    progress = Progress(**content["progress"])
    # A checkpoint of older code has finished epochs only.
    epoch = Epoch.from_numbers(content["epoch"], run.device) if "epoch" in content else Epoch()
    say(f"resumed after {_place(progress, epoch)}")
    return progress, epoch


def _place(progress: Progress, epoch: Epoch) -> str:
    steps = f"{epoch.n_steps} steps of epoch {progress.epoch + 1}"
    finished = f"epoch {progress.epoch}"
    if not epoch.n_steps:
        return finished
    return f"{finished} and {steps}" if progress.epoch else steps
