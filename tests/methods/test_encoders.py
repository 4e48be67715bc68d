"""Shared encoders, attention and heads: masks, known values, weights that do not fit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from bench.contract import TaskSpec
from bench.data.layout import Packing
from bench.data.vocabulary import Cxr, Task
from bench.errors import UserError
from methods.attention import Attention, EncoderLayer
from methods.encoders import (
    IMAGENET,
    EhrEncoder,
    ImageEncoder,
    SinusoidalPositions,
    encode_valid,
    shrink,
)
from methods.heads import TaskHeads


def images(*shape: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, size, size), dtype=torch.uint8, generator=generator)


class TestImageEncoder:
    @pytest.mark.parametrize("size", [16, 32, 96])
    @pytest.mark.parametrize("backbone", ["small", "small_film"])
    def test_small_takes_any_size(self, backbone: str, size: int) -> None:
        encoder = ImageEncoder(backbone, "none")
        features = encoder(images(3, size=size))
        assert features.shape == (3, encoder.width)
        assert sum(p.numel() for p in encoder.parameters()) < 300_000

    @pytest.mark.parametrize(("backbone", "size"), [("small", 31), ("small_film", 127)])
    def test_a_place_of_the_map_sees_a_crop_or_a_film(self, backbone: str, size: int) -> None:
        encoder = ImageEncoder(backbone, "none").eval()
        for layer in encoder.network:
            if isinstance(layer, torch.nn.Conv2d):
                # All weights positive: what is seen has a gradient.
                torch.nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
        pixels = torch.ones(1, 1, 255, 255, requires_grad=True)
        places = encoder.network(pixels)
        middle = places.shape[-1] // 2
        places[0, 0, middle, middle].backward()
        assert pixels.grad is not None
        seen = pixels.grad[0, 0].nonzero()
        assert (seen.max(dim=0).values - seen.min(dim=0).values + 1).tolist() == [size, size]

    @pytest.mark.parametrize(("backbone", "width"), [("resnet34", 512), ("resnet50", 2048)])
    def test_resnet_has_no_classifier(self, backbone: str, width: int) -> None:
        encoder = ImageEncoder(backbone, "none").eval()
        assert encoder.width == width
        assert encoder(images(1, size=64)).shape == (1, width)
        assert not any(".fc." in name for name in encoder.state_dict())

    def test_scales_to_unit_range(self) -> None:
        encoder = ImageEncoder("resnet34", "none").eval()
        pixels = images(2, size=64)
        expected = encoder.network((pixels[:, None] / 255).repeat(1, 3, 1, 1))
        torch.testing.assert_close(encoder.feature_map(pixels), expected, rtol=1e-4, atol=1e-4)

    def test_standardises_as_imagenet_weights_expect(self) -> None:
        encoder = ImageEncoder("resnet34", "none", standardised=True).eval()
        pixels = images(2, size=64)
        wanted = IMAGENET["resnet34"].transforms()
        scaled = (pixels[:, None] / 255).repeat(1, 3, 1, 1)
        expected = encoder.network(
            torchvision.transforms.functional.normalize(scaled, wanted.mean, wanted.std)
        )
        torch.testing.assert_close(encoder.feature_map(pixels), expected, rtol=1e-4, atol=1e-4)

    def test_equals_torchvision_without_its_classifier(self) -> None:
        encoder = ImageEncoder("resnet34", "none").eval()
        reference = torchvision.models.resnet34().eval()
        reference.fc = torch.nn.Identity()
        reference.load_state_dict(encoder.network.state_dict())
        pixels = images(2, size=64)
        expected = reference((pixels[:, None] / 255).repeat(1, 3, 1, 1))
        torch.testing.assert_close(encoder(pixels), expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("size", "max_size", "left"), [(64, 32, 32), (64, 0, 64), (16, 32, 16)]
    )
    def test_shrink(self, size: int, max_size: int, left: int) -> None:
        films = images(2, size=size)
        smaller = shrink(films, max_size)
        assert smaller.shape == (2, left, left)
        assert smaller.float().mean() == pytest.approx(films.float().mean().item(), rel=1e-4)

    def test_unknown_backbone(self) -> None:
        with pytest.raises(UserError, match="did you mean 'resnet50'"):
            ImageEncoder("resnet5", "none")

    def test_small_has_no_imagenet_weights(self) -> None:
        with pytest.raises(UserError, match=r"--set model\.weights=none"):
            ImageEncoder("small", "imagenet")

    def test_failed_download_names_file_and_flag(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError("no route\nto host")

        monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fail)
        with pytest.raises(UserError) as error:
            ImageEncoder("resnet50", "imagenet")
        message = str(error.value)
        assert "\n" not in message
        assert "checkpoints/resnet50-" in message
        assert "--set model.weights=none" in message

    def test_loads_a_file_and_drops_its_classifier(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        reference = torchvision.models.resnet34(weights=None)
        torch.save(reference.state_dict(), tmp_path / "weights.pt")
        encoder = ImageEncoder("resnet34", str(tmp_path / "weights.pt"))
        assert torch.equal(encoder.network.conv1.weight, reference.conv1.weight)

    def test_refuses_what_does_not_fit(self, tmp_path: Path) -> None:
        state = ImageEncoder("small", "none").network.state_dict()
        for name, broken in {
            "missing": dict(list(state.items())[1:]),
            "extra": {**state, "head.weight": torch.zeros(1)},
        }.items():
            torch.save(broken, tmp_path / name)
            with pytest.raises(UserError, match="do not fit"):
                ImageEncoder("small", str(tmp_path / name))

    def test_refuses_a_file_that_is_no_state_dict(self, tmp_path: Path) -> None:
        (tmp_path / "text").write_text("hello")
        for name in ("text", "absent"):
            with pytest.raises(UserError, match=name):
                ImageEncoder("small", str(tmp_path / name))


class TestEncodeValid:
    def test_scatters_back(self) -> None:
        encoder = ImageEncoder("small", "none").eval()
        pixels, valid = images(2, 3), torch.tensor([[True, False, True], [True, False, False]])
        features = encode_valid(encoder, pixels, Packing.of(valid))
        assert features.shape == (2, 3, encoder.width)
        assert not features[~valid].any()
        torch.testing.assert_close(features[valid], encoder(pixels[valid]))

    def test_padding_enters_no_batch_statistics(self) -> None:
        torch.manual_seed(0)
        padded, bare = ImageEncoder("small", "none"), ImageEncoder("small", "none")
        bare.load_state_dict(padded.state_dict())
        encode_valid(padded, images(3), Packing.of(torch.tensor([True, True, False])))
        bare(images(3)[:2])
        for (name, seen), expected in zip(padded.named_buffers(), bare.buffers(), strict=True):
            torch.testing.assert_close(seen, expected, msg=name)

    def test_nothing_valid(self) -> None:
        encoder = ImageEncoder("small", "none")
        nothing = Packing.of(torch.zeros(2, 2, dtype=torch.bool))
        features = encode_valid(encoder, images(2, 2), nothing)
        head = nn.Linear(encoder.width, 1)
        head(features).sum().backward()
        assert features.shape == (2, 2, encoder.width)
        assert torch.isfinite(head.weight.grad).all()
        assert all(p.grad is None for p in encoder.parameters())

    def test_one_image_in_training(self) -> None:
        # At 16 px the last map is 1 x 1: its BatchNorm sees a single value per channel.
        encoder = ImageEncoder("small", "none").train()
        features = encode_valid(encoder, images(1, size=16), Packing.of(torch.tensor([True])))
        features.sum().backward()
        assert torch.isfinite(features).all()
        assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())
        assert all(module.training for module in encoder.modules())

    def test_several_images_of_a_valid_place(self) -> None:
        encoder = ImageEncoder("small", "none").eval()
        pixels, valid = images(2, 2, 3), torch.tensor([[True, False], [True, True]])
        features = encode_valid(encoder, pixels, Packing.of(valid))
        one_by_one = encode_valid(encoder, pixels, Packing.of(valid[..., None].expand(2, 2, 3)))
        assert torch.equal(features, one_by_one)


class TestAttention:
    d, n_heads = 16, 4

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        torch.manual_seed(0)
        valid = torch.tensor([[True] * 5, [True, True, False, True, False]])
        return torch.randn(2, 3, self.d), torch.randn(2, 5, self.d), valid

    def test_equals_torch(self) -> None:
        query, key, valid = self.inputs()
        ours = Attention(self.d, self.n_heads)
        theirs = nn.MultiheadAttention(self.d, self.n_heads, batch_first=True)
        theirs.load_state_dict(ours.state_dict())
        bias = torch.randn(2, 5).masked_fill(~valid, float("-inf"))
        mask = bias[:, None].expand(-1, 3, -1).repeat_interleave(self.n_heads, dim=0)
        expected, weights = theirs(query, key, key, attn_mask=mask)
        finite = bias.masked_fill(~valid, 0)
        torch.testing.assert_close(ours(query, key, key, valid, finite), expected)
        torch.testing.assert_close(ours.weights(query, key, valid, finite), weights)

    def test_no_valid_key_gives_zero_and_finite_gradients(self) -> None:
        query, key, valid = self.inputs()
        valid = torch.stack([valid[0], torch.zeros(5, dtype=torch.bool)])
        attention = Attention(self.d, self.n_heads)
        nn.init.ones_(attention.out_proj.bias)
        query.requires_grad_()
        out = attention(query, key, key, valid)
        out.square().sum().backward()
        assert not out[1].any()
        assert out[0].any()
        assert torch.isfinite(query.grad).all()
        assert not attention.weights(query, key, valid)[1].any()

    def test_masked_keys_weigh_nothing(self) -> None:
        query, key, valid = self.inputs()
        weights = Attention(self.d, self.n_heads).weights(query, key, valid)
        assert not weights[1, :, ~valid[1]].any()
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3))

    def test_width_must_split(self) -> None:
        with pytest.raises(UserError, match="width 100"):
            Attention(100, 8)

    def test_encoder_layer_equals_torch(self) -> None:
        _, x, valid = self.inputs()
        ours = EncoderLayer(self.d, self.n_heads, dropout=0.1).eval()
        theirs = nn.TransformerEncoderLayer(
            self.d, self.n_heads, 4 * self.d, dropout=0.1, batch_first=True
        ).eval()
        theirs.load_state_dict(ours.state_dict())
        expected = theirs(x, src_key_padding_mask=~valid)
        torch.testing.assert_close(ours(x, valid)[valid], expected[valid])


class TestEhrEncoder:
    @pytest.mark.parametrize(("d", "n"), [(64, 52_672), (128, 203_648), (256, 800_512)])
    def test_size_is_published(self, d: int, n: int) -> None:
        assert sum(p.numel() for p in EhrEncoder(38, d).parameters()) == n

    def test_padding_changes_nothing(self) -> None:
        torch.manual_seed(0)
        encoder = EhrEncoder(38, 16).eval()
        values, valid = torch.randn(2, 6, 38), torch.ones(2, 6, dtype=torch.bool)
        valid[1, 4:] = False
        hours, cls = encoder(values, valid)
        more = torch.cat([values.masked_fill(~valid[..., None], 99), torch.randn(2, 3, 38)], dim=1)
        longer = torch.cat([valid, torch.zeros(2, 3, dtype=torch.bool)], dim=1)
        hours_more, cls_more = encoder(more, longer)
        torch.testing.assert_close(cls_more, cls)
        torch.testing.assert_close(hours_more[longer], hours[valid])

    @pytest.mark.parametrize("length", [0, 3])
    def test_no_valid_hour_is_finite(self, length: int) -> None:
        encoder = EhrEncoder(38, 16)
        hours, cls = encoder(torch.randn(2, length, 38), torch.zeros(2, length, dtype=torch.bool))
        cls.sum().backward()
        assert hours.shape == (2, length, 16)
        assert torch.isfinite(cls).all()
        assert torch.isfinite(encoder.cls_token.grad).all()

    def test_order_enters_through_positions_only(self) -> None:
        torch.manual_seed(0)
        encoder = EhrEncoder(38, 16).eval()
        values, valid = torch.randn(1, 6, 38), torch.ones(1, 6, dtype=torch.bool)
        _, cls = encoder(values, valid)
        _, reversed_cls = encoder(values.flip(1), valid)
        assert not torch.allclose(cls, reversed_cls)
        encoder.positions = nn.Identity()
        _, cls = encoder(values, valid)
        _, reversed_cls = encoder(values.flip(1), valid)
        torch.testing.assert_close(cls, reversed_cls)

    def test_positions_are_sines(self) -> None:
        positions = SinusoidalPositions(4)(torch.zeros(1, 3, 4))[0]
        expected = [math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)]
        torch.testing.assert_close(positions[2], torch.tensor(expected))
        assert not list(SinusoidalPositions(4).parameters())

    @pytest.mark.parametrize("d", [7, 100])
    def test_width_that_does_not_fit(self, d: int) -> None:
        with pytest.raises(UserError, match=f"width {d}"):
            EhrEncoder(38, d)


class TestTaskHeads:
    @pytest.mark.parametrize(
        ("task", "shape"),
        [
            (Task.DISEASE_PROGRESSION, (5, 7, 3)),
            (Task.MORTALITY, (5, 1)),
            (Task.LENGTH_OF_STAY, (5, 4)),
        ],
    )
    def test_shapes(self, task: Task, shape: tuple[int, ...]) -> None:
        spec = TaskSpec(task, Cxr.LONG)
        heads = TaskHeads(spec, 6, 8, 0.1).eval()
        shared = torch.randn(5, 6)
        per_output = shared[:, None].expand(-1, spec.n_outputs, -1)
        assert heads(shared).shape == shape
        assert torch.equal(heads(shared), heads(per_output))

    def test_each_output_reads_its_own_row(self) -> None:
        heads = TaskHeads(TaskSpec(Task.DISEASE_PROGRESSION, Cxr.PAIR), 6, 8, 0.0)
        rows = torch.randn(1, 7, 6)
        changed = rows.clone()
        changed[:, 2] += 1
        moved = (heads(rows) != heads(changed)).any(-1)[0]
        assert moved.tolist() == [k == 2 for k in range(7)]
