"""What a training process is given: one frozen object of plain values, made by the driver."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from deeplab_core.config import ModelConfig
from pipeline.storage import Folder
from pipeline.train.config import AugmentSettings, TrainSettings, ValidationSettings
from pipeline.train.holding import Holding
from pipeline.train.samples.sample import SampleSpec
from pipeline.train.state import StateStore
from pipeline.train.steps.optimizer import OptimizerPlan
from pipeline.train.tiles.statistics import TileStatistics
from pipeline.train.tiles.tile_set import TileSet
from pipeline.train.validation.tile_segmenter import Inference

FREE_SETTINGS = (
    "workers",
    "checkpoint_steps",
    "checkpoint_minutes",
    "keep",
)
"""Of `TrainSettings`, what does not change the result."""


@dataclass(frozen=True)
class TrainJob:
    """A run of training with every choice made.

    Attributes:
        tiles: The tile set.
        statistics: Of its training split.
        model: The graph.
        mean: Of each band: of the training split, or of the checkpoint that training starts from.
        std: Likewise.
        train: Settings of the training.
        optimizer: Its optimiser.
        augment: How crops are changed.
        validation: How it is validated.
        rare_share: Share of crops drawn for a class by inverse frequency.
        tile_weights: How much more often tiles are drawn, by id; None for none.
        output: Normalised URL of the checkpoint to write.
        threads: CPU threads of each worker's network.
        gpus_per_worker: GPUs of each worker; 0 for none.
        loaders: Crops that each worker loads at once.
        loader_kind: In threads or processes.
        cache_bytes: Memory of each worker for decoded tiles.
        parent: sha256 of the model that training starts from, or None.
        holding: The claim on the run's folder under which it is written to; None before there is one.
    """

    tiles: TileSet
    statistics: TileStatistics
    model: ModelConfig
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: TrainSettings
    optimizer: OptimizerPlan
    augment: AugmentSettings
    validation: ValidationSettings
    rare_share: float
    tile_weights: Mapping[str, float] | None
    output: str
    threads: int
    gpus_per_worker: float
    loaders: int
    loader_kind: str
    cache_bytes: int
    parent: str | None
    holding: Holding | None = None

    @property
    def run_folder(self) -> Folder:
        """Where states, logs and reports go."""
        return Folder(f"{self.output}.run")

    @property
    def states(self) -> StateStore:
        """The training states of the run."""
        return StateStore(self.run_folder, self.train.keep, self.holding)

    @property
    def resources(self) -> dict[str, float]:
        """What each worker takes of a cluster, as Ray counts it."""
        needs = {"CPU": float(self.threads)}
        return needs | {"GPU": self.gpus_per_worker} if self.gpus_per_worker else needs

    @property
    def samples(self) -> SampleSpec:
        """What samples depend on."""
        return SampleSpec(
            tiles=self.tiles,
            mean=self.mean,
            std=self.std,
            crop_px=self.train.crop_px,
            seed=self.train.seed,
            rare_share=self.rare_share,
            tile_weights=self.tile_weights,
            augment=self.augment,
            cache_bytes=self.cache_bytes,
        )

    def inference(self, device: torch.device) -> Inference:
        """How the network is run over whole tiles.

        Args:
            device: Where.
        """
        settings = self.validation
        return Inference(
            mean=self.mean,
            std=self.std,
            device=device,
            crop_px=settings.crop.size_px,
            stride_px=settings.crop.stride_px,
            scales=settings.scales,
            flips=settings.flips,
            precision=self.train.precision,
        )

    @property
    def validates(self) -> bool:
        """Whether the network is validated between steps, so that the best state can be told."""
        asked = self.train.validate_steps is not None or self.train.validate_minutes is not None
        return asked and bool(self.tiles.of("val"))

    def fingerprint_fields(self) -> dict[str, Any]:
        """Everything that the result depends on, except the number of workers and threads."""
        return {
            "tiles": self.tiles.digest,
            "classes": list(self.tiles.classes),
            "labels": {
                "values": {str(value): index for value, index in self.tiles.values.items()},
                "other": self.tiles.other,
                "outside": self.tiles.outside,
            },
            "mean": list(self.mean),
            "std": list(self.std),
            "model": self.model.model_dump(mode="json"),
            "train": self.train.model_dump(mode="json", exclude=set(FREE_SETTINGS)),
            "augment": self.augment.model_dump(mode="json"),
            "sampling": {
                "rare_share": self.rare_share,
                "weights": None if self.tile_weights is None else dict(self.tile_weights),
            },
            "validation": self.validation.model_dump(mode="json"),
            "parent": self.parent,
        }
