"""Tables as data: their rows are configurations, their columns a task and a metric each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
        ablate: names of ablations
        title: printed instead of the method's own title
    """

    method: str
    cxr: Cxr
    ehr: bool = True
    ablate: tuple[str, ...] = ()
    title: str = ""

    @property
    def name(self) -> str:
        """What `--reference` and the CSV files call it, e.g. 'dipro-pae-long'."""
        ehr = [] if self.ehr else ["no_ehr"]
        return "-".join([self.method.rpartition(":")[2], *self.ablate, self.cxr, *ehr])

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
        ablate=row.ablate,
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
