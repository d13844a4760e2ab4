"""A network for CPU made of faster parts: packed convolutions, fused residual blocks, Winograd.

Measured on two cores in bf16, all in one run, crops of 513 px one by one, not compiled:

| | ResNet-50 v3+ | MobileNetV3 v3+ |
|---|---|---|
| as it was | 291 ms | 109 ms |
| weights packed | 274 ms | 106 ms |
| and Winograd in the decoder | 263 ms | 97 ms |
| and residual blocks fused | 257 ms | |

torch.compile, which packs and fuses too, takes 286 ms: nothing is left for it to gain. Nor for us: but for
Winograd's additions all convolutions run at 210 to 225 GMAC a second, which is what two such cores can do.
In fp32 it is 579 against 620 ms as it was and 613 compiled, and with a MobileNetV3 194 against 223 and 219.
"""

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from deeplab_core.fast_decoder import FastDecoderHead, SumConv2d
from deeplab_core.input_shapes import input_shapes
from deeplab_core.model import DeepLab
from deeplab_core.packed_conv import PackedConv2d, PackedSumConv2d
from deeplab_core.segmenter import Segmenter
from deeplab_core.winograd import WinogradConv2d

_WINOGRAD_CHANNELS = 512
"""In an encoder, narrower convolutions than this gain nothing by it: their images are small."""


def can_pack() -> bool:
    """Whether this build of torch has the operations."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def pack(model: Segmenter, example_NCHW: Tensor) -> int:
    """Exchanges what is slow, in place.

    Args:
        model: A model for inference with folded norms, on CPU, in its final precision and layout.
        example_NCHW: Crops as they will be given.

    Returns:
        How many convolutions were exchanged.
    """
    if isinstance(model, DeepLab) and isinstance(model.head, FastDecoderHead):
        _speed_up_last_convolution(model.head)
    shapes = input_shapes(model, example_NCHW)
    for path, block in list(model.named_modules()):
        if type(block) is Bottleneck and _is_folded(block):
            model.set_submodule(path, FusedBottleneck(block, {c: shapes[f"{path}.{c}"] for c in _CONVS}))
        elif type(block) is SumConv2d:
            model.set_submodule(path, PackedSumConv2d(block.conv, shapes[f"{path}.conv"]))
    for path, conv in list(model.named_modules()):
        if type(conv) is nn.Conv2d and path in shapes and _is_plain(conv):
            model.set_submodule(path, PackedConv2d(conv, shapes[path]))
    return sum(isinstance(part, PackedConv2d | WinogradConv2d) for part in model.modules())


_CONVS = ("conv1", "conv2", "conv3")


class FusedBottleneck(nn.Module):
    """torchvision's residual block with folded norms, its ReLUs and its sum done by the convolutions.

    Args:
        block: The block.
        shapes: What each of its convolutions is given.
    """

    def __init__(self, block: Bottleneck, shapes: dict[str, torch.Size]) -> None:
        super().__init__()
        self.conv1 = PackedConv2d(block.conv1, shapes["conv1"], relu=True)
        self.conv2: nn.Module = (
            WinogradConv2d(block.conv2, relu=True)
            if _suits_winograd(block.conv2) and block.conv2.in_channels >= _WINOGRAD_CHANNELS
            else PackedConv2d(block.conv2, shapes["conv2"], relu=True)
        )
        self.conv3 = PackedSumConv2d(block.conv3, shapes["conv3"])
        self.downsample = block.downsample

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Gives the feature maps."""
        shortcut = images_NCHW if self.downsample is None else self.downsample(images_NCHW)
        return self.conv3(self.conv2(self.conv1(images_NCHW)), shortcut)


def _speed_up_last_convolution(head: FastDecoderHead) -> None:
    """The decoder's second convolution with the ReLU after it, if it has one of either."""
    for index, block in enumerate(head.rest):
        if isinstance(block, nn.Sequential):
            conv, *others = (part for part in block if not isinstance(part, nn.Identity))
            is_relu = [type(part) for part in others] == [nn.ReLU]
            if isinstance(conv, nn.Conv2d) and _suits_winograd(conv) and is_relu:
                head.rest[index] = WinogradConv2d(conv, relu=True)


def _is_plain(conv: nn.Conv2d) -> bool:
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _suits_winograd(conv: nn.Conv2d) -> bool:
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.groups)
    is_square = len(set(conv.dilation)) == 1
    return geometry == ((3, 3), (1, 1), conv.dilation, 1) and is_square and conv.bias is not None


def _is_folded(block: Bottleneck) -> bool:
    are_folded = all(isinstance(norm, nn.Identity) for norm in (block.bn1, block.bn2, block.bn3))
    are_as_they_were = all(type(conv) is nn.Conv2d for conv in (block.conv1, block.conv2, block.conv3))
    return are_folded and are_as_they_were and isinstance(block.relu, nn.ReLU)
