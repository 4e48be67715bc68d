"""Tables as data: their rows are configurations, their columns a task and a metric each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from bench.config import Request
from bench.contract import Preset
from bench.data.vocabulary import DISEASES, Cxr, Task
from bench.errors import UserError, nearest


@dataclass(frozen=True)
class Row:
    """One configuration in every task of a table.

    Attributes:
        method: registered name or `module:Class`
        cxr: films in the ICU tasks; progression always gets its pair, unless this is `none`
        ehr: whether EHR and demographics are given
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
    checkpoints: tuple[tuple[Task, int, str], ...] | None = None

    @property
    def name(self) -> str:
        """What `--reference` and the CSV files call it, e.g. 'dipro-pae-long'."""
        ehr = [] if self.ehr else ["no_ehr"]
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
class Setting:
    """A task, and the share of its training samples whose EHR hours are hidden."""

    task: Task
    drop_ehr: float = 0.0


@dataclass(frozen=True)
class Column:
    """A metric of a task, in runs that lost the EHR of a share of their training samples."""

    task: Task
    metric: str
    drop_ehr: float = 0.0

    @property
    def setting(self) -> Setting:
        """What its runs have in common."""
        return Setting(self.task, self.drop_ehr)


class Labels(StrEnum):
    """Which test pairs of the progression task count, by where their labels come from."""

    ALL = "all"
    GOLD = "gold"
    """A person decided at least one disease."""
    SILVER = "silver"
    """All were read from reports."""


@dataclass(frozen=True)
class Table:
    """A table: what is compared, on what, and with which row.

    Attributes:
        name: what the commands call it
        title: caption
        rows, columns: in printed order
        reference: the row that the others are tested against
        paper_table: number in the paper, None if the paper has no such table
        labels: which test pairs count
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    reference: Row
    paper_table: int | None = None
    labels: Labels = Labels.ALL

    @property
    def file_name(self) -> str:
        """Name of its files, without an ending."""
        return self.name if self.labels is Labels.ALL else f"{self.name}_{self.labels}"

    @property
    def tasks(self) -> list[Task]:
        """Tasks in printed order, each once."""
        return list(dict.fromkeys(column.task for column in self.columns))

    @property
    def settings(self) -> list[Setting]:
        """Settings in printed order, each once."""
        return list(dict.fromkeys(column.setting for column in self.columns))

    def metrics(self, setting: Setting) -> list[str]:
        """Metrics of a setting in printed order."""
        return [column.metric for column in self.columns if column.setting == setting]


DIPRO = Row("dipro", Cxr.LONG)

FILMS_ONLY = ("chexrelnet", "chexrelformer", "sdpl")
"""Methods that compare films; the paper gives them the EHR in its appendix only."""

FUSING = ("utde", "umse", "medfuse", "drfuse")
"""Methods that fuse films with EHR, in the paper's order."""

WITHOUT_FILMS = Row("ehr_transformer", Cxr.NONE, title="DiPro without films = EHR Transformer")


def films_only(*methods: str) -> tuple[Row, ...]:
    """Rows that are given all films and no EHR."""
    return tuple(Row(method, Cxr.LONG, ehr=False) for method in methods)


def with_ehr(*methods: str) -> tuple[Row, ...]:
    """Rows that are given all films and the EHR."""
    return tuple(Row(method, Cxr.LONG) for method in methods)


def last_and_long(*methods: str) -> tuple[Row, ...]:
    """Two rows a method: with the last film, and with all."""
    return tuple(Row(method, cxr) for method in methods for cxr in (Cxr.LAST, Cxr.LONG))


def ablated(*names: str) -> tuple[Row, ...]:
    """Rows of DiPro without a part each."""
    return tuple(Row("dipro", Cxr.LONG, ablate=(name,), title=ABLATED[name]) for name in names)


ABLATED = {
    "mmf": "A1: w/o MMF",
    "pae": "A2: w/o PAE",
    "pae+mmf": "A3: w/o PAE, MMF",
    "std+pae+mmf": "A4: w/o STD, PAE, MMF",
    "std": "w/o STD",
    "local-only": "local fusion only",
    "global-only": "global fusion only",
    "orth": "w/o L_orth",
    "pae-loss": "w/o L_PAE",
    "temp": "w/o L_temp",
}
"""Titles of ablations; A1 to A4 as in the paper."""

PAPER_ABLATIONS = ("mmf", "pae", "pae+mmf", "std+pae+mmf")
OUR_ABLATIONS = ("std", "local-only", "global-only")


def columns(task: Task, *metrics: str, drop_ehr: Sequence[float] = (0.0,)) -> tuple[Column, ...]:
    """Columns of one task."""
    return tuple(Column(task, metric, share) for share in drop_ehr for metric in metrics)


PROGRESSION, MORTALITY, LENGTH_OF_STAY = Task
SELECTED = (
    Column(PROGRESSION, "macro_f1"),
    Column(MORTALITY, "auprc"),
    Column(LENGTH_OF_STAY, "accuracy"),
)
"""One column a task, as in the paper's short ablation tables."""

