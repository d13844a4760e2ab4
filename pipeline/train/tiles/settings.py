"""Settings that say what is learnt from: tiles, and what their labels mean."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.settings import Settings

MANIFEST_NAME = "tiles.json"
DEFAULT_IMAGES = "images/*"
DEFAULT_LABELS = "labels/*"
MOST_CLASSES = 255
"""Labels are bytes, and 255 means not labelled."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


class TilesSettings(Settings):
    """Image-label pairs, and how they are split."""

    url: Annotated[str, Field(description="tile set: folder or prefix with image-label pairs or tiles.json")]
    images: Annotated[
        str | None,
        Field(
            description="pattern of images below url, such as images/*.tif; ** is any depth; what * stands "
            f"for pairs them with labels; null: as tiles.json has it, else {DEFAULT_IMAGES}"
        ),
    ] = None
    labels: Annotated[
        str | None,
        Field(
            description="pattern of labels below url: rasters or GeoJSON; one GeoJSON file without * may "
            f"serve all images; null: as tiles.json has it, else {DEFAULT_LABELS}"
        ),
    ] = None
    manifest: Annotated[
        str | None,
        Field(description="folder or prefix for tiles.json, where url cannot be written; null: url itself"),
    ] = None
    index: Annotated[
        str,
        Field(description="CSV below url of what is known of tiles: id, and any of group, split, date"),
    ] = "index.csv"
    bands: Annotated[
        tuple[int | str, ...] | None,
        Field(description="bands to learn from, by number from 1 or by name; null: all but alpha"),
    ] = None
    group: Annotated[
        str | None,
        Field(
            description="regular expression whose first group, found in a tile's id, names what must not be "
            "split, such as a patient: '^([^_]+)_'; null: by the ground, else every tile by itself"
        ),
    ] = None
    split_block_m: Annotated[
        Literal["auto"] | Annotated[Finite, Field(gt=0)],
        Field(
            description="side in m of blocks of ground that are never split; auto: 4 sides of a usual tile"
        ),
    ] = "auto"
    val_share: Annotated[Finite, Field(description="share of the groups that validate", ge=0, lt=1)] = 0.2
    test_share: Annotated[Finite, Field(description="share of the groups that test", ge=0, lt=1)] = 0.0
    seed: Annotated[int, Field(description="of the split; tiles once split stay where they are", ge=0)] = 0
    max_bad_share: Annotated[
        Finite, Field(description="share of bad tiles above which training refuses to start", ge=0, le=1)
    ] = 0.1
    readers: Annotated[int, Field(description="tiles that are looked at at once", ge=1, le=64)] = 4

    @field_validator("url")
    @classmethod
    def _a_manifest_stands_for_its_folder(cls, value: str) -> str:
        return value.removesuffix(f"/{MANIFEST_NAME}") if "/" in value else value

    @field_validator("images", "labels")
    @classmethod
    def _lies_below(cls, value: str | None) -> str | None:
        if value is not None and (not value or value.startswith("/") or "://" in value or ".." in value):
            raise ValueError("a pattern must be relative to tiles.url, such as images/*.tif")
        return value

    @field_validator("group")
    @classmethod
    def _has_a_group(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"must be a regular expression ({error})") from error
        if groups < 1:
            raise ValueError("must hold one group in brackets, such as '^([^_]+)_'")
        return value

    @model_validator(mode="after")
    def _is_whole(self) -> "TilesSettings":
        if (self.images is None) != (self.labels is None):
            raise ValueError("tiles.images and tiles.labels must be given together or not at all")
        if self.val_share + self.test_share >= 1:
            raise ValueError(
                "tiles.val_share and tiles.test_share must leave something to learn from, "
                f"got {self.val_share} + {self.test_share}"
            )
        return self

    @property
    def manifest_folder(self) -> str:
        """Where ``tiles.json`` lies."""
        return self.url if self.manifest is None else self.manifest


class LabelsSettings(Settings):
    """What labels mean."""

    values: Annotated[
        dict[int, str],
        Field(description="class of a raw label value, such as {255: vessel}; others are their own index"),
    ] = Field(default_factory=dict)
    ignore: Annotated[tuple[int, ...], Field(description="raw label values that mean: not labelled")] = ()
    other: Annotated[
        str | None,
        Field(description="class of every value not named, as where each nucleus has its own; null: none"),
    ] = None
    property: Annotated[
        str, Field(description="of GeoJSON, the property that holds the class; dots lead into objects")
    ] = "class"
    outside: Annotated[
        str | None,
        Field(description="class of pixels that no polygon covers; null: they are not labelled"),
    ] = None
    colors: Annotated[
        dict[str, Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$")]],
        Field(description="colours of classes by name, such as {water: '#2266cc'}; others are chosen"),
    ] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _means_one_thing(self) -> "LabelsSettings":
        both = sorted(set(self.values) & set(self.ignore))
        if both:
            raise ValueError(f"labels.values and labels.ignore must not share values, got {both} in both")
        return self


def is_drawn(url: str) -> bool:
    """Whether labels are polygons in a file, not pixels."""
    return PurePosixPath(url).suffix.lower() in (".geojson", ".json")
