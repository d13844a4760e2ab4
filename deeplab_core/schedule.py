"""DeepLab's learning rate: a polynomial decay with a linear warm-up."""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def poly_factor(
    step: int,
    total: int,
    power: float = 0.9,
    warmup_steps: int = 0,
    warmup_factor: float = 0.001,
    end_factor: float = 0.0,
) -> float:
    """Return the factor of the base learning rate at a step.

    The warm-up multiplies the decay, it does not delay it: after `warmup_steps` the curve is the one of a run
    without warm-up.

    Args:
        step: Optimiser steps done so far; from `total` on the factor is `end_factor`.
        total: Steps of the whole run.
        power: Exponent of the decay.
        warmup_steps: Steps over which the multiplier of the warm-up rises linearly to 1.
        warmup_factor: Multiplier of the warm-up at step 0.
        end_factor: Factor at the end of the run.
    """
    if step < 0 or total < 1 or not 0 <= warmup_steps <= total:
        raise ValueError(
            "a schedule must have step ≥ 0, total ≥ 1 and 0 ≤ warmup_steps ≤ total, "
            f"got step {step}, total {total}, warmup_steps {warmup_steps}; correct the training settings"
        )
    remaining = max(0.0, 1.0 - step / total)
    decay = end_factor + (1.0 - end_factor) * remaining**power
    if step >= warmup_steps:
        return decay
    return decay * (warmup_factor + (1.0 - warmup_factor) * step / warmup_steps)


class PolySchedule(LambdaLR):
    """`poly_factor` as a torch scheduler: call `step()` after every optimiser step.

    Each parameter group keeps its own base rate. The state holds the position and the base rates; the shape
    of the curve comes from the arguments, so that a resumed run may be given a new length.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        total_steps: int,
        power: float = 0.9,
        warmup_steps: int = 0,
        warmup_factor: float = 0.001,
        end_factor: float = 0.0,
    ) -> None:
        def factor(step: int) -> float:
            return poly_factor(step, total_steps, power, warmup_steps, warmup_factor, end_factor)

        super().__init__(optimizer, factor)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state, with the optimiser's rates set to it.

        Building a scheduler resets the rates to step 0, and torch leaves them there until the next `step()`:
        the first step after a resume would run at the wrong rate if the optimiser was restored before.

        Args:
            state_dict: What `state_dict()` returned.
        """
        super().load_state_dict(state_dict)
        for group, base_lr, factor in zip(
            self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True
        ):
            group["lr"] = base_lr * factor(self.last_epoch)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
