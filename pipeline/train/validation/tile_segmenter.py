"""A network run over labelled tiles exactly as ``segment_region`` would run it: the same lattice and engine.

Whatever is validated here is what a mosaic of the same scene would hold, to the last pixel (a test compares
them). A tile may be a whole scene: it is read and computed in blocks, and the result does not depend on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from deeplab_core.multiscale import MultiScale
from deeplab_core.prepare import PrecisionChoice, prepare_for_inference
from deeplab_core.segmenter import Segmenter
from pipeline.config import BlendSettings
from pipeline.raster.grid import Grid
from pipeline.raster.window import Window
from pipeline.segment.engine import BlockEngine, EngineSettings
from pipeline.segment.inspect import check_crops
from pipeline.segment.lattice import LATTICE_MULTIPLE_PX, Lattice
from pipeline.segment.resolve import BATCH
from pipeline.train.tiles.tile_reader import IGNORE, LabelledPixels, TileReader
from pipeline.train.tiles.tile_set import Tile


@dataclass(frozen=True)
class Inference:
    """How a network is run over tiles.

    Attributes:
        mean: Mean of each band's raw values.
        std: Their standard deviation.
        device: Where it computes.
        crop_px: Side of a crop.
        stride_px: Distance of crop origins.
        scales: Sizes at which each crop is seen.
        flips: Mirrorings besides the identity.
        precision: Number format; ``auto`` is bf16 where the device computes in it.
    """

    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device
    crop_px: int = 513
    stride_px: int = 384
    scales: Sequence[float] = (1.0,)
    flips: Sequence[str] = ()
    precision: PrecisionChoice = "auto"


@dataclass(frozen=True)
class Judged:
    """A window of a tile: what is true and what the network says.

    Attributes:
        window: The place, in the tile's pixels.
        labels_HW: True classes; 255 where nothing counts: ignored, unlabelled, or without imagery, since no
            network can be judged by what it was not shown.
        classes_HW: Predicted classes; 255 where nothing counts.
    """

    window: Window
    labels_HW: NDArray[np.uint8]
    classes_HW: NDArray[np.uint8]


class TileSegmenter:
    """Segments windows of tiles with a copy of a network.

    The copy is prepared for inference but never compiled: made in well under a second for a ResNet-18 and in
    about one for a ResNet-50, it runs two to three times as fast as the network in training does, in bf16
    where that is native, and leaves the network, its mode and its batch norms alone. So it is the cheap way
    during training, and the final one too.

    Args:
        model: The network, in any mode, unwrapped.
        how: How it is run.
        most_crops: Of any window that will be asked for: a GPU's batch is filled up, and tiles of one crop
            shall not be computed as sixteen.
    """

    def __init__(self, model: Segmenter, how: Inference, *, most_crops: int | None = None) -> None:
        check_crops(
            how.crop_px,
            how.stride_px,
            input_multiple_px=model.input_multiple_px,
            node_px=model.lattice_stride,
        )
        batch = BATCH.get(how.device.type, BATCH["cpu"])
        self._batch = batch if most_crops is None else max(1, min(batch, most_crops))
        self._model, self._how = model, how
        self._network, self._dtype = self._prepared()
        self._gain = tuple(1.0 / std for std in how.std)
        self._bias = tuple(-mean / std for mean, std in zip(how.mean, how.std, strict=True))
        self._node_px = model.lattice_stride
        self._num_classes = model.config.num_classes
        self._engines: dict[tuple[int, int], BlockEngine] = {}

    def lattice(self, grid: Grid) -> Lattice:
        """Crops and nodes of a tile."""
        return Lattice.over(
            grid.height,
            grid.width,
            crop_px=self._how.crop_px,
            stride_px=self._how.stride_px,
            node_px=self._node_px,
        )

    def read(self, reader: TileReader, tile: Tile, window: Window) -> LabelledPixels:
        """Everything that a window's crops look at."""
        return reader.read(tile, self.lattice(tile.grid).halo(window))

    def judge(self, tile: Tile, window: Window, read: LabelledPixels) -> Judged:
        """The classes of a window of a tile.

        Args:
            tile: The tile.
            window: A part of it that ``on_lattice`` gave.
            read: What ``read`` gave for it.
        """
        halo = self.lattice(tile.grid).halo(window)
        labels_HW = np.where(read.pixels.valid_HW, read.labels_HW, IGNORE).astype(np.uint8)
        own = window.relative_to(halo).slices
        counts_HW = labels_HW != IGNORE
        if not counts_HW[own].any():
            return Judged(window, labels_HW[own], np.full(window.shape, IGNORE, np.uint8))
        # Crops without a say in any pixel that counts are left out: sparse labels are cheap.
        arrays, _ = self._engine(tile.grid).compute(window, window, read.pixels, counts_HW)
        return Judged(window, labels_HW[own], arrays.classes_HW.astype(np.uint8, copy=False))

    def _engine(self, grid: Grid) -> BlockEngine:
        """Tiles of one size share an engine."""
        size = grid.window.shape
        if size not in self._engines:
            settings = EngineSettings(
                lattice=self.lattice(grid),
                gain=self._gain,
                bias=self._bias,
                num_classes=self._num_classes,
                blend=BlendSettings().window,
                fuse_logits=False,
                logits="none",
                batch=self._batch,
            )
            self._engines = {
                size: BlockEngine(
                    self._network,
                    settings,
                    device=self._how.device,
                    dtype=self._dtype,
                    smaller=self._prepared_for,
                )
            }
        return self._engines[size]

    def _prepared_for(self, batch: int) -> MultiScale:
        """The network for fewer crops at once, for tiles of other sizes too; the one before is let go of."""
        del self._network
        self._batch = batch
        self._network, _ = self._prepared()
        return self._network

    def _prepared(self) -> tuple[MultiScale, torch.dtype]:
        how = self._how
        # Layers that are made anew draw weights before they get theirs; training's numbers must not notice.
        with torch.random.fork_rng(devices=[]):
            prepared = prepare_for_inference(
                self._model,
                precision=how.precision,
                compile=False,
                device=how.device,
                batch=self._batch,
                size_px=how.crop_px,
                scales=how.scales,
            )
        return MultiScale(prepared, scales=how.scales, flips=how.flips), prepared.preparation.dtype


def on_lattice(window: Window, grid: Grid) -> Window:
    """The smallest part of a tile around a window that the engine computes: it begins on a node."""
    return window.snap_outward(LATTICE_MULTIPLE_PX).intersect(grid.window)
