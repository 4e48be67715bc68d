"""Check that a method keeps the contract: `python -m bench.check my_module:MyMethod`.

Every ablation is checked in every setting that the method accepts, with its demo configuration on
a miniature random cohort. One line per check; exit status 1 if one fails. A note is no fault.
A class that declares something wrongly is refused before, with exit status 2.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from bench.contract_checks import CHECKS, REMARKS, Case, Check, malformed, settings
from bench.data.miniature import miniature_cohort
from bench.errors import Parser, run_command
from bench.registry import METHODS, load_method

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
    title = load_method(arg.method).title
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cohort = miniature_cohort(
            Path(folder) / "cohort", film_size=FILM_SIZE, region_size=REGION_SIZE
        )
        cases = [Case(config, cohort) for config in settings(arg.method)]
        n = f"{len(cases)} setting{'s' if len(cases) > 1 else ''}"
        print(f"{title}: {n} (tasks x films x EHR x ablations)")
        if fault := next((fault for case in cases if (fault := malformed(case))), None):
            print(f"FAIL  {fault}\nEvery other check starts from there: mend this first.")
            return 1
        results = [report(check, cases) for check in CHECKS]
        for remark in REMARKS:
            report_remark(remark, cases)
    return 0 if all(results) else 1


def report(check: Check, cases: Iterable[Case]) -> bool:
    """Print a check's line; return whether it holds in every case that it is about."""
    n, faults = found(check, cases)
    if not n:
        line = f"-     {check.sentence} (no setting it is about)"
    elif faults:
        line = f"FAIL  {check.sentence}: {len(faults)} of {n}; {faults[0]}"
    else:
        line = f"ok    {check.sentence} ({n})"
    print(line, flush=True)
    return not faults


def report_remark(remark: Check, cases: Iterable[Case]) -> None:
    """Print a line if there is something to remark; it is no fault."""
    n, remarks = found(remark, cases)
    if remarks:
        print(f"note  {remark.sentence}: {len(remarks)} of {n}; {remarks[0]}", flush=True)


def found(check: Check, cases: Iterable[Case]) -> tuple[int, list[str]]:
    """How many cases a check is about, and what it finds in those where it does not hold."""
    about = [case for case in cases if check.applies(case)]
    faults = [(case, fault) for case in about if (fault := check.fault_of(case))]
    return len(about), [f"{case.label}: {fault}" for case, fault in faults]


if __name__ == "__main__":
    run_command(main)
