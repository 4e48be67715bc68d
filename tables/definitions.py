"""Tables as data: their rows are configurations, their columns a task and a metric each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.config import Request
from bench.contract import Preset
from bench.data.vocabulary import Cxr, Task


@dataclass(frozen=True)
class Row:
    """One configuration in every task of a table.

    Attributes:
        method: registered name or `module:Class`
        cxr: films in the ICU tasks; progression always gets its pair, unless this is `none`
        ehr: whether EHR and demographics are given
        drop_ehr: share of training samples whose EHR hours are hidden
        ablate: names of ablations
        title: printed instead of the method's own title
        checkpoints: (task, seed, name of weights) of runs that only test weights as given; None for
            a row that is trained
    """

    method: str
    cxr: Cxr
    ehr: bool = True
    ablate: tuple[str, ...] = ()
    title: str = ""
    drop_ehr: float = 0.0
    checkpoints: tuple[tuple[Task, int, str], ...] | None = None

    @property
    def name(self) -> str:
        """What `--reference` and the CSV files call it, e.g. 'dipro-pae-long'."""
        ehr = [] if self.ehr else ["no_ehr"]
        ehr += [f"drop_ehr{self.drop_ehr:g}"] if self.drop_ehr else []
        ehr += ["published"] if self.checkpoints is not None else []
        return "-".join([self.method.rpartition(":")[2], *self.ablate, self.cxr, *ehr])

    def weights(self, task: Task, seed: int) -> str:
        """The weights that its run for a task and a seed only tests; empty if it trains."""
        given = {(task, seed): name for task, seed, name in self.checkpoints or ()}
        return given.get((task, seed), "")

    def films(self, task: Task) -> Cxr:
        """The film setting of its runs for a task."""
        return self.cxr if task.is_icu or self.cxr is Cxr.NONE else Cxr.PAIR


@dataclass(frozen=True)
class Column:
    """A metric of a task."""

    task: Task
    metric: str


@dataclass(frozen=True)
class Table:
    """A table: what is compared, on what, and with which row.

    Attributes:
        name: what the commands call it
        title: caption
        rows, columns: in printed order
        reference: the row that the others are tested against
        paper_table: number in the paper, None if the paper has no such table
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    reference: Row
    paper_table: int | None = None

    @property
    def tasks(self) -> list[Task]:
        """Tasks in printed order, each once."""
        return list(dict.fromkeys(column.task for column in self.columns))

    def metrics(self, task: Task) -> list[str]:
        """Metrics of a task in printed order."""
        return [column.metric for column in self.columns if column.task is task]


DIPRO = Row("dipro", Cxr.LONG)

TABLES = {
    "table2": Table(
        name="table2",
        title="In-hospital mortality and ICU length of stay",
        rows=(
            Row("medfuse", Cxr.LAST),
            Row("medfuse", Cxr.LONG),
            Row("ehr_transformer", Cxr.NONE, title="DiPro without films = EHR Transformer"),
            DIPRO,
        ),
        columns=(
            Column(Task.MORTALITY, "auprc"),
            Column(Task.MORTALITY, "auroc"),
            Column(Task.LENGTH_OF_STAY, "kappa"),
            Column(Task.LENGTH_OF_STAY, "accuracy"),
        ),
        reference=DIPRO,
        paper_table=2,
    ),
}


def with_published(table: Table, records: Iterable[dict[str, Any]]) -> Table:
    """Add a row for published DiPro weights if the store holds runs that only tested some."""
    requests = [record["config"]["request"] for record in records]
    checkpoints = tuple(
        (Task(request["task"]), request["seed"], request["weights"])
        for request in requests
        if request["weights"].startswith("official:") and request["test_only"]
    )
    if DIPRO not in table.rows or not {task for task, _, _ in checkpoints} & set(table.tasks):
        return table
    row = replace(DIPRO, title="DiPro, published weights", checkpoints=checkpoints)
    return replace(table, rows=(*table.rows, row))


def request(
    row: Row,
    task: Task,
    seed: int,
    preset: Preset,
    recipe: str = "shared",
    overrides: tuple[tuple[str, str], ...] = (),
) -> Request:
    """The run of a row for a task and a seed."""
    return Request(
        method=row.method,
        task=task,
        cxr=row.films(task),
        seed=seed,
        ehr=row.ehr,
        drop_ehr=row.drop_ehr,
        ablate=row.ablate,
        weights=row.weights(task, seed),
        test_only=row.checkpoints is not None,
        preset=preset,
        recipe=recipe,
        overrides=overrides,
    )


def requests(
    table: Table,
    preset: Preset,
    seeds: Sequence[int],
    recipe: str = "shared",
    overrides: tuple[tuple[str, str], ...] = (),
) -> list[Request]:
    """Every run a table needs, row by row."""
    return [
        request(row, task, seed, preset, recipe, overrides)
        for row in table.rows
        for task in table.tasks
        for seed in seeds
    ]
