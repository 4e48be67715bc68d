"""Work that processes share before something long begins."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import joblib
from joblib.externals.loky import get_reusable_executor
from tqdm import tqdm


def in_parallel(tasks: Iterable[Any], jobs: int) -> Iterator[Any]:
    """Results of delayed calls in `jobs` processes, in order.

    The processes end with the last one: left idle while networks are trained, they would end by
    themselves and joblib would warn of a memory leak.
    """
    yield from joblib.Parallel(n_jobs=jobs, return_as="generator")(tasks)
    if jobs != 1:
        get_reusable_executor().shutdown(wait=True)


def with_progress(tasks: list[Any], jobs: int, label: str) -> list[Any]:
    """As `in_parallel`, all of them; off a terminal a line in place of a bar."""
    if not sys.stderr.isatty():
        print(f"{label}: drawing {len(tasks)}", file=sys.stderr, flush=True)
    return list(tqdm(in_parallel(tasks, jobs), label, len(tasks), disable=None))
