"""What a run will take: multiply-adds, memory, bytes. Known before anything is read."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from deeplab_core import ModelConfig, build_model
from deeplab_core.scales import scaled_size_px
from pipeline.raster.mosaic import LogitsLayout
from pipeline.raster.window import Window
from pipeline.segment.executor import TASKS_IN_FLIGHT
from pipeline.segment.overviews import factors
from pipeline.segment.plan import Plan

PROCESS_BYTES = {"cpu": 1400 << 20, "cuda": 3500 << 20}
"""A worker before any block: Python, torch, GDAL, Ray; and what audit, overviews and page take at the end."""

COMPILER_BYTES = 700 << 20
"""What torch.compile keeps and takes at its peak. Measured: 0.3 to 0.6 GiB."""

LIVE_ACTIVATIONS = 8
"""Tensors of the largest layer's size alive at once, oneDNN's scratch included. Measured: 4 to 7."""


@dataclass(frozen=True)
class NetworkCost:
    """One crop through the network, all scales and flips.

    Attributes:
        multiply_adds: Per crop.
        parameters: Numbers in the network.
        largest_activation: Numbers in the largest layer's output, at the largest scale.
        node_px: Pixels between the nodes of the network's answer.
        input_multiple_px: Crops must be k of these plus 1.
        num_sizes: Different sizes at which crops are seen: each has compiled code of its own.
    """

    multiply_adds: int
    parameters: int
    largest_activation: int
    node_px: int
    input_multiple_px: int
    num_sizes: int = 1


def network_cost(config: ModelConfig, *, crop_px: int, scales: tuple[float, ...], views: int) -> NetworkCost:
    """Count on meta tensors: nothing is computed and no memory taken.

    Args:
        config: The graph.
        crop_px: Side of a crop.
        scales: Sizes at which each crop is seen.
        views: How many flips and turns of each.
    """
    with torch.device("meta"):
        model = build_model(config.model_copy(update={"pretrained": False})).eval()
    multiply_adds = largest = 0
    sides = [scaled_size_px(crop_px, scale, model.input_multiple_px) for scale in scales]
    for side in sides:
        one_view, activation = _one_pass(
            model, torch.empty((1, config.in_channels, side, side), device="meta")
        )
        multiply_adds += views * one_view
        largest = max(largest, activation)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return NetworkCost(
        multiply_adds,
        parameters,
        largest,
        model.lattice_stride,
        model.input_multiple_px,
        len(set(sides)),
    )


def _one_pass(model: nn.Module, images_NCHW: Tensor) -> tuple[int, int]:
    largest = images_NCHW.numel()

    def look(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel())

    hooks = [module.register_forward_hook(look) for module in model.modules()]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.lattice(images_NCHW)  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops() // 2, largest


@dataclass(frozen=True)
class Memory:
    """A worker's projected peak, in bytes, by what takes it."""

    process: int
    network: int
    activations: int
    pixels: int
    blending: int
    outputs: int

    @property
    def total(self) -> int:
        """All together."""
        return self.process + self.network + self.activations + self.pixels + self.blending + self.outputs

    def to_json(self) -> dict[str, int]:
        """As ``plan.json`` has it."""
        parts = ("process", "network", "activations", "pixels", "blending", "outputs")
        return {f"{part}_bytes": getattr(self, part) for part in parts} | {"total_bytes": self.total}


@dataclass(frozen=True)
class Numbers:
    """Sizes of the values that a run moves.

    Attributes:
        num_bands: Bands read.
        sample_bytes: Size of a raw sample.
        value_bytes: Size of a value in the network.
        num_classes: Classes told apart.
        logits: What is kept of the log-probabilities.
        reading_bytes: What reading a window takes besides its pixels: the source knows.
    """

    num_bands: int
    sample_bytes: int
    value_bytes: int
    num_classes: int
    logits: LogitsLayout
    reading_bytes: Callable[[Window], int]

    @property
    def class_bytes(self) -> int:
        """Size of a class index."""
        return 1 if self.num_classes <= 255 else 2

    def logits_bytes(self, pixels: int, nodes: int) -> int:
        """Size of the logits kept for so many pixels and nodes."""
        values = {"none": 0, "lattice": nodes, "full": pixels}[self.logits]
        return 2 * values * self.num_classes


