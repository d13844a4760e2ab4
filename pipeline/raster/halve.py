"""Half the size: the commonest of each 2 × 2 classes. Pure."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def majority(values_HW: NDArray[Any], nodata: int) -> NDArray[Any]:
    """The commonest of each 2 × 2 values, nodata aside; the first in reading order among equals."""
    height, width = values_HW.shape
    even = np.pad(values_HW, ((0, height % 2), (0, width % 2)), constant_values=nodata)
    quarters = [even[row::2, col::2] for row in (0, 1) for col in (0, 1)]
    best, best_votes = quarters[0].copy(), np.zeros(quarters[0].shape, np.uint8)
    for candidate in quarters:
        votes = np.zeros(candidate.shape, np.uint8)
        for other in quarters:
            votes += candidate == other
        votes[candidate == nodata] = 0
        better = votes > best_votes
        best[better], best_votes[better] = candidate[better], votes[better]
    return best
