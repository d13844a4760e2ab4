"""The contracts of a model: one lattice, any input size, symmetry, gradients everywhere, calm in eval."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deeplab_core.aspp import ImagePooling
from deeplab_core.config import DEEPLAB_ARCHS, ModelConfig
from deeplab_core.model import build_model
from deeplab_core.segmenter import Segmenter
from tests.deeplab_core.random_models import random_images, randomised, relative_difference

BACKBONES = ("resnet18", "mobilenet_v3_large", "xception65", "timm/mobilenetv3_small_050")


def model_of(arch: str = "deeplabv3plus", backbone: str = "resnet18", **options: Any) -> Segmenter:
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {"arch": arch, "backbone": backbone, "classes": ["water", "forest", "built"]} | options
    )
    return build_model(config)


class TestLattice:
    @pytest.mark.parametrize("align_corners", [True, False])
    @pytest.mark.parametrize("output_stride", [8, 16, 32])
    @pytest.mark.parametrize("arch", DEEPLAB_ARCHS)
    def test_is_the_full_size_result_at_its_nodes(
        self, arch: str, output_stride: int, align_corners: bool
    ) -> None:
        model = randomised(model_of(arch, output_stride=output_stride, align_corners=align_corners))
        images_NCHW = random_images(1, 3, 129, 65)
        with torch.inference_mode():
            nodes_NKHW, full_NKHW = model.lattice(images_NCHW), model(images_NCHW)
        assert nodes_NKHW.shape == (1, 3, 33, 17)
        assert full_NKHW.shape == (1, 3, 129, 65)
        assert relative_difference(nodes_NKHW, full_NKHW[:, :, ::4, ::4]) < 1e-5

    @pytest.mark.parametrize("backbone", BACKBONES)
    def test_does_not_depend_on_the_encoder(self, backbone: str) -> None:
        model = randomised(model_of(backbone=backbone))
        images_NCHW = random_images(1, 3, 65, 65)
        with torch.inference_mode():
            expected = model(images_NCHW)[:, :, ::4, ::4]
            assert relative_difference(model.lattice(images_NCHW), expected) < 1e-5

    @pytest.mark.parametrize("size_px", [(64, 96), (67, 33), (3, 130)])
    def test_holds_for_other_sizes_too(self, size_px: tuple[int, int]) -> None:
        model = randomised(model_of())
        images_NCHW = random_images(1, 3, *size_px)
        with torch.inference_mode():
            expected = model(images_NCHW)[:, :, ::4, ::4]
            assert relative_difference(model.lattice(images_NCHW), expected) < 1e-5

    def test_states_its_stride_and_the_sizes_that_fit(self) -> None:
        model = model_of(output_stride=32)
        assert (model.lattice_stride, model.input_multiple_px) == (4, 32)
        model.check_input_size(513, 33)
        model.check_input_size(1, 1)
        with pytest.raises(
            ValueError, match=r"crop width must be k·32 \+ 1 px .* got 512 px; use 481 or 513 px"
        ):
            model.check_input_size(513, 512)
        with pytest.raises(ValueError, match=r"crop height must be .* got 0 px; use 1 or 33 px"):
            model.check_input_size(0, 33)


class TestAnyInput:
    @pytest.mark.parametrize("arch", DEEPLAB_ARCHS)
    @pytest.mark.parametrize("size_px", [(1, 1), (2, 3), (5, 1), (31, 47), (64, 64)])
    def test_size_gives_logits_of_that_size(self, arch: str, size_px: tuple[int, int]) -> None:
        model = randomised(model_of(arch))
        with torch.inference_mode():
            logits_NKHW = model(random_images(2, 3, *size_px))
            nodes_NKHW = model.lattice(random_images(2, 3, *size_px))
        assert logits_NKHW.shape == (2, 3, *size_px)
        assert nodes_NKHW.shape == (2, 3, (size_px[0] - 1) // 4 + 1, (size_px[1] - 1) // 4 + 1)
        assert torch.isfinite(logits_NKHW).all()

    @pytest.mark.parametrize("backbone", BACKBONES)
    @pytest.mark.parametrize("image_pooling", ["global", "fixed", "none"])
    def test_single_pixel_passes_every_encoder_and_pooling(self, backbone: str, image_pooling: str) -> None:
        model = randomised(model_of(backbone=backbone, image_pooling=image_pooling, separable=True))
        with torch.inference_mode():
            assert model(random_images(1, 3, 1, 1)).shape == (1, 3, 1, 1)

    @pytest.mark.parametrize("backbone", BACKBONES)
    @pytest.mark.parametrize("in_channels", [1, 4, 13])
    def test_number_of_bands_and_classes(self, backbone: str, in_channels: int) -> None:
        classes = [f"class {index}" for index in range(7)]
        model = randomised(model_of(backbone=backbone, in_channels=in_channels, classes=classes))
        with torch.inference_mode():
            assert model(random_images(1, in_channels, 33, 33)).shape == (1, 7, 33, 33)

    def test_images_of_a_batch_do_not_see_each_other(self) -> None:
        model = randomised(model_of(separable=True))
        images_NCHW = random_images(5, 3, 65, 65)
        with torch.inference_mode():
            together = model(images_NCHW)
            apart = torch.cat([model(images_NCHW[index : index + 1]) for index in range(5)])
            pairs = torch.cat([model(images_NCHW[[4, index]])[1:] for index in range(5)])
        assert relative_difference(apart, together) < 1e-5
        assert relative_difference(pairs, together) < 1e-5

    def test_memory_format_is_kept_and_changes_nothing(self) -> None:
        model = randomised(model_of())
        images_NCHW = random_images(2, 3, 65, 65)
        with torch.inference_mode():
            expected = model.lattice(images_NCHW)
            model.to(memory_format=torch.channels_last)
            got = model.lattice(images_NCHW.to(memory_format=torch.channels_last))
        assert got.is_contiguous(memory_format=torch.channels_last)
        assert relative_difference(got, expected) < 1e-5


def symmetrised(model: Segmenter) -> Segmenter:
    """Makes kernels equal to their mirror images: the network then commutes with a flip if its grid does."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.copy_((layer.weight + layer.weight.flip(-1)) / 2)
    return model


