"""Settings of levels, planes and tissue, as YAML and the command line give them."""

import pytest

from pipeline.config import RunConfig
from pipeline.errors import SettingsError
from pipeline.plane_config import PlaneRange, as_wish
from pipeline.settings import load_settings

REQUIRED = ["source.urls=a.zarr", "model.url=m", "output.url=o"]


def source(*assignments):
    return load_settings(RunConfig, config_url=None, assignments=[*REQUIRED, *assignments], flags={}).source


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", (3,)),
        ("[4, 0]", (4, 0)),
        ("{start: 1, stop: 30}", slice(1, 30, 1)),
        ("{step: 2}", slice(0, None, 2)),
        ("null", None),
    ],
)
def test_ways_to_name_planes(text, expected):
    assert as_wish(source(f"source.z={text}").z) == expected
    assert as_wish(source(f"source.t={text}").t) == expected


@pytest.mark.parametrize(
    "text", ["-1", "[]", "[0, -2]", "'1:30'", "{start: 3, stop: 3}", "{stop: 5, step: 0}"]
)
def test_what_names_no_planes_is_refused(text):
    with pytest.raises(SettingsError, match=r"source\.z"):
        source(f"source.z={text}")


def test_a_range_is_a_mapping_since_yaml_reads_colons_as_minutes():
    assert source("source.z=1:30").z == 90
    assert source("source.z={start: 1, stop: 30}").z == PlaneRange(start=1, stop=30)


def test_off_is_not_false():
    assert source("source.tissue=off").tissue == "off"
    assert source("source.tissue=auto").tissue == "auto"


def test_a_level_is_chosen_in_one_way():
    with pytest.raises(SettingsError, match="a level must be chosen in one way, got level and um_per_px"):
        source("source.level=0", "source.um_per_px=0.5")
    assert source("source.level=auto", "source.um_per_px=0.5").um_per_px == 0.5


@pytest.mark.parametrize("name", ["resolution", "um_per_px"])
def test_sizes_are_positive(name):
    with pytest.raises(SettingsError, match=f"source.{name}"):
        source(f"source.{name}=0")
