"""Errors that are the user's to mend, and how a command reports them."""

from __future__ import annotations

import argparse
import difflib
import itertools
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

MAX_LINE = 300
"""Characters of an error's first line that a terminal is given."""


class UserError(Exception):
    """Bad input or wrong usage: one line of what, where (file, column, row) and what to do."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a clause naming the valid name closest to `name`, or all of them if none is close."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(names)}"


def first_line(error: Exception) -> str:
    """Kind and first line of what an error says; '[...]' stands for what is cut."""
    text = f"{type(error).__name__}: {str(error).strip()}"
    line = text.splitlines()[0][:MAX_LINE]
    return line if line == text else f"{line} [...]"


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
        self._typed: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As the base class, and note what was typed: `error` looks for mistyped flags in it."""
        self._typed = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self._typed, namespace)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with status 2."""
        unknown = message.removeprefix("unrecognized arguments: ")
        # A mistyped flag is also a missing one: that it is unknown says more.
        flag = self._unknown_flag() or (unknown != message and unknown.split()[0])
        if flag:
            message = f"unknown argument '{flag}': {nearest(flag, self._flags())}"
        self.exit(2, f"error: {message}; see {self.prog} --help\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            clause = nearest(str(value), map(str, action.choices))
            raise argparse.ArgumentError(action, f"invalid choice: '{value}', {clause}")

    def _unknown_flag(self) -> str | None:
        """The first typed flag that neither this parser nor one of its subcommands has."""
        flags = {*self._flags(), *(flag for p in self._subcommands() for flag in p._flags())}
        typed = itertools.takewhile(lambda word: word != "--", self._typed)
        # A number with a sign is a value.
        names = (word.partition("=")[0] for word in typed if re.match("--?[A-Za-z]", word))
        return next((name for name in names if name not in flags), None)

    def _flags(self) -> list[str]:
        return [flag for action in self._actions for flag in action.option_strings]

    def _subcommands(self) -> list[Parser]:
        actions = (a for a in self._actions if isinstance(a, argparse._SubParsersAction))
        return [parser for action in actions for parser in action.choices.values()]


def run_command(main: Callable[[], int | None], resumes: bool = False) -> NoReturn:
    """Run a command's main function; a `UserError` becomes one line on stderr and exit status 2.

    resumes: whether an interrupted command goes on where it was when it is typed again
    """
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        hint = ": type the same command again to go on" if resumes else ""
        print(f"interrupted{hint}", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        sys.stderr.close()
        status = 1
    sys.exit(status or 0)
