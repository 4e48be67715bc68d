"""Batches are the same however they reach the device."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from bench.data import loading
from bench.data.batch import Batch, Inputs, Samples
from bench.data.cohort import Cohort
from bench.data.loading import (
    StepBatches,
    batches,
    copied,
    fits,
    release_images,
    resident_images,
)
from bench.data.vocabulary import Cxr, Split, Task

ALL = Inputs(regions=True, films=True, ehr=True, demographics=True)
CPU = torch.device("cpu")
GIB = 2**30


def samples_of(cohort: Cohort, task: Task, cxr: Cxr, inputs: Inputs = ALL) -> Samples:
    return Samples(cohort, task, cxr, inputs)


def assert_equal(batch: Batch, expected: Batch) -> None:
    for field in fields(Batch):
        if field.name != "targets":
            value, wanted = getattr(batch, field.name), getattr(expected, field.name)
            assert value.dtype == wanted.dtype, field.name
            assert torch.equal(value, wanted), field.name
    assert batch.targets is not None
    assert expected.targets is not None
    assert torch.equal(batch.targets.findings, expected.targets.findings)
    assert torch.equal(batch.layout.images.index, expected.layout.images.index)


@pytest.mark.parametrize(
    ("task", "cxr"),
    [
        (Task.MORTALITY, Cxr.LONG),
        (Task.MORTALITY, Cxr.LAST),
        (Task.MORTALITY, Cxr.NONE),
        (Task.DISEASE_PROGRESSION, Cxr.PAIR),
    ],
)
def test_resident_images_give_the_same_batches(
    task: Task, cxr: Cxr, cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "FILMS_AT_ONCE", 3)
    samples, resident = samples_of(cohort, task, cxr), samples_of(cohort, task, cxr)
    resident.resident = {name: copied(cohort.arrays[name], CPU) for name in ("films", "regions")}
    positions = samples.indices(Split.TRAIN)
    assert_equal(resident.batch(positions), samples.batch(positions))


def test_what_is_resident_is_what_is_read(cohort: Cohort) -> None:
    samples = samples_of(cohort, Task.MORTALITY, Cxr.LONG)
    samples.resident = {"films": copied(cohort.arrays["films"], CPU)}
    samples.resident["films"][:-1] = 7
    batch = samples.batch(np.arange(6))
    assert (batch.films[batch.film_valid] == 7).all()
    assert not batch.films[~batch.film_valid].any()


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_come_in_their_order(ahead: bool, cohort: Cohort) -> None:
    samples = samples_of(cohort, Task.MORTALITY, Cxr.LONG)
    chunks = [np.array([3, 1]), np.array([0]), np.array([5, 2, 4])]
    found = list(batches(samples, chunks, CPU, ahead=ahead))
    assert len(found) == len(chunks)
    for batch, chunk in zip(found, chunks, strict=True):
        assert_equal(batch, samples.batch(chunk))


def test_one_batch_is_fetched_ahead(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = samples_of(cohort, Task.MORTALITY, Cxr.LONG)
    gather, asked = samples.batch, []
    monkeypatch.setattr(samples, "batch", lambda chunk: asked.append(chunk[0]) or gather(chunk))
    stream = batches(samples, [np.array([i]) for i in range(5)], CPU, ahead=True)
    next(stream)
    stream.close()  # waits for the thread
    assert asked == [0, 1]


def test_an_error_of_the_thread_comes_out(cohort: Cohort) -> None:
    samples = samples_of(cohort, Task.MORTALITY, Cxr.LONG)
    with pytest.raises(IndexError):
        list(batches(samples, [np.array([0]), np.array([10**6])], CPU, ahead=True))


class TestStepBatches:
    STEPS = (np.array([0, 1, 2, 3]), np.array([4, 5, 6, 7]), np.array([8]))

    @pytest.fixture
    def samples(self, cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> Samples:
        """Samples that note in `asked` what is gathered of them."""
        samples = samples_of(cohort, Task.MORTALITY, Cxr.LAST)
        gather, self.asked = samples.batch, list[list[int]]()

        def batch(positions: np.ndarray) -> Batch:
            self.asked.append(positions.tolist())
            return gather(positions)

        monkeypatch.setattr(samples, "batch", batch)
        return samples

    @pytest.mark.parametrize("ahead", [False, True])
    def test_all_steps_are_fed_from_one_stream(self, ahead: bool, samples: Samples) -> None:
        fed = StepBatches(samples, self.STEPS, CPU, ahead)
        found = [pair for step in range(3) for pair in fed.of_step(step, 2)]
        fed.close()
        expected = [[0, 1], [2, 3], [4, 5], [6, 7], [8]]
        assert [chunk.tolist() for chunk, _ in found] == self.asked == expected
        for chunk, batch in found:
            assert_equal(batch, samples.batch(chunk))

    def test_the_next_step_is_fetched_while_one_is_used(self, samples: Samples) -> None:
        fed = StepBatches(samples, self.STEPS, CPU, ahead=True)
        assert len(list(fed.of_step(0, 4))) == 1
        fed.close()  # waits for the thread
        assert self.asked == [[0, 1, 2, 3], [4, 5, 6, 7]]

    @pytest.mark.parametrize("ahead", [False, True])
    def test_a_step_that_failed_is_fed_again_in_smaller_parts(
        self, ahead: bool, samples: Samples
    ) -> None:
        fed = StepBatches(samples, self.STEPS, CPU, ahead)
        list(fed.of_step(0, 4))
        next(fed.of_step(1, 4))
        found = [chunk.tolist() for step in (1, 2) for chunk, _ in fed.of_step(step, 2)]
        assert found == [[4, 5], [6, 7], [8]]
        next(fed.of_step(1, 2))
        assert [chunk.tolist() for chunk, _ in fed.of_step(1, 2)] == [[4, 5], [6, 7]]
        fed.close()


def test_images_stay_on_a_gpu_that_has_room() -> None:
    assert fits(9 * GIB, 40 * GIB)
    assert not fits(9 * GIB, 24 * GIB)
    assert fits(0, 0)


class TestResidentImages:
    DEVICE = torch.device("cuda:7")

    @pytest.fixture
    def free(self, monkeypatch: pytest.MonkeyPatch):
        """A made-up GPU: its free memory is told, and copies go to the CPU."""
        monkeypatch.setattr(loading, "_kept", {})
        monkeypatch.setattr(loading, "copied", lambda images, device: copied(images, CPU))

        def set_free(n_bytes: int) -> None:
            monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (n_bytes, 80 * GIB))

        return set_free

    def test_only_what_is_read_and_only_on_a_gpu(self, cohort: Cohort, free) -> None:
        free(80 * GIB)
        assert resident_images(cohort, ALL, self.DEVICE).keys() == {"films", "regions"}
        regions = Inputs(regions=True)
        assert resident_images(cohort, regions, self.DEVICE).keys() == {"regions"}
        assert resident_images(cohort, Inputs(ehr=True), self.DEVICE) == {}
        assert resident_images(cohort, ALL, CPU) == {}

    def test_none_without_room(self, cohort: Cohort, free) -> None:
        free(cohort.arrays["films"].nbytes)
        assert resident_images(cohort, ALL, self.DEVICE) == {}

    def test_runs_of_a_process_share_them(self, cohort: Cohort, free) -> None:
        free(80 * GIB)
        first = resident_images(cohort, ALL, self.DEVICE)
        free(0)
        again = resident_images(cohort, ALL, self.DEVICE)
        assert all(again[name] is first[name] for name in first)

    def test_released_they_are_read_from_the_cohort_again(self, cohort: Cohort, free) -> None:
        free(80 * GIB)
        samples, other = samples_of(cohort, Task.MORTALITY, Cxr.LONG), torch.device("cuda:1")
        expected = samples.batch(np.arange(6))
        samples.resident = resident_images(cohort, ALL, self.DEVICE)
        kept = resident_images(cohort, ALL, other)
        assert release_images(samples, self.DEVICE)
        assert_equal(samples.batch(np.arange(6)), expected)
        free(0)
        assert resident_images(cohort, ALL, self.DEVICE) == {}
        assert resident_images(cohort, ALL, other).keys() == kept.keys()
        assert not release_images(samples, self.DEVICE)
