"""A challenger takes the place only if it is better, and nothing gets worse than allowed."""

import math

import pytest

from pipeline.train.retrain.verdict import Figures, judge


def figures(water, forest, built):
    known = [iou for iou in (water, forest, built) if iou is not None]
    return Figures(sum(known) / len(known), {"water": water, "forest": forest, "built": built})


CHAMPION = figures(0.9, 0.6, 0.6)


@pytest.mark.parametrize(
    ("challenger", "margin", "drop", "promoted"),
    [
        (figures(0.92, 0.62, 0.62), 0.0, 0.02, True),
        (figures(0.90, 0.60, 0.60), 0.0, 0.02, False),  # as good is not better
        (figures(0.92, 0.62, 0.62), 0.05, 0.02, False),  # not by enough
        (figures(0.92, 0.72, 0.63), 0.05, 0.02, True),
        (figures(0.85, 0.80, 0.70), 0.0, 0.02, False),  # water falls by 0.05
        (figures(0.85, 0.80, 0.70), 0.0, 0.06, True),
        (figures(None, 0.90, 0.90), 0.0, 0.5, False),  # water is not found any more
    ],
)
def test_who_is_promoted(challenger, margin, drop, promoted):
    verdict = judge(challenger, CHAMPION, margin=margin, max_class_drop=drop)
    assert verdict.promoted is promoted
    assert verdict.reasons


def test_the_reason_names_every_class_that_falls_too_far():
    verdict = judge(figures(0.5, 0.5, 1.0), Figures(0.6, CHAMPION.iou), margin=0, max_class_drop=0.02)
    assert len(verdict.reasons) == 2
    assert "water falls by 0.4000, from 0.9000" in verdict.reasons[0]


def test_the_first_of_a_registry_is_promoted_if_it_could_be_judged():
    assert judge(CHAMPION, None, margin=0.5, max_class_drop=0).promoted
    unknown = Figures(math.nan, {"water": None})
    assert not judge(unknown, None, margin=0, max_class_drop=1).promoted
    assert not judge(unknown, CHAMPION, margin=0, max_class_drop=1).promoted


def test_a_class_that_the_champion_never_saw_cannot_fall():
    champion = Figures(0.6, {"water": 0.6, "snow": None})
    challenger = Figures(0.65, {"water": 0.65, "snow": None})
    assert judge(challenger, champion, margin=0, max_class_drop=0).promoted
