"""One optimiser step: forward and backward over the parts of a batch, exchange, clip, move.

However many workers share a batch, and however unequally, its gradient is that of the mean over all its valid
pixels: each part's mean loss counts for the share of the step's valid pixels that it has. A worker without
samples takes part with an empty batch, for the others wait for its statistics and gradients. The sums are
exact for losses that are means over pixels (cross-entropy, focal); Dice, Lovász and mined pixels are formed
over each worker's own part, and their shares of the batch averaged.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from deeplab_core.losses import SegmentationLoss
from deeplab_core.segmenter import Segmenter
from pipeline.train.clock import Clock
from pipeline.train.samples.batches import Batch
from pipeline.train.steps.precision import Precision, autocast, make_scaler
from pipeline.train.tiles.tile_reader import IGNORE


class TrainingStep:
    """Moves a model's weights by one step at a time.

    Args:
        model: The model, on its device.
        loss: What is made small.
        optimizer: What moves the weights.
        device: Where it computes.
        precision: Number format of the forward pass.
        clip_norm: Largest norm of the gradient, or None.
        channels_last: Whether images come with the bands innermost.
        world_size: Number of workers.
        compile_model: Whether the network is compiled.
        clock: Measures where the time goes.
    """

    def __init__(  # noqa: PLR0913 - everything a step depends on, all by name
        self,
        model: Segmenter,
        loss: SegmentationLoss,
        optimizer: Optimizer,
        *,
        device: torch.device,
        precision: Precision,
        clip_norm: float | None,
        channels_last: bool,
        world_size: int,
        compile_model: bool,
        clock: Clock,
    ) -> None:
        self.scaler = make_scaler(precision, device)
        self._loss = loss.to(device)
        self._optimizer = optimizer
        self._device = device
        self._precision = precision
        self._clip_norm = clip_norm
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._world_size = world_size
        self._clock = clock
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        needs_auxiliary = model.config.aux_head and bool(loss.config.auxiliary)
        self._network: nn.Module = _Network(model, with_auxiliary=needs_auxiliary)
        if compile_model:
            self._network.compile()
        if world_size > 1:
            self._network = DistributedDataParallel(
                self._network,
                device_ids=[device] if device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                find_unused_parameters=model.config.aux_head and not needs_auxiliary,
            )
            self._network.register_comm_hook(clock, _exchange)

    def run(self, parts: Sequence[Batch], step: int) -> Tensor:
        """Take a step; gives this worker's share of the loss, which all workers' shares add up to.

        Args:
            parts: This worker's part of the batch, cut for accumulation.
            step: Steps done so far.
        """
        valid = [int((part.labels_NHW != IGNORE).sum()) for part in parts]
        with self._clock.phase("all_reduce"):
            all_valid = self._sum_over_workers(sum(valid))
        share_of_loss = torch.zeros((), device=self._device)
        for index, (part, pixels) in enumerate(zip(parts, valid, strict=True)):
            is_last = index == len(parts) - 1
            # Gradients add up on each worker and are exchanged once, with the last part.
            with nullcontext() if is_last else self._alone():
                loss = self._forward_and_backward(part, pixels / max(1, all_valid), step)
            share_of_loss += loss
        with self._clock.phase("optimizer"):
            self._move()
        return share_of_loss

    def _forward_and_backward(self, part: Batch, share: float, step: int) -> Tensor:
        with self._clock.phase("forward"):
            images_NCHW = part.images_NCHW.to(self._device, memory_format=self._layout, non_blocking=True)
            labels_NHW = part.labels_NHW.to(self._device, non_blocking=True)
            with autocast(self._precision, self._device):
                logits_NKHW, auxiliary_NKHW = self._network(images_NCHW)
            loss = self._loss(logits_NKHW, labels_NHW, auxiliary_NKHW, step=step) * share
        with self._clock.phase("backward"):
            # Workers' gradients are averaged: times their number, the average is the sum.
            self.scaler.scale(loss * self._world_size).backward()
        return loss.detach()

    def _alone(self) -> AbstractContextManager[None]:
        """Within, gradients stay on their worker."""
        network = self._network
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()

    def _move(self) -> None:
        if self._clip_norm is not None:
            self.scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self.scaler.step(self._optimizer)
        self.scaler.update()
        self._optimizer.zero_grad(set_to_none=True)

    def _sum_over_workers(self, count: int) -> int:
        if self._world_size == 1:
            return count
        total = torch.tensor(count, device=self._device)
        dist.all_reduce(total)
        return int(total)


class _Network(nn.Module):
    """A model whose ``forward`` is what training calls, since DistributedDataParallel wraps that alone."""

    def __init__(self, model: Segmenter, *, with_auxiliary: bool) -> None:
        super().__init__()
        self.model = model
        self._with_auxiliary = with_auxiliary

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        if self._with_auxiliary:
            return self.model.forward_with_aux(images_NCHW)
        return self.model(images_NCHW), None


def _exchange(clock: Clock, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """DistributedDataParallel's own averaging; when the last gradients leave, the clock is told."""
    if bucket.is_last():
        clock.exchange_begins()
    world = dist.group.WORLD
    assert world is not None  # noqa: S101 - gradients are exchanged in a process group only
    return allreduce_hook(world, bucket)
