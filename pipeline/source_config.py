"""Settings of sources that are many scenes: which, on what grid, without which clouds."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.settings import Settings

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(allow_inf_nan=False, gt=0)]
Box = tuple[Finite, Finite, Finite, Finite]
Resampling = Literal["nearest", "bilinear", "cubic", "average"]


class OptionalGroup(Settings):
    """Settings that may be left alone altogether."""

    @property
    def given(self) -> set[str]:
        """Names of the settings that are not as they are by default."""
        fields = type(self).model_fields
        return {name for name, field in fields.items() if getattr(self, name) != field.default}


class GridSettings(OptionalGroup):
    """The pixels that scenes are laid on. What is not given is chosen from the scenes."""

    crs: Annotated[
        str | None, Field(description="CRS of the target grid, as EPSG:32633; null: the scenes' commonest")
    ] = None
    resolution: Annotated[
        Positive | tuple[Positive, Positive] | None,
        Field(description="pixel size, or width and height, in units of the CRS; null: the scenes' finest"),
    ] = None
    bounds: Annotated[
        Box | None,
        Field(description="left, bottom, right, top in the target CRS; null: all that scenes cover"),
    ] = None
    origin: Annotated[
        tuple[Finite, Finite] | None,
        Field(description="x, y of any corner of pixels, which bounds snap to; null: as most scenes have it"),
    ] = None
    like: Annotated[
        str | None, Field(description="raster whose grid is taken whole, instead of all of these")
    ] = None

    @property
    def is_given(self) -> bool:
        """Whether anything is asked for."""
        return self != GridSettings()

    @model_validator(mode="after")
    def _like_stands_alone(self) -> "GridSettings":
        if self.like is not None and self.given != {"like"}:
            raise ValueError("like is a whole grid: nothing else about the grid must stand beside it")
        if self.bounds and not (self.bounds[0] < self.bounds[2] and self.bounds[1] < self.bounds[3]):
            raise ValueError(f"bounds must be left < right and bottom < top, got {list(self.bounds)}")
        return self


class StacSettings(OptionalGroup):
    """Scenes from a STAC API, or from a file of items; the same conditions hold for both."""

    url: Annotated[str | None, Field(description="a STAC API's root, searched by the conditions below")] = (
        None
    )
    file: Annotated[
        str | None, Field(description="an item, a collection of items, or stac-geoparquet: path or URL")
    ] = None
    collections: Annotated[tuple[str, ...], Field(description="only items of these; empty: of any")] = ()
    bbox: Annotated[
        Box | None, Field(description="only items that meet west, south, east, north in degrees")
    ] = None
    datetime: Annotated[
        str | None, Field(description="only items of this time or closed interval, as 2024-05-01/2024-05-31")
    ] = None
    query: Annotated[
        dict[str, object] | None, Field(description="more conditions, as the API's query extension has them")
    ] = None
    cloud_cover_max: Annotated[
        float | None, Field(description="only items with at most this percentage of clouds", ge=0, le=100)
    ] = None
    assets: Annotated[
        tuple[str, ...],
        Field(description="assets that hold the bands, by key or by their band's common name"),
    ] = ()
    limit: Annotated[
        int | None,
        Field(description="use the first so many items only, with a warning; null: all of them", ge=1),
    ] = None

    @property
    def is_given(self) -> bool:
        """Whether scenes come from here."""
        return self.url is not None or self.file is not None

    @field_validator("collections", "assets", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_place(self) -> "StacSettings":
        if self.url is not None and self.file is not None:
            raise ValueError("items come from a url or from a file, not from both")
        if not self.is_given and self.given:
            raise ValueError("conditions on items need a url or a file to find them in")
        if self.is_given and not self.assets:
            raise ValueError("assets must name those that hold the bands")
        if self.query is not None and self.url is None:
            raise ValueError("query is answered by an API; a file of items has none")
        return self


class QualityMaskSettings(OptionalGroup):
    """A layer of every scene that says which pixels are clouds and the like: they count as without data."""

    preset: Annotated[
        Literal["scl", "qa_pixel", "fmask"] | None,
        Field(description="Sentinel-2's SCL, Landsat's QA_PIXEL or HLS' Fmask: sets values and bits"),
    ] = None
    file: Annotated[
        str | None,
        Field(description="where it lies: a STAC asset's key, or a pattern as in source.band_files"),
    ] = None
    band: Annotated[
        int | str | None, Field(description="or the band of the scenes' own file, by number or name")
    ] = None
    values: Annotated[
        tuple[int, ...] | None, Field(description="values that mean no data; null: the preset's")
    ] = None
    bits: Annotated[
        tuple[Annotated[int, Field(ge=0, le=31)], ...] | None,
        Field(description="bits, from 0, any of which means no data; null: the preset's"),
    ] = None

    @property
    def is_given(self) -> bool:
        """Whether scenes are masked."""
        return bool(self.given)

    @model_validator(mode="after")
    def _says_where_and_what(self) -> "QualityMaskSettings":
        if not self.is_given:
            return self
        if (self.file is None) == (self.band is None):
            raise ValueError("the mask lies in a file or in a band: give one of the two")
        if self.preset is None and not self.values and not self.bits:
            raise ValueError("a preset, values or bits must say what means no data")
        return self
