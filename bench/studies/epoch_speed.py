"""Training steps as runs take them: waiting for data, rate of arithmetic, hours of whole tables.

    python -m bench.studies.epoch_speed --preset medium
    python -m bench.studies.epoch_speed --parts paper --device cuda

epoch: an epoch of DiPro on a cohort, as a run trains it, beside a plain one that decodes every film
    each time it is needed and computes all of the padded batch in float32 (from a few steps, scaled
    to the epoch); the share of it that waits for data; the rate of arithmetic, beside that of one
    large matrix product in the same precision
paper: hours of Tables 1 and 2 at the paper preset, from a few steps of every run's first seed on
    made-up films of 224 px, for the paper's numbers of training samples
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import arguments, environment
from bench.config import PAPER_SEEDS, Request, resolve
from bench.contract import Preset
from bench.data.batch import Batch
from bench.data.cohort import Cohort
from bench.data.loading import StepBatches
from bench.data.miniature import miniature_cohort
from bench.data.vocabulary import REGIONS, Cxr, Split, Task
from bench.demo import open_cohort, raw_folder
from bench.errors import Parser, run_command
from bench.optimization import adamw
from bench.runner import Run
from bench.studies.loading_speed import film_paths
from bench.studies.plain_dipro import PlainDiPro, decode_batch
from bench.studies.training_speed import Subject, wait_for, without_tf32
from bench.training import take_step
from methods.dipro.model import DiPro
from tables.definitions import named, requests

PAPER_SAMPLES = {Task.DISEASE_PROGRESSION: 3982, Task.MORTALITY: 1889, Task.LENGTH_OF_STAY: 1889}
"""Training samples of the paper's cohort (its Table 4)."""

PAPER_SIDE, PAPER_EPOCHS = 224, 100
MATRIX_SIDE = 4096


