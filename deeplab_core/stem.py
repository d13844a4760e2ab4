"""The convolution that sees the input, for any bands.

Published stems see red, green and blue. For other inputs they are inflated: where band names say which band
is which, each gets its own weights and the others the mean of the three; unnamed bands repeat the three in
turn. All are scaled by 3 / bands, so that activations keep their size.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

_RGB_NAMES = (("red", "r"), ("green", "g"), ("blue", "b"))


def first_convolution(encoder: nn.Module) -> tuple[str, nn.Conv2d]:
    """Finds the convolution that sees the input.

    Args:
        encoder: Any encoder; libraries register its stem first.

    Returns:
        The name of the convolution and the convolution.
    """
    return next((name, layer) for name, layer in encoder.named_modules() if isinstance(layer, nn.Conv2d))


def with_in_channels(conv: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    """Gives a stem convolution for another number of bands, freshly initialised if it is another.

    Args:
        conv: The stem as its library builds it.
        in_channels: Input bands.

    Returns:
        The stem itself, or a like one.
    """
    if conv.in_channels == in_channels:
        return conv
    stem = deepcopy(conv)
    stem.in_channels = in_channels
    stem.weight = nn.Parameter(conv.weight.new_empty(conv.out_channels, in_channels, *conv.kernel_size))
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    return stem


def load_inflated(
    encoder: nn.Module, published: Mapping[str, Tensor], *, bands: Sequence[str] | None
) -> None:
    """Loads an encoder's weights for three bands into one for its own bands, in place and strictly.

    Args:
        encoder: An encoder whose first convolution sees the input.
        published: Weights of the same encoder for red, green and blue.
        bands: Names of the encoder's input bands, if known.
    """
    name, stem = first_convolution(encoder)
    weights = dict(published)
    weights[f"{name}.weight"] = inflate_stem(weights[f"{name}.weight"], stem.in_channels, bands=bands)
    encoder.load_state_dict(weights)


def inflate_stem(weight_OCHW: Tensor, in_channels: int, *, bands: Sequence[str] | None) -> Tensor:
    """Spreads a stem for red, green and blue over other bands.

    Args:
        weight_OCHW: Weights of a convolution with three input channels.
        in_channels: Number of bands.
        bands: Their names, if known. If none is red, green or blue they count as unnamed.

    Returns:
        Weights with in_channels input channels: for a single band the sum of the three.
    """
    if weight_OCHW.shape[1] != 3:
        raise ValueError(
            f"a published stem must have 3 input channels to be inflated, got {weight_OCHW.shape[1]}; "
            "set pretrained=False or choose another backbone"
        )
    if in_channels == 1:
        return weight_OCHW.sum(dim=1, keepdim=True)
    sources = [_rgb_index(band) for band in bands] if bands is not None else []
    if all(source is None for source in sources):
        sources = [channel % 3 for channel in range(in_channels)]
    mean = weight_OCHW.mean(dim=1)
    slices = [mean if source is None else weight_OCHW[:, source] for source in sources]
    return torch.stack(slices, dim=1) * (3 / in_channels)


def _rgb_index(band: str) -> int | None:
    name = band.strip().casefold()
    return next((index for index, names in enumerate(_RGB_NAMES) if name in names), None)
