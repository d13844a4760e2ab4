"""The demo: landscape → training → mosaic → evaluation → baseline → COG → page.

The work is done by the jobs of this repository, as a user would type them; here is only their order.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pipeline.demo.baseline import compare
from pipeline.demo.commands import REPOSITORY, python, run_command
from pipeline.demo.config import DemoConfig
from pipeline.demo.head import RayHead, ray_head
from pipeline.demo.page import DemoResult, render
from pipeline.demo.pictures import take_pictures
from pipeline.demo.postcard import write_postcard
from pipeline.demo.processes import interrupted_by_signals, no_process_left
from pipeline.demo.steps import Steps, delete, demo_folder
from pipeline.segment.machine import this_machine
from pipeline.synthetic.cover import CLASSES
from pipeline.synthetic.landscape import IGNORED, write_landscape

Tell = Callable[[str], None]

WORKERS = 2
"""Two of them synchronise their batch norms also on the smallest machine."""

PAGE_NAME, POSTCARD_NAME = "report.html", "picture.png"
OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "landscape": ("scene.tif", "labels.tif", "held_out.tif", "tiles"),
    "training": ("model", "model.run"),
    "segmentation": ("mosaic.zarr", "mosaic.zarr.run"),
    "evaluation": ("evaluation",),
    "baseline": (),
    "export": ("classes.tif",),
    "page": (PAGE_NAME, POSTCARD_NAME),
}
"""What each step writes."""

TRAIN_CONFIG, SEGMENT_CONFIG = "jobs/configs/demo_train.yaml", "jobs/configs/demo_segment.yaml"


def run_demo(config: DemoConfig, tell: Tell, *, again: bool) -> dict[str, Any]:
    """Run the demo, or go on with it; gives its figures.

    Args:
        config: Its settings.
        tell: Where lines for the user go.
        again: Whether everything is done anew.
    """
    folder = Path(config.folder).expanduser()
    outputs = tuple(name for names in OUTPUTS.values() for name in names)
    began = time.monotonic()
    with (
        interrupted_by_signals(),
        demo_folder(folder.resolve(), (*outputs, "logs"), again=again),
        no_process_left(),
        ExitStack() as ending,
    ):
        figures = _Demo(config, folder, tell, ending).run()
    return figures | {"seconds": time.monotonic() - began}


class _Demo:
    """One demo at work; its head is started by the first step that needs it, and ended with ``ending``."""

    def __init__(self, config: DemoConfig, folder: Path, tell: Tell, ending: ExitStack) -> None:
        self._config, self._shown, self._folder = config, folder, folder.resolve()
        self._tell, self._ending = tell, ending
        self._logs = self._folder / "logs"
        self._logs.mkdir(exist_ok=True)
        self._head: RayHead | None = None
        self._steps = Steps(self._folder, tell, len(OUTPUTS))

    def run(self) -> dict[str, Any]:
        """All steps, one after the other; gives the figures."""
        config, side = self._config, self._config.side
        self._step(
            "landscape",
            f"a landscape of {side:,} × {side:,} px: scene, exact labels, tiles to learn from",
            {"side": side, "seed": config.seed},
            self._make_landscape,
        )
        limits = {"minutes": config.minutes, "steps": config.steps, "config": _text(TRAIN_CONFIG)}
        self._step(
            "training",
            f"DeepLabv3+ learns it from random weights, on {WORKERS} workers with synchronised batch norms",
            limits | {"seed": config.seed},
            self._train,
        )
        self._step(
            "segmentation",
            f"the whole scene becomes a mosaic, on {WORKERS} workers; nothing is compiled",
            {"config": _text(SEGMENT_CONFIG)},
            self._segment,
        )
        self._step("evaluation", "the mosaic against the labels of the unseen part", {}, self._evaluate)
        baselines = self._step("baseline", "simple rivals, on the same tiles", {}, self._compare)
        self._step("export", "the classes as a cloud-optimised GeoTIFF", {}, self._export)
        self._step("page", "the page that shows it all", {}, lambda: self._write_page(baselines))
        return self._figures(baselines)

    def _step(
        self, name: str, title: str, settings: Mapping[str, Any], work: Callable[[], dict[str, Any] | None]
    ) -> dict[str, Any]:
        outputs = [self._folder / output for output in OUTPUTS[name]]

        def begin(goes_on: bool) -> dict[str, Any] | None:
            if not goes_on:
                for output in outputs:
                    delete(output)
            return work()

        return self._steps.run(name, title, settings, begin, is_there=all(path.exists() for path in outputs))

    def _ray(self) -> RayHead:
        if self._head is None:
            cores = max(WORKERS, this_machine().cores)
            self._head = self._ending.enter_context(ray_head(cores, self._logs, os.environ))
        return self._head

    def _submit(self, name: str, arguments: Callable[[Path], Sequence[str]]) -> None:
        head = self._ray()
        run_command(
            head.submission(arguments(self._folder), REPOSITORY),
            shown=["ray", "job", "submit", "--working-dir", ".", "--", "python", *arguments(self._shown)],
            environment=head.environment,
            log=self._logs / f"{name}.log",
            tell=self._tell,
            is_submission=True,
        )

    def _command(self, name: str, arguments: Callable[[Path], Sequence[str]]) -> None:
        run_command(
            python(arguments(self._folder)),
            shown=["python", *arguments(self._shown)],
            environment=os.environ,
            log=self._logs / f"{name}.log",
            tell=self._tell,
        )

    def _make_landscape(self) -> None:
        write_landscape(self._folder, side=self._config.side, seed=self._config.seed)

    def _train(self) -> None:
        config = self._config
        ends = {"max_steps": config.steps, "max_minutes": config.minutes}
        limits = [f"--set=train.{name}={'null' if end is None else end}" for name, end in ends.items()]
        self._submit(
            "training",
            lambda folder: [
                *("jobs/train.py", "--config", TRAIN_CONFIG, "--tiles", str(folder / "tiles")),
                *("--output", str(folder / "model"), "--workers", str(WORKERS), "--executor", "ray"),
                *(*limits, f"--set=train.seed={config.seed}"),
            ],
        )

    def _segment(self) -> None:
        self._submit(
            "segmentation",
            lambda folder: [
                *(
                    "jobs/segment_region.py",
                    "--config",
                    SEGMENT_CONFIG,
                    "--source",
                    str(folder / "scene.tif"),
                ),
                *("--model", str(folder / "model"), "--output", str(folder / "mosaic.zarr")),
                *("--workers", str(WORKERS)),
            ],
        )

    def _evaluate(self) -> None:
        self._command(
            "evaluation",
            lambda folder: [
                *("jobs/evaluate.py", "--mosaic", str(folder / "mosaic.zarr"), "--executor", "local"),
                *("--labels", str(folder / "held_out.tif"), "--output", str(folder / "evaluation")),
            ],
        )

    def _compare(self) -> dict[str, Any]:
        folder = self._folder
        return compare(
            folder / "tiles",
            folder / "scene.tif",
            folder / "held_out.tif",
            num_classes=len(CLASSES),
            ignored=IGNORED,
        )

    def _export(self) -> None:
        self._command(
            "export",
            lambda folder: [
                *("jobs/export_cog.py", "--mosaic", str(folder / "mosaic.zarr"), "--array", "classes"),
                *("--output", str(folder / "classes.tif")),
            ],
        )

    def _write_page(self, baselines: Mapping[str, Any]) -> None:
        folder = self._folder
        looked_at = folder / "scene.tif", folder / "mosaic.zarr", folder / "held_out.tif"
        write_postcard(folder / POSTCARD_NAME, *looked_at)
        result = DemoResult(
            folder=self._shown,
            side=self._config.side,
            evaluation=_read(folder / "evaluation/report.json"),
            baselines=baselines,
            training=_read(folder / "model.run/report.json"),
            steps=self._timed(),
            pictures=take_pictures(*looked_at),
        )
        part = folder / "report.part"
        part.write_text(render(result), "utf-8")
        part.replace(folder / PAGE_NAME)

    def _timed(self) -> dict[str, dict[str, Any]]:
        """The steps before the page."""
        return {name: record for name, record in self._steps.records.items() if name != "page"}

    def _figures(self, baselines: Mapping[str, Any]) -> dict[str, Any]:
        evaluation = _read(self._folder / "evaluation/report.json")
        regression = baselines["logistic_regression"]
        return {
            "status": "complete",
            "page": str(self._folder / PAGE_NAME),
            "miou": evaluation["miou"],
            "pixel_accuracy": evaluation["pixel_accuracy"],
            "iou": evaluation["iou"],
            "baseline_miou": regression["miou"],
            "baseline_iou": dict(zip(evaluation["classes"], regression["iou"], strict=True)),
            "majority_miou": baselines["majority_class"]["miou"],
            "train_steps": _read(self._folder / "model.run/report.json")["steps"],
            "steps": {name: record["seconds"] for name, record in self._steps.records.items()},
        }


def _read(report: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(report.read_text())
    return document


def _text(config: str) -> str:
    """A settings file's content, which is what decides."""
    return (REPOSITORY / config).read_text()
