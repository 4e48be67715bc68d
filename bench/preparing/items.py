"""Which charted items feed which EHR variable: the map of the released code, or an extended one."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Final

import pandas as pd

from bench.data.vocabulary import EHR_VARIABLES

EXTENDED_ROLES: Final = {"official", "alt_chart", "alt_lab"}
PEEP_SET: Final = 220339
"""In no published map, though charted three times as often as the total PEEP (224700)."""

PROTHROMBIN_TIME: Final = "Prothrombin time"
INR_UNIT: Final = "ratio"


class ItemMap(StrEnum):
    """Which items are read."""

    OFFICIAL = "official"
    """One item a variable, none from the laboratory's table; prothrombin time is INR."""
    EXTENDED = "extended"
    """Every item that measures the same quantity in the same fluid, charted or from the
    laboratory; prothrombin time is in seconds, PEEP set or total."""


@cache
def variable_items() -> pd.DataFrame:
    """The shipped table of items: variable, itemid, table, unit, role."""
    return pd.read_csv(str(files("bench.data") / "ehr_variables.csv"))


@cache
def table_of_item() -> dict[int, str]:
    """Item id -> table of MIMIC-IV: chartevents, outputevents or labevents."""
    items = variable_items()
    return dict(zip(items["itemid"].tolist(), items["table"], strict=True))


@cache
def official_items() -> dict[int, int]:
    """Item id -> variable index, for the 38 items that the official code uses."""
    return _index_of_item(_has_role({"official"}))


@cache
def extended_items() -> dict[int, int]:
    """Item id -> variable index, for the official items and their equals; no INR."""
    items = variable_items()
    is_inr = (items["variable"] == PROTHROMBIN_TIME) & (items["unit"] == INR_UNIT)
    return _index_of_item((_has_role(EXTENDED_ROLES) | (items["itemid"] == PEEP_SET)) & ~is_inr)


ITEMS: Final[dict[ItemMap, Callable[[], dict[int, int]]]] = {
    ItemMap.OFFICIAL: official_items,
    ItemMap.EXTENDED: extended_items,
}


def _has_role(wanted: set[str]) -> pd.Series:
    """Whether an item has one of the roles, bool [items]; several roles join with '+'."""
    return variable_items()["role"].map(lambda roles: not wanted.isdisjoint(roles.split("+")))


def _index_of_item(chosen: pd.Series) -> dict[int, int]:
    items = variable_items()[chosen]
    variables = items["variable"].map(EHR_VARIABLES.index)
    return dict(zip(items["itemid"].tolist(), variables.tolist(), strict=True))
