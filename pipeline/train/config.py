"""Settings of a training run. Read at the edge; inside, plain values travel (``job.TrainJob``)."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from deeplab_core.class_weights import WeightingRule
from deeplab_core.config import ModelConfig
from deeplab_core.loss_config import LossConfig
from pipeline.config import Auto, CropSettings, Finite
from pipeline.settings import Settings
from pipeline.train.tiles.settings import LabelsSettings, TilesSettings

Share = Annotated[Finite, Field(ge=0, le=1)]
Positive = Annotated[Finite, Field(gt=0)]
NotNegative = Annotated[Finite, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]

FROM_THE_TILES = {"classes": ("placeholder",)}
"""What a model is checked with before the tiles say which classes there are."""


class LossSettings(Settings):
    """The training loss: the weights of its terms, as `deeplab_core.LossConfig` knows them."""

    cross_entropy: Annotated[NotNegative, Field(description="weight of the cross-entropy")] = 1.0
    dice: Annotated[
        NotNegative, Field(description="weight of 1 − Dice over a worker's batch, for thin and rare classes")
    ] = 0.0
    focal: Annotated[NotNegative, Field(description="weight of the focal loss")] = 0.0
    lovasz: Annotated[NotNegative, Field(description="weight of the Lovász-softmax loss")] = 0.0
    auxiliary: Annotated[
        NotNegative, Field(description="weight of the same sum over the auxiliary head (model.aux_head)")
    ] = 0.4
    class_weights: Annotated[
        Literal["none"] | WeightingRule | tuple[NotNegative, ...],
        Field(description="weights of classes in cross_entropy and focal: none, a rule, or one a class"),
    ] = "none"
    focal_gamma: Annotated[NotNegative, Field(description="exponent of the focal loss")] = 2.0
    top_k_percent: Annotated[
        Finite, Field(description="share of the pixels, the hardest, that cross_entropy averages, in percent")
    ] = 100.0
    mining_steps: Annotated[
        int, Field(description="steps over which the share falls from all pixels to top_k_percent", ge=0)
    ] = 0

    @model_validator(mode="after")
    def _is_a_loss(self) -> "LossSettings":
        try:
            self.config()
        except ValidationError as error:
            raise ValueError(_sentences(error)) from error
        return self

    def config(self) -> LossConfig:
        """The loss as the model library takes it."""
        return LossConfig(**self.model_dump())


class TrainSettings(Settings):
    """How the network is trained."""

    max_steps: Annotated[Count | None, Field(description="optimiser steps after which training ends")] = None
    max_minutes: Annotated[
        Positive | None,
        Field(
            description="minutes of training after which it ends, validation between steps included; counted "
            "on over resumes. The learning rate reaches its end with whichever limit comes first"
        ),
    ] = None
    batch: Annotated[Count, Field(description="crops in one optimiser step, of all workers together")] = 16
    batch_of: Annotated[
        Literal["run", "worker"],
        Field(
            description="whose crops batch counts: run: all workers' together, so that their number changes "
            "nothing; worker: each one's, and the learning rate follows the sum"
        ),
    ] = "run"
    workers: Annotated[
        Count | tuple[Count, Count],
        Field(description="processes that train together; a pair: at least and at most, as the cluster has"),
    ] = 1
    seed: Annotated[
        int, Field(description="of weights, order, crops and augmentation; workers do not matter", ge=0)
    ] = 0
    crop_px: Annotated[
        Count, Field(description="side of a training crop in px, k·16+1 (k·output_stride+1)")
    ] = 513
    optimizer: Annotated[
        Literal["sgd", "adamw"],
        Field(description="sgd, DeepLab's, or adamw, which learns from scratch faster"),
    ] = "sgd"
    lr: Annotated[
        Auto | Positive,
        Field(description="learning rate for batch crops; auto: 0.007 · batch / 16 (sgd) or 0.001 (adamw)"),
    ] = "auto"
    backbone_lr_factor: Annotated[
        Auto | NotNegative,
        Field(description="of lr, what the encoder learns with; auto: 0.1 where it comes pretrained, else 1"),
    ] = "auto"
    momentum: Annotated[Share, Field(description="of sgd; adamw's first beta is 0.9")] = 0.9
    weight_decay: Annotated[
        Auto | NotNegative,
        Field(description="none on norms and biases; auto: 0.0001 (sgd), 0.01 (adamw)"),
    ] = "auto"
    power: Annotated[Positive, Field(description="exponent of the polynomial decay of the rate")] = 0.9
    warmup_steps: Annotated[
        int, Field(description="steps over which the rate rises; at most the first tenth of the run", ge=0)
    ] = 100
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Field(description="number format of the network; auto: bf16 where the device computes in it"),
    ] = "auto"
    accumulate: Annotated[
        Count, Field(description="parts that a step's batch is cut into, one after the other, to save memory")
    ] = 1
    clip_norm: Annotated[
        Positive | None, Field(description="largest norm of the gradient; null: unlimited")
    ] = None
    ema: Annotated[
        Annotated[Finite, Field(ge=0, lt=1)],
        Field(description="decay of the moving average of weights that is validated and saved; 0: none"),
    ] = 0.0
    loss: LossSettings = LossSettings()
    freeze_bn: Annotated[
        bool, Field(description="keep batch norms at their running statistics; their scale and shift learn")
    ] = False
    sync_bn: Annotated[
        bool, Field(description="batch norms see the batch of all workers, so that their number is no matter")
    ] = True
    channels_last: Annotated[
        bool, Field(description="activations with the bands innermost, which convolutions prefer")
    ] = True
    compile: Annotated[
        bool, Field(description="torch.compile: a minute or more at the start, faster steps on GPU")
    ] = False
    init: Annotated[
        str | None, Field(description="checkpoint to start from, of the same classes and bands: fine-tuning")
    ] = None
    checkpoint_steps: Annotated[Count | None, Field(description="steps between stored states")] = None
    checkpoint_minutes: Annotated[
        Positive | None, Field(description="minutes between stored states; null: none by time")
    ] = 5.0
    keep: Annotated[Count, Field(description="stored states that are kept, besides the best")] = 2
    validate_steps: Annotated[
        Count | None,
        Field(description="steps between validations, the best of which is the result; null: none by steps"),
    ] = None
    validate_minutes: Annotated[
        Positive | None, Field(description="minutes between validations; null: none by time")
    ] = None

    @model_validator(mode="after")
    def _has_an_end(self) -> "TrainSettings":
        if self.max_steps is None and self.max_minutes is None:
            raise ValueError("train.max_steps or train.max_minutes must be given: training needs an end")
        if self.accumulate > self.batch:
            raise ValueError(
                f"train.accumulate must be at most train.batch = {self.batch}, got {self.accumulate}"
            )
        return self

    @field_validator("workers")
    @classmethod
    def _a_pair_rises(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(value, tuple) and value[0] > value[1]:
            raise ValueError(f"a pair must be the fewest and the most workers, got {list(value)}")
        return value


class AugmentSettings(Settings):
    """How crops are changed before the network sees them: geometry for image and labels alike."""

    scale: Annotated[
        tuple[Positive, Positive],
        Field(description="smallest and largest magnification, drawn evenly in log"),
    ] = (0.5, 2.0)
    flips: Annotated[
        bool, Field(description="mirror left to right and top to bottom, each half the time")
    ] = True
    quarter_turns: Annotated[
        bool, Field(description="turn by a multiple of 90°; off where up is up, as in street scenes")
    ] = True
    brightness: Annotated[
        NotNegative,
        Field(description="largest shift, in standard deviations; half of it shared by all bands"),
    ] = 0.2
    contrast: Annotated[
        NotNegative, Field(description="largest change of the log of the contrast; half of it shared")
    ] = 0.2
    blur_share: Annotated[Share, Field(description="share of crops that are blurred")] = 0.0
    blur_sigma_px: Annotated[Positive, Field(description="largest sigma of the blur in px")] = 1.5
    nodata_share: Annotated[
        Share, Field(description="share of crops with patches taken out as if they had no data")
    ] = 0.0

    @field_validator("scale")
    @classmethod
    def _scales_rise(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"scale must be the smallest and the largest magnification, got {list(value)}")
        return value


class SamplingSettings(Settings):
    """Which crops are taken."""

    rare_share: Annotated[
        Share,
        Field(description="share of crops around a pixel of a class that is drawn by inverse frequency"),
    ] = 0.5
    weights: Annotated[
        dict[str, NotNegative],
        Field(description="how much more often tiles are taken whose id fits a pattern: {'2024-*': 3}"),
    ] = Field(default_factory=dict)


class ValidationSettings(Settings):
    """How the network is validated: by sliding crops, as segment_region runs it."""

    crop: CropSettings = CropSettings()
    scales: Annotated[
        tuple[Positive, ...], Field(description="sizes at which each crop is seen", min_length=1)
    ] = (1.0,)
    flips: Annotated[
        tuple[Literal["h", "v", "d4"], ...], Field(description="mirrorings besides the identity: h, v; or d4")
    ] = ()
    max_tiles: Annotated[
        Count | None, Field(description="tiles of a validation between steps; null: all. The last sees all")
    ] = None


class TrainComputeSettings(Settings):
    """Where and with how much it runs."""

    executor: Annotated[
        Literal["auto", "ray", "local"],
        Field(
            description="ray: Ray Train; local: on this machine; auto: ray for more than one worker, or in "
            "ray job submit"
        ),
    ] = "auto"
    threads_per_worker: Annotated[
        Auto | Count, Field(description="CPU threads of each worker's network; auto: the cores shared out")
    ] = "auto"
    gpus_per_worker: Annotated[
        Auto | NotNegative, Field(description="GPUs a worker takes; auto: 1 where there are any")
    ] = "auto"
    loaders: Annotated[
        Auto | Count,
        Field(description="crops each worker loads at once, ahead; auto: 2 on CPU, 8 beside a GPU"),
    ] = "auto"
    loader_kind: Annotated[
        Literal["threads", "processes"],
        Field(description="threads share a cache of tiles; processes where Python itself holds loading up"),
    ] = "threads"
    cache_mib: Annotated[
        NotNegative, Field(description="memory for tiles that are kept decoded, of each worker, in MiB")
    ] = 1024.0


class TrainOutputSettings(Settings):
    """What is written."""

    url: Annotated[
        str,
        Field(description="checkpoint to write: path or URL; states, logs and the report go to <url>.run"),
    ]


class TrainConfig(Settings):
    """One run of ``jobs/train.py``."""

    tiles: TilesSettings
    labels: LabelsSettings = LabelsSettings()
    model: Annotated[
        dict[str, Any],
        Field(
            description="the network: any field of ModelConfig (arch, backbone, output_stride, separable, "
            "pretrained, …); classes and bands follow from the tiles"
        ),
    ] = Field(default_factory=dict)
    train: TrainSettings
    augment: AugmentSettings = AugmentSettings()
    sampling: SamplingSettings = SamplingSettings()
    validation: ValidationSettings = ValidationSettings()
    output: TrainOutputSettings
    compute: TrainComputeSettings = TrainComputeSettings()

    @field_validator("model", mode="before")
    @classmethod
    def _a_name_with_nothing_below_is_empty(cls, value: object) -> object:
        return {} if value is None else value

    @field_validator("model")
    @classmethod
    def _is_a_model(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            ModelConfig.model_validate(FROM_THE_TILES | value)
        except ValidationError as error:
            raise ValueError(_sentences(error)) from error
        return value


def _sentences(error: ValidationError) -> str:
    """What a settings class of the model library has to say, in one line."""
    told = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        told.append(f"{place}: {message}" if place else message)
    return "; ".join(told)
