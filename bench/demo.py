"""The embedded simulated cohorts: made on first use, so that every command runs as typed.

python -m bench.demo --engine image-longitudinal     make another engine's cohort, print where it is
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import arguments
from bench.contract import Preset
from bench.data.cohort import MANIFEST, Cohort
from bench.errors import Parser, UserError, run_command

SIZE_OF_PRESET = {Preset.DEMO: "small", Preset.MEDIUM: "medium"}
DEFAULT_ENGINE = "procedural"


def default_cohort(preset: Preset, engine: str = DEFAULT_ENGINE) -> Path:
    """Where the simulated cohort of a preset and engine lies.

    Raises:
        UserError: the preset is for a real cohort.
    """
    if preset not in SIZE_OF_PRESET:
        raise UserError(
            f"preset {preset} is for a real cohort: name it with --cohort DIR "
            "(make one with python -m bench.prepare mimic)"
        )
    suffix = "" if engine == DEFAULT_ENGINE else f"-{engine}"
    return Path("data") / f"simulated-{SIZE_OF_PRESET[preset]}{suffix}"


def raw_folder(cohort: Path) -> Path:
    """Where the raw files of a simulated cohort that was made on first use lie."""
    return Path("data") / "raw" / cohort.name


def open_cohort(path: Path | None, preset: Preset, engine: str = DEFAULT_ENGINE) -> Cohort:
    """Open a cohort; without a path the preset's simulated one, made if it is not there."""
    if path is not None:
        return Cohort.open(path)
    place = default_cohort(preset, engine)
    return make_cohort(place, preset, "--size", SIZE_OF_PRESET[preset], "--engine", engine)


def make_cohort(path: Path, preset: Preset, *simulation: str) -> Cohort:
    """Open the cohort at `path`; if it is not there, simulate with these words and prepare it."""
    if not (path / MANIFEST).exists():
        # Training and tables on a cohort that is there need neither of the two.
        from bench import prepare, simulate

        raw = raw_folder(path)
        run_or_raise(simulate.main([*simulation, "--out", str(raw)]))
        words = ["simulated", "--raw", str(raw), "--out", str(path), "--preset", preset]
        run_or_raise(prepare.main(words))
    return Cohort.open(path)


def run_or_raise(status: int | None) -> None:
    """Stop if a command of ours that was called as a function did not succeed."""
    if status:
        raise UserError("the simulated cohort could not be made: see above")


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m bench.demo", description=__doc__)
    p.add_argument(
        "--preset", type=arguments.choice(Preset), default=Preset.DEMO, metavar="NAME",
        help=", ".join(SIZE_OF_PRESET),
    )  # fmt: skip
    p.add_argument(
        "--engine", default=DEFAULT_ENGINE, metavar="NAME", help="of bench.simulate --engine"
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Make the cohort if it is not there; its folder is all that goes to standard output."""
    arg = parser().parse_args(argv)
    with contextlib.redirect_stdout(sys.stderr):
        cohort = open_cohort(None, arg.preset, arg.engine)
    print(cohort.path)
    return 0


if __name__ == "__main__":
    run_command(main)
