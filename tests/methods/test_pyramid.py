"""The pyramid encoder: maps, size, start, attention over shared keys, dropped branches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bench.errors import UserError
from methods.pyramid import (
    INITIAL_SD,
    Block,
    DropPath,
    MixFeedForward,
    PyramidConfig,
    PyramidEncoder,
    ReducedAttention,
)

TINY = PyramidConfig("8,16", "2,1", "1,2", "2,1", dropout=0.0, drop_path=0.0)


@pytest.fixture(scope="module")
def paper() -> PyramidEncoder:
    torch.manual_seed(0)
    return PyramidEncoder.of(PyramidConfig()).eval()


def tiny() -> PyramidEncoder:
    torch.manual_seed(0)
    return PyramidEncoder.of(TINY).eval()


class TestPaperSize:
    def test_parameters(self, paper: PyramidEncoder) -> None:
        def count(module: nn.Module) -> int:
            return sum(p.numel() for p in module.parameters())

        assert [count(stage.blocks) for stage in paper.stages] == [
            944_640,
            1_397_760,
            6_625_280,
            9_518_592,
        ]
        assert count(paper) == 28_937_408

    @pytest.mark.parametrize(("side", "sides"), [(224, (56, 28, 14, 7)), (256, (64, 32, 16, 8))])
    def test_maps(self, paper: PyramidEncoder, side: int, sides: tuple[int, ...]) -> None:
        with torch.no_grad():
            maps = paper(torch.zeros(1, 3, side, side))
        expected = [(1, width, n, n) for width, n in zip((64, 128, 320, 512), sides, strict=True)]
        assert [tuple(m.shape) for m in maps] == expected
        assert paper.channels == (64, 128, 320, 512)

    def test_start(self, paper: PyramidEncoder) -> None:
        for name, p in paper.named_parameters():
            if name.endswith("bias"):
                assert not p.any(), name
            elif "norm" in name:
                assert (p == 1).all(), name
            else:
                assert p.std().item() == pytest.approx(INITIAL_SD, rel=0.1), name

    def test_norms_of_blocks_and_stages_have_the_small_epsilon(self, paper: PyramidEncoder) -> None:
        norms = {n: m.eps for n, m in paper.named_modules() if isinstance(m, nn.LayerNorm)}
        small = {n for n, eps in norms.items() if eps == 1e-6}
        assert {eps for n, eps in norms.items() if n not in small} == {1e-5}
        assert len(small) == 2 * 13 + 4
        assert not any("embed_norm" in n or "attention" in n for n in small)

    def test_dropout_is_on_weights_projections_and_hidden_layers(
        self, paper: PyramidEncoder
    ) -> None:
        blocks = [block for stage in paper.stages for block in stage.blocks]
        assert len(blocks) == 13
        for block in blocks:
            attention, hidden = block.attention, block.feed_forward
            rates = (attention.attention.dropout, attention.dropout.p, hidden.dropout.p)
            assert rates == (0.1, 0.1, 0.1)

    def test_drop_path_rises_evenly_over_the_blocks(self, paper: PyramidEncoder) -> None:
        rates = [block.drop_path.rate for stage in paper.stages for block in stage.blocks]
        assert rates == pytest.approx([0.1 * i / 12 for i in range(13)])


class TestEncoder:
    def test_images_do_not_see_each_other(self) -> None:
        encoder, images = tiny(), torch.rand(3, 3, 32, 32)
        for alone, together in zip(encoder(images[1:2]), encoder(images), strict=True):
            torch.testing.assert_close(alone[0], together[1])

    def test_every_stage_sees_the_whole_image(self) -> None:
        encoder, image = tiny(), torch.rand(1, 3, 64, 64, requires_grad=True)
        encoder(image)[0][0, 0, 0, 0].backward()
        assert image.grad is not None
        assert image.grad[0, :, -8:, -8:].any()

    def test_gradients_reach_every_parameter(self) -> None:
        encoder = tiny().train()
        weights = torch.rand(16, 8, 8)
        (encoder(torch.rand(2, 3, 64, 64))[-1] * weights).sum().backward()
        silent = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
        assert not silent

    def test_no_image(self) -> None:
        assert [m.shape for m in tiny()(torch.rand(0, 3, 32, 32))] == [(0, 8, 8, 8), (0, 16, 4, 4)]

    def test_odd_sizes_round_up(self) -> None:
        maps = tiny()(torch.rand(1, 3, 33, 36))
        assert [m.shape[-2:] for m in maps] == [(9, 9), (5, 5)]

    def test_refuses_images_smaller_than_a_key(self) -> None:
        encoder = PyramidEncoder.of(replace(TINY, reductions="8,1"))
        with pytest.raises(UserError, match=r"16 x 16 px are too small .* 32 px or more"):
            encoder(torch.rand(1, 3, 16, 16))


class TestParts:
    def test_attention_without_reduction_is_plain_self_attention(self) -> None:
        torch.manual_seed(0)
        part, x = ReducedAttention(8, 2, 1, 0.0), torch.randn(2, 3, 3, 8)
        plain = nn.MultiheadAttention(8, 2, batch_first=True)
        plain.load_state_dict(part.attention.state_dict())
        places = x.flatten(1, 2)
        expected, _ = plain(places, places, places)
        torch.testing.assert_close(part(x).flatten(1, 2), expected)

    def test_reduced_keys_are_convolved_blocks(self) -> None:
        torch.manual_seed(0)
        part, x = ReducedAttention(8, 2, 2, 0.0), torch.randn(1, 4, 4, 8)
        assert part.reduce is not None
        keys = part.norm(part.reduce(x.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2))
        assert keys.shape == (1, 4, 8)
        plain = nn.MultiheadAttention(8, 2, batch_first=True)
        plain.load_state_dict(part.attention.state_dict())
        expected, _ = plain(x.flatten(1, 2), keys, keys)
        torch.testing.assert_close(part(x).flatten(1, 2), expected)

    def test_feed_forward_mixes_neighbours_only(self) -> None:
        torch.manual_seed(0)
        part, x = MixFeedForward(4, 8, 0.0), torch.randn(1, 5, 5, 4)
        changed = x.clone()
        changed[0, 2, 2] += 1
        moved = (part(x) - part(changed)).abs().sum(-1)[0] > 0
        expected = torch.zeros(5, 5, dtype=torch.bool)
        expected[1:4, 1:4] = True
        assert torch.equal(moved, expected)

    def test_block_norms_come_first(self) -> None:
        torch.manual_seed(0)
        block, x = Block(8, 2, 1, 4, 0.0, drop_path=0.0), torch.randn(2, 3, 3, 8)
        middle = x + block.attention(block.norm1(x))
        expected = middle + block.feed_forward(block.norm2(middle))
        torch.testing.assert_close(block(x), expected)

    def test_block_without_branches_is_the_identity(self) -> None:
        block, x = Block(8, 2, 1, 4, 0.0, drop_path=0.0), torch.randn(2, 3, 3, 8)
        nn.init.zeros_(block.attention.attention.out_proj.weight)
        nn.init.zeros_(block.feed_forward.linear2.weight)
        nn.init.zeros_(block.feed_forward.linear2.bias)
        assert torch.equal(block(x), x)

    def test_drop_path_drops_whole_samples_and_keeps_the_mean(self) -> None:
        torch.manual_seed(0)
        drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
        dropped = drop(x)
        rows = dropped[:, 0, 0]
        assert torch.equal(dropped, rows[:, None, None].expand_as(x))
        assert rows.unique().tolist() == pytest.approx([0, 1 / 0.75])
        assert rows.mean().item() == pytest.approx(1, abs=0.05)
        assert torch.equal(drop.eval()(x), x)


class TestConfig:
    @pytest.mark.parametrize("text", ["", "8,", "8,x", "0,8", "-8,8", "8.5,8"])
    def test_refuses_what_is_no_list_of_numbers(self, text: str) -> None:
        with pytest.raises(UserError, match=r"model\.blocks is '.*give numbers above 0"):
            replace(TINY, blocks=text)

    def test_refuses_lists_of_different_lengths(self) -> None:
        with pytest.raises(UserError, match="one number per stage"):
            replace(TINY, heads="1,2,4")

    def test_refuses_heads_that_do_not_divide_channels(self) -> None:
        with pytest.raises(UserError, match="channels 16 cannot be split into 3 heads"):
            replace(TINY, heads="1,3")
