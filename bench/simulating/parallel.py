"""Work that processes share before something long begins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import joblib
from joblib.externals.loky import get_reusable_executor
from tqdm import tqdm


def run_tasks(tasks: Iterable[Any], jobs: int, label: str) -> list[Any]:
    """Run delayed calls in `jobs` processes, in order and with progress.

    The processes end with them: left idle while a network is trained, they would end by themselves
    and joblib would warn of a memory leak.
    """
    todo = list(tasks)
    results = joblib.Parallel(n_jobs=jobs, return_as="generator")(todo)
    done = list(tqdm(results, label, len(todo), disable=None))
    if jobs != 1:
        get_reusable_executor().shutdown(wait=True)
    return done
