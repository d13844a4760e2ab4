"""Compare a mosaic with labels: agreement, areas with their errors, reliability, an error map.

python jobs/evaluate.py --mosaic mosaic.zarr --labels labels.tif --output evaluation
ray job submit --working-dir . -- python jobs/evaluate.py --config s3://bucket/evaluate.yaml
"""

import argparse
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where nothing is installed: a working dir

from jobs.command_line import make_parser, run_with_config
from pipeline.settings import load_settings
from pipeline.train.evaluate.run import evaluate
from pipeline.train.evaluate.settings import EvaluateConfig


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("Compare a mosaic with labels.", EvaluateConfig)
    parser.add_argument("--mosaic", metavar="URL", help="mosaic to evaluate")
    parser.add_argument(
        "--labels", action="append", metavar="URL", help="label raster, GeoJSON or tile set; repeatable"
    )
    parser.add_argument("--split", choices=("train", "val", "test"), help="of a tile set, this split only")
    parser.add_argument("--regions", metavar="URL", help="GeoJSON of places to report by themselves")
    parser.add_argument("--output", metavar="URL", help="folder of the report and the error map")
    parser.add_argument("--error-cog", metavar="URL", help="write the error map also as this GeoTIFF")
    parser.add_argument("--executor", choices=("ray", "local"), help="ray: actors; local: this process")
    parser.add_argument("--workers", type=int, metavar="N", help="workers")
    parser.add_argument(
        "--overwrite", action="store_true", help="start over: an evaluation in the output is deleted"
    )
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> EvaluateConfig:
    """Settings from file and flags."""
    return load_settings(
        EvaluateConfig,
        config_url=options.config,
        assignments=options.set,
        flags={
            "mosaic": options.mosaic,
            "labels.urls": options.labels,
            "labels.split": options.split,
            "regions.url": options.regions,
            "output": options.output,
            "error_cog": options.error_cog,
            "compute.executor": options.executor,
            "compute.workers": options.workers,
        },
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, compare, tell."""
    options = parse(arguments)
    return run_with_config(
        options,
        load,
        functools.partial(_evaluate, overwrite=options.overwrite),
        tell=_told,
        traceback_folder=lambda config: f"{config.output}.run",
    )


def _evaluate(config: EvaluateConfig, *, overwrite: bool) -> dict[str, Any]:
    report = evaluate(config, overwrite=overwrite)
    for failure in report["failures"]:
        sys.stderr.write(f"block {failure['block']} failed: {failure['reason']}\n")
    return report


def _told(report: Mapping[str, Any]) -> str:
    """The report in one line."""
    blocks, pixels = report["blocks"], report["pixels"]
    figures = ", ".join(
        f"{name} {report[key]:.4f}" if report[key] is not None else f"{name} unknown"
        for name, key in (("mIoU", "miou"), ("pixel accuracy", "pixel_accuracy"))
    )
    return (
        f"{report['status']}: {figures} on {pixels['labelled']} labelled pixels; "
        f"{blocks['done']} of {blocks['total']} blocks compared; {report['output']}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
