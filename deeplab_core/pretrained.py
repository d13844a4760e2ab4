"""Encoders started from their library's published weights: its own cache, its own download."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import timm
from torch import Tensor, nn
from torchvision.models import get_model_weights

from deeplab_core.backbone import create_timm_features
from deeplab_core.config import RESNETS
from deeplab_core.stem import load_inflated


def load_pretrained_encoder(encoder: nn.Module, backbone: str, *, bands: Sequence[str] | None) -> None:
    """Loads the published weights of one of our encoders, in place.

    Args:
        encoder: The encoder to fill.
        backbone: Its name, as `ModelConfig.backbone`.
        bands: Names of its input bands, if known.

    Raises:
        RuntimeError: The weights are neither in the library's cache nor to be had.
    """
    with explained_download(backbone):
        published = _published_weights(backbone)
    load_inflated(encoder, published, bands=bands)


@contextmanager
def explained_download(backbone: str) -> Iterator[None]:
    """Says what to do where a library cannot find its own weights.

    Args:
        backbone: Whose weights are looked for.

    Raises:
        RuntimeError: In place of the library's own error.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise RuntimeError(
            f"published weights of backbone {backbone!r} must be in its library's cache or downloadable, "
            f"got: {error}; fill the cache where there is a network, or set pretrained=False"
        ) from error


def _published_weights(backbone: str) -> dict[str, Tensor]:
    if backbone in RESNETS or backbone == "mobilenet_v3_large":
        weights = get_model_weights(backbone).DEFAULT.get_state_dict(progress=False, check_hash=True)
        return {name: value for name, value in weights.items() if not name.startswith(("fc.", "classifier."))}
    if backbone == "xception65":
        return timm.create_model(backbone, pretrained=True, num_classes=0).state_dict()
    # At the stride the weights were published for, so that no layer is missing; loading them into a dilated
    # encoder is strict and would say so.
    features = create_timm_features(
        backbone.removeprefix("timm/"), in_channels=3, output_stride=32, pretrained=True
    )
    return {f"model.{name}": value for name, value in features.state_dict().items()}
