"""Settings of the training loss; imports no torch, so that run files can be checked without it."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deeplab_core.class_weights import WeightingRule

_Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class LossConfig(BaseModel):
    """A weighted sum of losses: `cross_entropy`, `dice`, `focal` and `lovasz` are the weights of the terms.

    A term of weight 0 is not computed. The default is DeepLab's: cross-entropy alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cross_entropy: _Weight = 1.0
    dice: _Weight = 0.0
    focal: _Weight = 0.0
    lovasz: _Weight = 0.0

    auxiliary: _Weight = 0.4
    """Weight of the same sum over the auxiliary head's logits, where a model has such a head."""

    ignore_index: int = 255
    """Label of pixels without truth. They enter no sum and no divisor."""

    class_weights: Literal["none"] | WeightingRule | tuple[_Weight, ...] = "none"
    """Weights of the classes in `cross_entropy` and `focal`: a rule over class counts, or one number a class.

    Weights from a rule are scaled to a mean of one over the counted pixels, so that the rule does not change
    the size of the loss; numbers are taken as they are given.
    """

    focal_gamma: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0

    top_k_percent: Annotated[float, Field(le=100)] = 100.0
    """Pixel mining: `cross_entropy` averages this share of the valid pixels, those of the highest loss.

    In percent: 20 keeps the hardest fifth.
    """

    mining_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the kept share falls linearly from all pixels to `top_k_percent`; 0 for at once."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.cross_entropy or self.dice or self.focal or self.lovasz):
            raise ValueError(
                "at least one of cross_entropy, dice, focal and lovasz must have a weight above 0, "
                "got 0 for all four; set one of them"
            )
        # TF's setting of this name is a fraction: 0.2 would silently train on 2 pixels of a thousand.
        if self.top_k_percent <= 1:
            raise ValueError(
                f"top_k_percent must lie above 1 and be at most 100, got {self.top_k_percent}; "
                "it is in percent, so write 20 for the hardest fifth of the pixels"
            )
        if self.top_k_percent < 100 and not self.cross_entropy:
            raise ValueError(
                f"top_k_percent {self.top_k_percent} mines pixels of cross_entropy, whose weight is 0; "
                "give cross_entropy a weight or leave top_k_percent at 100"
            )
        if self.mining_steps and self.top_k_percent == 100:
            raise ValueError(
                f"mining_steps {self.mining_steps} has nothing to do while top_k_percent is 100; "
                "lower top_k_percent or set mining_steps to 0"
            )
        return self
