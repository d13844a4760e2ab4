"""Mean field of DeepLab v1/v2's conditional random field, over a local window, in plain torch.

Pixels i and j pull each other towards one class (Potts) with the strength

    w1 · exp(−|pi − pj|² / 2·sa² − |Ii − Ij|² / 2·sb²)   appearance: near and alike
  + w2 · exp(−|pi − pj|² / 2·sg²)                        smoothness: near

The original joins every pixel with every other through an approximate filter. Here j runs over a window
around i, exactly, as in ConvCRF (Teichmann and Cipolla 2018): all on the device, and what a pixel becomes
depends on a known neighbourhood, so that tiles with that halo make no seams. Each kernel is divided by its
sum over the neighbours of i, so that w1 and w2 weigh means, whatever the window.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import product
from types import MappingProxyType
from typing import Annotated, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from deeplab_core.softmax import softmax

_Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]

# Probabilities below this are taken as it: a class that a softmax rounded to 0 stays possible.
_LEAST_PROBABILITY = 1e-8
# Where no neighbour is alike the appearance kernel may sum to 0; then it says nothing instead of NaN.
_LEAST_KERNEL_SUM = 1e-20


class CRFConfig(BaseModel):
    """Settings of the mean field; the defaults are those of DeepLab v2 with ResNet-101.

    Attributes:
        appearance_weight: w1.
        appearance_sigma_px: sa, in pixels.
        appearance_sigma_value: sb, in image values: the published numbers mean grey levels from 0 to 255.
        smoothness_weight: w2.
        smoothness_sigma_px: sg, in pixels.
        window: Odd number of neighbours along an axis, the pixel itself included.
        dilation: Distance of these neighbours in pixels; reaches farther at no cost.
        iterations: Mean-field updates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    appearance_weight: _Weight = 4.0
    appearance_sigma_px: _Scale = 67.0
    appearance_sigma_value: _Scale = 3.0
    smoothness_weight: _Weight = 3.0
    smoothness_sigma_px: _Scale = 1.0
    window: Annotated[int, Field(ge=3)] = 11
    dilation: Annotated[int, Field(ge=1)] = 1
    iterations: Annotated[int, Field(ge=1)] = 10

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.window % 2 == 0:
            raise ValueError(
                f"window must be odd, so that it has a centre, got {self.window}; take {self.window + 1}"
            )
        return self

    @property
    def radius_px(self) -> int:
        """How far one update looks, in pixels."""
        return self.window // 2 * self.dilation

    @property
    def halo_px(self) -> int:
        """How far a value can travel: a tile with this much around it gets what the whole image would."""
        return self.iterations * self.radius_px


DEEPLAB_V2_RESNET101 = CRFConfig()

CRF_PRESETS: Mapping[str, CRFConfig] = MappingProxyType(
    {
        "deeplabv1": CRFConfig(
            appearance_sigma_px=49, appearance_sigma_value=5, smoothness_weight=3, smoothness_sigma_px=3
        ),
        "deeplabv2_vgg16": CRFConfig(
            appearance_sigma_px=65, appearance_sigma_value=3, smoothness_weight=2, smoothness_sigma_px=2
        ),
        "deeplabv2_resnet101": DEEPLAB_V2_RESNET101,
    }
)
"""Parameters in circulation for the published models."""


@torch.no_grad()
def mean_field(
    probabilities_NKHW: Tensor,
    images_NCHW: Tensor,
    config: CRFConfig = DEEPLAB_V2_RESNET101,
    valid_NHW: Tensor | None = None,
) -> Tensor:
    """Sharpen class probabilities along the edges of the image; returns float32.

    Needs about five times the memory of the probabilities in float32, whatever the window: neighbours are
    visited one offset at a time.

    Args:
        probabilities_NKHW: Class probabilities of the network.
        images_NCHW: The image at the same size, any number of bands on the scale of `appearance_sigma_value`.
        config: Settings of the random field.
        valid_NHW: Pixels with data; the others keep their probabilities and pull no neighbour.
    """
    _check_inputs(probabilities_NKHW, images_NCHW, valid_NHW)
    with torch.autocast(probabilities_NKHW.device.type, enabled=False):
        given = probabilities_NKHW.float()
        if valid_NHW is None:
            valid_NHW = torch.ones_like(given[:, 0], dtype=torch.bool)
        valid_N1HW = valid_NHW[:, None]
        unary = given.clamp_min(_LEAST_PROBABILITY).log_()
        field = _LocalField(images_NCHW.float(), valid_N1HW, config)
        beliefs = given
        for _ in range(config.iterations):
            # What is masked may be NaN, and 0 × NaN would spread: select instead of multiplying.
            beliefs = softmax(field.message(torch.where(valid_N1HW, beliefs, 0.0)).add_(unary))
        return torch.where(valid_N1HW, beliefs, given)


