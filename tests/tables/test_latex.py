"""Every written LaTeX table compiles and fits on its page."""

import dataclasses
import re
import shutil
import subprocess

import pandas as pd
import pytest

from bench.efficiency import Efficiency
from tables import table9
from tables.build import build
from tables.definitions import TABLES
from tables.formats import as_latex
from tests.tables.mini_store import GOLDEN, SEEDS, fill_all, mini_selection

DOCUMENT = r"""\documentclass{article}
\usepackage[text={5.5in,9in}]{geometry}
\usepackage{booktabs,graphicx}
\begin{document}
%s
\end{document}
"""
"""As wide as a page of the paper's proceedings."""

MEASURED = Efficiency(
    method="dipro",
    title="DiPro",
    ehr=True,
    n_parameters=31_060_000,
    macs=82e9,
    flops=164e9,
    latency_ms=23.0,
    latency_low_ms=22.0,
    latency_high_ms=24.0,
    samples_per_s=43.0,
    peak_memory_mb=800.0,
    device="cpu",
    threads=1,
    torch="2.11",
    preset="paper",
    batch_size=8,
)


@pytest.fixture(scope="module")
def pdflatex():
    found = shutil.which("pdflatex")
    if found is None:
        pytest.skip("install pdflatex (texlive-latex-base and -recommended) to run this test")
    return found


def compile_tables(pdflatex, folder, texts):
    """Compile tables one after the other; returns the log."""
    separated = "\n\\clearpage\n".join(texts)
    (folder / "all.tex").write_text(DOCUMENT % separated)
    command = [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120)
    log = (folder / "all.log").read_text(errors="replace")
    assert done.returncode == 0, re.findall(r"^!.*(?:\n.*){4}", log, re.MULTILINE)[:1]
    return log


def test_every_table_with_the_papers_numbers_compiles_and_fits(pdflatex, tmp_path):
    real = mini_selection(tmp_path / "results", simulated=False)
    selection = dataclasses.replace(real, seeds=SEEDS[:2])
    fill_all(selection)
    texts = [as_latex(build(table, selection, n_resamples=20)) for table in TABLES.values()]
    log = compile_tables(pdflatex, tmp_path, texts)
    assert "Printed in the paper" in texts[0]
    assert not re.findall(r"Overfull \\[hv]box \((?:\d{2,}|[3-9])\.\d+pt.*", log)
    assert "Float too large" not in log
    assert f"({len(TABLES)} pages" in log


def test_a_table_with_missing_runs_compiles(pdflatex, tmp_path):
    compile_tables(pdflatex, tmp_path, [(GOLDEN / "table2.tex").read_text()])


def test_table9_compiles(pdflatex, tmp_path):
    latex = table9.contents(table9.frame([MEASURED]))["table9.tex"].decode()
    compile_tables(pdflatex, tmp_path, [latex])
    assert pd.Series(latex.splitlines()).str.startswith("%").any()
