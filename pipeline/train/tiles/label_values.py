"""Raw label values to class indices."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SettingsError
from pipeline.train.tiles.settings import LabelsSettings

UNKNOWN = -1
MOST_UNKNOWN = 8
"""Values that are no class, told of one window."""


@dataclass(frozen=True)
class LabelsRead:
    """Labels of a window, and how often each value was seen in it that is no class."""

    labels_HW: NDArray[np.uint16]
    unknown: Counter[str]


@dataclass(frozen=True)
class LabelValues:
    """What raw values mean.

    Attributes:
        pairs: Raw value and class index, for values that are mapped; -1 means not labelled.
        ignore: Raw values that are not labelled.
        own: Values from 0 to below this one are their own index, unless they are mapped or ignored.
        unlabelled: The index that stands where there is no label.
        other: The class of every value that none of this names; ``UNKNOWN`` for none.
    """

    pairs: tuple[tuple[int, int], ...]
    ignore: tuple[int, ...]
    own: int
    unlabelled: int
    other: int = UNKNOWN

    def index(self, raw: float) -> int:
        """The class of one value, ``unlabelled``, or ``UNKNOWN``."""
        if not float(raw).is_integer():  # NaN and infinities too
            return self.other
        mapped = self._mapped
        if raw in mapped:
            return mapped[int(raw)] if mapped[int(raw)] >= 0 else self.unlabelled
        if raw in self.ignore:
            return self.unlabelled
        return int(raw) if 0 <= raw < self.own else self.other

    def translate(
        self, raw_HW: NDArray[Any], valid_HW: NDArray[np.bool_]
    ) -> tuple[NDArray[np.uint16], Counter[str]]:
        """Class indices, and how often each value was seen that is no class (those pixels are unlabelled)."""
        if raw_HW.dtype.kind in "iub" and raw_HW.dtype.itemsize <= 2:
            # Signed values are seen as unsigned, so that the negative ones come last, in table and raster.
            unsigned_HW = raw_HW.view(f"u{raw_HW.dtype.itemsize}")
            indices = self._table(raw_HW.dtype)[unsigned_HW]
        else:
            found, inverse = np.unique(raw_HW, return_inverse=True)
            indices = np.array([self.index(value) for value in found.tolist()])[inverse.reshape(raw_HW.shape)]
        strange = (indices == UNKNOWN) & valid_HW
        unknown: Counter[str] = Counter()
        if strange.any():
            values, counts = np.unique(raw_HW[strange], return_counts=True)
            most = np.argsort(-counts, kind="stable")[:MOST_UNKNOWN]
            unknown.update({f"{values[one]:g}": int(counts[one]) for one in most})
        labels = np.where(valid_HW & (indices != UNKNOWN), indices, self.unlabelled)
        return labels.astype(np.uint16), unknown

    @cached_property
    def _mapped(self) -> dict[int, int]:
        return dict(self.pairs)

    @cached_property
    def _tables(self) -> dict[str, NDArray[np.int32]]:
        return {}

    def _table(self, dtype: np.dtype[Any]) -> NDArray[np.int32]:
        """The class of every value of a small type."""
        if dtype.name not in self._tables:
            values = np.arange(1 << 8 * dtype.itemsize, dtype=f"u{dtype.itemsize}")
            seen = values if dtype.kind == "b" else values.view(dtype)
            self._tables[dtype.name] = np.array([self.index(value) for value in seen.tolist()], np.int32)
        return self._tables[dtype.name]


def by_names(settings: LabelsSettings, class_names: tuple[str, ...], unlabelled: int) -> LabelValues:
    """What raw values mean by the settings, in the order of a mosaic's classes.

    Args:
        settings: ``labels.values``, ``labels.ignore`` and ``labels.other``.
        class_names: The mosaic's classes.
        unlabelled: The index that stands where there is no label.
    """
    pairs = tuple(
        (raw, class_index("labels.values", name, class_names))
        for raw, name in sorted(settings.values.items())
    )
    if settings.other is None:
        return LabelValues(pairs, settings.ignore, len(class_names), unlabelled)
    other = class_index("labels.other", settings.other, class_names)
    return LabelValues(pairs, settings.ignore, 0, unlabelled, other)


def class_index(setting: str, name: str, class_names: tuple[str, ...]) -> int:
    """The index of a class that a setting names."""
    if name not in class_names:
        raise SettingsError(
            f"{setting} must name classes of the mosaic, which are {', '.join(class_names)}; got {name}"
        )
    return class_names.index(name)
