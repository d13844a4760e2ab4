"""Random models whose every number matters, and how far two results are apart."""

from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def randomised(model: Module, *, seed: int = 0) -> Module:
    """Gives every batch norm statistics and weights of its own (fresh ones are 0 and 1) and sets eval mode.

    Momentum, means or variances that get lost or swapped then change the output.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                layer.running_mean.normal_(std=0.2, generator=generator)
                layer.running_var.uniform_(0.5, 1.5, generator=generator)
                layer.weight.uniform_(0.5, 1.5, generator=generator)
                layer.bias.normal_(std=0.2, generator=generator)
    return model.eval()


def random_images(*shape: int, seed: int = 1) -> Tensor:
    """Gives standard normal images_NCHW."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative_difference(got: Tensor, expected: Tensor) -> float:
    """Gives the largest difference, relative to the largest value expected."""
    assert got.shape == expected.shape
    assert torch.isfinite(got).all()
    scale = expected.abs().max().item()
    assert scale > 0, "a comparison with nothing but zeros would prove nothing"
    return (got - expected).abs().max().item() / scale
