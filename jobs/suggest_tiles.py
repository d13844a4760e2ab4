"""List the tiles of a mosaic that are most worth labelling, as GeoJSON.

python jobs/suggest_tiles.py --mosaic mosaic.zarr --output tiles.geojson --count 20 --size 512
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where nothing is installed: a working dir

from jobs.command_line import make_parser, run_with_config
from pipeline.settings import load_settings
from pipeline.train.suggest.run import suggest
from pipeline.train.suggest.settings import SuggestConfig


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("List the tiles of a mosaic that are most worth labelling.", SuggestConfig)
    parser.add_argument("--mosaic", metavar="URL", help="mosaic to look at")
    parser.add_argument("--output", metavar="FILE", help="GeoJSON to write: path or URL")
    parser.add_argument("--count", type=int, metavar="N", help="tiles wanted")
    parser.add_argument("--size", type=int, metavar="PX", help="side of a tile")
    parser.add_argument("--min-distance", type=int, metavar="PX", help="between the centres of two tiles")
    parser.add_argument("--max-nodata", type=float, metavar="SHARE", help="of a tile, without data")
    parser.add_argument("--variety", type=float, metavar="0…1", help="how much sameness costs")
    parser.add_argument("--executor", choices=("ray", "local"), help="ray: actors; local: this process")
    parser.add_argument("--workers", type=int, metavar="N", help="workers")
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> SuggestConfig:
    """Settings from file and flags."""
    return load_settings(
        SuggestConfig,
        config_url=options.config,
        assignments=options.set,
        flags={
            "mosaic": options.mosaic,
            "output": options.output,
            "count": options.count,
            "size_px": options.size,
            "min_distance_px": options.min_distance,
            "max_nodata": options.max_nodata,
            "variety": options.variety,
            "compute.executor": options.executor,
            "compute.workers": options.workers,
        },
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, look, write, tell."""
    return run_with_config(
        parse(arguments), load, _suggest, tell=_told, traceback_folder=lambda config: f"{config.output}.run"
    )


def _suggest(config: SuggestConfig) -> dict[str, Any]:
    report = suggest(config)
    for failure in report["failures"]:
        sys.stderr.write(f"square {failure['square']} failed: {failure['reason']}\n")
    return report


def _told(report: Mapping[str, Any]) -> str:
    """The report in one line."""
    return f"{report['status']}: {report['tiles']} tiles; {report['output']}\n"


if __name__ == "__main__":
    sys.exit(main())
