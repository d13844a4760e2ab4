"""Convolutions in 8 bits do the arithmetic of bytes, to the last step, and lose no mean by rounding."""

from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from deeplab_core.calibration import Statistics
from deeplab_core.int8 import computes_in_int8
from deeplab_core.int8_conv import Bytes, Int8Conv2d, Int8SumConv2d
from tests.deeplab_core.random_models import random_images

needs_int8 = pytest.mark.skipif(
    not computes_in_int8(torch.device("cpu")), reason="this processor does not multiply bytes (no VNNI)"
)

IN, OUT = 16, 24
HEIGHT, WIDTH = 19, 23
POSITIVE, SIGNED = (0.0, 3.1), (-1.3, 2.9)
GEOMETRIES: dict[str, dict[str, Any]] = {
    "1×1": {"kernel_size": 1},
    "1×1 in steps of two": {"kernel_size": 1, "stride": 2},
    "3×3 in steps of two": {"kernel_size": 3, "stride": 2, "padding": 1},
    "3×3 dilated": {"kernel_size": 3, "padding": 6, "dilation": 6},
    "rows unlike columns": {
        "kernel_size": (3, 5),
        "stride": (2, 1),
        "padding": (1, 2),
        "dilation": (3, 1),
    },
    "without bias": {"kernel_size": 3, "padding": 1, "bias": False},
}
DTYPES = (torch.float32, torch.bfloat16)
# What one rounding may add, relative to the value: bf16 keeps eight bits, and sums in fp32 end in any order.
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2.0**-8}


class Case(NamedTuple):
    """A convolution with what it is told and given."""

    conv: nn.Conv2d
    statistics: Statistics
    images_NCHW: Tensor


def case(bounds: tuple[float, float] = SIGNED, **geometry: Any) -> Case:
    """Gives inputs of unlike channels that fill the bounds and go a little beyond."""
    torch.manual_seed(0)
    conv = nn.Conv2d(IN, OUT, **({"kernel_size": 1} | geometry)).requires_grad_(requires_grad=False)
    conv.weight.mul_(torch.linspace(0.2, 3.0, OUT)[:, None, None, None])
    low, high = bounds
    images_NCHW = random_images(2, IN, HEIGHT, WIDTH) + torch.linspace(-1.0, 1.0, IN)[:, None, None]
    images_NCHW = images_NCHW.clamp(low * 1.1, high * 1.1).to(memory_format=torch.channels_last)
    return Case(conv, Statistics(low, high, images_NCHW.mean(dim=(0, 2, 3))), images_NCHW)


def integer_sums(
    bytes_NCHW: NDArray[np.uint8], zero: int, weight_OCKK: NDArray[np.int8], conv: nn.Conv2d
) -> NDArray[np.int32]:
    """Gives the convolution of (byte - zero) in int32, one kernel position after another."""
    (down, right), (step_down, step_right), (rate_down, rate_right) = conv.padding, conv.stride, conv.dilation
    values = np.pad(bytes_NCHW.astype(np.int32) - zero, ((0, 0), (0, 0), (down, down), (right, right)))
    rows, columns = weight_OCKK.shape[2:]
    height = (values.shape[2] - rate_down * (rows - 1) - 1) // step_down + 1
    width = (values.shape[3] - rate_right * (columns - 1) - 1) // step_right + 1
    total = np.zeros((len(values), len(weight_OCKK), height, width), dtype=np.int32)
    for row, column in product(range(rows), range(columns)):
        top, left = row * rate_down, column * rate_right
        seen = values[
            :, :, top : top + step_down * height : step_down, left : left + step_right * width : step_right
        ]
        total += np.einsum("nchw,oc->nohw", seen, weight_OCKK[:, :, row, column].astype(np.int32))
    return total


def by_hand(here: Case, bytes_NCHW: Tensor) -> Tensor:
    """Gives convolution and bias in float64, rounded nowhere but in weights and inputs."""
    low, high = here.statistics.low, here.statistics.high
    scale = (high - low) / 255
    weight = here.conv.weight.double().numpy()
    scale_O = np.abs(weight).max(axis=(1, 2, 3)) / 127
    scale_O[scale_O == 0] = 1.0
    weight_OCKK = np.rint(weight / scale_O[:, None, None, None]).astype(np.int8)
    rounding_OC = (weight_OCKK * scale_O[:, None, None, None] - weight).sum(axis=(2, 3))
    bias_O = np.zeros(OUT) if here.conv.bias is None else here.conv.bias.double().numpy()
    bias_O = bias_O - rounding_OC @ here.statistics.mean_C.double().numpy()
    sums = integer_sums(bytes_NCHW.numpy(), round(-low / scale), weight_OCKK, here.conv)
    return torch.from_numpy(sums * scale * scale_O[:, None, None] + bias_O[:, None, None])


