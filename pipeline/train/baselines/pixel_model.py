"""Each pixel by its bands alone: a multinomial logistic regression on the standardised bands.

Whatever a network gains over it, it gains by looking around.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RIDGE = 1e-6
"""Pull towards 0 of the mean loss: without it, classes that are told apart perfectly have no best fit."""

MOST_ROUNDS = 50
TOLERANCE = 1e-8


@dataclass(frozen=True)
class PixelModel:
    """A multinomial logistic regression.

    Attributes:
        mean_C: Of each band, on the tiles.
        std_C: Of each band, on the tiles.
        weights_CK: Of each standardised band, and last of the constant, for every class.
        class_pixels_K: How often each class is among the fitted pixels.
    """

    mean_C: Floats
    std_C: Floats
    weights_CK: Floats
    class_pixels_K: NDArray[np.int64]

    def predict(self, bands_CP: NDArray[Any]) -> NDArray[np.uint8]:
        """The likeliest class of each pixel."""
        weights_CK = self.weights_CK[:-1] / self.std_C[:, None]
        constant_K = self.weights_CK[-1] - self.mean_C @ weights_CK
        scores_KP = weights_CK.T.astype(np.float32) @ bands_CP.astype(np.float32)
        scores_KP += constant_K.astype(np.float32)[:, None]
        return scores_KP.argmax(axis=0).astype(np.uint8)


def fit(bands_CP: NDArray[Any], labels_P: NDArray[np.uint8], *, num_classes: int) -> PixelModel:
    """The best fit, by Newton's method: the loss is convex, so there is one and no chance in it.

    Args:
        bands_CP: Bands of each pixel.
        labels_P: Its class.
        num_classes: Number of classes.
    """
    values_CP = bands_CP.astype(np.float64)
    mean_C, std_C = values_CP.mean(axis=1), np.maximum(values_CP.std(axis=1), 1e-9)
    inputs_PC = np.ones((values_CP.shape[1], len(values_CP) + 1))
    inputs_PC[:, :-1] = ((values_CP - mean_C[:, None]) / std_C[:, None]).T
    weights_CK = np.zeros((inputs_PC.shape[1], num_classes))
    loss = _loss(inputs_PC, labels_P, weights_CK)
    for _ in range(MOST_ROUNDS):
        step_CK = _newton_step(inputs_PC, labels_P, weights_CK)
        share = 1.0
        while (new := _loss(inputs_PC, labels_P, weights_CK - share * step_CK)) > loss and share > TOLERANCE:
            share /= 2
        weights_CK = weights_CK - share * step_CK
        gained, loss = loss - new, new
        if gained < TOLERANCE:
            break
    return PixelModel(mean_C, std_C, weights_CK, np.bincount(labels_P, minlength=num_classes))


def _loss(inputs_PC: Floats, labels_P: NDArray[np.uint8], weights_CK: Floats) -> float:
    scores_PK = inputs_PC @ weights_CK
    highest_P = scores_PK.max(axis=1)
    logsum_P = highest_P + np.log(np.exp(scores_PK - highest_P[:, None]).sum(axis=1))
    right_P = np.take_along_axis(scores_PK, labels_P[:, None].astype(np.intp), axis=1)[:, 0]
    return float((logsum_P - right_P).mean() + RIDGE / 2 * (weights_CK**2).sum())


def _newton_step(inputs_PC: Floats, labels_P: NDArray[np.uint8], weights_CK: Floats) -> Floats:
    """The inverse of the curvature times the slope."""
    scores_PK = inputs_PC @ weights_CK
    shares_PK = np.exp(scores_PK - scores_PK.max(axis=1, keepdims=True))
    shares_PK /= shares_PK.sum(axis=1, keepdims=True)
    num_pixels, channels, classes = len(inputs_PC), *weights_CK.shape
    errors_PK = shares_PK - np.eye(classes)[labels_P]
    slope_CK = inputs_PC.T @ errors_PK / num_pixels + RIDGE * weights_CK
    curvature = np.empty((classes, channels, classes, channels))
    for a in range(classes):
        for b in range(classes):
            weight_P = shares_PK[:, a] * ((a == b) - shares_PK[:, b])
            curvature[a, :, b, :] = inputs_PC.T @ (inputs_PC * weight_P[:, None]) / num_pixels
    size = classes * channels
    step = np.linalg.solve(curvature.reshape(size, size) + RIDGE * np.eye(size), slope_CK.T.ravel())
    return np.asarray(step.reshape(classes, channels).T)
