"""Write a mosaic's classes or confidence as a cloud-optimised GeoTIFF.

python jobs/export_cog.py --mosaic s3://bucket/mosaic --array classes --output classes.tif
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where nothing is installed: a working dir

from jobs.command_line import make_parser, run_job
from pipeline.raster.export import ExportedArray, export_cog
from pipeline.settings import Settings, load_settings


class ExportSettings(Settings):
    """What is exported, and where to."""

    mosaic: Annotated[str, Field(description="the mosaic, a Zarr group: path or URL", min_length=1)]
    array: Annotated[ExportedArray, Field(description="classes or confidence")] = "classes"
    output: Annotated[str, Field(description="the COG: path or URL; replaced if it is there", min_length=1)]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("Write a mosaic's array as a cloud-optimised GeoTIFF.", ExportSettings)
    parser.add_argument("--mosaic", metavar="URL", help="mosaic to read")
    parser.add_argument("--array", choices=("classes", "confidence"), help="what to export")
    parser.add_argument("--output", metavar="URL", help="COG to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, export, tell."""
    options = parse(arguments)

    def job() -> dict[str, Any]:
        settings = load_settings(
            ExportSettings,
            config_url=options.config,
            assignments=options.set,
            flags={"mosaic": options.mosaic, "array": options.array, "output": options.output},
        )
        exported = export_cog(settings.mosaic, settings.array, settings.output)
        if not options.json:
            sys.stdout.write(
                f"{exported.url}: {exported.size_bytes} bytes written in {exported.seconds:.1f} s\n"
            )
        return {
            "status": "complete",
            "array": settings.array,
            "output": exported.url,
            "size_bytes": exported.size_bytes,
            "seconds": exported.seconds,
        }

    return run_job(
        job,
        as_json=options.json,
        traceback_folder=lambda: f"{options.output}.run" if options.output else None,
    )


if __name__ == "__main__":
    sys.exit(main())
