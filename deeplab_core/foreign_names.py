"""How other libraries name what our models hold: prefix to prefix, one table for each layout.

An entry's prefix ends at a layer; what follows (`weight`, `running_mean`, …) is the same everywhere.
"""

from collections.abc import Mapping

from torch import Tensor

# conv – norm(– ReLU) as a Sequential, in both.
_CONV_NORM = {"0.": "0.", "1.": "1."}


def rename(state_dict: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> dict[str, Tensor]:
    """Renames weights by the longest prefix that fits; a name that none fits is kept, to be refused later.

    Args:
        state_dict: Weights in another library's names.
        prefixes: Their prefixes and ours.

    Returns:
        Weights in our names.
    """
    ordered = sorted(prefixes, key=len, reverse=True)
    renamed = {}
    for name, value in state_dict.items():
        prefix = next((prefix for prefix in ordered if name.startswith(prefix)), "")
        renamed[prefixes.get(prefix, "") + name.removeprefix(prefix)] = value
    return renamed


def torchvision_prefixes(*, is_mobile: bool) -> dict[str, str]:
    """Gives the names of torchvision's DeepLabv3.

    Args:
        is_mobile: Its encoder is MobileNetV3, held as bare `features`.

    Returns:
        Their prefixes and ours.
    """
    return {
        "backbone.": "backbone.features." if is_mobile else "backbone.",
        **_aspp("classifier.0.", branch=_CONV_NORM),
        "classifier.1.": "head.conv.0.",
        "classifier.2.": "head.conv.1.",
        "classifier.4.": "head.logits.",
        **_join("aux_classifier.", "aux_head.conv.", _CONV_NORM),
        "aux_classifier.4.": "aux_head.logits.",
    }


def smp_prefixes(*, separable: bool, is_timm: bool) -> dict[str, str]:
    """Gives the names of segmentation_models_pytorch's DeepLabV3Plus.

    Args:
        separable: Its pyramid is separable (the decoder always is).
        is_timm: Its encoder is one of timm's.

    Returns:
        Their prefixes and ours.
    """
    separable_names = {"0.0.": "0.", "0.1.": "1.", "1.": "2."}
    return {
        "encoder.model." if is_timm else "encoder.": "backbone.model." if is_timm else "backbone.",
        **_aspp("decoder.aspp.0.", branch=separable_names if separable else _CONV_NORM),
        "decoder.aspp.1.0.": "head.refine.0.",
        "decoder.aspp.1.1.": "head.refine.1.",
        "decoder.aspp.2.": "head.refine.2.",
        **_join("decoder.block1.", "head.low.", _CONV_NORM),
        **_join("decoder.block2.", "head.decoder.0.", separable_names),
        "segmentation_head.0.": "head.logits.",
    }


def vainf_prefixes(*, is_plus: bool, separable: bool) -> dict[str, str]:
    """Gives the names of VainF's v3+ and v3.

    Args:
        is_plus: v3+, else v3.
        separable: Its 3×3 convolutions are separable (v3+ only).

    Returns:
        Their prefixes and ours.
    """
    if not is_plus:
        names = torchvision_prefixes(is_mobile=False)
        return {theirs: ours for theirs, ours in names.items() if not theirs.startswith("aux_")}
    branch = {"0.body.0.": "0.", "0.body.1.": "1.", "1.": "2."} if separable else _CONV_NORM
    return {
        "backbone.": "backbone.",
        **_aspp("classifier.aspp.", branch=branch),
        **_join("classifier.project.", "head.low.", _CONV_NORM),
        **_join("classifier.classifier.", "head.decoder.0.", branch),
        "classifier.classifier.3.": "head.logits.",
    }


def timm_names(state_dict: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames a timm network's weights to those of an encoder made of it.

    timm's feature extractors flatten sequences (`stages.0.…` becomes `stages_0.…`), and ours hold them
    under `model.`. Names equal but for this are the same weight.

    Args:
        state_dict: Weights in the names of the whole network.
        target: Weights in the encoder's names.

    Returns:
        Weights in the encoder's names; a name with no counterpart is kept, to be refused later.
    """
    ours = {_flat(name): name for name in target}
    return {ours.get(_flat(name), name): value for name, value in state_dict.items()}


def _flat(name: str) -> str:
    return name.removeprefix("model.").replace(".", "_")


def _aspp(theirs: str, *, branch: Mapping[str, str]) -> dict[str, str]:
    """Names of a pyramid in torchvision's manner: `convs` (1×1, three rates, pooling), then `project`."""
    names = _join(f"{theirs}convs.0.", "head.aspp.pointwise.", _CONV_NORM)
    for index in (1, 2, 3):
        names |= _join(f"{theirs}convs.{index}.", f"head.aspp.atrous.{index - 1}.", branch)
    names |= _join(f"{theirs}convs.4.", "head.aspp.pooling.project.", {"1.": "0.", "2.": "1."})
    return names | _join(f"{theirs}project.", "head.aspp.project.", _CONV_NORM)


def _join(theirs: str, ours: str, names: Mapping[str, str]) -> dict[str, str]:
    return {theirs + their_name: ours + our_name for their_name, our_name in names.items()}
