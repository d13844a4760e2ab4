"""One block: raw pixels → crops → network → blending on the lattice → classes, confidence, logits.

Everything between the raw pixels and the finished arrays stays on the device. The result at a pixel depends
on the crops over it and on nothing else: not on the block's cut, nor on the batch a crop was computed in.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deeplab_core.softmax import softmax
from pipeline.errors import BlockError
from pipeline.raster.mosaic import BlockArrays, LogitsLayout
from pipeline.raster.source import Pixels
from pipeline.raster.window import Window
from pipeline.segment.finish import finish, upsample
from pipeline.segment.lattice import BlendWindow, Lattice, blend_weights
from pipeline.segment.normalise import Normaliser

logger = logging.getLogger(__name__)

SMALLEST_PROBABILITY = 1e-7
"""Logits are log(p), and p is at least this: float16 holds its logarithm, and no infinity is stored."""


class CropModel(Protocol):
    """What the engine asks of a network: fused scores of a batch of crops on their own nodes, float32."""

    def fused(self, images_NCHW: Tensor) -> Tensor:
        """Probabilities, or logits where ``fuse`` is logits, N × K × nodes × nodes."""


@dataclass(frozen=True)
class EngineSettings:
    """What a block's result depends on besides pixels and model.

    Attributes:
        lattice: Crops and nodes of the source.
        gain: Factor a band that takes raw values to the network's.
        bias: Added after the factor.
        num_classes: How many classes the network tells apart.
        blend: Weight of a crop's nodes.
        fuse_logits: Blend logits instead of probabilities.
        logits: What is kept of them.
        batch: Crops given to the network at a time.
    """

    lattice: Lattice
    gain: tuple[float, ...]
    bias: tuple[float, ...]
    num_classes: int
    blend: BlendWindow
    fuse_logits: bool
    logits: LogitsLayout
    batch: int


class BlockEngine:
    """Computes blocks on one device with one model.

    Args:
        model: The network.
        settings: What results depend on.
        device: Where everything is computed.
        dtype: What the network's input is kept in.
        smaller: Gives the network anew, for so many crops at once at most; None where any number will do.
    """

    def __init__(
        self,
        model: CropModel,
        settings: EngineSettings,
        *,
        device: torch.device,
        dtype: torch.dtype,
        smaller: Callable[[int], CropModel] | None = None,
    ) -> None:
        self._model = model
        self._smaller = smaller
        self._settings = settings
        self._device = device
        self._dtype = dtype
        weights = torch.from_numpy(blend_weights(settings.blend, settings.lattice.rows.nodes_per_crop))
        self._weights_HW = torch.outer(weights, weights).to(device)
        self._normalise = Normaliser(settings.gain, settings.bias, device=device, dtype=dtype)
        self.batch = settings.batch

    @torch.inference_mode()
    def compute(
        self, window: Window, served: Window, pixels: Pixels, wanted_HW: NDArray[np.bool_]
    ) -> tuple[BlockArrays, int]:
        """A block's arrays, and how many crops they took.

        Args:
            window: The block, in the source's pixels.
            served: The part of it that may be wanted.
            pixels: What was read of the served part's halo; ``wanted_HW`` is of the halo, too.
            wanted_HW: Pixels that are valid and in the region.
        """
        halo = self._settings.lattice.halo(served)
        crops = self.needed_crops(served, halo, pixels.valid_HW, wanted_HW)
        images_CHW = self._normalise(pixels)
        nodes = self._settings.lattice.node_window(window)
        probabilities_KHW = self._blend(images_CHW, halo, nodes, crops)
        return self._finish(window, halo, nodes, probabilities_KHW, wanted_HW), len(crops)

    @torch.inference_mode()
    def time_network(self, images_NCHW: Tensor, seconds: float) -> float:
        """Crops a second of the network alone, for so many seconds after a warm-up."""
        images_NCHW = images_NCHW.to(self._device, self._dtype).contiguous(memory_format=torch.channels_last)
        self._model.fused(images_NCHW)
        self._wait()
        began, crops = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            self._model.fused(images_NCHW)
            crops += len(images_NCHW)
            self._wait()
        return crops / (time.perf_counter() - began)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def needed_crops(
        self, served: Window, halo: Window, valid_HW: NDArray[np.bool_], wanted_HW: NDArray[np.bool_]
    ) -> list[Window]:
        """Crops that see something and have a say in something wanted, in the source's pixels, row by row.

        Both questions are asked of a crop's own pixels, never of the block, so every block answers alike.
        """
        lattice = self._settings.lattice
        rows, cols = lattice.crops(served)
        reach = lattice.node_px - 1
        needed = []
        for row in rows:
            for col in cols:
                crop = Window(
                    row * lattice.stride_px, col * lattice.stride_px, lattice.crop_px, lattice.crop_px
                )
                reached = crop.grow(reach).intersect(halo)
                if _any(valid_HW, crop, halo) and _any(wanted_HW, reached, halo):
                    needed.append(crop)
        return needed

    def _blend(self, images_CHW: Tensor, halo: Window, nodes: Window, crops: Sequence[Window]) -> Tensor:
        """The weighted mean of all crops at each of the block's nodes."""
        node_px = self._settings.lattice.node_px
        side = self._settings.lattice.rows.nodes_per_crop
        total_KHW = torch.zeros((self._settings.num_classes, *nodes.shape), device=self._device)
        weight_HW = torch.zeros(nodes.shape, device=self._device)
        for batch, scores_NKHW in self._scores(images_CHW, halo, crops):
            for crop, scores_KHW in zip(batch, scores_NKHW, strict=True):
                at = Window(crop.row // node_px, crop.col // node_px, side, side)
                shared = at.intersect(nodes)
                inside, target = shared.relative_to(at).slices, shared.relative_to(nodes).slices
                weights = self._weights_HW[inside]
                # Not fused into one operation: that rounds differently at the end of a row.
                total_KHW[:, *target].add_(scores_KHW[:, *inside] * weights)
                weight_HW[target] += weights
        if not torch.isfinite(total_KHW).all():
            raise BlockError(
                "the network must give finite numbers, but gave infinite ones or none; try "
                "inference.precision bf16 or fp32, and compare the model's statistics with the raster's"
            )
        total_KHW.div_(weight_HW.clamp_min_(torch.finfo(torch.float32).tiny))
        return softmax(total_KHW[None])[0] if self._settings.fuse_logits else total_KHW

    def _scores(
        self, images_CHW: Tensor, halo: Window, crops: Sequence[Window]
    ) -> Iterator[tuple[Sequence[Window], Tensor]]:
        """Batches of crops with their scores."""
        start = 0
        while start < len(crops):
            batch = crops[start : start + self.batch]
            scores_NKHW = self._scores_if_they_fit(images_CHW, halo, batch)
            if scores_NKHW is None:
                self._halve_batch()
                continue
            yield batch, scores_NKHW
            start += len(batch)

    def _scores_if_they_fit(self, images_CHW: Tensor, halo: Window, crops: Sequence[Window]) -> Tensor | None:
        """Scores of one batch; None where memory is short, and whatever was held is free on return."""
        try:
            images_NCHW = torch.stack([images_CHW[:, *crop.relative_to(halo).slices] for crop in crops])
            return self._model.fused(images_NCHW)
        except torch.OutOfMemoryError:
            if self.batch == 1:
                raise
            return None

    def _halve_batch(self) -> None:
        """Half as many crops at once is the same answer in less memory; later blocks keep to it."""
        self.batch = max(1, self.batch // 2)
        logger.warning("memory of %s is short: from now on %d crops at once", self._device, self.batch)
        if self._smaller is not None:  # what is prepared for a batch is filled up to it, however few come
            del self._model
            self._model = self._smaller(self.batch)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _finish(
        self,
        window: Window,
        halo: Window,
        nodes: Window,
        probabilities_KHW: Tensor,
        wanted_HW: NDArray[np.bool_],
    ) -> BlockArrays:
        settings, node_px = self._settings, self._settings.lattice.node_px
        # torch computes little in uint16; more than 255 classes are rare enough to pass through int32.
        narrow = settings.num_classes <= np.iinfo(np.uint8).max
        classes, confidence = finish(
            _cover(probabilities_KHW, window.shape, node_px),
            node_px=node_px,
            class_dtype=torch.uint8 if narrow else torch.int32,
        )
        classes_HW = classes[: window.height, : window.width].cpu().numpy()
        if not narrow:
            classes_HW = classes_HW.astype(np.uint16)
        confidence_HW = confidence[: window.height, : window.width].cpu().numpy()
        here = _look_through(wanted_HW, halo, window)
        if not here.all():
            classes_HW[~here] = np.iinfo(classes_HW.dtype).max
            confidence_HW[~here] = np.iinfo(confidence_HW.dtype).max
        return BlockArrays(
            classes_HW, confidence_HW, self._logits(window, halo, nodes, probabilities_KHW, wanted_HW)
        )

    def _logits(
        self,
        window: Window,
        halo: Window,
        nodes: Window,
        probabilities_KHW: Tensor,
        wanted_HW: NDArray[np.bool_],
    ) -> NDArray[np.float16] | None:
        if self._settings.logits == "none":
            return None
        node_px = self._settings.lattice.node_px
        if self._settings.logits == "lattice":
            logits = probabilities_KHW.clamp_min(SMALLEST_PROBABILITY).log_().to(torch.float16).cpu().numpy()
            logits[:, ~nodes_in_use(wanted_HW, halo, nodes, node_px)] = np.nan
            return logits
        full = upsample(_cover(probabilities_KHW, window.shape, node_px), node_px)
        full = full[:, : window.height, : window.width]
        logits = full.clamp_min_(SMALLEST_PROBABILITY).log_().to(torch.float16).cpu().numpy()
        logits[:, ~_look_through(wanted_HW, halo, window)] = np.nan
        return logits


def nodes_in_use(
    wanted_HW: NDArray[np.bool_], halo: Window, nodes: Window, node_px: int
) -> NDArray[np.bool_]:
    """Which nodes a wanted pixel is interpolated from."""
    reach = node_px - 1
    frame = Window(
        nodes.row * node_px - reach,
        nodes.col * node_px - reach,
        (nodes.height - 1) * node_px + 2 * reach + 1,
        (nodes.width - 1) * node_px + 2 * reach + 1,
    )
    wanted = _look_through(wanted_HW, halo, frame)
    return _any_around(_any_around(wanted, 0, node_px), 1, node_px)


def _any_around(mask: NDArray[np.bool_], axis: int, step: int) -> NDArray[np.bool_]:
    """Along an axis, for every ``step``-th place, whether anything less than a step away is set."""
    windows = np.lib.stride_tricks.sliding_window_view(mask, 2 * step - 1, axis=axis)
    chosen = windows[::step] if axis == 0 else windows[:, ::step]
    return np.asarray(np.any(chosen, axis=-1))


def _look_through(mask_HW: NDArray[np.bool_], frame: Window, window: Window) -> NDArray[np.bool_]:
    """A window's part of a mask that is known in a frame; False outside of the frame."""
    seen: NDArray[np.bool_] = np.zeros(window.shape, np.bool_)
    known = window.intersect(frame)
    seen[known.relative_to(window).slices] = mask_HW[known.relative_to(frame).slices]
    return seen


def _any(mask_HW: NDArray[np.bool_], window: Window, frame: Window) -> bool:
    return bool(mask_HW[window.relative_to(frame).slices].any())


def _cover(nodes_KHW: Tensor, shape: tuple[int, int], node_px: int) -> Tensor:
    """Nodes whose cells cover all pixels: where a raster ends on a node, that node is repeated beyond it."""
    for dimension, size_px in enumerate(shape, start=1):
        if (nodes_KHW.shape[dimension] - 1) * node_px < size_px:
            last = nodes_KHW.narrow(dimension, nodes_KHW.shape[dimension] - 1, 1)
            nodes_KHW = torch.cat([nodes_KHW, last], dim=dimension)
    return nodes_KHW