def check(got: Tensor, expected: Tensor, gives: Bytes | None, dtype: torch.dtype) -> None:
    """Asserts the right values or bytes; between two bytes either is right, but nothing further off."""
    if gives is None:
        assert got.dtype is dtype
        error = (got.double() - expected).abs()
        assert (error <= ROUNDING[dtype] * (expected.abs() + expected.std())).all()
        return
    assert got.dtype is torch.uint8
    steps = (expected / gives.scale + gives.zero).round().clamp(0, 255)
    off = (got.double() - steps).abs()
    assert off.max() <= 1
    assert (off > 0).double().mean() < 0.01
    assert steps.unique().numel() > 40, "results that are all alike prove nothing"


@needs_int8
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("bounds", [POSITIVE, SIGNED], ids=["positive", "signed"])
class TestArithmetic:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_a_convolution(
        self, geometry: dict[str, Any], bounds: tuple[float, float], dtype: torch.dtype
    ) -> None:
        here = case(bounds, **geometry)
        images_NCHW = here.images_NCHW.to(dtype)
        for relu, is_encoded, gives in product(
            (True, False), (True, False), (None, Bytes(0.05, 120), Bytes(0.02, 0))
        ):
            conv = Int8Conv2d(
                here.conv, here.statistics, images_NCHW.shape, dtype=dtype, relu=relu, gives=gives
            )
            encoded_NCHW = conv.encode(images_NCHW)
            expected = by_hand(here, encoded_NCHW)
            got = conv(encoded_NCHW if is_encoded else images_NCHW)
            check(got, expected.relu() if relu else expected, gives, dtype)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_a_convolution_and_a_sum(
        self, geometry: dict[str, Any], bounds: tuple[float, float], dtype: torch.dtype
    ) -> None:
        here = case(bounds, **geometry)
        images_NCHW = here.images_NCHW.to(dtype)
        shape = here.conv(here.images_NCHW).shape
        values_NCHW = (2.0 * random_images(*shape, seed=5)).to(dtype).to(memory_format=torch.channels_last)
        for adds, gives in (
            (None, None),
            (Bytes(0.03, 110), Bytes(0.04, 0)),
            (Bytes(0.04, 90), Bytes(0.05, 31)),
        ):
            conv = Int8SumConv2d(
                here.conv, here.statistics, images_NCHW.shape, dtype=dtype, adds=adds, gives=gives
            )
            other_NCHW = values_NCHW.clone() if adds is None else adds.encode(values_NCHW)
            added = other_NCHW.double() if adds is None else (other_NCHW.double() - adds.zero) * adds.scale
            encoded_NCHW = conv.encode(images_NCHW)
            expected = (by_hand(here, encoded_NCHW) + added).relu()
            check(conv(images_NCHW, other_NCHW), expected, gives, dtype)

    def test_it_is_the_convolution_that_it_is_made_of(
        self, geometry: dict[str, Any], bounds: tuple[float, float]
    ) -> None:
        here = case(bounds, **geometry)
        inside_NCHW = here.images_NCHW.clamp(*bounds)
        expected = here.conv(inside_NCHW)
        got = Int8Conv2d(here.conv, here.statistics, inside_NCHW.shape, dtype=torch.float32)(inside_NCHW)
        assert (got - expected).square().mean().sqrt() < 0.01 * expected.std()


