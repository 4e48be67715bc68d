"""What a sweep costs beside training: time in which workers do not train, and their memory.

    python -m bench.studies.sweep_overhead --table table2
    python -m bench.studies.sweep_overhead --only memory

Overhead is the share of workers x wall-clock time that no run's record accounts for: starting
processes, opening the cohort, handing out runs. Memory is the proportional set size (PSS) of one
and of two workers that have read every crop of a cohort; only Linux counts it.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from bench import arguments
from bench.config import PAPER_SEEDS
from bench.contract import Preset, TaskSpec
from bench.data.batch import Samples
from bench.data.cohort import Cohort
from bench.data.miniature import miniature_cohort
from bench.data.vocabulary import REGIONS, Cxr, Task
from bench.errors import Parser, UserError, run_command
from bench.store import Store
from methods.dipro.config import configure
from methods.dipro.model import DiPro

PSS = Path("/proc/self/smaps_rollup")
MIB = 2**20
CROP_SIZE = 224
FILMS_PER_STAY = 3
"""Of the miniature cohort, about."""


def overhead(seconds: Sequence[float], wall_seconds: float, n_workers: int) -> float:
    """Share of the workers' time in which no run of these durations was executed."""
    return 1 - sum(seconds) / (n_workers * wall_seconds)


def timed_sweep(words: Sequence[str], results: Path) -> tuple[float, list[float]]:
    """Wall-clock seconds of a sweep in a process of its own, and of each of its runs.

    Raises:
        UserError: the sweep failed.
    """
    started = time.perf_counter()
    command = [sys.executable, "-m", "bench.sweep", *words, "--results", str(results)]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise UserError(f"the sweep failed: try {' '.join(command[1:])}")
    wall_seconds = time.perf_counter() - started
    return wall_seconds, [record["seconds"] for record in Store(results).records()]


@dataclass(frozen=True)
class Memory:
    """PSS in MiB: of a worker with model but no cohort, of one worker at work, of two together."""

    bare: float
    one: float
    two: float

    @property
    def added(self) -> float:
        """What the second worker adds beyond its interpreter and model."""
        return self.two - self.one - self.bare


def large_cohort(path: Path, n_bytes: int) -> Cohort:
    """A miniature cohort whose crops are blown up to `n_bytes` together, at the paper's size."""
    per_film = len(REGIONS) * CROP_SIZE**2
    cohort = miniature_cohort(path, n_stays=n_bytes // per_film // FILMS_PER_STAY + 8)
    shape = (len(cohort.films), len(REGIONS), CROP_SIZE, CROP_SIZE)
    crops = np.lib.format.open_memmap(path / "regions.npy", "w+", dtype=np.uint8, shape=shape)
    for row in range(len(crops)):
        crops[row] = row % 256
    crops.flush()
    return Cohort.open(path)


def memory_of_workers(cohort: Path) -> Memory:
    """Memory of one worker and of two, each having read the whole cohort."""
    (bare,), (one,) = _memory(cohort, 1)
    _, both = _memory(cohort, 2)
    return Memory(bare, one, sum(both))


def _memory(cohort: Path, n_workers: int) -> tuple[list[float], list[float]]:
    """PSS of each worker before and after; all have read when the first is looked at."""
    context = multiprocessing.get_context("spawn")
    pipes, workers = [], []
    for _ in range(n_workers):
        ours, theirs = context.Pipe()
        worker = context.Process(target=_read_when_told, args=(cohort, theirs))
        worker.start()
        pipes.append(ours)
        workers.append(worker)

    def told(word: str) -> list[float]:
        for pipe in pipes:
            pipe.send(word)
        return [pipe.recv() for pipe in pipes]

    before, _, after = told("look"), told("read"), told("look")
    for pipe, worker in zip(pipes, workers, strict=True):
        pipe.close()
        worker.join()
    return before, after


def _read_when_told(path: Path, pipe: Connection) -> None:
    """A worker: it has a model, reads every film of the cohort, and tells its memory."""
    task = Task.DISEASE_PROGRESSION
    model = DiPro(configure(Preset.DEMO, task), TaskSpec(task, Cxr.PAIR))
    samples = None
    with contextlib.suppress(EOFError):
        while True:
            if pipe.recv() == "read":
                samples = Samples(Cohort.open(path), task, Cxr.PAIR, DiPro.inputs)
                for at in range(len(samples)):
                    samples.batch(np.array([at]))
            pipe.send(pss_mb())
    del model, samples  # held until here


def pss_mb() -> float:
    """Memory of this process, MiB; pages that n processes map count one n-th each.

    Raises:
        UserError: the system does not count it.
    """
    if not PSS.exists():
        raise UserError(f"there is no {PSS} here: memory is measured on Linux only")
    (line,) = (row for row in PSS.read_text().splitlines() if row.startswith("Pss:"))
    return int(line.split()[1]) / 1024


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m bench.studies.sweep_overhead", description=__doc__)
    p.add_argument("--only", choices=("time", "memory"), help="one of the two")
    p.add_argument("--table", default="table2", metavar="NAME")
    p.add_argument("--seeds", type=int, nargs="+", default=list(PAPER_SEEDS), metavar="N")
    p.add_argument("--jobs", type=arguments.positive, default=2, metavar="N")
    p.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="as in bench.sweep"
    )
    p.add_argument("--cohort", metavar="DIR", help="without it the demo's")
    p.add_argument(
        "--cohort-mb", type=arguments.positive, default=2100, metavar="MIB", help="for the memory"
    )
    return p


def main(argv: Sequence[str] | None = None) -> None:
    """Print the two overheads."""
    arg = parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if arg.only != "memory":
            _print_time(arg, Path(folder) / "results")
        if arg.only != "time":
            _print_memory(Path(folder) / "cohort", arg.cohort_mb)


def _print_time(arg: argparse.Namespace, results: Path) -> None:
    words = ["--table", arg.table, "--jobs", str(arg.jobs), "--device", "cpu", "--seeds"]
    words += [*map(str, arg.seeds), *(f"--set={text}" for text in arg.set)]
    words += ["--cohort", arg.cohort] if arg.cohort else []
    wall_seconds, seconds = timed_sweep(words, results)
    share = overhead(seconds, wall_seconds, arg.jobs)
    print(
        f"{arg.table}: {len(seconds)} runs of {np.mean(seconds):.1f} s on {arg.jobs} workers in "
        f"{wall_seconds:.1f} s: {share:.1%} of the workers' time outside runs (wanted 10%)"
    )


def _print_memory(path: Path, cohort_mb: int) -> None:
    cohort = large_cohort(path, cohort_mb * MIB)
    size_mb = sum(file.stat().st_size for file in path.iterdir()) / MIB
    memory = memory_of_workers(cohort.path)
    print(
        f"cohort of {size_mb:.0f} MiB: a worker without it {memory.bare:.0f}, one that read it "
        f"{memory.one:.0f}, two {memory.two:.0f} MiB: the second adds {memory.added:.0f} MiB, "
        f"{memory.added / size_mb:.1%} of the cohort (wanted 10%)"
    )


if __name__ == "__main__":
    run_command(main)
