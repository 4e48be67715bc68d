"""Where a preparation works: a hidden folder beside its cohort, so that a killed one goes on.

    .NAME.preparing/            beside the cohort NAME; gone when that is there, or if nothing in
                                it was finished
        lock                    held by the process at work
        chartevents-KEY         a finished stage, and so on
        films/                  the films decoded so far (`row_store`)
        spill/                  what DuckDB moves out of memory

A stage is found again only by the key of everything that decides it: its inputs, its arguments and
the code. Inputs are known by place, size and times of the last change; reading 40 GB for a hash of
the contents would take as long as the stage.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from bench.errors import UserError
from bench.preparing.row_store import holds_rows

MEMORY_GB: Final = 8.0
"""What DuckDB may use if nothing else is said."""

LOCK: Final = "lock"
PARTIAL: Final = ".partial"
LIBRARIES: Final = ("duckdb", "numpy", "pillow")


@dataclass(frozen=True)
class Workplace:
    """A folder for finished stages, and how much of the machine may be used.

    jobs: cores
    memory_gb: of DuckDB; beyond it, it spills to disk
    """

    folder: Path
    jobs: int = 1
    memory_gb: float = MEMORY_GB

    @property
    def films(self) -> Path:
        """Folder of the films decoded so far."""
        return self.folder / "films"

    @property
    def spill(self) -> Path:
        """Folder for what does not fit into memory."""
        return self.folder / "spill"

    def stage(self, name: str, key: str, make: Callable[[Path], None]) -> Path:
        """The file of a stage: as it was finished before, or made now."""
        path = self.folder / f"{name}-{key}"
        if not path.exists():
            partial = path.with_name(path.name + PARTIAL)
            make(partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.rename(path)
        return path


def folder_beside(out: Path) -> Path:
    """The folder in which the cohort `out` is prepared."""
    out = out.absolute()
    return out.with_name(f".{out.name}.preparing")


@contextmanager
def workplace(out: Path, jobs: int = 1, memory_gb: float = MEMORY_GB) -> Iterator[Workplace]:
    """Work beside `out`; what was finished outlives a process that is killed, interrupted or
    refused, and nothing else does.

    Raises:
        UserError: another process prepares `out`, the folder cannot be written or the disk is full;
            and what the work raises, with how to go on if anything was finished.
    """
    folder = folder_beside(out)
    with _locked(folder, out):
        _remove_half_written(out.absolute(), folder)
        try:
            yield Workplace(folder, jobs, memory_gb)
        except KeyboardInterrupt:
            raise
        except (UserError, OSError) as error:
            refusal = _as_refusal(error, out)
            _remove_half_written(out.absolute(), folder)
            if refusal is None or not _holds_finished(folder):
                shutil.rmtree(folder, ignore_errors=True)
                raise refusal or error
            raise UserError(f"{refusal}; the same command then goes on from what was finished")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _as_refusal(error: Exception, out: Path) -> UserError | None:
    """What a user can mend: bad input, or a full disk."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"the disk is full: no room to prepare {out}")
    return error if isinstance(error, UserError) else None


def _holds_finished(folder: Path) -> bool:
    """Whether a folder cleared of what is half written has stages or films to go on from."""
    work = Workplace(folder)
    stages = [path for path in folder.iterdir() if path.name not in (LOCK, work.films.name)]
    return bool(stages) or holds_rows(work.films)


@contextmanager
def throwaway_workplace(jobs: int = 1) -> Iterator[Workplace]:
    """A workplace from which nothing is to be taken over."""
    with tempfile.TemporaryDirectory() as folder:
        yield Workplace(Path(folder), jobs)


@contextmanager
def _locked(folder: Path, out: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK).open("w")
    except OSError as error:
        raise UserError(f"{out} cannot be prepared: {folder}: {error.strerror}")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{out} is being prepared by another process: wait for it, or choose another --out"
            )
        yield


def _remove_half_written(out: Path, folder: Path) -> None:
    """What a killed process left of a stage, and of the cohort itself (see `write_cohort`)."""
    beside = f".{glob.escape(out.name)}"
    half_written = [
        *folder.glob(f"*{PARTIAL}"),
        *folder.glob("spill"),
        *out.parent.glob(f"{beside}.partial-*"),
        *out.parent.glob(f"{beside}.replaced-*"),
    ]
    for path in half_written:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def key_of_inputs(*inputs: object) -> str:
    """16 hex digits of inputs, by their repr, and of the code that works on them."""
    text = "\n".join([_code(), *map(repr, inputs)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def mark_of(path: Path) -> tuple[str, int, int, int]:
    """What changes whenever a file does: place, size, and when contents and status changed."""
    stat = path.stat()
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@cache
def _code() -> str:
    """Hash of what prepares and of the libraries that decode and read."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted([*here.glob("*.py"), *(here.parent / "data").iterdir()]):
        if path.is_file():
            digest.update(path.read_bytes())
    for library in LIBRARIES:
        digest.update(importlib.metadata.version(library).encode())
    return digest.hexdigest()
