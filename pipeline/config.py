"""Settings of a segmentation run. Read at the edge; inside, plain values travel."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.plane_config import PlaneChoice
from pipeline.segment.lattice import LATTICE_MULTIPLE_PX, BlendWindow
from pipeline.settings import Settings
from pipeline.source_config import (
    GridSettings,
    QualityMaskSettings,
    Resampling,
    StacSettings,
)

Auto = Literal["auto"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Numbers = Finite | tuple[Finite, ...]

BLOCK_MULTIPLE_PX = 1024
"""Blocks are whole chunks of the mosaic."""


class SourceSettings(Settings):
    """What is read."""

    urls: Annotated[
        tuple[str, ...],
        Field(description="rasters to read: paths, URLs or patterns with *; with band_files, their folders"),
    ] = ()
    index: Annotated[
        str | None,
        Field(description="or a list of scenes: CSV, GeoJSON, GeoParquet or GeoPackage with a url column"),
    ] = None
    stac: StacSettings = StacSettings()
    band_files: Annotated[
        dict[str, str] | None,
        Field(description="one file a band: each band's name and its file's pattern below a scene's folder"),
    ] = None
    bands: Annotated[
        tuple[int | str, ...] | None,
        Field(description="bands in the model's order, by number from 1 or by name; null: as the model asks"),
    ] = None
    nodata: Annotated[
        float | None, Field(description="value without data, where the raster declares none or a wrong one")
    ] = None
    scale: Annotated[
        Literal["metadata"] | Numbers | None,
        Field(
            description="factor on raw values before normalising, one or one a band; metadata: scale and "
            "offset as the files or their STAC items say; null: raw values, whatever they say"
        ),
    ] = None
    offset: Annotated[Numbers | None, Field(description="added after scale, one or one a band")] = None
    order: Annotated[
        Literal["given", "newest", "least_cloud"],
        Field(description="which of several overlapping scenes is on top"),
    ] = "given"
    composite: Annotated[
        Literal["first", "median"],
        Field(description="how overlapping scenes become one: the first by order, or each band's median"),
    ] = "first"
    resampling: Annotated[
        Resampling | dict[str, Resampling],
        Field(description="how scenes off the target grid are warped: one word, or one for each band's name"),
    ] = "bilinear"
    level: Annotated[
        Auto | Annotated[int, Field(ge=0)],
        Field(description="level of a pyramid, 0 the finest; auto: by resolution or um_per_px, else 0"),
    ] = "auto"
    resolution: Annotated[
        Finite | None,
        Field(description="side of a pixel in units of the source's coordinates that picks the level", gt=0),
    ] = None
    um_per_px: Annotated[
        Finite | None, Field(description="side of a pixel in µm that picks the level: slides", gt=0)
    ] = None
    t: Annotated[
        PlaneChoice | None,
        Field(description="time points of a stack: a number, a list, or {start, stop, step}; null: all"),
    ] = None
    z: Annotated[
        PlaneChoice | None,
        Field(description="depths of a stack: a number, a list, or {start, stop, step}; null: all"),
    ] = None
    tissue: Annotated[
        Literal["off", "auto"], Field(description="skip a slide's bare glass, found on an overview")
    ] = "off"
    tissue_margin_px: Annotated[
        int, Field(description="computed around tissue, in px of the level read: half a crop", ge=0)
    ] = 256
    grid: GridSettings = GridSettings()
    quality_mask: QualityMaskSettings = QualityMaskSettings()

    @field_validator("urls", mode="before")
    @classmethod
    def _one_url_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("tissue", mode="before")
    @classmethod
    def _yaml_reads_off_as_a_boolean(cls, value: object) -> object:
        return "off" if value is False else value

    @model_validator(mode="after")
    def _one_way_to_a_level(self) -> "SourceSettings":
        wishes = {"level": self.level != "auto", "resolution": self.resolution, "um_per_px": self.um_per_px}
        given = [name for name, wish in wishes.items() if wish]
        if len(given) > 1:
            raise ValueError(f"a level must be chosen in one way, got {' and '.join(given)}")
        return self

    @model_validator(mode="after")
    def _one_kind_of_list(self) -> "SourceSettings":
        given = [name for name, is_given in self._kinds().items() if is_given]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise ValueError(f"one of source.urls, source.index and source.stac must be given, got {got}")
        if self.scale == "metadata" and self.offset is not None:
            raise ValueError("scale: metadata sets the offset too; offset must not stand beside it")
        return self

    def _kinds(self) -> dict[str, bool]:
        return {"urls": bool(self.urls), "index": self.index is not None, "stac": self.stac.is_given}

    @property
    def name(self) -> str:
        """Where it comes from, in one word: its first URL, or where its scenes are listed."""
        return self.urls[0] if self.urls else str(self.index or self.stac.url or self.stac.file)


class RegionSettings(Settings):
    """What part of the source is computed; at most one of the three."""

    polygon: Annotated[
        str | None,
        Field(description="polygons in any CRS: GeoJSON or GeoParquet, file or URL"),
    ] = None
    bbox: Annotated[
        tuple[float, float, float, float] | None,
        Field(description="left, bottom, right, top in the source's CRS"),
    ] = None
    window: Annotated[
        tuple[int, int, int, int] | None,
        Field(description="first row, first column, height, width in px of the source"),
    ] = None

    @model_validator(mode="after")
    def _one_region(self) -> "RegionSettings":
        given = [name for name in ("polygon", "bbox", "window") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"a region must be given in one way, got {' and '.join(given)}")
        return self


class ModelSettings(Settings):
    """What computes."""

    url: Annotated[
        str,
        Field(description="checkpoint (a prefix with model.json), or a registry: its champion"),
    ]


class CropSettings(Settings):
    """What the network sees at once."""

    size_px: Annotated[int, Field(description="side of a crop in px, k·16+1", ge=17)] = 513
    stride_px: Annotated[
        int, Field(description="distance of crop origins in px, a multiple of 16", ge=16)
    ] = 384

    @model_validator(mode="after")
    def _on_the_lattice(self) -> "CropSettings":
        multiple = LATTICE_MULTIPLE_PX
        if (self.size_px - 1) % multiple:
            below = (self.size_px - 1) // multiple * multiple + 1
            raise ValueError(
                f"crop.size_px must be a multiple of {multiple} plus 1, got {self.size_px}; "
                f"take {below} or {below + multiple}"
            )
        if self.stride_px % multiple or self.stride_px >= self.size_px:
            raise ValueError(
                f"crop.stride_px must be a multiple of {multiple} below crop.size_px = {self.size_px}, "
                f"got {self.stride_px}"
            )
        return self


class BlendSettings(Settings):
    """How overlapping crops become one."""

    window: Annotated[BlendWindow, Field(description="weight of a crop's pixels: gaussian, hann or flat")] = (
        "gaussian"
    )


class InferenceSettings(Settings):
    """How the network is run."""

    scales: Annotated[
        tuple[Annotated[Finite, Field(gt=0)], ...],
        Field(description="sizes at which each crop is seen, 1.0 = as it is", min_length=1),
    ] = (1.0,)
    flips: Annotated[
        tuple[Literal["h", "v", "d4"], ...],
        Field(description="mirrorings besides the identity: any of h, v; or d4, all eight"),
    ] = ()
    fuse: Annotated[
        Literal["probabilities", "logits"], Field(description="what scales, flips and crops are averaged in")
    ] = "probabilities"
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16", "int8"],
        Field(
            description="number format of the network; auto: bf16 where it is native, else fp32; "
            "int8: on CPU, 1.7 times as fast, for models that jobs/calibrate_model.py has measured"
        ),
    ] = "auto"
    compile: Annotated[
        Literal["auto", "on", "off"],
        Field(description="torch.compile; auto: on GPUs, where the plan is long enough"),
    ] = "auto"
    batch: Annotated[Auto | int, Field(description="crops per forward pass")] = "auto"

    @field_validator("compile", mode="before")
    @classmethod
    def _yaml_reads_on_and_off_as_booleans(cls, value: object) -> object:
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value

    @field_validator("flips", mode="before")
    @classmethod
    def _one_flip_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("batch")
    @classmethod
    def _batch_is_positive(cls, value: Auto | int) -> Auto | int:
        return _positive("inference.batch", value)

    @field_validator("flips")
    @classmethod
    def _d4_stands_alone(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "d4" in value and len(value) > 1:
            raise ValueError("d4 holds every flip already; it must stand alone")
        if len(set(value)) < len(value):
            raise ValueError("each flip must be named once")
        return value


class BlockSettings(Settings):
    """What one task computes and writes."""

    size_px: Annotated[
        Auto | int, Field(description="side of a block in px, a multiple of 1024; auto: chosen by the plan")
    ] = "auto"

    @field_validator("size_px")
    @classmethod
    def _whole_chunks(cls, value: Auto | int) -> Auto | int:
        if value != "auto" and (value < BLOCK_MULTIPLE_PX or value % BLOCK_MULTIPLE_PX):
            raise ValueError(f"block.size_px must be auto or a multiple of {BLOCK_MULTIPLE_PX}")
        return value


class OutputSettings(Settings):
    """What is written."""

    url: Annotated[str, Field(description="the mosaic, a Zarr group: path or URL; {stem} with --each")]
    logits: Annotated[
        Literal["none", "lattice", "full"],
        Field(description="log-probabilities: none, on every 4th pixel, or at full size"),
    ] = "lattice"
    overviews: Annotated[bool, Field(description="write overviews, each half the size of the last")] = True


class ComputeSettings(Settings):
    """Where and with how much it runs. Except the threads, nothing here changes the result."""

    executor: Annotated[
        Literal["ray", "local"], Field(description="ray: actors on a cluster; local: in this process")
    ] = "ray"
    workers: Annotated[
        Auto | int, Field(description="blocks computed at once; auto: one a GPU, else one")
    ] = "auto"
    threads_per_worker: Annotated[
        Auto | int, Field(description="CPU threads of each worker's network; auto: the cores shared out")
    ] = "auto"
    gpus_per_worker: Annotated[
        Auto | Annotated[Finite, Field(ge=0)],
        Field(description="GPUs a worker takes, fractions allowed; auto: 1 where there are any"),
    ] = "auto"
    memory_gib: Annotated[
        Auto | Annotated[Finite, Field(gt=0)],
        Field(description="memory each worker may take, in GiB; auto: its share of the machine's"),
    ] = "auto"

    @field_validator("workers", "threads_per_worker")
    @classmethod
    def _counts_are_positive(cls, value: Auto | int) -> Auto | int:
        return _positive("workers and threads", value)


class IncrementalSettings(Settings):
    """Nights: each a new version below ``output.url``, of which only what changed is computed."""

    previous: Annotated[
        str | None,
        Field(
            description="mosaic that unchanged blocks are copied from, or a latest.json that names it; "
            "output.url is then a product with latest.json and versions/. null: an ordinary run"
        ),
    ] = None
    keep: Annotated[
        int, Field(description="complete versions kept, the latest and the one before it among them", ge=2)
    ] = 7
    abandoned_after_h: Annotated[
        float,
        Field(
            description="hours after which a version that was never finished, and is not written to, goes",
            ge=0,
            allow_inf_nan=False,
        ),
    ] = 48.0
    change_layer: Annotated[
        bool, Field(description="write the group changes: arrays from and to, classes where they changed")
    ] = False

    @field_validator("previous")
    @classmethod
    def _names_something(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("previous must be a mosaic's URL or a latest.json's; leave it out for neither")
        return value


class RunConfig(Settings):
    """One run of ``jobs/segment_region.py``."""

    source: SourceSettings
    region: RegionSettings = RegionSettings()
    model: ModelSettings
    crop: CropSettings = CropSettings()
    blend: BlendSettings = BlendSettings()
    inference: InferenceSettings = InferenceSettings()
    block: BlockSettings = BlockSettings()
    output: OutputSettings
    incremental: IncrementalSettings = IncrementalSettings()
    compute: ComputeSettings = ComputeSettings()


def _positive(name: str, value: Auto | int) -> Auto | int:
    if value != "auto" and value < 1:
        raise ValueError(f"{name} must be auto or at least 1")
    return value
