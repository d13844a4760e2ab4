"""Strides traded for dilation: the surgery that makes a classifier's encoder dense."""

from collections.abc import Iterable, Sequence
from typing import Literal

from torch import nn

DilateFirst = Literal["previous", "all"]


def make_atrous(
    stages: Sequence[Sequence[nn.Module]], *, stride: int, output_stride: int, dilate_first: DilateFirst
) -> int:
    """Trades the strides of late stages for dilation, in place.

    With "previous", the convolution that loses its stride keeps the dilation from before it and those after
    it get the doubled one: every output_stride-th value is then exactly what the strided network computes.

    Args:
        stages: Stages in order, each of which halves the map once, in its first convolution wider than 1×1.
        stride: Stride of what enters the first of them.
        output_stride: Stride to stop at.
        dilate_first: Dilation of the convolutions that lose their stride.

    Returns:
        The dilation of the last stage.
    """
    dilation = 1
    for stage in stages:
        if stride < output_stride:
            stride *= 2
            continue
        previous, dilation = dilation, dilation * 2
        for conv in convolutions(stage):
            was_strided = conv.stride != (1, 1)
            conv.stride = (1, 1)
            set_dilation(conv, previous if was_strided and dilate_first == "previous" else dilation)
    return dilation


def set_dilation(conv: nn.Conv2d, dilation: int) -> None:
    """Dilates a convolution in place and pads it so that the size of the map stays.

    Args:
        conv: A convolution with an odd kernel; a 1×1 stays as it is.
        dilation: The new dilation.
    """
    height, width = conv.kernel_size
    if height == width == 1:
        return  # means nothing there, but can cost a library's fast path
    conv.dilation = (dilation, dilation)
    conv.padding = (dilation * (height // 2), dilation * (width // 2))


def convolutions(modules: Iterable[nn.Module]) -> Iterable[nn.Conv2d]:
    """Gives the convolutions of some modules.

    Args:
        modules: Modules of any depth.

    Yields:
        Every convolution, in the order of its registration.
    """
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                yield layer
