"""Softmax over classes whose bits do not depend on where in an array a pixel lies.

torch's own softmax, and its sums over many channels, round differently at the end of a row, where no whole
vector is left to compute: tiles would differ from the whole image, and a crop's result from one batch to the
next, in the last bit.
"""

from torch import Tensor


def softmax_(scores_NKHW: Tensor) -> Tensor:
    """Softmax over the second dimension, in place.

    Args:
        scores_NKHW: Any scores; overwritten by their softmax.

    Returns:
        The same tensor.
    """
    scores_NKHW.sub_(scores_NKHW.amax(dim=1, keepdim=True)).exp_()
    total_NHW = scores_NKHW[:, 0].clone()
    for scores_NHW in scores_NKHW[:, 1:].unbind(dim=1):
        total_NHW.add_(scores_NHW)
    return scores_NKHW.div_(total_NHW[:, None])
