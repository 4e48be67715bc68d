"""What does not fit into GPU memory at once is computed in smaller parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def within_memory(compute: Callable[[int], Result], size: int) -> tuple[Result, int]:
    """Call `compute(size)`, with half the size each time that GPU memory runs out.

    Returns:
        The result and the size that fitted.

    Raises:
        torch.cuda.OutOfMemoryError: not even size 1 fits.
    """
    while True:
        try:
            return compute(size), size
        except torch.cuda.OutOfMemoryError:
            if size == 1:
                raise
        # Out here the traceback is gone, and with it the tensors that it held.
        torch.cuda.empty_cache()
        size //= 2
