"""Settings of ``jobs/demo.py``. Read at the edge; inside, plain values travel."""

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from pipeline.settings import Settings
from pipeline.synthetic.landscape import COARSE

SMALLEST_PX = 2048
"""Below, no whole tile fits beside the part that is held out."""

STEPS = 160
"""Of training, two minutes on two cores. The steps decide and not the time, so that every machine of a kind
learns the same and a slow one no less."""


class DemoConfig(Settings):
    """One demo."""

    folder: Annotated[str, Field(description="local folder of all that the demo writes", min_length=1)] = (
        "demo"
    )
    side: Annotated[
        int,
        Field(description=f"side of the landscape in px, a multiple of {COARSE}", ge=SMALLEST_PX, le=32768),
    ] = 6144
    seed: Annotated[int, Field(description="of the landscape and of training", ge=0)] = 7
    steps: Annotated[
        int | None, Field(description="optimiser steps of training; null: as many as the minutes allow", ge=1)
    ] = STEPS
    minutes: Annotated[
        Annotated[float, Field(gt=0, le=24 * 60, allow_inf_nan=False)] | None,
        Field(description="minutes after which training ends, if its steps take longer; null: unlimited"),
    ] = None

    @field_validator("side")
    @classmethod
    def _whole_cells(cls, value: int) -> int:
        if value % COARSE:
            raise ValueError(f"side must be a multiple of {COARSE}, got {value}")
        return value

    @model_validator(mode="after")
    def _has_an_end(self) -> "DemoConfig":
        if self.steps is None and self.minutes is None:
            raise ValueError("steps or minutes must be given: training needs an end")
        return self
