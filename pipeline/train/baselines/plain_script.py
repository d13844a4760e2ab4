"""The plain script: DeepLabV3Plus of segmentation_models_pytorch, trained as most people would at first.

Random crops at their own size, flips and quarter turns, cross-entropy, AdamW, poly decay, bf16 where the
device computes in it. It shares with ``jobs/train.py`` how pixels are read and normalised, and nothing of how
the network learns: no magnification, no sampling of rare classes, no warm-up, no average of weights. It is
run as such scripts are: a window at a time, of which the middle is kept.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_core.config import ModelConfig
from deeplab_core.model import build_model
from deeplab_core.segmenter import Segmenter
from pipeline.raster.window import Window
from pipeline.train.baselines.judged import Judged
from pipeline.train.baselines.settings import ScriptSettings
from pipeline.train.samples.augment import Crop
from pipeline.train.samples.sample import normalise, place_window
from pipeline.train.samples.tile_cache import TileCache
from pipeline.train.steps.precision import autocast, choose_precision
from pipeline.train.tiles.statistics import TileStatistics
from pipeline.train.tiles.tile_reader import IGNORE, TileReader
from pipeline.train.tiles.tile_set import TileSet

CACHE_BYTES = 1 << 30
POWER = 0.9
WINDOW_PX = 512
MARGIN_PX = 64
"""Around the middle that is kept of a window."""


@dataclass(frozen=True)
class Learnt:
    """What the script made, and at what price.

    Attributes:
        model: The network.
        steps: Steps of the optimiser.
        crops: Crops that it learnt from.
        processor_s: User and system time of all cores, reading included.
    """

    model: Segmenter
    steps: int
    crops: int
    processor_s: float


def learn(
    tiles: TileSet,
    statistics: TileStatistics,
    settings: ScriptSettings,
    *,
    crops: int | None,
    device: torch.device,
) -> Learnt:
    """Train the script's network.

    Args:
        tiles: The set; its training split is learnt from.
        statistics: Of that split.
        settings: Of the script.
        crops: Crops after which it ends; None: ``settings.minutes`` alone counts.
        device: Where it computes.

    Raises:
        ImportError: segmentation_models_pytorch is not installed.
    """
    torch.manual_seed(settings.seed)
    model = _network(tiles, settings).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    precision = choose_precision("auto", device)
    began_s, step = time.process_time(), 0
    with closing(_Crops(tiles, statistics, settings)) as source:
        while (done := _share_done(settings, crops, step, time.process_time() - began_s)) < 1:
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * (1 - done) ** POWER
            images_NCHW, labels_NHW = source.batch()
            step += 1
            if (labels_NHW == IGNORE).all():
                continue  # the mean over no pixel would be no number
            with autocast(precision, device):
                logits_NKHW = model(images_NCHW.to(device, memory_format=torch.channels_last))
            loss = F.cross_entropy(logits_NKHW.float(), labels_NHW.to(device).long(), ignore_index=IGNORE)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return Learnt(model.eval(), step, step * settings.batch, time.process_time() - began_s)


@torch.inference_mode()
def predict(
    model: Segmenter, tiles: TileSet, split: str, statistics: TileStatistics, *, device: torch.device
) -> Iterator[Judged]:
    """Run the script's network over a split, by the window.

    Args:
        model: The network.
        tiles: The set.
        split: Of it.
        statistics: Of the training split.
        device: Where it computes.
    """
    mean_C, std_C = np.array(statistics.mean, np.float32), np.array(statistics.std, np.float32)
    precision = choose_precision("auto", device)
    cache = TileCache(TileReader(tiles), num_classes=len(tiles.classes), num_bytes=CACHE_BYTES)
    with closing(cache):
        for tile in tiles.of(split):
            for middle in _middles(tile.grid.window):
                seen = Window(middle.row - MARGIN_PX, middle.col - MARGIN_PX, WINDOW_PX, WINDOW_PX)
                crop = normalise(cache.read(tile, seen), mean_C, std_C)
                images_NCHW = crop.image.as_subclass(torch.Tensor)[None].to(device)
                with autocast(precision, device):
                    logits_NKHW = model(images_NCHW.contiguous(memory_format=torch.channels_last))
                kept = middle.relative_to(seen).slices
                classes_HW = logits_NKHW[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
                yield Judged(tile.id, middle, classes_HW[kept], crop.labels[0].numpy()[kept])


def _middles(tile: Window) -> Iterator[Window]:
    side_px = WINDOW_PX - 2 * MARGIN_PX
    for row in range(0, tile.height, side_px):
        for col in range(0, tile.width, side_px):
            yield Window(row, col, side_px, side_px).intersect(tile)


def _network(tiles: TileSet, settings: ScriptSettings) -> Segmenter:
    return build_model(
        ModelConfig(
            arch="smp/DeepLabV3Plus",
            backbone=settings.encoder,
            classes=tiles.classes,
            in_channels=len(tiles.bands),
        )
    )


def _share_done(settings: ScriptSettings, crops: int | None, step: int, processor_s: float) -> float:
    """Of the nearer limit."""
    by_crops = 0.0 if crops is None else step * settings.batch / crops
    by_time = 0.0 if settings.minutes is None else processor_s / (60 * settings.minutes)
    return max(by_crops, by_time)


class _Crops:
    """Crops from anywhere in the training tiles, large tiles as much more often as they are larger."""

    def __init__(self, tiles: TileSet, statistics: TileStatistics, settings: ScriptSettings) -> None:
        self._tiles = tiles.of("train")
        areas_T = np.array([tile.grid.window.num_pixels for tile in self._tiles], np.float64)
        self._shares_T = areas_T / areas_T.sum()
        self._cache = TileCache(TileReader(tiles), num_classes=len(tiles.classes), num_bytes=CACHE_BYTES)
        self._mean_C = np.array(statistics.mean, np.float32)
        self._std_C = np.array(statistics.std, np.float32)
        self._settings = settings
        self._rng = np.random.default_rng(settings.seed)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Images and labels of one step."""
        images, labels = zip(*self._draw(), strict=True)
        return torch.stack(images), torch.stack(labels)

    def close(self) -> None:
        """Let go of files."""
        self._cache.close()

    def _draw(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self._settings.batch):
            tile = self._tiles[self._rng.choice(len(self._tiles), p=self._shares_T)]
            window = place_window(tile.grid.window, self._settings.crop_px, None, self._rng)
            yield self._turned(normalise(self._cache.read(tile, window), self._mean_C, self._std_C))

    def _turned(self, crop: Crop) -> tuple[Tensor, Tensor]:
        turns, flip_rows, flip_cols = (int(self._rng.integers(sides)) for sides in (4, 2, 2))
        flipped = [axis for axis, flip in ((-2, flip_rows), (-1, flip_cols)) if flip]
        image_CHW, labels_1HW = (
            torch.rot90(part.as_subclass(torch.Tensor).flip(flipped), turns, (-2, -1))
            for part in (crop.image, crop.labels)
        )
        return image_CHW, labels_1HW[0]
