"""The training loss: a weighted sum of terms over the valid pixels of a batch.

The valid pixels are gathered first, so that what lies under an ignored label reaches neither a value, a
divisor nor a gradient, whatever it is. P is the number of valid pixels, K the number of classes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from deeplab_core.class_weights import class_frequencies, class_weights
from deeplab_core.label_counts import check_classes, check_label_range
from deeplab_core.loss_config import LossConfig
from deeplab_core.loss_terms import (
    cross_entropy_per_pixel,
    dice_loss,
    focal_loss,
    lovasz_softmax_loss,
    mean_of_hardest,
)


def build_loss(
    config: LossConfig, *, num_classes: int, class_counts: Sequence[int] | None = None
) -> "SegmentationLoss":
    """Build the loss that a configuration describes.

    Args:
        config: Terms, their weights and their settings.
        num_classes: Number of classes, the channels of the logits.
        class_counts: Training pixels of each class; needed where `config.class_weights` is a rule.
    """
    check_classes(num_classes, config.ignore_index)
    return SegmentationLoss(config, num_classes, _resolve_class_weights(config, num_classes, class_counts))


class SegmentationLoss(nn.Module):
    """The weighted sum of `LossConfig` over logits at label size."""

    class_weights_K: Tensor | None

    def __init__(self, config: LossConfig, num_classes: int, class_weights_K: Tensor | None) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        # Follows from the configuration and the counts, hence no part of the state.
        self.register_buffer("class_weights_K", class_weights_K, persistent=False)

    def forward(
        self,
        logits_NKHW: Tensor,
        labels_NHW: Tensor,
        aux_logits_NKHW: Tensor | None = None,
        *,
        step: int | None = None,
    ) -> Tensor:
        """Return the loss as a scalar, in float32 at least, whatever autocast says.

        Args:
            logits_NKHW: Logits upsampled to the size of the labels.
            labels_NHW: Class indices, or the ignored label.
            aux_logits_NKHW: Logits of the auxiliary head at the same size, if the model has one.
            step: Optimiser steps done so far; needed only where `mining_steps` is set.
        """
        loss = self._sum(self.terms(logits_NKHW, labels_NHW, step=step))
        if aux_logits_NKHW is not None and self.config.auxiliary:
            auxiliary = self._sum(self.terms(aux_logits_NKHW, labels_NHW, step=step))
            loss = loss + self.config.auxiliary * auxiliary
        return loss

    def terms(self, logits_NKHW: Tensor, labels_NHW: Tensor, *, step: int | None = None) -> dict[str, Tensor]:
        """Return every term with a weight, by name and before its weight, for logs.

        Args:
            logits_NKHW: Logits upsampled to the size of the labels.
            labels_NHW: Class indices, or the ignored label.
            step: Optimiser steps done so far; needed only where `mining_steps` is set.
        """
        config = self.config
        with torch.autocast(logits_NKHW.device.type, enabled=False):
            logits_KP, labels_P = self._valid_pixels(logits_NKHW, labels_NHW)
            log_probabilities_KP = logits_KP.log_softmax(dim=0)
            terms: dict[str, Tensor] = {}
            if config.cross_entropy:
                losses_P = cross_entropy_per_pixel(log_probabilities_KP, labels_P, self.class_weights_K)
                terms["cross_entropy"] = mean_of_hardest(losses_P, self.kept_percent(step))
            if config.dice:
                terms["dice"] = dice_loss(log_probabilities_KP.exp(), labels_P)
            if config.focal:
                terms["focal"] = focal_loss(
                    log_probabilities_KP, labels_P, config.focal_gamma, self.class_weights_K
                )
            if config.lovasz:
                terms["lovasz"] = lovasz_softmax_loss(log_probabilities_KP.exp(), labels_P)
        return terms

    def kept_percent(self, step: int | None) -> float:
        """Return the percentage of pixels that mining keeps at a step.

        Args:
            step: Optimiser steps done so far.
        """
        if not self.config.mining_steps:
            return self.config.top_k_percent
        if step is None:
            raise ValueError(
                f"the loss must be told the step while mining_steps is {self.config.mining_steps}, got None; "
                "call it with step=<optimiser steps done>"
            )
        ramp = min(1.0, step / self.config.mining_steps)
        return 100.0 + ramp * (self.config.top_k_percent - 100.0)

    def _sum(self, terms: dict[str, Tensor]) -> Tensor:
        return torch.stack([getattr(self.config, name) * term for name, term in terms.items()]).sum()

    def _valid_pixels(self, logits_NKHW: Tensor, labels_NHW: Tensor) -> tuple[Tensor, Tensor]:
        batch, channels, *size = logits_NKHW.shape
        if channels != self.num_classes or labels_NHW.shape != (batch, *size):
            raise ValueError(
                f"logits must be N×{self.num_classes}×H×W and labels N×H×W of one size, "
                f"got {tuple(logits_NKHW.shape)} and {tuple(labels_NHW.shape)}; "
                "upsample the logits to the labels"
            )
        labels_P = labels_NHW.flatten().long()  # bytes would wrap a negative ignore_index around
        valid = (labels_P != self.config.ignore_index).nonzero()[:, 0]
        labels_P = labels_P[valid]
        if labels_P.numel():
            lowest, highest = (int(bound) for bound in labels_P.aminmax())
            check_label_range(lowest, highest, self.num_classes, self.config.ignore_index)
        # A row of pixels for each class and index_select: on CPU ten times faster, forward and backward, than
        # selecting rows of classes by a mask.
        logits_KP = logits_NKHW.movedim(1, 0).flatten(1).index_select(1, valid)
        return (logits_KP if logits_KP.dtype == torch.float64 else logits_KP.float()), labels_P


def _resolve_class_weights(
    config: LossConfig, num_classes: int, class_counts: Sequence[int] | None
) -> Tensor | None:
    if class_counts is not None and len(class_counts) != num_classes:
        raise ValueError(
            f"class_counts must hold one count for each of {num_classes} classes, got {len(class_counts)}; "
            "count the labels with the classes of this model"
        )
    rule = config.class_weights
    if rule == "none":
        return None
    if isinstance(rule, tuple):
        if len(rule) != num_classes or not any(rule):
            raise ValueError(
                f"class_weights must hold one number for each of {num_classes} classes, not all of them 0, "
                f"got {rule}; give one a class or the name of a rule"
            )
        return torch.tensor(rule)
    if class_counts is None:
        raise ValueError(
            f"class_weights {rule!r} needs class_counts, got None; "
            "count the labels or set class_weights to none"
        )
    weights_K = class_weights(class_counts, rule)
    weights_K = weights_K / np.dot(class_frequencies(class_counts), weights_K)
    return torch.from_numpy(weights_K).float()
