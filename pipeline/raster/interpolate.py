"""From lattice nodes to pixels: bilinear, exact at the nodes. Pure."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def upsample(
    nodes_KHW: NDArray[np.float32], node_px: int, *, offset: tuple[int, int], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Values at the pixels of a window, interpolated from the nodes around it.

    Args:
        nodes_KHW: Values at every ``node_px``-th pixel.
        node_px: Distance of nodes.
        offset: The window's first pixel, counted from the first node.
        shape: The window's size.
    """
    rows = _lerp(nodes_KHW, 1, node_px, offset[0], shape[0])
    return _lerp(rows, 2, node_px, offset[1], shape[1])


def _lerp(values: NDArray[np.float32], axis: int, node_px: int, start: int, size: int) -> NDArray[np.float32]:
    pixels = np.arange(start, start + size)
    before = pixels // node_px
    after = np.minimum(before + 1, values.shape[axis] - 1)
    share: NDArray[Any] = ((pixels - before * node_px) / node_px).astype(np.float32)
    share = share.reshape([-1 if dimension == axis else 1 for dimension in range(values.ndim)])
    low, high = values.take(before, axis), values.take(after, axis)
    return low + (high - low) * share
