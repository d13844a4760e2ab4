"""How much of the map is truly of each class, and how well that is known. Pure numpy.

The stratified estimator of Olofsson et al. (2014, Remote Sensing of Environment 148, equations 4 to 11): the
classes of the map are strata of known size, labelled pixels are the sample in each. Its standard errors take
the pixels for independent. Labelled pixels are not: they come in polygons and tiles, where neighbours share
their errors. So a second standard error is given that treats clusters, squares of the mosaic, as the sample
(linearised, between clusters drawn with replacement).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.96
LEAST_IN_STRATUM = 2
"""A variance needs two."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its standard errors; None where the sample does not tell.

    Attributes:
        value: The figure.
        error: Standard error with pixels taken for independent.
        cluster_error: Standard error between clusters.
    """

    value: float | None
    error: float | None
    cluster_error: float | None = None

    def to_json(self, scale: float = 1.0) -> dict[str, float | None]:
        """The figure, its errors and half the width of its 95 % intervals, in another unit."""

        def scaled(value: float | None, factor: float = 1.0) -> float | None:
            return None if value is None else value * scale * factor

        return {
            "value": scaled(self.value),
            "standard_error": scaled(self.error),
            "interval_95": scaled(self.error, Z_95),
            "cluster_standard_error": scaled(self.cluster_error),
            "cluster_interval_95": scaled(self.cluster_error, Z_95),
        }


@dataclass(frozen=True)
class AreaEstimates:
    """What follows from strata and sample.

    Attributes:
        mapped: Share of the map that each class takes, K.
        sampled: Classes of the map with enough labelled pixels; the estimates are about these strata only.
        covered: Their share of the map.
        proportions: True share of each class in the sampled strata.
        overall: Overall accuracy.
        users: User's accuracy (precision) of each class.
        producers: Producer's accuracy (recall) of each class.
        clusters: Clusters with a labelled pixel.
    """

    mapped: NDArray[np.float64]
    sampled: NDArray[np.bool_]
    covered: float
    proportions: tuple[Estimate, ...]
    overall: Estimate
    users: tuple[Estimate, ...]
    producers: tuple[Estimate, ...]
    clusters: int

    def to_json(self, class_names: tuple[str, ...], total: float, unit: str) -> dict[str, Any]:
        """Areas by class, in a unit in which the whole map measures ``total``."""
        scale = total * self.covered
        return {
            "unit": unit,
            "total": total,
            "covered_share": self.covered,
            "unsampled_classes": [
                name
                for name, share, known in zip(class_names, self.mapped, self.sampled, strict=True)
                if share > 0 and not known
            ],
            "clusters": self.clusters,
            "overall_accuracy": self.overall.to_json(),
            "classes": {
                name: {
                    "mapped_area": float(self.mapped[index]) * total,
                    "estimated_area": self.proportions[index].to_json(scale),
                    "users_accuracy": self.users[index].to_json(),
                    "producers_accuracy": self.producers[index].to_json(),
                }
                for index, name in enumerate(class_names)
            },
        }


def estimate_areas(
    map_sizes: NDArray[np.float64],
    sample: NDArray[np.int64],
    clusters: Iterable[Mapping[tuple[int, int], int]] = (),
) -> AreaEstimates:
    """Estimate true shares and accuracies.

    Args:
        map_sizes: Area or pixels of each class on the whole map, K.
        sample: Labelled pixels by class of the map (rows) and true class (columns), K × K.
        clusters: The same by cluster, sparse: pixels by (class of the map, true class).
    """
    total = float(map_sizes.sum())
    mapped = map_sizes / total if total else np.zeros(len(map_sizes))
    sizes = sample.sum(axis=1)
    sampled = (sizes >= LEAST_IN_STRATUM) & (mapped > 0)
    covered = float(mapped[sampled].sum())
    weights = np.where(sampled, mapped, 0.0) / covered if covered else np.zeros(len(mapped))
    shares = np.where(sampled[:, None], sample / np.maximum(sizes, 1)[:, None], 0.0)  # p_ij / W_i
    between = _Clusters(weights, shares, np.maximum(sizes, 1), clusters) if covered else None
    return AreaEstimates(
        mapped,
        sampled,
        covered,
        proportions=_proportions(weights, shares, sizes, between),
        overall=_overall(weights, shares, sizes, between),
        users=_users(shares, sizes, sampled),
        producers=_producers(weights, shares, sizes),
        clusters=between.count if between else 0,
    )


def _proportions(
    weights: NDArray[np.float64],
    shares: NDArray[np.float64],
    sizes: NDArray[np.int64],
    between: "_Clusters | None",
) -> tuple[Estimate, ...]:
    """True share of each class, equations 8 to 10."""
    if between is None:
        return tuple(Estimate(None, None) for _ in weights)
    values = weights @ shares
    variances = (weights**2) @ (shares * (1 - shares) / np.maximum(sizes - 1, 1)[:, None])
    errors = between.proportion_errors()
    return tuple(
        Estimate(float(value), float(np.sqrt(variance)), None if errors is None else float(errors[index]))
        for index, (value, variance) in enumerate(zip(values, variances, strict=True))
    )


def _overall(
    weights: NDArray[np.float64],
    shares: NDArray[np.float64],
    sizes: NDArray[np.int64],
    between: "_Clusters | None",
) -> Estimate:
    """Overall accuracy, equations 1 and 5."""
    if between is None:
        return Estimate(None, None)
    users = np.diagonal(shares)
    variance = float((weights**2) @ (users * (1 - users) / np.maximum(sizes - 1, 1)))
    return Estimate(float(weights @ users), variance**0.5, between.overall_error())


def _users(
    shares: NDArray[np.float64], sizes: NDArray[np.int64], sampled: NDArray[np.bool_]
) -> tuple[Estimate, ...]:
    """User's accuracies, equations 2 and 6."""
    users = np.diagonal(shares)
    errors = np.sqrt(users * (1 - users) / np.maximum(sizes - 1, 1))
    return tuple(
        Estimate(float(value), float(error)) if known else Estimate(None, None)
        for value, error, known in zip(users, errors, sampled, strict=True)
    )