class _LocalField:
    """The pairwise kernels of one batch of images."""

    def __init__(self, images_NCHW: Tensor, valid_N1HW: Tensor, config: CRFConfig) -> None:
        self.config = config
        # Scaled so that the squared distance of two pixels is the exponent itself.
        self.features = torch.where(valid_N1HW, images_NCHW, 0.0) / (config.appearance_sigma_value * 2**0.5)
        weights = valid_N1HW.float()
        appearance_sum, smoothness_sum = torch.zeros_like(weights), torch.zeros_like(weights)
        for offset in self._offsets():
            appearance, smoothness = self._kernels(offset)
            for here, there in _both_ways(offset):
                appearance_sum[here].addcmul_(appearance, weights[there])
                smoothness_sum[here].add_(weights[there], alpha=smoothness)
        self.appearance_share = config.appearance_weight / (appearance_sum + _LEAST_KERNEL_SUM)
        self.smoothness_share = config.smoothness_weight / (smoothness_sum + _LEAST_KERNEL_SUM)

    def message(self, beliefs_NKHW: Tensor) -> Tensor:
        """What the neighbours of every pixel say: the weighted mean of their beliefs."""
        message = torch.zeros_like(beliefs_NKHW)
        for offset in self._offsets():
            appearance, smoothness = self._kernels(offset)
            for here, there in _both_ways(offset):
                pull = self.appearance_share[here] * appearance
                pull.add_(self.smoothness_share[here], alpha=smoothness)
                message[here].addcmul_(pull, beliefs_NKHW[there])
        return message

    def _offsets(self) -> Iterator[tuple[int, int]]:
        """One of each pair of opposite offsets: the kernels are symmetric."""
        height, width = self.features.shape[-2:]
        radius, step = self.config.window // 2, self.config.dilation
        for row, column in product(range(radius + 1), range(-radius, radius + 1)):
            inside = row * step < height and abs(column) * step < width
            if (row, column) > (0, 0) and inside:
                yield row * step, column * step

    def _kernels(self, offset: tuple[int, int]) -> tuple[Tensor, float]:
        """Appearance and smoothness between every pixel and the one at an offset from it."""
        config = self.config
        squared_px = offset[0] ** 2 + offset[1] ** 2
        here, there = next(_both_ways(offset))
        bands_here, bands_there = (self.features[side].unbind(dim=1) for side in (here, there))
        near = squared_px / (2 * config.appearance_sigma_px**2)
        exponent_NHW = torch.full_like(bands_here[0], near)
        for band_here, band_there in zip(bands_here, bands_there, strict=True):
            difference = band_here - band_there
            exponent_NHW.addcmul_(difference, difference)
        smoothness = math.exp(-squared_px / (2 * config.smoothness_sigma_px**2))
        return exponent_NHW.neg_().exp_()[:, None], smoothness


def _both_ways(offset: tuple[int, int]) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """The pixels with a partner at an offset and these partners, then the same the other way round."""
    row, column = offset
    left, right = max(0, -column), max(0, column)
    every = slice(None)
    first = (every, every, slice(0, -row or None), slice(left, -right or None))
    second = (every, every, slice(row, None), slice(right, -left or None))
    yield first, second
    yield second, first


def _check_inputs(probabilities_NKHW: Tensor, images_NCHW: Tensor, valid_NHW: Tensor | None) -> None:
    batch, _, *size = probabilities_NKHW.shape
    valid_shape = (batch, *size) if valid_NHW is None else tuple(valid_NHW.shape)
    if images_NCHW.shape[:1] + images_NCHW.shape[2:] != (batch, *size) or valid_shape != (batch, *size):
        raise ValueError(
            "probabilities N×K×H×W, images N×C×H×W and valid N×H×W must agree in N, H and W, "
            f"got {tuple(probabilities_NKHW.shape)}, {tuple(images_NCHW.shape)} and {valid_shape}; "
            "resize them to one grid"
        )
    if valid_NHW is not None and valid_NHW.dtype != torch.bool:
        raise TypeError(f"valid must be a boolean mask, got {valid_NHW.dtype}; compare with nodata")
