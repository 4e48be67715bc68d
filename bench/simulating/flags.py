"""What the words of bench.simulate spell and check alike."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from bench.errors import Parser, UserError

MOST_SEED = 2**32 - 1
"""Seeds are multiplied and added to before torch is given them, in 64 bits."""


def seed(text: str) -> int:
    """A parser of seeds."""
    if not text.isdecimal() or int(text) > MOST_SEED:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 to {MOST_SEED}")
    return int(text)


def add(p: Parser, flag: str, **settings: object) -> None:
    """An argument that may also be spelled with underscores, as PIE's own command has it."""
    spellings = dict.fromkeys([flag, "--" + flag[2:].replace("-", "_")])
    p.add_argument(*spellings, **settings)  # type: ignore[arg-type]


def add_pretrained(p: Parser, meaning: str, required: bool = False) -> None:
    """The folder of Stable Diffusion, and the revision that PIE's own command asks for."""
    add(
        p, "--pretrained-model-name-or-path", type=Path, required=required, metavar="DIR",
        help=meaning,
    )  # fmt: skip
    p.add_argument(
        "--revision", metavar="NAME", help="as in PIE's command; a local folder has only one"
    )


def check_writable(folder: Path) -> None:
    """Raise `UserError` unless a folder is there to write to, or can be made."""
    parent = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"cannot write {folder}: {parent} is not a writable folder")
