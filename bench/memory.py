"""What does not fit into GPU memory at once is computed in smaller parts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

Result = TypeVar("Result")

MakeRoom = Callable[[], bool]
"""Takes what can be spared off the GPU; False if there was nothing."""

_IN_OTHER_WORDS = re.compile(
    r"CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS\w*_ALLOC\w*_FAILED|CUDA error: out of memory"
)
"""How libraries and the driver say it; the allocator has an exception of its own."""


def ran_out(error: RuntimeError) -> bool:
    """Whether an error says that GPU memory ran out."""
    is_own = isinstance(error, torch.cuda.OutOfMemoryError)
    return is_own or _IN_OTHER_WORDS.search(str(error)) is not None


def within_memory(
    compute: Callable[[int], Result], size: int, make_room: MakeRoom = lambda: False
) -> tuple[Result, int]:
    """Call `compute(size)`, with half the size each time that GPU memory runs out.

    Returns:
        The result and the size that fitted.

    Raises:
        torch.cuda.OutOfMemoryError: not even size 1 fits, with all the room that could be made.
    """
    while True:
        try:
            return compute(size), size
        except RuntimeError as error:
            if not ran_out(error):
                raise
            if size == 1 and not make_room():
                raise _no_room("with one sample at a time") from error
        # Out here the traceback is gone, and with it the tensors that it held.
        torch.cuda.empty_cache()
        size = max(size // 2, 1)


def step_within_memory(optimizer: torch.optim.Optimizer, make_room: MakeRoom) -> bool:
    """Take an optimizer step; return whether it fitted before room was made for it.

    Raises:
        torch.cuda.OutOfMemoryError: it does not fit; no weight was changed.
    """
    fits = _fits(optimizer)
    if not fits:
        make_room()
        torch.cuda.empty_cache()
        if not _fits(optimizer):
            raise _no_room("in the optimizer's step")
    optimizer.step()
    return fits


def _fits(optimizer: torch.optim.Optimizer) -> bool:
    """Whether there is room for AdamW's next step, which this process then keeps for it.

    Tried first, because a step that runs out of memory leaves some weights and moments updated
    and could not be taken again. It needs a tensor like each weight, the first one two more.
    """
    weights = [w for group in optimizer.param_groups for w in group["params"] if w.grad is not None]
    needed = [w for w in weights for _ in range(1 if w in optimizer.state else 3)]
    try:
        held = [torch.empty_like(w) for w in needed]
        del held
    except RuntimeError as error:
        if not ran_out(error):
            raise
        return False
    return True


def _no_room(when: str) -> torch.cuda.OutOfMemoryError:
    return torch.cuda.OutOfMemoryError(
        f"GPU memory ran out {when}: put fewer runs on a GPU (--runs-per-gpu) or make the model "
        "smaller (--set model.FIELD=VALUE)"
    )


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Put a model's buffers (running statistics) back if what is inside fails."""
    before = [buffer.clone() for buffer in model.buffers()]
    try:
        yield
    except RuntimeError:
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)
        raise
