"""The graph and the names of VainF/DeepLabV3Plus-Pytorch, written anew from its description.

Only what decides names, shapes and numbers: an oracle for the import, not a model to use.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model
from torchvision.models._utils import IntermediateLayerGetter


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int, rate: int = 1) -> list[nn.Module]:
    padding = rate * (kernel_size // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=rate, bias=False)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]


class SeparableConv(nn.Module):
    """What VainF's `--separable_conv` puts in the place of a 3×3 convolution."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        channels, rate = conv.in_channels, conv.dilation[0]
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=rate, dilation=rate, groups=channels, bias=False),
            nn.Conv2d(channels, conv.out_channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Pooling(nn.Sequential):
    def __init__(self, in_channels: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *conv_bn_relu(in_channels, 256, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(super().forward(x), size=x.shape[-2:], mode="bilinear", align_corners=False)


class Pyramid(nn.Module):
    def __init__(self, in_channels: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        branches = [nn.Sequential(*conv_bn_relu(in_channels, 256, 1))]
        branches += [nn.Sequential(*conv_bn_relu(in_channels, 256, 3, rate)) for rate in rates]
        self.convs = nn.ModuleList([*branches, Pooling(in_channels)])
        self.project = nn.Sequential(*conv_bn_relu(5 * 256, 256, 1), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([conv(x) for conv in self.convs], dim=1))


class PlusHead(nn.Module):
    def __init__(self, in_channels: int, low_channels: int, num_classes: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.project = nn.Sequential(*conv_bn_relu(low_channels, 48, 1))
        self.aspp = Pyramid(in_channels, rates)
        self.classifier = nn.Sequential(*conv_bn_relu(48 + 256, 256, 3), nn.Conv2d(256, num_classes, 1))

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        low = self.project(features["low_level"])
        context = F.interpolate(
            self.aspp(features["out"]), size=low.shape[-2:], mode="bilinear", align_corners=False
        )
        return self.classifier(torch.cat([low, context], dim=1))


def v3_head(in_channels: int, num_classes: int, rates: tuple[int, ...]) -> nn.Sequential:
    return nn.Sequential(
        Pyramid(in_channels, rates), *conv_bn_relu(256, 256, 3), nn.Conv2d(256, num_classes, 1)
    )


class VainF(nn.Module):
    """ResNet-50 DeepLab as VainF builds it."""

    def __init__(self, *, plus: bool, output_stride: int, num_classes: int, separable: bool = False) -> None:
        super().__init__()
        rates = (12, 24, 36) if output_stride == 8 else (6, 12, 18)
        network = get_model(
            "resnet50", weights=None, replace_stride_with_dilation=[False, output_stride == 8, True]
        )
        layers = {"layer4": "out", "layer1": "low_level"} if plus else {"layer4": "out"}
        self.backbone = IntermediateLayerGetter(network, return_layers=OrderedDict(layers))
        self.plus = plus
        self.classifier = (
            PlusHead(2048, 256, num_classes, rates) if plus else v3_head(2048, num_classes, rates)
        )
        if separable:
            make_separable(self.classifier)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        features = self.backbone(images_NCHW)
        logits = self.classifier(features if self.plus else features["out"])
        return F.interpolate(logits, size=images_NCHW.shape[-2:], mode="bilinear", align_corners=False)


def make_separable(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d) and child.kernel_size[0] > 1:
            setattr(module, name, SeparableConv(child))
        else:
            make_separable(child)
