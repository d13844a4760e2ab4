"""Raw pixels as a network sees them."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.raster.source import Pixels

STRIP_PX = 1024


class Normaliser:
    """Brings raw pixels to a network's scale, on its device.

    Args:
        gain: Factor of each band.
        bias: Added after the factor.
        device: Where the result shall lie.
        dtype: Its type.
    """

    def __init__(
        self, gain: Sequence[float], bias: Sequence[float], *, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._device, self._dtype = device, dtype
        self._gain = torch.tensor(gain, device=device).view(-1, 1, 1)
        self._bias = torch.tensor(bias, device=device).view(-1, 1, 1)

    def __call__(self, pixels: Pixels) -> Tensor:
        """Gives images_CHW, channels last in memory; 0, the mean, where nothing is valid."""
        channels, height, width = pixels.samples_CHW.shape
        images = torch.empty((height, width, channels), dtype=self._dtype, device=self._device).permute(
            2, 0, 1
        )
        for top in range(0, height, STRIP_PX):
            rows = slice(top, top + STRIP_PX)
            strip = self._upload(pixels.samples_CHW[:, rows]).to(torch.float32)
            strip.mul_(self._gain).add_(self._bias)
            strip.mul_(self._upload(pixels.valid_HW[rows]))
            if pixels.missing_CHW is not None:
                strip.masked_fill_(self._upload(pixels.missing_CHW[:, rows]), 0.0)
            images[:, rows] = strip
        return images

    def _upload(self, array: NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self._device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)
