"""Write a mosaic's classes, confidence or logits as a cloud-optimised GeoTIFF.

python jobs/export_cog.py --mosaic s3://bucket/mosaic --array classes --output classes.tif
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where nothing is installed: a working dir

from jobs.command_line import make_parser, run_with_config
from pipeline.config import RegionSettings
from pipeline.latest import resolve_latest
from pipeline.raster.export.cog import ExportedArray, export_cog
from pipeline.raster.export.region import RegionWish, parse_region
from pipeline.raster.plane import Plane
from pipeline.settings import Settings, load_settings


class ExportSettings(Settings):
    """What is exported, and where to."""

    mosaic: Annotated[str, Field(description="the mosaic, a Zarr group, or a latest.json", min_length=1)]
    array: Annotated[ExportedArray, Field(description="classes, confidence or logits")] = "classes"
    region: RegionSettings = RegionSettings()
    t: Annotated[int, Field(description="which time point of a stack, from 0", ge=0)] = 0
    z: Annotated[int, Field(description="which depth of a stack, from 0", ge=0)] = 0
    output: Annotated[str, Field(description="the COG: path or URL; replaced if it is there", min_length=1)]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("Write a mosaic's array as a cloud-optimised GeoTIFF.", ExportSettings)
    parser.add_argument("--mosaic", metavar="URL", help="mosaic to read")
    parser.add_argument("--array", choices=("classes", "confidence", "logits"), help="what to export")
    parser.add_argument(
        "--region", metavar="WHERE", help="window=R,C,H,W, bbox=LEFT,BOTTOM,RIGHT,TOP or a file of polygons"
    )
    parser.add_argument("--t", type=int, metavar="N", help="time point of a stack, from 0")
    parser.add_argument("--z", type=int, metavar="N", help="depth of a stack, from 0")
    parser.add_argument("--output", metavar="URL", help="COG to write")
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> ExportSettings:
    """Settings from file and flags."""
    return load_settings(
        ExportSettings,
        config_url=options.config,
        assignments=options.set,
        flags={
            "mosaic": options.mosaic,
            "array": options.array,
            "output": options.output,
            "t": options.t,
            "z": options.z,
            **(parse_region(options.region) if options.region else {}),
        },
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, export, tell."""
    return run_with_config(
        parse(arguments),
        load,
        _export,
        tell="{output}: {size_bytes} bytes written in {seconds:.1f} s\n".format_map,
        traceback_folder=lambda settings: f"{settings.output}.run",
    )


def _export(settings: ExportSettings) -> dict[str, Any]:
    exported = export_cog(
        resolve_latest(settings.mosaic),
        settings.array,
        settings.output,
        region=RegionWish(settings.region.polygon, settings.region.bbox, settings.region.window),
        plane=Plane(settings.t, settings.z),
    )
    return {
        "status": "complete",
        "array": settings.array,
        "output": exported.url,
        "size_bytes": exported.size_bytes,
        "seconds": exported.seconds,
    }


if __name__ == "__main__":
    sys.exit(main())
