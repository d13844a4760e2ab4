"""What each convolution of a network is given."""

import torch
from torch import Tensor, nn

from deeplab_core.segmenter import Segmenter


def input_shapes(model: Segmenter, example_NCHW: Tensor) -> dict[str, torch.Size]:
    """Runs a model once and notes the shape of each convolution's input, by module path.

    Args:
        model: The model.
        example_NCHW: Crops as it will be given.
    """
    shapes: dict[str, torch.Size] = {}

    def watch(path: str, conv: nn.Conv2d) -> torch.utils.hooks.RemovableHandle:
        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            shapes[path] = inputs[0].shape

        return conv.register_forward_pre_hook(note)

    hooks = [watch(path, part) for path, part in model.named_modules() if isinstance(part, nn.Conv2d)]
    try:
        model.lattice(example_NCHW)
    finally:
        for hook in hooks:
            hook.remove()
    return shapes
