"""Settings of ``jobs/suggest_tiles.py``. Read at the edge; inside, plain values travel."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipeline.config import Auto, Finite
from pipeline.settings import Settings
from pipeline.train.evaluate.settings import EvaluateCompute


class SuggestConfig(Settings):
    """A list of tiles worth labelling."""

    mosaic: Annotated[str, Field(description="the mosaic: path or URL", min_length=1)]
    output: Annotated[str, Field(description="the GeoJSON file; replaced if it is there", min_length=1)]
    count: Annotated[int, Field(description="tiles wanted", ge=1, le=10_000)] = 20
    size_px: Annotated[int, Field(description="side of a tile in px", ge=64, le=4096)] = 512
    min_distance_px: Annotated[
        Auto | int,
        Field(description="between the centres of two tiles, in px; auto: twice the side of a tile"),
    ] = "auto"
    max_nodata: Annotated[
        Finite, Field(description="share of a tile that may be without data", ge=0, lt=1)
    ] = 0.2
    variety: Annotated[
        Finite,
        Field(
            description="how much a tile loses that shows the same classes as one chosen before: 0 nothing, "
            "1 everything",
            ge=0,
            le=1,
        ),
    ] = 0.5
    doubt: Annotated[
        Literal["auto", "confidence", "margin"],
        Field(
            description="what doubt is measured by: 1 − confidence, or 1 − the distance of the two likeliest "
            "classes; auto: margin where the mosaic keeps logits"
        ),
    ] = "auto"
    compute: EvaluateCompute = EvaluateCompute(executor="local")

    @field_validator("min_distance_px")
    @classmethod
    def _a_distance_is_not_negative(cls, value: Auto | int) -> Auto | int:
        if value != "auto" and value < 0:
            raise ValueError("min_distance_px must be auto or at least 0")
        return value
