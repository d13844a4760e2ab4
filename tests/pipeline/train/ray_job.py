"""A small training on Ray as a process of its own, so that it can be killed; and the same in this process.

``python -m tests.pipeline.train.ray_job FOLDER OUTPUT TRAIN-AS-JSON``
"""

import json
import logging
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from deeplab_core.config import ModelConfig
from pipeline.errors import Interrupted
from pipeline.train import trainer
from pipeline.train.config import TrainConfig
from pipeline.train.job import TrainJob
from pipeline.train.loop import train_loop
from pipeline.train.state import read_tensors
from pipeline.train.steps.optimizer import plan_optimizer
from pipeline.train.tiles.statistics import TileStatistics
from pipeline.train.workers.context import LocalContext, TrainContext
from tests.pipeline.segment.scene import BANDS, MEAN, STD
from tests.pipeline.train.labelled_scene import CLASSES, make_tile, tile_set

STEPS = 12
STEP_S = 1.0
RESIZE_EVERY_S = 5.0
"""A minute is right for days of training, and long for a test."""


def settings(output: str, workers: Any = 2, **train: Any) -> TrainConfig:
    """Nothing random in the network, and states often."""
    how = {
        "max_steps": STEPS, "batch": 4, "crop_px": 65, "precision": "fp32", "workers": workers,
        "warmup_steps": 2, "checkpoint_steps": 3, "checkpoint_minutes": None, "ema": 0.9,
        "optimizer": "sgd", "lr": 2e-4,
    }  # fmt: skip
    return TrainConfig.model_validate(
        {
            "tiles": {"url": "/nowhere"},
            "model": {"backbone": "timm/test_resnet.r160_in1k", "separable": True, "aspp_dropout": 0.0},
            "train": how | train,
            "validation": {"crop": {"size_px": 129, "stride_px": 112}},
            "output": {"url": output},
            "compute": {"executor": "ray", "threads_per_worker": 1, "gpus_per_worker": 0, "loaders": 1},
        }
    )


def job_of(config: TrainConfig, folder: Path) -> TrainJob:
    """The job of these settings, on four tiles below a folder."""
    folder.mkdir(exist_ok=True)
    tiles = tile_set(*(make_tile(folder, f"tile-{i}", 120, 150, seed=i, split="train")[0] for i in range(4)))
    counts = [sum(tile.class_pixels[index] for tile in tiles.tiles) for index in range(len(CLASSES))]
    return TrainJob(
        tiles=tiles,
        statistics=TileStatistics(MEAN, STD, tuple(counts)),
        model=ModelConfig.model_validate(config.model | {"classes": CLASSES, "bands": BANDS}),
        mean=MEAN,
        std=STD,
        train=config.train,
        optimizer=plan_optimizer(config.train, pretrained=False),
        augment=config.augment,
        validation=config.validation,
        rare_share=config.sampling.rare_share,
        tile_weights=None,
        output=config.output.url,
        threads=1,
        gpus_per_worker=0.0,
        loaders=1,
        loader_kind="threads",
        cache_bytes=1 << 26,
        parent=None,
    )


def train_in_process(output: Path, folder: Path) -> dict[str, torch.Tensor]:
    """The same training by one worker without Ray; gives its weights."""
    job = job_of(settings(str(output), 1), folder)
    device = torch.device("cpu")
    train_loop(job, LocalContext(job.states, device, threading.Event()))
    return weights(output)


def weights(output: Path) -> dict[str, torch.Tensor]:
    """Parameters, running statistics and their averages in the newest state, which must be the last."""
    names = sorted(path.name for path in Path(f"{output}.run/states").iterdir())
    state = Path(f"{output}.run/states/{names[-1]}")
    assert json.loads((state / "state.json").read_text())["position"]["finished"]
    tensors = read_tensors(state, torch.device("cpu"))
    averages = {f"average.{name}": value for name, value in tensors["average"].items()}
    return tensors["model"] | averages


class Unhurried:
    """A context that takes its time at every step and leaves a trace, so that a test can strike meanwhile."""

    def __init__(self, context: TrainContext, output: str) -> None:
        self._context, self._trace = context, Path(f"{output}.steps")
        self.rank, self.world_size, self.device = context.rank, context.world_size, context.device
        self.report, self.resume_from = context.report, context.resume_from

    def stop_soon(self) -> bool:
        """Asked once a step."""
        time.sleep(STEP_S)
        if self.rank == 0:
            with self._trace.open("a") as file:
                file.write(f"{self.world_size}\n")
        return self._context.stop_soon()


def unhurried_loop(job: TrainJob, context: TrainContext) -> None:
    """The real loop, slowly."""
    train_loop(job, Unhurried(context, job.output))


def main(folder: str, output: str, train: str) -> int:
    """Exit codes as jobs have them: 0 finished, 3 interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    config = settings(output, **json.loads(train))
    trainer.RESIZE_EVERY_S = RESIZE_EVERY_S
    try:
        trainer.train_on_ray(job_of(config, Path(folder)), config, loop=unhurried_loop)
    except Interrupted as error:
        sys.stderr.write(f"{error}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
