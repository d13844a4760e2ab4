"""Fragments of features that other cells go on with, kept in a file until the last cell has added its own."""

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.raster.vectors.fragments import Fragments, concatenate
from pipeline.raster.vectors.lines import Lines, offsets_of

NOWHERE = -1
HEADER = np.dtype([("previous", "<i8"), ("fragments", "<i8"), ("points", "<i8")])
ENTRY = np.dtype([("polygon", "<i8"), ("points", "<i4"), ("beyond", "<i4"), ("first", "i1"), ("last", "i1")])


class Spill:
    """A file to append to. Each feature's entries lead back from the last; memory holds 8 bytes a feature."""

    def __init__(self, num_features: int, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(prefix=".fragments-", dir=folder)  # noqa: SIM115 - closed below
        self._latest = np.full(num_features, NOWHERE, np.int64)
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, fragments: Fragments, features: NDArray[np.int64]) -> None:
        """Keep fragments, each for its feature."""
        order = np.argsort(features, kind="stable")
        sorted_features = features[order]
        begins = np.flatnonzero(np.diff(sorted_features, prepend=NOWHERE))
        self._file.seek(self._end)
        for begin, stop in zip(begins, np.append(begins[1:], len(order)), strict=True):
            self._append(int(sorted_features[begin]), fragments.take(order[begin:stop]))

    def take(self, feature: int) -> Fragments:
        """All fragments of a feature."""
        parts = []
        place = int(self._latest[feature])
        while place != NOWHERE:
            self._file.seek(place)
            header = self._read(HEADER, 1)[0]
            entries = self._read(ENTRY, int(header["fragments"]))
            points = self._read(np.dtype(("<i4", (2,))), int(header["points"]))
            lines = Lines(points.astype(np.int32, copy=False), offsets_of(entries["points"].astype(np.int64)))
            parts.append(
                Fragments(lines, entries["polygon"], entries["beyond"], entries["first"], entries["last"])
            )
            place = int(header["previous"])
        return concatenate(parts[::-1])

    def _append(self, feature: int, fragments: Fragments) -> None:
        points = np.ascontiguousarray(fragments.lines.points_N2, "<i4")
        header = np.array([(self._latest[feature], len(fragments), len(points))], HEADER)
        entries = np.empty(len(fragments), ENTRY)
        entries["polygon"], entries["beyond"] = fragments.polygon, fragments.beyond
        entries["points"] = fragments.lines.lengths
        entries["first"], entries["last"] = fragments.first_direction, fragments.last_direction
        data = header.tobytes() + entries.tobytes() + points.tobytes()
        self._file.write(data)
        self._latest[feature] = self._end
        self._end += len(data)

    def _read(self, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        base = dtype.base if dtype.subdtype else dtype
        data = self._file.read(count * dtype.itemsize)
        return np.frombuffer(data, base).reshape((count, *dtype.shape))
