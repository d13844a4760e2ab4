"""The moving average against a loop over numbers."""

import numpy as np
import pytest
import torch

from pipeline.train.steps.ema import MovingAverage
from tests.deeplab_core.tiny_segmenter import TinySegmenter


def test_it_is_the_average_that_a_loop_over_numbers_gives():
    model = TinySegmenter().train()
    average = MovingAverage(model, decay=0.6)
    expected = {name: value.double().numpy() for name, value in model.state_dict().items()}
    for step in range(8):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model.lattice(torch.randn(2, 3, 33, 33))  # moves the running statistics
        average.update(model, step)
        decay = min(0.6, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value.double().numpy()
    for name, value in average.model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert int(value) == 8
        else:
            np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_it_neither_learns_nor_follows_the_mode_of_the_model():
    model = TinySegmenter().train()
    average = MovingAverage(model, decay=0.9)
    assert not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    before = average.model.logits.weight.clone()
    with torch.no_grad():
        model.logits.weight.zero_()
    assert torch.equal(average.model.logits.weight, before), "it is a copy"
    assert model.training


def test_a_long_average_forgets_where_it_started():
    """Without a warm-up, an average of decay 0.999 would still be the random start after 200 steps."""
    model = TinySegmenter()
    average = MovingAverage(model, decay=0.999)
    with torch.no_grad():
        model.logits.bias.fill_(5.0)
    for step in range(200):
        average.update(model, step)
    assert average.model.logits.bias.mean().item() == pytest.approx(5.0, abs=0.05)
