"""Convolutions on CPU in 8 bits: twice as fast as in bf16 where the processor multiplies bytes.

Inputs are bytes on one scale for the whole tensor, weights on one for each output channel, sums are exact.
A ReLU, the sum of a residual block and the rounding to the next convolution's bytes are done while the
result is still in the registers. These are the operations that torch.compile emits for quantised networks.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from deeplab_core.calibration import Statistics

_STEPS = 255
_LARGEST_WEIGHT = 127


@dataclass(frozen=True)
class Bytes:
    """How real values are kept as bytes: value = (byte - zero) · scale.

    Attributes:
        scale: Distance between two neighbouring values.
        zero: The byte that means 0.0.
    """

    scale: float
    zero: int

    @classmethod
    def of(cls, statistics: Statistics) -> Self:
        """The finest scale on which all values seen have their place."""
        scale = (statistics.high - statistics.low) / _STEPS
        if scale < torch.finfo(torch.float32).tiny:  # always 0, up to what float32 can tell
            return cls(1.0, 0)
        return cls(scale, round(-statistics.low / scale))

    def encode(self, values: Tensor) -> Tensor:
        """Gives the nearest bytes; what lies beyond becomes the smallest or the largest."""
        steps = values * (1.0 / self.scale)
        return (steps.add_(self.zero) if self.zero else steps).round_().clamp_(0, _STEPS).to(torch.uint8)

    def decode(self, encoded: Tensor, dtype: torch.dtype) -> Tensor:
        """Gives the values."""
        steps = encoded.to(dtype)
        return (steps.sub_(self.zero) if self.zero else steps).mul_(self.scale)


class Int8Conv2d(nn.Module):
    """A convolution for inference that takes bytes, or values which it encodes itself.

    Args:
        conv: The convolution in float32, padded by zeros, of one group.
        statistics: Of its inputs.
        input_shape: What it will be given; other shapes work too, but may be slower.
        dtype: Type of its results, float32 or bfloat16; and of inputs that are not bytes.
        relu: Whether negative results become 0.
        gives: How results are encoded; left out, they are values.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        statistics: Statistics,
        input_shape: torch.Size,
        *,
        dtype: torch.dtype,
        relu: bool = False,
        gives: Bytes | None = None,
    ) -> None:
        super().__init__()
        if isinstance(conv.padding, str):
            raise TypeError(f"conv.padding must be given in pixels, got {conv.padding!r}")
        self.takes, self.gives, self.dtype, self.relu = Bytes.of(statistics), gives, dtype, relu
        self.geometry = (list(conv.stride), list(conv.padding), list(conv.dilation), conv.groups)
        weight_OCKK, scale_O = _to_int8(conv.weight.detach())
        # Kept as plain attributes: a module's tensors change type with it, and these must not.
        self._weight = torch.ops.onednn.qconv_prepack(
            weight_OCKK, scale_O, self.takes.scale, self.takes.zero, *self.geometry, list(input_shape)
        )
        self._scale_O, self._zero_O = scale_O, torch.zeros(len(scale_O), dtype=torch.int32)
        self._bias_O = _corrected_bias(conv, weight_OCKK, scale_O, statistics.mean_C)

    def encode(self, images_NCHW: Tensor) -> Tensor:
        """Gives the bytes it takes; bytes stay as they are."""
        return images_NCHW if images_NCHW.dtype is torch.uint8 else self.takes.encode(images_NCHW)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Gives the feature maps."""
        return torch.ops.onednn.qconv2d_pointwise(
            *self._operands(images_NCHW),
            self._bias_O,
            *self.geometry,
            *self._result(),
            "relu" if self.relu else "none",
            [],
            "",
        )

    def _operands(self, images_NCHW: Tensor) -> tuple[Tensor, float, int, Tensor, Tensor, Tensor]:
        encoded_NCHW = self.encode(images_NCHW)
        return encoded_NCHW, self.takes.scale, self.takes.zero, self._weight, self._scale_O, self._zero_O

    def _result(self) -> tuple[float, int, torch.dtype]:
        if self.gives is None:
            return 1.0, 0, self.dtype
        return self.gives.scale, self.gives.zero, torch.uint8


class Int8SumConv2d(Int8Conv2d):
    """relu(convolution + other), as residual blocks end; takes over the memory of `other`.

    Args:
        conv: As for `Int8Conv2d`, and so are the rest.
        statistics: Of its inputs.
        input_shape: What it will be given.
        dtype: Type of values.
        adds: How `other` is encoded, if results are.
        gives: How results are encoded.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        statistics: Statistics,
        input_shape: torch.Size,
        *,
        dtype: torch.dtype,
        adds: Bytes | None = None,
        gives: Bytes | None = None,
    ) -> None:
        super().__init__(conv, statistics, input_shape, dtype=dtype, relu=True, gives=gives)
        if (adds is None) is not (gives is None):
            raise ValueError("what is added and what is given must both be bytes or both be values")
        self.adds = adds or Bytes(1.0, 0)

    def forward(self, images_NCHW: Tensor, other_NCHW: Tensor) -> Tensor:  # type: ignore[override]
        """Gives the feature maps; both, `other` and they, are bytes, or neither is."""
        return torch.ops.onednn.qconv2d_pointwise.binary(
            *self._operands(images_NCHW),
            other_NCHW.contiguous(memory_format=torch.channels_last),  # it takes no other layout
            self._bias_O,
            *self.geometry,
            *self._result(),
            self.adds.scale,
            self.adds.zero,
            "sum",
            1.0,
            "relu",
            [],
            "",
        )


def _to_int8(weight_OCKK: Tensor) -> tuple[Tensor, Tensor]:
    largest_O = weight_OCKK.abs().amax(dim=(1, 2, 3))
    scale_O = torch.where(largest_O > 0, largest_O / _LARGEST_WEIGHT, 1.0)
    return (weight_OCKK / scale_O[:, None, None, None]).round().to(torch.int8), scale_O


def _corrected_bias(conv: nn.Conv2d, weight_OCKK: Tensor, scale_O: Tensor, mean_C: Tensor) -> Tensor:
    """The bias less what rounding the weights adds on average; half of the error of 8 bits is that."""
    rounded = weight_OCKK.double() * scale_O.double()[:, None, None, None]
    shift_OC = (rounded - conv.weight.detach().double()).sum(dim=(2, 3))
    bias_O = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
    return (bias_O.double() - shift_OC @ mean_C.double()).float()
