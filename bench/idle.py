"""Fields that change nothing in a setting, found by trying them.

What a setting does not build, a field of it cannot change: without EHR the width of its vectors, or
the dropout on it. A term that is zero in a setting has no weight that matters. Trying is surer than
a list: it holds for somebody else's method too.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from bench.config import Request, resolve
from bench.contract import Preset
from bench.contract_checks import Case
from bench.data.cohort import Cohort
from bench.data.miniature import miniature_cohort


def is_idle(request: Request, name: str, values: tuple[str, ...]) -> bool:
    """Whether the first loss of training is to the bit the same for all values of a model field.

    Tried on a miniature cohort at the sizes of the demo preset; what is built does not depend on
    sizes.

    Args:
        request: its method, task, films and EHR count, the rest does not
        name: as `--set` takes it; a field of training is never idle
        values: as `--set` takes them
    """
    if not name.startswith("model."):
        return False
    setting = Request(
        request.method, request.task, request.cxr, seed=0, ehr=request.ehr, preset=Preset.DEMO
    )
    tried = (replace(setting, overrides=((name, text),)) for text in values)
    return all(_first_loss(changed) == _first_loss(setting) for changed in tried)


@cache
def _first_loss(request: Request) -> float:
    """The weighted sum of all terms in training mode, dropout included."""
    case = Case(resolve(request), _miniature())
    model, batch = case.model().train(), case.batch()
    with torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(0)
        return case.total(model(batch), batch).item()


@cache
def _miniature() -> Cohort:
    # Its arrays stay mapped when the folder is gone.
    with tempfile.TemporaryDirectory() as folder:
        return miniature_cohort(Path(folder) / "cohort")
