"""Batch normalisation over the batches of all processes, exact on any device and backend.

torch's own SyncBatchNorm refuses CPU tensors in training as soon as a process group exists. The classes here
gather count, mean and sum of squared deviations of every process and combine them (Chan et al. 1979), so that
unequal and empty local batches weigh what they hold. Parameters and buffers are BatchNorm2d's.

Every process must run the same number of training forwards and backwards; a process without data takes part
with an empty batch. Gradients of gamma and beta stay local, to be averaged by DistributedDataParallel.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct
from timm.layers.norm_act import convert_sync_batchnorm as convert_to_native
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from deeplab_core.freeze_bn import FrozenBatchNorm2d, FrozenBatchNormAct2d

_PIXELS = (0, 2, 3)


class GatheredBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of all processes together."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Module's name
        """Normalise; alone, in eval mode or without a process group exactly as BatchNorm2d.

        Args:
            input: Activations, N×C×H×W.
        """
        return _normalise_over_processes(self, input) if _synchronises(self) else super().forward(input)


class GatheredBatchNormAct2d(BatchNormAct2d):
    """The same for timm's normalisation with an activation of its own."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, then drop and activate.

        Args:
            x: Activations, N×C×H×W.
        """
        if not _synchronises(self):
            return super().forward(x)
        return self.act(self.drop(_normalise_over_processes(self, x)))


def convert_sync_batchnorm(model: nn.Module) -> nn.Module:
    """Make every batch normalisation of a model synchronise, and return the model.

    Layers on CUDA become torch's native ones, all others the ones of this file. Frozen layers stay frozen.
    Convert before the optimiser is made and before DistributedDataParallel wraps the model.

    Args:
        model: Model to convert, changed in place; only a model that is itself a layer on CUDA is replaced.
    """
    converted: dict[nn.Module, nn.Module] = {}  # a layer used in two places stays one layer
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if not isinstance(module, _BatchNorm) or isinstance(module, FrozenBatchNorm2d | FrozenBatchNormAct2d):
            continue
        if module not in converted:
            converted[module] = _convert_layer(path, module)
        if path and converted[module] is not module:
            model.set_submodule(path, converted[module])
    return converted.get(model, model)


def _convert_layer(path: str, norm: _BatchNorm) -> nn.Module:
    kinds: dict[type[nn.Module], type[_BatchNorm]] = {
        nn.BatchNorm2d: GatheredBatchNorm2d,
        nn.SyncBatchNorm: GatheredBatchNorm2d,
        BatchNormAct2d: GatheredBatchNormAct2d,
        SyncBatchNormAct: GatheredBatchNormAct2d,
    }
    kinds |= {kind: kind for kind in kinds.values()}
    if type(norm) not in kinds:
        raise TypeError(
            "batch normalisation to synchronise must be BatchNorm2d or timm's BatchNormAct2d, "
            f"got {type(norm).__name__} at {path or 'the root'!r}; replace the layer or train on one process"
        )
    if _is_on_cuda(norm):
        return norm if isinstance(norm, nn.SyncBatchNorm) else convert_to_native(norm)
    # These classes add no state, so that an instance may change class where it stands, hooks and all.
    norm.__class__ = kinds[type(norm)]
    return norm


def _is_on_cuda(norm: _BatchNorm) -> bool:
    return any(tensor.is_cuda for tensor in (*norm.parameters(), *norm.buffers()))


def _synchronises(norm: _BatchNorm) -> bool:
    return norm.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@torch.compiler.disable  # collectives and the host's count do not belong into a graph
def _normalise_over_processes(norm: _BatchNorm, inputs_NCHW: Tensor) -> Tensor:
    """Normalise with the statistics of all processes and update the running ones as BatchNorm2d does."""
    outputs_NCHW, mean_C, var_C, count = _NormaliseOverProcesses.apply(
        inputs_NCHW, norm.weight, norm.bias, norm.eps
    )
    running_mean_C, running_var_C, batches = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if count and running_mean_C is not None and running_var_C is not None and batches is not None:
        batches.add_(1)
        momentum = 1 / int(batches) if norm.momentum is None else norm.momentum
        unbiased_C = var_C * (count / (count - 1))
        running_mean_C.lerp_(mean_C.to(running_mean_C.dtype), momentum)
        running_var_C.lerp_(unbiased_C.to(running_var_C.dtype), momentum)
    return outputs_NCHW


def _combined_moments(inputs_NCHW: Tensor) -> tuple[Tensor, Tensor, int]:
    """Mean, biased variance (float64) and count per channel over all processes, the same bits on each."""
    channels = inputs_NCHW.shape[1]
    count = inputs_NCHW.numel() // channels
    local = inputs_NCHW.new_zeros(2 * channels + 1, dtype=torch.float64)
    if count:
        # Two passes: sums of squares would cancel, and torch.var_mean is ten times slower on CPU. What the
        # mean lost to rounding, much for values far from zero, is the mean of the differences from it.
        rounded_C = inputs_NCHW.mean(dim=_PIXELS)
        differences = inputs_NCHW - rounded_C[:, None, None]
        lost_C = differences.mean(dim=_PIXELS).double()
        deviations_C = differences.square_().sum(dim=_PIXELS).double() - count * lost_C.square()
        local = torch.cat([rounded_C.double() + lost_C, deviations_C, local.new_tensor([count])])
    gathered = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, local)
    means_RC, deviations_RC, counts_R1 = torch.stack(gathered).split([channels, channels, 1], dim=1)
    total = int(counts_R1.sum())
    if total == 1:
        raise ValueError(
            "batch normalisation in training must see more than one value per channel over all processes, "
            f"got 1 (local input {tuple(inputs_NCHW.shape)}); enlarge the batch or freeze the normalisation"
        )
    mean_C = (counts_R1 * means_RC).sum(dim=0) / max(1, total)
    deviations_C = deviations_RC.sum(dim=0) + (counts_R1 * (means_RC - mean_C).square()).sum(dim=0)
    return mean_C, deviations_C / max(1, total), total


class _NormaliseOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch types no context
        inputs_NCHW: Tensor,
        weight_C: Tensor | None,
        bias_C: Tensor | None,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        mean_C, var_C, count = _combined_moments(_at_least_float32(inputs_NCHW))
        dtype = _at_least_float32(inputs_NCHW).dtype
        ctx.save_for_backward(inputs_NCHW, weight_C, mean_C.to(dtype), (var_C + eps).rsqrt().to(dtype))
        ctx.count = count
        if inputs_NCHW.numel():
            outputs_NCHW = F.batch_norm(
                inputs_NCHW, mean_C.to(dtype), var_C.to(dtype), weight_C, bias_C, training=False, eps=eps
            )
        else:
            outputs_NCHW = torch.empty_like(inputs_NCHW)
        ctx.mark_non_differentiable(mean_C, var_C)
        return outputs_NCHW, mean_C, var_C, count

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401 - torch types no context
        grad_NCHW: Tensor,
        *_statistics: None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Gradients as if the batch of all processes had been one.

        With x̂ the normalised input, the mean over the whole batch of g and of g·x̂ flow back through the
        shared mean and variance: dx = gamma/σ · (g − mean(g) − x̂·mean(g·x̂)).
        """
        inputs_NCHW, weight_C, mean_C, invstd_C = ctx.saved_tensors
        grad = _at_least_float32(grad_NCHW)
        normed = (_at_least_float32(inputs_NCHW) - mean_C[:, None, None]).mul_(invstd_C[:, None, None])
        grad_bias_C = grad.sum(dim=_PIXELS)
        grad_weight_C = (grad * normed).sum(dim=_PIXELS)
        grad_inputs = None
        if ctx.needs_input_grad[0]:
            sums = torch.stack([grad_bias_C, grad_weight_C])
            dist.all_reduce(sums)  # also by a process without data: the others wait for it
            mean_grad_C, mean_product_C = (sums / max(1, ctx.count)).unbind()
            scale_C = invstd_C if weight_C is None else invstd_C * weight_C
            grad_inputs = normed.mul_(mean_product_C[:, None, None]).add_(mean_grad_C[:, None, None])
            grad_inputs = torch.sub(grad, grad_inputs).mul_(scale_C[:, None, None]).to(inputs_NCHW.dtype)
        if weight_C is None:
            return grad_inputs, None, None, None
        return grad_inputs, grad_weight_C.to(weight_C.dtype), grad_bias_C.to(weight_C.dtype), None


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
