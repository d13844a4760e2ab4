"""What metrics and losses share: checks of label images, 64-bit pieces of them, and division of counts."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Labels = NDArray[Any] | Tensor
"""Class indices, of any integer type."""

# Pixels counted at a time. Counting makes several 64-bit copies of them, which should stay in a core's cache;
# on a device the start of each operation is what costs.
_HOST_PIECE_PX = 1 << 15
_DEVICE_PIECE_PX = 1 << 24


def ratio(part: NDArray[np.int64] | np.int64, whole: NDArray[np.int64] | np.int64) -> NDArray[np.float64]:
    """Divide counts; NaN where the whole is 0.

    Args:
        part: Counts above the line.
        whole: Counts below it.
    """
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def mean_of_defined(figures: NDArray[np.float64]) -> float:
    """Mean of the figures that are not NaN; NaN if none is defined.

    Args:
        figures: One figure a class.
    """
    defined = figures[~np.isnan(figures)]
    return float(defined.mean()) if defined.size else float("nan")


def check_classes(num_classes: int, ignore_index: int) -> None:
    """Refuse class settings that would leave a class uncounted.

    Args:
        num_classes: Number of classes.
        ignore_index: Label of pixels that are not counted.
    """
    if num_classes < 1 or 0 <= ignore_index < num_classes:
        raise ValueError(
            "num_classes must be positive and ignore_index lie outside the classes, "
            f"got num_classes {num_classes} and ignore_index {ignore_index}; "
            "choose another ignore_index, such as 255, or 65535 above 255 classes"
        )


def check_shapes(predictions: Labels, labels: Labels) -> None:
    """Refuse label images that do not lie on each other.

    Args:
        predictions: Predicted class indices.
        labels: True class indices.
    """
    if tuple(predictions.shape) != tuple(labels.shape):
        raise ValueError(
            "predictions and labels must have one shape, "
            f"got {tuple(predictions.shape)} and {tuple(labels.shape)}; cut both to the same window"
        )


def check_integers(labels: Labels, name: str) -> None:
    """Refuse label images that hold no indices, such as logits.

    Args:
        labels: Class indices.
        name: What to call them in the error.
    """
    if isinstance(labels, Tensor):
        is_integer = not (labels.is_floating_point() or labels.is_complex())
    else:
        is_integer = labels.dtype.kind in "iub"
    if not is_integer:
        raise TypeError(f"{name} must be of an integer type, got {labels.dtype}; take the argmax of logits")


def check_label_range(lowest: int, highest: int, num_classes: int, ignore_index: int) -> None:
    """Refuse true labels that are no class: counting past them would flatter the figures.

    Args:
        lowest: Lowest valid label.
        highest: Highest valid label.
        num_classes: Number of classes.
        ignore_index: Label of pixels that are not counted.
    """
    if lowest < 0 or highest >= num_classes:
        raise ValueError(
            f"labels must be 0…{num_classes - 1} or ignore_index {ignore_index}, "
            f"got {lowest if lowest < 0 else highest}; map the labels to classes first"
        )


def check_mergeable(one: object, other: object, settings: tuple[str, ...]) -> None:
    """Refuse to merge counts that were taken under different settings.

    Args:
        one: The counts to add to.
        other: The counts to be added.
        settings: Names of the attributes that must agree.
    """
    mine, theirs = ({name: getattr(counts, name) for name in settings} for counts in (one, other))
    if mine != theirs:
        raise ValueError(
            f"counts to merge must be taken under the same settings, got {mine} and {theirs}; "
            "count both with the classes of one model"
        )


def checked_counts(stored: Any, shape: tuple[int, ...]) -> NDArray[np.int64]:  # noqa: ANN401 - parsed JSON
    """Return stored counts as an array, refusing what cannot be counts.

    Args:
        stored: Nested lists.
        shape: Shape that the counts must have.
    """
    counts = np.asarray(stored)
    if counts.shape != shape or counts.dtype.kind not in "iu" or (counts < 0).any():
        raise ValueError(
            f"stored counts must be integers of shape {shape}, none negative, "
            f"got shape {counts.shape} of {counts.dtype}; count the labels anew"
        )
    return counts.astype(np.int64)


def paired_pieces(predictions: Labels, labels: Labels) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield both label images as flat 64-bit tensors of bounded size, on the device if one of them is there.

    Args:
        predictions: Predicted class indices of any integer type.
        labels: True class indices of any integer type, in the same shape.
    """
    check_integers(predictions, "predictions")
    check_integers(labels, "labels")
    tensors = [image for image in (predictions, labels) if isinstance(image, Tensor)]
    device = next((image.device for image in tensors if image.device.type != "cpu"), torch.device("cpu"))
    piece_px = _HOST_PIECE_PX if device.type == "cpu" else _DEVICE_PIECE_PX
    predictions_P, labels_P = predictions.reshape(-1), labels.reshape(-1)
    for start in range(0, len(labels_P), piece_px):
        piece = slice(start, start + piece_px)
        yield _to_int64(predictions_P[piece], device), _to_int64(labels_P[piece], device)


def _to_int64(piece_P: Labels, device: torch.device) -> Tensor:
    if isinstance(piece_P, Tensor):
        return piece_P.detach().to(device, torch.int64)
    return torch.from_numpy(piece_P.astype(np.int64)).to(device)
