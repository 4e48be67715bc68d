"""A built table as text, Markdown, LaTeX and CSV; the same records give the same bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from itertools import groupby

import pandas as pd
from tabulate import tabulate

from tables.build import FAMILY, Built
from tables.footer import Note, footer, notes
from tables.grid import MEMORY_MARK, Cell, grid

Style = Callable[[Cell], str]
"""How a format writes a cell."""

WIDTH = 100
"""Columns of a wrapped footer."""


def plain(cell: Cell) -> str:
    """A cell without emphasis."""
    return cell.text + _bracketed(cell) + cell.marks + cell.remark


def _bracketed(cell: Cell) -> str:
    return f" [{cell.note}]" if cell.note else ""


def ansi(cell: Cell) -> str:
    """A cell for a terminal: the best bold, the best baseline underlined."""
    codes = ["1"] * cell.is_best + ["4"] * cell.is_best_baseline
    text = f"\x1b[{';'.join(codes)}m{cell.text}\x1b[0m" if codes else cell.text
    return text + _bracketed(cell) + cell.marks + cell.remark


def markdown(cell: Cell) -> str:
    """A cell in Markdown."""
    text = f"<u>{cell.text}</u>" if cell.is_best_baseline else cell.text
    text = f"**{text}**" if cell.is_best else text
    return text + _bracketed(cell) + cell.marks.replace("*", r"\*") + cell.remark


def latex(cell: Cell) -> str:
    """A cell in LaTeX."""
    text = _escape(cell.text)
    text = rf"\underline{{{text}}}" if cell.is_best_baseline else text
    text = rf"\textbf{{{text}}}" if cell.is_best else text
    raised = cell.note + cell.marks.replace(MEMORY_MARK, r"\dagger")
    return text + (f"$^{{{raised}}}$" if raised else "") + cell.remark


def as_text(built: Built, style: Style = plain) -> str:
    """The table for a terminal or a text file, with its footer wrapped."""
    content = grid(built)
    table = tabulate(
        [[style(cell) for cell in row] for row in content.rows],
        headers=_two_lines(content.headings),
        disable_numparse=True,
    )
    under = [_wrapped(note) for note in footer(built)]
    # Trailing blanks say nothing and differ between versions of tabulate.
    lines = [line.rstrip() for line in table.splitlines()]
    return "\n".join([_title(built), "", *lines, "", *under]) + "\n"


def _two_lines(headings: list[tuple[str, str]]) -> list[str]:
    """Headings with the group above the first name of each group."""
    above = [""] + [group for group, _ in headings]
    return [
        f"{'' if group == before else group}\n{name}"
        for before, (group, name) in zip(above, headings, strict=False)
    ]


def _wrapped(note: Note) -> str:
    """A note in lines of `WIDTH`; its command stays on one, to be copied."""
    text = textwrap.fill(
        note.text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return f"{text}\n    {note.command}" if note.command else text


def as_markdown(built: Built) -> str:
    """The table in Markdown, its footer as a list."""
    content = grid(built)
    header = [" ".join(filter(None, heading)) for heading in content.headings]
    body = [[markdown(cell) for cell in row] for row in content.rows]
    lines = [header, ["---"] * len(header), *body]
    table = ["| " + " | ".join(line) + " |" for line in lines]
    listed = [
        "- " + note.text.replace("*", r"\*") + _code(note) for note in (BEST_NOTE, *footer(built))
    ]
    return "\n".join([f"**{_title(built)}**", "", *table, "", *listed]) + "\n"


def _code(note: Note) -> str:
    return f" `{note.command}`" if note.command else ""


def as_latex(built: Built) -> str:
    """The table in LaTeX with booktabs, its footer in small print, what is missing as comments."""
    content = grid(built)
    headings, parts = content.stacked()
    first, *others = parts.items()
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{_escape(caption(built))}}}",
        rf"\label{{tab:{built.table.file_name}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{'l' * content.n_text}{'c' * (len(headings) - content.n_text)}}}",
        r"\toprule",
        *_latex_groups([group for group, _ in headings], content.n_text),
        " & ".join(_escape(name) for _, name in headings) + r" \\",
        r"\midrule",
        *map(_latex_row, first[1]),
        *(line for part in others for line in _latex_part(*part, len(headings))),
        r"\bottomrule",
        r"\end{tabular}}",
        "",
        r"\medskip",
        r"\begin{minipage}{\linewidth}\scriptsize\raggedright",
        *(rf"{_escape(note.text)}\par" for note in (BEST_NOTE, *notes(built))),
        r"\end{minipage}",
        r"\end{table}",
        *(f"% {note.text} {note.command}" for note in footer(built) if note.command),
    ]
    return "\n".join(lines) + "\n"


def _latex_groups(groups: list[str], n_text: int) -> list[str]:
    """The line of groups above the headings, and the rules below it."""
    cells, rules, first = [" & ".join([""] * n_text)], [], n_text + 1
    for group, members in groupby(groups[n_text:]):
        size = len(list(members))
        cells.append(rf"\multicolumn{{{size}}}{{c}}{{{_escape(group)}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + size - 1}}}")
        first += size
    return [" & ".join(cells) + r" \\", " ".join(rules)]


def _latex_part(title: str, rows: list[list[Cell]], n_columns: int) -> list[str]:
    """Further rows below a rule and their title."""
    above = rf"\multicolumn{{{n_columns}}}{{l}}{{\emph{{{_escape(title)}}}}} \\"
    return [r"\midrule", above, *map(_latex_row, rows)]


def _latex_row(row: list[Cell]) -> str:
    return " & ".join(map(latex, row)) + r" \\"


BEST_NOTE = Note("Bold: best; underlined: best row other than the reference.")

_LATEX_ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {
        "±": r"$\pm$",
        "−": "$-$",
        "Δ": r"$\Delta$",
        "–": "--",
        "†": r"$\dagger$",
        "<": "$<$",
        ">": "$>$",
        "~": r"\textasciitilde{}",
    }
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}"}
)


def _escape(text: str) -> str:
    return text.translate(_LATEX_ESCAPES)


def as_wide(built: Built) -> pd.DataFrame:
    """A row per row of the table; mean, sd, stars and n_seeds of each column side by side."""
    wide = built.frame[["row", "title"]].drop_duplicates(ignore_index=True)
    wide["cxr"] = [str(row.cxr) for row in built.table.rows]
    wide["ehr"] = [int(row.ehr) for row in built.table.rows]
    for column in built.table.columns:
        is_here = built.frame[FAMILY] == [column.task, column.drop_ehr, column.metric]
        of_column = built.frame[is_here.all(axis=1)].set_index("row")
        hidden = f" without {column.drop_ehr:.0%} of the EHR" if column.drop_ehr else ""
        for name in ("mean", "sd", "stars", "n_seeds"):
            title = f"{column.task} {column.metric}{hidden} {name}"
            wide[title] = wide["row"].map(of_column[name])
    return wide


def _title(built: Built) -> str:
    return f"{built.table.name}: {caption(built)}"


def caption(built: Built) -> str:
    """The table's title, and that its data is simulated."""
    kind = " (SIMULATED DATA)" if built.selection.cohort.is_simulated else ""
    return built.table.title + kind


def files(built: Built) -> dict[str, bytes]:
    """Every file of a table by name; the same records give the same bytes."""
    name = built.table.file_name
    texts = {
        f"{name}.txt": as_text(built),
        f"{name}.md": as_markdown(built),
        f"{name}.tex": as_latex(built),
        f"{name}.csv": _csv(built.frame),
        f"{name}_wide.csv": _csv(as_wide(built)),
    }
    return {file: text.encode() for file, text in texts.items()}


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, float_format="%.6f", lineterminator="\n")
