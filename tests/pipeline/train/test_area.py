"""The stratified area estimator: the worked example of its authors, and sampling that can be repeated."""

import numpy as np
import pytest

from pipeline.train.evaluate.area import estimate_areas

# Olofsson et al. 2014, table 8: sample counts by class of the map (rows) and of the reference (columns), and
# the pixels (30 m, so 0.09 ha) of each class of the map.
NAMES = ("deforestation", "forest gain", "stable forest", "stable non-forest")
SAMPLE = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
MAPPED_PX = np.array([200_000.0, 150_000.0, 3_200_000.0, 6_450_000.0])
HECTARES = {  # the estimates and the half widths of their 95 % intervals that the paper prints
    "deforestation": (21_158, 6_158),
    "forest gain": (11_686, 3_756),
    "stable forest": (285_770, 15_510),
    "stable non-forest": (581_386, 16_282),
}


def test_the_worked_example_of_the_paper():
    found = estimate_areas(MAPPED_PX, SAMPLE).to_json(NAMES, 0.09 * MAPPED_PX.sum(), "ha")
    for name, (area, interval) in HECTARES.items():
        estimated = found["classes"][name]["estimated_area"]
        assert estimated["value"] == pytest.approx(area, abs=0.5)
        assert estimated["interval_95"] == pytest.approx(interval, abs=1)
    assert found["overall_accuracy"]["value"] == pytest.approx(0.95, abs=0.005)
    assert found["overall_accuracy"]["interval_95"] == pytest.approx(0.02, abs=0.005)
    users = [found["classes"][name]["users_accuracy"] for name in NAMES]
    assert [round(one["value"], 2) for one in users] == [0.88, 0.73, 0.93, 0.96]
    assert [round(one["interval_95"], 2) for one in users] == [0.07, 0.10, 0.04, 0.02]
    producers = [found["classes"][name]["producers_accuracy"]["value"] for name in NAMES]
    assert [round(value, 2) for value in producers] == [0.75, 0.85, 0.93, 0.96]
    assert round(found["classes"]["deforestation"]["producers_accuracy"]["interval_95"], 2) == 0.21


def test_producers_accuracy_by_hand():
    """Two strata, all numbers small enough to be done on paper."""
    found = estimate_areas(np.array([30.0, 70.0]), np.array([[8, 2], [1, 9]]))
    # p = [.3·.8 + .7·.1, .3·.2 + .7·.9] = [.31, .69]; P_0 = .24 / .31
    assert found.proportions[0].value == pytest.approx(0.31)
    assert found.producers[0].value == pytest.approx(0.24 / 0.31)
    spread = [0.3**2 * 0.8 * 0.2 / 9, 0.7**2 * 0.1 * 0.9 / 9]
    assert found.proportions[0].error == pytest.approx(sum(spread) ** 0.5)
    producer = 0.24 / 0.31
    variance = ((1 - producer) ** 2 * spread[0] + producer**2 * spread[1]) / 0.31**2
    assert found.producers[0].error == pytest.approx(variance**0.5)


def test_a_class_without_labels_is_left_out_and_named():
    found = estimate_areas(np.array([50.0, 30.0, 20.0]), np.array([[9, 1, 0], [2, 8, 0], [0, 0, 1]]))
    told = found.to_json(("a", "b", "c"), 100.0, "px")
    assert told["unsampled_classes"] == ["c"], "one pixel has no variance"
    assert told["covered_share"] == pytest.approx(0.8)
    total = sum(one["estimated_area"]["value"] for one in told["classes"].values())
    assert total == pytest.approx(80.0), "what is estimated is the part of the map that labels speak of"
    assert told["classes"]["c"]["users_accuracy"]["value"] is None


def test_no_labels_give_no_estimate():
    told = estimate_areas(np.array([5.0, 5.0]), np.zeros((2, 2), np.int64)).to_json(("a", "b"), 10.0, "px")
    assert told["covered_share"] == 0
    assert told["overall_accuracy"]["value"] is None
    assert told["classes"]["a"]["estimated_area"]["value"] is None
    assert told["classes"]["a"]["mapped_area"] == 5.0


def landscape(random, side=240, patch=12):
    """A map of two classes whose errors come in patches."""
    mapped = np.kron(random.random((side // 40, side // 40)) < 0.5, np.ones((40, 40), bool)).astype(int)
    wrong = np.kron(random.random((side // patch, side // patch)) < 0.15, np.ones((patch, patch), bool))
    return mapped, np.where(wrong, 1 - mapped, mapped)


def sample_of(mapped, truth, chosen_clusters, side):
    """Confusion of whole clusters, in sum and one by one."""
    clusters = []
    for row, col in chosen_clusters:
        part = slice(row, row + side), slice(col, col + side)
        counts: dict[tuple[int, int], int] = {}
        for pair in zip(mapped[part].ravel().tolist(), truth[part].ravel().tolist(), strict=True):
            counts[pair] = counts.get(pair, 0) + 1
        clusters.append(counts)
    total = np.zeros((2, 2), np.int64)
    for counts in clusters:
        for cell, pixels in counts.items():
            total[cell] += pixels
    return total, clusters


def test_cluster_errors_agree_with_the_jackknife():
    """Leaving out one cluster at a time measures the same spread without any formula."""
    random = np.random.default_rng(3)
    mapped, truth = landscape(random)
    corners = [(row, col) for row in range(0, 240, 24) for col in range(0, 240, 24)]
    sizes = np.bincount(mapped.ravel(), minlength=2).astype(float)
    total, clusters = sample_of(mapped, truth, corners, 24)
    found = estimate_areas(sizes, total, clusters)
    replicates = []
    for left_out in clusters:
        rest = total.copy()
        for cell, pixels in left_out.items():
            rest[cell] -= pixels
        other = estimate_areas(sizes, rest)
        replicates.append([other.proportions[0].value, other.overall.value])
    count = len(clusters)
    spread = np.sqrt((count - 1) / count * ((replicates - np.mean(replicates, axis=0)) ** 2).sum(axis=0))
    assert found.clusters == count
    assert [found.proportions[0].cluster_error, found.overall.cluster_error] == pytest.approx(
        spread, rel=0.03
    )


def test_cluster_intervals_hold_the_truth_and_pixel_intervals_do_not():
    """Clusters drawn at random, again and again, from a map whose truth is known."""
    random = np.random.default_rng(11)
    mapped, truth = landscape(random)
    sizes = np.bincount(mapped.ravel(), minlength=2).astype(float)
    share = np.mean(truth == 0)
    corners = np.array([(row, col) for row in range(0, 240, 12) for col in range(0, 240, 12)])
    held = {"error": 0, "cluster_error": 0}
    for _ in range(300):
        chosen = corners[random.choice(len(corners), 40)]
        found = estimate_areas(sizes, *sample_of(mapped, truth, chosen.tolist(), 12)).proportions[0]
        for kind in held:
            held[kind] += abs(found.value - share) <= 1.96 * getattr(found, kind)
    assert held["cluster_error"] / 300 > 0.88
    assert held["error"] / 300 < 0.4, "or patches would be no trouble at all"


def test_one_cluster_has_no_spread():
    total = np.array([[5, 1], [1, 5]])
    clusters = [{(0, 0): 5, (0, 1): 1, (1, 0): 1, (1, 1): 5}]
    assert estimate_areas(np.array([1.0, 1.0]), total, clusters).overall.cluster_error is None
