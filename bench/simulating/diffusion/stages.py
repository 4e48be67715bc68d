"""One stage of an engine's training: resumable, seeded step by step, with progress.

A step's samples and noise depend on the seed and its number alone. So a stage that is killed goes
on from its last checkpoint and ends with the same bits (same machine and thread count).
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from bench.checkpoints import save
from bench.simulating.diffusion.cache import one_line_if_damaged

WARMUP_STEPS: Final = 50
LAST_LR: Final = 0.05
"""Share of the learning rate that is left at the last step."""

Loss = Callable[[Tensor, torch.Generator], Tensor]
"""Rows of a batch (int64 [B]) and a source of noise to a scalar."""


@dataclass(frozen=True)
class Stage:
    """What is trained and how: AdamW, warm-up, then a cosine.

    ema: decay of the average of weights that replaces them at the end; 0 keeps the last ones
    warm_up: steps; last_lr: share of `lr` that the cosine ends with, 1 for a constant one
    accumulate: batches whose mean gradient makes a step
    """

    name: str
    module: nn.Module
    loss: Loss
    n_samples: int
    n_steps: int
    batch_size: int
    lr: float
    seed: int
    ema: float = 0.0
    checkpoint_every: int = 100
    warm_up: int = WARMUP_STEPS
    last_lr: float = LAST_LR
    accumulate: int = 1


def run_stage(stage: Stage, checkpoint: Path) -> None:
    """Train `stage.module` in place, from `checkpoint` if it is there; the last step is kept."""
    average = copy.deepcopy(stage.module).requires_grad_(False)
    optimizer = torch.optim.AdamW(stage.module.parameters(), lr=stage.lr, weight_decay=1e-2)
    first = _resume(stage.module, average, optimizer, checkpoint)
    log = _Log(stage, first)
    stage.module.train()
    steps = tqdm(
        range(first, stage.n_steps), stage.name, stage.n_steps, initial=first, disable=None
    )
    for step in steps:
        loss = _step(stage, optimizer, step)
        # Early on the average follows the weights, else it would keep where they started.
        _follow(average, stage.module, min(stage.ema, (1 + step) / (10 + step)))
        steps.set_postfix(loss=f"{loss:.4f}", refresh=False)
        done = step + 1
        if done % stage.checkpoint_every == 0 or done == stage.n_steps:
            save(checkpoint, _state(stage.module, average, optimizer, done))
            log.say(done, loss)
    stage.module.load_state_dict(average.state_dict())
    stage.module.eval()


class _Log:
    """A plain line at the start and at each checkpoint where no bar can be shown, as in a file."""

    def __init__(self, stage: Stage, first: int) -> None:
        self.stage, self.first, self.started = stage, first, time.monotonic()
        resumed = f", from step {first}" if first else ""
        self._print(f"training of {stage.n_steps} steps{resumed}")

    def say(self, done: int, loss: float) -> None:
        """How far it is, and how long the rest takes at the pace so far."""
        pace = (time.monotonic() - self.started) / (done - self.first)
        minutes = pace * (self.stage.n_steps - done) / 60
        self._print(f"step {done} of {self.stage.n_steps}, loss {loss:.4f}, {minutes:.1f} min left")

    def _print(self, what: str) -> None:
        if not sys.stderr.isatty():
            print(f"{self.stage.name}: {what}", file=sys.stderr, flush=True)


def _step(stage: Stage, optimizer: torch.optim.Optimizer, step: int) -> float:
    """One step of the optimizer; the mean loss of its batches."""
    rng = np.random.default_rng([stage.seed, step])
    for group in optimizer.param_groups:
        group["lr"] = stage.lr * _lr_share(stage, step)
    optimizer.zero_grad()
    total = 0.0
    for _ in range(stage.accumulate):
        rows = torch.from_numpy(rng.integers(stage.n_samples, size=stage.batch_size))
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        loss = stage.loss(rows, noise) / stage.accumulate
        loss.backward()
        total += loss.item()
    nn.utils.clip_grad_norm_(stage.module.parameters(), 1.0)
    optimizer.step()
    return total


def _lr_share(stage: Stage, step: int) -> float:
    cosine = 0.5 * (1 + math.cos(math.pi * step / stage.n_steps))
    warmth = min((step + 1) / max(stage.warm_up, 1), 1.0)
    return warmth * (stage.last_lr + (1 - stage.last_lr) * cosine)


@torch.no_grad()
def _follow(average: nn.Module, module: nn.Module, decay: float) -> None:
    for kept, new in zip(average.parameters(), module.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)
    for statistic, now in zip(average.buffers(), module.buffers(), strict=True):
        statistic.copy_(now)


def _state(
    module: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, step: int
) -> dict[str, Any]:
    return {
        "step": step,
        "module": module.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
    }


def _resume(
    module: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path
) -> int:
    """Go back to the checkpoint; returns the steps that are done."""
    if not checkpoint.exists():
        return 0
    with one_line_if_damaged(checkpoint):
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        module.load_state_dict(content["module"])
        average.load_state_dict(content["average"])
        optimizer.load_state_dict(content["optimizer"])
        return int(content["step"])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from a seed; afterwards the global state is what it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
