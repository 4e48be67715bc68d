"""DiPro's speed beside a plain eager float32 implementation with the same weights.

    python -m bench.studies.training_speed --threads 2
    python -m bench.studies.training_speed --device cuda --samples 24
    python -m bench.studies.training_speed --backbone small --crop-size 32 --trace trace.json

Both take the same batch of samples with 2, 3 and 4 of 4 films, in turn, in this process: ratios
count, times depend on the machine. On a GPU DiPro runs in bf16, as in the paper preset, and the
plain one in float32 without TF32. Weights are random: no number here depends on their values.
"""

from __future__ import annotations

import math
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from bench import arguments, environment
from bench.contract import MethodConfig, Preset, TaskSpec
from bench.data.batch import Batch, Samples, Targets
from bench.data.miniature import miniature_cohort
from bench.data.vocabulary import (
    DISEASES,
    FINDING_UNKNOWN,
    N_LENGTH_OF_STAY_CLASSES,
    NOT_MENTIONED,
    Cxr,
    Task,
)
from bench.errors import Parser, run_command
from bench.objective import task_loss
from bench.studies.plain_dipro import PlainDiPro
from methods.dipro.config import configure
from methods.dipro.model import DiPro

N_FILMS = (2, 3, 4)
"""Films of the samples of a batch, in turn."""

N_HOURS = 48
TASK = Task.DISEASE_PROGRESSION
MIB = 2**20


@dataclass(frozen=True)
class Subject:
    """What is measured: a model, how it is trained, and the precision it computes in."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    config: MethodConfig
    device: torch.device
    precision: str

    def autocast(self) -> torch.autocast:
        """Autocast in its precision."""
        enabled = self.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def infer(self, batch: Batch) -> Tensor:
        """Logits of a batch."""
        self.model.eval()
        with torch.inference_mode(), self.autocast():
            return self.model(batch.without_targets()).logits

    def train(self, batch: Batch) -> None:
        """Forward, backward and optimizer step of a batch."""
        assert batch.targets is not None
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            output = self.model(batch)
            weights = torch.ones(TaskSpec(TASK, Cxr.PAIR).class_weights.shape, device=self.device)
            task = task_loss(TASK, output.logits, batch.targets, weights)
            terms = {"task": task, **output.losses}
        factors = self.config.loss_weights()
        torch.stack([factors[name] * term for name, term in terms.items()]).sum().backward()
        self.optimizer.step()


@dataclass(frozen=True)
class Cost:
    """Seconds of each repeat, and the largest memory meanwhile, MiB."""

    seconds: list[float]
    peak_mb: float

    @property
    def median(self) -> float:
        """The middle of the repeats, seconds."""
        return statistics.median(self.seconds)


def subjects(backbone: str, crop_size: int, device: torch.device) -> tuple[Subject, Subject]:
    """DiPro as the paper configures it for progression, and the plain one with its weights."""
    config = replace(configure(Preset.PAPER, TASK), backbone=backbone, weights="none")
    torch.manual_seed(0)
    model = DiPro(config, TaskSpec(TASK, Cxr.PAIR))
    plain = PlainDiPro(model, crop_size)
    precision = "bf16" if device.type == "cuda" else "fp32"
    return _subject(model, device, precision), _subject(plain, device, "fp32")


def _subject(model: DiPro, device: torch.device, precision: str) -> Subject:
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    return Subject(model, optimizer, model.config, device, precision)


def ragged_batch(n_films: Sequence[int], crop_size: int, n_regions: int = 10) -> Batch:
    """A sample for each number of films, with random pixels, values and labels."""
    n, n_slots = len(n_films), max(n_films)
    draw = torch.Generator().manual_seed(0)
    film_valid = torch.arange(n_slots) < torch.tensor(n_films)[:, None]
    film_hours = torch.linspace(0.5, N_HOURS - 1, n_slots).expand(n, -1) * film_valid
    pair_valid = film_valid[:, 1:]
    pixels = torch.randint(
        256, (n, n_slots, n_regions, crop_size, crop_size), dtype=torch.uint8, generator=draw
    )
    labels = torch.randint(NOT_MENTIONED + 1, (n, len(DISEASES)), generator=draw)
    region_labels = labels[:, None, None].repeat(1, n_slots - 1, n_regions, 1)
    return Batch(
        films=torch.zeros(n, n_slots, 0, 0, dtype=torch.uint8),
        regions=pixels * film_valid[:, :, None, None, None],
        region_present=film_valid[..., None].repeat(1, 1, n_regions),
        film_valid=film_valid,
        film_hours=film_hours,
        pair_valid=pair_valid,
        pair_hours=torch.stack([film_hours[:, :-1], film_hours[:, 1:]], -1) * pair_valid[..., None],
        ehr_values=torch.randn(n, N_HOURS, TaskSpec.n_variables, generator=draw),
        ehr_observed=torch.ones(n, N_HOURS, TaskSpec.n_variables, dtype=torch.bool),
        ehr_hours=torch.arange(N_HOURS, dtype=torch.float32).repeat(n, 1),
        ehr_valid=torch.ones(n, N_HOURS, dtype=torch.bool),
        demographics=torch.randn(n, TaskSpec.n_demographics, generator=draw),
        targets=Targets(
            progression=labels,
            mortality=torch.zeros(n),
            length_of_stay=torch.arange(n) % N_LENGTH_OF_STAY_CLASSES,
            region_progression=region_labels.where(
                pair_valid[..., None, None], torch.tensor(NOT_MENTIONED)
            ),
            findings=torch.full((n, n_slots, len(DISEASES)), FINDING_UNKNOWN),
        ),
    )


def largest_difference(ours: Subject, plain: Subject, batch: Batch) -> float:
    """Largest difference of two models' logits, both in float32."""
    exact = replace(ours, precision="fp32")
    with without_tf32():
        return float((exact.infer(batch) - plain.infer(batch)).abs().max())


