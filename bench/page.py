"""Building blocks of a report as one HTML file: style, tables, pictures; nothing is loaded."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any, Final

import pandas as pd

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --line: #cccccc;
  --soft: #666666; --bad: #b3261e; --good: #1b6e3c; --note: #fff3d6;
  --link: #0b57a4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #161616; --line: #444444;
  --soft: #a8a8a8; --bad: #ff8a80; --good: #7bd69b; --note: #40351a;
  --link: #8ab8ff; } }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; font: 16px/1.45 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { margin-top: 2.2rem; border-bottom: 1px solid var(--line); }
h3 { margin-bottom: .3rem; font-size: 1rem; }
.labels span { display: inline-block; margin: 0 .4rem .4rem 0; padding: .1rem .6rem;
  border: 2px solid; border-radius: .3rem; font-weight: bold; }
.wide { overflow-x: auto; } .wide img { min-width: 36rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem;
  overflow-wrap: normal; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; }
th:first-child, td:first-child, .text { text-align: left; }
.wide th:first-child, .wide td:first-child { position: sticky; left: 0; background: var(--paper); }
th button { font: inherit; font-weight: bold; color: inherit; background: none; border: 0;
  padding: 0; cursor: pointer; text-align: inherit; } th.group { text-align: center; }
th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
.best { font-weight: bold; } .best-baseline { text-decoration: underline; }
.wide td a { color: inherit; text-decoration: none; } .wide td a:hover { color: var(--link); }
tr:target { background: var(--note); } tr:target td:first-child { background: var(--note); }
a { color: var(--link); } code { font-size: .85em; } td code { min-width: min(30rem, 60vw); }
details { margin: .6rem 0; } summary { cursor: pointer; } nav a { margin-right: .9rem; }
ul.notes { font-size: .85rem; padding-left: 1.1rem; } code.command { display: block; }
code.command span { display: inline-block; max-width: 100%; }
td[data-value] { white-space: nowrap; }
.soft, small { color: var(--soft); } .fails { color: var(--bad); font-weight: bold; }
.holds { color: var(--good); } .warning { padding: .5rem .8rem; background: var(--note); }
ul.checks { list-style: none; padding: 0; } ul.checks li { margin: .5rem 0; }
.grid { display: grid; gap: .7rem; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
figure { margin: 0; } figcaption { font-size: .8rem; }
img { max-width: 100%; background: #ffffff; } .grid img { width: 100%; }
i.chip { display: inline-block; width: .8em; height: .8em; margin-right: .3em; }
@media (max-width: 40rem) { th.group { text-align: left; } }
@media print { body { max-width: none; font-size: 11px; }
  figure, li, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .wide { overflow: visible; } .wide img { min-width: 0; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


SORTING: Final = """
const valueOf = cell => cell.dataset.value ?? cell.textContent.trim();
function sortBy(table, head, column) {
  const body = table.tBodies[0], rows = [...body.rows];
  const isText = rows.every(row => isNaN(parseFloat(valueOf(row.cells[column]))));
  const before = head.getAttribute("aria-sort");
  const descending = before ? before === "ascending" : !isText;
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const sign = descending ? -1 : 1;
  rows.sort((first, second) => {
    const [a, b] = [first, second].map(row => valueOf(row.cells[column]));
    if (isText) return sign * a.localeCompare(b);
    const [x, y] = [a, b].map(parseFloat);
    return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) : sign * (x - y);
  });
  body.append(...rows);
}
for (const table of document.querySelectorAll("table.sortable"))
  [...[...table.tHead.rows].at(-1).cells].forEach((head, column) =>
    head.querySelector("button").addEventListener("click", () => sortBy(table, head, column)));
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const closed = target?.closest("details");
  if (closed) { closed.open = true; target.scrollIntoView({block: "center"}); }
}
addEventListener("hashchange", reveal);
reveal();
"""
"""Sorts tables of class `sortable` by their last line of headings, numbers before blanks; opens the
folded part that an address points into."""


def page(title: str, parts: Sequence[str], script: str = "") -> str:
    """A whole HTML file."""
    body = "\n".join([*parts, f"<script>{script}</script>"] if script else parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""


def section(title: str, *parts: str, name: str = "") -> str:
    """A heading and what is below it; `name` is what links to it call it."""
    place = f' id="{escape(name)}"' if name else ""
    return f"<h2{place}>{escape(title)}</h2>\n" + "\n".join(parts)


def titled(title: str, content: str) -> str:
    """A smaller heading above a table or picture."""
    return f"<h3>{escape(title)}</h3>\n{content}"


def folded(title: str, *parts: str) -> str:
    """What is shown on demand."""
    return f"<details><summary>{escape(title)}</summary>\n{''.join(parts)}</details>"


def banners(labels: Sequence[str]) -> str:
    """What the data is, in boxes."""
    return f'<p class="labels">{"".join(f"<span>{escape(label)}</span>" for label in labels)}</p>'


def command(text: str) -> str:
    """What to type, on a line of its own; its words are not broken."""
    words = " ".join(f"<span>{escape(word)}</span>" for word in text.split())
    return f'<code class="command">{words}</code>'


def warning(text: str) -> str:
    """A paragraph that stands out."""
    return f'<p class="warning">{escape(text)}</p>'


def table(corner: str, content: pd.DataFrame, paper: pd.DataFrame | None = None) -> str:
    """A table; a NaN is a dash, and below a cell stands the paper's count where it has one."""
    columns = {
        column: [
            f"<td>{number}{_paper(paper, name, column)}</td>"
            for name, number in zip(content.index, _numbers(values), strict=True)
        ]
        for column, values in content.items()
    }
    heads = "".join(f"<th>{escape(str(name))}</th>" for name in [corner, *columns])
    rows = [
        f"<td>{escape(str(name))}</td>{''.join(cells)}"
        for name, *cells in zip(content.index, *columns.values(), strict=True)
    ]
    return whole_table([heads], [f"<tr>{row}</tr>" for row in rows])


