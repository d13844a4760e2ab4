"""The losses themselves, over valid pixels only: P of them, K classes.

Every one is exactly 0 over no pixel at all, with zero gradients.
"""

import torch
from torch import Tensor


def cross_entropy_per_pixel(
    log_probabilities_KP: Tensor, labels_P: Tensor, class_weights_K: Tensor | None = None
) -> Tensor:
    """Return the cross-entropy of every pixel, times the weight of its class.

    Args:
        log_probabilities_KP: Logarithms of the class probabilities.
        labels_P: True classes.
        class_weights_K: Weights of the classes; none counts every class alike.
    """
    losses_P = -log_probabilities_KP.gather(0, labels_P[None])[0]
    return losses_P if class_weights_K is None else losses_P * class_weights_K[labels_P]


def mean_of_hardest(losses_P: Tensor, percent: float) -> Tensor:
    """Return the mean of the largest losses: `percent` of them, at least one.

    The share and the mean are both of valid pixels. TF takes the share of all pixels, and detectron2 lets the
    zeros of ignored pixels into the selection, so that there the threshold moves with the amount of nodata.

    Args:
        losses_P: Losses of the valid pixels.
        percent: Share to keep, above 0 and at most 100.
    """
    if percent < 100 and len(losses_P):
        losses_P = losses_P.topk(max(1, int(percent * len(losses_P) / 100)), sorted=False).values
    return mean_or_zero(losses_P)


def focal_loss(
    log_probabilities_KP: Tensor, labels_P: Tensor, gamma: float, class_weights_K: Tensor | None = None
) -> Tensor:
    """Return the mean of (1 − p)^gamma · cross-entropy, p being the probability of the true class.

    Args:
        log_probabilities_KP: Logarithms of the class probabilities.
        labels_P: True classes.
        gamma: Focusing exponent; 0 is plain cross-entropy.
        class_weights_K: Weights of the classes; none counts every class alike.
    """
    losses_P = cross_entropy_per_pixel(log_probabilities_KP, labels_P)
    # 1 − p without cancellation; the floor keeps the gradient of a power below one finite at p = 1.
    missing_P = (-torch.expm1(-losses_P)).clamp_min(1e-12)
    if class_weights_K is not None:
        losses_P = losses_P * class_weights_K[labels_P]
    return mean_or_zero(missing_P**gamma * losses_P)


def dice_loss(probabilities_KP: Tensor, labels_P: Tensor) -> Tensor:
    """Return 1 − Dice over the whole batch, as a mean over the classes that its labels hold.

    A class without pixels has no Dice: counting it would reward or punish what the batch cannot tell.

    Args:
        probabilities_KP: Class probabilities.
        labels_P: True classes.
    """
    num_classes = len(probabilities_KP)
    pixels_K = torch.bincount(labels_P, minlength=num_classes)
    own_P = probabilities_KP.gather(0, labels_P[None])[0]
    # In float64: adding pixels one by one to a float32 sum stalls at 16.7 million of them.
    overlaps_K = own_P.new_zeros(num_classes, dtype=torch.float64).index_add(0, labels_P, own_P.double())
    sizes_K = probabilities_KP.sum(dim=1) + pixels_K
    present_K = pixels_K > 0
    return mean_or_zero(1 - 2 * overlaps_K[present_K].to(own_P.dtype) / sizes_K[present_K])


def lovasz_softmax_loss(probabilities_KP: Tensor, labels_P: Tensor) -> Tensor:
    """Return the Lovász extension of 1 − IoU over the whole batch, as a mean over its labels' classes.

    Args:
        probabilities_KP: Class probabilities.
        labels_P: True classes.
    """
    losses = []
    for label in labels_P.unique().tolist():
        truth_P = labels_P == label
        errors_P = torch.where(truth_P, 1 - probabilities_KP[label], probabilities_KP[label])
        errors_P, order_P = errors_P.sort(descending=True)
        losses.append(errors_P @ _jaccard_steps(truth_P[order_P]).to(errors_P.dtype))
    return mean_or_zero(torch.stack(losses)) if losses else probabilities_KP.sum()


def _jaccard_steps(truth_P: Tensor) -> Tensor:
    """How much each pixel adds to 1 − IoU when pixels turn wrong in this order.

    In closed form: differences of neighbouring values of 1 − IoU would drown in rounding for large images.
    A pixel of the class takes one from the intersection, any other adds one to the union.
    """
    intersection_P = truth_P.sum() - truth_P.cumsum(0)
    union_P = truth_P.sum() + (~truth_P).cumsum(0)
    return torch.where(truth_P, 1.0, intersection_P / (union_P - 1).clamp_min(1).double()) / union_P.double()


def mean_or_zero(values: Tensor) -> Tensor:
    """Return the mean, and for no values 0 with a gradient path.

    Args:
        values: Any number of values.
    """
    return values.sum() / max(1, values.numel())
