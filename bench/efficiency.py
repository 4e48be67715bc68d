"""What a prediction costs: parameters, multiply-adds, latency, throughput and memory of methods.

    python -m bench.efficiency                   every method, progression task, paper preset
    python -m bench.efficiency --method sdpl chexrelformer --set model.film_size=256

One disease progression sample: two films of 224 px with ten crops each, 48 hours of EHR. Weights
are random: none of these numbers depends on their values. MACs are multiply-adds, FLOPs twice as
many, counted operator by operator (`torch.utils.flop_counter`); the paper's column "FLOPs" holds
MACs. Each method is measured in a process of its own. RESULTS/efficiency.json keeps what earlier
calls measured; a new measurement takes the place of one of the same method, setting and machine.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
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
from bench.space import Overrides
from bench.store import Store, write_json

N_WARM_UP, N_TIMED = 3, 10
SIZES = {Preset.PAPER: (224, 224), Preset.MEDIUM: (128, 32), Preset.DEMO: (96, 32)}
"""Side in pixels of films and of region crops by preset."""

KEY = ("method", "ehr", "preset", "overrides", "device", "threads", "batch_size")
"""What two measurements of the same thing on the same machine agree in."""

N_HOURS = 48
MIB = 2**20


@dataclass(frozen=True)
class Efficiency:
    """The cost of one method at prediction.

    macs, flops: of one sample
    latency_ms, latency_low_ms, latency_high_ms: median and quartiles of one sample at a time
    samples_per_s: in batches of `batch_size`
    peak_memory_mb: MiB; on a GPU allocated for a batch, on a CPU resident over the bare process
    overrides: changed fields of the method's configuration, e.g. 'model.film_size=256'
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
    overrides: str = ""


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


def build(method: str, ehr: bool, preset: Preset, overrides: Overrides = ()) -> nn.Module:
    """A method for disease progression with random weights.

    Raises:
        UserError: it declines the setting, or has no such field.
    """
    request = replace(_request(method, ehr, preset), overrides=tuple(overrides))
    config = resolve(request).model
    if "weights" in vars(config):
        config = replace(config, **{"weights": "none"})
    torch.manual_seed(0)
    spec = TaskSpec(request.task, request.cxr, ehr)
    return load_method(method)(config, spec).eval().requires_grad_(False)


def _request(method: str, ehr: bool, preset: Preset) -> Request:
    """Disease progression with the films that the method reads."""
    inputs = load_method(method).inputs
    cxr = Cxr.PAIR if inputs.films or inputs.regions else Cxr.NONE
    return Request(method, Task.DISEASE_PROGRESSION, cxr, 0, ehr=ehr, preset=preset)


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
    method: str,
    ehr: bool,
    preset: Preset,
    device_name: str,
    threads: int,
    batch_size: int,
    overrides: Overrides = (),
) -> Efficiency:
    """Measure a method in this process."""
    device = environment.choose_device(device_name)
    environment.set_determinism(threads)
    bare_mb = _resident_mb()
    model = build(method, ehr, preset, overrides).to(device)
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
        overrides=_in_words(overrides),
    )


def _in_words(overrides: Overrides) -> str:
    return " ".join(f"{name}={text}" for name, text in overrides)


def _resident_mb() -> float:
    """Largest resident memory of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)


def measured(file: Path) -> list[Efficiency]:
    """What was measured so far; nothing if there is no such file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return [Efficiency(**row) for row in json.loads(file.read_text())]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} holds no measurements ({error}): delete it and measure again")


def key(row: Efficiency) -> tuple[Any, ...]:
    """The values of `KEY`."""
    return tuple(getattr(row, name) for name in KEY)


def merged(earlier: Iterable[Efficiency], new: Efficiency) -> list[Efficiency]:
    """All of them by method, a new one in the place of an earlier one with the same `KEY`."""
    rows = {key(row): row for row in (*earlier, new)}
    order = [*METHODS, *sorted({row.method for row in rows.values()} - METHODS.keys())]
    return sorted(rows.values(), key=lambda row: (order.index(row.method), key(row)))


def _model_field(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.startswith("model."):
        raise UserError(f"--set {text}: write it as model.FIELD=VALUE")
    return name, value


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m bench.efficiency", description=__doc__)
    p.add_argument(
        "--method",
        nargs="+",
        default=list(METHODS),
        metavar="NAME",
        help=f"{', '.join(METHODS)}, or module:Class",
    )
    p.add_argument(
        "--preset",
        type=arguments.choice(Preset),
        default=Preset.PAPER,
        metavar="NAME",
        help=f"sizes: {', '.join(Preset)}",
    )
    p.add_argument(
        "--set",
        action="append",
        default=[],
        type=_model_field,
        metavar="FIELD=VALUE",
        help="override one field of the methods, e.g. model.d_model=128; may be repeated",
    )
    p.add_argument(
        "--batch-size", type=arguments.positive, metavar="N", help="32 on a GPU, 2 on a CPU"
    )
    p.add_argument(
        "--missing",
        action="store_true",
        help="measure only what was not yet measured with these arguments on this kind of machine",
    )
    p.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="store")
    arguments.add_machine(p)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arg = parser().parse_args(argv)
    store = Store(arg.results)
    store.check_writable()
    settings = _settings(arg.method, arg.preset, tuple(arg.set))
    device = environment.choose_device(arg.device)
    batch_size = arg.batch_size or (32 if device.type == "cuda" else 2)
    machine = (environment.device_name(device), arg.threads, batch_size)
    known = {key(row) for row in measured(store.efficiency)}
    for method, ehr in settings:
        is_known = (method, ehr, str(arg.preset), _in_words(arg.set), *machine) in known
        if arg.missing and is_known:
            continue
        found = _in_new_process(
            (method, ehr, arg.preset, arg.device, arg.threads, batch_size, arg.set)
        )
        rows = merged(measured(store.efficiency), found)
        write_json(store.efficiency, [asdict(row) for row in rows])
        print(_line(found), flush=True)
    print(f"wrote {store.efficiency}")
    return 0


def _settings(
    methods: Iterable[str], preset: Preset, overrides: Overrides
) -> list[tuple[str, bool]]:
    """Methods without and with EHR, as far as they accept it.

    Raises:
        UserError: unknown method, field or value; nothing is measured then.
    """
    accepted = []
    for method in methods:
        if method not in METHODS and ":" not in method:
            raise UserError(f"unknown method '{method}': {nearest(method, METHODS)}")
        for ehr in (False, True):
            request = _request(method, ehr, preset)
            try:
                resolve(request)
            except UserError:
                continue
            resolve(replace(request, overrides=overrides))
            accepted.append((method, ehr))
    return accepted


def _in_new_process(setting: tuple[Any, ...]) -> Efficiency:
    """Measure with nothing else in memory."""
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
