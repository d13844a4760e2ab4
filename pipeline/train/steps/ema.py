"""A moving average of a model over its training: smoother than the last step, at no cost to it."""

import copy

import torch

from deeplab_core.segmenter import Segmenter

WARM_UP = 10
"""The average of the first steps is short: after n steps it reaches back over about n / 10 of them."""


class MovingAverage:
    """Averages parameters and running statistics.

    Args:
        model: The model that learns; the average starts as a copy of it.
        decay: Share of the average that a step keeps, once warm.
    """

    def __init__(self, model: Segmenter, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: Segmenter, step: int) -> None:
        """Take in the model after a step.

        Args:
            model: The model that learns.
            step: Steps done.
        """
        decay = min(self._decay, (1 + step) / (WARM_UP + step))
        averaged, learnt = self.model.state_dict(), model.state_dict()
        floating = [name for name, value in averaged.items() if value.is_floating_point()]
        torch._foreach_lerp_(  # one call instead of hundreds
            [averaged[name] for name in floating], [learnt[name] for name in floating], 1 - decay
        )
        for name in averaged.keys() - set(floating):  # counters
            averaged[name].copy_(learnt[name])
