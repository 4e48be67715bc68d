"""Finds, on a CPU, what would make the host wait for a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {
    "aten::_local_scalar_dense",  # item(), int(), float(), if tensor
    "aten::is_nonzero",
    "aten::equal",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
    "aten::lift_fresh",  # torch.tensor(numbers), which a GPU gets from pageable memory
    "aten::repeat_interleave.Tensor",
}
"""Operators whose result the host has to know, or that bring something from the host."""

INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class WaitsError(Exception):
    """The operator that it names waits for the device."""


class NoWaiting(TorchDispatchMode):
    """Raises `WaitsError` at the first operator that would."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        name = function._schema.name
        if {name, function.name()} & WAITING or (name in INDEXING and _by_mask(args[1])):
            raise WaitsError(name)
        return function(*args, **(kwargs or {}))


def _by_mask(indices: Sequence[Tensor | None]) -> bool:
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)
