"""Weights that make up for rare classes, from integer pixel counts."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

WeightingRule = Literal["inverse_log_frequency", "median_frequency"]

# ENet's constant: it bounds the weight of a class that never occurs to 1 / ln 1.02 = 50.5.
_LOG_OFFSET = 1.02


def class_frequencies(counts: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the share of every class.

    Args:
        counts: Pixels of each class.
    """
    pixels = np.asarray(counts)
    if pixels.ndim != 1 or pixels.dtype.kind not in "iu" or (pixels < 0).any() or not pixels.any():
        raise ValueError(
            f"class counts must be integers, none negative and one at least positive, got {counts!r}; "
            "count the labels of the training tiles first"
        )
    return pixels / pixels.sum(dtype=np.float64)


def class_weights(counts: Sequence[int] | NDArray[np.integer], rule: WeightingRule) -> NDArray[np.float64]:
    """Return one weight a class, always finite.

    `inverse_log_frequency` is 1 / ln(1.02 + p), `median_frequency` the median of the p that are not zero
    over p. A class without pixels counts as the rarest class seen in the latter.

    Args:
        counts: Pixels of each class.
        rule: How a weight follows from the share p of its class.
    """
    shares = class_frequencies(counts)
    if rule == "inverse_log_frequency":
        return 1.0 / np.log(_LOG_OFFSET + shares)
    present = shares[shares > 0]
    return np.median(present) / np.where(shares > 0, shares, present.min())
