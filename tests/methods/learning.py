"""Training in tests: on one batch, and beside a padded one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.contract_checks import difference, padded
from bench.data.batch import Batch


def learn(method: nn.Module, batch: Batch, labels: Tensor, lr: float, n_steps: int) -> float:
    """Train the first logit on one batch; return the last mean loss."""
    optimizer = torch.optim.Adam(method.train().parameters(), lr=lr)
    for _ in range(n_steps):
        logits = method(batch).logits[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def assert_padding_is_not_learned(one: nn.Module, other: nn.Module, batch: Batch) -> None:
    """Two equal methods in training mode: logits and buffers with and without a padded film."""
    seen = one(padded(batch, n_films=3)).logits
    assert difference("logits", seen, other(batch).logits) is None
    for (name, value), expected in zip(one.named_buffers(), other.buffers(), strict=True):
        assert difference(name, value, expected) is None
