"""Finishing in strips and cells against torch's own upsampling and maximum."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.segment.finish import STRIP_NODES, finish, upsample


def reference(nodes_KHW, node_px):
    """Every class at every pixel, float64; the last node's row and column belong to the next cell."""
    rows, cols = nodes_KHW.shape[1] - 1, nodes_KHW.shape[2] - 1
    size = (rows * node_px + 1, cols * node_px + 1)
    full = F.interpolate(nodes_KHW[None].double(), size=size, mode="bilinear", align_corners=True)[0]
    return full[:, :-1, :-1]


def probabilities(kind, num_classes, rows, cols, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if kind == "noise":
        logits = 3 * torch.randn((num_classes, rows, cols), generator=generator)
    else:
        coarse = torch.randn((1, num_classes, 3, 4), generator=generator)
        logits = 6 * F.interpolate(coarse, size=(rows, cols), mode="bicubic", align_corners=True)[0]
    return logits.softmax(dim=0)


def assert_finished(classes, confidence, full):
    best = full.max(dim=0).values
    chosen = full.gather(0, classes[None].long())[0]
    # The class is the winner, or level with it to rounding.
    assert (best - chosen).max() < 1e-6
    ordered = full.sort(dim=0, descending=True).values
    clear = ordered[0] - ordered[1] > 1e-6 if len(full) > 1 else torch.ones_like(best, dtype=torch.bool)
    assert torch.equal(classes.long()[clear], full.argmax(dim=0)[clear])
    assert clear.double().mean() > 0.99
    assert (confidence.double() - 254 * best).abs().max() <= 0.5 + 1e-3


@pytest.mark.parametrize("kind", ["noise", "smooth"])
@pytest.mark.parametrize("num_classes", [1, 2, 21, 300])
@pytest.mark.parametrize("node_px", [1, 2, 4])
def test_classes_and_confidence_are_those_of_full_upsampling(kind, num_classes, node_px):
    nodes_KHW = probabilities(kind, num_classes, 34, 41)
    dtype = torch.uint8 if num_classes < 256 else torch.int32
    classes, confidence = finish(nodes_KHW, node_px=node_px, class_dtype=dtype)
    assert classes.dtype == dtype
    assert classes.shape == confidence.shape == (33 * node_px, 40 * node_px)
    assert_finished(classes, confidence, reference(nodes_KHW, node_px))


@pytest.mark.parametrize("rows", [STRIP_NODES, STRIP_NODES + 1, STRIP_NODES + 2, 2 * STRIP_NODES + 7])
def test_strips_meet_without_a_trace(rows):
    nodes_KHW = probabilities("noise", 5, rows, 9)
    classes, confidence = finish(nodes_KHW, node_px=4, class_dtype=torch.uint8)
    assert_finished(classes, confidence, reference(nodes_KHW, 4))


@pytest.mark.parametrize("rows", [2, 3])
def test_one_cell_is_enough(rows):
    nodes_KHW = probabilities("noise", 3, rows, 2)
    classes, confidence = finish(nodes_KHW, node_px=4, class_dtype=torch.uint8)
    assert classes.shape == (4 * (rows - 1), 4)
    assert_finished(classes, confidence, reference(nodes_KHW, 4))


def test_no_cell_gives_no_pixel():
    classes, confidence = finish(torch.rand(3, 1, 5), node_px=4, class_dtype=torch.uint8)
    assert classes.shape == confidence.shape == (0, 16)


def test_a_winner_inside_a_cell_that_wins_at_no_corner_is_found():
    """The middling class at every corner of a cell is best in its middle."""
    nodes_KHW = torch.tensor(
        [[[0.55, 0.05], [0.05, 0.55]], [[0.05, 0.55], [0.55, 0.05]], [[0.40, 0.40], [0.40, 0.40]]]
    )
    classes, confidence = finish(nodes_KHW, node_px=4, class_dtype=torch.uint8)
    assert classes[2, 2] == 2
    assert confidence[2, 2] == round(0.4 * 254)
    assert classes[0, 0] == 0


def test_the_first_of_level_classes_wins_everywhere():
    nodes_KHW = torch.full((4, 70, 6), 0.25)
    classes, confidence = finish(nodes_KHW, node_px=4, class_dtype=torch.uint8)
    assert (classes == 0).all()
    assert (confidence == 64).all()  # 63.5, rounded half up


@pytest.mark.parametrize("agree", [True, False])
def test_certainty_never_looks_like_nodata(agree):
    """A weighted mean of ones may exceed one by a rounding; 255 means that nothing is known."""
    nodes_KHW = torch.zeros((2, 5, 5))
    winner = torch.zeros((5, 5), dtype=torch.long) if agree else torch.arange(25).view(5, 5) % 2
    nodes_KHW.scatter_(0, winner[None], 1.0 + 4 * torch.finfo(torch.float32).eps)
    _, confidence = finish(nodes_KHW, node_px=4, class_dtype=torch.uint8)
    assert confidence.max() == 254


def test_the_input_is_left_as_it_was():
    nodes_KHW = probabilities("noise", 3, 20, 20)
    before = nodes_KHW.clone()
    finish(nodes_KHW, node_px=4, class_dtype=torch.uint8)
    upsample(nodes_KHW, 4)
    assert torch.equal(nodes_KHW, before)


def test_nodes_need_not_lie_side_by_side_in_memory():
    nodes_KHW = probabilities("noise", 3, 20, 26)
    view = nodes_KHW.permute(1, 2, 0).contiguous().permute(2, 0, 1)[:, 1:-2, 3:]
    assert not view.is_contiguous()
    for one, other in zip(
        finish(view, node_px=4, class_dtype=torch.uint8),
        finish(view.contiguous(), node_px=4, class_dtype=torch.uint8),
        strict=True,
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("node_px", [1, 2, 4, 8])
def test_upsampling_is_torchs_own(node_px):
    nodes_KHW = probabilities("noise", 3, 13, 17)
    torch.testing.assert_close(
        upsample(nodes_KHW, node_px).double(), reference(nodes_KHW, node_px), atol=1e-6, rtol=0
    )
