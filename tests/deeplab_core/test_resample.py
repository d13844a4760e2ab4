"""Sampling nodes equals resizing and then taking every stride-th pixel."""

import pytest
import torch
from torch.nn import functional as F

from deeplab_core.resample import resize, resize_to_nodes
from tests.deeplab_core.random_models import random_images, relative_difference


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize(
    ("size", "size_px"),
    [((33, 17), (129, 65)), ((9, 5), (129, 65)), ((5, 3), (67, 34)), ((1, 2), (1, 5)), ((3, 1), (9, 1))],
)
def test_nodes_are_those_of_the_full_resize(
    size: tuple[int, int], size_px: tuple[int, int], stride: int, align_corners: bool
) -> None:
    values_NKHW = random_images(2, 3, *size)
    full = F.interpolate(values_NKHW, size=size_px, mode="bilinear", align_corners=align_corners)
    nodes = resize_to_nodes(values_NKHW, *size_px, stride=stride, align_corners=align_corners)
    assert relative_difference(nodes, full[:, :, ::stride, ::stride]) < 1e-5


def test_values_on_the_nodes_are_returned_as_they_are() -> None:
    values_NKHW = random_images(1, 2, 33, 17)
    assert resize_to_nodes(values_NKHW, 129, 65, stride=4, align_corners=True) is values_NKHW
    assert resize(values_NKHW, 33, 17, align_corners=False) is values_NKHW


def test_precision_and_gradients_pass_through() -> None:
    values_NKHW = random_images(1, 2, 5, 5).to(torch.bfloat16).requires_grad_()
    nodes = resize_to_nodes(values_NKHW, 65, 65, stride=4, align_corners=False)
    assert nodes.dtype == torch.bfloat16
    nodes.float().sum().backward()
    assert values_NKHW.grad is not None
    assert values_NKHW.grad.sum().item() == pytest.approx(2 * 17 * 17, rel=1e-2)
