"""What a model's values look like on real crops: what it takes to compute in 8 bits.

Eight bits hold 256 steps, so each convolution must know beforehand between which values its inputs lie; and
rounding its weights shifts its results by a mean that is known once the mean of its inputs is. Both are
measured once (`calibrate.py`), kept with the weights, and read here. No torch.compile, no second network.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_PREFIX = "calibration."
"""Of the tensors that stand beside the weights in `model.safetensors`."""


@dataclass(frozen=True)
class Statistics:
    """Of all values that one tensor of the network took.

    Attributes:
        low: The smallest, or 0 if that is smaller: padding must be exact.
        high: The largest, or 0.
        mean_C: Mean of each channel.
    """

    low: float
    high: float
    mean_C: Tensor


@dataclass(frozen=True)
class Calibration:
    """Statistics of a network whose norms are folded.

    Attributes:
        inputs: Of what convolutions are given, by their module paths. Those that are not named are too
            delicate or too small for 8 bits and stay as they are.
        results: Of what residual blocks and their shortcuts give, by module path.
    """

    inputs: Mapping[str, Statistics]
    results: Mapping[str, Statistics]

    def to_tensors(self) -> dict[str, Tensor]:
        """Gives named tensors, to be stored beside the weights."""
        tensors = {}
        for kind, group in (("inputs", self.inputs), ("results", self.results)):
            for path, found in group.items():
                name = f"{_PREFIX}{kind}.{path}"
                tensors[f"{name}.range"] = torch.tensor([found.low, found.high], dtype=torch.float32)
                tensors[f"{name}.mean"] = found.mean_C.to(torch.float32).contiguous()
        return tensors


def split_calibration(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Calibration | None]:
    """Parts what a checkpoint holds into the weights and the calibration, if there is one.

    Args:
        tensors: All of `model.safetensors`.

    Returns:
        The weights, and the calibration.

    Raises:
        ValueError: A part of the calibration is missing or not finite.
    """
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(_PREFIX)}
    rest = {name.removeprefix(_PREFIX): tensors[name] for name in sorted(tensors.keys() - weights.keys())}
    if not rest:
        return weights, None
    groups: dict[str, dict[str, Statistics]] = {"inputs": {}, "results": {}}
    for name in rest:
        kind, _, path = name.rpartition(".")[0].partition(".")
        if kind not in groups:
            raise ValueError(f"calibration must be of inputs or results, got {name}")
        groups[kind][path] = _statistics(rest, f"{kind}.{path}")
    return weights, Calibration(groups["inputs"], groups["results"])


def _statistics(tensors: Mapping[str, Tensor], name: str) -> Statistics:
    bounds, mean_C = tensors.get(f"{name}.range"), tensors.get(f"{name}.mean")
    if bounds is None or mean_C is None or bounds.shape != (2,) or mean_C.ndim != 1:
        raise ValueError(
            f"calibration must give two bounds and the means of {name}; calibrate the model anew"
        )
    low, high = bounds.tolist()
    if not (low <= 0.0 <= high and torch.isfinite(bounds).all() and torch.isfinite(mean_C).all()):
        raise ValueError(f"calibration of {name} must be finite and hold 0, got {low} to {high}")
    return Statistics(low, high, mean_C)
