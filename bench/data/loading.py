"""How batches reach a device: images kept on a GPU that has room, the next batch fetched ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bench.data.batch import Batch, Inputs, Samples
from bench.data.cohort import Cohort

RESIDENT_SHARE = 0.3
"""How much of a GPU's free memory a cohort's images may take; the rest is for training."""

FILMS_AT_ONCE = 256
"""Films that are copied to a GPU in one piece."""

_kept: dict[tuple[str, str, str], Tensor] = {}
"""What this process keeps on GPUs, by cohort, array and device: its runs share it."""


def fits(n_bytes: int, free_bytes: int) -> bool:
    """Whether so many bytes of images may stay on a device with so many free."""
    return n_bytes <= RESIDENT_SHARE * free_bytes


def resident_images(cohort: Cohort, inputs: Inputs, device: torch.device) -> dict[str, Tensor]:
    """The images that a method reads on a GPU that has room for them; else none.

    Returns:
        'films', 'regions' or both: uint8 [films + 1, ...], the last one black.
    """
    wanted = {"films": inputs.films, "regions": inputs.regions}
    keys = {name: (cohort.content_hash, name, str(device)) for name in wanted if wanted[name]}
    if device.type != "cuda":
        return {}
    new = sum(cohort.arrays[name].nbytes for name, key in keys.items() if key not in _kept)
    if new and not fits(new, torch.cuda.mem_get_info(device)[0]):
        return {}
    for name, key in keys.items():
        if key not in _kept:
            _kept[key] = copied(cohort.arrays[name], device)
    return {name: _kept[key] for name, key in keys.items()}


def release_images(samples: Samples, device: torch.device) -> bool:
    """Take all kept images off a device; they are read from the cohort again. False if none."""
    keys = [key for key in _kept if key[2] == str(device)]
    samples.resident = {}
    for key in keys:
        del _kept[key]
    return bool(keys)


def copied(images: np.ndarray, device: torch.device) -> Tensor:
    """Images, uint8 [N, ...], on a device, and a black one after them."""
    kept = torch.zeros((len(images) + 1, *images.shape[1:]), dtype=torch.uint8, device=device)
    for start in range(0, len(images), FILMS_AT_ONCE):
        some = np.array(images[start : start + FILMS_AT_ONCE])
        kept[start : start + len(some)] = torch.from_numpy(some)
    return kept


def batches(
    samples: Samples, chunks: Sequence[np.ndarray], device: torch.device, ahead: bool | None = None
) -> Generator[Batch]:
    """The batches of chunks (positions of samples) on `device`, in order.

    With `ahead`, which is for GPUs, a thread fetches the next one while one is used.
    """
    if not (device.type == "cuda" if ahead is None else ahead):
        yield from (samples.batch(chunk).to(device) for chunk in chunks)
        return
    with ThreadPoolExecutor(max_workers=1) as thread:
        fetched: deque[Future[Batch]] = deque()
        for chunk in chunks:
            fetched.append(thread.submit(_fetch, samples, chunk, device))
            if len(fetched) > 1:
                yield fetched.popleft().result()
        yield from (batch.result() for batch in fetched)


def _fetch(samples: Samples, chunk: np.ndarray, device: torch.device) -> Batch:
    if device.type == "cuda" and device.index is not None:
        # A new thread starts on the first GPU, and would pin memory for that one.
        torch.cuda.set_device(device)
    return samples.batch(chunk).to(device)


class StepBatches:
    """The batches of an epoch's optimizer steps, from one stream: the first batch of a step is
    fetched while the last one of the step before is used.

    steps: positions of the samples of each step
    """

    def __init__(
        self,
        samples: Samples,
        steps: Sequence[np.ndarray],
        device: torch.device,
        ahead: bool | None = None,
    ) -> None:
        self.steps = steps
        self._open = partial(batches, samples, device=device, ahead=ahead)
        self._stream: Generator[Batch] | None = None
        self._next: tuple[int, int] | None = None

    def of_step(self, step: int, size: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """A step's samples, `size` at a time: their positions and batch.

        Asked out of turn (a step again, another size), the stream starts anew at this step.
        """
        if self._stream is None or self._next != (step, size):
            self.close()
            chunks = [chunk for group in self.steps[step:] for chunk in _cut(group, size)]
            self._stream = self._open(chunks)
        self._next = None  # until the step is used up
        for chunk in _cut(self.steps[step], size):
            yield chunk, next(self._stream)
        self._next = step + 1, size

    def close(self) -> None:
        """End the stream, and with it the thread that fetches."""
        if self._stream is not None:
            self._stream.close()


def _cut(group: np.ndarray, size: int) -> list[np.ndarray]:
    return [group[start : start + size] for start in range(0, len(group), size)]
