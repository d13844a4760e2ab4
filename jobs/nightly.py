"""Create a dated RayJob from a template in the cluster, watch it, and end as it ends.

This is what the pod of a CronJob runs, so that the CronJob's rules (one at a time, deadlines, history) hold
for the RayJob too.

python jobs/nightly.py --config /etc/terrazzo/nightly.yaml --trigger "$JOB_NAME"
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where nothing is installed: a working dir

from jobs.command_line import make_parser, run_job
from pipeline.errors import Interrupted
from pipeline.kubernetes.nightly import NightlyConfig, run_once
from pipeline.settings import load_settings
from pipeline.signals import handled


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser("Create a dated RayJob, watch it, and end as it ends.", NightlyConfig)
    parser.add_argument("--template", metavar="NAME", help="RayCronJob that describes the RayJob")
    parser.add_argument("--trigger", metavar="NAME", help="the Kubernetes Job that asks for this run")
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> NightlyConfig:
    """Settings from file and flags."""
    return load_settings(
        NightlyConfig,
        config_url=options.config,
        assignments=options.set,
        flags={"template": options.template, "trigger": options.trigger},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, tell; the exit code is the RayJob's."""
    options = parse(arguments)
    report: dict[str, Any] = {}

    def job() -> dict[str, Any]:
        report.update(run_once(load(options)))
        return report

    with handled([signal.SIGTERM], _stop_watching):
        code = run_job(job, as_json=options.json, traceback_folder=lambda: None)
    return report.get("exit_code", code)


def _stop_watching(_number: int, _frame: FrameType | None) -> None:
    """Kubernetes wants the pod's place; the RayJob needs no watcher, and the next pod finds it again."""
    raise Interrupted("asked to stop; a RayJob that was created goes on, and the same trigger finds it again")


if __name__ == "__main__":
    sys.exit(main())
