"""Which bands a model sees: by the user's word, by name, or by count."""

import pytest

from pipeline.errors import ModelError, SettingsError
from pipeline.raster.bands import choose_bands
from pipeline.raster.source import BandInfo


def bands(*names, alpha=()):
    return [BandInfo(i, name, "uint8", i in alpha) for i, name in enumerate(names, 1)]


def choose(found, *, wanted=None, model=None, channels):
    return choose_bands(found, wanted=wanted, model_bands=model, in_channels=channels)


RGB = ("red", "green", "blue")


class TestByTheUsersWord:
    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [([3, 2, 1], (3, 2, 1)), (["Blue", " red ", 2], (3, 1, 2)), ([1, 1, 1], (1, 1, 1))],
    )
    def test_numbers_and_names_in_the_given_order(self, wanted, expected):
        assert choose(bands(*RGB), wanted=wanted, channels=3) == expected

    def test_it_beats_the_models_names(self):
        assert choose(bands(*RGB), wanted=[3, 2, 1], model=RGB, channels=3) == (3, 2, 1)

    def test_it_makes_up_for_missing_names(self):
        assert choose(bands("a", "b", "c"), wanted=["a", "b", "c"], model=RGB, channels=3) == (1, 2, 3)

    @pytest.mark.parametrize("wanted", [4, 0, -1, "nir", ""])
    def test_a_band_that_is_not_there(self, wanted):
        with pytest.raises(SettingsError, match=r"there is no band .*has 1 \(red\), 2, 3 \(blue\)"):
            choose(bands("red", None, "blue"), wanted=[wanted, 1, 3], channels=3)

    @pytest.mark.parametrize("wanted", [[], [1], [1, 2, 3, 1]])
    def test_the_wrong_number_of_them(self, wanted):
        with pytest.raises(ModelError, match=f"takes 3 bands .* source.bands names {len(wanted)}"):
            choose(bands(*RGB), wanted=wanted, model=RGB, channels=3)


class TestByName:
    def test_any_order_and_case_in_any_company(self):
        found = bands("NIR", "Blue", "swir", "GREEN ", "red")
        assert choose(found, model=("red", "green", "blue"), channels=3) == (5, 4, 2)

    def test_a_band_missing_from_a_fully_described_source_is_refused_with_both_lists(self):
        with pytest.raises(ModelError) as caught:
            choose(bands("red", "green", "nir"), model=RGB, channels=3)
        for words in (
            "red, green, blue",
            "the source lacks blue",
            "1 (red), 2 (green), 3 (nir)",
            "source.bands",
        ):
            assert words in str(caught.value)

    def test_names_do_not_matter_where_one_is_unnamed(self):
        assert choose(bands("a", None, "c"), model=RGB, channels=3) == (1, 2, 3)

    def test_names_do_not_matter_where_the_model_has_none(self):
        assert choose(bands("a", "b", "c"), channels=3) == (1, 2, 3)

    def test_an_unnamed_alpha_beside_named_bands_leaves_the_source_described(self):
        found = bands("blue", "green", "red", None, alpha=[4])
        assert choose(found, model=RGB, channels=3) == (3, 2, 1)


class TestByCount:
    def test_as_many_as_the_model_takes(self):
        assert choose(bands(None, None), channels=2) == (1, 2)

    @pytest.mark.parametrize("count", [1, 2, 4])
    def test_another_number_is_refused_with_both_lists(self, count):
        with pytest.raises(ModelError, match=f"takes 3 bands.* the source has {count}; .* bands are 1"):
            choose(bands(*[None] * count), model=RGB, channels=3)


class TestAlpha:
    def test_alpha_is_left_out(self):
        assert choose(bands(None, None, None, None, alpha=[4]), channels=3) == (1, 2, 3)
        assert choose(bands(None, None, None, alpha=[1]), channels=2) == (2, 3)

    def test_it_counts_when_only_then_the_counts_match_and_that_is_said_once(self, caplog):
        found = bands(None, None, None, None, alpha=[4])
        assert choose(found, channels=4) == (1, 2, 3, 4)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "alpha is read as data" in caplog.text

    def test_it_counts_when_its_description_names_a_band_of_the_model(self, caplog):
        """NAIP and PlanetScope: four bands, the fourth, near infrared, flagged alpha by old software."""
        found = bands("red", "green", "blue", "nir", alpha=[4])
        assert choose(found, model=("nir", "red", "green"), channels=3) == (4, 1, 2)
        assert caplog.text.count("alpha is read as data") == 1

    def test_it_counts_by_its_name_also_among_unnamed_bands(self):
        """Otherwise the first four of these would be taken, and near infrared left out without a word."""
        found = bands(None, None, None, None, "NIR", alpha=[5])
        with pytest.raises(ModelError, match="the source has 5"):
            choose(found, model=(*RGB, "nir"), channels=4)
        assert choose(found, model=(*RGB, "edge", "nir"), channels=5) == (1, 2, 3, 4, 5)

    def test_it_is_not_taken_by_name_when_the_model_does_not_ask(self, caplog):
        found = bands(*RGB, "alpha", alpha=[4])
        assert choose(found, model=RGB, channels=3) == (1, 2, 3)
        assert caplog.text == ""

    def test_neither_count_matches(self):
        with pytest.raises(ModelError, match="the source has 3"):
            choose(bands(*[None] * 4, alpha=[4]), channels=5)
