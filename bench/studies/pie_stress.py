"""Does DiPro see what PIE changes? Pairs (x_0, x_n) of PIE's stages, forwards and backwards.

    python -m bench.studies.pie_stress            (preset medium; trains PIE first)

The first film of test pairs is edited towards the worst edema or effusion (PIE, arXiv 2309.11745).
Shown as (x_0, x_n), the probability of 'worsened' must rise with the stage n; shown as (x_n, x_0),
that of 'improved'. DiPro with and without PAE, same films. Everything but the pictures is as in the
cohort. Prints Markdown for RESULTS.md and draws a figure beside this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

from bench import arguments
from bench.config import Request
from bench.contract import Output
from bench.contract_checks import with_films_exchanged
from bench.data.batch import Batch, Inputs, Samples
from bench.data.cohort import Cohort
from bench.data.vocabulary import BOX_REGIONS, DISEASES, REGIONS, Cxr, Progression, Split, Task
from bench.demo import open_cohort
from bench.errors import Parser, UserError, run_command
from bench.plan import PlannedRun
from bench.preparing.images import crop
from bench.runner import Run
from bench.simulating.boxes import Box
from bench.simulating.diffusion.model import to_bytes, to_unit
from bench.simulating.engines import CACHE
from bench.simulating.pie.calibration import masks_of
from bench.simulating.pie.compose import SIZE, shrunk, with_change
from bench.simulating.pie.edit import pie
from bench.simulating.pie.engine import Engine, EngineConfig, load_engine
from bench.simulating.pie.findings import most_levels, named
from bench.simulating.pie.severity import levels_of
from bench.simulating.population import FILM_SEVERITIES
from bench.store import Store
from bench.studies.grid import done, study_parser, work_off

SEEDS: Final = (23, 29, 66)
FIGURES: Final = Path(__file__).parent / "figures"
ARMS: Final = {"DiPro": (), "DiPro w/o PAE": ("pae",)}
DISEASE_OF: Final = {"edema": "pulmonary edema", "effusion": "pleural effusion"}


@dataclass(frozen=True)
class Sequences:
    """Test pairs whose first film PIE edited.

    positions: int64 [B], of the samples; regions: uint8 [N + 1, B, 10, s, s]; present: bool [B, 10]
    """

    positions: np.ndarray
    regions: np.ndarray
    present: np.ndarray


@dataclass(frozen=True)
class Response:
    """Mean probabilities over films and seeds by stage, [N + 1]."""

    worsened: np.ndarray
    improved_reversed: np.ndarray


def parser() -> Parser:
    """The command's arguments."""
    p = study_parser("pie_stress", __doc__, SEEDS)
    p.add_argument("--steps", type=arguments.positive, metavar="N", help="fewer than the preset's")
    p.add_argument("--no-ehr", action="store_true", help="films alone")
    p.add_argument("--films", type=arguments.positive, default=48, metavar="N", help="to edit")
    p.add_argument("--engine-seed", type=int, default=7, metavar="N", help="of PIE's tiny engine")
    p.add_argument("--engines", type=Path, default=CACHE, metavar="DIR",
                   help="trained engines")  # fmt: skip
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    arg = parser().parse_args(argv)
    cohort, store = open_cohort(arg.cohort, arg.preset), Store(arg.results)
    requests = [_request(ablate, seed, arg) for seed in arg.seeds for ablate in ARMS.values()]
    work_off("pie_stress", requests, arg, cohort, store)
    if arg.dry_run:
        return 0
    engine = load_engine(EngineConfig(seed=arg.engine_seed), arg.jobs or 1, arg.engines)
    responses: dict[tuple[str, str], Response] = {}
    for finding, disease in DISEASE_OF.items():
        sequences = edit_test_pairs(cohort, engine, finding, arg.films)
        for arm, ablate in ARMS.items():
            runs = done([_request(ablate, seed, arg) for seed in arg.seeds], cohort, store)
            if not runs:
                raise UserError(f"no finished run of {arm}: leave --no-training out")
            responses[arm, finding] = response(list(runs.values()), cohort, sequences, disease)
    print(f"\nSIMULATED: {cohort.title} ({cohort.content_hash}); preset {arg.preset}\n")
    print(table(responses).to_markdown(index=False, floatfmt=".3f"))
    draw(responses, cohort.title, FIGURES / "pie_stress.png")
    return 0


def _request(ablate: tuple[str, ...], seed: int, arg: argparse.Namespace) -> Request:
    steps = (("training.max_steps", str(arg.steps)),) if arg.steps else ()
    return Request(
        "dipro", Task.DISEASE_PROGRESSION, Cxr.PAIR, seed, ehr=not arg.no_ehr, ablate=ablate,
        preset=arg.preset, overrides=steps,
    )  # fmt: skip


