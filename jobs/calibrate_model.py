"""Make a model ready for inference in 8 bits, which on CPU is 1.7 times as fast as in bf16.

python jobs/calibrate_model.py --model URL --source URL --output URL
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where nothing is installed

from jobs.command_line import make_parser, run_with_config
from pipeline.config import RunConfig
from pipeline.segment.calibrate import calibrate_model
from pipeline.settings import load_settings


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser(
        "Measure a model on crops of a raster of the kind that it will see, write it with what was found, so "
        "that it runs with inference.precision=int8, and tell how many labels agree.",
        RunConfig,
    )
    parser.add_argument("--source", action="append", metavar="URL", help="raster to take crops of")
    parser.add_argument("--model", metavar="URL", help="checkpoint directory or prefix, or a registry")
    parser.add_argument(
        "--output", required=True, metavar="URL", help="checkpoint to write; may be that of --model"
    )
    parser.add_argument(
        "--crops", type=int, default=32, metavar="N", help="crops to measure on (default: 32)"
    )
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> RunConfig:
    """Settings from a file, ``--set`` and the flags; of a run's own output nothing is used."""
    flags = {"source.urls": options.source, "model.url": options.model, "output.url": options.output}
    return load_settings(RunConfig, config_url=options.config, assignments=options.set, flags=flags)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, calibrate, tell."""
    options = parse(arguments)

    def work(config: RunConfig) -> dict[str, Any]:
        return calibrate_model(config, options.output, num_crops=options.crops)

    return run_with_config(options, load, work, tell=_tell, traceback_folder=lambda _: None)


def _tell(report: dict[str, Any]) -> str:
    lines = [
        f"calibrated on {report['crops']} crops: {report['convolutions']} convolutions can run in 8 bits; "
        f"{report['model']}"
    ]
    for precision, found in report["precisions"].items():
        agreement = f"{100 * found['label_agreement']:.2f} % of the labels as in fp32"
        lines.append(f"{precision}: {found['crops_per_s']:.2f} crops/s, {agreement}")
    if not report["precisions"]:
        lines.append("this processor does not multiply bytes, so it was not tried here")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