def side_by_side(
    work: Sequence[Callable[[], object]], device: torch.device, repeats: int
) -> list[Cost]:
    """Do each work in turn, `repeats` times."""
    seconds: list[list[float]] = [[] for _ in work]
    peaks = [0.0] * len(work)
    for _ in range(repeats):
        for i, do in enumerate(work):
            reset_peak(device)
            seconds[i].append(timed(do, device))
            peaks[i] = max(peaks[i], peak_mb(device))
    return [Cost(*pair) for pair in zip(seconds, peaks, strict=True)]


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that a work takes, until the device has done it."""
    started = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - started


def wait_for(device: torch.device) -> None:
    """Let a GPU finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Multiply float32 as float32 on a GPU, too."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = cuda.allow_tf32, cudnn.allow_tf32
    try:
        cuda.allow_tf32 = cudnn.allow_tf32 = False
        yield
    finally:
        cuda.allow_tf32, cudnn.allow_tf32 = before


CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def reset_peak(device: torch.device) -> None:
    """Forget the largest memory so far; on a CPU only Linux can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif CLEAR_REFS.exists():
        CLEAR_REFS.write_text("5")


def peak_mb(device: torch.device) -> float:
    """Largest memory since `reset_peak`, MiB: allocated on a GPU, else resident of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    if STATUS.exists():
        (line,) = (row for row in STATUS.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB


def waiting_share(subject: Subject, samples: Samples, batch_size: int, n_steps: int) -> float:
    """Share of an epoch in which the model waits for its next batch."""
    waiting = working = 0.0
    for step in range(n_steps + 1):
        positions = np.arange(step * batch_size, (step + 1) * batch_size) % len(samples)
        started = time.perf_counter()
        batch = samples.batch(positions).to(subject.device)
        wait_for(subject.device)
        loaded = time.perf_counter()
        subject.train(batch)
        wait_for(subject.device)
        if step:  # the first warms up
            waiting += loaded - started
            working += time.perf_counter() - loaded
    return waiting / (waiting + working)


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Exponent p of seconds = c size^p, fitted on logarithms: 1 is linear."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


SCALES = {"films": (2, 4, 8), "regions": (5, 10, 20), "batch": (4, 8, 16)}
"""What grows, and how far; the other two stay at the first size of films and batch, 10 regions."""


def scaling(subject: Subject, crop_size: int, repeats: int) -> dict[str, tuple[list[float], float]]:
    """Median seconds of inference at each size of each axis, and its slope."""
    found = {}
    for axis, sizes in SCALES.items():
        batches = [_sized(axis, size, crop_size).to(subject.device) for size in sizes]
        work = [partial(subject.infer, batch) for batch in batches]
        work[0]()  # warms up
        seconds = [cost.median for cost in side_by_side(work, subject.device, repeats)]
        found[axis] = seconds, slope(sizes, seconds)
    return found


def _sized(axis: str, size: int, crop_size: int) -> Batch:
    n_films = size if axis == "films" else SCALES["films"][0]
    n = size if axis == "batch" else SCALES["batch"][0]
    return ragged_batch([n_films] * n, crop_size, size if axis == "regions" else 10)


def write_trace(subject: Subject, batch: Batch, path: Path) -> None:
    """Profile one training step; the file opens in Perfetto or chrome://tracing."""
    activities = [ProfilerActivity.CPU]
    if subject.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, record_shapes=True) as profiler:
        subject.train(batch)
    profiler.export_chrome_trace(str(path))


