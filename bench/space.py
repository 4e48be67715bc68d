"""What a hyperparameter search draws from: the paper's grids (Table 8), extended and small ones.

The paper lists base rates; the optimizer gets them times accumulation and batch size (ledger T1).
Its baselines' rates go down to 1e-7, where new layers barely move: `extended` adds rates that the
baselines' own publications use. `small` is for training from scratch in a few hundred steps, as the
demo and medium presets do, where only the rate and dropout are worth a search.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from typing import Final

import numpy as np

from bench.config import RunConfig
from bench.contract import Preset

Overrides = tuple[tuple[str, str], ...]
"""(field, text) pairs as `--set` takes them."""


class Grid(StrEnum):
    """Which values a search draws from."""

    PAPER = "paper"
    EXTENDED = "extended"
    SMALL = "small"


DIPRO_BASE_RATES: Final = (8e-6, 5e-6, 1e-5, 5e-5)
BASELINE_BASE_RATES: Final = (1e-5, 4e-7, 1e-6, 1e-7)
BASE_RATES: Final = {
    "dipro": DIPRO_BASE_RATES,
    # DiPro without films: with the baselines' rates alone it would hardly train.
    "ehr_transformer": tuple(dict.fromkeys((*BASELINE_BASE_RATES, *DIPRO_BASE_RATES))),
}
EXTRA_RATES: Final = (5e-5, 1e-4, 4e-4)
SMALL_RATES: Final = (3e-4, 1e-3, 3e-3)
DROPOUTS: Final = (0.1, 0.2, 0.3)
WIDTHS: Final = {"dipro": (64, 128, 256)}
BASELINE_WIDTHS: Final = (64, 128, 256, 320)
WIDTH_FIELDS: Final = ("d_model", "hidden")
LOSS_WEIGHTS: Final = {
    "lambda_temp": (0.01, 0.001, 0.1, 1.0),
    "lambda_pred": (2, 6, 10),
    "lambda_pae_dynamic": (0.01, 0.1, 2),
    "lambda_orth": (0.001, 0.01, 0.1, 10),
}
"""DiPro's own weights, searched where a method has fields of these names."""

EXTRA_FIELDS: Final = {"time_unit_hours": (1, 24)}
"""Fields that the paper did not search and that matter: UMSE's clock of hours saturates."""


def default_grid(preset: Preset) -> Grid:
    """The grid of a preset."""
    return Grid.EXTENDED if preset is Preset.PAPER else Grid.SMALL


def space(config: RunConfig, grid: Grid) -> dict[str, tuple[str, ...]]:
    """Fields and the values to draw from, for a method as its preset resolves it."""
    method, training = config.request.method, config.training
    own = {field.name for field in fields(config.model)}
    if grid is Grid.SMALL:
        rates: tuple[float, ...] = SMALL_RATES
    else:
        scale = training.accumulation * training.batch_size
        rates = tuple(scale * rate for rate in BASE_RATES.get(method, BASELINE_BASE_RATES))
        rates += EXTRA_RATES if grid is Grid.EXTENDED else ()
    values: dict[str, tuple[float, ...]] = {"training.lr": rates}
    if "dropout" in own:
        values["model.dropout"] = DROPOUTS
    if grid is not Grid.SMALL:
        widths = WIDTHS.get(method, BASELINE_WIDTHS)
        values |= {f"model.{name}": widths for name in WIDTH_FIELDS if name in own}
        values |= {f"model.{name}": v for name, v in LOSS_WEIGHTS.items() if name in own}
    if grid is Grid.EXTENDED:
        values |= {f"model.{name}": v for name, v in EXTRA_FIELDS.items() if name in own}
    return {name: tuple(f"{value:g}" for value in of_field) for name, of_field in values.items()}


def draw(
    values: Mapping[str, tuple[str, ...]], n: int, generator: np.random.Generator
) -> list[Overrides]:
    """n different points of the space, or all of them if there are fewer.

    The first is random, each further one shares as few values with those before as can be, so that
    a handful of draws tries every value.
    """
    points = generator.permutation(list(itertools.product(*values.values())))
    n_shared = np.zeros(len(points))
    drawn = []
    for _ in range(min(n, len(points))):
        place = int(np.argmin(n_shared))
        drawn.append(points[place].tolist())
        n_shared += (points == points[place]).sum(axis=1)
        n_shared[place] = np.inf
    return [tuple(zip(values, point, strict=True)) for point in drawn]
