"""Atrous spatial pyramid pooling: the same features seen at several rates and, optionally, as a whole."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeplab_core.layers import Block3x3, NormFactory, conv_norm_relu

CHANNELS = 256  # of every branch, of the pyramid's result and of what follows it, in all of DeepLab


class ImagePooling(nn.Module):
    """The image-level branch: mean over the map, 1×1 convolution, spread back over the map.

    A global mean (no window) changes its statistics with the size of the input. A fixed window averages, for
    each position, the training crop's size around it, shifted inwards at the border; at the training size
    both are equal, and smaller maps are averaged whole. Windows keep their position, instead of being
    stretched over the map as TensorFlow does, so that a feature depends on what surrounds it and not on how
    large the rest of the input is.

    Args:
        in_channels: Channels of the features.
        norm: Makes the normalisation.
        window: Features along the side of the fixed window; None averages the whole map.
    """

    def __init__(self, in_channels: int, *, norm: NormFactory, window: int | None) -> None:
        super().__init__()
        self.window = window
        self.project = conv_norm_relu(in_channels, CHANNELS, norm=norm)

    def forward(self, features_NCHW: Tensor) -> Tensor:
        """Gives the branch, as large as the features."""
        height, width = features_NCHW.shape[-2], features_NCHW.shape[-1]
        window_height = height if self.window is None else min(self.window, height)
        window_width = width if self.window is None else min(self.window, width)
        if window_height == height and window_width == width:
            pooled = features_NCHW.mean(dim=(-2, -1), keepdim=True)
        else:
            # A mean of rows of a mean of columns: the same numbers for a fraction of the additions.
            pooled = F.avg_pool2d(features_NCHW, (window_height, 1), stride=1)
            pooled = F.avg_pool2d(pooled, (1, window_width), stride=1)
        self._check_batch(pooled)
        pooled = self.project(pooled)
        if pooled.shape[-2] == 1 and pooled.shape[-1] == 1:
            return pooled.expand(-1, -1, height, width)
        above, left = (window_height - 1) // 2, (window_width - 1) // 2
        padding = (left, window_width - 1 - left, above, window_height - 1 - above)
        return F.pad(pooled, padding, mode="replicate")

    def _check_batch(self, pooled: Tensor) -> None:
        """Explains the one batch that batch norm cannot normalise, where torch only states a shape."""
        norm = self.project[1]
        is_local = type(norm) is nn.BatchNorm2d and norm.training
        if is_local and pooled.shape[0] * pooled.shape[-2] * pooled.shape[-1] == 1:
            raise ValueError(
                "image pooling in training needs more than one value per channel for its batch norm, got a "
                "batch of 1; use a larger batch, drop the last incomplete one, synchronise or freeze batch "
                "norm, or set image_pooling='none'"
            )


class ASPP(nn.Module):
    """1×1, atrous 3×3 at each rate and an image-level branch, concatenated in this order and projected.

    Args:
        in_channels: Channels of the features.
        rates: Dilations of the atrous branches.
        block: Makes the atrous branches.
        pooling: The image-level branch, if any.
        norm: Makes the normalisation.
        dropout: Dropout after the projection.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        rates: Sequence[int],
        block: Block3x3,
        pooling: ImagePooling | None,
        norm: NormFactory,
        dropout: float,
    ) -> None:
        super().__init__()
        self.pointwise = conv_norm_relu(in_channels, CHANNELS, norm=norm)
        self.atrous = nn.ModuleList(block(in_channels, CHANNELS, dilation=rate) for rate in rates)
        self.pooling = pooling
        num_branches = 1 + len(rates) + (pooling is not None)
        self.project = conv_norm_relu(num_branches * CHANNELS, CHANNELS, norm=norm)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features_NCHW: Tensor) -> Tensor:
        """Gives the context of each feature, at the same size."""
        branches = [self.pointwise(features_NCHW)]
        branches += [branch(features_NCHW) for branch in self.atrous]
        if self.pooling is not None:
            branches.append(self.pooling(features_NCHW))
        return self.dropout(self.project(torch.cat(branches, dim=1)))
