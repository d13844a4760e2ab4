"""Settings of ``jobs/demo.py``. Read at the edge; inside, plain values travel."""

from typing import Annotated

from pydantic import Field, field_validator

from pipeline.settings import Settings
from pipeline.synthetic.landscape import COARSE

SMALLEST_PX = 2048
"""Below, no whole tile fits beside the part that is held out."""


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
    minutes: Annotated[
        float, Field(description="minutes of training", gt=0, le=24 * 60, allow_inf_nan=False)
    ] = 2.0
    steps: Annotated[
        int | None, Field(description="optimiser steps after which training ends, if sooner", ge=1)
    ] = None

    @field_validator("side")
    @classmethod
    def _whole_cells(cls, value: int) -> int:
        if value % COARSE:
            raise ValueError(f"side must be a multiple of {COARSE}, got {value}")
        return value
