"""Write a mosaic's classes as OME-NGFF labels, inside the segmented image or as a group of their own.

python jobs/export_ome_labels.py --mosaic mosaic.zarr --image image.zarr
python jobs/export_ome_labels.py --mosaic mosaic.zarr --output labels.zarr
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where nothing is installed: a working dir

from jobs.command_line import make_parser, run_with_config
from pipeline.raster.export.ome_labels import export_labels, export_labels_into
from pipeline.settings import Settings, load_settings


class LabelSettings(Settings):
    """What becomes labels, and where they go."""

    mosaic: Annotated[str, Field(description="the mosaic, a Zarr group, or a latest.json", min_length=1)]
    image: Annotated[
        str | None, Field(description="the OME-Zarr image; without output, labels go inside it", min_length=1)
    ] = None
    output: Annotated[
        str | None, Field(description="a group of its own for the labels: path or URL", min_length=1)
    ] = None
    name: Annotated[
        str, Field(description="name of the labels inside the image", pattern=r"^[\w.-]*\w[\w.-]*$")
    ] = "classes"

    @model_validator(mode="after")
    def _a_place(self) -> Self:
        if self.image is None and self.output is None:
            raise ValueError("image or output must be given: where the labels go")
        return self


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("Write a mosaic's classes as OME-NGFF labels.", LabelSettings)
    parser.add_argument("--mosaic", metavar="URL", help="mosaic to read")
    parser.add_argument("--image", metavar="URL", help="OME-Zarr image that was segmented")
    parser.add_argument("--output", metavar="URL", help="group to write instead of the image's labels")
    parser.add_argument("--name", metavar="NAME", help="name of the labels inside the image")
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> LabelSettings:
    """Settings from file and flags."""
    flags = {name: getattr(options, name) for name in ("mosaic", "image", "output", "name")}
    return load_settings(LabelSettings, config_url=options.config, assignments=options.set, flags=flags)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, export, tell."""
    return run_with_config(
        parse(arguments),
        load,
        _export,
        tell="{output}: {levels} levels of OME-NGFF {version} written in {seconds:.1f} s\n".format_map,
        traceback_folder=lambda settings: f"{settings.output}.run" if settings.output else None,
    )


def _export(settings: LabelSettings) -> dict[str, Any]:
    """Into the image, or beside it."""
    if settings.output is not None:
        exported = export_labels(settings.mosaic, settings.output, image_url=settings.image)
    else:
        exported = export_labels_into(settings.mosaic, str(settings.image), name=settings.name)
    report = asdict(exported)
    return {"status": "complete", "output": report.pop("url"), **report}


if __name__ == "__main__":
    sys.exit(main())
