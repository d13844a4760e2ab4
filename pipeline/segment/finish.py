"""From blended probabilities on the lattice to classes and confidence at every pixel.

Upsampling K classes to full size and taking the argmax is what eats a small network's time. Two facts save
most of it. Bilinear values are convex mixtures: a cell whose four corner nodes agree on the winner has that
winner all over, and only the winner's probability needs interpolating. And the rest, the cells on class
borders, are few and can be gathered, so the cost hardly grows with the number of classes. Measured on 2 CPU
cores against ``interpolate`` and ``max``: 1.6 times as fast with 5 classes, 3.3 with 21.
"""

import torch
from torch import Tensor

STRIP_NODES = 64
"""Rows of nodes finished at once: what is at work then stays in cache and memory stays small."""

CONFIDENCE_STEPS = 254.0


def finish(probabilities_KHW: Tensor, *, node_px: int, class_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Classes and confidence (in 254ths) of the cells between nodes.

    Args:
        probabilities_KHW: On (h + 1) × (w + 1) nodes, float32.
        node_px: Pixels between nodes.
        class_dtype: Type of the class indices.

    Returns:
        Two arrays of h·node_px × w·node_px pixels.
    """
    _, rows, cols = probabilities_KHW.shape
    size = ((rows - 1) * node_px, (cols - 1) * node_px)
    classes = torch.empty(size, dtype=class_dtype, device=probabilities_KHW.device)
    confidence = torch.empty(size, dtype=torch.uint8, device=probabilities_KHW.device)
    for top in range(0, rows - 1, STRIP_NODES):
        bottom = min(top + STRIP_NODES, rows - 1)
        pixels = slice(top * node_px, bottom * node_px)
        _finish_strip(probabilities_KHW[:, top : bottom + 1], node_px, classes[pixels], confidence[pixels])
    return classes, confidence


def _finish_strip(nodes_KHW: Tensor, node_px: int, classes_out: Tensor, confidence_out: Tensor) -> None:
    rows, cols = nodes_KHW.shape[1] - 1, nodes_KHW.shape[2] - 1
    cells = (rows, node_px, cols, node_px)
    classes, confidence = classes_out.view(cells), confidence_out.view(cells)
    best, winner = nodes_KHW.max(dim=0)
    corner = winner[:-1, :-1]
    mixed = (corner != winner[:-1, 1:]) | (corner != winner[1:, :-1]) | (corner != winner[1:, 1:])
    classes.copy_(corner[:, None, :, None].expand(cells))
    confidence.copy_(_in_steps(_interpolate(best, node_px)))
    row, col = mixed.nonzero(as_tuple=True)
    if len(row):
        mixed_classes, mixed_confidence = _finish_cells(nodes_KHW, row, col, node_px, classes.dtype)
        classes.permute(1, 3, 0, 2)[:, :, row, col] = mixed_classes
        confidence.permute(1, 3, 0, 2)[:, :, row, col] = mixed_confidence


def _finish_cells(
    nodes_KHW: Tensor, row: Tensor, col: Tensor, node_px: int, class_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Classes and confidence of single cells, (pixel row, pixel column, cell)."""
    width = nodes_KHW.shape[2]
    flat = nodes_KHW.reshape(nodes_KHW.shape[0], -1)
    first = row * width + col
    top_left, top_right, bottom_left, bottom_right = (
        flat[:, first + step] for step in (0, 1, width, width + 1)
    )
    classes = torch.empty((node_px, node_px, len(row)), dtype=class_dtype, device=nodes_KHW.device)
    confidence = torch.empty(classes.shape, dtype=torch.uint8, device=nodes_KHW.device)
    for y in range(node_px):
        left = _between(top_left, bottom_left, y / node_px)
        right = _between(top_right, bottom_right, y / node_px)
        for x in range(node_px):
            best, winner = _between(left, right, x / node_px).max(dim=0)
            classes[y, x] = winner.to(class_dtype)
            confidence[y, x] = _in_steps(best)
    return classes, confidence


def upsample(nodes_KHW: Tensor, node_px: int) -> Tensor:
    """Every class at every pixel of the cells between nodes, for logits at full size."""
    num_classes, rows, cols = nodes_KHW.shape
    full = torch.stack([_interpolate(nodes_HW, node_px) for nodes_HW in nodes_KHW])
    return full.view(num_classes, (rows - 1) * node_px, (cols - 1) * node_px)


def _interpolate(nodes_HW: Tensor, node_px: int) -> Tensor:
    """Values at the pixels of every cell: (cell row, pixel row, cell column, pixel column)."""
    share = torch.arange(node_px, dtype=nodes_HW.dtype, device=nodes_HW.device) / node_px
    rows = _between(nodes_HW[:-1, None, :], nodes_HW[1:, None, :], share[:, None])
    return _between(rows[:, :, :-1, None], rows[:, :, 1:, None], share)


def _between(start: Tensor, end: Tensor, share: Tensor | float) -> Tensor:
    """Linear interpolation in plain steps: fused ones round differently at the end of a row."""
    return (end - start).mul(share).add_(start)


def _in_steps(probability: Tensor) -> Tensor:
    return (probability * CONFIDENCE_STEPS + 0.5).to(torch.uint8)
