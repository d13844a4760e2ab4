"""Measure what this machine does with a model and a raster, and what others do with the same.

python jobs/benchmark.py --model URL --source URL --json
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where nothing is installed

from jobs.command_line import make_parser, run_job
from pipeline.config import RunConfig
from pipeline.segment.benchmark import benchmark
from pipeline.settings import load_settings


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("Measure speed, end to end and against others, in one run.", RunConfig)
    parser.add_argument("--source", action="append", metavar="URL", help="raster to read")
    parser.add_argument("--model", metavar="URL", help="checkpoint directory or prefix")
    parser.add_argument("--no-peers", action="store_true", help="leave out the plain loop and MONAI")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, tell."""
    options = parse(arguments)

    def job() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="terrazzo-benchmark-") as folder:
            flags = {"source.urls": options.source, "model.url": options.model, "output.url": folder}
            config = load_settings(RunConfig, config_url=options.config, assignments=options.set, flags=flags)
            report = benchmark(config, Path(folder), with_peers=not options.no_peers)
        if not options.json:
            _tell(report)
        return report

    return run_job(job, as_json=options.json, traceback_folder=lambda: None)


def _tell(report: dict[str, Any]) -> None:
    sys.stdout.write(
        f"end to end {report['mpx_per_s']:.3f} Mpx/s, efficiency {report['efficiency']:.3f} "
        f"(bare network {report['bare_crops_per_s']:.2f} crops/s), "
        f"cold start {report['cold_seconds']:.1f} s\n"
    )
    for name, peer in report["peers"].items():
        if "skipped" in peer:
            sys.stdout.write(f"{name}: {peer['skipped']}\n")
        else:
            sys.stdout.write(
                f"{name}: {peer['mpx_per_s']:.3f} Mpx/s, ours is {peer['times_faster_ours']:.2f} times "
                f"as fast, labels agree in {100 * peer['label_agreement']:.2f} %\n"
            )


if __name__ == "__main__":
    sys.exit(main())
