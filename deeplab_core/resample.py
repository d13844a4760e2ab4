"""Bilinear resizing, and the same interpolation evaluated on lattice nodes only.

Shapes: N batch, K classes, H × W rows and columns.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def resize(values_NKHW: Tensor, height_px: int, width_px: int, *, align_corners: bool) -> Tensor:
    """Resizes bilinearly.

    Args:
        values_NKHW: Values on their own grid.
        height_px: Rows of the result.
        width_px: Columns of the result.
        align_corners: True maps corner to corner, which is exact for inputs of k·stride + 1 px; False maps
            edge to edge.

    Returns:
        The values at height_px × width_px.
    """
    if values_NKHW.shape[-2] == height_px and values_NKHW.shape[-1] == width_px:
        return values_NKHW
    return F.interpolate(
        values_NKHW, size=(height_px, width_px), mode="bilinear", align_corners=align_corners
    )


def resize_to_nodes(
    values_NKHW: Tensor, height_px: int, width_px: int, *, stride: int, align_corners: bool
) -> Tensor:
    """Gives `resize(values_NKHW, height_px, width_px)[:, :, ::stride, ::stride]` without the pixels between.

    Where the values already lie on the nodes (align_corners and a size of k·stride + 1) they are returned
    as they are.

    Args:
        values_NKHW: Values on their own grid.
        height_px: Rows that `resize` would give.
        width_px: Columns that `resize` would give.
        stride: Pixels between nodes.
        align_corners: As in `resize`.

    Returns:
        Values on the (height_px − 1) // stride + 1 by (width_px − 1) // stride + 1 nodes.
    """
    values_NKHW = _nodes_along(values_NKHW, -2, height_px, stride, align_corners=align_corners)
    return _nodes_along(values_NKHW, -1, width_px, stride, align_corners=align_corners)


def _nodes_along(values: Tensor, dim: int, size_px: int, stride: int, *, align_corners: bool) -> Tensor:
    size = values.shape[dim]
    if size == size_px and stride == 1:
        return values
    if align_corners and (size - 1) * stride == size_px - 1:
        return values
    pixels = torch.arange(0, size_px, stride, device=values.device, dtype=torch.float32)
    if align_corners:
        position = pixels * ((size - 1) / max(size_px - 1, 1))
    else:
        position = ((pixels + 0.5) * (size / size_px) - 0.5).clamp(min=0.0)
    before = position.floor().clamp(max=size - 1)
    after = (before + 1).clamp(max=size - 1)
    weight = (position - before).to(values.dtype)
    if dim == -2:
        weight = weight[:, None]
    return torch.lerp(values.index_select(dim, before.long()), values.index_select(dim, after.long()), weight)
