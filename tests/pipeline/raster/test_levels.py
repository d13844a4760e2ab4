"""Which level of a pyramid is taken."""

import logging

import pytest

from pipeline.errors import SettingsError
from pipeline.raster.levels import Level, LevelWish, choose_level

SIZES = (0.25, 0.5, 2.0)
LEVELS = [Level(str(number), 800 >> number, 600 >> number, size) for number, size in enumerate(SIZES)]


def choose(unit="micrometer", levels=LEVELS, **wish):
    return choose_level(levels, LevelWish(**wish), unit=unit, where="slide.svs")


@pytest.mark.parametrize(
    ("wish", "expected"),
    [(0.25, 0), (0.23, 0), (0.4, 0), (0.46, 1), (0.5, 1), (0.55, 1), (1.82, 2), (9.0, 2)],
)
def test_the_coarsest_level_that_is_fine_enough(wish, expected):
    assert choose(um_per_px=wish) == expected
    assert choose(resolution=wish) == expected


def test_the_finest_unless_asked():
    assert choose() == 0
    assert choose(number=2) == 2


def test_um_are_converted():
    assert choose(unit="nanometer", um_per_px=0.0005) == 1
    assert choose(unit="millimeter", um_per_px=500) == 1


def test_a_source_that_is_too_coarse_is_refused_with_its_levels():
    with pytest.raises(SettingsError, match=r"pixels of 0\.2 micrometer or finer.*level 2 \(2\): 200 × 150"):
        choose(um_per_px=0.2)


def test_a_level_that_is_not_there_is_refused():
    with pytest.raises(SettingsError, match=r"source\.level must be below 3, got 3"):
        choose(number=3)


def test_um_need_a_unit_of_length():
    with pytest.raises(SettingsError, match=r"source\.um_per_px needs a source that tells"):
        choose(unit=None, um_per_px=0.5)


def test_unknown_sizes_are_said_to_be_unknown():
    with pytest.raises(SettingsError, match="does not say how large its pixels are"):
        choose(levels=[Level("0", 10, 10, None)], resolution=1.0)


def test_a_much_finer_level_is_worth_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        choose(um_per_px=0.46)
        assert not caplog.records
        choose(um_per_px=1.5)
    assert "model sees 3 times finer pixels" in caplog.text