def edit_test_pairs(cohort: Cohort, engine: Engine, finding: str, n: int) -> Sequences:
    """Edit the first films of up to `n` test pairs, one a subject, towards a finding's worst."""
    samples = Samples(cohort, Task.DISEASE_PROGRESSION, Cxr.PAIR, Inputs())
    test = samples.indices(Split.TEST)
    _, first_of_subject = np.unique(samples.subject[test], return_index=True)
    positions = test[np.sort(first_of_subject)][:n]
    film = cohort.pairs["film_1"].to_numpy()[samples.rows[positions]]
    start, boxes = to_unit(cohort.arrays["films"][film]), cohort.arrays["boxes"][film]
    asked = np.zeros((len(film), len(FILM_SEVERITIES)), dtype=bool)
    asked[:, [FILM_SEVERITIES.index(name) for name in named({finding: 0.0})]] = True
    small = shrunk(start)
    seen = np.maximum(levels_of(engine.net, small), 0)
    goal = np.where(asked, most_levels(), seen).astype(np.float32)
    mask = torch.from_numpy(masks_of(asked, [_named_boxes(b) for b in boxes], 1, SIZE))[:, None]
    stages = pie(
        small, torch.from_numpy(goal), engine.generator, seeds=film.tolist(), mask=mask,
        options=engine.config.options,
    )  # fmt: skip
    edited = [to_bytes(with_change(start, stages[0], stage, mask)) for stage in stages]
    side = cohort.arrays["regions"].shape[-1]
    regions = [[_crops(one, own, side) for one, own in zip(f, boxes, strict=True)] for f in edited]
    return Sequences(positions, np.array(regions), cohort.arrays["region_present"][film])


def _named_boxes(boxes: np.ndarray) -> dict[str, Box]:
    """Boxes [19, 4] that are there, by region."""
    rows = zip(BOX_REGIONS, boxes.tolist(), strict=True)
    return {name: tuple(box) for name, box in rows if not np.isnan(box[0])}


def _crops(film: np.ndarray, boxes: np.ndarray, side: int) -> np.ndarray:
    """Region crops of a square film [S, S], uint8 [10, side, side]; zero where there is no box."""
    picture, named_boxes = Image.fromarray(film), _named_boxes(boxes)
    crops = np.zeros((len(REGIONS), side, side), dtype=np.uint8)
    for row, name in enumerate(REGIONS):
        if name in named_boxes:
            x1, y1, x2, y2 = (corner * len(film) for corner in named_boxes[name])
            crops[row] = crop(picture, (x1, y1, x2, y2), side, Image.Resampling.BILINEAR)
    return crops


def response(
    runs: Sequence[PlannedRun], cohort: Cohort, sequences: Sequences, disease: str
) -> Response:
    """Probabilities of a disease's change on (x_0, x_n), and on (x_n, x_0)."""
    found = []
    for planned in runs:
        run = Run(planned.config, cohort, torch.device("cpu"), threads=1)
        run.model.load_state_dict(torch.load(planned.files.best, weights_only=True))
        batch = run.samples.batch(sequences.positions).without_targets()
        found.append(probabilities(run.model.eval(), batch, sequences, DISEASES.index(disease)))
    forwards, backwards = zip(*found, strict=True)
    return Response(np.mean(forwards, axis=0), np.mean(backwards, axis=0))


def probabilities(
    model: Callable[[Batch], Output], batch: Batch, sequences: Sequences, disease: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean over films of P(worsened) forwards and P(improved) backwards, [N + 1] each."""
    forwards, backwards = [], []
    with torch.inference_mode():
        for n in range(len(sequences.regions)):
            shown = with_stage(batch, sequences, n)
            p = model(shown).logits[:, disease].softmax(-1)
            q = model(with_films_exchanged(shown)).logits[:, disease].softmax(-1)
            forwards.append(p[:, Progression.WORSENED].mean().item())
            backwards.append(q[:, Progression.IMPROVED].mean().item())
    return np.array(forwards), np.array(backwards)


def with_stage(batch: Batch, sequences: Sequences, n: int) -> Batch:
    """The batch with the regions of x_0 and x_n as those of its two films."""
    pictures = np.stack([sequences.regions[0], sequences.regions[n]], axis=1)
    present: Tensor = torch.from_numpy(sequences.present)[:, None].expand(-1, 2, -1)
    return replace(batch, regions=torch.from_numpy(pictures), region_present=present)


def table(responses: dict[tuple[str, str], Response]) -> pd.DataFrame:
    """A row per arm, finding and direction of time: mean probability by stage, Spearman's."""
    rows = []
    for (arm, finding), found in responses.items():
        for shown, curve in (
            ("(x0, xn): worsened", found.worsened),
            ("(xn, x0): improved", found.improved_reversed),
        ):
            stages = {str(n): p for n, p in enumerate(curve)}
            rank = spearmanr(np.arange(len(curve)), curve).statistic
            rows.append({"arm": arm, "finding": finding, "shown": shown, **stages, "rank": rank})
    return pd.DataFrame(rows)


def draw(responses: dict[tuple[str, str], Response], title: str, file: Path) -> None:
    """Draw the curves: a panel a finding, a colour an arm, dashed backwards."""
    figure, axes = plt.subplots(1, len(DISEASE_OF), figsize=(8, 3.2), layout="constrained")
    for axis, finding in zip(axes, DISEASE_OF, strict=True):
        for k, arm in enumerate(ARMS):
            found = responses[arm, finding]
            axis.plot(found.worsened, f"C{k}-o", label=f"{arm}: worsened, (x0, xn)")
            axis.plot(found.improved_reversed, f"C{k}--s", label=f"{arm}: improved, (xn, x0)")
        axis.set(title=finding, xlabel="stage n of PIE", ylabel="mean probability", ylim=(0, 1))
    axes[0].legend(fontsize="x-small")
    figure.suptitle(f"DiPro on PIE's edits. SIMULATED: {title}")
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    run_command(main, resumes=True)