PARTS = ("inference", "training", "waiting", "scaling")
"""What is measured."""


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m bench.studies.training_speed", description=__doc__)
    p.add_argument("--backbone", choices=("small", "resnet50"), default="resnet50")
    p.add_argument("--crop-size", type=arguments.positive, default=224, metavar="PX")
    p.add_argument(
        "--samples", type=arguments.positive, default=3, metavar="N", help="samples of the batch"
    )
    p.add_argument("--repeats", type=arguments.positive, default=3, metavar="N")
    p.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        metavar="NAME",
        help=", ".join(PARTS),
    )
    p.add_argument("--trace", type=Path, metavar="FILE", help="also profile a training step")
    arguments.add_machine(p)
    return p


def main(argv: Sequence[str] | None = None) -> None:
    """Print the comparison."""
    arg = parser().parse_args(argv)
    device = environment.choose_device(arg.device)
    environment.set_determinism(arg.threads)
    n_films = [N_FILMS[i % len(N_FILMS)] for i in range(arg.samples)]
    ours, plain = subjects(arg.backbone, arg.crop_size, device)
    batch = ragged_batch(n_films, arg.crop_size).to(device)
    print(
        f"{environment.device_name(device)}, {arg.threads} threads, torch {torch.__version__}; "
        f"{arg.backbone}, crops of {arg.crop_size} px, {sum(n_films)} of "
        f"{max(n_films) * len(n_films)} films in {len(n_films)} samples; DiPro in {ours.precision}"
    )
    if "inference" in arg.parts:
        difference = largest_difference(ours, plain, batch)
        print(f"logits in float32 differ by {difference:.1e} at most (wanted 1e-4)", flush=True)
    works = [name for name in WORKS if name in arg.parts]
    if works:
        _print_side_by_side(ours, plain, batch, works, arg.repeats)
    if "waiting" in arg.parts:
        _print_waiting(ours, arg.crop_size, len(n_films))
    if "scaling" in arg.parts:
        for axis, (seconds, exponent) in scaling(ours, arg.crop_size, arg.repeats).items():
            listed = ", ".join(
                f"{size}: {1000 * s:.0f} ms" for size, s in zip(SCALES[axis], seconds, strict=True)
            )
            print(f"inference by {axis}: {listed}; slope {exponent:.2f}")
    if arg.trace:
        write_trace(ours, batch, arg.trace)
        print(f"wrote {arg.trace}")


WORKS = {"inference": Subject.infer, "training": Subject.train}
"""What is timed, by name."""


def _print_side_by_side(
    ours: Subject, plain: Subject, batch: Batch, works: Sequence[str], repeats: int
) -> None:
    print("              plain s    ours s   ratio  samples/s  plain MiB  ours MiB")
    smallest = ragged_batch(N_FILMS[:1], batch.regions.shape[-1]).to(ours.device)
    for name in works:
        do = WORKS[name]
        for one in (plain, ours):  # warm up
            do(one, smallest)
        with without_tf32():
            work = [partial(do, plain, batch), partial(do, ours, batch)]
            slow, fast = side_by_side(work, ours.device, repeats)
        print(
            f"{name:<11}{slow.median:10.3f}{fast.median:10.3f}{fast.median / slow.median:8.2f}"
            f"{len(batch) / fast.median:11.2f}{slow.peak_mb:11.0f}{fast.peak_mb:10.0f}",
            flush=True,
        )


def _print_waiting(subject: Subject, crop_size: int, batch_size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cohort = miniature_cohort(Path(folder) / "cohort", region_size=crop_size)
        samples = Samples(cohort, TASK, Cxr.PAIR, DiPro.inputs)
        share = waiting_share(subject, samples, batch_size, math.ceil(8 / batch_size))
    print(f"waiting for data: {share:.1%} of an epoch over a prepared cohort")


if __name__ == "__main__":
    run_command(main)
