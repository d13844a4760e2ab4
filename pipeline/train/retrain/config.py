"""Settings of retraining: those of training, and what makes a challenger worth its place."""

from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.settings import Settings
from pipeline.train.config import (
    AugmentSettings,
    Count,
    NotNegative,
    SamplingSettings,
    Share,
    TrainComputeSettings,
    TrainConfig,
    TrainOutputSettings,
    TrainSettings,
    ValidationSettings,
)
from pipeline.train.tiles.settings import LabelsSettings, TilesSettings


class RegistrySettings(Settings):
    """Where models are kept."""

    url: Annotated[str, Field(description="registry: prefix with champion.json and versions/")]


class RetrainSettings(Settings):
    """When to retrain, on what, and what the challenger must show."""

    min_new_tiles: Annotated[
        Count, Field(description="training tiles that the champion has not seen, below which it is refused")
    ] = 1
    too_few: Annotated[
        Literal["refuse", "wait"],
        Field(
            description="what becomes of a run with fewer: refuse: exit code 2; wait: it is complete, for "
            "schedules, where a quiet week is no failure. Both say how many there are and change nothing"
        ),
    ] = "refuse"
    new_share: Annotated[
        Share, Field(description="share of the samples taken from new tiles; the rest replays old ones")
    ] = 0.5
    margin: Annotated[
        NotNegative, Field(description="by how much the challenger's mIoU must exceed the champion's")
    ] = 0.0
    max_class_drop: Annotated[
        NotNegative, Field(description="by how much the IoU of no class may fall below the champion's")
    ] = 0.02
    retry_rejected: Annotated[
        bool, Field(description="train again on tiles that came with a challenger that was turned down")
    ] = False


class RetrainConfig(Settings):
    """One run of ``jobs/retrain.py``."""

    tiles: TilesSettings
    labels: LabelsSettings = LabelsSettings()
    registry: RegistrySettings
    retrain: RetrainSettings = RetrainSettings()
    model: Annotated[
        dict[str, Any],
        Field(description="the first champion's network: any field of ModelConfig; later ones take after it"),
    ] = Field(default_factory=dict)
    train: TrainSettings
    augment: AugmentSettings = AugmentSettings()
    sampling: SamplingSettings = SamplingSettings()
    validation: ValidationSettings = ValidationSettings()
    compute: TrainComputeSettings = TrainComputeSettings()

    def training(self, *, output: str, init: str | None, weights: dict[str, float]) -> TrainConfig:
        """The run of training that makes a challenger.

        Args:
            output: Where its checkpoint goes.
            init: The champion's checkpoint; None for the first.
            weights: How much more often tiles are taken, by id.
        """
        return TrainConfig(
            tiles=self.tiles,
            labels=self.labels,
            model=self.model if init is None else {},
            train=self.train.model_copy(update={"init": init}),
            augment=self.augment,
            sampling=self.sampling.model_copy(update={"weights": weights}),
            validation=self.validation,
            output=TrainOutputSettings(url=output),
            compute=self.compute,
        )
