"""Batch norms are folded where, and only where, the graph allows it."""

from typing import Any

import pytest
import torch
from timm.layers import ScaledStdConv2d
from torch import Tensor, nn

from deeplab_core.config import ModelConfig
from deeplab_core.fold import fold_batchnorm
from deeplab_core.freeze_bn import freeze_batchnorm
from deeplab_core.model import build_model
from deeplab_core.sync_bn import convert_sync_batchnorm
from tests.deeplab_core.random_models import random_images, randomised, relative_difference


def model_of(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return randomised(build_model(ModelConfig(classes=("a", "b", "c"), **options)))


def num_norms(model: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())


class TestOurGraphs:
    @pytest.mark.parametrize(
        "options",
        [
            {"backbone": "resnet18"},
            {"backbone": "resnet50", "separable": True, "output_stride": 8},
            {"backbone": "mobilenet_v3_large", "arch": "deeplabv3", "head_conv": True},
            {"backbone": "xception65", "image_pooling": "fixed"},
            {"backbone": "timm/resnet18d", "aspp_refine": True},
            {"backbone": "resnet18", "arch": "deeplabv2"},
            {"arch": "torchvision/fcn_resnet50"},
        ],
        ids=lambda options: "-".join(map(str, options.values())),
    )
    def test_every_norm_is_folded_and_the_logits_stay(self, options: dict[str, Any]) -> None:
        model, images_NCHW = model_of(**options), random_images(2, 3, 65, 65)
        with torch.inference_mode():
            expected = model.lattice(images_NCHW)
        total = num_norms(model)
        folding = fold_batchnorm(model, lambda: model.lattice(images_NCHW[:1]))
        assert (len(folding.folded), folding.left, num_norms(model)) == (total, (), 0)
        with torch.inference_mode():
            assert relative_difference(model.lattice(images_NCHW), expected) < 1e-5

    @pytest.mark.parametrize("backbone", ["resnet18", "timm/efficientnet_b0"])
    @pytest.mark.parametrize("converted", [freeze_batchnorm, convert_sync_batchnorm])
    def test_frozen_and_synchronised_norms_fold_too(self, backbone: str, converted: Any) -> None:
        model, images_NCHW = model_of(backbone=backbone, output_stride=32), random_images(1, 3, 65, 65)
        with torch.inference_mode():
            expected = model.lattice(images_NCHW)
        folding = fold_batchnorm(converted(model), lambda: model.lattice(images_NCHW))
        assert folding.left == ()
        with torch.inference_mode():
            assert relative_difference(model.lattice(images_NCHW), expected) < 1e-5

    def test_norms_of_an_auxiliary_head_do_not_run_and_stay(self) -> None:
        model = model_of(backbone="resnet18", arch="deeplabv3", aux_head=True)
        folding = fold_batchnorm(model, lambda: model.lattice(random_images(1, 3, 33, 33)))
        assert folding.left == ()
        assert num_norms(model) == 1

    def test_smps_padding_convolutions_are_folded(self) -> None:
        pytest.importorskip("segmentation_models_pytorch")
        model, images_NCHW = (
            model_of(arch="smp/Unet", backbone="efficientnet-b0"),
            random_images(1, 3, 64, 64),
        )
        with torch.inference_mode():
            expected = model(images_NCHW)
        folding = fold_batchnorm(model, lambda: model(images_NCHW))
        assert folding.left == ()
        assert len(folding.folded) > 50
        with torch.inference_mode():
            assert relative_difference(model(images_NCHW), expected) < 1e-5


class NormFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x).relu())


class UsedTwice(nn.Module):
    """The convolution's output also goes past the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class ChangedBetween(nn.Module):
    """An operation in place leaves the tensor's identity but not its values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.relu_()
        return self.norm(y)


class SharedConv(nn.Module):
    """One convolution, followed by a norm at one place only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(self.conv(x)))


class StandardisedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = ScaledStdConv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class BatchStatistics(nn.Module):
    """A norm without running statistics, which no constant can stand for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class TestWhatCannotBeFolded:
    @pytest.mark.parametrize(
        "kind", [NormFirst, UsedTwice, ChangedBetween, SharedConv, StandardisedWeights, BatchStatistics]
    )
    def test_it_is_left_named_and_unchanged(self, kind: type[nn.Module]) -> None:
        torch.manual_seed(0)
        model, images_NCHW = kind().eval(), random_images(2, 3, 8, 8)
        for name, value in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                value.uniform_(0.5, 1.5)
        with torch.inference_mode():
            expected = model(images_NCHW)
        folding = fold_batchnorm(model, lambda: model(images_NCHW))
        assert (folding.folded, folding.left) == ((), ("norm",))
        with torch.inference_mode():
            assert torch.equal(model(images_NCHW), expected)

    def test_a_norm_in_training_mode_is_left(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).train()
        assert fold_batchnorm(model, lambda: model(random_images(2, 3, 8, 8))).left == ("1",)

    def test_watching_leaves_no_hooks_behind(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()

        def fails() -> None:
            model(random_images(2, 3, 8, 8))
            raise RuntimeError("in the middle")

        with pytest.raises(RuntimeError, match="in the middle"):
            fold_batchnorm(model, fails)
        assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())
