"""Where a driver and its workers leave word for each other; in a process of its own, so it imports little."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

Word = Literal["go on", "make way", "stop"]


class Desk:
    """Messages of the workers for the driver's log, and what workers are to do.

    They are asked to make way when others are to go on in their place, and to stop when nobody is.
    """

    def __init__(self) -> None:
        self._messages: list[tuple[int, str]] = []
        self._word: Word = "go on"
        self._have_left = True

    def ask_to_stop(self) -> bool:
        """The driver wants training to end; whether nobody is at work."""
        self._word = "stop"
        return self._have_left

    def ask_to_make_way(self) -> None:
        """Another number of workers is to go on."""
        if self._word == "go on":
            self._word = "make way"

    def welcome(self) -> None:
        """The next workers may come, unless training is to end."""
        if self._word == "make way":
            self._word = "go on"

    def word(self) -> Word:
        """What workers are to do."""
        return self._word

    def begin(self) -> None:
        """Workers have come, says the first of them."""
        self._have_left = False

    def leave(self) -> None:
        """They will not take another step, and their state is stored, says the first."""
        self._have_left = True

    def have_left(self) -> bool:
        """Whether nobody is at work: the workers that came last have left."""
        return self._have_left

    def tell(self, level: int, text: str) -> None:
        """A worker has something to say.

        Args:
            level: As `logging` counts them.
            text: What.
        """
        self._messages.append((level, text))

    def take(self) -> list[tuple[int, str]]:
        """What was told since the last call."""
        taken, self._messages = self._messages, []
        return taken


@contextmanager
def heard(desk: Any, level: int) -> Iterator[None]:  # noqa: ANN401 - a handle of Ray's on a desk
    """Within, the driver hears what this process has to say: it runs where nobody looks.

    Args:
        desk: Where it is told.
        level: Of the least that is passed on.
    """
    handler = _ToTheDesk(desk, level)
    ours = logging.getLogger("pipeline")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.removeHandler(handler)


class _ToTheDesk(logging.Handler):
    def __init__(self, desk: Any, level: int) -> None:  # noqa: ANN401 - a handle of Ray's
        super().__init__(level)
        self._desk = desk

    def emit(self, record: logging.LogRecord) -> None:
        self._desk.tell.remote(record.levelno, self.format(record))
