"""SIGTERM as a wish: who listens leaves at the next safe point, with status 143."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_asked = threading.Event()


class StoppedError(SystemExit):
    """SIGTERM came. As a `SystemExit` it ends any command with the status that shells expect."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)

    def __str__(self) -> str:
        return "stopped by SIGTERM: type the same command again to go on"


def asked() -> bool:
    """Whether SIGTERM came since the outermost `listening` began."""
    return _asked.is_set()


def leave_if_asked() -> None:
    """Raise `StoppedError` if SIGTERM came: call it where nothing is half done."""
    if asked():
        raise StoppedError


@contextmanager
def listening(pass_on: Callable[[], None] | None = None) -> Iterator[None]:
    """Note SIGTERM instead of dying of it; inside another `listening` this changes nothing.

    `pass_on` is called once more per signal, at once. Only the main thread can listen.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or getattr(signal.getsignal(signal.SIGTERM), "notes_sigterm", False):
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        _asked.set()
        if pass_on:
            pass_on()

    note.notes_sigterm = True  # type: ignore[attr-defined]
    _asked.clear()
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
