"""The machine and the code a run was made by: device, threads, versions, commit, fingerprint."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path

import torch

from bench.errors import UserError
from bench.registry import source_files

ROOT = Path(__file__).parent.parent

SHARED_SOURCES = (
    "bench/runner.py",
    "bench/training.py",
    "bench/epoch.py",
    "bench/optimization.py",
    "bench/checkpoints.py",
    "bench/prediction.py",
    "bench/memory.py",
    "bench/objective.py",
    "bench/contract.py",
    "bench/metrics.py",
    "bench/data/batch.py",
    "bench/data/cohort.py",
    "bench/data/layout.py",
    "bench/data/loading.py",
    "bench/data/vocabulary.py",
)
"""Files besides a method's own that decide its numbers."""


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; 'auto' takes CUDA if there is one.

    Raises:
        UserError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"there is no device '{name}' here: try --device cpu")
    return device


def set_determinism(threads: int) -> None:
    """Fix what could make two runs of one configuration differ on one machine."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling new memory with NaN finds faults; it changes no number and costs some 5 %.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    # fp32 means fp32: TF32, torch's default for convolutions, keeps 10 bits of the mantissa.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def device_name(device: torch.device) -> str:
    """The device as a record names it."""
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"{device.type}, {platform.machine()}"


def forget_peak(device: torch.device) -> None:
    """Let `peak_gpu_mb` count from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gpu_mb(device: torch.device) -> float | None:
    """The most GPU memory, MiB, that tensors of this process took; None on a CPU."""
    if device.type != "cuda":
        return None
    return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    packages = ("torch", "torchvision", "numpy", "scikit-learn", "pandas")
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }


@cache
def commit() -> str | None:
    """Commit of the checkout, with '+' if its tracked files are changed; None outside one."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != ROOT:
            return None
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@cache
def code_fingerprint(method: str) -> str:
    """Hash of the code that decides a method's numbers: what all share, and its own files."""
    digest = hashlib.sha256()
    for path in [*(ROOT / name for name in SHARED_SOURCES), *source_files(method)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
