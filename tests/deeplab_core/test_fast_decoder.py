"""The rewritten decoder computes the same numbers as the one that was trained, for less work."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from deeplab_core.config import ModelConfig
from deeplab_core.fast_decoder import speed_up_decoder
from deeplab_core.fold import fold_batchnorm
from deeplab_core.model import build_model
from deeplab_core.segmenter import Segmenter
from tests.deeplab_core.random_models import random_images, randomised, relative_difference


def folded_model(**options: Any) -> Segmenter:
    torch.manual_seed(0)
    config = ModelConfig(**({"backbone": "resnet18", "classes": ("a", "b", "c")} | options))
    model = randomised(build_model(config)).requires_grad_(False)
    fold_batchnorm(model, lambda: model.lattice(random_images(1, config.in_channels, 33, 33)))
    return model


class TestSameNumbers:
    @pytest.mark.parametrize("size_px", [(129, 129), (65, 97), (33, 33), (64, 90)])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"output_stride": 8},
            {"output_stride": 32},
            {"align_corners": False, "decoder_convs": 1},
            {"separable": True, "decoder_separable": False, "aspp_refine": True},
        ],
        ids=str,
    )
    def test_logits_stay(self, options: dict[str, Any], size_px: tuple[int, int]) -> None:
        model, images_NCHW = folded_model(**options), random_images(2, 3, *size_px)
        with torch.inference_mode():
            expected = model.lattice(images_NCHW)
            assert speed_up_decoder(model)
            assert relative_difference(model.lattice(images_NCHW), expected) < 1e-5

    def test_the_border_sees_the_same_zeros(self) -> None:
        model = folded_model()
        ones_NCHW = torch.ones(1, 3, 129, 129)
        with torch.inference_mode():
            expected = model.lattice(ones_NCHW)
            speed_up_decoder(model)
            difference = (model.lattice(ones_NCHW) - expected).abs()
        inner = difference[:, :, 4:-4, 4:-4].max()
        assert difference.max() < 1e-5 * expected.abs().max()
        assert difference.max() < 10 * inner + 1e-6, "errors must not gather at the border"


class TestLessWork:
    def test_the_context_takes_a_seventh_of_the_multiplications(self) -> None:
        model, images_NCHW = folded_model(), random_images(1, 3, 513, 513)
        macs = []
        for _ in range(2):
            with FlopCounterMode(display=False) as counter, torch.inference_mode(), torch.device("meta"):
                model.to("meta").lattice(images_NCHW.to("meta"))
            macs.append(counter.get_total_flops() / 2e9)
            speed_up_decoder(model)
        plain, fast = 256 * 256 * 9 * 129 * 129 / 1e9, 1.4
        assert macs[0] - macs[1] == pytest.approx(plain - fast, abs=0.05)


class TestWhatStays:
    @pytest.mark.parametrize("options", [{"decoder_separable": True}, {"arch": "deeplabv3"}], ids=str)
    def test_other_heads_are_left_alone(self, options: dict[str, Any]) -> None:
        model = folded_model(**options)
        before = list(model.named_modules())
        assert not speed_up_decoder(model)
        assert list(model.named_modules()) == before

    def test_a_decoder_with_a_norm_is_left_alone(self) -> None:
        torch.manual_seed(0)
        model = build_model(ModelConfig(backbone="resnet18", classes=("a", "b"))).eval()
        assert not speed_up_decoder(model)

    def test_it_is_not_done_twice(self) -> None:
        model = folded_model()
        assert speed_up_decoder(model)
        assert not speed_up_decoder(model)