class TestFlips:
    @pytest.mark.parametrize(
        "options",
        [
            *({"arch": arch} for arch in DEEPLAB_ARCHS),
            {"output_stride": 8, "separable": True},
            {"align_corners": False},
            {"image_pooling": "fixed", "image_pooling_crop_px": 65},
            {"backbone": "mobilenet_v3_large"},
            {"backbone": "xception65"},
            {"backbone": "resnet50", "multi_grid": (1, 2, 4)},
        ],
    )
    def test_of_the_image_flip_the_result_on_inputs_of_k_16_plus_1(self, options: dict[str, Any]) -> None:
        model = symmetrised(randomised(model_of(**options)))
        images_NCHW = random_images(1, 3, 97, 129)
        with torch.inference_mode():
            for run in (model, model.lattice):
                assert relative_difference(run(images_NCHW.flip(-1)), run(images_NCHW).flip(-1)) < 1e-5

    def test_do_not_on_even_inputs(self) -> None:
        """Why crops are k·16 + 1 px; and the test above can see a shifted grid."""
        model = symmetrised(randomised(model_of()))
        images_NCHW = random_images(1, 3, 96, 128)
        with torch.inference_mode():
            assert relative_difference(model(images_NCHW.flip(-1)), model(images_NCHW).flip(-1)) > 0.01


