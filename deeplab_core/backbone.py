"""Encoders by output stride: torchvision's ResNets and MobileNetV3, timm's Xception-65 and all its others.

Every encoder turns images_NCHW into three feature maps. Parameter names behind the prefix `backbone.` are
those of the library whose code is used, so that its weights load without a map.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import timm
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model

from deeplab_core.atrous import DilateFirst, convolutions, make_atrous, set_dilation
from deeplab_core.config import RESNETS
from deeplab_core.stem import with_in_channels


class Features(NamedTuple):
    """What an encoder gives.

    Attributes:
        low_NCHW: Stride 4, for the v3+ decoder.
        mid_NCHW: Before the last stage, for the auxiliary head.
        out_NCHW: Output stride, for the head.
    """

    low_NCHW: Tensor
    mid_NCHW: Tensor
    out_NCHW: Tensor


class Encoder(nn.Module):
    """Base of the encoders; subclasses set the number of channels of each feature map."""

    low_channels: int
    mid_channels: int
    out_channels: int

    def forward(self, images_NCHW: Tensor) -> Features:
        """Gives the three feature maps."""
        raise NotImplementedError


class ResNetEncoder(Encoder):
    """A torchvision ResNet; low = layer1, mid = layer3, out = layer4, each after its ReLU.

    Args:
        name: torchvision's name of the network.
        in_channels: Input bands.
        output_stride: 8, 16 or 32.
        dilate_first: Dilation of the first convolution of a dilated stage.
        multi_grid: Factors on the dilation of the units of the last stage.
    """

    def __init__(
        self,
        name: str,
        *,
        in_channels: int,
        output_stride: int,
        dilate_first: DilateFirst,
        multi_grid: Sequence[int] | None,
    ) -> None:
        super().__init__()
        network = get_model(name, weights=None)
        self.conv1 = with_in_channels(network.conv1, in_channels)
        self.bn1, self.relu, self.maxpool = network.bn1, network.relu, network.maxpool
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        self.out_channels = network.fc.in_features
        self.mid_channels, self.low_channels = self.out_channels // 2, self.out_channels // 8
        dilation = make_atrous(
            [[self.layer2], [self.layer3], [self.layer4]],
            stride=4,
            output_stride=output_stride,
            dilate_first=dilate_first,
        )
        if multi_grid is not None:
            for unit, factor in zip(self.layer4, multi_grid, strict=True):
                for conv in convolutions([unit]):
                    set_dilation(conv, dilation * factor)

    def forward(self, images_NCHW: Tensor) -> Features:
        """Gives the three feature maps."""
        stem = self.maxpool(self.relu(self.bn1(self.conv1(images_NCHW))))
        low = self.layer1(stem)
        mid = self.layer3(self.layer2(low))
        return Features(low, mid, self.layer4(mid))


class MobileNetV3Encoder(Encoder):
    """torchvision's MobileNetV3-Large up to its last 1×1 convolution (960 channels).

    low = the last unit at stride 4 (24 channels); mid = the first unit at stride 8 (40 channels), where
    torchvision attaches its auxiliary head.

    Args:
        in_channels: Input bands.
        output_stride: 8, 16 or 32.
        dilate_first: Dilation of the first convolution of a dilated stage.
    """

    low_channels, mid_channels, out_channels = 24, 40, 960

    def __init__(self, *, in_channels: int, output_stride: int, dilate_first: DilateFirst) -> None:
        super().__init__()
        features = get_model("mobilenet_v3_large", weights=None).features
        features[0][0] = with_in_channels(features[0][0], in_channels)
        self.features = features
        make_atrous(
            [list(features[4:7]), list(features[7:13]), list(features[13:16])],
            stride=4,
            output_stride=output_stride,
            dilate_first=dilate_first,
        )

    def forward(self, images_NCHW: Tensor) -> Features:
        """Gives the three feature maps."""
        units = list(self.features)
        low = _run(units[:4], images_NCHW)
        mid = units[4](low)
        return Features(low, mid, _run(units[5:], mid))


class XceptionEncoder(Encoder):
    """timm's aligned Xception-65, which is TensorFlow's, with DeepLab's own low-level feature.

    low = the second separable convolution of the second entry block, after its batch norm and before the
    ReLU, as in TensorFlow's DeepLab (timm's `features_only` gives the same tensor after the ReLU); mid = the
    middle flow. Xception's strides sit in the last convolution of a block, so timm's dilation is exact.

    Args:
        in_channels: Input bands.
        output_stride: 8, 16 or 32.
    """

    low_channels, mid_channels, out_channels = 256, 728, 2048
    low_block = 1  # of 21: 0–2 entry flow, 3–18 middle flow, 19–20 exit flow

    def __init__(self, *, in_channels: int, output_stride: int) -> None:
        super().__init__()
        network: Any = timm.create_model(
            "xception65", in_chans=in_channels, output_stride=output_stride, num_classes=0
        )
        self.stem: nn.Module = network.stem
        self.blocks: nn.Sequential = network.blocks

    def forward(self, images_NCHW: Tensor) -> Features:
        """Gives the three feature maps."""
        blocks = list(self.blocks)
        features = _run(blocks[: self.low_block], self.stem(images_NCHW))
        block: Any = blocks[self.low_block]
        stack = block.stack
        low = stack.conv2(stack.act2(stack.conv1(stack.act1(features))))
        # timm's own activation works in place and would overwrite the low-level feature.
        features = stack.conv3(F.relu(low)) + block.shortcut(features)
        mid = _run(blocks[self.low_block + 1 : -2], features)
        return Features(low, mid, _run(blocks[-2:], mid))


class TimmEncoder(Encoder):
    """Any timm network with a feature map at stride 4, through `features_only`.

    low = timm's feature at stride 4, mid and out = its last two. The dilation rule is timm's, which leaves
    pretrained features exact.

    Args:
        name: timm's name of the network.
        in_channels: Input bands.
        output_stride: 8, 16 or 32.
    """

    def __init__(self, name: str, *, in_channels: int, output_stride: int) -> None:
        super().__init__()
        network: Any = create_timm_features(name, in_channels=in_channels, output_stride=output_stride)
        strides: list[int] = network.feature_info.reduction()
        channels: list[int] = network.feature_info.channels()
        if getattr(network, "output_fmt", "NCHW") != "NCHW":
            raise ValueError(
                f"backbone timm/{name} must give features as NCHW for inputs of any size, got "
                f"{network.output_fmt.value}; use a convolutional network"
            )
        if 4 not in strides or strides[-1] != output_stride or len(strides) < 2:
            raise ValueError(
                f"backbone timm/{name} must give features at strides 4 and {output_stride}, got {strides}; "
                "choose another backbone or output_stride"
            )
        self.model: nn.Module = network
        self.low_index = strides.index(4)
        self.low_channels = channels[self.low_index]
        self.mid_channels, self.out_channels = channels[-2], channels[-1]

    def forward(self, images_NCHW: Tensor) -> Features:
        """Gives the three feature maps."""
        features = self.model(images_NCHW)
        return Features(features[self.low_index], features[-2], features[-1])


def create_timm_features(
    name: str, *, in_channels: int, output_stride: int, pretrained: bool = False
) -> nn.Module:
    """Builds a timm feature extractor.

    Args:
        name: timm's name of the network.
        in_channels: Input bands.
        output_stride: 8, 16 or 32.
        pretrained: Whether timm loads its published weights.

    Returns:
        timm's module, which gives a list of feature maps.

    Raises:
        ValueError: timm does not know the network, or it cannot be dilated.
    """
    if not timm.is_model(name):
        similar = get_close_matches(name, timm.list_models(), n=3)
        raise ValueError(
            f"backbone timm/{name} must be a network that timm knows; did you mean one of "
            f"{', '.join(f'timm/{known}' for known in similar) or 'timm.list_models()'}?"
        )
    # Many networks have no such argument; 32 is what they do anyway.
    options: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    try:
        return timm.create_model(
            name, features_only=True, in_chans=in_channels, pretrained=pretrained, **options
        )
    except (TypeError, AssertionError) as error:  # how its networks refuse an output_stride
        raise ValueError(
            f"backbone timm/{name} must be a network that timm can dilate to output_stride={output_stride}, "
            f"got {error!r}; use output_stride=32 or another backbone"
        ) from error


def _run(modules: Iterable[nn.Module], values: Tensor) -> Tensor:
    for module in modules:
        values = module(values)
    return values


def build_encoder(
    name: str,
    *,
    in_channels: int,
    output_stride: int,
    dilate_first: DilateFirst = "previous",
    multi_grid: Sequence[int] | None = None,
) -> Encoder:
    """Builds an encoder with random weights.

    Args:
        name: As `ModelConfig.backbone`.
        in_channels: Input bands.
        output_stride: 8, 16 or 32.
        dilate_first: Dilation rule of torchvision encoders.
        multi_grid: Factors on the dilation of the last ResNet stage.

    Returns:
        The encoder.
    """
    if name in RESNETS:
        return ResNetEncoder(
            name,
            in_channels=in_channels,
            output_stride=output_stride,
            dilate_first=dilate_first,
            multi_grid=multi_grid,
        )
    if name == "mobilenet_v3_large":
        return MobileNetV3Encoder(
            in_channels=in_channels, output_stride=output_stride, dilate_first=dilate_first
        )
    if name == "xception65":
        return XceptionEncoder(in_channels=in_channels, output_stride=output_stride)
    return TimmEncoder(name.removeprefix("timm/"), in_channels=in_channels, output_stride=output_stride)
