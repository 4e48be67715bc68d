"""Check that a method keeps the contract: `python -m bench.check my_module:MyMethod`.

Every ablation is checked in every setting that the method accepts, with its demo configuration on
a miniature random cohort. One line per check; exit status 1 if one fails.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from bench.contract_checks import CHECKS, Case, Check, settings
from bench.data.miniature import miniature_cohort
from bench.errors import Parser, UserError, run_command
from bench.registry import METHODS, load_method
from methods.base import Method

DECLARED = ("title", "inputs", "configure", "forward")
"""What a method cannot do without."""

FILM_SIZE, REGION_SIZE = 128, 32
"""Sizes of the demo preset's cohort."""


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m bench.check", description=__doc__)
    p.add_argument("method", metavar="METHOD", help=f"{', '.join(METHODS)}, or module:Class")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arg = parser().parse_args(argv)
    title = _title(arg.method)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cohort = miniature_cohort(
            Path(folder) / "cohort", film_size=FILM_SIZE, region_size=REGION_SIZE
        )
        cases = [Case(config, cohort) for config in settings(arg.method)]
        print(f"{title}: {len(cases)} settings (tasks x films x EHR x ablations)")
        results = [report(check, cases) for check in CHECKS]
    return 0 if all(results) else 1


def _title(name: str) -> str:
    method = load_method(name)
    if not issubclass(method, Method):
        raise UserError(f"{name} is no method: derive it from methods.base.Method")
    bases = [base for base in method.__mro__ if base not in Method.__mro__]
    own = {declared for base in bases for declared in vars(base)}
    missing = [declared for declared in DECLARED if declared not in own]
    if missing:
        raise UserError(f"{name} lacks {', '.join(missing)}: see methods/base.py for what they are")
    return method.title


def report(check: Check, cases: Iterable[Case]) -> bool:
    """Print a check's line; return whether it holds in every case that it is about."""
    about = [case for case in cases if check.applies(case)]
    faults = [(case, fault) for case in about if (fault := check.fault_of(case))]
    if not about:
        line = f"-     {check.sentence} (no setting it is about)"
    elif faults:
        case, fault = faults[0]
        line = f"FAIL  {check.sentence}: {len(faults)} of {len(about)}; {case.label}: {fault}"
    else:
        line = f"ok    {check.sentence} ({len(about)})"
    print(line, flush=True)
    return not faults


if __name__ == "__main__":
    run_command(main)
