"""Weights of other libraries mapped into ours.

A state dict says nothing of alignment, rates or dilation, so each function sets every option of the graph
that its source needs, whatever the given config says, and the result's `config` records them:
`build_model(model.config)` is the same graph. Weights of auxiliary heads are used if the config has such a
head, else dropped and listed in the log. Anything else that does not fit is refused with its names.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from deeplab_core.config import RESNETS, ModelConfig
from deeplab_core.foreign_names import (
    rename,
    smp_prefixes,
    timm_names,
    torchvision_prefixes,
    vainf_prefixes,
)
from deeplab_core.model import build_model
from deeplab_core.segmenter import Segmenter

logger = logging.getLogger(__name__)

StateDict = Mapping[str, Tensor]

_LARGE_RATES = (12, 24, 36)
# What our graph is when nothing foreign is asked for. Each source starts from it, so that an option which
# the caller's config sets otherwise cannot leak into a graph whose weights never saw it.
_PLAIN_GRAPH: dict[str, object] = {
    "multi_grid": None,
    "separable": False,
    "separable_mid_norm": True,
    "image_pooling": "global",
    "decoder_convs": 2,
    "decoder_separable": False,
    "aspp_refine": False,
    "head_conv": False,
    "dilate_first": "previous",
    "backbone_bn_momentum": None,
    "backbone_bn_eps": None,
    "head_bn_momentum": 0.1,
    "head_bn_eps": 1e-5,
}
# Prefixes of classifiers in timm's networks, which a segmentation encoder does not have.
_TIMM_CLASSIFIERS = ("fc.", "head.", "classifier.", "conv_head.", "norm_head.")


def from_torchvision(state_dict: StateDict, config: ModelConfig) -> Segmenter:
    """Imports a segmentation network of torchvision.

    DeepLabv3 (`deeplabv3_resnet50/101`, `deeplabv3_mobilenet_v3_large`) becomes our own `deeplabv3`. With
    arch `torchvision/<name>` the weights are loaded into that network as it is.

    Args:
        state_dict: torchvision's weights.
        config: Classes, bands and backbone; and whether to keep the auxiliary head.

    Returns:
        The model, in training mode.

    Raises:
        ValueError: Some weights do not fit.
    """
    if config.provider == "torchvision":
        renamed = {f"network.{name}": value for name, value in state_dict.items()}
        return _load(
            renamed, config, source="torchvision", droppable=_unless(config, "network.aux_classifier.")
        )
    _require_backbone(config, (*RESNETS, "mobilenet_v3_large"), source="torchvision's DeepLabv3")
    is_mobile = config.backbone == "mobilenet_v3_large"
    config = _with_graph(
        config,
        arch="deeplabv3",
        # torchvision dilates its MobileNetV3 to stride 16, and by another rule than its ResNets.
        output_stride=16 if is_mobile else 8,
        dilate_first="all" if is_mobile else "previous",
        rates=_LARGE_RATES,
        align_corners=False,
        head_conv=True,
        aspp_dropout=0.5,
    )
    renamed = rename(state_dict, torchvision_prefixes(is_mobile=is_mobile))
    return _load(renamed, config, source="torchvision", droppable=_unless(config, "aux_head."))


def from_smp(state_dict: StateDict, config: ModelConfig, *, rates: Sequence[int] = _LARGE_RATES) -> Segmenter:
    """Imports a network of segmentation_models_pytorch.

    Its DeepLabV3Plus becomes our own `deeplabv3plus` with smp's differences. With arch `smp/<Class>` the
    weights are loaded into that network as it is.

    Args:
        state_dict: smp's weights.
        config: Classes, bands, backbone (a ResNet, or `timm/<name>` for smp's `tu-<name>`) and output stride.
        rates: smp's `decoder_atrous_rates`, if the network was not built with its default.

    Returns:
        The model, in training mode.

    Raises:
        ValueError: Some weights do not fit.
    """
    droppable = ("classification_head.", "network.classification_head.")
    if config.provider == "smp":
        renamed = {f"network.{name}": value for name, value in state_dict.items()}
        return _load(renamed, config, source="smp", droppable=droppable)
    is_timm = config.backbone.startswith("timm/")
    if not is_timm:
        _require_backbone(config, RESNETS, source="smp's DeepLabV3Plus (or timm/<name> for its tu-<name>)")
    _require_output_stride(config, source="smp's DeepLabV3Plus")
    separable = "decoder.aspp.0.convs.1.0.0.weight" in state_dict
    config = _with_graph(
        config,
        arch="deeplabv3plus",
        dilate_first="previous" if is_timm else "all",
        rates=tuple(rates),
        align_corners=True,
        separable=separable,
        separable_mid_norm=False,
        decoder_convs=1,
        decoder_separable=True,
        aspp_refine=True,
        aspp_dropout=0.5,
    )
    renamed = rename(state_dict, smp_prefixes(separable=separable, is_timm=is_timm))
    return _load(renamed, config, source="smp", droppable=droppable)


def from_vainf(state_dict: Mapping[str, Any], config: ModelConfig) -> Segmenter:
    """Imports a network of VainF/DeepLabV3Plus-Pytorch, v3+ or v3 by its names.

    Args:
        state_dict: VainF's weights, or the checkpoint that holds them under `model_state`.
        config: Classes, bands, backbone (a ResNet) and output stride.

    Returns:
        The model, in training mode.

    Raises:
        ValueError: Some weights do not fit.
    """
    weights: StateDict = state_dict.get("model_state", state_dict)
    _require_backbone(config, RESNETS, source="VainF's DeepLab")
    _require_output_stride(config, source="VainF's DeepLab")
    is_plus = any(name.startswith("classifier.aspp.") for name in weights)
    separable = is_plus and "classifier.aspp.convs.1.0.body.0.weight" in weights
    config = _with_graph(
        config,
        arch="deeplabv3plus" if is_plus else "deeplabv3",
        rates=_LARGE_RATES if config.output_stride == 8 else (6, 12, 18),
        align_corners=False,
        separable=separable,
        decoder_separable=separable,
        separable_mid_norm=not separable,
        decoder_convs=1 if is_plus else _PLAIN_GRAPH["decoder_convs"],
        head_conv=not is_plus,
        aspp_dropout=0.1,
        backbone_bn_momentum=0.01,
    )
    renamed = rename(weights, vainf_prefixes(is_plus=is_plus, separable=separable))
    # VainF joins [low-level, context], we join [context, low-level].
    first = "head.decoder.0.0.weight"
    if first in renamed:
        renamed[first] = _low_level_last(renamed[first], dim=0 if separable else 1)
    if separable and "head.decoder.0.1.weight" in renamed:
        renamed["head.decoder.0.1.weight"] = _low_level_last(renamed["head.decoder.0.1.weight"], dim=1)
    return _load(renamed, config, source="VainF", droppable=())


def from_timm_backbone(state_dict: StateDict, config: ModelConfig) -> Segmenter:
    """Imports an encoder in timm's names, such as torchgeo's satellite backbones; the head stays random.

    timm's ResNets carry torchvision's names, so they fill `resnet18/34/50/101` too.

    Args:
        state_dict: The encoder's weights, with or without a classifier.
        config: The model around it; `in_channels` must be the weights' own.

    Returns:
        The model, in training mode.

    Raises:
        ValueError: Some weights do not fit.
    """
    if config.provider != "deeplab" or config.backbone == "mobilenet_v3_large":
        raise ValueError(
            f"a timm encoder needs one of our architectures on a ResNet, xception65 or timm/<name>, got "
            f"arch={config.arch!r} with backbone={config.backbone!r}; timm's own MobileNetV3 is "
            "backbone='timm/mobilenetv3_large_100'"
        )
    config = _revised(config, dilate_first="previous", pretrained=False)
    model = build_model(config)
    kept, dropped = _split(state_dict, _TIMM_CLASSIFIERS)
    _log_dropped(dropped, source="timm")
    renamed = timm_names(kept, model.encoder.state_dict())
    _check_fit(renamed, model.encoder.state_dict(), source="timm", config=config)
    model.encoder.load_state_dict(renamed)
    return model


def _with_graph(config: ModelConfig, **graph: object) -> ModelConfig:
    if config.provider != "deeplab":
        raise ValueError(
            f"arch must be one of our own, or of the library the weights come from, got {config.arch!r}"
        )
    return _revised(config, **_PLAIN_GRAPH | graph)


def _revised(config: ModelConfig, **changes: object) -> ModelConfig:
    """Changes a config and checks the result, which `model_copy` would not."""
    return ModelConfig.model_validate(config.model_dump() | changes)


def _unless(config: ModelConfig, aux_prefix: str) -> tuple[str, ...]:
    return () if config.aux_head else (aux_prefix,)


def _require_backbone(config: ModelConfig, backbones: Sequence[str], *, source: str) -> None:
    if config.backbone not in backbones:
        raise ValueError(
            f"backbone must be one of {', '.join(backbones)} to import {source}, got {config.backbone!r}"
        )


def _require_output_stride(config: ModelConfig, *, source: str) -> None:
    if config.output_stride == 32:
        raise ValueError(f"output_stride must be 8 or 16 to import {source}, got {config.output_stride}")


def _low_level_last(weight: Tensor, *, dim: int, low_channels: int = 48) -> Tensor:
    low, context = weight.split([low_channels, weight.shape[dim] - low_channels], dim=dim)
    return torch.cat([context, low], dim=dim)


def _load(renamed: StateDict, config: ModelConfig, *, source: str, droppable: tuple[str, ...]) -> Segmenter:
    kept, dropped = _split(renamed, droppable)
    model = build_model(_revised(config, pretrained=False))
    _check_fit(kept, model.state_dict(), source=source, config=model.config)
    _log_dropped(dropped, source=source)
    model.load_state_dict(kept)
    return model


def _split(state_dict: StateDict, prefixes: tuple[str, ...]) -> tuple[dict[str, Tensor], list[str]]:
    kept = {name: value for name, value in state_dict.items() if not name.startswith(prefixes)}
    return kept, sorted(set(state_dict) - set(kept))


def _log_dropped(names: Sequence[str], *, source: str) -> None:
    if names:
        logger.warning("%s weights without a place in this model were dropped: %s", source, ", ".join(names))


def _check_fit(weights: StateDict, target: StateDict, *, source: str, config: ModelConfig) -> None:
    """Refuses weights that differ from the graph in names or shapes, naming every one of them."""
    lines = [f"missing: {name}" for name in sorted(set(target) - set(weights))]
    lines += [f"unexpected: {name}" for name in sorted(set(weights) - set(target))]
    for name in sorted(set(target) & set(weights)):
        got, needed = tuple(weights[name].shape), tuple(target[name].shape)
        if got != needed:
            lines.append(f"shape: {name} must be {needed}, got {got}")
    if lines:
        raise ValueError(
            f"{source} weights must fit {config.arch} on {config.backbone} with {config.num_classes} classes "
            f"and {config.in_channels} bands, but {len(lines)} do not; correct the config:\n"
            + "\n".join(lines)
        )
