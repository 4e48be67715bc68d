"""What the commands of tables and figures share: their arguments, and writing files at once."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from bench import arguments
from bench.data.cohort import MANIFEST, Cohort
from bench.demo import default_cohort
from bench.errors import Parser, UserError
from bench.search import add_tuned, chosen
from bench.store import Store
from tables.runs import Selection


def add_selection(parser: Parser) -> None:
    """Arguments that say which runs are meant."""
    arguments.add_place(parser)
    arguments.add_seeds(parser)
    arguments.add_overrides(parser)
    add_tuned(parser)


def selection(arg: argparse.Namespace, table: str) -> Selection:
    """Open what the arguments name; a table simulates no cohort.

    Raises:
        UserError: the cohort is not there.
    """
    path = arg.cohort or default_cohort(arg.preset)
    if arg.cohort is None and not (path / MANIFEST).exists():
        raise UserError(
            f"there is no cohort {path} yet, so no run: "
            f"make both with python -m bench.sweep --table {table} --preset {arg.preset}"
        )
    cohort, store = Cohort.open(path), Store(arg.results)
    return Selection(
        cohort=cohort,
        store=store,
        preset=arg.preset,
        seeds=tuple(arg.seeds),
        recipe=arg.recipe,
        overrides=tuple(arg.set),
        chosen=chosen(store, cohort, arg.preset, arg.recipe, arg.tuned) if arg.tuned else None,
        grid="" if arg.tuned is True else arg.tuned or "",
    )


def write_files(folder: Path, contents: dict[str, bytes]) -> list[Path]:
    """Write files by atomic replace, so that none is ever half there.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            partial = folder / f".{name}.{os.getpid()}"
            partial.write_bytes(content)
            partial.replace(folder / name)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}")
    return [folder / name for name in contents]
