"""Settings of ``jobs/evaluate.py``. Read at the edge; inside, plain values travel."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipeline.config import BLOCK_MULTIPLE_PX, Auto
from pipeline.settings import Settings
from pipeline.train.tiles.settings import LabelsSettings


class EvaluatedLabels(LabelsSettings):
    """What the mosaic is compared with, and what its values mean: the same words as in training."""

    urls: Annotated[
        tuple[str, ...],
        Field(
            description="label rasters, GeoJSON files or tile sets; where several overlap, the first counts",
            min_length=1,
        ),
    ]
    split: Annotated[
        Literal["train", "val", "test"] | None,
        Field(description="of a tile set, only the tiles of this split; null: all of them"),
    ] = None

    @field_validator("urls", mode="before")
    @classmethod
    def _one_url_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class RegionsSettings(Settings):
    """Places that are also reported by themselves."""

    url: Annotated[str | None, Field(description="GeoJSON file or URL of polygons")] = None
    property: Annotated[str, Field(description="the property that names a region")] = "name"


class BoundarySettings(Settings):
    """Boundary IoU."""

    width_px: Annotated[
        Auto | int,
        Field(description="width of the band along contours; auto: 2 % of the mosaic's diagonal, at most 15"),
    ] = "auto"

    @field_validator("width_px")
    @classmethod
    def _a_width_is_positive(cls, value: Auto | int) -> Auto | int:
        if value != "auto" and not 1 <= value <= BLOCK_MULTIPLE_PX:
            raise ValueError(f"boundary.width_px must be auto or 1 to {BLOCK_MULTIPLE_PX}")
        return value


class ReliabilitySettings(Settings):
    """The diagram of confidence against accuracy."""

    bins: Annotated[int, Field(description="bins of confidence", ge=2, le=127)] = 15


class AreaSettings(Settings):
    """Areas and their standard errors."""

    cluster_px: Annotated[
        Auto | int,
        Field(description="side of the squares whose pixels count as one sample; auto: 256, more if needed"),
    ] = "auto"

    @field_validator("cluster_px")
    @classmethod
    def _clusters_fit_blocks(cls, value: Auto | int) -> Auto | int:
        if value != "auto" and (value < 16 or value & (value - 1)):
            raise ValueError("area.cluster_px must be auto or a power of two from 16 on")
        return value


class EvaluateBlocks(Settings):
    """What one task compares."""

    size_px: Annotated[
        int, Field(description=f"side of a block in px, a multiple of {BLOCK_MULTIPLE_PX}", ge=1024, le=8192)
    ] = 2048

    @field_validator("size_px")
    @classmethod
    def _whole_chunks(cls, value: int) -> int:
        if value % BLOCK_MULTIPLE_PX:
            raise ValueError(f"block.size_px must be a multiple of {BLOCK_MULTIPLE_PX}")
        return value


class EvaluateCompute(Settings):
    """Where and with how much it runs; nothing here changes the result."""

    executor: Annotated[
        Literal["ray", "local"], Field(description="ray: actors on a cluster; local: in this process")
    ] = "ray"
    workers: Annotated[Auto | int, Field(description="workers; auto: one a core")] = "auto"

    @field_validator("workers")
    @classmethod
    def _workers_are_positive(cls, value: Auto | int) -> Auto | int:
        if value != "auto" and value < 1:
            raise ValueError("compute.workers must be auto or at least 1")
        return value


class EvaluateConfig(Settings):
    """One evaluation of a mosaic."""

    mosaic: Annotated[str, Field(description="the mosaic: path or URL", min_length=1)]
    labels: EvaluatedLabels
    regions: RegionsSettings = RegionsSettings()
    boundary: BoundarySettings = BoundarySettings()
    reliability: ReliabilitySettings = ReliabilitySettings()
    area: AreaSettings = AreaSettings()
    block: EvaluateBlocks = EvaluateBlocks()
    output: Annotated[
        str, Field(description="directory or prefix of the report and the error map", min_length=1)
    ]
    error_cog: Annotated[str | None, Field(description="write the error map also as this COG")] = None
    compute: EvaluateCompute = EvaluateCompute()
