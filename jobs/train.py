"""Train a network on labelled tiles; the output is a checkpoint that segment_region takes as it is.

python jobs/train.py --config jobs/configs/train_landcover.yaml --tiles URL --output URL --workers 2
ray job submit --working-dir . -- python jobs/train.py --config s3://bucket/train.yaml
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
from pipeline.train.config import TrainConfig
from pipeline.train.run import train


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("Train a network on labelled tiles.", TrainConfig)
    parser.add_argument("--tiles", metavar="URL", help="tile set: a prefix with image-label pairs")
    parser.add_argument(
        "--output", metavar="URL", help="checkpoint to write; everything else goes to URL.run"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes that train together")
    parser.add_argument(
        "--executor", choices=("auto", "ray", "local"), help="ray: Ray Train; local: this machine, no Ray"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="start over: the run that the output holds is deleted"
    )
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> TrainConfig:
    """Settings from file and flags."""
    return load_settings(
        TrainConfig,
        config_url=options.config,
        assignments=options.set,
        flags={
            "tiles.url": options.tiles,
            "output.url": options.output,
            "train.workers": options.workers,
            "compute.executor": options.executor,
        },
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train, tell."""
    options = parse(arguments)
    return run_with_config(
        options,
        load,
        lambda config: train(config, overwrite=options.overwrite),
        tell=_told,
        traceback_folder=lambda config: f"{Folder.at(config.output.url).url}.run",
    )


def _told(report: Mapping[str, Any]) -> str:
    """The report in a few lines."""
    cpu_s = report.get("cpu_seconds")  # a finished run of an earlier version is told of, too
    of_processors = "" if cpu_s is None else f" ({cpu_s / 60:.1f} of processor time)"
    lines = [
        f"{report['status']}: {report['steps']} steps in {report['seconds'] / 60:.1f} min{of_processors}, "
        f"best state at step {report['best_step']}; {report['output']}"
    ]
    for split, found in report["validation"].items():
        classes = ", ".join(f"{name} {_number(iou)}" for name, iou in found["iou"].items())
        lines.append(f"{split}: mIoU {_number(found['miou'])} ({classes})")
    if report["time_shares"]:
        shares = ", ".join(f"{phase} {share:.0%}" for phase, share in report["time_shares"].items())
        lines.append(
            f"{report['images_per_s']:.1f} images/s, {report['loading_images_per_s']:.1f} of loading alone; "
            f"{shares.replace('_', '-')}"
        )
    return "\n".join(lines) + "\n"


def _number(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.4f}"


if __name__ == "__main__":
    sys.exit(main())