@needs_int8
class TestConvolution:
    def test_padding_means_zero_though_its_byte_does_not(self) -> None:
        here = case(SIGNED, kernel_size=3, padding=1, bias=False)
        conv = Int8Conv2d(
            here.conv,
            Statistics(*SIGNED, torch.zeros(IN)),
            here.images_NCHW.shape,
            dtype=torch.float32,
        )
        assert conv.takes.zero == 79
        nothing_NCHW = torch.zeros(1, IN, 5, 5)
        assert torch.equal(conv(nothing_NCHW), torch.zeros(1, OUT, 5, 5))

    @pytest.mark.parametrize("gives", [None, Bytes(0.05, 120)], ids=["values", "bytes"])
    def test_a_channel_without_weights_is_its_bias(self, gives: Bytes | None) -> None:
        here = case(kernel_size=3, padding=1)
        assert here.conv.bias is not None
        here.conv.weight[7] = 0.0
        here.conv.bias[7] = 1.23
        conv = Int8Conv2d(
            here.conv, here.statistics, here.images_NCHW.shape, dtype=torch.float32, gives=gives
        )
        got = conv(here.images_NCHW)
        check(got, by_hand(here, conv.encode(here.images_NCHW)), gives, torch.float32)
        alone = got[:, 7] if gives is None else gives.decode(got[:, 7], torch.float32)
        assert (alone - 1.23).abs().max() <= (1e-6 if gives is None else gives.scale / 2)

    def test_where_nothing_but_zeros_was_seen_it_gives_the_bias(self) -> None:
        here = case(kernel_size=3, padding=1)
        assert here.conv.bias is not None
        nothing = Statistics(0.0, 0.0, torch.zeros(IN))
        conv = Int8Conv2d(here.conv, nothing, here.images_NCHW.shape, dtype=torch.float32)
        assert torch.equal(conv(torch.zeros(1, IN, 5, 5)), here.conv.bias[:, None, None].expand(1, -1, 5, 5))

    def test_a_sum_takes_its_other_part_in_any_layout(self) -> None:
        here = case(kernel_size=3, padding=1)
        conv = Int8SumConv2d(here.conv, here.statistics, here.images_NCHW.shape, dtype=torch.float32)
        other_NCHW = random_images(2, OUT, HEIGHT, WIDTH)
        expected = conv(here.images_NCHW, other_NCHW.clone(memory_format=torch.channels_last))
        assert torch.equal(conv(here.images_NCHW, other_NCHW.contiguous()), expected)

    @pytest.mark.parametrize("bounds", [POSITIVE, SIGNED], ids=["positive", "signed"])
    def test_no_channels_mean_is_lost_by_rounding_the_weights(self, bounds: tuple[float, float]) -> None:
        low, high = bounds
        torch.manual_seed(0)
        conv = nn.Conv2d(IN, OUT, 3).requires_grad_(requires_grad=False)
        levels_C = torch.linspace(0.1, 0.9, IN)[:, None, None]
        share_NCHW = torch.rand(4, IN, 65, 65, generator=torch.Generator().manual_seed(1)) * 0.2
        images_NCHW = low + (share_NCHW + levels_C - 0.1) * (high - low)
        mean_C = images_NCHW.mean(dim=(0, 2, 3))

        def error_of_means(told_C: Tensor) -> Tensor:
            ours = Int8Conv2d(conv, Statistics(low, high, told_C), images_NCHW.shape, dtype=torch.float32)
            return (ours(images_NCHW) - conv(images_NCHW)).mean(dim=(0, 2, 3)).abs()

        corrected, uncorrected = error_of_means(mean_C), error_of_means(torch.zeros(IN))
        assert corrected.max() < 0.1 * uncorrected.median()
        assert corrected.square().sum() < 0.01 * uncorrected.square().sum()

    def test_bits_depend_neither_on_threads_nor_on_neighbours_nor_on_layout(self) -> None:
        here = case(kernel_size=3, padding=1)
        shape = torch.Size((1, IN, HEIGHT, WIDTH))
        conv = Int8Conv2d(here.conv, here.statistics, shape, dtype=torch.bfloat16)
        bytes_NCHW = conv.encode(here.images_NCHW)
        expected = conv(bytes_NCHW)
        assert torch.equal(conv(bytes_NCHW[1:]), expected[1:])
        assert torch.equal(conv(bytes_NCHW.contiguous()), expected)
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(3 - min(threads, 2))
            assert torch.equal(conv(bytes_NCHW), expected)
        finally:
            torch.set_num_threads(threads)

    def test_other_shapes_than_it_was_told_of_work_too(self) -> None:
        here = case(kernel_size=3, padding=2, dilation=2)
        conv = Int8Conv2d(here.conv, here.statistics, torch.Size((1, IN, 65, 65)), dtype=torch.float32)
        for size in ((5, 41), (HEIGHT, WIDTH), (1, 1)):
            images_NCHW = here.images_NCHW[:, :, : size[0]]
            images_NCHW = F.pad(images_NCHW, (0, max(0, size[1] - WIDTH)))[..., : size[1]]
            got = conv(images_NCHW)
            check(got, by_hand(here, conv.encode(images_NCHW)), None, torch.float32)

    def test_converting_the_network_around_it_changes_no_bit(self) -> None:
        here = case(kernel_size=3)
        conv = Int8Conv2d(here.conv, here.statistics, here.images_NCHW.shape, dtype=torch.float32)
        expected = conv(here.images_NCHW)
        network = nn.Sequential(conv).to(torch.bfloat16).to(memory_format=torch.channels_last)
        assert torch.equal(network(here.images_NCHW), expected)

    def test_bytes_and_values_are_not_added(self) -> None:
        here = case()
        with pytest.raises(ValueError, match="must both be bytes or both be values"):
            Int8SumConv2d(
                here.conv,
                here.statistics,
                here.images_NCHW.shape,
                dtype=torch.float32,
                gives=Bytes(0.1, 0),
            )

    def test_padding_by_name_is_refused(self) -> None:
        conv = nn.Conv2d(IN, OUT, 3, padding="same")
        with pytest.raises(TypeError, match="must be given in pixels, got 'same'"):
            Int8Conv2d(conv, case().statistics, torch.Size((1, IN, 9, 9)), dtype=torch.float32)


