"""Segment a raster of any size into a Zarr mosaic.

python jobs/segment_region.py --config run.yaml
ray job submit --working-dir . -- python jobs/segment_region.py --config s3://bucket/run.yaml
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where nothing is installed: a working dir

from jobs.command_line import make_parser, run_job
from pipeline.config import RunConfig
from pipeline.segment.each import one_config_each, run_each
from pipeline.segment.plan_table import plan_table
from pipeline.segment.run import plan_only, segment
from pipeline.settings import load_settings
from pipeline.signals import interrupted_by


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("Segment a raster of any size into a Zarr mosaic.", RunConfig)
    parser.add_argument("--source", action="append", metavar="URL", help="raster to read; repeatable")
    parser.add_argument("--model", metavar="URL", help="checkpoint directory or prefix")
    parser.add_argument("--output", metavar="URL", help="mosaic to write; {stem} with --each")
    parser.add_argument("--executor", choices=("ray", "local"), help="ray: actors; local: this process")
    parser.add_argument("--workers", type=int, metavar="N", help="blocks computed at once")
    parser.add_argument(
        "--plan", action="store_true", help="print the plan and stop: no Ray, no GPU, no write"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="start over: what the output holds is deleted"
    )
    parser.add_argument("--each", action="store_true", help="one mosaic per source")
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> RunConfig:
    """Settings from file and flags."""
    return load_settings(
        RunConfig,
        config_url=options.config,
        assignments=options.set,
        flags={
            "source.urls": options.source,
            "model.url": options.model,
            "output.url": options.output,
            "compute.executor": options.executor,
            "compute.workers": options.workers,
        },
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, tell."""
    options = parse(arguments)
    begun: list[str] = []

    def run(config: RunConfig) -> dict[str, Any]:
        begun.append(config.output.url)
        return _segment_and_tell(config, options)

    def job() -> dict[str, Any]:
        config = load(options)
        configs = one_config_each(config) if options.each else [config]
        if options.plan:
            return _plan_and_tell(configs, options)
        return run(configs[0]) if len(configs) == 1 else run_each(configs, run)

    with interrupted_by(signal.SIGTERM):
        return run_job(
            job, as_json=options.json, traceback_folder=lambda: f"{begun[-1]}.run" if begun else None
        )


def _plan_and_tell(configs: Sequence[RunConfig], options: argparse.Namespace) -> dict[str, Any]:
    plans = [plan_only(config) for config in configs]
    if not options.json:
        sys.stdout.writelines(plan_table(plan) + "\n" for plan in plans)
    return {"status": "complete"} | (plans[0] if len(plans) == 1 else {"plans": plans})


def _segment_and_tell(config: RunConfig, options: argparse.Namespace) -> dict[str, Any]:
    report = segment(config, overwrite=options.overwrite)
    blocks = report["blocks"]
    for fault in report["audit"]["faults"]:
        sys.stderr.write(f"{fault}\n")
    if not options.json:
        sys.stdout.write(
            f"{report['status']}: {blocks['done']} blocks done, {blocks['empty']} empty, "
            f"{blocks['skipped']} finished earlier, {blocks['failed']} failed, of {blocks['total']}; "
            f"{report['mpx_per_s']:.2f} Mpx/s; {report['output']}{_of_the_night(report.get('incremental'))}\n"
        )
    return report


def _of_the_night(told: dict[str, Any] | None) -> str:
    """Of a nightly run, what readers have now."""
    if told is None:
        return ""
    if told["unchanged"]:
        return "; nothing changed"
    published = "published" if told.get("published") else "not published by this run"
    return f"; {told['copied']} blocks copied, {published}"


if __name__ == "__main__":
    sys.exit(main())