def whole_table(heads: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    """A table of lines of headings and whole rows; scrolls sideways by itself."""
    lines = "".join(f"<tr>{line}</tr>" for line in heads)
    attribute = f' class="{kind}"' if kind else ""
    return (
        f'<div class="wide"><table{attribute}><thead>{lines}</thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def sortable_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML cells that is sorted by a click on a heading (with `SORTING`)."""
    heads = "".join(f'<th class="text">{sort_button(name)}</th>' for name in headings)
    lines = ["".join(f'<td class="text">{cell}</td>' for cell in row) for row in rows]
    return whole_table([heads], [f"<tr>{line}</tr>" for line in lines], "sortable")


def sort_button(name: str) -> str:
    """What a heading of a sortable table holds."""
    return f'<button type="button">{escape(name)}</button>'


def _numbers(column: pd.Series) -> list[str]:
    """The numbers of a column, all with as many decimals as the longest has."""
    texts = [_number(value) for value in column]
    decimals = max((len(text.partition(".")[2]) for text in texts), default=0)
    return [text if text == "–" else f"{float(text):.{decimals}f}" for text in texts]


def _number(value: Any) -> str:
    return "–" if pd.isna(value) else f"{value:.10g}"


def _paper(paper: pd.DataFrame | None, row: Any, column: Any) -> str:
    if paper is None or row not in paper.index or column not in paper.columns:
        return ""
    return f"<br><small>paper {_number(paper[column][row])}</small>"


def picture(content: bytes, name: str, more: str = "") -> str:
    """A PNG with its caption, inside the file."""
    below = f"<br><small>{escape(more)}</small>" if more else ""
    caption = f"<figcaption>{escape(name)}{below}</figcaption>"
    return f"<figure>{image(content, name)}{caption}</figure>"


def image(content: bytes, name: str) -> str:
    """A PNG inside the file."""
    data = base64.b64encode(content).decode()
    return f'<img alt="{escape(name)}" src="data:image/png;base64,{data}">'


def grid(figures: Sequence[str]) -> str:
    """Small pictures side by side, as many as there is room for."""
    return f'<div class="grid">{"".join(figures)}</div>'
