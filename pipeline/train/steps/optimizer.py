"""What moves the weights, and how fast: rates by layer, no decay on norms and biases, poly with warm-up."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from deeplab_core.segmenter import Segmenter
from pipeline.train.config import TrainSettings

DEEPLAB_BATCH = 16
LARGEST_WARMUP_SHARE = 0.1
WARMUP_FACTOR = 0.001
"""Of the rate, where the warm-up begins."""


@dataclass(frozen=True)
class OptimizerPlan:
    """An optimiser with every choice made.

    Attributes:
        kind: Which.
        lr: Rate of the head, for the batch that it was given for.
        backbone_lr: Rate of the encoder.
        weight_decay: Of everything but norms and biases.
        momentum: Of SGD.
    """

    kind: Literal["sgd", "adamw"]
    lr: float
    backbone_lr: float
    weight_decay: float
    momentum: float


def plan_optimizer(train: TrainSettings, *, pretrained: bool) -> OptimizerPlan:
    """Decide what was left to choose.

    Args:
        train: Settings of the run.
        pretrained: Whether the encoder comes with weights while the head does not.
    """
    sgd = train.optimizer == "sgd"
    lr = train.lr
    if lr == "auto":
        lr = 0.007 * train.batch / DEEPLAB_BATCH if sgd else 1e-3
    factor = train.backbone_lr_factor
    if factor == "auto":
        factor = 0.1 if pretrained else 1.0
    decay = train.weight_decay
    if decay == "auto":
        decay = 1e-4 if sgd else 1e-2
    return OptimizerPlan(train.optimizer, lr, lr * factor, decay, train.momentum)


def build_optimizer(model: Segmenter, plan: OptimizerPlan, *, batch_growth: float = 1.0) -> Optimizer:
    """The optimiser of a model. Each group's ``base_lr`` is what the schedule's factor multiplies.

    Args:
        model: The model; parameters that do not learn are left out.
        plan: Which optimiser and how.
        batch_growth: By how much the batch of all workers exceeds the one that the rate was given for.
    """
    growth = rate_growth(plan, batch_growth)
    without_decay = _norms_and_biases(model)
    groups = []
    for part, parameters in model.parameter_groups().items():
        lr = (plan.backbone_lr if part == "encoder" else plan.lr) * growth
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        for decays in (True, False):
            chosen = [parameter for parameter in learning if (id(parameter) not in without_decay) is decays]
            decay = plan.weight_decay if decays else 0.0
            if chosen:
                groups.append({"params": chosen, "lr": lr, "base_lr": lr, "weight_decay": decay})
    if plan.kind == "sgd":
        return SGD(groups, lr=plan.lr, momentum=plan.momentum)
    return AdamW(groups, lr=plan.lr, betas=(0.9, 0.999))


def rate_growth(plan: OptimizerPlan, batch_growth: float) -> float:
    """By how much rates grow with the batch: SGD's as the batch does, AdamW's as its root.

    Args:
        plan: Which optimiser.
        batch_growth: The batch of all workers, over the one that the rate was given for.
    """
    return batch_growth if plan.kind == "sgd" else math.sqrt(batch_growth)


def rate_factor(progress: float, step: int, *, power: float, warmup_steps: int) -> float:
    """The factor on every base rate: DeepLab's polynomial decay times a linear warm-up.

    `deeplab_core.schedule.PolySchedule` over a share of the run instead of a number of steps, since a run of
    so many minutes does not know how many steps it will have.

    Args:
        progress: Share of the run that is done.
        step: Steps done.
        power: Exponent of the decay.
        warmup_steps: Steps over which the rate rises.
    """
    factor = max(0.0, 1.0 - progress) ** power
    if step < warmup_steps:
        factor *= WARMUP_FACTOR + (1.0 - WARMUP_FACTOR) * step / warmup_steps
    return float(factor)


def warmup_of(train: TrainSettings) -> int:
    """Steps of the warm-up: in a run of few steps at most a tenth of them.

    Args:
        train: Settings of the run.
    """
    if train.max_steps is None:
        return train.warmup_steps
    return min(train.warmup_steps, math.floor(LARGEST_WARMUP_SHARE * train.max_steps))


def set_rates(optimizer: Optimizer, factor: float) -> None:
    """Set every group's rate for the next step.

    Args:
        optimizer: One made by `build_optimizer`.
        factor: Of the base rates.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def _norms_and_biases(model: nn.Module) -> set[int]:
    """Parameters that weight decay would only disturb: everything with at most one axis."""
    return {id(parameter) for parameter in model.parameters() if parameter.ndim <= 1}
