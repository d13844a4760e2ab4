"""Agreement of predicted and true labels: the confusion matrix and the figures that follow from it.

Counts are exact integers: taken in any order, in any pieces and on any number of workers they merge to the
same matrix. Figures are float64; one that nothing was counted for is NaN.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deeplab_core.boundary_iou import BoundaryIoU
from deeplab_core.label_counts import (
    Labels,
    check_classes,
    check_label_range,
    check_mergeable,
    check_shapes,
    checked_counts,
    mean_of_defined,
    paired_pieces,
    ratio,
)

__all__ = ["BoundaryIoU", "ConfusionMatrix"]


class ConfusionMatrix:
    """Pixels by true class (rows) and predicted class (columns).

    The last column counts valid pixels without a prediction: any predicted value that is no class, such as a
    mosaic's nodata. They are missed pixels of their true class, and predictions of no other.

    Attributes:
        num_classes: Number of classes K.
        ignore_index: True label of pixels that are not counted.
        counts: Pixels, K × (K + 1).
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        check_classes(num_classes, ignore_index)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes + 1), np.int64)

    def update(self, predictions: Labels, labels: Labels) -> None:
        """Count the pixels of one or more images.

        Args:
            predictions: Predicted class indices.
            labels: True class indices or the ignored label, in the same shape.
        """
        check_shapes(predictions, labels)
        counted = np.zeros_like(self.counts)
        for predictions_P, labels_P in paired_pieces(predictions, labels):
            counted += self._count(predictions_P, labels_P)
        self.counts += counted

    def _count(self, predictions_P: Tensor, labels_P: Tensor) -> NDArray[np.int64]:
        valid_P = labels_P != self.ignore_index
        lowest, highest = (int(bound) for bound in torch.where(valid_P, labels_P, 0).aminmax())
        check_label_range(lowest, highest, self.num_classes, self.ignore_index)
        columns = self.num_classes + 1
        is_class_P = (predictions_P >= 0) & (predictions_P < self.num_classes)
        cells_P = labels_P * columns + torch.where(is_class_P, predictions_P, self.num_classes)
        # Ignored pixels go to a cell of their own behind the matrix: quicker than picking out the others.
        cells_P = torch.where(valid_P, cells_P, self.counts.size)
        counts = torch.bincount(cells_P, minlength=self.counts.size)[: self.counts.size]
        return counts.reshape(self.counts.shape).cpu().numpy()

    def merge(self, other: Self) -> None:
        """Add the counts of another matrix to this one.

        Args:
            other: Matrix of the same classes.
        """
        check_mergeable(self, other, ("num_classes", "ignore_index"))
        self.counts += other.counts

    def __add__(self, other: Self) -> Self:
        total = type(self)(self.num_classes, self.ignore_index)
        total.merge(self)
        total.merge(other)
        return total

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists, fit for JSON."""
        return {
            "num_classes": self.num_classes,
            "ignore_index": self.ignore_index,
            "counts": self.counts.tolist(),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Rebuild a matrix.

        Args:
            stored: What `to_dict` returned.
        """
        matrix = cls(stored["num_classes"], stored["ignore_index"])
        matrix.counts += checked_counts(stored["counts"], matrix.counts.shape)
        return matrix

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of every class; NaN for a class neither true nor predicted anywhere."""
        return ratio(self._hits, self._true + self._predicted - self._hits)

    @property
    def miou(self) -> float:
        """Mean of `iou` over the classes that are true or predicted somewhere."""
        return mean_of_defined(self.iou)

    @property
    def dice(self) -> NDArray[np.float64]:
        """Dice coefficient of every class, also known as F1; NaN where `iou` is."""
        return ratio(2 * self._hits, self._true + self._predicted)

    @property
    def mean_dice(self) -> float:
        """Mean of `dice` over the classes that are true or predicted somewhere."""
        return mean_of_defined(self.dice)

    @property
    def class_accuracy(self) -> NDArray[np.float64]:
        """Share of every class's true pixels that is predicted as it (recall); NaN for a class without."""
        return ratio(self._hits, self._true)

    @property
    def mean_accuracy(self) -> float:
        """Mean of `class_accuracy` over the classes that are true somewhere."""
        return mean_of_defined(self.class_accuracy)

    @property
    def pixel_accuracy(self) -> float:
        """Share of the counted pixels that is predicted right."""
        return float(ratio(self._hits.sum(), self.counts.sum()))

    @property
    def frequency_weighted_iou(self) -> float:
        """Mean of `iou` with the classes' shares of the true pixels as weights."""
        shares = ratio(self._true, self.counts.sum())
        return float(np.dot(shares, np.where(self._true > 0, self.iou, 0.0)))

    @property
    def _hits(self) -> NDArray[np.int64]:
        return np.diagonal(self.counts)

    @property
    def _true(self) -> NDArray[np.int64]:
        return self.counts.sum(axis=1)

    @property
    def _predicted(self) -> NDArray[np.int64]:
        return self.counts[:, : self.num_classes].sum(axis=0)
