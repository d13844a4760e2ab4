"""Whose a run's folder is: of two trainings to one output the later goes on, and the earlier ends.

A lock would outlive whoever was killed and wait to be broken by hand. So whoever begins writes a word of its
own into the folder, and looks before it stores anything whether that is still what stands there.
"""

import uuid
from dataclasses import dataclass

from pipeline.errors import MismatchError
from pipeline.storage import Folder, redact

HOLDER_KEY = "holder"


@dataclass(frozen=True)
class Holding:
    """A training's claim on a run's folder; travels to its workers.

    Attributes:
        run: The run's folder, ``<output>.run``.
        word: What this training wrote there; None for one that claims nothing.
    """

    run: Folder
    word: str | None = None

    @classmethod
    def take(cls, run: Folder) -> "Holding":
        """Claim a folder, whoever held it.

        Args:
            run: The run's folder.
        """
        word = uuid.uuid4().hex
        run.write(HOLDER_KEY, word.encode())
        return cls(run, word)

    def check(self) -> None:
        """Refuse to go on where another training has taken over.

        Raises:
            MismatchError: The folder is another training's by now.
        """
        if self.word is None:
            return
        try:
            stands = self.run.read(HOLDER_KEY).decode()
        except FileNotFoundError:
            stands = "nothing"
        if stands != self.word:
            raise MismatchError(
                f"one training at a time may write to {redact(self.run.url)}, but another was started there "
                "while this one ran; that one goes on from the newest state, this one ends"
            )
