"""Where a driver and its workers leave word for each other; in a process of its own, so it imports little."""


class Desk:
    """Messages of the workers for the driver's log, and the driver's wish to stop."""

    def __init__(self) -> None:
        self._messages: list[tuple[int, str]] = []
        self._shall_stop = False

    def ask_to_stop(self) -> None:
        """The driver wants training to end."""
        self._shall_stop = True

    def shall_stop(self) -> bool:
        """Whether it does."""
        return self._shall_stop

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