def _producers(
    weights: NDArray[np.float64], shares: NDArray[np.float64], sizes: NDArray[np.int64]
) -> tuple[Estimate, ...]:
    """Producer's accuracies, equations 3 and 7, in shares of the map instead of pixels."""
    truths = weights @ shares
    per_stratum = (weights**2)[:, None] * shares * (1 - shares) / np.maximum(sizes - 1, 1)[:, None]
    found = []
    for index, truth in enumerate(truths):
        if truth <= 0:
            found.append(Estimate(None, None))
            continue
        producer = float(weights[index] * shares[index, index] / truth)
        own = per_stratum[index, index]
        others = per_stratum[:, index].sum() - own
        variance = ((1 - producer) ** 2 * own + producer**2 * others) / truth**2
        found.append(Estimate(producer, float(np.sqrt(variance))))
    return tuple(found)


class _Clusters:
    """Sums over clusters of what each adds to the linearised estimates, and of its squares."""

    def __init__(
        self,
        weights: NDArray[np.float64],
        shares: NDArray[np.float64],
        sizes: NDArray[np.int64],
        clusters: Iterable[Mapping[tuple[int, int], int]],
    ) -> None:
        self.count = 0
        self._proportions = np.zeros(len(weights))
        self._overall = 0.0
        factors = weights / sizes
        for cluster in clusters:
            self.count += 1
            rows = np.array([row for row, _ in cluster], np.int64)
            cols = np.array([col for _, col in cluster], np.int64)
            pixels = np.array(list(cluster.values()), np.float64)
            own = np.bincount(rows, pixels * 1.0, minlength=len(weights)) * factors
            # z_j = Σ_i W_i / n_i · (n_ij,c − p_ij/W_i · n_i,c)
            parts = np.bincount(cols, pixels * factors[rows], minlength=len(weights)) - own @ shares
            self._proportions += parts**2
            hits = pixels * (rows == cols)
            self._overall += float((hits * factors[rows]).sum() - own @ np.diagonal(shares)) ** 2

    def proportion_errors(self) -> NDArray[np.float64] | None:
        """Standard errors of the true shares; None for fewer than two clusters."""
        return None if self.count < 2 else np.sqrt(self._correction * self._proportions)

    def overall_error(self) -> float | None:
        """Standard error of the overall accuracy; None for fewer than two clusters."""
        return None if self.count < 2 else float(np.sqrt(self._correction * self._overall))

    @property
    def _correction(self) -> float:
        return self.count / (self.count - 1)
