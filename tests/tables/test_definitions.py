"""Table definitions: their runs resolve, and the paper's numbers are found for them."""

import numpy as np
import pytest

from bench.config import resolve
from bench.contract import Preset
from bench.data.vocabulary import REGIONS, Cxr, Task
from bench.metrics import TASK_METRICS
from tables.definitions import TABLES, Column, Row, Setting, request, requests
from tables.published import published, published_attention


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_every_run_of_a_table_resolves(table):
    wanted = requests(table, Preset.DEMO, [1, 2])
    assert len(wanted) == len(set(wanted)) == len(table.rows) * len(table.settings) * 2
    ids = {resolve(run).run_id("cohort", 1) for run in wanted}
    assert len(ids) == len(wanted)


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_a_table_is_consistent(table):
    assert TABLES[table.name] is table
    assert table.reference in table.rows
    assert len({row.name for row in table.rows}) == len(table.rows)
    for column in table.columns:
        assert column.metric in TASK_METRICS[column.task]
    for row in table.rows:
        for column in table.columns:
            number = table.paper_table
            value = published(number, row, column.task, column.metric, column.drop_ehr)
            assert np.isfinite(value[0]) == is_printed(row, column)


OURS = {"std", "local-only", "global-only"}


def is_printed(row: Row, column: Column) -> bool:
    """Whether the paper has the cell: not our ablations, nor L_temp where its weight is zero."""
    nothing = row.ablate == ("temp",) and column.task is Task.DISEASE_PROGRESSION
    return not (OURS & set(row.ablate) or nothing)


def test_published_numbers_of_the_paper():
    dipro, medfuse = Row("dipro", Cxr.LONG), Row("medfuse", Cxr.LAST)
    assert published(2, dipro, Task.MORTALITY, "auprc") == (0.742, 0.003)
    assert published(2, medfuse, Task.LENGTH_OF_STAY, "kappa") == (0.213, 0.012)
    ablated = Row("dipro", Cxr.LONG, ablate=("pae+mmf",))
    assert published(3, ablated, Task.DISEASE_PROGRESSION, "macro_f1") == (0.439, 0.007)
    assert np.isnan(published(2, dipro, Task.MORTALITY, "kappa")).all()
    assert np.isnan(published(None, dipro, Task.MORTALITY, "auprc")).all()


def test_published_attention_covers_the_regions():
    bars = published_attention()
    for task in (Task.MORTALITY, Task.LENGTH_OF_STAY):
        of_task = bars[bars["task"] == task]
        assert tuple(of_task["region"]) == REGIONS
        assert of_task["value"].sum() == pytest.approx(1, abs=0.011)


def test_a_row_gives_progression_its_pair():
    row = Row("dipro", Cxr.LONG, ablate=("pae",))
    progression, mortality = Setting(Task.DISEASE_PROGRESSION), Setting(Task.MORTALITY)
    assert request(row, progression, 1, Preset.DEMO).cxr is Cxr.PAIR
    assert request(row, mortality, 1, Preset.DEMO).cxr is Cxr.LONG
    without = Row("ehr_transformer", Cxr.NONE)
    assert request(without, progression, 1, Preset.DEMO).cxr is Cxr.NONE
    assert row.name == "dipro-pae-long"
