"""Several scenes on one cell become one.

``first``: the topmost scene that has all bands of a pixel gives all of them; where none has, the topmost that
has any. A pixel never mixes the bands of two scenes. ``median``: of each band, over the scenes that have it;
of an even number the mean of the middle two, rounded to even where samples are whole numbers.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.scenes.scene import Composite
from pipeline.raster.scenes.warp import Layer


def compose(layers: Iterable[Layer], empty: Layer, how: Composite) -> Layer:
    """One layer of many, topmost first; scenes that cannot be seen any more are not asked for.

    Args:
        layers: Scenes on parts of the cell, of one type.
        empty: The cell without data, of that type.
        how: The rule.
    """
    return _first(layers, empty) if how == "first" else _median(list(layers), empty)


def _first(layers: Iterable[Layer], empty: Layer) -> Layer:
    samples, present = empty.samples_CHW.copy(), empty.present_CHW.copy()
    complete = np.zeros(present.shape[1:], np.bool_)
    touched = complete.copy()
    for layer in layers:
        rows, cols = layer.window.relative_to(empty.window).slices
        has_all, has_any = layer.present_CHW.all(axis=0), layer.present_CHW.any(axis=0)
        take = (has_all & ~complete[rows, cols]) | (has_any & ~touched[rows, cols])
        np.copyto(samples[:, rows, cols], layer.samples_CHW, where=take)
        np.copyto(present[:, rows, cols], layer.present_CHW, where=take)
        complete[rows, cols] |= has_all
        touched[rows, cols] |= has_any
        if complete.all():
            break
    samples[~present] = 0
    return Layer(empty.window, samples, present)


def _median(layers: list[Layer], empty: Layer) -> Layer:
    samples, present = empty.samples_CHW.copy(), empty.present_CHW.copy()
    for band in range(len(samples) if layers else 0):
        planes = [layer.channels([band]).over(empty.window) for layer in layers]
        values = np.concatenate([plane.samples_CHW for plane in planes])
        known = np.concatenate([plane.present_CHW for plane in planes])
        samples[band], present[band] = _median_of_known(values, known)
    return Layer(empty.window, samples, present)


def _median_of_known(
    values_NHW: NDArray[Any], known_NHW: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The median along the first axis of what is known, 0 where nothing is."""
    is_exact = values_NHW.dtype.itemsize < 4
    ordered = values_NHW.astype(np.float32 if is_exact else np.float64)
    ordered[~known_NHW] = np.inf  # behind everything that is known
    ordered.sort(axis=0)
    count = known_NHW.sum(axis=0)
    below, above = np.maximum(count - 1, 0) // 2, count // 2
    above = np.minimum(above, len(ordered) - 1)
    low = np.take_along_axis(ordered, below[None], axis=0)[0]
    high = np.take_along_axis(ordered, above[None], axis=0)[0]
    known = count > 0
    middle = np.where(known, low, 0) / 2 + np.where(known, high, 0) / 2
    if values_NHW.dtype.kind in "iu":
        middle = np.rint(middle)
    return middle.astype(values_NHW.dtype), known
