"""Open files, few of them: those used last, however many scenes there are."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from pipeline.errors import BlockError
from pipeline.raster.gdal_bands import BandReader, gdal_environment, lacks_mask, open_dataset, said
from pipeline.raster.scenes.places import outline_px, through
from pipeline.raster.scenes.scene import SceneFile
from pipeline.storage import redact

Key = tuple[str, tuple[int, ...], float | None]


@dataclass(frozen=True)
class OpenFile:
    """A data set, for one thread at a time, and the reader of its bands."""

    dataset: DatasetReader
    reader: BandReader


class FilePool:
    """Opens files when they are wanted, and closes those unused for longest."""

    def __init__(self, *, most_idle: int, num_threads: int) -> None:
        self._most_idle = most_idle
        self._num_threads = num_threads
        self._lock = threading.Lock()
        self._idle: OrderedDict[int, tuple[Key, OpenFile]] = OrderedDict()
        self._next = 0

    @contextmanager
    def open(self, file: SceneFile) -> Iterator[OpenFile]:
        """A file, ready to be read by this thread; a failure names it."""
        with gdal_environment(num_threads=self._num_threads, url=file.url, alone=file.is_alone):
            key = (file.url, file.file_bands, file.nodata)
            opened = self._take(key) or _open(file)
            try:
                yield opened
            except RasterioError as error:
                opened.dataset.close()
                raise BlockError(f"cannot read {redact(file.url)}: {said(error)}") from error
            except BaseException:
                opened.dataset.close()
                raise
            self._give_back(key, opened)

    def close(self) -> None:
        """Close every file."""
        with self._lock:
            idle, self._idle = self._idle, OrderedDict()
        for _, opened in idle.values():
            opened.dataset.close()

    def _take(self, key: Key) -> OpenFile | None:
        with self._lock:
            for ticket, (found, opened) in reversed(self._idle.items()):
                if found == key:
                    del self._idle[ticket]
                    return opened
        return None

    def _give_back(self, key: Key, opened: OpenFile) -> None:
        with self._lock:
            self._idle[self._next] = key, opened
            self._next += 1
            oldest = self._idle.popitem(last=False)[1][1] if len(self._idle) > self._most_idle else None
        if oldest is not None:
            oldest.dataset.close()


def _open(file: SceneFile) -> OpenFile:
    dataset = open_dataset(file.url)
    try:
        _check(dataset, file)
        return OpenFile(dataset, BandReader(dataset, file.file_bands, file.nodata))
    except BaseException:
        dataset.close()
        raise


def _check(dataset: DatasetReader, file: SceneFile) -> None:
    """Refuse a file that is not what the plan was made for: replaced since, or not as its item says."""
    corners = outline_px(file.grid)
    moved = through(~file.grid.transform, through(dataset.transform, corners)) - corners
    is_the_same = dataset.shape == (file.grid.height, file.grid.width) and np.abs(moved).max() < 0.5
    if not is_the_same or dataset.count < max(file.file_bands):
        raise BlockError(
            f"{redact(file.url)} must have {file.grid.height} × {file.grid.width} px from "
            f"{tuple(file.grid.transform)[:6]} and band {max(file.file_bands)}, as was said when the run was "
            f"planned; it has {dataset.height} × {dataset.width} px from {tuple(dataset.transform)[:6]} and "
            f"{dataset.count} bands"
        )
    if file.has_mask and lacks_mask(dataset):
        raise BlockError(
            f"the mask beside {redact(file.url)} was there when the run was planned, but cannot be read now; "
            "check whether its store answers, and go on"
        )
