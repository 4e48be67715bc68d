"""The report's figures and its gallery of cases, each drawn anew from the stored runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape

from bench import page
from bench.data.vocabulary import Task
from bench.errors import UserError
from tables.build import Built
from tables.case import case, labelled_stays
from tables.curves import learning, mortality_curves
from tables.definitions import Setting
from tables.differences import forest_of
from tables.figure2 import figure2a, figure2b
from tables.runs import Selection

SOURCE = "dynamic"
"""Which attention is shown."""

N_CASES = 4

Draw = Callable[[], dict[str, bytes]]


def section(selection: Selection, tables: Sequence[Built]) -> str:
    """Attention, then each table's differences, learning and mortality curves, and ranks."""
    parts = [
        _figure("Figure 2a", partial(figure2a, selection, SOURCE), "figure2a", selection),
        _figure("Figure 2b", partial(figure2b, selection, SOURCE), "figure2b", selection),
    ]
    for built in tables:
        parts += _of_table(built)
    return page.section("Figures", *parts, _ranks(selection, tables), name="figures")


def _of_table(built: Built) -> Iterator[str]:
    selection, name = built.selection, built.table.name
    heading = name.replace("table", "Table ")
    of_table: list[tuple[str, str, Draw]] = [
        ("forest", "differences", partial(forest_of, built)),
        ("learning", "learning curves", partial(learning, selection, table=name)),
        ("mortality_curves", "ROC, precision-recall and calibration",
         partial(mortality_curves, selection, table=name)),
    ]  # fmt: skip
    if Setting(Task.MORTALITY) not in built.table.settings:
        of_table.pop()
    for kind, title, draw in of_table:
        yield _figure(f"{heading}: {title}", draw, f"{kind} --table {name}", selection)


def _figure(title: str, draw: Draw, named: str, selection: Selection) -> str:
    """A picture, or why there is none, and the command that draws it."""
    command = f"python -m tables.figures {named} {selection.arguments}"
    try:
        content = _png(draw())
    except UserError as error:
        return page.titled(title, f"<p>Not drawn: {escape(str(error))}</p>")
    again = f'<p class="soft">{page.command(command)}</p>'
    return page.titled(title, f'<div class="wide">{page.image(content, title)}</div>{again}')


def _png(files: dict[str, bytes]) -> bytes:
    return next(content for name, content in files.items() if name.endswith(".png"))


def _ranks(selection: Selection, tables: Sequence[Built]) -> str:
    """Critical-difference diagrams, which need further cohorts: as they were last drawn."""
    names = [built.table.name for built in tables]
    drawn = {name: selection.store.figures / f"{name}_ranks.png" for name in names}
    pictures = [
        f'<div class="wide">{page.image(path.read_bytes(), f"ranks of {name}")}</div>'
        for name, path in drawn.items()
        if path.is_file()
    ]
    command = "python -m tables.ranks table2 --cohorts DIR DIR DIR"
    told = f"<p>As last drawn over several cohorts with {page.command(command)}</p>"
    nothing = f"<p>Not drawn: they need several cohorts.{page.command(command)}</p>"
    content = told + "".join(pictures) if pictures else nothing
    return page.titled("Ranks over cohorts", content)


def gallery(selection: Selection) -> str:
    """The test stays with the most labels as DiPro sees them; never of a credentialed cohort."""
    if selection.cohort.is_credentialed:
        return _cases("<p>Not drawn: these are patients.</p>")
    try:
        stays = labelled_stays(selection, N_CASES)
        pictures = [_png(case(selection, SOURCE, stay)) for stay in stays]
    except UserError as error:
        return _cases(f"<p>Not drawn: {escape(str(error))}</p>")
    command = f"python -m tables.figures case --stay KEY {selection.arguments}"
    told = f"<p>Test stays with the most labels. Others:{page.command(command)}</p>"
    named = zip(pictures, stays, strict=True)
    shown = [
        f'<div class="wide">{page.image(png, f"stay {stay[:8]}")}</div>' for png, stay in named
    ]
    return _cases(told + "\n".join(shown))


def _cases(content: str) -> str:
    return page.section("Cases", content, name="cases")
