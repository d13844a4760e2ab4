"""Settings of ``jobs/baselines.py``. Read at the edge; inside, plain values travel."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config import Auto, CropSettings, Finite
from pipeline.settings import Settings
from pipeline.train.tiles.settings import LabelsSettings, TilesSettings

Row = Literal["majority", "logistic", "script", "model"]

ROWS: tuple[Row, ...] = ("majority", "logistic", "script", "model")


MULTI_SCALE = (0.75, 1.0, 1.25)


class View(Settings):
    """How the trained model is run: a row of the table."""

    scales: Annotated[
        tuple[Annotated[Finite, Field(gt=0)], ...],
        Field(description="sizes at which each crop is seen", min_length=1),
    ] = (1.0,)
    flips: Annotated[
        tuple[Literal["h", "v", "d4"], ...], Field(description="mirrorings besides the identity: h, v; or d4")
    ] = ()

    def at_more_scales(self) -> "View":
        """The same, around its first scale and mirrored."""
        return View(scales=tuple(factor * self.scales[0] for factor in MULTI_SCALE), flips=("h", "v"))

    def __str__(self) -> str:
        scales = " ".join(f"{scale:g}" for scale in self.scales)
        flips = f", flips {' '.join(self.flips)}" if self.flips else ""
        return f"scale{'s' if len(self.scales) > 1 else ''} {scales}{flips}"


class ScriptSettings(Settings):
    """The plain script: what most people would write around segmentation_models_pytorch first."""

    encoder: Annotated[str, Field(description="smp's encoder_name")] = "resnet18"
    crops: Annotated[
        Auto | Annotated[int, Field(ge=1)],
        Field(
            description="crops that it learns from; auto: as many as the model did, or with script.minutes "
            "no limit"
        ),
    ] = "auto"
    minutes: Annotated[
        Annotated[Finite, Field(gt=0)] | None,
        Field(description="processor minutes that it learns, of all cores together; null: no limit"),
    ] = None
    crop_px: Annotated[
        Annotated[int, Field(ge=32, multiple_of=16)],
        Field(description="side of its crops in px, a multiple of 16"),
    ] = 256
    batch: Annotated[int, Field(description="crops in a step", ge=2)] = 8
    lr: Annotated[Finite, Field(description="learning rate at the start", gt=0)] = 0.001
    weight_decay: Annotated[Finite, Field(description="of AdamW", ge=0)] = 0.01
    seed: Annotated[int, Field(description="of weights and crops", ge=0)] = 0


class BaselinesConfig(Settings):
    """One table."""

    tiles: TilesSettings
    labels: LabelsSettings = LabelsSettings()
    split: Annotated[
        Literal["val", "test"], Field(description="what is judged on; all rows learn from the training split")
    ] = "val"
    rows: Annotated[
        tuple[Row, ...], Field(description="rows wanted: majority, logistic, script, model", min_length=1)
    ] = ROWS
    model: Annotated[
        str | None,
        Field(description="checkpoint that jobs/train.py made from these tiles; null: no such row"),
    ] = None
    views: Annotated[
        Auto | Annotated[tuple[View, ...], Field(min_length=1)],
        Field(
            description="how the model is run, a row for each; auto: as its run validated it, and once more "
            "at 0.75, 1 and 1.25 times its first scale, with both flips"
        ),
    ] = "auto"
    crop: CropSettings = CropSettings()
    script: ScriptSettings = ScriptSettings()
    threads: Annotated[
        Auto | Annotated[int, Field(ge=1)], Field(description="CPU threads; auto: all cores")
    ] = "auto"
