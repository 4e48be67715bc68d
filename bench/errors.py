"""Errors that are the user's to mend, and how a command reports them."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn


class UserError(Exception):
    """Bad input or wrong usage: one line of what, where (file, column, row) and what to do."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a clause naming the valid name closest to `name`, or all of them if none is close."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(names)}"


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of descriptions as written, and names defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, []):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses with one line, the nearest valid flag and exit status 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", HelpFormatter)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            flag = unknown.split()[0].split("=")[0]
            message = f"unknown argument '{flag}': {nearest(flag, flags)}"
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run a command's main function; a `UserError` becomes one line on stderr and exit status 2."""
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted: type the same command again to go on", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        sys.stderr.close()
        status = 1
    sys.exit(status or 0)
