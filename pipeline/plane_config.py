"""Settings that choose planes of a stack."""

from typing import Annotated

from pydantic import Field, model_validator

from pipeline.settings import Settings

PlaneNumber = Annotated[int, Field(ge=0)]


class PlaneRange(Settings):
    """Planes from one number to another. A mapping, since YAML reads 1:30 as ninety."""

    start: PlaneNumber = 0
    stop: PlaneNumber | None = None
    step: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _holds_something(self) -> "PlaneRange":
        if self.stop is not None and self.stop <= self.start:
            raise ValueError(f"stop, which is not taken any more, must be above start = {self.start}")
        return self


PlaneChoice = PlaneNumber | Annotated[tuple[PlaneNumber, ...], Field(min_length=1)] | PlaneRange


def as_wish(choice: PlaneChoice | None) -> tuple[int, ...] | slice | None:
    """The choice in Python's own words; None: every plane."""
    if isinstance(choice, PlaneRange):
        return slice(choice.start, choice.stop, choice.step)
    return (choice,) if isinstance(choice, int) else choice
