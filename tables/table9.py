"""Table 9: what predictions cost, as `bench.efficiency` measured it, beside the paper's numbers.

python -m tables.table9
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from bench.efficiency import Efficiency, measured
from bench.errors import Parser, UserError, run_command
from bench.store import Store
from tables.command import write_files
from tables.published import published_efficiency

HEADINGS = {
    "title": "Method",
    "inputs": "EHR",
    "n_parameters": "Parameters (M)",
    "paper_parameters": "paper",
    "macs": "MACs (G)",
    "paper_macs": 'paper "FLOPs"',
    "flops": "FLOPs (G)",
    "latency_ms": "Latency (ms)",
    "samples_per_s": "Samples/s",
    "peak_memory_mb": "Memory (MiB)",
}
"""Columns that are printed, in order."""

DIFFERENCES = {
    "preset": "Preset",
    "overrides": "Changed",
    "device": "Device",
    "threads": "Threads",
    "batch_size": "Batch",
}
"""Columns that are printed besides, where rows differ in them."""

NOTES = (
    "One disease progression sample: two films and their crops, 48 hours of EHR; random weights.",
    "MACs: multiply-adds, counted operator by operator; FLOPs: twice as many. The paper's column "
    '"FLOPs" holds multiply-adds (DiPro: 20 crops through ResNet-50), and its "MACs" half of them.',
    "DiPro: without the released code's 1.51 M learnable pad images.",
    "The paper's UTDE (6.69 M) fits no backbone that its text names; its UMSE (23.99 M, 8.27 G) "
    "fits a tiny Transformer over pooled films, ours is as published.",
    "CheXRelNet: 9.51 M of the paper's parameters are unexplained; its 90.90 G count 0.98 G of "
    "batch norms, ours 0.29 G of graph layers.",
    "CheXRelFormer: of the paper's 11.51 M more, 4.49 M are dead parts of the released code and "
    "7.02 M unexplained; 15.5 G at 224 px, 20.34 G at 256 px, of which the paper's 19.95 G leave "
    "out attention's products.",
    "SDPL: of the paper's 3.62 M more, 2.63 M are dead parts and 0.98 M unexplained; 9.46 G at "
    "256 px, the paper's 9.45 G.",
    "MedFuse: the paper's parameters are ours and 48 888 of first-stage heads, which the second "
    "stage does not use.",
    "DrFuse: 0.91 M (1.6 %) of the paper's parameters are unexplained.",
    "At 256 px: python -m bench.efficiency --method sdpl chexrelformer --set model.film_size=256.",
)


def frame(rows: Sequence[Efficiency]) -> pd.DataFrame:
    """The long table: one row a measurement, the paper's numbers beside those with EHR."""
    table = pd.DataFrame([asdict(row) for row in rows])
    paper = published_efficiency().assign(ehr=True)
    return table.merge(paper, on=["method", "ehr"], how="left")


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text cells."""
    numbers = table.assign(
        inputs=table["ehr"].map({True: "yes", False: "no"}),
        n_parameters=table["n_parameters"] / 1e6,
        macs=table["macs"] / 1e9,
        flops=table["flops"] / 1e9,
    )
    shown = numbers[list(HEADINGS)].copy()
    for column in shown.columns[2:]:
        shown[column] = shown[column].map(lambda value: "" if pd.isna(value) else f"{value:.2f}")
    low, high = (table[f"latency_{end}_ms"].map("{:.1f}".format) for end in ("low", "high"))
    shown["latency_ms"] = shown["latency_ms"] + " (" + low + "-" + high + ")"
    shown = shown.rename(columns=HEADINGS)
    for column, heading in DIFFERENCES.items():
        if len(set(table[column])) > 1:
            shown[heading] = table[column].astype(str)
    return shown


def notes(table: pd.DataFrame) -> list[str]:
    """What stands under the table."""
    machine = table[["device", "threads", "torch", "preset", "batch_size"]].drop_duplicates()
    measured = [
        f"Measured on {row['device']}, {row['threads']} threads, torch {row['torch']}, preset "
        f"{row['preset']}: latency of one sample, median (quartiles) after a warm-up; samples/s "
        f"and memory in batches of {row['batch_size']}."
        for row in machine.to_dict("records")
    ]
    return [*NOTES, *measured]


def contents(table: pd.DataFrame) -> dict[str, bytes]:
    """The table as text, Markdown, LaTeX and CSV."""
    shown, under = printed(table), notes(table)
    title = "table9: what a prediction costs"
    text, markdown, latex = (
        tabulate(
            shown.to_numpy().tolist(), shown.columns.tolist(), tablefmt=style, disable_numparse=True
        )
        for style in ("simple", "pipe", "latex_booktabs")
    )
    files = {
        "table9.txt": "\n".join([title, "", text, "", *under]),
        "table9.md": "\n".join([f"**{title}**", "", markdown, "", *(f"- {n}" for n in under)]),
        "table9.tex": "\n".join([latex, *(f"% {note}" for note in under)]),
        "table9.csv": table.to_csv(index=False, lineterminator="\n").rstrip("\n"),
    }
    return {name: (content + "\n").encode() for name, content in files.items()}


def parser() -> Parser:
    """The command's arguments."""
    p = Parser(prog="python -m tables.table9", description=__doc__)
    p.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="store")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    store = Store(parser().parse_args(argv).results)
    rows = measured(store.efficiency)
    if not rows:
        raise UserError(
            f"{store.efficiency} is not there: measure with python -m bench.efficiency "
            f"--results {store.root}"
        )
    table = frame(rows)
    files = contents(table)
    print(files["table9.txt"].decode())
    for path in write_files(store.tables, files):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    run_command(main)
