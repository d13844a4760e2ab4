"""Convolutions on CPU whose weights already lie as the processor's library wants them.

Called with ordinary weights, oneDNN rearranges them on every call. Compiling would do it once for all, but
takes a C++ compiler and up to a minute; this takes neither. A ReLU or a sum that follows is done while the
result is still in the registers. These are the operations that torch.compile itself emits for CPU.
"""

import torch
from torch import Tensor, nn


class PackedConv2d(nn.Module):
    """A convolution for inference; the same numbers as the one it is made of.

    Args:
        conv: The convolution, padded by zeros.
        input_shape: What it will be given; other shapes work too, but may be slower.
        relu: Whether negative results become 0.
    """

    def __init__(self, conv: nn.Conv2d, input_shape: torch.Size, *, relu: bool = False) -> None:
        super().__init__()
        self.geometry = (_pair(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        reorder = torch._C._nn.mkldnn_reorder_conv2d_weight  # noqa: SLF001 - torch has no public name for it
        packed = reorder(  # type: ignore[call-arg]
            conv.weight.detach().to_mkldnn(), *self.geometry, list(input_shape)
        )
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = conv.bias
        self.activation = "relu" if relu else "none"

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Gives the feature maps."""
        return torch.ops.mkldnn._convolution_pointwise(  # noqa: SLF001
            images_NCHW, self.weight, self.bias, *self.geometry, self.activation, [], ""
        )


class PackedSumConv2d(PackedConv2d):
    """relu(convolution + other), as residual blocks end."""

    def forward(self, images_NCHW: Tensor, other_NCHW: Tensor) -> Tensor:  # type: ignore[override]
        """Gives the feature maps."""
        return torch.ops.mkldnn._convolution_pointwise.binary(  # noqa: SLF001
            images_NCHW, other_NCHW, self.weight, self.bias, *self.geometry, "add", 1.0, "relu", [], ""
        )


def _pair(padding: str | tuple[int, ...]) -> list[int]:
    if isinstance(padding, str):
        raise TypeError(f"conv.padding must be given in pixels, got {padding!r}")
    return list(padding)
