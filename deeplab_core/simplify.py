"""The same function in fewer steps: what inference needs no more is folded away."""

import copy
from dataclasses import dataclass

import torch

from deeplab_core.fast_decoder import speed_up_decoder
from deeplab_core.fold import Folding, fold_batchnorm
from deeplab_core.segmenter import Segmenter


@dataclass(frozen=True)
class Simplified:
    """A copy of a model for inference, in float32.

    Attributes:
        model: The copy.
        folding: Which norms became part of a convolution.
        fast_decoder: Whether the v3+ decoder runs without its upsampled input.
    """

    model: Segmenter
    folding: Folding
    fast_decoder: bool


def simplify(model: Segmenter, device: torch.device, *, side_px: int) -> Simplified:
    """Copies a model and takes out what only training needs; the model itself stays as it is.

    Args:
        model: Any of our models.
        device: Where the copy shall live.
        side_px: Side of a crop to try it on.

    Returns:
        The copy.
    """
    replica = copy.deepcopy(model).eval().requires_grad_(requires_grad=False).to(device, torch.float32)
    probe_NCHW = torch.zeros((1, model.config.in_channels, side_px, side_px), device=device)
    folding = fold_batchnorm(replica, lambda: replica.lattice(probe_NCHW))
    return Simplified(replica, folding, speed_up_decoder(replica))
