"""Fewer multiplications, the same convolution."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import library, nn
from torch.nn import functional as F

from deeplab_core.winograd import WinogradConv2d


def convolution(channels_in: int, channels_out: int, dilation: int = 1) -> nn.Conv2d:
    torch.manual_seed(channels_in * 100 + channels_out)
    conv = nn.Conv2d(channels_in, channels_out, 3, padding=dilation, dilation=dilation)
    return conv.requires_grad_(requires_grad=False)


@settings(deadline=None, max_examples=50)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 40),
    batch=st.integers(1, 3),
    dilation=st.integers(1, 6),
    relu=st.booleans(),
)
def test_it_equals_the_direct_convolution_at_any_size(
    height: int, width: int, batch: int, dilation: int, relu: bool
) -> None:
    conv = convolution(5, 3, dilation)
    images_NCHW = torch.randn(batch, 5, height, width)
    expected = F.relu(conv(images_NCHW)) if relu else conv(images_NCHW)
    got = WinogradConv2d(conv, relu=relu)(images_NCHW)
    assert got.shape == expected.shape
    assert (got - expected).abs().max() < 1e-5


def test_in_bf16_its_error_is_a_few_times_that_of_the_direct_one() -> None:
    conv = convolution(64, 64)
    images_NCHW = torch.randn(1, 64, 65, 65)
    expected = conv(images_NCHW)
    half = conv.bfloat16()
    direct = (half(images_NCHW.bfloat16()).float() - expected).std()
    winograd = WinogradConv2d(half, relu=False)(images_NCHW.bfloat16()).float() - expected
    assert direct < winograd.std() < 5 * direct
    assert abs(winograd.mean()) < direct  # rounding, not a shift


@pytest.mark.parametrize("dilation", [1, 2])
def test_an_image_has_the_same_bits_beside_any_other(dilation: int) -> None:
    layer = WinogradConv2d(convolution(8, 8, dilation).bfloat16(), relu=True)
    images_NCHW = torch.randn(3, 8, 37, 33).bfloat16()
    together = layer(images_NCHW)
    for index in range(3):
        assert torch.equal(layer(images_NCHW[index : index + 1])[0], together[index])


def test_the_result_is_channels_last_like_its_neighbours() -> None:
    result = WinogradConv2d(convolution(8, 8), relu=False)(torch.randn(1, 8, 33, 31))
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_torch_sees_one_sound_operation() -> None:
    layer = WinogradConv2d(convolution(4, 6), relu=True)
    arguments = (torch.randn(2, 4, 7, 9), layer.weight_PCO, layer.bias, 2, True)
    checks = library.opcheck(
        torch.ops.terrazzo.winograd_convolve.default,
        arguments,
        test_utils=("test_schema", "test_faketensor"),
    )
    assert checks == {"test_schema": "SUCCESS", "test_faketensor": "SUCCESS"}


def test_a_convolution_without_a_bias_is_refused() -> None:
    with pytest.raises(ValueError, match="conv must have a bias"):
        WinogradConv2d(nn.Conv2d(3, 3, 3, padding=1, bias=False), relu=False)
