"""Softmax over classes whose bits do not depend on where in an array a pixel lies.

torch's own softmax, and its sums over many channels, round differently at the end of a row, where no whole
vector is left to compute: tiles would differ from the whole image, and a crop's result from one batch to the
next, in the last bit.
"""

from torch import Tensor


def softmax(scores_NKHW: Tensor) -> Tensor:
    """Softmax over the second dimension.

    Args:
        scores_NKHW: Any scores.

    Returns:
        A new tensor.
    """
    powers_NKHW = (scores_NKHW - scores_NKHW.amax(dim=1, keepdim=True)).exp_()
    total_NHW = powers_NKHW[:, 0].clone()
    for powers_NHW in powers_NKHW[:, 1:].unbind(dim=1):
        total_NHW.add_(powers_NHW)
    return powers_NKHW.div_(total_NHW[:, None])
