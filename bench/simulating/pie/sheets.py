"""What an edit or a score leaves behind: PNG films, a GIF, curves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from bench.errors import UserError
from bench.simulating.diffusion.model import to_bytes
from bench.simulating.flags import check_writable
from bench.simulating.pie.score import Score
from bench.simulating.population import FILM_SEVERITIES
from bench.store import one_line_if_refused

CURVE: Final = "confidence.csv"
"""A folder that holds it is an older edit or score, and may be replaced."""

GIF_MS: Final = 400
N_SHEET_FILMS: Final = 6


def check_free(out: Path) -> None:
    """Raise `UserError` unless a folder can be made, or an older result in it be replaced."""
    if out.exists() and not (out / CURVE).is_file():
        raise UserError(f"{out} exists and is no edit: remove it or choose another --output-dir")
    check_writable(out.absolute().parent)


def write_edit(
    out: Path, films: Sequence[Tensor], mask: Tensor | None, seen: np.ndarray, findings: list[str]
) -> None:
    """Write 0.png (the start) to N.png, mask.png, the GIF, and the curve as CSV and PNG.

    Args:
        out: the folder, which appears only when it is whole
        films: of stages 0..N, [1, 1, S, S] each
        mask: [1, 1, S, S] or None
        seen: severities [N + 1, 12] by the severity net
        findings: those to plot
    """
    pictures = [Image.fromarray(to_bytes(film)[0]) for film in films]
    table = pd.DataFrame(seen, columns=list(FILM_SEVERITIES)).round(4)

    def write(folder: Path) -> None:
        for n, picture in enumerate(pictures):
            picture.save(folder / f"{n}.png")
        if mask is not None:
            Image.fromarray(to_bytes(2 * mask - 1)[0]).save(folder / "mask.png")
        first, *others = pictures
        first.save(
            folder / "progression.gif", save_all=True, append_images=others, duration=GIF_MS, loop=0
        )
        table.to_csv(folder / CURVE, index_label="stage", lineterminator="\n")
        _draw_curves(folder / "confidence.png", {name: table[name] for name in findings})

    _write_whole(out, write)


def score_table(scores: Sequence[Score]) -> pd.DataFrame:
    """A row a finding, as `score` prints it; CLIP-I only if it was measured."""
    rows = [
        {
            "finding": s.finding,
            "severity by stage": " ".join(f"{x:.2f}" for x in s.severity),
            "Spearman": s.spearman,
            "per film": s.film_spearman,
            "off target": f"{s.off_target[0]} {s.off_target[1]:+.2f}",
            "SSIM outside": s.similarity,
            "recognised": s.recognised,
            "KID": s.kid,
            "KID of rendered": s.kid_floor,
            "FID": s.fid,
            "FID of rendered": s.fid_floor,
        }
        | ({} if s.clip_similarity is None else {"CLIP-I": s.clip_similarity})
        for s in scores
    ]
    return pd.DataFrame(rows)


def write_score(out: Path, scores: Sequence[Score]) -> None:
    """Write the curves of scores, and a sheet of edited films of each: a row a patient."""
    check_free(out)
    curves = pd.DataFrame({s.finding: s.severity for s in scores})

    def write(folder: Path) -> None:
        curves.to_csv(folder / CURVE, index_label="stage", lineterminator="\n")
        _draw_curves(folder / "confidence.png", {s.finding: curves[s.finding] for s in scores})
        for s in scores:
            n_rows = min(N_SHEET_FILMS, len(s.films[0]))
            rows = [np.hstack([to_bytes(f)[k] for f in s.films]) for k in range(n_rows)]
            sheet = Image.fromarray(np.vstack(rows))
            sheet.resize((sheet.width * 2, sheet.height * 2)).save(folder / f"{s.finding}.png")

    _write_whole(out, write)


def _write_whole(out: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a hidden sibling, then put it in the place of `out`."""
    partial = out.absolute().with_name(f".{out.name}.{os.getpid()}")
    with one_line_if_refused(out):
        try:
            partial.mkdir(parents=True)
            write(partial)
            if out.exists():
                shutil.rmtree(out)
            partial.rename(out.absolute())
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _draw_curves(file: Path, curves: dict[str, pd.Series]) -> None:
    figure = Figure(figsize=(4.5, 3), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(curve.index, curve, marker="o", label=name)
    axes.set_xlabel("stage")
    axes.set_ylabel("severity by the severity net")
    axes.legend(fontsize="small")
    figure.savefig(file, dpi=120)
