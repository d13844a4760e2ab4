"""Number formats of training: the forward pass in few bits, weights and losses in float32."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch.amp.grad_scaler import GradScaler

from deeplab_core.prepare import computes_in_bf16

Precision = Literal["fp32", "bf16", "fp16"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(choice: Literal["auto"] | Precision, device: torch.device) -> Precision:
    """What "auto" means on a device: bf16 where it computes in it, else float32.

    Args:
        choice: The setting.
        device: Where it runs.
    """
    if choice != "auto":
        return choice
    return "bf16" if computes_in_bf16(device) else "fp32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass.

    Args:
        precision: Number format.
        device: Where it runs.
    """
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])


def make_scaler(precision: Precision, device: torch.device) -> GradScaler:
    """A scaler that keeps gradients of float16 from vanishing; it does nothing in the other formats.

    Args:
        precision: Number format.
        device: Where it runs.
    """
    return GradScaler(device.type, enabled=precision == "fp16")


def choose_device(gpus_per_worker: float) -> torch.device:
    """Where this process computes when training is over.

    Args:
        gpus_per_worker: GPUs that each worker takes.
    """
    return torch.device("cuda" if gpus_per_worker and torch.cuda.is_available() else "cpu")
