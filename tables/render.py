"""Print tables from stored runs and write them as text, Markdown, LaTeX and CSV (long and wide).

python -m tables.render table2
python -m tables.render table1 --labels gold
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from bench import arguments
from bench.errors import Parser, run_command
from tables import command
from tables.build import build
from tables.definitions import TABLES, Labels, named, with_labels, with_published
from tables.formats import ansi, as_text, files, plain


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m tables.render", description=__doc__)
    p.add_argument("tables", nargs="+", metavar="TABLE", help=", ".join(TABLES))
    command.add_selection(p)
    p.add_argument(
        "--reference",
        metavar="ROW",
        help="row that the others are tested against, e.g. medfuse-long",
    )
    p.add_argument(
        "--labels",
        type=arguments.choice(Labels),
        default=Labels.ALL,
        metavar="NAME",
        help="test pairs with gold labels only (people's), silver ones only (reports'), or all",
    )
    p.add_argument(
        "--resamples", type=arguments.positive, metavar="B", help="bootstrap resamples (preset's)"
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; incomplete and undefined cells are no error."""
    arg = parser().parse_args(argv)
    wanted = [with_labels(named(name), arg.labels) for name in arg.tables]
    selection = command.selection(arg, arg.tables[0])
    of_cohort = list(selection.store.records_of(selection.cohort.content_hash))
    for table in wanted:
        built = build(with_published(table, of_cohort), selection, arg.resamples, arg.reference)
        print(as_text(built, ansi if _shows_colour() else plain))
        for path in command.write_files(selection.store.tables, files(built)):
            print(f"wrote {path}")
    return 0


def _shows_colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


if __name__ == "__main__":
    run_command(main)
