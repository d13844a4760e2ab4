"""Batch normalisation frozen at its running statistics, for small batches and fine-tuning."""

from typing import Self

from timm.layers.norm_act import BatchNormAct2d, SyncBatchNormAct
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm2d that stays in eval mode, whatever `train()` the model is told."""

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002 - the signature is nn.Module's
        """Stay in eval mode.

        Args:
            mode: Ignored.
        """
        return super().train(False)


class FrozenBatchNormAct2d(BatchNormAct2d):
    """The same for timm's normalisation with an activation of its own."""

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002 - the signature is nn.Module's
        """Stay in eval mode.

        Args:
            mode: Ignored.
        """
        return super().train(False)


def freeze_batchnorm(model: nn.Module, *, train_affine: bool = False) -> nn.Module:
    """Freeze the statistics of every batch normalisation, in place, and return the model.

    State-dict keys, parameters and hooks stay what they were.

    Args:
        model: Model to freeze.
        train_affine: Whether gamma and beta still learn, as with TF's `fine_tune_batch_norm=False`.
    """
    norms = {path: module for path, module in model.named_modules() if isinstance(module, _BatchNorm)}
    for path, norm in norms.items():
        if not isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm):
            raise TypeError(
                "batch normalisation to freeze must be BatchNorm2d or a layer made of it, "
                f"got {type(norm).__name__} at {path or 'the root'!r}; replace the layer"
            )
    without_statistics = [path for path, norm in norms.items() if norm.running_mean is None]
    if without_statistics:
        raise ValueError(
            "batch normalisation must have running statistics to be frozen, "
            f"got none in {without_statistics}; build these layers with track_running_stats=True"
        )
    for norm in norms.values():
        has_activation = isinstance(norm, BatchNormAct2d | SyncBatchNormAct)
        # The frozen classes add no state, so that an instance may change class where it stands.
        norm.__class__ = FrozenBatchNormAct2d if has_activation else FrozenBatchNorm2d
        norm.eval()
        for parameter in norm.parameters(recurse=False):
            parameter.requires_grad_(train_affine)
    return model
