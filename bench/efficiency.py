"""What a prediction costs: parameters, multiply-adds, latency, throughput and memory of methods.

    python -m bench.efficiency                   every method, progression task, paper preset

One disease progression sample: two films of 224 px with ten crops each, 48 hours of EHR. Weights
are random: none of these numbers depends on their values. MACs are multiply-adds, FLOPs twice as
many, counted operator by operator (`torch.utils.flop_counter`); the paper's column "FLOPs" holds
MACs. Each method is measured in a process of its own and written to RESULTS/efficiency.json.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench import arguments, environment
from bench.config import Request, resolve
from bench.contract import Preset, TaskSpec
from bench.data.batch import Batch, Inputs
from bench.data.vocabulary import Cxr, Task
from bench.errors import Parser, UserError, nearest, run_command
from bench.registry import METHODS, load_method
from bench.store import Store, write_json

N_WARM_UP, N_TIMED = 3, 10
SIZES = {Preset.PAPER: (224, 224), Preset.MEDIUM: (128, 32), Preset.DEMO: (96, 32)}
"""Side in pixels of films and of region crops by preset."""

N_HOURS = 48
MIB = 2**20


@dataclass(frozen=True)
class Efficiency:
    """The cost of one method at prediction.

    macs, flops: of one sample
    latency_ms, latency_low_ms, latency_high_ms: median and quartiles of one sample at a time
    samples_per_s: in batches of `batch_size`
    peak_memory_mb: MiB; on a GPU allocated for a batch, on a CPU resident over the bare process
    """

    method: str
    title: str
    ehr: bool
    preset: str
    device: str
    threads: int
    torch: str
    n_parameters: int
    macs: float
    flops: float
    latency_ms: float
    latency_low_ms: float
    latency_high_ms: float
    samples_per_s: float
    batch_size: int
    peak_memory_mb: float


def probe_batch(inputs: Inputs, ehr: bool, preset: Preset, n: int) -> Batch:
    """n progression samples of random pixels and values, as a method with these inputs gets."""
    film_size, region_size = SIZES[preset]
    generator = torch.Generator().manual_seed(0)
    n_hours = N_HOURS if ehr and inputs.ehr else 0

    def pixels(*shape: int) -> Tensor:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    films = film_size * inputs.films
    regions = region_size * inputs.regions
    hours = torch.arange(n_hours, dtype=torch.float32).expand(n, -1)
    return Batch(
        films=pixels(n, 2, films, films),
        regions=pixels(n, 2, TaskSpec.n_regions, regions, regions),
        region_present=torch.ones(n, 2, TaskSpec.n_regions, dtype=torch.bool),
        film_valid=torch.ones(n, 2, dtype=torch.bool),
        film_hours=torch.tensor([0.5, N_HOURS - 1.0]).expand(n, -1),
        pair_valid=torch.ones(n, 1, dtype=torch.bool),
        pair_hours=torch.tensor([[0.5, N_HOURS - 1.0]]).expand(n, -1, -1),
        ehr_values=numbers(n, n_hours, TaskSpec.n_variables),
        ehr_observed=numbers(n, n_hours, TaskSpec.n_variables) > 0,
        ehr_hours=hours,
        ehr_valid=torch.ones(n, n_hours, dtype=torch.bool),
        demographics=numbers(n, TaskSpec.n_demographics * (ehr and inputs.demographics)),
    )


def build(method: str, ehr: bool, preset: Preset) -> nn.Module:
    """A method for disease progression with random weights.

    Raises:
        UserError: it declines the setting.
    """
    cls = load_method(method)
    cxr = Cxr.PAIR if cls.inputs.films or cls.inputs.regions else Cxr.NONE
    request = Request(method, Task.DISEASE_PROGRESSION, cxr, 0, ehr=ehr, preset=preset)
    config = resolve(request).model
    if "weights" in vars(config):
        config = replace(config, **{"weights": "none"})
    torch.manual_seed(0)
    return cls(config, TaskSpec(request.task, cxr, ehr)).eval().requires_grad_(False)


def count_macs(model: nn.Module, batch: Batch) -> float:
    """Multiply-adds of one forward pass: half the FLOPs that torch counts."""
    lstm = {torch.ops.aten.lstm: _lstm_flops}
    counter = FlopCounterMode(display=False, custom_mapping=lstm)
    # Fused attention kernels go uncounted on a CPU: take the plain one.
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:
        model(batch)
    return counter.get_total_flops() / 2


def _lstm_flops(
    steps: Sequence[int], state: object, weights: Sequence[Sequence[int]], *_: object, **__: object
) -> int:
    """FLOPs of an LSTM, which torch leaves out, from shapes: every weight once a step."""
    matrices = [shape for shape in weights if len(shape) == 2]
    return 2 * steps[0] * steps[1] * sum(n * m for n, m in matrices)


def time_ms(work: Callable[[], object], device: torch.device, n: int = N_TIMED) -> list[float]:
    """Milliseconds of each of n calls after a warm-up."""
    times = []
    for step in range(N_WARM_UP + n):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        if step >= N_WARM_UP:
            times.append(1000 * (time.perf_counter() - started))
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    method: str, ehr: bool, preset: Preset, device_name: str, threads: int, batch_size: int
) -> Efficiency:
    """Measure a method in this process."""
    device = environment.choose_device(device_name)
    environment.set_determinism(threads)
    bare_mb = _resident_mb()
    model = build(method, ehr, preset).to(device)
    inputs = load_method(method).inputs
    one, many = (probe_batch(inputs, ehr, preset, n).to(device) for n in (1, batch_size))
    with torch.inference_mode():
        single = time_ms(lambda: model(one), device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        batched = time_ms(lambda: model(many), device, n=3)
    low, middle, high = statistics.quantiles(single, n=4)
    # Read before the counting, whose plain kernels take more memory.
    peak_mb = (
        torch.cuda.max_memory_allocated(device) / MIB
        if device.type == "cuda"
        else _resident_mb() - bare_mb
    )
    macs = count_macs(model, one)
    return Efficiency(
        method=method,
        title=load_method(method).title,
        ehr=ehr,
        preset=str(preset),
        device=environment.device_name(device),
        threads=threads,
        torch=torch.__version__,
        n_parameters=sum(p.numel() for p in model.parameters()),
        macs=macs,
        flops=2 * macs,
        latency_ms=middle,
        latency_low_ms=low,
        latency_high_ms=high,
        samples_per_s=1000 * batch_size / statistics.median(batched),
        batch_size=batch_size,
        peak_memory_mb=peak_mb,
    )


def _resident_mb() -> float:
    """Largest resident memory of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m bench.efficiency", description=__doc__)
    p.add_argument(
        "--method", nargs="+", default=list(METHODS), metavar="NAME", help=", ".join(METHODS)
    )
    p.add_argument(
        "--batch-size", type=arguments.positive, metavar="N", help="32 on a GPU, 2 on a CPU"
    )
    arguments.add_place(p)
    arguments.add_machine(p)
    p.set_defaults(preset=Preset.PAPER)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arg = parser().parse_args(argv)
    for name in arg.method:
        if name not in METHODS and ":" not in name:
            raise UserError(f"unknown method '{name}': {nearest(name, METHODS)}")
    on_gpu = environment.choose_device(arg.device).type == "cuda"
    batch_size = arg.batch_size or (32 if on_gpu else 2)
    measured: list[dict[str, Any]] = []
    for name in arg.method:
        for ehr in (False, True):
            setting = (name, ehr, arg.preset, arg.device, arg.threads, batch_size)
            found = _in_new_process(setting)
            if found is None:
                continue
            measured.append(asdict(found))
            print(_line(found), flush=True)
    store = Store(arg.results)
    write_json(store.efficiency, measured)
    print(f"wrote {store.efficiency}")
    return 0


def _in_new_process(setting: tuple[Any, ...]) -> Efficiency | None:
    """Measure with nothing else in memory; None if the method declines the setting."""
    try:
        build(setting[0], setting[1], Preset.DEMO)
    except UserError:
        return None
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, setting)


def _line(found: Efficiency) -> str:
    inputs = "with EHR" if found.ehr else "films only"
    return (
        f"{found.title:<16} {inputs:<11} {found.n_parameters / 1e6:7.2f} M parameters  "
        f"{found.macs / 1e9:7.2f} GMACs  {found.latency_ms:8.1f} ms  "
        f"{found.samples_per_s:7.2f} samples/s  {found.peak_memory_mb:7.0f} MiB"
    )


if __name__ == "__main__":
    run_command(main)
