"""Building blocks of a report as one HTML file: style, tables, pictures; nothing is linked."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any, Final

import pandas as pd

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --line: #cccccc;
  --soft: #666666; --bad: #b3261e; --good: #1b6e3c; --note: #fff3d6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #161616; --line: #444444;
  --soft: #a8a8a8; --bad: #ff8a80; --good: #7bd69b; --note: #40351a; } }
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
th:first-child, td:first-child { text-align: left; }
.soft, small { color: var(--soft); } .fails { color: var(--bad); font-weight: bold; }
.holds { color: var(--good); } .warning { padding: .5rem .8rem; background: var(--note); }
ul.checks { list-style: none; padding: 0; } ul.checks li { margin: .5rem 0; }
.grid { display: grid; gap: .7rem; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
figure { margin: 0; } figcaption { font-size: .8rem; }
img { max-width: 100%; background: #ffffff; } .grid img { width: 100%; }
i.chip { display: inline-block; width: .8em; height: .8em; margin-right: .3em; }
@media print { body { max-width: none; font-size: 11px; }
  figure, li, tr { break-inside: avoid; } .wide { overflow: visible; } .wide img { min-width: 0; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A whole HTML file."""
    body = "\n".join(parts)
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


def section(title: str, *parts: str) -> str:
    """A heading and what is below it."""
    return f"<h2>{escape(title)}</h2>\n" + "\n".join(parts)


def titled(title: str, table: str) -> str:
    """A smaller heading above a table."""
    return f"<h3>{escape(title)}</h3>\n{table}"


def table(corner: str, content: pd.DataFrame, paper: pd.DataFrame | None = None) -> str:
    """A table; a NaN is a dash, and below a cell stands the paper's count where it has one."""
    heads = "".join(f"<th>{escape(str(name))}</th>" for name in [corner, *content.columns])
    rows = []
    for name, values in content.iterrows():
        cells = "".join(
            f"<td>{_number(value)}{_paper(paper, name, column)}</td>"
            for column, value in values.items()
        )
        rows.append(f"<tr><td>{escape(str(name))}</td>{cells}</tr>")
    return (
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


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
