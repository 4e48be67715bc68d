"""Draw figures from stored runs, as PNG and PDF, and write their numbers as CSV.

python -m tables.figures figure2a figure2b
python -m tables.figures forest learning mortality_curves --table table2
python -m tables.figures case --stay KEY
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence

from bench.errors import Parser, UserError, nearest, run_command
from tables import attention, command
from tables.case import case
from tables.curves import learning, mortality_curves
from tables.differences import forest
from tables.figure2 import figure2a, figure2b
from tables.runs import Selection

Draw = Callable[[Selection, Namespace], dict[str, bytes]]

FIGURES: dict[str, Draw] = {
    "figure2a": lambda selection, arg: figure2a(selection, arg.attention),
    "figure2b": lambda selection, arg: figure2b(selection, arg.attention),
    "case": lambda selection, arg: case(selection, arg.attention, arg.stay, arg.show_patients),
    "forest": lambda selection, arg: forest(selection, arg.table),
    "learning": lambda selection, arg: learning(selection, arg.table),
    "mortality_curves": lambda selection, arg: mortality_curves(selection, arg.table),
}
"""How each figure is drawn with the command's arguments."""


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m tables.figures", description=__doc__)
    p.add_argument("figures", nargs="+", metavar="FIGURE", help=", ".join(FIGURES))
    command.add_selection(p)
    p.add_argument(
        "--attention", choices=sorted(attention.SOURCES), default="dynamic", help="which is shown"
    )
    p.add_argument(
        "--table", default="table2", metavar="NAME", help="of forest, learning, mortality_curves"
    )
    p.add_argument("--stay", metavar="KEY", help="case: key of a test stay, or how it begins")
    p.add_argument(
        "--show-patients",
        action="store_true",
        help="case: draw films of a credentialed cohort, for your own eyes only",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arg = parser().parse_args(argv)
    for name in arg.figures:
        if name not in FIGURES:
            raise UserError(f"unknown figure '{name}': {nearest(name, FIGURES)}")
    selection = command.selection(arg, arg.table)
    for name in arg.figures:
        contents = FIGURES[name](selection, arg)
        for path in command.write_files(selection.store.figures, contents):
            print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    run_command(main)
