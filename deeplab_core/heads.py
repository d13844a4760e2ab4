"""The four heads, side by side: what each generation of DeepLab adds reads as a table.

| head | logits from | context | detail |
|---|---|---|---|
| v1 `LargeFieldOfView` | encoder | one 3×3 at rate 12 | – |
| v2 `ASPPSum` | encoder | 3×3 at rates 6, 12, 18 and 24, their logits summed | – |
| v3 `DeepLabV3Head` | ASPP | five parallel branches, normalised, concatenated and projected | – |
| v3+ `DeepLabV3PlusHead` | decoder | as v3 | features at stride 4 |

Every head turns an encoder's features into logits_NKHW at its own stride: the output stride, or 4 for v3+.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from deeplab_core.aspp import ASPP, CHANNELS, ImagePooling
from deeplab_core.backbone import Encoder, Features
from deeplab_core.config import ModelConfig
from deeplab_core.layers import Block3x3, NormFactory, block3x3, conv_norm_relu, initialise
from deeplab_core.resample import resize


class Head(nn.Module):
    """Base of the heads."""

    def forward(self, features: Features) -> Tensor:
        """Gives logits_NKHW at the head's own stride."""
        raise NotImplementedError


class LargeFieldOfView(Head):
    """v1: the fully connected layers of a classifier as one atrous 3×3 and one 1×1, of 1024 channels.

    Without batch norm, as published.

    Args:
        in_channels: Channels of the features.
        num_classes: Logit channels.
        rate: Dilation of the 3×3.
        dropout: Dropout after each of the two.
    """

    def __init__(self, in_channels: int, num_classes: int, *, rate: int, dropout: float) -> None:
        super().__init__()
        self.context = nn.Sequential(
            nn.Conv2d(in_channels, 1024, 3, padding=rate, dilation=rate),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(1024, 1024, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )
        self.logits = nn.Conv2d(1024, num_classes, 1)
        initialise(self, logits=[self.logits])

    def forward(self, features: Features) -> Tensor:
        """Gives logits_NKHW at the output stride."""
        return self.logits(self.context(features.out_NCHW))


class ASPPSum(Head):
    """v2: a 3×3 classifier at each rate, their logits summed.

    Args:
        in_channels: Channels of the features.
        num_classes: Logit channels.
        rates: Dilations.
    """

    def __init__(self, in_channels: int, num_classes: int, *, rates: Sequence[int]) -> None:
        super().__init__()
        self.classifiers = nn.ModuleList(
            nn.Conv2d(in_channels, num_classes, 3, padding=rate, dilation=rate) for rate in rates
        )
        initialise(self, logits=self.classifiers)

    def forward(self, features: Features) -> Tensor:
        """Gives logits_NKHW at the output stride."""
        first, *others = self.classifiers
        logits_NKHW = first(features.out_NCHW)
        for classifier in others:
            logits_NKHW = logits_NKHW + classifier(features.out_NCHW)
        return logits_NKHW


class DeepLabV3Head(Head):
    """v3: ASPP, then logits.

    Args:
        aspp: The pyramid.
        num_classes: Logit channels.
        conv: torchvision's extra 3×3 before the logits, if any.
    """

    def __init__(self, aspp: ASPP, num_classes: int, *, conv: nn.Module | None) -> None:
        super().__init__()
        self.aspp = aspp
        self.conv = conv
        self.logits = nn.Conv2d(CHANNELS, num_classes, 1)
        initialise(self, logits=[self.logits])

    def forward(self, features: Features) -> Tensor:
        """Gives logits_NKHW at the output stride."""
        context = self.aspp(features.out_NCHW)
        if self.conv is not None:
            context = self.conv(context)
        return self.logits(context)


class DeepLabV3PlusHead(Head):
    """v3+: ASPP joined with the encoder's stride-4 features by a small decoder.

    The stride-4 features are first cut to 48 channels, so that they do not outweigh the context.

    Args:
        aspp: The pyramid.
        low_channels: Channels of the stride-4 features.
        num_classes: Logit channels.
        norm: Makes the normalisation.
        block: Makes the decoder's 3×3 convolutions.
        num_convs: Number of them.
        refine: smp's extra 3×3 between pyramid and upsampling, if any.
        align_corners: How the context is resized to stride 4.
    """

    cut_channels = 48

    def __init__(
        self,
        aspp: ASPP,
        low_channels: int,
        num_classes: int,
        *,
        norm: NormFactory,
        block: Block3x3,
        num_convs: int,
        refine: nn.Module | None,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.aspp = aspp
        self.refine = refine
        self.low = conv_norm_relu(low_channels, self.cut_channels, norm=norm)
        widths = [CHANNELS + self.cut_channels] + [CHANNELS] * (num_convs - 1)
        self.decoder = nn.Sequential(*(block(width, CHANNELS) for width in widths))
        self.logits = nn.Conv2d(CHANNELS, num_classes, 1)
        initialise(self, logits=[self.logits])

    def forward(self, features: Features) -> Tensor:
        """Gives logits_NKHW at stride 4."""
        context = self.aspp(features.out_NCHW)
        if self.refine is not None:
            context = self.refine(context)
        low = self.low(features.low_NCHW)
        context = resize(context, low.shape[-2], low.shape[-1], align_corners=self.align_corners)
        return self.logits(self.decoder(torch.cat([context, low], dim=1)))


class AuxiliaryHead(Head):
    """A small FCN on the features before the last stage, which keeps early gradients alive in training.

    Args:
        in_channels: Channels of the features.
        num_classes: Logit channels.
        norm: Makes the normalisation.
    """

    dropout_rate = 0.1  # torchvision's

    def __init__(self, in_channels: int, num_classes: int, *, norm: NormFactory) -> None:
        super().__init__()
        channels = in_channels // 4
        self.conv = conv_norm_relu(in_channels, channels, norm=norm, kernel_size=3)
        self.dropout = nn.Dropout(self.dropout_rate)
        self.logits = nn.Conv2d(channels, num_classes, 1)
        initialise(self, logits=[self.logits])

    def forward(self, features: Features) -> Tensor:
        """Gives logits_NKHW at the stride of the features before the last stage."""
        return self.logits(self.dropout(self.conv(features.mid_NCHW)))


def build_head(config: ModelConfig, encoder: Encoder) -> Head:
    """Builds the head that a config asks for.

    Args:
        config: A config of one of our own architectures.
        encoder: The encoder it follows.

    Returns:
        The head with random weights.
    """
    num_classes = config.num_classes
    if config.arch == "deeplabv1":
        return LargeFieldOfView(
            encoder.out_channels, num_classes, rate=config.rates[0], dropout=config.aspp_dropout
        )
    if config.arch == "deeplabv2":
        return ASPPSum(encoder.out_channels, num_classes, rates=config.rates)
    norm = _norm_of(config)
    aspp = _build_aspp(config, encoder.out_channels, norm=norm)
    if config.arch == "deeplabv3":
        conv = conv_norm_relu(CHANNELS, CHANNELS, norm=norm, kernel_size=3) if config.head_conv else None
        return DeepLabV3Head(aspp, num_classes, conv=conv)
    refine = block3x3(norm=norm, separable=True, mid_norm=config.separable_mid_norm)
    return DeepLabV3PlusHead(
        aspp,
        encoder.low_channels,
        num_classes,
        norm=norm,
        block=block3x3(norm=norm, separable=config.decoder_separable, mid_norm=config.separable_mid_norm),
        num_convs=config.decoder_convs,
        refine=refine(CHANNELS, CHANNELS) if config.aspp_refine else None,
        align_corners=config.align_corners,
    )


def build_auxiliary_head(config: ModelConfig, encoder: Encoder) -> AuxiliaryHead | None:
    """Builds the auxiliary head, if a config asks for one.

    Args:
        config: A config of one of our own architectures.
        encoder: The encoder it follows.

    Returns:
        The head with random weights, or None.
    """
    if not config.aux_head:
        return None
    return AuxiliaryHead(encoder.mid_channels, config.num_classes, norm=_norm_of(config))


def _build_aspp(config: ModelConfig, in_channels: int, *, norm: NormFactory) -> ASPP:
    pooling = None
    if config.image_pooling != "none":
        # Features along the training crop's side: 513 px give 33 at output stride 16.
        window = -(-config.image_pooling_crop_px // config.output_stride)
        pooling = ImagePooling(
            in_channels, norm=norm, window=window if config.image_pooling == "fixed" else None
        )
    return ASPP(
        in_channels,
        rates=config.rates,
        block=block3x3(norm=norm, separable=config.separable, mid_norm=config.separable_mid_norm),
        pooling=pooling,
        norm=norm,
        dropout=config.aspp_dropout,
    )


def _norm_of(config: ModelConfig) -> NormFactory:
    return partial(nn.BatchNorm2d, eps=config.head_bn_eps, momentum=config.head_bn_momentum)
