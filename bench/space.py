"""What a hyperparameter search draws from: the paper's grids (Table 8), extended and small ones.

The paper lists base rates; the optimizer gets them times accumulation and batch size (ledger T1).
Its baselines' rates go down to 1e-7, where new layers barely move: `extended` adds rates that the
baselines' own publications use. `small` is for training from scratch in a few hundred steps, as the
demo and medium presets do: rates for that, and widths about the preset's own. Fields that change
nothing in a setting are not drawn, so that all settings get the same number of draws that differ.
The small and the extended grid have 24 points or more for every method of the registry.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from typing import Final

import numpy as np

from bench.config import RunConfig
from bench.contract import MethodConfig, Preset
from bench.data.vocabulary import Cxr
from bench.idle import is_idle

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
BACKBONE_SHARES: Final = (1, 0.1)
"""Of new layers' rate: what is pretrained may need a lower one."""

SMALL_RATES: Final = (1e-4, 3e-4, 1e-3, 3e-3)
DROPOUTS: Final = (0.1, 0.2, 0.3)
WIDTHS: Final = {"dipro": (64, 128, 256)}
BASELINE_WIDTHS: Final = (64, 128, 256, 320)
WIDTH_FIELDS: Final = ("d_model", "hidden")
SMALL_WIDTH_FIELDS: Final = (*WIDTH_FIELDS, "symptom_width", "fusion_width")
SMALL_WIDTHS: Final = (0.5, 1, 2)
"""Times the preset's own width."""

LOSS_WEIGHTS: Final = {
    "lambda_temp": (0.01, 0.001, 0.1, 1.0),
    "lambda_pred": (2, 6, 10),
    "lambda_pae_dynamic": (0.01, 0.1, 2),
    "lambda_orth": (0.001, 0.01, 0.1, 10),
}
"""DiPro's own weights, searched where a method has fields of these names."""

EXTRA_FIELDS: Final = {"time_unit_hours": (1, 24), "symptom_width": (32, 64, 128)}
"""Fields that the paper did not search and that matter: UMSE's clock of hours saturates, and SDPL
without EHR has no other width."""


def default_grid(preset: Preset) -> Grid:
    """The grid of a preset."""
    return Grid.EXTENDED if preset is Preset.PAPER else Grid.SMALL


def space(config: RunConfig, grid: Grid) -> dict[str, tuple[str, ...]]:
    """Fields and the values to draw from, for a method in a setting as its preset resolves it."""
    own = {field.name for field in fields(config.model)}
    of_model: dict[str, tuple[float, ...]] = {
        "dropout": DROPOUTS,
        **_widths(config, grid),
        **LOSS_WEIGHTS,
        **(EXTRA_FIELDS if grid is Grid.EXTENDED else {}),
    }
    values = {"training.lr": _rates(config, grid)}
    if grid is Grid.EXTENDED and _learns_films(config):
        values["training.backbone_lr_share"] = BACKBONE_SHARES
    values |= {f"model.{name}": v for name, v in of_model.items() if name in own}
    texts = {name: tuple(f"{value:g}" for value in v) for name, v in values.items()}
    return {name: v for name, v in texts.items() if not is_idle(config.request, name, v)}


def _learns_films(config: RunConfig) -> bool:
    frozen = (getattr(config.model, name, False) for name in ("freeze", "freeze_backbone"))
    return config.request.cxr is not Cxr.NONE and not any(frozen)


def _rates(config: RunConfig, grid: Grid) -> tuple[float, ...]:
    """Rates as the optimizer gets them."""
    if grid is Grid.SMALL:
        return SMALL_RATES
    scale = config.training.accumulation * config.training.batch_size
    base_rates = BASE_RATES.get(config.request.method, BASELINE_BASE_RATES)
    rates = tuple(scale * rate for rate in base_rates)
    return (*rates, *EXTRA_RATES) if grid is Grid.EXTENDED else rates


def _widths(config: RunConfig, grid: Grid) -> dict[str, tuple[float, ...]]:
    """Widths by field; of fields that the method lacks, too, unless they are relative."""
    if grid is not Grid.SMALL:
        return dict.fromkeys(WIDTH_FIELDS, WIDTHS.get(config.request.method, BASELINE_WIDTHS))
    model: MethodConfig = config.model
    preset = {name: getattr(model, name) for name in SMALL_WIDTH_FIELDS if hasattr(model, name)}
    return {
        name: tuple(dict.fromkeys(max(1, round(factor * width)) for factor in SMALL_WIDTHS))
        for name, width in preset.items()
    }


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
