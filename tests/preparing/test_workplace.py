"""Stages are found again by their inputs only, and nothing half-written stays."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from bench.errors import UserError
from bench.preparing.row_store import RowStore
from bench.preparing.workplace import (
    PARTIAL,
    Workplace,
    folder_beside,
    key_of_inputs,
    mark_of,
    workplace,
)
from bench.preparing.writing import check_out

LAYOUT = {"films": (np.uint8, (3,))}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(file: Path) -> None:
    file.write_text("rows")


def test_a_finished_stage_is_not_made_again(tmp_path: Path):
    made = []

    def make(file: Path) -> None:
        made.append(file)
        file.write_text(f"made {len(made)} times")

    work = Workplace(tmp_path)
    assert work.stage("events", "a", make).read_text() == "made 1 times"
    assert work.stage("events", "a", make).read_text() == "made 1 times"
    assert work.stage("events", "b", make).read_text() == "made 2 times"
    assert names(tmp_path) == ["events-a", "events-b"]


def test_a_stage_that_fails_is_not_there(tmp_path: Path):
    def fail(file: Path) -> None:
        file.write_text("half")
        raise UserError("broken")

    work = Workplace(tmp_path)
    with pytest.raises(UserError, match="broken"):
        work.stage("events", "a", fail)
    assert work.stage("events", "a", write).read_text() == "rows"


def test_a_changed_file_has_another_mark_even_with_its_old_size_and_time(tmp_path: Path):
    file = tmp_path / "events.csv"
    file.write_text("value 1")
    stat = file.stat()
    mark = mark_of(file)
    assert mark_of(file) == mark
    file.write_text("value 2")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_size == stat.st_size and file.stat().st_mtime_ns == stat.st_mtime_ns
    assert mark_of(file) != mark


def test_keys_tell_inputs_apart():
    keys = {key_of_inputs(*inputs) for inputs in ((), ("a",), ("a", "b"), ("ab",), (1,), ("1",))}
    assert len(keys) == 6
    assert key_of_inputs("a", 1.5) == key_of_inputs("a", 1.5)


@pytest.mark.parametrize(
    ("error", "stays"),
    [
        (None, False),
        (UserError("x"), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError("x"), False),
        (ValueError(), False),
        (KeyboardInterrupt(), True),
    ],
)
def test_an_interruption_and_what_a_user_can_mend_leave_stages(
    error: BaseException | None, stays: bool, tmp_path: Path
):
    out = tmp_path / "cohort"
    caught = None
    try:
        with workplace(out) as work:
            work.stage("events", "a", write)
            if error:
                raise error
    except BaseException as raised:
        caught = raised
    if stays and not isinstance(error, KeyboardInterrupt):
        assert isinstance(caught, UserError)
        assert str(caught).endswith("; the same command then goes on from what was finished")
    else:
        assert caught is error
    assert (folder_beside(out) / "events-a").exists() == stays
    assert names(tmp_path) == ([".cohort.preparing"] if stays else [])


def test_a_refusal_leaves_finished_films_and_nothing_half_written(tmp_path: Path):
    out = tmp_path / "cohort"
    with pytest.raises(UserError, match="goes on"), workplace(out) as work:
        RowStore(work.films, 2, LAYOUT).write(1, "key", {"films": np.ones(3, np.uint8)})
        (work.folder / f"events-a{PARTIAL}").write_text("half")
        work.spill.mkdir()
        raise UserError("broken")
    assert names(folder_beside(out)) == ["films", "lock"]
    assert RowStore(folder_beside(out) / "films", 2, LAYOUT).holds(1, "key")


def test_a_refusal_before_anything_was_finished_leaves_nothing(tmp_path: Path):
    error = UserError("broken")
    with pytest.raises(UserError) as caught, workplace(tmp_path / "cohort") as work:
        RowStore(work.films, 2, LAYOUT)
        (work.folder / f"events-a{PARTIAL}").write_text("half")
        raise error
    assert caught.value is error
    assert names(tmp_path) == []


def test_two_processes_do_not_prepare_one_cohort(tmp_path: Path):
    with workplace(tmp_path / "cohort"), workplace(tmp_path / "other"):
        with (
            pytest.raises(UserError, match="is being prepared by another process"),
            workplace(tmp_path / "cohort"),
        ):
            pass
        assert folder_beside(tmp_path / "cohort").is_dir()


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path):
    out = tmp_path / "co[h]ort"
    folder = folder_beside(out)
    (folder / "spill").mkdir(parents=True)
    for name in ("events-a", "events-b.partial", "spill/block"):
        (folder / name).write_text("")
    for name in (".co[h]ort.partial-7", ".co[h]ort.replaced-7", ".cohort.partial-7", "co[h]ort-2"):
        (tmp_path / name).mkdir()
    with workplace(out):
        assert names(folder) == ["events-a", "lock"]
        assert names(tmp_path) == [".co[h]ort.preparing", ".cohort.partial-7", "co[h]ort-2"]


def test_killed_after_its_last_rename_a_cohort_is_whole_and_tidied_up(tmp_path: Path):
    out = tmp_path / "cohort"
    out.mkdir()
    (out / "manifest.json").write_text("{}")
    folder_beside(out).mkdir()
    (tmp_path / ".cohort.replaced-7").mkdir()
    with pytest.raises(UserError, match="exists"):
        check_out(out, force=False)
    assert names(tmp_path) == ["cohort"] and names(out) == ["manifest.json"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"file.cohort cannot be prepared.*Not a directory"),
        workplace(tmp_path / "file" / "cohort"),
    ):
        pass
