"""Command-line arguments that several commands share, spelled and explained once."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from bench.config import PAPER_SEEDS
from bench.contract import Preset
from bench.errors import Parser, UserError, nearest
from bench.store import Status

EnumT = TypeVar("EnumT", bound=StrEnum)


def add_place(parser: Parser) -> None:
    """Preset, cohort and results folder."""
    parser.add_argument(
        "--preset",
        type=choice(Preset),
        default=Preset.DEMO,
        metavar="NAME",
        help="demo (CPU, minutes), medium (studies) or paper (GPU, real cohort)",
    )
    parser.add_argument(
        "--cohort",
        type=Path,
        metavar="DIR",
        help="prepared cohort; without it the preset's simulated one, made on first use",
    )
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="store"
    )


def add_seeds(parser: Parser) -> None:
    """Seeds of a table's runs."""
    parser.add_argument(
        "--seeds",
        type=whole,
        nargs="+",
        default=list(PAPER_SEEDS),
        metavar="N",
        help="random seeds",
    )


def add_machine(parser: Parser) -> None:
    """Device and threads."""
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1")
    parser.add_argument(
        "--threads", type=positive, default=1, metavar="N", help="CPU threads per run"
    )


def add_backend(parser: Parser) -> None:
    """Where many runs are executed."""
    parser.add_argument(
        "--jobs", type=positive, metavar="N", help="runs at once here (cores / --threads)"
    )
    parser.add_argument(
        "--runs-per-gpu",
        type=positive,
        metavar="N",
        help="runs at once on each GPU, without --jobs (1); its memory must hold them",
    )
    parser.add_argument(
        "--backend",
        choices=("local", "dask"),
        default="local",
        help="local: processes of this machine; dask: a running cluster (docs/cluster.md)",
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of the cluster, tcp://HOST:8786")


def check_backend(
    jobs: int | None, backend: str, scheduler: str | None, runs_per_gpu: int | None = None
) -> None:
    """Raise `UserError` if these arguments do not go together."""
    if (backend == "dask") != (scheduler is not None):
        raise UserError("--backend dask and --scheduler ADDRESS go together: give both")
    if jobs and scheduler:
        raise UserError("--jobs is for --backend local: on a cluster every worker takes a run")
    if runs_per_gpu and scheduler:
        raise UserError(
            "--runs-per-gpu is for --backend local: on a cluster start as many workers on each GPU"
        )
    if runs_per_gpu and jobs:
        raise UserError("--jobs says how many runs there are at once: leave --runs-per-gpu out")


def add_overrides(parser: Parser) -> None:
    """What a run may change of its preset."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_assignment,
        metavar="FIELD=VALUE",
        help="override one field, e.g. training.lr=1e-4 or model.d_model=128; may be repeated",
    )
    parser.add_argument(
        "--recipe",
        choices=("shared", "reference"),
        default="shared",
        help="shared: the same training for every method; reference: the method's own",
    )


def add_actions(parser: Parser) -> None:
    """What to do with runs that are there."""
    parser.add_argument(
        "--rerun",
        action="append",
        default=[],
        type=choice(Status),
        metavar="STATUS",
        help="also redo runs of this status (stale or done); may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")


def at_least(least: int) -> Callable[[str], int]:
    """A parser of whole numbers from `least` on."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above {least - 1}")
        return int(text)

    return parse


positive = at_least(1)
"""A whole number above 0."""


def whole(text: str) -> int:
    """A whole number of 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 0 or more")
    return int(text)


def above_0(text: str) -> float:
    """A finite number above 0."""
    if not 0 < _number(text) < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return _number(text)


def not_negative(text: str) -> float:
    """A finite number of 0 or more."""
    if not 0 <= _number(text) < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 0 or more")
    return _number(text)


def share(text: str) -> float:
    """A number above 0 and up to 1."""
    if not 0 < _number(text) <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0 and up to 1")
    return _number(text)


def share_of_training(text: str) -> float:
    """A number of 0 or more and below 1: a share that leaves some samples as they are."""
    if not 0 <= _number(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 0 or more and below 1")
    return _number(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def choice(enum: type[EnumT]) -> Callable[[str], EnumT]:
    """A parser of the values of a string enum that names the nearest valid one."""

    def parse(text: str) -> EnumT:
        try:
            return enum(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"no '{text}', {nearest(text, list(enum))}")

    return parse


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or "." not in name:
        raise UserError(f"--set {text}: write it as training.FIELD=VALUE or model.FIELD=VALUE")
    return name, value