class TestTraining:
    @pytest.mark.parametrize(
        "options",
        [
            *(
                {"arch": arch, "backbone": name}
                for arch in DEEPLAB_ARCHS
                for name in ("resnet18", "mobilenet_v3_large")
            ),
            *({"backbone": name} for name in ("resnet50", "xception65", "timm/mobilenetv3_small_050")),
            {"output_stride": 8, "separable": True, "image_pooling": "none", "decoder_convs": 1},
            {"arch": "deeplabv3", "head_conv": True, "aux_head": True, "separable": True},
            {"aspp_refine": True, "separable": True, "separable_mid_norm": False, "aux_head": True},
            {"backbone": "mobilenet_v3_large", "aux_head": True, "image_pooling": "fixed"},
            {"backbone": "timm/efficientnet_b0", "in_channels": 5},
        ],
        ids=str,
    )
    def test_every_parameter_gets_a_gradient(self, options: dict[str, Any]) -> None:
        model = model_of(**options)
        logits_NKHW, aux_NKHW = model.forward_with_aux(
            random_images(2, options.get("in_channels", 3), 65, 65)
        )
        assert (aux_NKHW is not None) == options.get("aux_head", False)
        # Squares, since a plain sum has no gradient through batch norm.
        loss = logits_NKHW.square().mean()
        if aux_NKHW is not None:
            assert aux_NKHW.shape == logits_NKHW.shape
            loss = loss + aux_NKHW.square().mean()
        loss.backward()
        without = [
            name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()
        ]
        assert without == []

    def test_groups_hold_every_parameter_once(self) -> None:
        model = model_of(aux_head=True)
        groups = model.parameter_groups()
        assert set(groups) == {"encoder", "head"}
        assert {id(p) for p in groups["encoder"]} == {id(p) for p in model.encoder.parameters()}
        together = [id(parameter) for group in groups.values() for parameter in group]
        assert sorted(together) == sorted(id(parameter) for parameter in model.parameters())

    def test_dropout_acts_in_training_only(self) -> None:
        model = model_of(aspp_dropout=0.5)
        images_NCHW = random_images(2, 3, 65, 65)
        with torch.no_grad():
            assert not torch.equal(model(images_NCHW), model(images_NCHW))
            model.eval()
            assert torch.equal(model(images_NCHW), model(images_NCHW))

    def test_weights_follow_the_seed(self) -> None:
        config = ModelConfig(backbone="resnet18", classes=("a", "b"), aux_head=True)
        torch.manual_seed(7)
        first = build_model(config).state_dict()
        torch.manual_seed(7)
        second = build_model(config).state_dict()
        third = build_model(config).state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert not torch.equal(first["head.logits.weight"], third["head.logits.weight"])

    def test_classes_begin_about_equally_likely(self) -> None:
        model = model_of().train()
        with torch.no_grad():
            probabilities_NKHW = model(random_images(4, 3, 65, 65)).softmax(dim=1)
        assert probabilities_NKHW.mean(dim=(0, 2, 3)).tolist() == pytest.approx([1 / 3] * 3, abs=0.1)

    def test_batch_norm_settings_reach_their_part(self) -> None:
        model = model_of(
            backbone_bn_momentum=0.05, backbone_bn_eps=1e-3, head_bn_momentum=0.0003, head_bn_eps=1e-4
        )
        settings = {
            (name.partition(".")[0], layer.momentum, layer.eps)
            for name, layer in model.named_modules()
            if isinstance(layer, nn.BatchNorm2d)
        }
        assert settings == {("backbone", 0.05, 1e-3), ("head", 0.0003, 1e-4)}

    @pytest.mark.parametrize("image_pooling", ["global", "fixed"])
    def test_a_batch_of_one_is_explained(self, image_pooling: str) -> None:
        model = model_of(image_pooling=image_pooling)
        with pytest.raises(
            ValueError, match=r"more than one value per channel .* batch of 1; use a larger batch"
        ):
            model(random_images(1, 3, 65, 65))

    @pytest.mark.parametrize("options", [{"image_pooling": "none"}, {"arch": "deeplabv2"}])
    def test_a_batch_of_one_trains_without_image_pooling(self, options: dict[str, Any]) -> None:
        model = model_of(**options)
        model(random_images(1, 3, 65, 65)).square().mean().backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)

    def test_a_batch_of_one_trains_with_frozen_batch_norm(self) -> None:
        model = model_of().train()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
        assert torch.isfinite(model(random_images(1, 3, 65, 65))).all()


