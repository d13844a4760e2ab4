"""Retrain on new labelled tiles, and promote the result if it is better than the champion.

python jobs/retrain.py --config jobs/configs/retrain_landcover.yaml --tiles URL --registry URL
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where nothing is installed: a working dir

from jobs.command_line import make_parser, run_with_config
from pipeline.settings import load_settings
from pipeline.storage import Folder
from pipeline.train.retrain.config import RetrainConfig
from pipeline.train.retrain.run import retrain


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("Retrain on new tiles; promote what is better.", RetrainConfig)
    parser.add_argument("--tiles", metavar="URL", help="tile set: a prefix with image-label pairs")
    parser.add_argument("--registry", metavar="URL", help="where models are kept, champion.json among them")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that train together")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> RetrainConfig:
    """Settings from file and flags."""
    return load_settings(
        RetrainConfig,
        config_url=options.config,
        assignments=options.set,
        flags={
            "tiles.url": options.tiles,
            "registry.url": options.registry,
            "train.workers": options.workers,
        },
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, retrain, tell."""
    options = parse(arguments)
    return run_with_config(
        options,
        load,
        lambda config: retrain(config, dry_run=options.dry_run),
        tell=_told,
        traceback_folder=lambda config: None if options.dry_run else Folder.at(config.registry.url).url,
    )


def _told(report: Mapping[str, Any]) -> str:
    """The report in a few lines."""
    tiles, champion = report["tiles"], report["champion"] or "no champion yet"
    lines = [
        f"{report['action']}: {len(tiles['new'])} new tiles, {tiles['replayed']} replayed, "
        f"{len(tiles['left_out'])} left out, {tiles['validation']} to compare by; champion: {champion}"
    ]
    if report["verdict"]:
        lines += [f"{report['challenger']}: {reason}" for reason in report["verdict"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
