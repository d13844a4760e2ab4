"""Write a mosaic's classes as polygons: GeoJSON, GeoParquet or FlatGeobuf.

python jobs/export_polygons.py --mosaic s3://bucket/mosaic --classes water --output water.geojson
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where nothing is installed: a working dir

from jobs.command_line import make_parser, run_with_config
from pipeline.config import RegionSettings
from pipeline.raster.export.region import RegionWish, parse_region
from pipeline.raster.plane import Plane
from pipeline.raster.vectors.export import PolygonWish, export_polygons
from pipeline.raster.vectors.placement import VectorUnits
from pipeline.settings import Settings, load_settings

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class PolygonSettings(Settings):
    """What becomes polygons, and where they go."""

    mosaic: Annotated[str, Field(description="the mosaic, a Zarr group, or a latest.json", min_length=1)]
    output: Annotated[
        str, Field(description="the file: path or URL ending in .geojson, .parquet or .fgb", min_length=1)
    ]
    classes: Annotated[
        tuple[str | int, ...] | None, Field(description="classes by name or index; null: all", min_length=1)
    ] = None
    region: RegionSettings = RegionSettings()
    t: Annotated[int, Field(description="which time point of a stack, from 0", ge=0)] = 0
    z: Annotated[int, Field(description="which depth of a stack, from 0", ge=0)] = 0
    min_area: Annotated[
        NotNegative,
        Field(description="smaller polygons are left out; in m², or in the square of units"),
    ] = 0.0
    simplify: Annotated[
        NotNegative,
        Field(description="how far in px a border may move; shared borders move together"),
    ] = 0.0
    connectivity: Annotated[
        Literal[4, 8], Field(description="4: pixels of a polygon share a side; 8: or a corner")
    ] = 4
    units: Annotated[
        VectorUnits,
        Field(description="coordinates: crs, um or px; auto: the CRS (GeoJSON: CRS84), else µm, else px"),
    ] = "auto"

    @field_validator("classes", mode="before")
    @classmethod
    def _one_class_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str | int) else value


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("Write a mosaic's classes as polygons.", PolygonSettings)
    parser.add_argument("--mosaic", metavar="URL", help="mosaic to read")
    parser.add_argument("--classes", metavar="NAME,…", help="classes by name or index, between commas")
    parser.add_argument(
        "--region", metavar="WHERE", help="window=R,C,H,W, bbox=LEFT,BOTTOM,RIGHT,TOP or a file of polygons"
    )
    parser.add_argument("--min-area", type=float, metavar="AREA", help="leave out smaller polygons")
    parser.add_argument("--simplify", type=float, metavar="PX", help="how far a border may move")
    parser.add_argument("--connectivity", type=int, choices=(4, 8), help="sides, or corners too")
    parser.add_argument(
        "--units", choices=("auto", "crs", "um", "px"), help="what coordinates are counted in"
    )
    parser.add_argument("--t", type=int, metavar="N", help="time point of a stack, from 0")
    parser.add_argument("--z", type=int, metavar="N", help="depth of a stack, from 0")
    parser.add_argument("--output", metavar="URL", help="file to write")
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> PolygonSettings:
    """Settings from file and flags."""
    return load_settings(
        PolygonSettings,
        config_url=options.config,
        assignments=options.set,
        flags={
            "mosaic": options.mosaic,
            "output": options.output,
            "classes": by_name_or_index(options.classes),
            "t": options.t,
            "z": options.z,
            **(parse_region(options.region) if options.region else {}),
            "min_area": options.min_area,
            "simplify": options.simplify,
            "connectivity": options.connectivity,
            "units": options.units,
        },
    )


def by_name_or_index(text: str | None) -> tuple[str | int, ...] | None:
    """What stands between commas."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    return tuple(int(name) if name.isdecimal() else name for name in names)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, export, tell."""
    return run_with_config(
        parse(arguments),
        load,
        _export,
        tell=(
            "{output}: {features} features of {pixels} px, {size_bytes} bytes written in {seconds:.1f} s\n"
        ).format_map,
        traceback_folder=lambda settings: f"{settings.output}.run",
    )


def _export(settings: PolygonSettings) -> dict[str, Any]:
    region = settings.region
    wish = PolygonWish(
        classes=settings.classes,
        region=RegionWish(region.polygon, region.bbox, region.window),
        min_area=settings.min_area,
        simplify_px=settings.simplify,
        connectivity=settings.connectivity,
        units=settings.units,
        plane=Plane(settings.t, settings.z),
    )
    report = asdict(export_polygons(settings.mosaic, settings.output, wish))
    return {"status": "complete", "output": report.pop("url"), **report}


if __name__ == "__main__":
    sys.exit(main())
