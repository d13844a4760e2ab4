"""Where crops lie, and the nodes on which all of them meet.

Along an axis of ``length_px`` pixels, crops begin at ``i · stride`` for
``i = 0 … max(0, ceil((length − crop) / stride))``, counted from the source's pixel 0 and never from a block.
A network answers at every ``node_px``-th pixel of its crop. Crop − 1 and stride are multiples of 16, so the
answers of all crops fall on one global set of nodes at pixels 0, node_px, 2·node_px, …: overlapping crops
are blended there, node by node.

Closed forms only: an axis of a million pixels costs as much to plan as one of a thousand.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.window import Window

BlendWindow = Literal["gaussian", "hann", "flat"]

WEIGHT_FLOOR = 1e-3
"""Every crop keeps a say at its very edge, so no node divides by zero."""

LATTICE_MULTIPLE_PX = 16
"""Crop sizes less one, and strides, are multiples of this."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Crops and nodes along one axis of the source."""

    length_px: int
    crop_px: int
    stride_px: int
    node_px: int

    @property
    def num_crops(self) -> int:
        """Crops that cover the whole axis."""
        return max(0, math.ceil((self.length_px - self.crop_px) / self.stride_px)) + 1

    @property
    def nodes_per_crop(self) -> int:
        """Nodes along one crop, both ends included."""
        return (self.crop_px - 1) // self.node_px + 1

    def nodes(self, start_px: int, stop_px: int) -> range:
        """Nodes that the pixels ``[start, stop)`` are interpolated from, as indices from pixel 0."""
        if stop_px <= start_px:
            return range(0)
        return range(start_px // self.node_px, -(-(stop_px - 1) // self.node_px) + 1)

    def crops(self, start_px: int, stop_px: int) -> range:
        """Crops with a say in the pixels ``[start, stop)``: those that hold one of their nodes."""
        nodes = self.nodes(start_px, stop_px)
        if not nodes:
            return range(0)
        first_px, last_px = nodes[0] * self.node_px, nodes[-1] * self.node_px
        first = max(0, -(-(first_px - (self.crop_px - 1)) // self.stride_px))
        last = min(self.num_crops - 1, last_px // self.stride_px)
        return range(first, last + 1)

    def extent(self, crops: range) -> tuple[int, int]:
        """First pixel and one past the last pixel of neighbouring crops; may pass the axis' end."""
        if not crops:
            return 0, 0
        return crops[0] * self.stride_px, crops[-1] * self.stride_px + self.crop_px


@dataclass(frozen=True, slots=True)
class Lattice:
    """The crops and nodes of a source."""

    rows: Axis
    cols: Axis

    @classmethod
    def over(cls, height: int, width: int, *, crop_px: int, stride_px: int, node_px: int) -> "Lattice":
        """The lattice of a source of this size."""
        return cls(
            Axis(height, crop_px, stride_px, node_px),
            Axis(width, crop_px, stride_px, node_px),
        )

    @property
    def crop_px(self) -> int:
        """Side of a crop."""
        return self.rows.crop_px

    @property
    def stride_px(self) -> int:
        """Distance of crop origins."""
        return self.rows.stride_px

    @property
    def node_px(self) -> int:
        """Distance of nodes."""
        return self.rows.node_px

    def node_window(self, window: Window) -> Window:
        """Nodes that a window's pixels are interpolated from, in units of nodes."""
        rows = self.rows.nodes(window.row, window.row_stop)
        cols = self.cols.nodes(window.col, window.col_stop)
        return Window(rows.start, cols.start, len(rows), len(cols))

    def crops(self, window: Window) -> tuple[range, range]:
        """Rows and columns of the crops with a say in a window's pixels."""
        return self.rows.crops(window.row, window.row_stop), self.cols.crops(window.col, window.col_stop)

    def halo(self, window: Window) -> Window:
        """The pixels that a window's crops look at; may pass the source's edges."""
        rows, cols = self.crops(window)
        row_start, row_stop = self.rows.extent(rows)
        col_start, col_stop = self.cols.extent(cols)
        return Window.from_bounds(row_start, col_start, row_stop, col_stop)


def blend_weights(kind: BlendWindow, nodes: int) -> NDArray[np.float32]:
    """How much a crop's say counts at each of its nodes along one axis; the 2-D weight is the outer product.

    Strictly positive and symmetric. Gaussian: sigma is an eighth of the crop.
    """
    position = np.linspace(-1.0, 1.0, nodes) if nodes > 1 else np.zeros(1)
    if kind == "gaussian":
        weights = np.exp(-0.5 * (position / 0.25) ** 2)
    elif kind == "hann":
        weights = 0.5 * (1.0 + np.cos(np.pi * position))
    else:
        weights = np.ones(nodes)
    return np.maximum(weights, WEIGHT_FLOOR).astype(np.float32)


def pixels_use_node(node: int, node_px: int) -> tuple[int, int]:
    """The half-open pixel range whose values depend on a node: all less than ``node_px`` away."""
    return (node - 1) * node_px + 1, (node + 1) * node_px
