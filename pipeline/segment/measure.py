"""Small numbers about a finished block that the report adds up: class areas, and how visible seams are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.mosaic import CONFIDENCE_NODATA
from pipeline.raster.window import Window
from pipeline.segment.lattice import Axis, Lattice

EVERY = 8
"""Gradients are looked at on every 8th line: plenty for a mean, and no time worth speaking of."""

STRIP_PX = 256


def count_classes(classes_HW: NDArray[Any], num_classes: int) -> list[int]:
    """Pixels of each class; nodata is not counted."""
    counts = np.zeros(num_classes, np.int64)
    for top in range(0, classes_HW.shape[0], STRIP_PX):
        strip = classes_HW[top : top + STRIP_PX].ravel()
        counts += np.bincount(strip, minlength=num_classes)[:num_classes]
    return [int(count) for count in counts]


def seam_sums(confidence_HW: NDArray[np.uint8], window: Window, lattice: Lattice) -> dict[str, list[float]]:
    """Sums and numbers of confidence gradients across crop borders and elsewhere.

    Mean at borders over mean elsewhere is 1.0 where no seam shows.
    """
    border, elsewhere = np.zeros(2), np.zeros(2)
    for lines, axis, start in (
        (confidence_HW[::EVERY], lattice.cols, window.col),
        (confidence_HW.T[::EVERY], lattice.rows, window.row),
    ):
        at_border = _is_border(axis, start, lines.shape[1])
        values = lines.astype(np.int16)
        known = (lines[:, 1:] != CONFIDENCE_NODATA) & (lines[:, :-1] != CONFIDENCE_NODATA)
        gradient = np.abs(np.diff(values, axis=1)) * known
        border += gradient[:, at_border].sum(), known[:, at_border].sum()
        elsewhere += gradient[:, ~at_border].sum(), known[:, ~at_border].sum()
    return {"border": border.tolist(), "elsewhere": elsewhere.tolist()}


def seam_ratio(sums: list[dict[str, list[float]]]) -> float | None:
    """Mean gradient across crop borders over the mean elsewhere; None where there is nothing to compare."""
    border = np.sum([one["border"] for one in sums], axis=0) if sums else np.zeros(2)
    elsewhere = np.sum([one["elsewhere"] for one in sums], axis=0) if sums else np.zeros(2)
    if not (border[1] and elsewhere[1] and elsewhere[0]):
        return None
    return float((border[0] / border[1]) / (elsewhere[0] / elsewhere[1]))


def _is_border(axis: Axis, start: int, size: int) -> NDArray[np.bool_]:
    """For each pair of neighbouring pixels, whether a crop begins or ends between or beside them."""
    left = np.arange(start, start + size - 1)
    result = np.zeros(len(left), np.bool_)
    # The first crop's beginning and the last one's end are edges of the raster: no crops meet there.
    for edge, first, last in ((0, 1, axis.num_crops), (axis.crop_px - 1, 0, axis.num_crops - 1)):
        # The pair before a crop's edge pixel and the pair after it: the change is spread over both.
        for pair in (left + 1, left):
            crop, rest = np.divmod(pair - edge, axis.stride_px)
            result |= (rest == 0) & (crop >= first) & (crop < last)
    return result