def project_memory(
    plan: Plan, network: NetworkCost, numbers: Numbers, *, batch: int, compiled: bool, device: str
) -> Memory:
    """The most host memory a worker will take, computing the largest block with another under way."""
    halo, block_px, nodes = _largest_block(plan)
    halo_px = halo.num_pixels
    bands, classes = numbers.num_bands, numbers.num_classes
    # Raw samples as GDAL returns and as we keep them, presence of each sample, validity, wantedness.
    pixels = halo_px * (bands * (2 * numbers.sample_bytes + 1) + 3)
    normalised = halo_px * bands * numbers.value_bytes
    upsampled = 8 * block_px * classes if numbers.logits == "full" else 0
    finished = block_px * (2 * numbers.class_bytes + 2) + 2 * numbers.logits_bytes(block_px, nodes)
    # As loaded in float32, as converted and as packed; code compiled for a size keeps them once more.
    weights = 4 + 2 * numbers.value_bytes + (numbers.value_bytes * network.num_sizes if compiled else 0)
    return Memory(
        process=PROCESS_BYTES[device] + (COMPILER_BYTES if compiled else 0),
        network=network.parameters * weights,
        activations=0 if device == "cuda" else LIVE_ACTIVATIONS * batch * network.largest_activation * 4,
        pixels=numbers.reading_bytes(halo) + TASKS_IN_FLIGHT * pixels + normalised,
        blending=4 * nodes * classes * 4 + upsampled,
        outputs=TASKS_IN_FLIGHT * finished,
    )


def _largest_block(plan: Plan) -> tuple[Window, int, int]:
    """A window as large as the largest halo, pixels of the largest block, nodes of the largest block."""
    rows, cols = _reaches(plan)
    lattice = plan.lattice
    side = [min(plan.block_px, size) for size in plan.mosaic_window.shape]
    nodes = [size // lattice.node_px + 2 for size in side]
    height, width = (max(stop - start for start, stop in reaches) for reaches in (rows, cols))
    return Window(0, 0, height, width), side[0] * side[1], nodes[0] * nodes[1]


def _reaches(plan: Plan) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """For each row and each column of blocks, the pixels that their crops look at along that axis."""
    rows, cols = plan.crop_spans()
    return (
        [plan.lattice.rows.extent(span) for span in rows if span],
        [plan.lattice.cols.extent(span) for span in cols if span],
    )


def plan_bytes(plan: Plan, numbers: Numbers) -> dict[str, Any]:
    """Bytes to read, uncompressed with halos, and an upper bound of the bytes to write."""
    mosaic = plan.mosaic_window
    rows, cols = _reaches(plan)
    height, width = plan.lattice.rows.length_px, plan.lattice.cols.length_px
    read_px = _inside(rows, height) * _inside(cols, width)
    # Polygons leave blocks out: those that stay, of all planes, take the mean of all.
    read_px = read_px * plan.counts.blocks // (len(rows) * len(cols))
    nodes = plan.lattice.node_window(mosaic).num_pixels
    coarser_px = sum(
        -(-mosaic.height // factor) * -(-mosaic.width // factor) for factor in factors(*mosaic.shape)
    )
    planes = math.prod(plan.region.stack or ())
    output = (mosaic.num_pixels + coarser_px) * (numbers.class_bytes + 1)
    return {
        "read_bytes": read_px * numbers.num_bands * numbers.sample_bytes,
        "read_at_least_bytes": planes * mosaic.num_pixels * numbers.num_bands * numbers.sample_bytes,
        "output_at_most_bytes": planes * (output + numbers.logits_bytes(mosaic.num_pixels, nodes)),
    }


def _inside(reaches: list[tuple[int, int]], length_px: int) -> int:
    return sum(min(stop, length_px) - start for start, stop in reaches)
