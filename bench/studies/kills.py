"""A sweep that is killed at random moments and goes on must end as an undisturbed one.

    python -m bench.studies.kills --kills 30

Two workers make the runs of Table 2 on a miniature cohort. Each SIGKILL, at a random moment of
work, goes to a worker, to the command that started it, or to all of them; a sweep that ended
without finishing every run is started again. Then it is let finish and compared, byte by byte.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import arguments
from bench.data.miniature import miniature_cohort
from bench.errors import Parser, UserError, run_command
from bench.store import RunFiles

TABLE = "table2"
TARGETS = {"worker": 0.8, "command": 0.1, "all": 0.1}
"""Who is killed, and how often."""

LATEST_SECONDS = 1.0
"""A kill comes up to this long after work was seen."""


@dataclass(frozen=True)
class Sweep:
    """A sweep as it is typed, and where its results go."""

    cohort: Path
    results: Path
    n_epochs: int

    @property
    def place(self) -> list[str]:
        """Arguments that sweep and table have in common."""
        settings = {"max_epochs": self.n_epochs, "patience": 10 * self.n_epochs, "max_steps": 0}
        return [
            *("--cohort", str(self.cohort), "--results", str(self.results), "--seeds", "1"),
            *(f"--set=training.{name}={value}" for name, value in settings.items()),
        ]

    def start(self) -> subprocess.Popen[bytes]:
        """Start it in a process group of its own."""
        words = ["bench.sweep", "--table", TABLE, "--jobs", "2", "--device", "cpu", *self.place]
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def finish(self) -> int:
        """Run it to its end; returns its status."""
        process = self.start()
        process.communicate()
        return process.returncode

    def table(self) -> bytes:
        """The table of its runs."""
        words = ["tables.render", TABLE, "--resamples", "50", *self.place]
        subprocess.run([sys.executable, "-m", *words], stdout=subprocess.DEVNULL, check=True)
        return (self.results / "tables" / f"{TABLE}.csv").read_bytes()

    def runs(self) -> list[RunFiles]:
        """Every run that has a folder, by name."""
        return [RunFiles(folder) for folder in sorted(self.results.glob("runs/*"))]

    def written(self) -> dict[str, int]:
        """When each record was written."""
        return {
            run.folder.name: run.record.stat().st_mtime_ns
            for run in self.runs()
            if run.record.exists()
        }

    def workers(self) -> list[int]:
        """Processes that are at work on a run, from the signatures of its lock."""
        signed = [run.folder / "lock" for run in self.runs() if not run.record.exists()]
        words = [lock.read_text().split() for lock in signed if lock.exists()]
        return sorted({int(of[1]) for of in words if len(of) > 1 and _lives(int(of[1]))})


def _lives(pid: int) -> bool:
    """Whether a process is there and not just waited for by its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def disturb(sweep: Sweep, n_kills: int, rng: np.random.Generator) -> tuple[Counter[str], int]:
    """Kill a sweep n times; returns how often whom, and how many records got lost or rewritten.

    Raises:
        UserError: it was done before.
    """
    kills: Counter[str] = Counter()
    spoilt = 0
    known: dict[str, int] = {}
    process = sweep.start()
    try:
        while kills.total() < n_kills:
            if process.poll() is not None:
                if process.returncode == 0:
                    raise UserError(f"done after {kills.total()} kills: give more --epochs")
                process = sweep.start()
            if not sweep.workers():
                time.sleep(0.01)
                continue
            time.sleep(rng.uniform(0, LATEST_SECONDS))
            whom = str(rng.choice(list(TARGETS), p=list(TARGETS.values())))
            if _kill(whom, process, sweep.workers(), rng):
                kills[whom] += 1
                print(f"kill {kills.total()} of {n_kills}: {whom}", flush=True)
            written = sweep.written()
            spoilt += sum(written.get(name) != at for name, at in known.items())
            known = written
    finally:
        _end(process)
    return kills, spoilt


def _kill(
    whom: str, process: subprocess.Popen[bytes], workers: Sequence[int], rng: np.random.Generator
) -> bool:
    """Send SIGKILL; False if there was nobody to get it."""
    if process.poll() is not None or not workers:
        return False
    if whom == "worker":
        os.kill(int(rng.choice(workers)), signal.SIGKILL)
        return True
    if whom == "all":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    # The pipe closes when its workers have left, too.
    process.communicate()
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nobody behind."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def differences(sweep: Sweep, reference: Sweep) -> list[str]:
    """What of a finished sweep is not as in an undisturbed one, a line each."""
    found = []
    names = [run.folder.name for run in reference.runs()]
    if [run.folder.name for run in sweep.runs()] != names or sorted(sweep.written()) != names:
        found.append("other runs or records")
    for run, other in zip(sweep.runs(), reference.runs(), strict=False):
        if not run.record.exists():
            continue
        if run.predictions.read_bytes() != other.predictions.read_bytes():
            found.append(f"{run.folder.name}: other predictions")
        if run.read_record()["history"] != other.read_record()["history"]:
            found.append(f"{run.folder.name}: another history")
    found += [f"left behind: {path}" for path in sweep.results.glob("runs/*/.*")]
    if not found and sweep.table() != reference.table():
        found.append("another table")
    return found


def n_resumed(sweep: Sweep) -> int:
    """How many runs went on from a checkpoint at least once."""
    return sum("resumed after epoch" in run.log.read_text() for run in sweep.runs())


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m bench.studies.kills", description=__doc__)
    p.add_argument("--kills", type=arguments.positive, default=30, metavar="N")
    p.add_argument(
        "--epochs", type=arguments.positive, default=25, metavar="N", help="of each tiny run"
    )
    p.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Kill, let finish, compare; returns 1 if anything differs."""
    arg = parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        cohort = miniature_cohort(Path(folder) / "cohort").path
        reference, sweep = (
            Sweep(cohort, Path(folder) / name, arg.epochs) for name in ("undisturbed", "killed")
        )
        kills, spoilt = disturb(sweep, arg.kills, np.random.default_rng(arg.seed))
        n_done = len(sweep.written())
        statuses = sweep.finish(), reference.finish()
        found = [f"exit statuses {statuses}"] if any(statuses) else []
        found += [f"{spoilt} records lost or written again"] if spoilt else []
        found += differences(sweep, reference)
        n_runs = len(reference.written())
        listed = ", ".join(f"{n} of {whom}" for whom, n in sorted(kills.items()))
        print(
            f"{kills.total()} kills ({listed}) in a sweep of {n_runs} runs on 2 workers; {n_done} "
            f"were done at the last kill, {n_resumed(sweep)} went on from a checkpoint"
        )
    print("\n".join(found) or "afterwards: no difference to the undisturbed sweep")
    return int(bool(found))


if __name__ == "__main__":
    # Stopped by SIGTERM it ends its sweep, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_command(main)
