"""Interpolation against torch's ``align_corners=True`` on the whole lattice."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.raster.interpolate import upsample


def by_torch(nodes_KHW, node_px):
    _, rows, cols = nodes_KHW.shape
    size = ((rows - 1) * node_px + 1, (cols - 1) * node_px + 1)
    full = torch.nn.functional.interpolate(
        torch.from_numpy(nodes_KHW)[None], size=size, mode="bilinear", align_corners=True
    )
    return full[0].numpy()


@given(
    seed=st.integers(0, 1000),
    node_px=st.sampled_from([1, 2, 4, 8]),
    rows=st.integers(2, 6),
    cols=st.integers(2, 6),
    data=st.data(),
)
def test_a_window_equals_that_of_the_whole(seed, node_px, rows, cols, data):
    nodes = np.random.default_rng(seed).random((3, rows, cols), dtype=np.float32)
    full = by_torch(nodes, node_px)
    top = data.draw(st.integers(0, full.shape[1] - 1))
    left = data.draw(st.integers(0, full.shape[2] - 1))
    height = data.draw(st.integers(1, full.shape[1] - top))
    width = data.draw(st.integers(1, full.shape[2] - left))
    found = upsample(nodes, node_px, offset=(top, left), shape=(height, width))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, full[:, top : top + height, left : left + width], atol=1e-6)


@pytest.mark.parametrize("node_px", [1, 4])
def test_nodes_keep_their_values_exactly(node_px):
    nodes = np.random.default_rng(0).standard_normal((2, 5, 7)).astype(np.float32)
    full = upsample(nodes, node_px, offset=(0, 0), shape=(4 * node_px + 1, 6 * node_px + 1))
    np.testing.assert_array_equal(full[:, ::node_px, ::node_px], nodes)


def test_a_single_node_is_the_value_of_its_pixel():
    np.testing.assert_array_equal(
        upsample(np.full((1, 1, 1), 0.25, np.float32), 4, offset=(0, 0), shape=(1, 1)), [[[0.25]]]
    )
