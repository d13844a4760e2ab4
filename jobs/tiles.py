"""Tile sets: index image-label pairs, or a published data set, into the tiles.json that training reads.

python jobs/tiles.py index URL --images 'images/*.tif' --labels 'labels/*.png' --set 'labels.values={1: sea}'
python jobs/tiles.py import voc2012 DIR --output URL
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where nothing is installed: a working dir

from jobs.command_line import JobParser, make_bare_parser, make_parser, run_job
from pipeline.settings import Settings, load_settings
from pipeline.storage import redact
from pipeline.train.tiles.import_set import PUBLIC_SETS, import_set
from pipeline.train.tiles.index import extend_manifest
from pipeline.train.tiles.index_pairs import Indexed
from pipeline.train.tiles.manifest import Manifest
from pipeline.train.tiles.settings import MANIFEST_NAME, LabelsSettings, TilesSettings
from pipeline.train.tiles.tile_set import SPLITS

OF_TRAINING = ("model", "train", "augment", "sampling", "validation", "output", "compute")
MOST_TOLD = 20


class IndexConfig(Settings):
    """What is indexed; a file for jobs/train.py may be given as it is."""

    tiles: TilesSettings
    labels: LabelsSettings = LabelsSettings()
    classes: Annotated[
        tuple[str, ...] | None,
        Field(description="class names in the model's order; null: model.classes, else as labels.values"),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _training_says_more(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        model = value.get("model") or {}
        kept = {name: group for name, group in value.items() if name not in OF_TRAINING}
        if kept.get("classes") is None and isinstance(model, dict):
            kept["classes"] = model.get("classes")
        return kept


class ImportConfig(Settings):
    """What is imported: its classes and labels are known."""

    tiles: TilesSettings


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_bare_parser("Make and extend tile sets.")
    commands = parser.add_subparsers(dest="command", required=True)
    index = _add(commands, "index", "Index image-label pairs; what is known and unchanged is not read again.")
    index.add_argument("url", metavar="URL", help="folder or prefix with images and labels")
    index.add_argument("--images", metavar="PATTERN", help="images below URL, such as images/*.tif")
    index.add_argument("--labels", metavar="PATTERN", help="labels below URL; what * stands for pairs them")
    published = _add(commands, "import", "Index a published data set as its archives unpack.")
    published.add_argument("name", choices=sorted(PUBLIC_SETS), help="the data set")
    published.add_argument("url", metavar="DIR", help="where it is unpacked")
    published.add_argument("--output", metavar="URL", help=f"folder for {MANIFEST_NAME}; left out: DIR")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, index, tell."""
    options = parse(arguments)

    def job() -> dict[str, Any]:
        indexed, before = _index(options) if options.command == "index" else _import(options)
        report = _report(indexed, before)
        if not options.json:
            sys.stdout.write(_told(report))
        return report

    return run_job(job, as_json=options.json, traceback_folder=lambda: None)


def _add(
    commands: "argparse._SubParsersAction[JobParser]", name: str, description: str
) -> argparse.ArgumentParser:
    shared = make_parser(description, IndexConfig if name == "index" else ImportConfig)
    parser = commands.add_parser(
        name,
        parents=[shared],
        add_help=False,
        help=description,
        description=description,
        epilog=shared.epilog,
        formatter_class=shared.formatter_class,
        allow_abbrev=False,
    )
    parser.settings = shared.settings
    return parser


def _index(options: argparse.Namespace) -> tuple[Indexed, Manifest | None]:
    flags = {"tiles.url": options.url, "tiles.images": options.images, "tiles.labels": options.labels}
    config = load_settings(IndexConfig, config_url=options.config, assignments=options.set, flags=flags)
    return extend_manifest(config.tiles, config.labels, config.classes)


def _import(options: argparse.Namespace) -> tuple[Indexed, Manifest | None]:
    flags = {"tiles.url": options.url, "tiles.manifest": options.output}
    config = load_settings(ImportConfig, config_url=options.config, assignments=options.set, flags=flags)
    return import_set(options.name, config.tiles)


def _report(indexed: Indexed, before: Manifest | None) -> dict[str, Any]:
    tiles = indexed.tiles
    ids = {tile.id for tile in tiles.tiles}
    known = {tile.id for tile in before.tiles.tiles} if before else set()
    counts = [sum(column) for column in zip(*(tile.class_pixels for tile in tiles.tiles), strict=True)]
    return {
        "status": "complete" if tiles.tiles else "incomplete",
        "manifest": f"{redact(tiles.url)}/{MANIFEST_NAME}",
        "tiles": len(ids),
        "new": sorted(ids - known),
        "gone": sorted(known - ids),
        "read": indexed.num_read,
        "splits": {split: len(tiles.of(split)) for split in SPLITS},
        "groups": len({tile.group for tile in tiles.tiles}),
        "bands": list(tiles.bands),
        "class_pixels": dict(zip(tiles.classes, counts or [0] * len(tiles.classes), strict=True)),
        "bad": [{"id": bad.id, "reason": bad.reason} for bad in tiles.bad],
        "digest": tiles.digest,
    }


def _told(report: Mapping[str, Any]) -> str:
    """The report in a few lines."""
    splits = ", ".join(f"{split} {count}" for split, count in report["splits"].items())
    lines = [
        f"{report['status']}: {report['tiles']} tiles ({splits}) in {report['groups']} groups, "
        f"{len(report['new'])} new, {len(report['gone'])} gone, {report['read']} read; {report['manifest']}",
        f"bands: {', '.join(report['bands'])}",
    ]
    total = sum(report["class_pixels"].values()) or 1
    lines += [f"  {pixels / total:7.2%}  {name}" for name, pixels in report["class_pixels"].items()]
    if report["bad"]:
        lines.append(f"{len(report['bad'])} left out:")
        lines += [f"  {bad['id']}: {bad['reason']}" for bad in report["bad"][:MOST_TOLD]]
        lines += [f"  and {len(report['bad']) - MOST_TOLD} more"] * (len(report["bad"]) > MOST_TOLD)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