lows = st.just(0.0) | st.floats(-1e6, -1e-6)
highs = st.just(0.0) | st.floats(1e-6, 1e6)
shares = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20)


class TestBytes:
    @given(low=lows, high=highs, shares=shares, dtype=st.sampled_from(DTYPES))
    def test_values_within_come_back_to_half_a_step(
        self, low: float, high: float, shares: list[float], dtype: torch.dtype
    ) -> None:
        encoding = Bytes.of(Statistics(low, high, torch.zeros(1)))
        values = torch.tensor([low + share * (high - low) for share in shares]).to(dtype)
        encoded = encoding.encode(values.clone())
        assert encoded.dtype is torch.uint8
        decoded = encoding.decode(encoded, dtype)
        assert decoded.dtype is dtype
        # In bf16 the steps, the steps from zero and the value are each rounded, and so were the bounds.
        rounding = 4 * torch.finfo(dtype).eps / 2 * (high - low)
        assert (decoded.double() - values.double()).abs().max() <= encoding.scale / 2 + rounding

    @given(low=lows, high=highs, beyond=st.floats(1.0, 1e6), dtype=st.sampled_from(DTYPES))
    def test_values_beyond_become_the_outermost_and_zero_stays(
        self, low: float, high: float, beyond: float, dtype: torch.dtype
    ) -> None:
        encoding = Bytes.of(Statistics(low, high, torch.zeros(1)))
        span = high - low or 255.0
        values = torch.tensor([low - beyond * span, high + beyond * span, 0.0, -0.0]).to(dtype)
        encoded = encoding.encode(values)
        assert encoded.tolist() == [0, 255, encoding.zero, encoding.zero]
        assert encoding.decode(encoded, dtype)[2:].tolist() == [0.0, 0.0]

    @given(low=lows, high=highs)
    def test_every_byte_is_the_byte_of_its_value(self, low: float, high: float) -> None:
        encoding = Bytes.of(Statistics(low, high, torch.zeros(1)))
        every = torch.arange(256, dtype=torch.uint8)
        assert torch.equal(encoding.encode(encoding.decode(every, torch.float32)), every)

    def test_what_is_next_to_nothing_is_zero(self) -> None:
        nothing = Bytes.of(Statistics(0.0, 1e-38, torch.zeros(1)))
        assert nothing.encode(torch.tensor([0.0, 1e-38])).tolist() == [0, 0]

    def test_what_is_given_stays_as_it_is(self) -> None:
        encoding = Bytes(0.1, 100)
        values, encoded = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([90, 100, 120], dtype=torch.uint8)
        assert torch.equal(encoding.encode(values), encoded)
        assert torch.allclose(encoding.decode(encoded, torch.float32), values)
        assert values.tolist() == [-1.0, 0.0, 2.0]
        assert encoded.tolist() == [90, 100, 120]
