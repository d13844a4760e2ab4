"""Cells that were read last, for the blocks that ask next."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

from pipeline.raster.scenes.warp import Layer
from pipeline.raster.window import Window


class CellCache:
    """Cells read last; a cell that two threads want at once is read by one of them."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._cells: OrderedDict[Window, Future[Layer]] = OrderedDict()
        self._bytes = 0

    def get(self, cell: Window, read: Callable[[Window], Layer]) -> Layer:
        """A cell, from here or by reading it; what could not be read is read again when asked for again."""
        with self._lock:
            known = self._cells.get(cell)
            if known is not None:
                self._cells.move_to_end(cell)
            else:
                mine: Future[Layer] = Future()
                self._cells[cell] = mine
        if known is not None:
            return known.result()
        try:
            layer = read(cell)
        except BaseException as error:
            with self._lock:
                del self._cells[cell]
            mine.set_exception(error)
            raise
        mine.set_result(layer)
        with self._lock:
            self._bytes += _bytes_of(layer)
            self._forget_oldest()
        return layer

    def _forget_oldest(self) -> None:
        for cell in [cell for cell, layer in self._cells.items() if layer.done()]:
            if self._bytes <= self._most_bytes:
                return
            self._bytes -= _bytes_of(self._cells.pop(cell).result())


def _bytes_of(layer: Layer) -> int:
    return layer.samples_CHW.nbytes + layer.present_CHW.nbytes
