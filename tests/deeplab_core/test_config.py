"""A config says everything about a graph, or is refused with what to change."""

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

import deeplab_core
from deeplab_core.config import ModelConfig

CLASSES = ["water", "forest", "built"]


def config_of(**options: Any) -> ModelConfig:
    return ModelConfig.model_validate({"classes": CLASSES} | options)


def test_defaults_are_the_published_v3plus() -> None:
    config = ModelConfig(classes=("water", "forest"))
    assert (config.arch, config.backbone, config.in_channels) == ("deeplabv3plus", "resnet50", 3)
    assert (config.output_stride, config.rates, config.multi_grid) == (16, (6, 12, 18), None)
    assert (config.separable, config.decoder_separable, config.decoder_convs) == (False, False, 2)
    assert (config.image_pooling, config.aux_head, config.aspp_dropout) == ("global", False, 0.1)
    assert (config.align_corners, config.pretrained, config.dilate_first) == (True, False, "previous")
    assert config.num_classes == 2


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({"output_stride": 8}, (12, 24, 36)),
        ({"output_stride": 32}, (3, 6, 9)),
        ({"arch": "deeplabv3", "output_stride": 8}, (12, 24, 36)),
        ({"arch": "deeplabv2", "output_stride": 8}, (6, 12, 18, 24)),
        ({"arch": "deeplabv1"}, (12,)),
        ({"output_stride": 8, "rates": None}, (12, 24, 36)),
        ({"output_stride": 16, "rates": [12, 24, 36]}, (12, 24, 36)),
    ],
)
def test_rates_follow_architecture_and_output_stride_unless_given(
    options: dict[str, Any], rates: tuple[int, ...]
) -> None:
    assert config_of(**options).rates == rates


def test_what_is_left_out_is_resolved() -> None:
    assert config_of(separable=True).decoder_separable
    assert not config_of(separable=True, decoder_separable=False).decoder_separable
    assert config_of(bands=["red", "green", "blue", "nir"]).in_channels == 4
    assert config_of(arch="torchvision/deeplabv3_mobilenet_v3_large").backbone == "mobilenet_v3_large"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"arch": "deeplabv1", "output_stride": 8},
        {"arch": "deeplabv2"},
        {"arch": "deeplabv3", "separable": True, "multi_grid": [1, 2, 4], "head_bn_eps": 1e-3},
        {"separable": True, "decoder_separable": False, "bands": ["a", "b"], "image_pooling": "fixed"},
        {"arch": "smp/Unet", "backbone": "mit_b0", "arch_options": {"decoder_channels": [64, 32], "a": None}},
        {"arch": "torchvision/fcn_resnet101", "aux_head": True},
    ],
)
def test_survives_json(options: dict[str, Any]) -> None:
    config = config_of(**options)
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


def test_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        config_of().arch = "deeplabv3"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"archs": "deeplabv3"}, "Extra inputs are not permitted"),
        ({"classes": []}, "at least 1 item"),
        ({"classes": ["a", "b", "a"]}, r"unique, got \['a'\] more than once"),
        ({"classes": ["a", " "]}, "every name must have a visible character"),
        ({"arch": "deeplabv4"}, "arch must be one of deeplabv1.* got 'deeplabv4'"),
        ({"arch": "smp/os.system('x')"}, "arch must be one of"),
        ({"backbone": "resnet152"}, "backbone of deeplabv3plus must be one of resnet18.* got 'resnet152'"),
        ({"backbone": "timm/"}, "or timm/<name>, got 'timm/'"),
        ({"output_stride": 4}, "Input should be 8, 16 or 32"),
        ({"rates": [6, 12]}, r"rates of deeplabv3plus must be 3 positive dilations, got \[6, 12\]"),
        ({"rates": [0, 6, 12]}, r"3 positive dilations, got \[0, 6, 12\]"),
        ({"bands": ["a", "b"], "in_channels": 3}, r"each of the 3 input channels, got 2 names \['a', 'b'\]"),
        ({"bands": ["a", "a"]}, "unique"),
        ({"multi_grid": [1, 2]}, r"must be 3 positive factors.*got \[1, 2\]"),
        ({"multi_grid": [1, 2, 4], "backbone": "resnet18"}, "multi_grid of resnet18 must be 2 positive"),
        ({"multi_grid": [1, 2, 4], "backbone": "xception65"}, "multi_grid needs one of resnet18"),
        ({"dilate_first": "all", "backbone": "xception65"}, "dilate_first='all' is known for ResNets"),
        ({"arch": "deeplabv2", "separable": True}, "separable acts only in deeplabv3, deeplabv3plus"),
        ({"arch": "deeplabv2", "aspp_dropout": 0.5}, "aspp_dropout acts only in deeplabv1"),
        ({"arch": "deeplabv3", "decoder_convs": 1}, "decoder_convs acts only in deeplabv3plus"),
        ({"head_conv": True}, "head_conv acts only in deeplabv3, got head_conv=True"),
        ({"arch": "smp/Unet", "output_stride": 8}, "output_stride acts only in .* leave it at 16"),
        ({"arch_options": {"decoder_channels": 2}}, "arch_options are constructor keywords of smp"),
        ({"arch": "smp/Unet", "arch_options": {"classes": 2}}, r"must not repeat .* got \['classes'\]"),
        ({"arch": "smp/Unet", "arch_options": {"a": {"b": 1}}}, "arch_options"),
        ({"arch": "torchvision/fcn_resnet50", "arch_options": {"depth": 3}}, "arch_options are constructor"),
        ({"arch": "smp/Unet", "aux_head": True}, "aux_head is not offered by smp"),
        (
            {"arch": "torchvision/fcn_resnet50", "backbone": "resnet101"},
            "is 'resnet50' by its name, got 'resnet101'",
        ),
        ({"aspp_dropout": 1.0}, "less than 1"),
    ],
)
def test_refusals_say_what_must_hold(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        config_of(**options)


def test_public_names_resolve_lazily_and_import_no_torch() -> None:
    program = (
        "import sys, deeplab_core.config, deeplab_core\n"
        "deeplab_core.ModelConfig(classes=['a'])\n"
        "heavy = {'torch', 'torchvision', 'timm', 'segmentation_models_pytorch'} & set(sys.modules)\n"
        "print(sorted(heavy), callable(deeplab_core.build_model), 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[] True True\n", "imported too early, resolved, torch there once it is needed"


def test_public_names_are_these() -> None:
    assert dir(deeplab_core) == ["ModelConfig", "build_model", "load_checkpoint", "save_checkpoint"]
    assert deeplab_core.ModelConfig is ModelConfig
    with pytest.raises(AttributeError, match="no attribute 'build'"):
        deeplab_core.build  # noqa: B018
