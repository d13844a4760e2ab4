"""Batch norm folded into the convolution before it, for inference.

Which pairs belong together is observed on one forward pass, not guessed from names: a norm is folded if its
input is the very tensor that one convolution gave and nothing else used, and if that convolution ran on its
stored weights as they are. So the graphs of other libraries fold as well as ours; a norm before its
convolution never does, nor one after standardised weights.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Folding:
    """What folding did.

    Attributes:
        folded: Norms that are now part of a convolution, by module path.
        left: Norms that the forward pass still runs.
    """

    folded: tuple[str, ...]
    left: tuple[str, ...]


def fold_batchnorm(model: nn.Module, run: Callable[[], object]) -> Folding:
    """Folds every batch norm that directly follows a convolution, in place.

    New weights are computed in float64 and rounded once.

    Args:
        model: Model in eval mode and float32.
        run: Runs a forward pass of it, on any input.

    Returns:
        What was folded and what is left.
    """
    seen = _observe(model, run)
    folded: list[str] = []
    for norm_path, conv_path in seen.pairs.items():
        conv, norm = model.get_submodule(conv_path), model.get_submodule(norm_path)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, _BatchNorm):
            _fold(conv, norm)
            model.set_submodule(norm_path, _activation_of(norm))
            folded.append(norm_path)
    return Folding(tuple(folded), tuple(path for path in seen.norms if path not in folded))


@dataclass
class _Observed:
    """What one forward pass showed.

    Attributes:
        norms: Norms in the order they ran.
        pairs: Path of each norm that can be folded, with its convolution's.
    """

    norms: tuple[str, ...] = ()
    pairs: dict[str, str] = field(default_factory=dict)


class _Uses(TorchFunctionMode):
    """Counts how often each watched tensor enters an operation that makes or changes tensors.

    Attributes:
        watched: The tensors by identity; held, so that none is used twice.
        count: How often each was used.
        last_conv: Result and weight of the latest convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.watched: dict[int, Tensor] = {}
        self.count: Counter[int] = Counter()
        self.last_conv: tuple[object, object] = (None, None)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function gives
        result = func(*args, **(kwargs or {}))
        # Asking for a shape or a type returns something else than a tensor and is no use.
        if result is None or next(_tensors(result), None) is not None:
            used = {id(tensor) for tensor in _tensors([args, kwargs])}
            self.count.update(used & self.watched.keys())
        if func is F.conv2d:
            self.last_conv = (result, args[1] if len(args) > 1 else (kwargs or {}).get("weight"))
        return result


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _observe(model: nn.Module, run: Callable[[], object]) -> _Observed:
    uses = _Uses()
    calls: Counter[str] = Counter()
    conv_of: dict[int, str] = {}  # by the tensor it gave
    input_of: dict[str, int] = {}  # by norm, if its input came from a watched convolution
    norms: list[str] = []

    def after_conv(path: str, conv: nn.Conv2d, output: Tensor) -> None:
        calls[path] += 1
        result, weight = uses.last_conv
        # Other weights than the stored ones, standardised ones say, would undo the folding.
        if result is output and weight is conv.weight:
            conv_of[id(output)] = path
            uses.watched[id(output)] = output

    def before_norm(path: str, value: Tensor) -> None:
        calls[path] += 1
        norms.append(path)
        if id(value) in uses.watched:
            input_of[path] = id(value)

    handles = []
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(
                module.register_forward_hook(lambda m, _i, out, path=path: after_conv(path, m, out))
            )
        elif isinstance(module, _BatchNorm):
            handles.append(module.register_forward_pre_hook(lambda _m, i, path=path: before_norm(path, i[0])))
    try:
        with uses, torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    pairs = {
        path: conv_of[identity]
        for path, identity in input_of.items()
        if calls[path] == calls[conv_of[identity]] == uses.count[identity] == 1
        and _is_fixed(model.get_submodule(path))
    }
    return _Observed(tuple(dict.fromkeys(norms)), pairs)


def _is_fixed(norm: nn.Module) -> bool:
    return isinstance(norm, _BatchNorm) and not norm.training and norm.running_mean is not None


def _fold(conv: nn.Conv2d, norm: _BatchNorm) -> None:
    assert norm.running_mean is not None  # noqa: S101 - only fixed norms come here
    assert norm.running_var is not None  # noqa: S101
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    bias = -mean if conv.bias is None else conv.bias.double() - mean
    bias = bias * scale
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    weight = conv.weight.double() * scale[:, None, None, None]
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(dtype), requires_grad=False)


def _activation_of(norm: nn.Module) -> nn.Module:
    """What remains of a norm once its arithmetic is gone: timm's carry the activation."""
    if not isinstance(norm, BatchNormAct2d | SyncBatchNormAct):
        return nn.Identity()
    activation: nn.Module = norm.get_submodule("act")
    return activation