class TimedBatches(StepBatches):
    """Batches of steps, and the seconds that were spent waiting for them."""

    waited = 0.0

    def of_step(self, step: int, size: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """As the base class."""
        inner = super().of_step(step, size)
        while True:
            started = time.perf_counter()
            found = next(inner, None)
            self.waited += time.perf_counter() - started
            if found is None:
                return
            yield found


@dataclass(frozen=True)
class Timing:
    """What training steps took: seconds, those of them waiting for data, samples, and FLOPs."""

    seconds: float
    waited: float
    n_samples: int
    flops: float = 0.0


def time_steps(run: Run, n_steps: int) -> Timing:
    """Take training steps of a run; the first, which sets up libraries, is not timed."""
    size = run.training.batch_size * run.training.accumulation
    order = np.random.default_rng(0).permutation(run.samples.indices(Split.TRAIN))
    order = np.resize(order, (n_steps + 1) * size)
    optimizer = adamw(run.model, run.training)
    run.model.train()
    with closing(TimedBatches(run.samples, list(order.reshape(-1, size)), run.device)) as fed:
        with FlopCounterMode(display=False) as counter:
            take_step(run, optimizer, fed, 0)
        wait_for(run.device)
        fed.waited, started = 0.0, time.perf_counter()
        for step in range(1, n_steps + 1):
            take_step(run, optimizer, fed, step)
        wait_for(run.device)
        seconds = time.perf_counter() - started
    return Timing(seconds, fed.waited, n_steps * size, n_steps * counter.get_total_flops())


def matrix_rate(device: torch.device, precision: str, repeats: int = 5) -> float:
    """FLOP/s of one large matrix product."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn(MATRIX_SIDE, MATRIX_SIDE, device=device, dtype=dtype)
    a @ a
    wait_for(device)
    started = time.perf_counter()
    for _ in range(repeats):
        a @ a
    wait_for(device)
    return 2 * MATRIX_SIDE**3 * repeats / (time.perf_counter() - started)


def time_plainly(run: Run, raw: Path, n_steps: int) -> Timing:
    """Steps of the plain model, the regions of whose films are decoded and cut at each access."""
    assert isinstance(run.model, DiPro)
    paths, boxes = film_paths(run.cohort, raw), run.cohort.arrays["boxes"][:, : len(REGIONS)]
    crop_size = run.cohort.arrays["regions"].shape[-1]
    model = PlainDiPro(run.model, crop_size).to(run.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.training.lr)
    subject = Subject(model, optimizer, model.config, run.device, "fp32")
    order = np.random.default_rng(0).permutation(run.samples.indices(Split.TRAIN))
    seconds = waited = 0.0
    size = run.training.batch_size
    for step in range(n_steps + 1):
        positions = np.resize(order[step * size :], size)
        started = time.perf_counter()
        films = run.cohort.pairs.iloc[run.samples.rows[positions]][["film_1", "film_2"]].to_numpy()
        for pair in films:
            decode_batch([paths[film] for film in pair], boxes[pair], crop_size)
        batch = run.samples.batch(positions).to(run.device)
        loaded = time.perf_counter()
        subject.train(batch)
        wait_for(run.device)
        if step:  # the first warms up
            waited += loaded - started
            seconds += time.perf_counter() - started
    return Timing(seconds, waited, n_steps * size)


def hours_of_table(
    name: str, device: torch.device, threads: int, n_steps: int, cohort: Cohort
) -> float:
    """Print hours per run and in all, at most, of a table at the paper preset; return the sum."""
    total = 0.0
    seen: dict[Request, float] = {}
    for request in requests(named(name), Preset.PAPER, PAPER_SEEDS[:1]):
        if request not in seen:
            seen[request] = _hours(request, device, threads, n_steps, cohort)
            print(f"  {request.label}, {request.task}: {seen[request]:.1f} h", flush=True)
        total += seen[request] * len(PAPER_SEEDS)
    print(f"{name}: {total:.0f} h at most, {len(PAPER_SEEDS)} seeds of {PAPER_EPOCHS} epochs each")
    return total


def _hours(
    request: Request, device: torch.device, threads: int, n_steps: int, cohort: Cohort
) -> float:
    config = resolve(request)
    if "weights" in vars(config.model):
        config = replace(config, model=replace(config.model, **{"weights": "none"}))
    timing = time_steps(Run(config, cohort, device, threads), n_steps)
    per_sample = timing.seconds / timing.n_samples
    return per_sample * PAPER_SAMPLES[request.task] * PAPER_EPOCHS / 3600


def print_epoch(arg: Namespace, device: torch.device) -> None:
    """The part `epoch`."""
    cohort = open_cohort(arg.cohort, arg.preset)
    request = Request("dipro", Task.DISEASE_PROGRESSION, Cxr.PAIR, 23, preset=arg.preset)
    run = Run(resolve(request), cohort, device, arg.threads)
    n_train = len(run.samples.indices(Split.TRAIN))
    print(f"{cohort.title}: {n_train} training pairs; {environment.device_name(device)}")
    ours = time_steps(run, arg.steps)
    with without_tf32():
        plain = time_plainly(run, arg.raw or raw_folder(cohort.path), arg.steps)
    for name, timing in (("a run's", ours), ("plain", plain)):
        seconds = timing.seconds / timing.n_samples * n_train
        waited = timing.waited / timing.seconds
        print(f"{name:<8} epoch {seconds:8.1f} s, waiting for data {waited:.1%}")
    ratio = ours.seconds / ours.n_samples / (plain.seconds / plain.n_samples)
    rate, reached = ours.flops / ours.seconds, matrix_rate(device, run.training.precision)
    print(
        f"ratio {ratio:.2f}; {rate / 1e12:.3g} TFLOP/s, {rate / reached:.0%} of the "
        f"{reached / 1e12:.3g} TFLOP/s of a large matrix product in {run.training.precision}"
    )


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m bench.studies.epoch_speed", description=__doc__)
    p.add_argument("--parts", nargs="+", choices=("epoch", "paper"), default=["epoch"])
    p.add_argument("--steps", type=arguments.positive, default=10, metavar="N", help="timed steps")
    p.add_argument("--raw", type=Path, metavar="DIR", help="what the cohort was prepared from")
    arguments.add_place(p)
    arguments.add_machine(p)
    return p


def main(argv: Sequence[str] | None = None) -> None:
    """Print what was asked for."""
    arg = parser().parse_args(argv)
    device = environment.choose_device(arg.device)
    if "epoch" in arg.parts:
        print_epoch(arg, device)
    if "paper" in arg.parts:
        with tempfile.TemporaryDirectory() as folder:
            cohort = miniature_cohort(
                Path(folder) / "cohort", film_size=PAPER_SIDE, region_size=PAPER_SIDE
            )
            for name in ("table1", "table2"):
                hours_of_table(name, device, arg.threads, arg.steps, cohort)


if __name__ == "__main__":
    run_command(main)