PROGRESSION_COLUMNS = columns(
    PROGRESSION, "macro_precision", "macro_recall", "macro_f1", "auprc", "auroc", "accuracy"
)
ICU_COLUMNS = (
    *columns(MORTALITY, "auprc", "auroc"),
    *columns(LENGTH_OF_STAY, "kappa", "accuracy"),
)
DROPPED = (0.75, 0.5, 0.25, 0.0)
"""Shares of training stays whose EHR is hidden, in the paper's order."""

TABLES = {
    f"table{number}": Table(f"table{number}", title, rows, of_table, DIPRO, number)
    for number, title, rows, of_table in (
        (
            1,
            "Disease progression, mean over seven diseases",
            (*films_only(*FILMS_ONLY, "dipro"), *with_ehr(*FUSING), DIPRO),
            PROGRESSION_COLUMNS[:-1],
        ),
        (
            2,
            "In-hospital mortality and ICU length of stay",
            (*last_and_long(*FUSING), WITHOUT_FILMS, DIPRO),
            ICU_COLUMNS,
        ),
        (3, "Ablations of DiPro", (DIPRO, *ablated(*PAPER_ABLATIONS, *OUR_ABLATIONS)), SELECTED),
        (
            10,
            "Disease progression in full",
            (
                *films_only(*FILMS_ONLY, "umse", "medfuse", "dipro"),
                replace(WITHOUT_FILMS, title="EHR Transformer"),
                *with_ehr(*FILMS_ONLY, *FUSING),
                DIPRO,
            ),
            PROGRESSION_COLUMNS,
        ),
        (
            11,
            "Disease progression by disease",
            (*films_only(*FILMS_ONLY, "dipro"), *with_ehr(*FUSING), DIPRO),
            columns(PROGRESSION, *(f"macro_f1[{disease}]" for disease in DISEASES)),
        ),
        (
            12,
            "Mortality and length of stay in full",
            (
                replace(WITHOUT_FILMS, title="EHR Transformer"),
                *(r for m in FILMS_ONLY for r in (*films_only(m), *with_ehr(m))),
                *last_and_long(*FUSING),
                *films_only("dipro"),
                DIPRO,
            ),
            (
                *columns(MORTALITY, "auprc", "auroc"),
                *columns(LENGTH_OF_STAY, "kappa", "accuracy", "macro_f1", "auprc"),
            ),
        ),
        (
            13,
            "Ablations of DiPro on disease progression",
            (DIPRO, *ablated(*PAPER_ABLATIONS, *OUR_ABLATIONS)),
            PROGRESSION_COLUMNS,
        ),
        (
            14,
            "Ablations of DiPro on length of stay",
            (DIPRO, *ablated(*PAPER_ABLATIONS, *OUR_ABLATIONS)),
            columns(
                LENGTH_OF_STAY,
                "kappa",
                "macro_precision",
                "macro_recall",
                "macro_f1",
                "auprc",
                "auroc",
                "accuracy",
            ),
        ),
        (15, "Loss terms of DiPro", (DIPRO, *ablated("orth", "pae-loss", "temp")), SELECTED),
        (
            18,
            "Length of stay, EHR hidden from training stays",
            (*with_ehr("umse", "utde", "drfuse", "medfuse"), DIPRO),
            columns(LENGTH_OF_STAY, "accuracy", drop_ehr=DROPPED),
        ),
        (
            19,
            "Mortality, EHR hidden from training stays",
            (*with_ehr("umse", "utde", "drfuse", "medfuse"), DIPRO),
            columns(MORTALITY, "auprc", drop_ehr=DROPPED),
        ),
    )
}


def named(name: str) -> Table:
    """The table of a name.

    Raises:
        UserError: there is none.
    """
    if name not in TABLES:
        raise UserError(f"unknown table '{name}': {nearest(name, TABLES)}")
    return TABLES[name]


def with_labels(table: Table, labels: Labels) -> Table:
    """The table on some of the test pairs only; the paper has no such numbers.

    Raises:
        UserError: it has no test pairs.
    """
    if labels is Labels.ALL:
        return table
    if any(task.is_icu for task in table.tasks):
        raise UserError(f"--labels {labels}: {table.name} is not about film pairs, leave it out")
    title = f"{table.title}, test pairs with {labels} labels"
    return replace(table, title=title, labels=labels, paper_table=None)


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
    setting: Setting,
    seed: int,
    preset: Preset,
    recipe: str = "shared",
    overrides: tuple[tuple[str, str], ...] = (),
) -> Request:
    """The run of a row in a setting with a seed."""
    task = setting.task
    return Request(
        method=row.method,
        task=task,
        cxr=row.films(task),
        seed=seed,
        ehr=row.ehr,
        drop_ehr=setting.drop_ehr,
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
        request(row, setting, seed, preset, recipe, overrides)
        for row in table.rows
        for setting in table.settings
        for seed in seeds
    ]
