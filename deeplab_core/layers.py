"""Convolution blocks of ASPP and heads: conv (no bias) – batch norm – ReLU, standard or separable."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from torch import nn

NormFactory = Callable[[int], nn.Module]


class Block3x3(Protocol):
    """Makes a 3×3 block that keeps the map's size, standard or separable as its maker was told."""

    def __call__(self, in_channels: int, out_channels: int, *, dilation: int = 1) -> nn.Sequential:
        """Makes one block."""


def block3x3(*, norm: NormFactory, separable: bool, mid_norm: bool) -> Block3x3:
    """Chooses the 3×3 block of a graph.

    Args:
        norm: Makes the normalisation for a number of channels.
        separable: Depthwise separable instead of standard.
        mid_norm: Only for separable: norm and ReLU after the depthwise part too.

    Returns:
        The maker of such blocks.
    """
    if separable:
        return partial(separable_conv_norm_relu, norm=norm, mid_norm=mid_norm)
    return partial(conv_norm_relu, norm=norm, kernel_size=3)


def conv_norm_relu(
    in_channels: int, out_channels: int, *, norm: NormFactory, kernel_size: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Builds conv – norm – ReLU that keeps the map's size.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        norm: Makes the normalisation for a number of channels.
        kernel_size: Odd kernel size.
        dilation: Atrous rate.

    Returns:
        The three layers.
    """
    conv = nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        bias=False,
    )
    return nn.Sequential(conv, norm(out_channels), nn.ReLU(inplace=True))


def separable_conv_norm_relu(
    in_channels: int, out_channels: int, *, norm: NormFactory, mid_norm: bool, dilation: int = 1
) -> nn.Sequential:
    """Builds a 3×3 depthwise separable convolution that keeps the map's size.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        norm: Makes the normalisation for a number of channels.
        mid_norm: Whether norm and ReLU also follow the depthwise part (TensorFlow's DeepLab: yes; smp: no).
        dilation: Atrous rate of the depthwise part.

    Returns:
        Depthwise – [norm – ReLU –] pointwise – norm – ReLU.
    """
    depthwise = nn.Conv2d(
        in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False
    )
    middle = [norm(in_channels), nn.ReLU(inplace=True)] if mid_norm else []
    return nn.Sequential(depthwise, *middle, *conv_norm_relu(in_channels, out_channels, norm=norm))


def initialise(head: nn.Module, *, logits: Iterable[nn.Module]) -> None:
    """Initialises a head: He-normal convolutions, small logits.

    Convolutions keep the variance through their ReLU. The classifiers start near zero (standard deviation
    0.01, as TensorFlow's DeepLab), so that every class begins about equally likely.

    Args:
        head: The head.
        logits: Its last convolutions.
    """
    classifiers = set(logits)
    for layer in head.modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        if layer in classifiers:
            nn.init.normal_(layer.weight, std=0.01)
        else:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
