"""The whole of Terrazzo in a few minutes, on this machine: what ``make demo`` runs.

python jobs/demo.py
python jobs/demo.py --folder demo --side 6144 --steps 160 --again
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where nothing is installed: a working dir

from jobs.command_line import make_parser, run_job
from pipeline.demo.config import STEPS, DemoConfig
from pipeline.demo.run import run_demo
from pipeline.report.wording import UNKNOWN, duration
from pipeline.settings import load_settings

EXPECTED_MIOU = 0.80
"""What the steps that training takes by default lead to, with a margin of five points."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser(
        "Make a landscape, learn it, map it on Ray, and show how good the map is.", DemoConfig
    )
    parser.add_argument("--folder", metavar="PATH", help="local folder of all that the demo writes")
    parser.add_argument("--side", type=int, metavar="PX", help="side of the landscape in px")
    parser.add_argument("--steps", type=int, metavar="N", help="optimiser steps of training")
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help="minutes after which training ends, if its steps take longer",
    )
    parser.add_argument(
        "--again", action="store_true", help="start over: what an earlier demo wrote there is deleted"
    )
    return parser.parse_args(arguments)


def load(options: argparse.Namespace) -> DemoConfig:
    """Settings from file and flags."""
    return load_settings(
        DemoConfig,
        config_url=options.config,
        assignments=options.set,
        flags={
            "folder": options.folder,
            "side": options.side,
            "steps": options.steps,
            "minutes": options.minutes,
        },
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, show, tell."""
    options = parse(arguments)

    def tell(line: str) -> None:
        (sys.stderr if options.json else sys.stdout).write(f"{line}\n")
        sys.stdout.flush()

    def job() -> dict[str, Any]:
        logging.getLogger().setLevel(logging.WARNING)
        report = run_demo(load(options), tell, again=options.again)
        for line in _summary(report):
            tell(line)
        return report

    return run_job(job, as_json=options.json, traceback_folder=lambda: None)


def _summary(report: dict[str, Any]) -> list[str]:
    """What it came to, and where to look."""
    rows = [
        ("IoU on the unseen part", "DeepLabv3+", "logistic regression"),
        *(
            (name, _percent(iou), _percent(report["baseline_iou"][name]))
            for name, iou in report["iou"].items()
        ),
        ("mean", _percent(report["miou"]), _percent(report["baseline_miou"])),
    ]
    table = [f"  {name:<24}{network:>12}{rival:>22}" for name, network, rival in rows]
    worked_s = sum(report["steps"].values())
    return [
        "",
        *table,
        f"  The commonest class everywhere: mean IoU {_percent(report['majority_miou'])}.",
        *_shortfall(report),
        "",
        f"The steps took {duration(worked_s)}, this command {duration(report['seconds'])}. Look at",
        f"  {report['page']}",
    ]


def _shortfall(report: dict[str, Any]) -> list[str]:
    """Where the map could be better: how far training came, and what to do."""
    if report["miou"] is not None and report["miou"] >= EXPECTED_MIOU:
        return []
    return [
        f"  Below {100 * EXPECTED_MIOU:.0f} %: training came to {report['train_steps']} steps.",
        f"  Give it more: make demo DEMO_FLAGS='--steps {2 * STEPS}'",
    ]


def _percent(share: float | None) -> str:
    return UNKNOWN if share is None else f"{100 * share:.1f} %"


if __name__ == "__main__":
    sys.exit(main())
