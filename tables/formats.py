"""A built table as text, Markdown, LaTeX and CSV; the same records give the same bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from itertools import groupby

import pandas as pd
from tabulate import tabulate

from tables.build import Built
from tables.footer import Note, footer
from tables.grid import Cell, grid

Style = Callable[[Cell], str]
"""How a format writes a cell."""

WIDTH = 100
"""Columns of a wrapped footer."""


def plain(cell: Cell) -> str:
    """A cell without emphasis."""
    return cell.text + cell.stars + cell.remark


def ansi(cell: Cell) -> str:
    """A cell for a terminal: the best bold, the best baseline underlined."""
    codes = ["1"] * cell.is_best + ["4"] * cell.is_best_baseline
    text = f"\x1b[{';'.join(codes)}m{cell.text}\x1b[0m" if codes else cell.text
    return text + cell.stars + cell.remark


def markdown(cell: Cell) -> str:
    """A cell in Markdown."""
    text = f"<u>{cell.text}</u>" if cell.is_best_baseline else cell.text
    text = f"**{text}**" if cell.is_best else text
    return text + cell.stars.replace("*", r"\*") + cell.remark


def latex(cell: Cell) -> str:
    """A cell in LaTeX."""
    text = _escape(cell.text)
    text = rf"\underline{{{text}}}" if cell.is_best_baseline else text
    text = rf"\textbf{{{text}}}" if cell.is_best else text
    return text + (f"$^{{{cell.stars}}}$" if cell.stars else "") + cell.remark


def as_text(built: Built, style: Style = plain) -> str:
    """The table for a terminal or a text file, with its footer wrapped."""
    content = grid(built)
    table = tabulate(
        [[style(cell) for cell in row] for row in content.rows],
        headers=_two_lines(content.headings),
        disable_numparse=True,
    )
    notes = [_wrapped(note) for note in footer(built)]
    # Trailing blanks say nothing and differ between versions of tabulate.
    lines = [line.rstrip() for line in table.splitlines()]
    return "\n".join([_title(built), "", *lines, "", *notes]) + "\n"


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
    notes = [_BEST_NOTE, *footer(built)]
    listed = ["- " + note.text.replace("*", r"\*") + _code(note) for note in notes]
    return "\n".join([f"**{_title(built)}**", "", *table, "", *listed]) + "\n"


def _code(note: Note) -> str:
    return f" `{note.command}`" if note.command else ""


def as_latex(built: Built) -> str:
    """The table in LaTeX with booktabs, its footer in small print."""
    content = grid(built)
    n_text = sum(not group for group, _ in content.headings)
    columns = "l" * n_text + "c" * (len(content.headings) - n_text)
    groups = [" & ".join([""] * n_text)]
    rules = []
    first = n_text + 1
    for group, members in groupby(heading[0] for heading in content.headings[n_text:]):
        size = len(list(members))
        groups.append(rf"\multicolumn{{{size}}}{{c}}{{{_escape(group)}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + size - 1}}}")
        first += size
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{_escape(_caption(built))}}}",
        rf"\label{{tab:{built.table.name}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(groups) + r" \\",
        " ".join(rules),
        " & ".join(_escape(name) for _, name in content.headings) + r" \\",
        r"\midrule",
        *(" & ".join(latex(cell) for cell in row) + r" \\" for row in content.rows),
        r"\bottomrule",
        r"\end{tabular}",
        "",
        r"\begin{minipage}{\linewidth}\footnotesize",
        *(_paragraph(note) for note in (_BEST_NOTE, *footer(built))),
        r"\end{minipage}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _paragraph(note: Note) -> str:
    code = rf" \texttt{{{_escape(note.command)}}}" if note.command else ""
    return rf"{_escape(note.text)}{code}\par"


_BEST_NOTE = Note("Bold: best; underlined: best row other than the reference.")

_LATEX_ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"±": r"$\pm$", "–": "--", "<": "$<$", ">": "$>$", "~": r"\textasciitilde{}"}
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
        chosen = (built.frame["task"] == column.task) & (built.frame["metric"] == column.metric)
        of_column = built.frame[chosen].set_index("row")
        for name in ("mean", "sd", "stars", "n_seeds"):
            wide[f"{column.task} {column.metric} {name}"] = wide["row"].map(of_column[name])
    return wide


def _title(built: Built) -> str:
    return f"{built.table.name}: {_caption(built)}"


def _caption(built: Built) -> str:
    kind = " (SIMULATED DATA)" if built.selection.cohort.is_simulated else ""
    return built.table.title + kind


def files(built: Built) -> dict[str, bytes]:
    """Every file of a table by name; the same records give the same bytes."""
    name = built.table.name
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
