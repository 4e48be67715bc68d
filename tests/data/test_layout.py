"""Where the valid entries of a batch lie, in agreement with its masks, whatever becomes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench.data.batch import Batch
from bench.data.layout import Packing
from bench.data.vocabulary import Task
from tests.methods.random_batches import random_batch, without_ehr_of

SHAPES = ((5,), (3, 4), (2, 3, 4), (3, 0), (0, 3))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
class TestPacking:
    def mask(self, shape: tuple[int, ...], share: float) -> torch.Tensor:
        return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < share

    def test_packs_as_a_mask_selects(self, shape: tuple[int, ...], share: float) -> None:
        mask = self.mask(shape, share)
        packing, x = Packing.of(mask), torch.randn(*shape, 2, 3)
        assert torch.equal(packing.pack(x), x[mask])
        assert len(packing) == int(mask.sum())

    def test_unpacking_puts_rows_back_among_zeros(
        self, shape: tuple[int, ...], share: float
    ) -> None:
        mask = self.mask(shape, share)
        rows = torch.randn(int(mask.sum()), 2)
        padded = Packing.of(mask).unpack(rows)
        assert padded.shape == (*shape, 2)
        assert torch.equal(padded[mask], rows)
        assert not padded[~mask].any()

    def test_a_known_number_gives_the_same_places(
        self, shape: tuple[int, ...], share: float
    ) -> None:
        mask = self.mask(shape, share)
        assert torch.equal(Packing.of(mask, int(mask.sum())).index, Packing.of(mask).index)


def test_gradients_go_where_rows_came_from() -> None:
    mask = torch.tensor([[True, False], [False, True]])
    x = torch.ones(2, 2, requires_grad=True)
    packing = Packing.of(mask)
    (packing.unpack(packing.pack(x)) * torch.tensor([[2.0, 3.0], [5.0, 7.0]])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[2, 0], [0, 7]]


class TestLayout:
    def batch(self) -> Batch:
        return without_ehr_of(random_batch(Task.MORTALITY), 1)

    def test_places_are_those_of_the_masks(self) -> None:
        batch = self.batch()
        layout, pair = batch.layout, batch.pair_valid
        expected = {
            "films": batch.film_valid,
            "pairs": pair,
            "neighbours": pair[:, :-1] & pair[:, 1:],
            "images": torch.cat(
                [batch.region_present & batch.film_valid[..., None], batch.film_valid[..., None]], 2
            ),
        }
        for name, mask in expected.items():
            assert torch.equal(getattr(layout, name).index, mask.flatten().nonzero()[:, 0]), name

    def test_samples_are_counted(self) -> None:
        batch = self.batch()
        assert batch.layout.n_films == tuple(batch.film_valid.sum(1).tolist())
        charted = (batch.ehr_observed & batch.ehr_valid[..., None]).sum((1, 2))
        assert batch.layout.n_observed == tuple(charted.tolist())
        assert batch.layout.n_observed[1] == 0

    def test_other_masks_have_another_layout(self) -> None:
        batch = self.batch()
        n_films = len(batch.layout.films)
        fewer = batch.film_valid.clone()
        fewer[0, 0] = False
        assert len(replace(batch, film_valid=fewer).layout.films) == n_films - 1
        assert len(batch.layout.films) == n_films

    def test_moving_and_withholding_labels_keep_it(self) -> None:
        batch = self.batch()
        layout = batch.layout
        assert batch.without_targets().layout is layout
        moved = vars(batch.to("meta"))["layout"]
        assert moved.films.index.device.type == "meta"
        assert moved.n_films == layout.n_films
