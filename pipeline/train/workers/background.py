"""A call in a thread of its own, while the main thread listens to signals."""

import threading
from collections.abc import Callable


class InBackground:
    """A call at work.

    Args:
        call: What is called, at once.
        name: Of its thread.
    """

    def __init__(self, call: Callable[[], object], name: str) -> None:
        self._call = call
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def is_running(self, seconds: float) -> bool:
        """Whether it still is after so many seconds, or as soon as it is not."""
        self._thread.join(seconds)
        return self._thread.is_alive()

    @property
    def error(self) -> BaseException | None:
        """What ended it, if anything did."""
        return self._error

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001 - handed over to the thread that asks
            self._error = error
