"""How a crop is changed before the network sees it: drawn from its own generator, applied by torchvision.

What is drawn is plain data, apart from its application: torchvision's random transforms take from torch's
global generator, whose state would depend on the order in which threads load.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pipeline.raster.window import Window
from pipeline.train.config import AugmentSettings
from pipeline.train.tiles.tile_reader import IGNORE

MAX_PATCHES = 3
PATCH_SHARE = (0.05, 0.4)
"""Side of a patch without data, as a share of the crop's."""
LEAST_SIGMA_PX = 0.3


@dataclass(frozen=True)
class Change:
    """What happens to one crop, in this order.

    Attributes:
        mirror: Left to right.
        upend: Top to bottom.
        turns: Quarter turns counter-clockwise.
        contrast_C: Factors on the bands, whose mean is 0.
        brightness_C: Shifts of the bands in standard deviations.
        sigma_px: Of a blur, or None.
        patches: Places that lose their data.
    """

    mirror: bool
    upend: bool
    turns: int
    contrast_C: NDArray[np.float32]
    brightness_C: NDArray[np.float32]
    sigma_px: float | None
    patches: tuple[Window, ...]


@dataclass(frozen=True)
class Crop:
    """A crop on its way: normalised, C×H×W, with labels and where there is data, both 1×H×W.

    The image is 0, the mean, wherever there is no data.
    """

    image: tv_tensors.Image
    labels: tv_tensors.Mask
    valid: tv_tensors.Mask


def draw_scale(rng: np.random.Generator, settings: AugmentSettings) -> float:
    """A magnification."""
    smallest, largest = settings.scale
    return math.exp(rng.uniform(math.log(smallest), math.log(largest)))


def draw_change(
    rng: np.random.Generator, settings: AugmentSettings, *, num_bands: int, crop_px: int
) -> Change:
    """What happens to one crop.

    Args:
        rng: Generator of the sample.
        settings: What may happen, and how much.
        num_bands: Bands of the image.
        crop_px: Side of the crop.
    """
    mirror, upend = (bool(settings.flips and rng.random() < 0.5) for _ in range(2))
    turns = int(rng.integers(4)) if settings.quarter_turns else 0
    contrast_C = np.exp(_shared_and_own(rng, settings.contrast, num_bands))
    brightness_C = _shared_and_own(rng, settings.brightness, num_bands)
    sigma_px = None
    if rng.random() < settings.blur_share:
        sigma_px = rng.uniform(min(LEAST_SIGMA_PX, settings.blur_sigma_px), settings.blur_sigma_px)
    patches: tuple[Window, ...] = ()
    if rng.random() < settings.nodata_share:
        patches = tuple(_draw_patch(rng, crop_px) for _ in range(rng.integers(1, MAX_PATCHES + 1)))
    return Change(mirror, upend, turns, contrast_C, brightness_C, sigma_px, patches)


def resize_crop(crop: Crop, side_px: int) -> Crop:
    """The crop at another size: the image bilinearly, without aliasing, the masks by nearest neighbour.

    Args:
        crop: A square crop.
        side_px: Its new side.
    """
    if crop.image.shape[-2:] == (side_px, side_px):
        return crop
    size = [side_px, side_px]
    image = F.resize(crop.image, size, interpolation=InterpolationMode.BILINEAR, antialias=True)
    return Crop(image, _resize_mask(crop.labels, size), _resize_mask(crop.valid, size))


def apply_change(crop: Crop, change: Change) -> Crop:
    """The changed crop; still 0 and without label wherever there is no data.

    Args:
        crop: A square crop.
        change: What happens to it.
    """
    image, labels, valid = crop.image, crop.labels, crop.valid
    if change.mirror:
        image, labels, valid = (F.horizontal_flip(part) for part in (image, labels, valid))
    if change.upend:
        image, labels, valid = (F.vertical_flip(part) for part in (image, labels, valid))
    if change.turns:  # of a square by right angles: torchvision moves pixels and interpolates nothing
        image, labels, valid = (F.rotate(part, 90.0 * change.turns) for part in (image, labels, valid))
    if change.sigma_px is not None:
        image = F.gaussian_blur(image, [2 * math.ceil(2 * change.sigma_px) + 1] * 2, [change.sigma_px] * 2)
    valid_1HW = valid.as_subclass(torch.Tensor).clone()
    for patch in change.patches:
        valid_1HW[:, *patch.slices] = False
    contrast_C11 = torch.from_numpy(change.contrast_C)[:, None, None]
    brightness_C11 = torch.from_numpy(change.brightness_C)[:, None, None]
    image_CHW = (image.as_subclass(torch.Tensor) * contrast_C11).add_(brightness_C11).mul_(valid_1HW)
    labels_1HW = labels.as_subclass(torch.Tensor).masked_fill(~valid_1HW, IGNORE)
    return Crop(tv_tensors.Image(image_CHW), tv_tensors.Mask(labels_1HW), tv_tensors.Mask(valid_1HW))


def _resize_mask(mask: tv_tensors.Mask, size: list[int]) -> tv_tensors.Mask:
    """Torchvision resizes a Mask by NEAREST, which moves it by up to half a pixel against its image."""
    values = mask.as_subclass(torch.Tensor)
    resized = F.resize(values.to(torch.uint8), size, interpolation=InterpolationMode.NEAREST_EXACT)
    return tv_tensors.Mask(resized.to(values.dtype))


def _shared_and_own(rng: np.random.Generator, largest: float, num_bands: int) -> NDArray[np.float32]:
    """Half of the change is that of light and haze, common to all bands; half is each band's own."""
    shared = rng.uniform(-largest / 2, largest / 2)
    return (shared + rng.uniform(-largest / 2, largest / 2, num_bands)).astype(np.float32)


def _draw_patch(rng: np.random.Generator, crop_px: int) -> Window:
    height, width = (max(1, round(crop_px * share)) for share in rng.uniform(*PATCH_SHARE, 2))
    row, col = rng.integers(0, crop_px - height + 1), rng.integers(0, crop_px - width + 1)
    return Window(int(row), int(col), height, width)
