"""What a trained model is worth: a table of it and of what it must beat, on the tiles kept from all of them.

python jobs/baselines.py --tiles URL --model trained
python jobs/baselines.py --tiles URL --minutes 20 --json
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also where nothing is installed: a working dir

from jobs.command_line import make_parser, run_job
from pipeline.settings import load_settings
from pipeline.train.baselines.run import compare
from pipeline.train.baselines.settings import BaselinesConfig


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = make_parser(
        "Compare a trained model with the commonest class, a regression of the bands and a plain script.",
        BaselinesConfig,
    )
    parser.add_argument("--tiles", metavar="URL", help="the tile set that the model was trained on")
    parser.add_argument("--model", metavar="URL", help="checkpoint that jobs/train.py made from it")
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help="processor minutes of the script; else it takes as many crops as the model",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, compare, tell."""
    options = parse(arguments)

    def job() -> dict[str, Any]:
        config = load_settings(
            BaselinesConfig,
            config_url=options.config,
            assignments=options.set,
            flags={
                "tiles.url": options.tiles,
                "model": options.model,
                "script.minutes": options.minutes,
            },
        )
        report = compare(config)
        if not options.json:
            sys.stdout.write("".join(f"{line}\n" for line in _table(report)))
        return report

    return run_job(job, as_json=options.json, traceback_folder=lambda: None)


def _table(report: Mapping[str, Any]) -> Iterator[str]:
    """The rows as Markdown."""
    classes: list[str] = report["classes"]
    heads = ["", "mIoU", *(f"IoU {name}" for name in classes), *(f"Dice {name}" for name in classes)]
    heads += ["crops", "CPU min"]
    yield _line(heads)
    yield _line(["---"] * len(heads))
    for row in report["rows"]:
        if "missing" in row:
            yield _line([f"{row['name']}: {row['missing']}", *("–" for _ in heads[1:])])
            continue
        figures = [row["miou"], *row["iou"].values(), *row["dice"].values()]
        crops, processor_s = row.get("crops"), row.get("processor_s")
        price = [
            "–" if crops is None else str(crops),
            "–" if processor_s is None else f"{processor_s / 60:.1f}",
        ]
        yield _line([row["name"], *(_number(each) for each in figures), *price])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.3f}"


if __name__ == "__main__":
    sys.exit(main())