class TestImagePooling:
    def windowed(self, window: int | None) -> ImagePooling:
        torch.manual_seed(0)
        return randomised(ImagePooling(8, norm=nn.BatchNorm2d, window=window))

    @torch.inference_mode()
    def run(self, pooling: ImagePooling, features_NCHW: Tensor) -> Tensor:
        return pooling(features_NCHW)

    @pytest.mark.parametrize("crop_px", [65, 129, 513])
    def test_fixed_equals_global_up_to_the_training_crop(self, crop_px: int) -> None:
        fixed = randomised(model_of(image_pooling="fixed", image_pooling_crop_px=crop_px))
        everywhere = model_of(image_pooling="global").eval()
        everywhere.load_state_dict(fixed.state_dict())
        images_NCHW = random_images(1, 3, 65, 49)
        with torch.inference_mode():
            assert relative_difference(fixed(images_NCHW), everywhere(images_NCHW)) < 1e-6

    def test_fixed_averages_the_window_around_each_position(self) -> None:
        features_NCHW = random_images(1, 8, 7, 11)
        pooling = self.windowed(5)
        got = self.run(pooling, features_NCHW)
        for row, column in [(0, 0), (3, 5), (6, 10), (1, 4), (4, 8)]:
            # Shifted inwards where it would leave the map.
            top, left = min(max(row - 2, 0), 7 - 5), min(max(column - 2, 0), 11 - 5)
            window = features_NCHW[:, :, top : top + 5, left : left + 5].mean(dim=(2, 3), keepdim=True)
            with torch.inference_mode():
                expected = pooling.project(window)
            torch.testing.assert_close(got[:, :, row : row + 1, column : column + 1], expected)

    def test_fixed_is_whole_along_a_shorter_side(self) -> None:
        features_NCHW = random_images(1, 8, 3, 9)
        pooling = self.windowed(5)
        got = self.run(pooling, features_NCHW)
        assert got.shape[-2:] == (3, 9)
        with torch.inference_mode():
            expected = pooling.project(features_NCHW[:, :, :, 2:7].mean(dim=(2, 3), keepdim=True))
        torch.testing.assert_close(got[:, :, :, 4:5], expected.expand(-1, -1, 3, 1))

    def test_global_is_the_same_everywhere(self) -> None:
        got = self.run(self.windowed(None), random_images(2, 8, 5, 6))
        torch.testing.assert_close(got, got[:, :, :1, :1].expand(-1, -1, 5, 6))

    def test_even_windows_reach_one_further_right_and_down(self) -> None:
        features_NCHW = random_images(1, 8, 7, 9)
        pooling = self.windowed(4)
        got = self.run(pooling, features_NCHW)
        assert got.shape == (1, 256, 7, 9)
        with torch.inference_mode():
            expected = pooling.project(features_NCHW[:, :, 2:6, 4:8].mean(dim=(2, 3), keepdim=True))
        torch.testing.assert_close(got[:, :, 3:4, 5:6], expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"arch": "deeplabv3", "align_corners": False},
        {"image_pooling": "fixed", "image_pooling_crop_px": 33},
    ],
)
def test_graph_is_traced_whole(options: dict[str, Any]) -> None:
    """No Python that depends on data, which would break the graph that a compiler sees."""
    model = randomised(model_of(**options))
    images_NCHW = random_images(1, 3, 65, 65)
    with torch.inference_mode():
        traced = torch.compile(model.lattice, backend="eager", fullgraph=True)
        assert relative_difference(traced(images_NCHW), model.lattice(images_NCHW)) < 1e-5
