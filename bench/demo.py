"""The embedded simulated cohorts: made on first use, so that every command runs as typed."""

from __future__ import annotations

from pathlib import Path

from bench.contract import Preset
from bench.data.cohort import MANIFEST, Cohort
from bench.errors import UserError

SIZE_OF_PRESET = {Preset.DEMO: "small", Preset.MEDIUM: "medium"}


def default_cohort(preset: Preset) -> Path:
    """Where the simulated cohort of a preset lies.

    Raises:
        UserError: the preset is for a real cohort.
    """
    if preset not in SIZE_OF_PRESET:
        raise UserError(
            f"preset {preset} is for a real cohort: name it with --cohort DIR "
            "(make one with python -m bench.prepare mimic)"
        )
    return Path("data") / f"simulated-{SIZE_OF_PRESET[preset]}"


def raw_folder(cohort: Path) -> Path:
    """Where the raw files of a simulated cohort that was made on first use lie."""
    return Path("data") / "raw" / cohort.name


def open_cohort(path: Path | None, preset: Preset) -> Cohort:
    """Open a cohort; without a path the preset's simulated one, made if it is not there."""
    if path is not None:
        return Cohort.open(path)
    path = default_cohort(preset)
    if not (path / MANIFEST).exists():
        # Training and tables on a cohort that is there need neither of the two.
        from bench import prepare, simulate

        raw = raw_folder(path)
        run_or_raise(simulate.main(["--size", SIZE_OF_PRESET[preset], "--out", str(raw)]))
        arguments = ["simulated", "--raw", str(raw), "--out", str(path), "--preset", preset]
        run_or_raise(prepare.main(arguments))
    return Cohort.open(path)


def run_or_raise(status: int | None) -> None:
    """Stop if a command of ours that was called as a function did not succeed."""
    if status:
        raise UserError("the simulated cohort could not be made: see above")
