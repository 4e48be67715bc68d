"""How fast charted events are read and filtered, and in how much memory.

python -m bench.studies.events_speed
python -m bench.studies.events_speed --rows 20000000 --without-baseline

A file like MIMIC-IV's chartevents is generated: sorted by stay, a third of its rows of items that
are wanted, one stay in twenty kept. The preparation reads it in a process of its own, whose peak
memory is printed. The baseline reads the same file row by row with `csv.DictReader` and keeps the
texts of the same rows by item and stay; it converts nothing and checks nothing.
"""

from __future__ import annotations

import csv
import multiprocessing
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pandas as pd

from bench.arguments import positive
from bench.errors import Parser, run_command
from bench.preparing.events import read_raw_events
from bench.preparing.items import official_items, table_of_item
from bench.preparing.rules import STRICT
from bench.preparing.tables import number_list
from bench.preparing.workplace import throwaway_workplace

ROWS_PER_STAY: Final = 4500
KEEP_ONE_IN: Final = 20
HOURS: Final = 100
"""Of each stay."""
WANTED_ONE_IN: Final = 3
N_OTHER_ITEMS: Final = 300

EVENTS: Final = "icu/chartevents.csv"
SUBJECT_0, STAY_0, OTHER_ITEM_0 = 10_000_000, 30_000_000, 230_000
FIRST_INTIME: Final = pd.Timestamp("2150-01-01")


@dataclass(frozen=True)
class Reading:
    """What one reading of the file kept, and what it took."""

    n_kept: int
    seconds: float
    cpu_seconds: float
    peak_gb: float = np.nan


def wanted_items() -> list[int]:
    """The items of chartevents that feed a variable."""
    return [item for item in official_items() if table_of_item()[item] == "chartevents"]


def kept_stays(n_rows: int) -> pd.DataFrame:
    """The stays of which events are kept, as the preparation takes them."""
    number = np.arange(0, -(-n_rows // ROWS_PER_STAY), KEEP_ONE_IN)
    intime = FIRST_INTIME + pd.to_timedelta(number, unit="D")
    return pd.DataFrame(
        {
            "subject_id": SUBJECT_0 + number,
            "stay_id": STAY_0 + number,
            "intime": intime,
            "outtime": intime + pd.Timedelta(hours=HOURS),
        }
    )


def write_events(path: Path, n_rows: int) -> None:
    """Write a file of `n_rows` events; hashes of the row number stand for draws."""
    items, at = wanted_items(), "strftime({}, '%Y-%m-%d %H:%M:%S')"
    charted = f"TIMESTAMP '{FIRST_INTIME}' + to_days(stay) + to_minutes(minute)"
    path.parent.mkdir(parents=True)
    duckdb.sql(
        f"""
        COPY (
            SELECT {SUBJECT_0} + stay AS subject_id, 20000000 + stay AS hadm_id,
                   {STAY_0} + stay AS stay_id, 10000 + drawn % 90000 AS caregiver_id,
                   {at.format(charted)} AS charttime,
                   {at.format(f"{charted} + to_minutes(17)")} AS storetime,
                   CASE WHEN drawn % {WANTED_ONE_IN} = 0
                        THEN [{number_list(items)}][1 + CAST(drawn // 7 % {len(items)} AS INTEGER)]
                        ELSE {OTHER_ITEM_0} + drawn // 7 % {N_OTHER_ITEMS} END AS itemid,
                   40 + drawn // 13 % 100 AS value, 40.0 + drawn // 13 % 100 AS valuenum,
                   'mmHg' AS valueuom, 0 AS warning
            FROM (SELECT CAST(i // {ROWS_PER_STAY} AS INTEGER) AS stay, hash(i) AS drawn,
                         CAST(hash(i + 1) % {HOURS * 60} AS INTEGER) AS minute
                  FROM range({n_rows}) numbers(i))
        ) TO '{path}' (HEADER)
        """
    )


def read_prepared(root: Path, n_rows: int, jobs: int) -> Reading:
    """Read the file as the preparation does."""
    stays = kept_stays(n_rows)
    until = np.full(len(stays), HOURS * 3600)
    start, cpu_start = time.perf_counter(), time.process_time()
    with throwaway_workplace(jobs) as work:
        kept = read_raw_events(root, stays, until, wanted_items(), STRICT, work=work)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return Reading(len(kept), seconds, cpu_seconds, int(peak[1]) / 1e6 if peak else np.nan)


def read_by_row(root: Path, n_rows: int) -> Reading:
    """Read the file with `csv.DictReader`."""
    items = {str(item) for item in wanted_items()}
    stays = {str(stay) for stay in kept_stays(n_rows)["stay_id"]}
    kept = []
    start, cpu_start = time.perf_counter(), time.process_time()
    with (root / EVENTS).open(newline="") as file:
        for row in csv.DictReader(file):
            if row["itemid"] in items and row["stay_id"] in stays:
                kept.append((row["stay_id"], row["itemid"], row["charttime"], row["value"]))
    return Reading(len(kept), time.perf_counter() - start, time.process_time() - cpu_start)


def main() -> None:
    """Print one line per reader: the fastest of several readings, and the highest memory."""
    parser = Parser(prog="python -m bench.studies.events_speed", description=__doc__)
    parser.add_argument("--rows", type=positive, default=3_000_000, help="rows of the file")
    parser.add_argument("--jobs", type=positive, default=2, help="cores of the preparation")
    parser.add_argument("--repeats", type=positive, default=3, help="readings by each")
    parser.add_argument("--without-baseline", action="store_true", help="skip csv.DictReader")
    arg = parser.parse_args()
    ours: list[Reading] = []
    rowwise: list[Reading] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_events(root / EVENTS, arg.rows)
        print(f"{arg.rows} rows, {(root / EVENTS).stat().st_size / 1e6:.0f} MB")
        for _ in range(arg.repeats):
            # A fresh process each time: peak memory belongs to this reading alone.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                ours.append(process.submit(read_prepared, root, arg.rows, arg.jobs).result())
            if not arg.without_baseline:
                rowwise.append(read_by_row(root, arg.rows))
    print("reader                 rows_kept  seconds  cpu_seconds  M_rows_per_s  peak_GB")
    for name, readings in ((f"preparation, {arg.jobs} cores", ours), ("csv.DictReader", rowwise)):
        if readings:
            fastest = min(readings, key=lambda reading: reading.seconds)
            print(
                f"{name:21s}  {fastest.n_kept:9d}  {fastest.seconds:7.2f}  "
                f"{fastest.cpu_seconds:11.2f}  {arg.rows / fastest.seconds / 1e6:12.2f}  "
                f"{max(reading.peak_gb for reading in readings):7.2f}"
            )
    if rowwise:
        ratio = min(r.seconds for r in rowwise) / min(r.seconds for r in ours)
        print(f"the preparation reads {ratio:.1f} times the rows per second")


if __name__ == "__main__":
    run_command(main)
