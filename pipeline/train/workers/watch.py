"""What may end a worker early, looked at in a thread of its own: a step waits for no answer."""

import logging
import threading
from collections.abc import Callable

from pipeline.train.workers.desk import Word

logger = logging.getLogger(__name__)


class Watch:
    """Looks until there is a reason to leave.

    Args:
        ask: Gives the driver's word.
        is_leaving: Whether the machine has been told to go.
        every_s: Seconds between looks.
        unreachable: What ``ask`` raises when nobody answers any more.
    """

    def __init__(
        self,
        ask: Callable[[], Word],
        is_leaving: Callable[[], bool],
        *,
        every_s: float,
        unreachable: type[Exception],
    ) -> None:
        self.shall_leave = False
        self._ask, self._is_leaving = ask, is_leaving
        self._every_s, self._unreachable = every_s, unreachable
        self._over = threading.Event()
        threading.Thread(target=self._look, name="terrazzo-watch", daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._over.set()

    def _look(self) -> None:
        while not self._over.wait(self._every_s) and not self.shall_leave:
            try:
                self.shall_leave = self._ask() != "go on" or self._is_leaving()
            except self._unreachable as error:
                logger.warning("the driver cannot be asked whether to go on: %s", error)
                return  # it is gone, and Ray ends its workers
