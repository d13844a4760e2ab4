"""Boundary IoU (Cheng et al. 2021): agreement of the bands along the contours instead of whole areas.

IoU of a large object hardly notices a blurred outline. Here only the pixels of a class within a few pixels of
its contour count, in truth and prediction alike.
"""

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from deeplab_core.label_counts import (
    Labels,
    check_classes,
    check_integers,
    check_label_range,
    check_mergeable,
    check_shapes,
    checked_counts,
    mean_of_defined,
    ratio,
)

_SETTINGS = ("num_classes", "ignore_index", "fraction", "width_px")


class BoundaryIoU:
    """Pixels of the intersection and the union of true and predicted contour bands, by class.

    As in the authors' code, the band of a mask is its pixels that lie within `d` rows and columns (a square)
    of a pixel outside it or of the image's frame. Ignored pixels are unknown on both sides: they are not
    counted and draw no contour.

    Attributes:
        num_classes: Number of classes K.
        ignore_index: True label of pixels that are not counted.
        fraction: `d` as a fraction of each image's diagonal.
        width_px: `d` in pixels, if given; takes the place of `fraction`.
        intersections: Pixels in both bands, K.
        unions: Pixels in either band, K.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        *,
        fraction: float = 0.02,
        width_px: int | None = None,
    ) -> None:
        check_classes(num_classes, ignore_index)
        if fraction <= 0 or (width_px is not None and width_px < 1):
            raise ValueError(
                "the contour band must have a fraction above 0 and a width_px of at least 1, "
                f"got fraction {fraction} and width_px {width_px}; leave both out for 2 % of the diagonal"
            )
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.fraction = fraction
        self.width_px = width_px
        self.intersections: NDArray[np.int64] = np.zeros(num_classes, np.int64)
        self.unions: NDArray[np.int64] = np.zeros(num_classes, np.int64)

    def update(self, predictions: Labels, labels: Labels, counted: NDArray[np.bool_] | None = None) -> None:
        """Count the contours of one or more images.

        A large image may be counted in blocks, with `width_px` set: give every block with a halo of
        `width_px` and mark its own pixels in `counted`; the sum is then exactly that of the whole image.

        Args:
            predictions: Predicted class indices, (…, H, W); a value that is no class is no prediction.
            labels: True class indices or the ignored label, in the same shape.
            counted: Pixels to count, in the same shape; all of them if left out.
        """
        check_shapes(predictions, labels)
        check_integers(predictions, "predictions")
        check_integers(labels, "labels")
        predicted, true = _on_host(predictions), _on_host(labels)
        if true.ndim < 2:
            raise ValueError(f"labels must be images of shape (…, H, W), got {true.shape}; do not flatten")
        valid = true != self.ignore_index
        present = np.unique(true[valid]).tolist()
        if present:
            check_label_range(present[0], present[-1], self.num_classes, self.ignore_index)
        distance_px = self._distance_px(*true.shape[-2:])
        countable = valid if counted is None else valid & counted
        for label in set(present) | set(np.unique(predicted[valid]).tolist()):
            if 0 <= label < self.num_classes:
                true_band = _band(true == label, valid, distance_px) & countable
                predicted_band = _band(predicted == label, valid, distance_px) & countable
                self.intersections[label] += np.count_nonzero(true_band & predicted_band)
                self.unions[label] += np.count_nonzero(true_band | predicted_band)

    def _distance_px(self, height: int, width: int) -> int:
        if self.width_px is not None:
            return self.width_px
        return max(1, round(self.fraction * math.hypot(height, width)))

    def merge(self, other: Self) -> None:
        """Add the counts of another accumulator to this one.

        Args:
            other: Accumulator with the same settings.
        """
        check_mergeable(self, other, _SETTINGS)
        self.intersections += other.intersections
        self.unions += other.unions

    def __add__(self, other: Self) -> Self:
        total = type(self)(
            self.num_classes, self.ignore_index, fraction=self.fraction, width_px=self.width_px
        )
        total.merge(self)
        total.merge(other)
        return total

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists, fit for JSON."""
        settings = {name: getattr(self, name) for name in _SETTINGS}
        return settings | {"intersections": self.intersections.tolist(), "unions": self.unions.tolist()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Rebuild an accumulator.

        Args:
            stored: What `to_dict` returned.
        """
        boundary = cls(**{name: stored[name] for name in _SETTINGS})
        boundary.intersections += checked_counts(stored["intersections"], boundary.intersections.shape)
        boundary.unions += checked_counts(stored["unions"], boundary.unions.shape)
        return boundary

    @property
    def iou(self) -> NDArray[np.float64]:
        """Boundary IoU of every class; NaN for a class without a contour in truth and prediction."""
        return ratio(self.intersections, self.unions)

    @property
    def miou(self) -> float:
        """Mean of `iou` over the classes with a contour somewhere."""
        return mean_of_defined(self.iou)


def _on_host(labels: Labels) -> NDArray[Any]:
    return labels.detach().cpu().numpy() if isinstance(labels, Tensor) else labels


def _band(mask: NDArray[np.bool_], valid: NDArray[np.bool_], distance_px: int) -> NDArray[np.bool_]:
    """Pixels of a mask within a distance of a valid pixel outside it, or of the frame."""
    near_other = _any_within(valid & ~mask, distance_px, axis=-1)
    return mask & _any_within(near_other, distance_px, axis=-2)


def _any_within(flags: NDArray[np.bool_], distance_px: int, axis: int) -> NDArray[np.bool_]:
    """Whether any flag is set within a distance along one axis, everything outside the array being set.

    A window of twice the length is the union of two shorter ones: the time hardly grows with the distance.
    """
    moved = np.moveaxis(flags, axis, -1)
    padding = [(0, 0)] * (moved.ndim - 1) + [(distance_px, distance_px)]
    windows, length_px = np.pad(moved, padding, constant_values=True), 1
    while length_px < 2 * distance_px + 1:
        step_px = min(length_px, 2 * distance_px + 1 - length_px)
        windows = windows[..., :-step_px] | windows[..., step_px:]
        length_px += step_px
    return np.moveaxis(windows, -1, axis)
